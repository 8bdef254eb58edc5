"""A case for the page: checked, turned to the axes that the page draws in, and put into words and bytes.

What is served is made of the very voxels that were checked, as plain NIfTI files whose axes run to the patient's right,
front and head. So the page shows every format that `predict` reads, and needs no rules of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from challenge.colours import REFERENCE_COLOUR, colour_of
from challenge.contract import BACKGROUND, Structure
from challenge.nifti import CaseError, Geometry, geometry_of, read_geometry, read_image
from evaluation.metrics import count_overlap, dice, volume_mm3
from pipeline.data.cases import array_from, read_scan
from pipeline.inference.viewer.places import Place, largest_disagreement, places_of_structure

_AXES = "RAS"
_SIDES = ("left", "right")  # in the order of x, which runs to the right
_NOTHING = "nothing"

Labels = NDArray[np.uint8]


@dataclass(frozen=True)
class CaseFiles:
    """The files of a case. Only these are read, and only they are served."""

    case: str
    scan: Path
    labels: Path
    reference: Path | None


@dataclass(frozen=True)
class ViewedCase:
    """A case as the page gets it: what it says, to be sent as JSON, and NIfTI files by role."""

    description: dict[str, Any]
    volumes: dict[str, bytes]


def check_grids(files: CaseFiles) -> None:
    """Check the headers of a case's files, which takes no time.

    Raises:
        CaseError: a file is missing or has a bad header, or a label map is not on the scan's grid.
    """
    grid = read_geometry(files.scan)
    for path in (files.labels, files.reference):
        if path is not None:
            _check_same_grid(path, read_geometry(path), grid)


def read_viewed_case(files: CaseFiles, structures: Sequence[Structure]) -> ViewedCase:
    """Read a case.

    Raises:
        CaseError: a file is missing or bad, a label map is not on the scan's grid, or holds something else than labels.
    """
    image = read_scan(files.scan)
    prediction = _read_labels(files.labels, geometry_of(image))
    reference = _read_labels(files.reference, geometry_of(image)) if files.reference else None
    turned = sitk.DICOMOrient(image, _AXES)
    maps = {"prediction": prediction} | ({"reference": reference} if reference is not None else {})
    volumes: dict[str, NDArray[Any]] = {"scan": array_from(turned), **maps}
    return ViewedCase(
        description={"case": files.case, **_description(turned, maps, structures)},
        volumes={role: _nifti(voxels, geometry_of(turned)) for role, voxels in volumes.items()},
    )


def colours(structures: Sequence[Structure]) -> dict[str, list[str]]:
    """Return each map's colours, one for each structure: those of every picture, the reference's paler by structure."""
    shares = [place / len(structures) for place in range(len(structures))]
    return {
        "prediction": [colour_of(structure) for structure in structures],
        "reference": [_paler(REFERENCE_COLOUR, share) for share in shares],
    }


def _paler(colour: str, share: float) -> str:
    channels = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return "#" + "".join(f"{round(c + (255 - c) * share):02X}" for c in channels)


def _check_same_grid(path: Path, grid: Geometry, scan: Geometry) -> None:
    if not grid.same_place(scan):
        raise CaseError(f"{path.name}: expected the scan's grid ({scan}), got {grid}; name the label map of this scan")


def _read_labels(path: Path, grid: Geometry) -> Labels:
    image = read_image(path, accept=lambda own: _check_same_grid(path, own, grid))
    voxels = sitk.GetArrayFromImage(sitk.DICOMOrient(image, _AXES))
    lowest, highest = voxels.min(), voxels.max()
    labels: Labels = np.zeros(voxels.shape, np.uint8)
    if 0 <= lowest <= highest <= 255:
        labels = voxels.astype(np.uint8)
    if not np.array_equal(labels, voxels):
        raise CaseError(
            f"{path.name}: expected a label map of whole numbers from 0 to 255, got values from {lowest:g} to "
            f"{highest:g}; name a label map, not probabilities or a scan"
        )
    return labels


def _description(scan: sitk.Image, maps: dict[str, Labels], structures: Sequence[Structure]) -> dict[str, Any]:
    low, high = np.percentile(sitk.GetArrayViewFromImage(scan), [1.0, 99.5])  # as in every picture of ours
    known = {BACKGROUND, *(s.label for s in structures)}
    others = {role: sorted({int(value) for value in np.unique(labels)} - known) for role, labels in maps.items()}
    return {
        "window": [float(low), float(max(high, low + 1e-6))],
        "structures": [_figures(scan, maps, structure) for structure in structures],
        "places": [*_structure_places(scan, maps, structures), *_disagreement(scan, maps, structures)],
        "notes": [
            f"The {role} also has the label {', '.join(map(str, values))}, of no structure; see --layout."
            for role, values in others.items()
            if values
        ],
    }


def _figures(scan: sitk.Image, maps: dict[str, Labels], structure: Structure) -> dict[str, Any]:
    """Return a structure's volumes in mm3 by role and, with a reference in which there is something, its Dice."""
    masks = {role: labels == structure.label for role, labels in maps.items()}
    volumes = {role: volume_mm3(int(mask.sum()), scan.GetSpacing()) for role, mask in masks.items()}
    score = None
    if "reference" in masks and any(volumes.values()):
        score = dice(count_overlap(masks["reference"], masks["prediction"]))
    return {"title": structure.title, "mm3": volumes, "dice": score}


