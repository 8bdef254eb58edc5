"""The training data: which scans there are, how they are split, and everything that is wrong with them.

Scans come from the challenge's folders (of 2021 or 2022), or from a split file. The paper splits by the case ids of
2021; without these ids, the user says which cases validate.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from challenge.contract import (
    SOURCE_IDS,
    TARGET_VALIDATION_REFERENCE_FOLDER,
    sorted_cases,
)
from challenge.layouts import CROSSMODA_2021, FolderLayout
from challenge.nifti import CaseError, Geometry, read_geometry
from challenge.quantities import counted
from pipeline.config import PAPER, SPLIT_PARTS
from pipeline.data.case_files import CaseFiles, DataError, find_case_files, some_names

PAPERS_SPLIT = "the paper's, by ids: source 1-95 train, 96-105 validate; target 106-210"
_CASE_OF_2021 = re.compile(r"crossmoda_(\d+)")


@dataclass(frozen=True)
class TrainingCase:
    """A scan on disk, its label map if it has one, and its geometry."""

    case: str
    scan: Path
    labels: Path | None
    geometry: Geometry

    @property
    def cohort_folder(self) -> Path:
        """Return the parent of the scan's folder; a cohort of phantoms has its record there."""
        return self.scan.resolve().parent.parent


@dataclass(frozen=True)
class TrainingData:
    """What a run trains on. `split` says by which rule the cases were split, `ignored` names unused files."""

    root: Path
    source_training: tuple[TrainingCase, ...]
    source_validation: tuple[TrainingCase, ...]
    target_training: tuple[TrainingCase, ...]
    split: str
    ignored: tuple[str, ...] = ()

    @property
    def is_the_papers_split(self) -> bool:
        """Tell whether the cases were split by the paper's ids."""
        return self.split == PAPERS_SPLIT

    @property
    def parts(self) -> dict[str, tuple[TrainingCase, ...]]:
        """Return the cases by part; the parts have their names in a split file."""
        return {part: getattr(self, part) for part in SPLIT_PARTS}

    def __str__(self) -> str:
        """List each part's cases, voxels and spacings; then the split's rule, and the ignored files."""
        lines = [f"{part.replace('_', ' ')}: {_described(cases)}" for part, cases in self.parts.items()]
        lines.append(f"split: {self.split}")
        if self.ignored:
            lines.append(f"not used: {some_names(self.ignored)}")
        return "\n".join(lines)


def find_training_data(
    root: Path,
    *,
    split_file: Path | None = None,
    validation_cases: int | None = None,
    with_target: bool = True,
    layout: FolderLayout = CROSSMODA_2021,
) -> TrainingData:
    """Find the training data and check it; all problems are reported together. Only headers are read.

    The split comes from the first of these that applies:

    - the split file;
    - `validation_cases` N: the last N source cases validate, by name with numbers in order;
    - the paper's rule for the ids of 2021: source 1-95 train, 96-105 validate, target 106-210. At least one case of
      both source ranges is needed.

    A split file is JSON with `source_training`, `source_validation` and `target_training`. Each is a list of case names
    in the challenge's folders, or of objects `{"case": …, "scan": …, "labels": …}` with paths relative to `root`.

    Args:
        root: folder with the challenge's folders.
        split_file: replaces the paper's rule.
        validation_cases: how many source cases validate.
        with_target: whether to look for target scans.
        layout: crossMoDA 2021's, or nnU-Net's: source scans in `imagesTr`, target scans in `imagesTs`.

    Raises:
        DataError: a missing folder or part, a label map without a scan, a scan without a label map, a label map on
            another grid than its scan, a target label map, a case or file in two parts, an id outside its range, a bad
            header; the message names the cases.
    """
    if split_file is not None and validation_cases is not None:
        raise DataError("split: expected a split file or a number of validation cases, got both; leave one out")
    try:
        if split_file is not None:
            parts, ignored = _read_split_file(split_file, root, with_target, layout)
            split = f"{split_file.name}, by name"
        else:
            source, target, ignored = find_case_files(root, with_target, layout)
            training, validation, split = _split_source(source, validation_cases)
            _check_target_ids(target, split)
            parts = dict(zip(SPLIT_PARTS, (training, validation, target), strict=True))
    except OSError as error:
        raise DataError(f"{error.filename or root}: expected a folder to read, got {error.strerror}") from error
    problems = list(_problems(parts, with_target))
    if problems:
        raise DataError("\n".join(problems))
    cases, problems = _with_geometry(parts)
    if problems:
        raise DataError("\n".join(problems))
    return TrainingData(root, **{part: tuple(cases[part]) for part in SPLIT_PARTS}, split=split, ignored=tuple(ignored))


