"""Dice and surface distances of two masks: the geometry is computed once, each metric is a short reducer on it.

A mask's surface is the mask minus its erosion by the 6-neighbourhood; a mask voxel on the image's edge is surface,
since what lies outside counts as background. A distance runs from the centre of a surface voxel to the centre of the
nearest surface voxel of the other mask, in millimetres. Everything is float64 and agrees with MedPy to rounding.

Three exact ways find the nearest voxel, and a cost of each says which to take: a Euclidean feature transform over the
box round both surfaces, minima along planes, rows and columns asked for by the queries alone (one mask compact, the
other scattered or far), and a k-d tree (few voxels far apart). The worst case is one transform of the volume each way.

Source: MedPy's `metric.binary`, as the challenge's evaluation code calls it with its default connectivity of 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

Mask = NDArray[np.bool_]
Distances = NDArray[np.float64]
Voxels = NDArray[np.int64]
AssdDefinition = Literal["2021", "pooled"]

ASSD_DEFINITIONS: tuple[AssdDefinition, ...] = get_args(AssdDefinition)
CHALLENGE_ASSD: AssdDefinition = "2021"

# Bounds the memory of one step: 4096 queries by 512 columns in float64 are 16 MiB.
_QUERIES_AT_ONCE = 4096


@dataclass(frozen=True)
class Overlap:
    """How many voxels the reference, the prediction and both hold."""

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
        ValueError: both masks are empty, where Dice is undefined; scoring decides what that means.

    Source: MedPy `dc`.
    """
    voxels = overlap.reference_voxels + overlap.prediction_voxels
    if voxels == 0:
        raise ValueError("Dice: expected a mask with voxels, got two empty ones; decide beforehand what they score")
    return 2.0 * overlap.shared_voxels / voxels


def volume_mm3(voxels: int, spacing_mm: Sequence[float]) -> float:
    """Return the volume in mm3 of so many voxels.

    Raises:
        ValueError: a spacing is not finite and positive.
    """
    return voxels * float(np.prod(_checked_spacing(spacing_mm, len(spacing_mm))))


