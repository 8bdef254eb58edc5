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


class _Axis(NamedTuple):
    """Where the new voxels of one axis lie: between the old ones `lower` and `upper`, int64, at `weight` in [0, 1)."""

    lower: torch.Tensor
    upper: torch.Tensor
    weight: torch.Tensor


def _axis(old_size: int, new_size: int, step: float) -> _Axis | None:
    """Place one axis's new voxels, `step` old voxels apart; None if nothing changes."""
    if old_size == new_size and step == 1:
        return None
    # Both first voxels begin at the corner, so their centres are half a voxel of their own away from it.
    positions = np.clip((np.arange(new_size) + 0.5) * step - 0.5, 0, old_size - 1)
    lower = np.floor(positions).astype(np.int64)
    upper = np.minimum(lower + 1, old_size - 1)
    return _Axis(
        torch.from_numpy(lower), torch.from_numpy(upper), torch.from_numpy((positions - lower).astype(np.float32))
    )


class _Plane:
    """Resamples a slice `(H, W)` along both of its axes."""

    def __init__(self, old: tuple[int, int], new: tuple[int, int], step: tuple[float, float]) -> None:
        self._rows = _axis(old[0], new[0], step[0])
        columns = _axis(old[1], new[1], step[1])
        self._matrix: torch.Tensor | None = None
        if columns is not None:
            # Columns lie apart in memory: a product with a matrix of two weights a column is the faster way.
            here = torch.arange(new[1])
            self._matrix = torch.zeros(old[1], new[1])
            self._matrix[columns.lower, here] = 1 - columns.weight
            self._matrix[columns.upper, here] += columns.weight

    def __call__(self, plane: torch.Tensor) -> torch.Tensor:
        if self._rows is not None:
            plane = torch.lerp(plane[self._rows.lower], plane[self._rows.upper], self._rows.weight[:, None])
        return plane if self._matrix is None else plane @ self._matrix


def resample_linear(volume: NDArray[np.float32], shape: Shape, step: tuple[float, float, float]) -> NDArray[np.float32]:
    """Resample a volume `(D, H, W)` float32 to `shape`, on a grid with the same outer corner; return a new array.

    Beyond the outermost voxel centres, the nearest voxel's value is taken.

    Args:
        volume: finite; is not changed, and may be a read-only view.
        shape: of the result.
        step: the new voxels' size divided by the old ones', along `(z, y, x)`.
    """
    plane = _Plane((volume.shape[1], volume.shape[2]), (shape[1], shape[2]), (step[1], step[2]))
    resampled = np.empty(shape, dtype=np.float32)
    slices = torch.from_numpy(resampled)

    # Copied one by one, because torch wants memory that can be written.
    def original(z: int) -> torch.Tensor:
        return torch.from_numpy(np.array(volume[z], dtype=np.float32))

    along_z = _axis(volume.shape[0], shape[0], step[0])
    if along_z is None:
        for z in range(shape[0]):
            slices[z] = plane(original(z))
        return resampled
    # The planes first if slices are added, and last if they get fewer. Neighbours share the two slices between them.
    planes_first = shape[0] > volume.shape[0]
    at = lru_cache(maxsize=2)(lambda z: plane(original(z)) if planes_first else original(z))
    for z, (lower, upper, weight) in enumerate(zip(*(values.tolist() for values in along_z), strict=True)):
        between = at(lower) if weight == 0 else torch.lerp(at(lower), at(upper), weight)
        slices[z] = between if planes_first else plane(between)
    return resampled