def _split_source(
    source: list[CaseFiles], validation_cases: int | None
) -> tuple[list[CaseFiles], list[CaseFiles], str]:
    """Split the source cases into training and validation; return the rule too, in words."""
    if validation_cases is not None:
        if not 0 < validation_cases < len(source):
            raise DataError(
                f"validation cases: expected 1 to {len(source) - 1} of {len(source)} source cases, "
                f"got {validation_cases}; at least one must validate and one train"
            )
        rule = f"the last {validation_cases} of {len(source)} source cases validate"
        return source[:-validation_cases], source[-validation_cases:], rule
    ids = {found.case: _id_of_2021(found.case) for found in source}
    if all(ids.values()):
        if stray := [case for case, number in ids.items() if number and not _within(number, SOURCE_IDS)]:
            raise DataError(
                f"source ids: expected {SOURCE_IDS[0]} to {SOURCE_IDS[1]}, got {some_names(stray)}; "
                "move them away, or give a split file"
            )
        training = [f for f in source if _within(ids[f.case] or 0, PAPER.source_training_ids)]
        validation = [f for f in source if _within(ids[f.case] or 0, PAPER.source_validation_ids)]
        if training and validation:
            return training, validation, PAPERS_SPLIT
    first, last = PAPER.source_validation_ids
    raise DataError(
        f"split: expected source cases crossmoda_{first} to crossmoda_{last} to validate on and earlier ones to train "
        f"on, got {len(source)} cases from {source[0].case} to {source[-1].case}; add --validation-cases N to validate "
        "on the last N, or give a split file"
    )


def _check_target_ids(target: list[CaseFiles], split: str) -> None:
    """Refuse target cases of 2021 that the challenge keeps for validation and test."""
    numbers = {found.case: _id_of_2021(found.case) for found in target}
    first, last = PAPER.target_training_ids
    if stray := [case for case, number in numbers.items() if number and not first <= number <= last]:
        raise DataError(
            f"target ids: expected {first} to {last}, got {some_names(stray)}; "
            f"move them away, or give a split file (split: {split})"
        )


def _id_of_2021(case: str) -> int | None:
    named = _CASE_OF_2021.fullmatch(case)
    return int(named[1]) if named else None


def _within(number: int, ends: tuple[int, int]) -> bool:
    return ends[0] <= number <= ends[1]


