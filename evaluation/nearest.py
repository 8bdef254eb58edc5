"""The distance from voxels to the nearest of other voxels: exact, by the cheapest of three searches.

- A Euclidean feature transform over the box that holds both sets: small boxes, dense surfaces.
- Nested minima along z, y and x, computed only for the planes, rows and columns that hold queries: one set is
  compact, the other is scattered or far away.
- A k-d tree: few voxels, far apart.

A cost estimate chooses between them. The worst case is one transform of the whole volume.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

Distances = NDArray[np.float64]
Voxels = NDArray[np.int64]

# Bounds the memory of one step: 4096 queries by 512 columns in float64 are 16 MiB.
_QUERIES_AT_ONCE = 4096


def nearest_mm(queries: Voxels, targets: Voxels, spacing: Distances) -> Distances:
    """Return each query voxel's distance in mm to the nearest target voxel.

    Args:
        queries: indices z, y, x, int64 (N, 3), at least one, in C order.
        targets: indices z, y, x, int64 (M, 3), at least one, in C order.
        spacing: float64 (3,), voxel spacing in mm: z, y, x.

    Returns:
        float64 (N,).
    """
    targets = _reachable(queries, targets, spacing)
    search = min(_SEARCHES, key=lambda search: search.cost_ns(queries, targets))
    return search.nearest_mm(queries, targets, spacing)


def _reachable(queries: Voxels, targets: Voxels, spacing: Distances) -> Voxels:
    """Drop targets that cannot be nearest to any query.

    Take the target nearest to the centre of the queries' box. No query is farther from it than the box's farthest
    corner, a distance called `reach`. A target that lies farther than `reach` from the box is nearest to no query.
    """
    low, high = queries.min(axis=0) * spacing, queries.max(axis=0) * spacing
    if (targets.min(axis=0) * spacing >= low).all() and (targets.max(axis=0) * spacing <= high).all():
        return targets  # none lies outside the queries' box
    places = targets * spacing
    chosen = places[np.argmin(((places - (low + high) / 2) ** 2).sum(axis=1))]
    reach = np.sqrt((np.maximum(np.abs(chosen - low), np.abs(chosen - high)) ** 2).sum())
    # The tolerance is far above rounding and far below a voxel. An extra target does no harm.
    reach += 1e-6 * spacing.min()
    near = ((places >= low - reach) & (places <= high + reach)).all(axis=1)
    return targets if near.all() else targets[near]


def _extent(voxels: Voxels) -> Voxels:
    """Return the side lengths of the box that holds the voxels."""
    return voxels.max(axis=0) - voxels.min(axis=0) + 1


def _nearest_by_transform(queries: Voxels, targets: Voxels, spacing: Distances) -> Distances:
    """Find the nearest target of every voxel in the joint box with a feature transform; measure only the queries."""
    low = np.minimum(queries.min(axis=0), targets.min(axis=0))
    away = np.ones(np.maximum(queries.max(axis=0), targets.max(axis=0)) - low + 1, dtype=np.uint8)
    away[tuple((targets - low).T)] = 0
    nearest = ndimage.distance_transform_edt(away, sampling=spacing, return_distances=False, return_indices=True)
    from_low = queries - low
    flat = np.ravel_multi_index(tuple(from_low.T), away.shape)
    squared = np.zeros(len(queries))
    for axis, along in enumerate(nearest):  # axis by axis: NumPy sums slowly along a short last axis
        squared += np.square((along.ravel()[flat] - from_low[:, axis]) * spacing[axis])
    return np.sqrt(squared)


def _transform_cost_ns(queries: Voxels, targets: Voxels) -> float:
    low = np.minimum(queries.min(axis=0), targets.min(axis=0))
    high = np.maximum(queries.max(axis=0), targets.max(axis=0))
    return 20_000 + 100.0 * float(np.prod(high - low + 1, dtype=np.float64))


def _nearest_by_rows(queries: Voxels, targets: Voxels, spacing: Distances) -> Distances:
    """Minimise over z, then y, then x, only for the planes, rows and voxels that hold queries.

    The squared distance is a sum over axes, so the minimum over targets is three nested minima. Unlike a transform,
    this visits no voxel between queries and targets.
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
    """Return the squared distance along z from each plane to the nearest target in each column of the targets' box.

    Args:
        targets: indices z, y, x, counted from the corner of their box.
        planes: sorted z, counted from the same corner; a plane may lie outside the box.

    Returns:
        float64 (planes, Y, X) in mm2, infinite where a column holds no target.
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
    # The worst case: all targets are about equally far. A tree far from its queries comes close to it.
    return 100_000 + 500.0 * len(targets) + 5.0 * len(queries) * len(targets)


@dataclass(frozen=True)
class _Search:
    """A search for nearest voxels, and its estimated cost in nanoseconds on one core, fitted to measurements."""

    nearest_mm: Callable[[Voxels, Voxels, Distances], Distances]
    cost_ns: Callable[[Voxels, Voxels], float]


_SEARCHES = (
    _Search(_nearest_by_transform, _transform_cost_ns),
    _Search(_nearest_by_rows, _rows_cost_ns),
    _Search(_nearest_by_tree, _tree_cost_ns),
)
