"""Dice and surface distances of two masks. The geometry is computed once; each metric is a short reducer of it.

A mask's surface is the mask minus its erosion by the 6-neighbourhood. Outside the image is background, so a mask voxel
on the image's edge is surface. A distance runs from the centre of a surface voxel to the centre of the nearest surface
voxel of the other mask, in millimetres. Everything is float64 and agrees with MedPy to rounding.

Source: MedPy's `metric.binary`, as the challenge's evaluation code calls it with its default connectivity of 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from evaluation.nearest import Distances, Voxels, nearest_mm

Mask = NDArray[np.bool_]
AssdDefinition = Literal["2021", "pooled"]

ASSD_DEFINITIONS: tuple[AssdDefinition, ...] = get_args(AssdDefinition)
CHALLENGE_ASSD: AssdDefinition = "2021"


@dataclass(frozen=True)
class Overlap:
    """Voxel counts of the reference, the prediction and their intersection."""

    reference_voxels: int
    prediction_voxels: int
    shared_voxels: int


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances in mm, one per surface voxel: from the reference's surface to the prediction's, and back."""

    reference_to_prediction_mm: Distances
    prediction_to_reference_mm: Distances


def count_overlap(reference: Mask, prediction: Mask) -> Overlap:
    """Count the voxels of two masks.

    Args:
        reference: bool (D, H, W), or any other number of axes.
        prediction: bool, of the same shape.

    Raises:
        ValueError: a mask is not bool, or the shapes differ.
    """
    _check_masks(reference, prediction)
    return Overlap(
        reference_voxels=int(np.count_nonzero(reference)),
        prediction_voxels=int(np.count_nonzero(prediction)),
        shared_voxels=int(np.count_nonzero(reference & prediction)),
    )


def dice(overlap: Overlap) -> float:
    """Return 2 |A and B| / (|A| + |B|).

    Raises:
        ValueError: both masks are empty, so Dice is undefined. `scoring` decides what such a case scores.

    Source: MedPy `dc`.
    """
    voxels = overlap.reference_voxels + overlap.prediction_voxels
    if voxels == 0:
        raise ValueError("Dice: expected a mask with voxels, got two empty ones; decide beforehand what they score")
    return 2.0 * overlap.shared_voxels / voxels


def volume_mm3(voxels: int, spacing_mm: Sequence[float]) -> float:
    """Return the volume of a number of voxels in mm3; `spacing_mm` has any number of axes.

    Raises:
        ValueError: a spacing is not finite and positive.
    """
    return voxels * float(np.prod(_checked_spacing(spacing_mm, len(spacing_mm))))


def surface_distances(reference: Mask, prediction: Mask, spacing_mm: Sequence[float]) -> SurfaceDistances:
    """Measure from every surface voxel of each mask to the nearest surface voxel of the other.

    Args:
        reference: bool (D, H, W).
        prediction: bool (D, H, W), of the same shape.
        spacing_mm: voxel spacing in mm in the arrays' axis order: z, y, x.

    Returns:
        Distances in mm, float64, in the order of the surface voxels in C order.

    Raises:
        ValueError: a mask is not bool, not 3-D or empty, the shapes differ, or a spacing is not finite and positive.
    """
    _check_masks(reference, prediction)
    if reference.ndim != 3:
        raise ValueError(f"masks: expected 3 axes (D, H, W), got {reference.ndim}; pass whole volumes")
    spacing = _checked_spacing(spacing_mm, 3)
    surfaces = []
    for name, mask in (("reference", reference), ("prediction", prediction)):
        surface = surface_voxels(mask)
        if not len(surface):
            raise ValueError(
                f"{name}: expected a mask with voxels, got an empty one; a distance to nothing is undefined, "
                "decide beforehand what it scores"
            )
        surfaces.append(surface)
    of_reference, of_prediction = surfaces
    return SurfaceDistances(
        reference_to_prediction_mm=nearest_mm(of_reference, of_prediction, spacing),
        prediction_to_reference_mm=nearest_mm(of_prediction, of_reference, spacing),
    )