def _read_split_file(
    path: Path, root: Path, with_target: bool, layout: FolderLayout
) -> tuple[dict[str, list[CaseFiles]], list[str]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: expected a split file, got {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path}: expected JSON, got damaged text ({error})") from error
    if not isinstance(content, dict) or set(content) - set(SPLIT_PARTS) or not all(map(_is_list, content.values())):
        got = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise DataError(f"{path.name}: expected lists under {', '.join(SPLIT_PARTS)}, got {got}")
    entries: dict[str, list[Any]] = {part: content.get(part, []) for part in SPLIT_PARTS}
    if not with_target:
        entries["target_training"] = []
    known: dict[str, dict[str, CaseFiles]] = {"source": {}, "target": {}}
    if any(isinstance(entry, str) for listed in entries.values() for entry in listed):
        source, target, _ = find_case_files(root, with_target, layout)
        known = {"source": {f.case: f for f in source}, "target": {f.case: f for f in target}}
    parts: dict[str, list[CaseFiles]] = {}
    problems = []
    for part, listed in entries.items():
        parts[part] = []
        for entry in listed:
            try:
                parts[part].append(_entry(entry, root, known[part.split("_")[0]]))
            except DataError as error:
                problems.append(f"{path.name}, {part}: {error}")
    if problems:
        raise DataError("\n".join(problems))
    taken = {found.case for listed in parts.values() for found in listed}
    unused = [case for domain in known.values() for case in domain if case not in taken]
    return parts, unused


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _entry(entry: Any, root: Path, known: dict[str, CaseFiles]) -> CaseFiles:
    if isinstance(entry, str):
        if entry not in known:
            raise DataError(f"expected a case of the challenge's folders, got {entry}, which is not there")
        return known[entry]
    keys = {"case", "scan", "labels"}
    if not isinstance(entry, dict) or not {"case", "scan"} <= set(entry) <= keys:
        raise DataError(f"expected a case name, or an object with case, scan and, for the source, labels, got {entry}")
    if not all(isinstance(value, str) and value for value in entry.values()) or "/" in entry["case"]:
        raise DataError(f"expected names without a slash and paths as text, got {entry}")
    labels = root / entry["labels"] if "labels" in entry else None
    return CaseFiles(entry["case"], root / entry["scan"], labels)


def _problems(parts: dict[str, list[CaseFiles]], with_target: bool) -> Iterator[str]:
    """Yield a split's problems, one line each."""
    for part, listed in parts.items():
        if not listed and (with_target or part != "target_training"):
            yield f"{part}: expected at least one case, got none"
        unlabelled = [found.case for found in listed if found.labels is None]
        labelled = [found.case for found in listed if found.labels is not None]
        if part == "target_training" and labelled:
            yield f"{part}: expected no label maps of the target domain, got {some_names(labelled)}'s; leave them out"
        if part != "target_training" and unlabelled:
            yield f"{part}: expected a label map for every scan, got none for {some_names(unlabelled)}"
        for found in listed:
            for path in filter(None, (found.scan, found.labels)):
                if TARGET_VALIDATION_REFERENCE_FOLDER in {*path.parts, *path.resolve().parts}:
                    yield f"{part}: {found.case}: expected nothing of {TARGET_VALIDATION_REFERENCE_FOLDER}, got {path}"
    yield from _repeated(parts, "case", lambda found: [found.case])
    yield from _repeated(
        parts, "file", lambda found: [str(p.resolve()) for p in (found.scan, found.labels) if p is not None]
    )


def _repeated(
    parts: dict[str, list[CaseFiles]], what: str, names_of: Callable[[CaseFiles], list[str]]
) -> Iterator[str]:
    """Yield the cases or files that are used more than once."""
    places: dict[str, list[str]] = {}
    for part, listed in parts.items():
        for found in listed:
            for name in names_of(found):
                places.setdefault(name, []).append(part)
    for name, where in places.items():
        if len(where) > 1:
            yield f"{what} {name}: expected it in one place, got it in {' and '.join(where)}; keep it in one"


def _with_geometry(parts: dict[str, list[CaseFiles]]) -> tuple[dict[str, list[TrainingCase]], list[str]]:
    cases: dict[str, list[TrainingCase]] = {part: [] for part in parts}
    problems = []
    for part, listed in parts.items():
        for found in listed:
            try:
                geometry = read_geometry(found.scan)
                if found.labels is not None:
                    labelled = read_geometry(found.labels)
                    if not labelled.same_place(geometry):
                        raise CaseError(
                            f"{found.labels.name}: expected its scan's grid ({geometry}), got {labelled}; "
                            "resample it to the scan"
                        )
                cases[part].append(TrainingCase(found.case, found.scan, found.labels, geometry))
            except CaseError as error:
                problems.append(f"{part}: {error}")
    return cases, problems


def _described(cases: Sequence[TrainingCase]) -> str:
    """Describe cases in one line: their number, the first and last name, and ranges of voxels and spacings."""
    if not cases:
        return "none"
    names = sorted_cases(c.case for c in cases)
    which = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
    sizes = zip(*(c.geometry.size_xyz for c in cases), strict=True)
    spacings = zip(*(c.geometry.spacing_mm for c in cases), strict=True)
    voxels = " x ".join(_range(axis, "d") for axis in sizes)
    spacing = " x ".join(_range(axis, ".3g") for axis in spacings)
    return f"{counted(len(cases), 'case')} ({which}), {voxels} voxels of {spacing} mm"


def _range(values: Iterable[float], form: str) -> str:
    there = list(values)
    low, high = format(min(there), form), format(max(there), form)
    return low if low == high else f"{low}-{high}"
