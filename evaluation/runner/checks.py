"""Checks of the label maps that a submission wrote, against the challenge's contract."""

import re
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from challenge.contract import BACKGROUND, STRUCTURES, label_file
from challenge.nifti import CaseError, read_geometry, read_image
from evaluation.runner.record import CaseOutcome


def check_label_map(case: str, scan: Path, output_folder: Path) -> CaseOutcome:
    """Check that a case's label map is a file, lies on the scan's grid and holds the contract's labels alone.

    A float type, an empty map and a missing structure are warnings, since the challenge scores such maps.
    """
    name = label_file(case)
    path = output_folder / name
    outcome = CaseOutcome(case, seconds=None)
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return replace(outcome, problems=(f"{name}: expected a label map, got none{_similar(case, output_folder)}",))
    if not stat.S_ISREG(mode):
        # A link is not followed: it could lead to the reference.
        kind = "a link" if stat.S_ISLNK(mode) else "a folder" if stat.S_ISDIR(mode) else "a special file"
        return replace(outcome, problems=(f"{name}: expected a file, got {kind}; write the file itself",))
    problems: list[str] = []
    warnings: list[str] = []
    try:
        here, there = read_geometry(path), read_geometry(scan)
        if here.size_xyz != there.size_xyz or not here.same_place(there):
            problems.append(f"{name}: expected the scan's grid ({there}), got {here}; bring the labels back to it")
        # A header may claim any size. Do not spend memory on a map far larger than its scan.
        if np.prod(here.size_xyz) <= 4 * np.prod(there.size_xyz):
            wrong, odd = _check_voxels(name, read_image(path))
            problems += wrong
            warnings += odd
    except CaseError as error:
        problems.append(str(error))
    return replace(outcome, problems=tuple(problems), warnings=tuple(warnings))


def _check_voxels(name: str, image: sitk.Image) -> tuple[list[str], list[str]]:
    values = sitk.GetArrayViewFromImage(image)
    allowed = (BACKGROUND, *(structure.label for structure in STRUCTURES))
    problems, warnings = [], []
    odd = values[~np.isin(values, allowed)]
    if odd.size:
        examples = ", ".join(f"{value:g}" for value in np.unique(odd)[:5])
        problems.append(
            f"{name}: expected the labels {', '.join(map(str, allowed))} alone, got {examples} "
            f"in {odd.size} voxels; write whole labels"
        )
    if values.dtype.kind == "f":
        warnings.append(f"{name}: expected an integer type, got {values.dtype}")
    absent = [structure.title for structure in STRUCTURES if not (values == structure.label).any()]
    if len(absent) == len(STRUCTURES):
        warnings.append(f"{name}: expected {' and '.join(absent)}, got neither: the map is background alone")
    elif absent:
        warnings.append(f"{name}: expected every structure, got no voxel of {' and '.join(absent)}")
    return problems, warnings


def _similar(case: str, output_folder: Path) -> str:
    of_case = re.compile(re.escape(case) + r"(?!\d)")
    similar = sorted(entry.name for entry in output_folder.iterdir() if of_case.search(entry.name))
    return f" but {', '.join(similar[:3])}; name it {label_file(case)}" if similar else "; see the log"