def assd_mm(distances: SurfaceDistances, definition: AssdDefinition = CHALLENGE_ASSD) -> float:
    """Return the average symmetric surface distance in mm.

    `2021` is the mean of the two directed means (MedPy up to 0.5.1, the challenge's); `pooled` is the mean of all
    distances together (MedPy from 0.5.2), in which the mask with the larger surface dominates.

    Raises:
        ValueError: no such definition.

    Source: MedPy `assd` before and after version 0.5.2.
    """
    there, back = distances.reference_to_prediction_mm, distances.prediction_to_reference_mm
    if definition == "2021":
        return float((there.mean() + back.mean()) / 2)
    if definition == "pooled":
        return float(np.concatenate((there, back)).mean())
    raise ValueError(f"ASSD: expected a definition of {', '.join(ASSD_DEFINITIONS)}, got {definition!r}; name one")


def hd95_mm(distances: SurfaceDistances) -> float:
    """Return the 95 % Hausdorff distance in mm: the 95th percentile of the distances of both directions together.

    Percentiles interpolate linearly. MONAI and DeepMind's surface-distance take the larger of the two directed
    percentiles instead, so their figures cannot be compared with these.

    Source: MedPy `hd95`.
    """
    both = np.concatenate((distances.reference_to_prediction_mm, distances.prediction_to_reference_mm))
    return float(np.percentile(both, 95))


def surface_voxels(mask: Mask) -> Voxels:
    """Find a mask's surface: its voxels with a 6-neighbour outside the mask or outside the image.

    Args:
        mask: bool (D, H, W).

    Returns:
        Indices z, y, x, int64 (N, 3), in C order; N is 0 where the mask is empty.
    """
    box = bounding_box(mask)
    if box is None:
        return np.empty((0, 3), dtype=np.int64)
    # The mask has no voxels outside its box, so the box's faces are surface, as the image's are.
    inside = mask[box]
    eroded = inside.copy()
    for axis in range(3):
        low, high = _axis_slice(axis, slice(None, -1)), _axis_slice(axis, slice(1, None))
        eroded[high] &= inside[low]
        eroded[low] &= inside[high]
        eroded[_axis_slice(axis, 0)] = False
        eroded[_axis_slice(axis, -1)] = False
    surface = inside & ~eroded
    flat = np.flatnonzero(surface)
    corner = [side.start for side in box]
    # Transposed, so that each axis is contiguous in memory: the searches work axis by axis.
    return np.stack(np.unravel_index(flat, surface.shape)).T + corner


def bounding_box(mask: Mask) -> tuple[slice, ...] | None:
    """Return the box that holds the voxels of a mask `(D, H, W)`, as an index; None for an empty mask.

    Each axis searches only the box found so far.
    """
    box = [slice(0, size) for size in mask.shape]
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        filled = np.flatnonzero(mask[tuple(box)].any(axis=others))
        if not filled.size:
            return None
        box[axis] = slice(int(filled[0]), int(filled[-1]) + 1)
    return tuple(box)


def _axis_slice(axis: int, part: slice | int) -> tuple[slice | int, ...]:
    return (*(slice(None),) * axis, part)


def _check_masks(reference: Mask, prediction: Mask) -> None:
    for name, mask in (("reference", reference), ("prediction", prediction)):
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            kind = mask.dtype if isinstance(mask, np.ndarray) else type(mask).__name__
            raise ValueError(f"{name}: expected a bool array, got {kind}; compare the labels first: labels == 1")
    if reference.shape != prediction.shape:
        raise ValueError(
            f"prediction: expected the reference's shape {reference.shape}, got {prediction.shape}; "
            "resample it to the reference's grid"
        )


def _checked_spacing(spacing_mm: Sequence[float], axes: int) -> Distances:
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    if spacing.shape != (axes,) or not np.isfinite(spacing).all() or (spacing <= 0).any():
        raise ValueError(f"spacing_mm: expected {axes} finite spacings above 0 mm, got {spacing_mm}; check the header")
    return spacing
