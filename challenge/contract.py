"""The challenge contract: labels, file names and folders of crossMoDA 2021, and of 2022 where they differ.

Source: the organisers' `docker_submission` and `CrossMoDA2022-Evaluation-code` repositories.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from challenge.names import is_plain

BACKGROUND = 0

SOURCE_SUFFIX = "_ceT1.nii.gz"
TARGET_SUFFIX = "_hrT2.nii.gz"
LABEL_SUFFIX = "_Label.nii.gz"

# Folder names of the 2021 archive first, then those of 2022.
SOURCE_TRAINING_FOLDERS = ("source_training", "training_source")
TARGET_TRAINING_FOLDERS = ("target_training", "training_target")
TARGET_VALIDATION_FOLDERS = ("target_validation", "validation")
# Our name. The organisers do not publish the validation labels; phantoms have them, where no training code looks.
TARGET_VALIDATION_REFERENCE_FOLDER = "target_validation_reference"

# Case ids of 2021, both ends included.
SOURCE_IDS = (1, 105)
TARGET_TRAINING_IDS = (106, 210)
TARGET_VALIDATION_IDS = (211, 242)


@dataclass(frozen=True)
class Structure:
    """A structure: `key` names it in files and options, `title` in tables; `label` is its voxel value.

    A structure that is the union of several labels, as the whole tumour of 2023 is, has the others in `also`.
    """

    key: str
    title: str
    label: int
    also: tuple[int, ...] = ()

    @property
    def labels(self) -> tuple[int, ...]:
        """All voxel values that are part of it."""
        return (self.label, *self.also)


VS = Structure(key="vs", title="VS", label=1)
COCHLEA = Structure(key="cochlea", title="Cochlea", label=2)
STRUCTURES = (VS, COCHLEA)


def case_name(case_id: int) -> str:
    """Name the 2021 case with this id: 7 -> `crossmoda_7`. Source: the 2021 archive."""
    return f"crossmoda_{case_id}"


def case_of(file_name: str, suffix: str) -> str | None:
    """Return the case in a file name, or None where the name is not a case followed by `suffix`.

    Hidden files, and names with control characters or bytes that are no UTF-8, stand for no case.

    `case_of("crossmoda_211_hrT2.nii.gz", TARGET_SUFFIX)` is `"crossmoda_211"`.
    """
    case = file_name.removesuffix(suffix)
    return case if case and case != file_name and is_plain(file_name) else None


# Images that no tool of the challenge writes, and how T2 scans are called elsewhere.
_IMAGE = re.compile(r"(?P<stem>.+?)\.(nii|nii\.gz|mha|mhd|nrrd|nhdr|hdr|dcm)", re.IGNORECASE)
_T2_ENDING = re.compile(r"[-_. ]?((hr|high|hi)[-_]?)?t2w?$", re.IGNORECASE)


def near_misses(
    file_names: Iterable[str],
    cases: Iterable[str],
    scan_suffix: str = TARGET_SUFFIX,
    label_suffix: str = LABEL_SUFFIX,
) -> dict[str, str]:
    """Find image files that were probably meant to be a scan, of a case that has none, and say what to do with each.

    `["a_T2.nii.gz", "b_hrT2.nii", "b_ceT1.nii.gz", "notes.txt"]` -> `{"a_T2.nii.gz": "rename it to a_hrT2.nii.gz",
    "b_hrT2.nii": "compress it to b_hrT2.nii.gz"}`. Hidden files, ceT1 scans and label maps are not meant.

    Args:
        file_names: a folder's entries that are no scans.
        cases: those that have a scan.
        scan_suffix: of scans, after the case.
        label_suffix: of label maps; one without a stem tells none from a scan.
    """
    found = {}
    have = tuple(cases)
    kind, wanted_ending = _split(scan_suffix)
    not_t2 = tuple(stem for stem in (_split(suffix)[0] for suffix in (SOURCE_SUFFIX, label_suffix)) if stem)
    for name in file_names:
        image = _IMAGE.fullmatch(name)
        if image is None or name.startswith("."):
            continue
        stem = image["stem"]
        if stem.lower().endswith(not_t2) or any(stem == case or stem.startswith(f"{case}_") for case in have):
            continue
        bare = stem[: -len(kind)] if kind and stem.lower().endswith(kind) else _T2_ENDING.sub("", stem)
        ending = name[len(stem) :].lower()
        advice = "convert it"
        if ending == wanted_ending:
            advice = "rename it"
        elif ending + ".gz" == wanted_ending:
            advice = "compress it"
        found[name] = f"{advice} to {(bare or stem) + scan_suffix}"
    return found


def _split(suffix: str) -> tuple[str, str]:
    """Split a suffix in lower case: `_hrT2.nii.gz` -> `_hrt2`, `.nii.gz`."""
    stem, dot, ending = suffix.lower().partition(".")
    return stem, dot + ending


def label_file(case: str) -> str:
    """Name the label map of a case: `crossmoda_211` -> `crossmoda_211_Label.nii.gz`."""
    return case + LABEL_SUFFIX


def files_by_case(folder: Path, suffix: str) -> dict[str, Path]:
    """Find the entries of a folder named `{case}{suffix}`, of whatever kind, in the order of `sorted_cases`.

    Raises:
        OSError: the folder cannot be listed.
    """
    found = ((case_of(entry.name, suffix), entry) for entry in folder.iterdir())
    named = {case: entry for case, entry in found if case is not None}
    return {case: named[case] for case in sorted_cases(named)}


def sorted_cases(cases: Iterable[str]) -> list[str]:
    """Sort cases as a person would: by text, then by the number at the end (`crossmoda_9` before `crossmoda_10`)."""

    def key(case: str) -> tuple[str, int, str]:
        stem = case.rstrip("0123456789")
        digits = case[len(stem) :]
        return stem, int(digits or -1), case

    return sorted(cases, key=key)