def _structure_places(
    scan: sitk.Image, maps: dict[str, Labels], structures: Sequence[Structure]
) -> list[dict[str, Any]]:
    """Return where each structure is in the prediction or, if it is missing there, in the reference."""
    spacing_mm = scan.GetSpacing()[::-1]
    found = []
    for structure in structures:
        by_role = {role: places_of_structure(labels == structure.label, spacing_mm) for role, labels in maps.items()}
        places = by_role["prediction"] or by_role.get("reference", [])
        detail = "" if by_role["prediction"] else "in the reference only"
        titles = [f"{structure.title}, {side}" for side in _SIDES] if len(places) == 2 else [structure.title]
        found += [_shown_place(scan, place, title, detail) for title, place in zip(titles, places, strict=False)]
    return found


def _disagreement(scan: sitk.Image, maps: dict[str, Labels], structures: Sequence[Structure]) -> list[dict[str, Any]]:
    place = None
    if "reference" in maps:
        place = largest_disagreement(maps["prediction"], maps["reference"], scan.GetSpacing()[::-1])
    if place is None:
        return []
    titles = {s.label: s.title for s in structures} | {BACKGROUND: _NOTHING}
    said = {role: titles.get(int(labels[place.voxel]), str(labels[place.voxel])) for role, labels in maps.items()}
    volume = volume_mm3(place.voxels, scan.GetSpacing())
    detail = f"{volume:.0f} mm³: labels {said['prediction']}, reference {said['reference']}"
    return [_shown_place(scan, place, "Largest disagreement", detail, key="d")]


def _shown_place(scan: sitk.Image, place: Place, title: str, detail: str, key: str = "") -> dict[str, Any]:
    """Return a place with its position in mm to the patient's right, front and head, as NIfTI and the page have it."""
    left, back, up = scan.TransformIndexToPhysicalPoint(place.voxel[::-1])
    return {"title": title, "detail": detail, "mm": [-left, -back, up], "extent_mm": place.extent_mm, "key": key}


def _nifti(voxels: NDArray[Any], grid: Geometry) -> bytes:
    """Return voxels `(D, H, W)` on a grid as an uncompressed NIfTI-1 file; ITK's axes run left, back and up."""
    affine = np.eye(4)
    to_ras = np.diag([-1.0, -1.0, 1.0])
    affine[:3, :3] = to_ras @ np.reshape(grid.direction, (3, 3)) @ np.diag(grid.spacing_mm)
    affine[:3, 3] = to_ras @ grid.origin_mm
    image = nibabel.Nifti1Image(voxels.T, affine)
    image.header.set_xyzt_units("mm")
    content: bytes = image.to_bytes()
    return content
