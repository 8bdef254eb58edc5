"""Linear resampling between two grids that share a corner and a direction, slice by slice.

It computes what ITK's linear resampling computes, but one axis after the other, and an axis that stays is left alone.
Of a typical scan only z changes, or z much more than the others. Memory holds the result and a few slices.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data.patches import Shape

_BLOCK = 64  # columns; 32 takes as long, 128 a fifth more, 448 more than twice as long


class _Axis(NamedTuple):
    """Where the new voxels of one axis lie: between the old ones `lower` and `upper`, int64, at `weight` in [0, 1).

    `nearest` are the nearest old ones, int64, and `outside` tells which lie out of the field of view.
    """

    lower: torch.Tensor
    upper: torch.Tensor
    weight: torch.Tensor
    nearest: NDArray[np.int64]
    outside: NDArray[np.bool_]
    stays: bool


def _axis(old_size: int, new_size: int, step: float) -> _Axis:
    """Place one axis's new voxels, `step` old voxels apart."""
    # Both first voxels begin at the corner, so their centres are half a voxel of their own away from it.
    positions = (np.arange(new_size) + 0.5) * step - 0.5
    outside = (positions < -0.5) | (positions >= old_size - 0.5)
    nearest = np.clip(np.floor(positions + 0.5), 0, old_size - 1).astype(np.int64)
    positions = np.clip(positions, 0, old_size - 1)
    lower = np.floor(positions).astype(np.int64)
    upper = np.minimum(lower + 1, old_size - 1)
    weight = (positions - lower).astype(np.float32)
    stays = old_size == new_size and step == 1
    return _Axis(torch.from_numpy(lower), torch.from_numpy(upper), torch.from_numpy(weight), nearest, outside, stays)


class _Plane:
    """Resamples a slice `(H, W)` along both of its axes."""

    def __init__(self, rows: _Axis, columns: _Axis) -> None:
        self._rows = rows
        self._width = len(columns.lower)
        # Columns lie apart in memory: a product with a matrix of two weights a column is the faster way. Block by
        # block, because far from its diagonal the matrix is zero.
        self._blocks: list[tuple[slice, slice, torch.Tensor]] = []
        for start in [] if columns.stays else range(0, self._width, _BLOCK):
            new = slice(start, min(start + _BLOCK, self._width))
            lower, upper, weight = columns.lower[new], columns.upper[new], columns.weight[new]
            old = slice(int(lower[0]), int(upper[-1]) + 1)
            here = torch.arange(len(lower))
            matrix = torch.zeros(old.stop - old.start, len(lower))
            matrix[lower - old.start, here] = 1 - weight
            matrix[upper - old.start, here] += weight
            self._blocks.append((old, new, matrix))

    def __call__(self, plane: torch.Tensor) -> torch.Tensor:
        if not self._rows.stays:
            plane = torch.lerp(plane[self._rows.lower], plane[self._rows.upper], self._rows.weight[:, None])
        if not self._blocks:
            return plane
        resampled = torch.empty(len(plane), self._width)
        for old, new, matrix in self._blocks:
            resampled[:, new] = plane[:, old] @ matrix
        return resampled


def resample_linear(volume: NDArray[np.float32], shape: Shape, step: tuple[float, float, float]) -> NDArray[np.float32]:
    """Resample a volume `(D, H, W)` float32 to `shape`, on a grid with the same outer corner; return a new array.

    Beyond the outermost voxel centres, the outermost voxels are continued; a voxel whose centre lies out of the field
    of view takes the nearest voxel's value, as ITK's extrapolator does.

    Args:
        volume: finite; is not changed, and may be a read-only view.
        shape: of the result.
        step: the new voxels' size divided by the old ones', along `(z, y, x)`.
    """
    along = [_axis(*sizes) for sizes in zip(volume.shape, shape, step, strict=True)]
    plane = _Plane(along[1], along[2])
    resampled = np.empty(shape, dtype=np.float32)
    slices = torch.from_numpy(resampled)

    # Copied one by one, because torch wants memory that can be written.
    def original(z: int) -> torch.Tensor:
        return torch.from_numpy(np.array(volume[z], dtype=np.float32))

    # The planes first if slices are added, and last if they get fewer. Neighbours share the two slices between them.
    planes_first = shape[0] > volume.shape[0]
    at = lru_cache(maxsize=2)(lambda z: plane(original(z)) if planes_first else original(z))
    for z, (lower, upper, weight) in enumerate(zip(*(values.tolist() for values in along[0][:3]), strict=True)):
        between = at(lower) if weight == 0 else torch.lerp(at(lower), at(upper), weight)
        slices[z] = between if planes_first else plane(between)
    _extrapolate(resampled, volume, along)
    return resampled


def _extrapolate(resampled: NDArray[np.float32], volume: NDArray[np.float32], along: list[_Axis]) -> None:
    """Give voxels that lie out of the field of view, in place, the nearest voxel's value."""
    for number, axis in enumerate(along):
        indices = [np.arange(size) for size in resampled.shape]
        indices[number] = np.flatnonzero(axis.outside)
        if len(indices[number]):
            nearest = [axis.nearest[here] for axis, here in zip(along, indices, strict=True)]
            resampled[np.ix_(*indices)] = volume[np.ix_(*nearest)]
