"""Slices stacked to a volume: in order, evenly spaced, without a gap. What does not stack is refused, not repaired.

A tilted gantry, a missing slice or two images of one place would all become a plausible volume of the wrong shape.

Source: DICOM PS3.3, C.7.6.2 "Image Plane Module".
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from challenge.headers import checked_grid
from challenge.nifti import MAX_VOXELS, CaseError, Geometry
from pipeline.inference.dicom.files import DicomFile

# Positions are often written with two decimals.
_LENGTH_TOLERANCE_MM = 0.02
_GAP_TOLERANCE = 0.01
_COSINE_TOLERANCE = 1e-3
# Between the first slice and the last, off the line along their normal.
_MOST_SHIFT_MM = 0.1


def stacked(files: Sequence[DicomFile]) -> tuple[tuple[DicomFile, ...], Geometry]:
    """Return a series' slices in the order of the volume's first axis, and the volume's grid.

    Raises:
        CaseError: slices of different sizes, spacings, orientations or frames of reference; one place twice; a gap;
            a stack that is not at right angles to its slices; more than `MAX_VOXELS` voxels; or less than two slices.
    """
    if len(files) < 2:
        raise CaseError(f"{files[0].name}: expected a volume, got a single slice; copy the whole series")
    first = files[0].header
    for keyword, count in (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6), ("PixelSpacing", 2)):
        for file in files:
            values = getattr(file.header, keyword)
            if len(values) != count or not np.isfinite(values).all():
                raise CaseError(
                    f"{file.name}: expected {count} finite numbers for {keyword}, got {_listed(values) or 'none'}; "
                    "export the series with its geometry"
                )
    _expect_same(files, "size", lambda file: (file.header.Rows, file.header.Columns), 0)
    _expect_same(files, "PixelSpacing", lambda file: file.header.PixelSpacing, 1e-4)
    _expect_same(files, "ImageOrientationPatient", lambda file: file.header.ImageOrientationPatient, _COSINE_TOLERANCE)
    for file in files:
        if not file.header.FrameOfReferenceUID or file.header.FrameOfReferenceUID != first.FrameOfReferenceUID:
            raise CaseError(
                f"{file.name}: expected the series' FrameOfReferenceUID, got "
                f"{file.header.FrameOfReferenceUID or 'none'}; export the series again"
            )
    voxels = first.Rows * first.Columns * len(files)
    if min(first.Rows, first.Columns) < 1 or voxels > MAX_VOXELS:
        raise CaseError(
            f"{files[0].name}: expected 1 to {MAX_VOXELS:,} voxels, got {len(files)} slices of {first.Rows} x "
            f"{first.Columns}; check the series"
        )
    row, column = np.reshape(first.ImageOrientationPatient, (2, 3))
    normal, axes = np.cross(row, column), np.array([row, column])
    if not np.allclose(axes @ axes.T, np.eye(2), rtol=0, atol=_COSINE_TOLERANCE):
        raise CaseError(
            f"{files[0].name}: expected two perpendicular unit vectors for ImageOrientationPatient, got "
            f"{_listed(first.ImageOrientationPatient)}; export the series again"
        )
    ordered = sorted(files, key=lambda file: float(normal @ np.array(file.header.ImagePositionPatient)))
    positions = np.array([file.header.ImagePositionPatient for file in ordered])
    step_mm = _even_step(ordered, positions @ normal)
    off_line = (positions - positions[0]) @ np.column_stack([row, column])
    if (shift := float(np.abs(off_line).max())) > _MOST_SHIFT_MM:
        raise CaseError(
            f"{ordered[-1].name}: expected slices above one another, got a shift of {shift:.3g} mm sideways over the "
            "stack, as of a tilted gantry; resample the series to a straight volume first"
        )
    # PixelSpacing is that of rows first: the distance along y, then along x.
    size_xyz, (y_mm, x_mm) = (first.Columns, first.Rows, len(ordered)), first.PixelSpacing
    cosines = np.column_stack([row, column, normal])
    return tuple(ordered), checked_grid("series", size_xyz, (x_mm, y_mm, step_mm), cosines, positions[0].tolist())


def _expect_same(
    files: Sequence[DicomFile], what: str, of: Callable[[DicomFile], Sequence[float]], tolerance: float
) -> None:
    expected = of(files[0])
    for file in files:
        if not np.allclose(of(file), expected, rtol=0, atol=tolerance):
            raise CaseError(
                f"{file.name}: expected one {what} in a series, got {_listed(of(file))}, and {_listed(expected)} in "
                f"{files[0].name}; keep the slices of one acquisition"
            )


def _even_step(ordered: Sequence[DicomFile], places_mm: NDArray[np.float64]) -> float:
    """Return the distance of neighbouring slices in mm.

    Raises:
        CaseError: it is not the same everywhere.
    """
    gaps = np.diff(places_mm)
    pairs = [f"{a.name} and {b.name}" for a, b in pairwise(ordered)]
    for gap, between in zip(gaps, pairs, strict=True):
        if gap <= _LENGTH_TOLERANCE_MM:
            raise CaseError(
                f"expected one image a place, got two, {between}, as of several echoes or times; keep the images of one"
            )
    usual = float(np.median(gaps))
    tolerance = max(_LENGTH_TOLERANCE_MM, _GAP_TOLERANCE * usual)
    for gap, between in zip(gaps, pairs, strict=True):
        if abs(gap - usual) <= tolerance:
            continue
        missing = round(gap / usual) - 1
        if missing > 0 and abs(gap - (missing + 1) * usual) <= (missing + 1) * tolerance:
            raise CaseError(
                f"expected slices {usual:.4g} mm apart, got {gap:.4g} mm between {between}, "
                f"so {missing} {'is' if missing == 1 else 'are'} missing; copy the whole series"
            )
        raise CaseError(
            f"expected evenly spaced slices, {usual:.4g} mm apart, got {gap:.4g} mm between {between}; "
            "copy the whole series, or resample it"
        )
    return round(float(places_mm[-1] - places_mm[0]) / len(gaps), 6)  # positions are decimals


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)
