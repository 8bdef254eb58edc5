"""Windows: the one definition of a box, how windows cover a volume, and how a volume is cut and put together again."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Box:
    """A box of voxels in `(z, y, x)`: `start` is in it, `stop` is the first outside."""

    start: Shape
    stop: Shape

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Return the box as an index of an array `(D, H, W)`."""
        z, y, x = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return z, y, x

    @property
    def shape(self) -> Shape:
        """Return the box's size `(D, H, W)` in voxels."""
        z, y, x = (b - a for a, b in zip(self.start, self.stop, strict=True))
        return z, y, x


def window_starts(length: int, window: int, overlap: float) -> list[int]:
    """Place windows along one axis; the last is flush with the border.

    ::

        length 10, window 4, overlap 0.5        |0 1 2 3 4 5 6 7 8 9|
        step int(4 x (1 - 0.5)) = 2              * * * *
                                                     * * * *
                                                         * * * *
                                                             * * * *

    Raises:
        ValueError: the window is longer than the axis, or the overlap is not in [0, 1).
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap: expected a fraction in [0, 1), got {overlap}; 0.25 is the default")
    if not 1 <= window <= length:
        raise ValueError(f"window of {window} voxels: expected 1 to {length}, the volume's side; pad the volume first")
    step = max(1, int(window * (1 - overlap)))
    last = length - window
    return [*range(0, last, step), last]


def windows(shape: Shape, window: Shape, overlap: float) -> list[Box]:
    """Cover a volume `(D, H, W)` with windows of one size, in z, y, x order; every voxel lies in at least one.

    Raises:
        ValueError: as `window_starts`.
    """
    axes = [window_starts(n, w, overlap) for n, w in zip(shape, window, strict=True)]
    return [Box((z, y, x), (z + window[0], y + window[1], x + window[2])) for z, y, x in product(*axes)]


def window_weights(window: Shape, weighting: str, sigma_fraction: float = 0.125) -> NDArray[np.float32]:
    """Weigh the voxels of a window `(D, H, W)`: "constant" is 1 everywhere, "gaussian" falls off from the centre.

    The Gaussian's sigma is `sigma_fraction` of each side; no weight is below 0.001, so that a voxel that only
    the corner of a window covers still has a value.

    Raises:
        ValueError: an unknown weighting.
    """
    if weighting == "constant":
        return np.ones(window, dtype=np.float32)
    if weighting != "gaussian":
        raise ValueError(f"weighting: expected 'gaussian' or 'constant', got {weighting!r}")
    axes = []
    for side in window:
        offset = np.arange(side) - (side - 1) / 2
        axes.append(np.exp(-(offset**2) / (2 * (sigma_fraction * side) ** 2)))
    weights = np.einsum("z,y,x->zyx", *axes)
    return np.maximum(weights, 1e-3).astype(np.float32)


@dataclass(frozen=True)
class Padding:
    """How many voxels were added before and after each axis, `(z, y, x)`."""

    before: Shape
    after: Shape


def pad_to(volume: NDArray[np.float32], shape: Shape, value: float = 0.0) -> tuple[NDArray[np.float32], Padding]:
    """Pad a volume `(D, H, W)` on both sides to at least `shape`; return it with what `crop_back` needs.

    A volume that is large enough comes back as it is. Of an odd number of voxels the larger half goes behind.
    """
    missing = [max(0, s - n) for s, n in zip(shape, volume.shape, strict=True)]
    z, y, x = (m // 2 for m in missing)
    after_z, after_y, after_x = (m - m // 2 for m in missing)
    padding = Padding((z, y, x), (after_z, after_y, after_x))
    if not any(missing):
        return volume, padding
    widths = list(zip(padding.before, padding.after, strict=True))
    return np.pad(volume, widths, constant_values=value), padding


def crop_back(volume: NDArray[np.float32], padding: Padding) -> NDArray[np.float32]:
    """Cut what `pad_to` added off a volume `(D, H, W)` again: a view."""
    z, y, x = (slice(b, n - a) for b, n, a in zip(padding.before, volume.shape, padding.after, strict=True))
    return volume[z, y, x]


def divide(volume: NDArray[np.float32], boxes: Iterable[Box]) -> Iterator[NDArray[np.float32]]:
    """Cut a volume `(D, H, W)` into its windows, one view at a time."""
    for box in boxes:
        yield volume[box.slices]


class WeightedMean:
    """Puts windows together again: a running weighted mean at every voxel, in two float32 volumes whatever the overlap.

    Each window moves the mean towards itself by its share of the weight so far, so that windows that agree at a voxel
    leave it exactly at their value, which a sum divided by a sum of weights does not.
    """

    def __init__(self, shape: Shape, weights: NDArray[np.float32]) -> None:
        """Start an empty volume `(D, H, W)` for windows that are all weighed by `weights`, above 0."""
        self._weights = weights
        self._mean = np.zeros(shape, dtype=np.float32)
        self._total = np.zeros(shape, dtype=np.float32)

    def add(self, box: Box, window: NDArray[np.float32]) -> None:
        """Take in the values `(D, H, W)` of one window."""
        mean, total = self._mean[box.slices], self._total[box.slices]
        total += self._weights
        mean += (window - mean) * (self._weights / total)

    def volume(self) -> NDArray[np.float32]:
        """Return the means `(D, H, W)`; a voxel in no window is 0."""
        return self._mean


def combine(
    boxes: Iterable[Box], parts: Iterable[NDArray[np.float32]], shape: Shape, weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Put windows `(D, H, W)` together to a volume of `shape`: the inverse of `divide`, overlaps averaged by weight."""
    mean = WeightedMean(shape, weights)
    for box, part in zip(boxes, parts, strict=True):
        mean.add(box, part)
    return mean.volume()