def surface_distances(reference: Mask, prediction: Mask, spacing_mm: Sequence[float]) -> SurfaceDistances:
    """Measure from every surface voxel of each mask to the nearest one of the other.

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
        reference_to_prediction_mm=_nearest_mm(of_reference, of_prediction, spacing),
        prediction_to_reference_mm=_nearest_mm(of_prediction, of_reference, spacing),
    )


def assd_mm(distances: SurfaceDistances, definition: AssdDefinition = CHALLENGE_ASSD) -> float:
    """Return the average symmetric surface distance in mm.

    `2021` is the mean of the two directed means (MedPy up to 0.5.1, the challenge's); `pooled` is the mean of all
    distances together (MedPy from 0.5.2), which the mask with the larger surface dominates.

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
    percentiles instead: the figures of different tools do not compare.

    Source: MedPy `hd95`.
    """
    both = np.concatenate((distances.reference_to_prediction_mm, distances.prediction_to_reference_mm))
    return float(np.percentile(both, 95))


def surface_voxels(mask: Mask) -> Voxels:
    """Find a mask's surface: its voxels with a 6-neighbour outside the mask or outside the image.

    Args:
        mask: bool (D, H, W).

    Returns:
        Indices z, y, x, int64 (N, 3), in C order; none where the mask is empty.
    """
    box = _bounding_box(mask)
    if box is None:
        return np.empty((0, 3), dtype=np.int64)
    # Beyond its box a mask has no voxels, so the box's faces are surface just as the image's are.
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
    # A column for each axis lies together in memory: everything below works axis by axis.
    return np.stack(np.unravel_index(flat, surface.shape)).T + corner


def _nearest_mm(queries: Voxels, targets: Voxels, spacing: Distances) -> Distances:
    """Return each query voxel's distance in mm to the nearest target voxel, by the cheapest of the ways below."""
    targets = _reachable(queries, targets, spacing)
    search = min(_SEARCHES, key=lambda way: way.cost_ns(queries, targets))
    return search.nearest_mm(queries, targets, spacing)


def _reachable(queries: Voxels, targets: Voxels, spacing: Distances) -> Voxels:
    """Drop the targets that are nearest to no query: those farther from the queries' box than any query is from one.

    Every query lies within `reach` of one chosen target: the distance from it to the farthest corner of their box.
    """
    low, high = queries.min(axis=0) * spacing, queries.max(axis=0) * spacing
    if (targets.min(axis=0) * spacing >= low).all() and (targets.max(axis=0) * spacing <= high).all():
        return targets  # none lies outside the queries' box
    places = targets * spacing
    chosen = places[np.argmin(((places - (low + high) / 2) ** 2).sum(axis=1))]
    reach = np.sqrt((np.maximum(np.abs(chosen - low), np.abs(chosen - high)) ** 2).sum())
    # A tolerance far above rounding and far below a voxel: an extra target costs nothing.
    reach += 1e-6 * spacing.min()
    near = ((places >= low - reach) & (places <= high + reach)).all(axis=1)
    return targets if near.all() else targets[near]


def _extent(voxels: Voxels) -> Voxels:
    """Return the sides of the box round voxels."""
    return voxels.max(axis=0) - voxels.min(axis=0) + 1


def _nearest_by_transform(queries: Voxels, targets: Voxels, spacing: Distances) -> Distances:
    """Find the nearest target of every voxel of the joint box by a feature transform; measure from the queries."""
    low = np.minimum(queries.min(axis=0), targets.min(axis=0))
    away = np.ones(np.maximum(queries.max(axis=0), targets.max(axis=0)) - low + 1, dtype=np.uint8)
    away[tuple((targets - low).T)] = 0
    nearest = ndimage.distance_transform_edt(away, sampling=spacing, return_distances=False, return_indices=True)
    from_low = queries - low
    flat = np.ravel_multi_index(tuple(from_low.T), away.shape)
    squared = np.zeros(len(queries))
    for axis, along in enumerate(nearest):  # axis by axis, since NumPy is slow to sum across
        squared += np.square((along.ravel()[flat] - from_low[:, axis]) * spacing[axis])
    return np.sqrt(squared)


def _transform_cost_ns(queries: Voxels, targets: Voxels) -> float:
    low = np.minimum(queries.min(axis=0), targets.min(axis=0))
    high = np.maximum(queries.max(axis=0), targets.max(axis=0))
    return 20_000 + 100.0 * float(np.prod(high - low + 1, dtype=np.float64))


def _nearest_by_rows(queries: Voxels, targets: Voxels, spacing: Distances) -> Distances:
    """Minimise over z, then y, then x, and each only where it is asked for: planes, rows and voxels of the queries.

    The squared distance is a sum over axes, so the minimum over targets is three nested minima. Unlike a transform, no
    voxel between queries and targets is visited.
    """
    low = targets.min(axis=0)
    first, last = int(queries[0, 0]), int(queries[-1, 0])  # C order: sorted by z
    along_z = _squared_along_z(targets - low, np.arange(first, last + 1) - low[0], float(spacing[0]))
    rows_y = np.arange(queries[:, 1].min(), queries[:, 1].max() + 1)
    _, size_y, size_x = along_z.shape
    squared_y = ((rows_y[:, None] - np.arange(low[1], low[1] + size_y)) * spacing[1]) ** 2
    columns_x = np.arange(low[2], low[2] + size_x)
    held_y = np.unique(targets[:, 1]) - low[1]
    distances = np.empty(len(queries))
    starts = np.searchsorted(queries[:, 0], np.arange(first, last + 2))
    along_yz = np.empty((len(rows_y), size_x))
    summed = np.empty_like(along_yz)
    for plane, start, stop in zip(along_z, starts, starts[1:], strict=False):
        along_yz.fill(np.inf)
        for y in held_y:
            np.add(plane[y], squared_y[:, y, None], out=summed)
            np.minimum(along_yz, summed, out=along_yz)
        for begin in range(start, stop, _QUERIES_AT_ONCE):
            some = queries[begin : min(begin + _QUERIES_AT_ONCE, stop)]
            squared = ((some[:, 2, None] - columns_x) * spacing[2]) ** 2
            squared += along_yz[some[:, 1] - rows_y[0]]
            distances[begin : begin + len(some)] = squared.min(axis=1)
    return np.sqrt(distances)


def _squared_along_z(targets: Voxels, planes: Voxels, spacing_z_mm: float) -> Distances:
    """Return squared mm along z from planes to the nearest target of each column of the targets' box; inf without one.

    Args:
        targets: indices z, y, x from the corner of their box.
        planes: sorted z from the same corner, which may lie outside the box.
    """
    size_z, size_y, size_x = _extent(targets)
    held = np.full((size_z, size_y, size_x), np.nan)
    held[tuple(targets.T)] = targets[:, 0]
    # The last target at or below each plane, and the first at or above it.
    below = np.fmax.accumulate(held, axis=0)
    above = np.fmin.accumulate(held[::-1], axis=0)[::-1]
    column = planes[:, None, None]
    down = np.where(column >= 0, column - below[np.clip(planes, 0, size_z - 1)], np.inf)
    up = np.where(column < size_z, above[np.clip(planes, 0, size_z - 1)] - column, np.inf)
    return (np.nan_to_num(np.fmin(down, up), nan=np.inf, posinf=np.inf) * spacing_z_mm) ** 2


def _rows_cost_ns(queries: Voxels, targets: Voxels) -> float:
    planes, rows, _ = _extent(queries).tolist()
    size_z, size_y, size_x = _extent(targets).tolist()
    by_z = 15.0 * (size_z + 3 * planes) * size_y * size_x
    by_y = planes * size_y * (4_000 + 0.8 * rows * size_x)
    by_x = planes * 20_000 + 4.0 * len(queries) * size_x
    return by_z + by_y + by_x


def _nearest_by_tree(queries: Voxels, targets: Voxels, spacing: Distances) -> Distances:
    distances, _ = KDTree(targets * spacing).query(queries * spacing)
    return np.asarray(distances, dtype=np.float64)


def _tree_cost_ns(queries: Voxels, targets: Voxels) -> float:
    # The worst case, where all targets are about equally far: a tree far from its queries comes near to it.
    return 100_000 + 500.0 * len(targets) + 5.0 * len(queries) * len(targets)


@dataclass(frozen=True)
class _Search:
    """A way to find nearest voxels, and its cost in nanoseconds on one core, fitted to measurements."""

    nearest_mm: Callable[[Voxels, Voxels, Distances], Distances]
    cost_ns: Callable[[Voxels, Voxels], float]


# Small joint boxes and dense surfaces; one mask compact, the other wide; few voxels far apart.
_SEARCHES = (
    _Search(_nearest_by_transform, _transform_cost_ns),
    _Search(_nearest_by_rows, _rows_cost_ns),
    _Search(_nearest_by_tree, _tree_cost_ns),
)


def _bounding_box(mask: Mask) -> tuple[slice, ...] | None:
    """Return the box that holds a mask's voxels, or None where there are none; each axis looks only where is left."""
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
