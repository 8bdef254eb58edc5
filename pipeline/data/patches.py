"""Boxes of voxels: sliding windows and training patches; a volume divided into windows and put together again."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

Shape = tuple[int, int, int]
Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True)
class Box:
    """A box of voxels in `(z, y, x)`: `start` is its first voxel, `stop` lies one past its last."""

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
    """Place windows along one axis; the last one ends at the border.

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


def box_around(centre: Shape, side: int, shape: Shape) -> Box:
    """Return the cube of `side` voxels around `centre` in a volume `(D, H, W)`, moved back inside where it sticks out.

    Along an axis that is shorter than `side`, the box is the whole axis.

    ::

        length 10, side 4        |0 1 2 3 4 5 6 7 8 9|
        centre 5                        * * * *            starts at 5 - 4 / 2
        centre 9                              * * * *      moved back inside
        length 2, side 4         |0 1|
        any centre                * *                      the whole axis
    """
    spans = [(min(max(middle - side // 2, 0), max(n - side, 0)), n) for middle, n in zip(centre, shape, strict=True)]
    z, y, x = (start for start, _ in spans)
    stop_z, stop_y, stop_x = (min(start + side, n) for start, n in spans)
    return Box((z, y, x), (stop_z, stop_y, stop_x))


def window_weights(window: Shape, weighting: str, sigma_fraction: float = 0.125) -> NDArray[np.float32]:
    """Return the weights of a window's voxels `(D, H, W)`: "constant" is 1 everywhere, "gaussian" favours the centre.

    The Gaussian's sigma is `sigma_fraction` of each side. No weight is below 0.001: a voxel may lie in the corner of
    one window and in no other.

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
    """The number of voxels added before and after each axis, `(z, y, x)`."""

    before: Shape
    after: Shape


def pad_to(volume: NDArray[Scalar], shape: Shape, value: float = 0.0) -> tuple[NDArray[Scalar], Padding]:
    """Pad a volume `(D, H, W)` on both sides to at least `shape`; return it and the padding, which `crop_back` takes.

    A volume that is large enough is returned itself. An odd number of voxels puts one more behind than before.
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
    """Return a view of a volume `(D, H, W)` without what `pad_to` added: its inverse."""
    z, y, x = (slice(b, n - a) for b, n, a in zip(padding.before, volume.shape, padding.after, strict=True))
    return volume[z, y, x]


def divide(volume: NDArray[np.float32], boxes: Iterable[Box]) -> Iterator[NDArray[np.float32]]:
    """Yield views of a volume `(D, H, W)`, one for each box; `WeightedMean` puts them together again."""
    for box in boxes:
        yield volume[box.slices]


class WeightedMean:
    """Puts windows together again: a running weighted mean at every voxel, float32.

    Each window moves the mean towards its own value by its share of the total weight. So where all windows agree, the
    mean is exactly their value; a weighted sum divided by the sum of weights would be rounded.

    The windows come in the order of `windows`. So the total weight is only kept of as many slices as a window has.
    """

    def __init__(self, shape: Shape, weights: NDArray[np.float32]) -> None:
        """Start with no window; every window will have the same `weights` `(d, h, w)`, all above 0."""
        self._weights = torch.from_numpy(weights)
        self._mean = np.zeros(shape, dtype=np.float32)
        self._total = torch.zeros(weights.shape[0], *shape[1:])
        self._first = 0  # the slice of the volume that is the first of `_total`

    def add(self, box: Box, window: torch.Tensor) -> None:
        """Add the values `(d, h, w)` float32 of the window that lies in `box`; they are overwritten.

        Raises:
            ValueError: a window begins before the last one, along z.
        """
        self._go_to(box.start[0])
        _, y, x = box.slices
        total, mean = self._total[:, y, x], torch.from_numpy(self._mean[box.slices])
        total += self._weights
        window -= mean
        mean.addcmul_(window, self._weights / total)

    def _go_to(self, first: int) -> None:
        """Forget the total weights of the slices before `first`: no further window reaches them."""
        if first < self._first:
            raise ValueError(f"windows: expected one that begins at slice {self._first} or later, got {first}")
        kept = max(0, len(self._total) - (first - self._first))
        if first > self._first:
            self._total[:kept] = self._total[len(self._total) - kept :].clone()
            self._total[kept:] = 0
        self._first = first

    def volume(self) -> NDArray[np.float32]:
        """Return the means `(D, H, W)`; a voxel in no window is 0."""
        return self._mean
