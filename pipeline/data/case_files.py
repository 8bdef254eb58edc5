"""The files of the training cases, in the challenge's folders (of 2021 or 2022) or in a dataset of nnU-Net."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from challenge.contract import (
    LABEL_SUFFIX,
    SOURCE_SUFFIX,
    SOURCE_TRAINING_FOLDERS,
    TARGET_SUFFIX,
    TARGET_TRAINING_FOLDERS,
    case_of,
    files_by_case,
)
from challenge.layouts import CROSSMODA_2021, NNUNET, FolderLayout
from challenge.nnunet import TEST_SCANS, TRAINING_LABELS, TRAINING_SCANS, cases_of

_NAMES_SHOWN = 12  # in one message


class DataError(Exception):
    """Data that cannot be trained on; the message lists every problem, one a line."""


@dataclass(frozen=True)
class CaseFiles:
    """A case's files, before their headers are read."""

    case: str
    scan: Path
    labels: Path | None


def find_case_files(
    root: Path, with_target: bool, layout: FolderLayout = CROSSMODA_2021
) -> tuple[list[CaseFiles], list[CaseFiles], list[str]]:
    """Find the source and target cases of the challenge's folders, or of a dataset, and the names of other files.

    Raises:
        DataError: a folder is missing or has no scan, or scans and label maps do not belong together.
        OSError: a folder cannot be listed.
    """
    if layout.name == NNUNET.name:
        return _of_dataset(root, with_target)
    source_folder = _only_folder(root, SOURCE_TRAINING_FOLDERS)
    scans, labels = files_by_case(source_folder, SOURCE_SUFFIX), files_by_case(source_folder, LABEL_SUFFIX)
    problems = _lonely(source_folder.name, scans, labels)
    if not scans:
        problems.append(f"{source_folder}: expected scans {{case}}{SOURCE_SUFFIX}, got none; check --data")
    source = [CaseFiles(case, path, labels.get(case)) for case, path in scans.items()]
    ignored = _other_files(source_folder, (SOURCE_SUFFIX, LABEL_SUFFIX))
    target: list[CaseFiles] = []
    if with_target:
        target_folder = _only_folder(root, TARGET_TRAINING_FOLDERS)
        target = [CaseFiles(case, path, None) for case, path in files_by_case(target_folder, TARGET_SUFFIX).items()]
        if not target:
            problems.append(f"{target_folder}: expected scans {{case}}{TARGET_SUFFIX}, got none; check --data")
        if labelled := list(files_by_case(target_folder, LABEL_SUFFIX)):
            problems.append(
                f"{target_folder.name}: expected no label maps of the target domain, got those of "
                f"{some_names(labelled)}; move them away: adaptation must not see them"
            )
        ignored += _other_files(target_folder, (TARGET_SUFFIX, LABEL_SUFFIX))
    if problems:
        raise DataError("\n".join(problems))
    return source, target, ignored


def _of_dataset(root: Path, with_target: bool) -> tuple[list[CaseFiles], list[CaseFiles], list[str]]:
    try:
        folders = cases_of(root, (TRAINING_SCANS, TRAINING_LABELS, *([TEST_SCANS] if with_target else [])))
    except ValueError as error:
        raise DataError(f"{root}: {error}") from error
    scans, labels = folders[TRAINING_SCANS], folders[TRAINING_LABELS]
    if problems := _lonely(TRAINING_SCANS, scans, labels):
        raise DataError("\n".join(problems))
    target = [CaseFiles(case, path, None) for case, path in folders.get(TEST_SCANS, {}).items()]
    return [CaseFiles(case, path, labels[case]) for case, path in scans.items()], target, []


def _lonely(folder: str, scans: Mapping[str, Path], labels: Mapping[str, Path]) -> list[str]:
    """Name the scans without a label map, and the label maps without a scan."""
    problems = []
    if lonely := [case for case in scans if case not in labels]:
        problems.append(f"{folder}: expected a label map beside every scan, got none for {some_names(lonely)}")
    if lonely := [case for case in labels if case not in scans]:
        problems.append(f"{folder}: expected a scan beside every label map, got none for {some_names(lonely)}")
    return problems


def _only_folder(root: Path, names: Sequence[str]) -> Path:
    there = [root / name for name in names if (root / name).is_dir()]
    if len(there) > 1:
        raise DataError(f"{root}: expected one of {' and '.join(names)}, got both; move one away")
    if not there:
        raise DataError(f"{root}: expected a folder {' or '.join(names)}, got none; check --data, or give a split file")
    return there[0]


def _other_files(folder: Path, suffixes: Sequence[str]) -> list[str]:
    entries = sorted(folder.iterdir())
    return [f"{folder.name}/{e.name}" for e in entries if all(case_of(e.name, suffix) is None for suffix in suffixes)]


def some_names(names: Sequence[str]) -> str:
    """Name the first of some cases or files, and how many more there are."""
    shown = ", ".join(names[:_NAMES_SHOWN])
    return shown if len(names) <= _NAMES_SHOWN else f"{shown} and {len(names) - _NAMES_SHOWN} more"
