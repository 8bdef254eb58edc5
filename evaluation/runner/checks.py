"""Checks of the label maps that a submission wrote, against the challenge's contract."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from challenge.contract import BACKGROUND, STRUCTURES, label_file
from challenge.names import shown_briefly
from challenge.nifti import CaseError, read_geometry, read_image
from evaluation.runner.record import CaseOutcome


def check_label_map(case: str, scan: Path, output_folder: Path) -> CaseOutcome:
    """Check that a case's label map, a regular file, lies on the scan's grid and holds the contract's labels alone.

    A float type, an empty map and a missing structure are warnings, since the challenge scores such maps. Whatever goes
    wrong while a map is checked is that case's problem.
    """
    name = label_file(case)
    try:
        problems, warnings = _check(name, scan, output_folder / name)
    except CaseError as error:
        problems, warnings = [str(error)], []
    except Exception as error:  # noqa: BLE001 - nothing in one file may cost the other cases their record
        got = f"{type(error).__name__}: {error}".splitlines()[0]
        problems, warnings = [f"{name}: expected a label map that can be checked, got {shown_briefly(got)}"], []
    return CaseOutcome(case, seconds=None, problems=tuple(problems), warnings=tuple(warnings))


def _check(name: str, scan: Path, path: Path) -> tuple[list[str], list[str]]:
    problems: list[str] = []
    here, there = read_geometry(path), read_geometry(scan)
    if here.size_xyz != there.size_xyz or not here.same_place(there):
        problems.append(f"{name}: expected the scan's grid ({there}), got {here}; bring the labels back to it")
    # A header may claim any size. Do not spend memory on a map far larger than its scan.
    if np.prod(here.size_xyz) > 4 * np.prod(there.size_xyz):
        return problems, []
    wrong, odd = _check_voxels(name, read_image(path))
    return problems + wrong, odd


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
