"""Stacks of slices: one place of one structure, slice by slice, with the outlines of reference and prediction.

A stack is geometry for inline SVG. Outlines are paths along the voxels' edges, so that they are sharp at any size; the
scan is one small grey PNG a slice, at its own resolution. What a stack can weigh is limited, whatever the label maps
hold: the slices' pixels, and the runs of an outline, which is drawn coarser beyond that.
"""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evaluation.outlines import Field, field_round, most_telling_slice, outline

_MOST_SLICES = 15
_MOST_PIXELS = 120_000  # of a stack; a grey PNG of a scan has up to about one byte a pixel
_MOST_SIDE = 160
_MOST_RUNS = 1_500

Mask = NDArray[np.bool_]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class StackSlice:
    """One axial slice: its number from 1, feet first; the scan as a PNG's `data:` URI, or ""; SVG paths in voxels.

    `voxels` counts those of reference and prediction in the field.
    """

    number: int
    uri: str
    reference: str
    prediction: str
    voxels: tuple[int, int]


@dataclass(frozen=True)
class SliceStack:
    """Slices of one field. `first` is the index of the one that tells most, which a page shows first.

    `field` is in mm from the slice's corner. Paths and images count voxels from `corner` (column, row), where the
    images begin; `size` (columns, rows) is theirs, and `spacing_mm` (row, column) the voxels'.
    """

    slices: tuple[StackSlice, ...]
    first: int
    field: Field
    corner: tuple[int, int]
    size: tuple[int, int]
    spacing_mm: tuple[float, float]
    of: int


def stack_of(
    image: np.ndarray | None, reference: Mask, prediction: Mask, place: Box, spacing_mm: tuple[float, float]
) -> SliceStack:
    """Return the slices through a place, and one on either side, round the one on which the masks disagree most.

    Args:
        image: scan `(D, H, W)` in LPS order, or None for outlines alone.
        reference: bool `(D, H, W)`.
        prediction: bool `(D, H, W)`.
        place: the box in which the masks are outlined.
        spacing_mm: spacing of rows and columns.
    """
    depth, rows, columns = place
    telling = depth.start + most_telling_slice(reference[place], prediction[place])
    # The field holds the masks of every slice, so that it stays where it is.
    near = np.zeros(reference.shape[1:], dtype=bool)
    near[rows, columns] = (reference[place] | prediction[place]).any(axis=0)
    field = field_round([near], spacing_mm)
    window = _window(field, near.shape, spacing_mm)
    factor = max(1, math.ceil(max(side.stop - side.start for side in window) / _MOST_SIDE))
    shown = _shown(telling, depth, len(reference), _MOST_PIXELS * factor**2 // _area(window))
    grey = None if image is None else _greys(image[telling])
    slices = []
    for number in shown:
        ours, theirs = reference[number][window], prediction[number][window]
        uri = "" if image is None or grey is None else _png_uri(_pooled(image[number][window], factor), grey)
        voxels = (int(np.count_nonzero(ours)), int(np.count_nonzero(theirs)))
        slices.append(StackSlice(number + 1, uri, _path(ours), _path(theirs), voxels))
    corner = (window[1].start, window[0].start)
    size = (window[1].stop - window[1].start, window[0].stop - window[0].start)
    return SliceStack(tuple(slices), telling - shown.start, field, corner, size, spacing_mm, len(reference))


def _shown(telling: int, depth: slice, slices: int, most: int) -> range:
    """Return which slices to show: those of the place and one on either side, at most `most`, round the telling one."""
    first, last = max(depth.start - 1, 0), min(depth.stop, slices - 1)
    reach = (min(max(most, 1), _MOST_SLICES) - 1) // 2
    return range(max(first, telling - reach), min(last, telling + reach) + 1)


def _window(field: Field, shape: tuple[int, ...], spacing_mm: tuple[float, float]) -> tuple[slice, slice]:
    """Return the voxels of a slice `(H, W)` that a field shows, and one beyond each edge, as an index."""
    sides = []
    for start_mm, count, step_mm in zip((field.y_mm, field.x_mm), shape, spacing_mm, strict=True):
        first, last = math.floor(start_mm / step_mm) - 1, math.ceil((start_mm + field.size_mm) / step_mm) + 1
        sides.append(slice(max(first, 0), min(last, count)))
    return sides[0], sides[1]


def _area(window: Sequence[slice]) -> int:
    return math.prod(side.stop - side.start for side in window)


def _greys(scan: np.ndarray) -> tuple[float, float]:
    """Return the values that become black and white. A few bright vessels or a burnt-in mark do not leave it dark."""
    low, high = np.percentile(scan, [1.0, 99.5])
    return float(low), max(float(high), float(low) + 1e-6)


def _png_uri(scan: np.ndarray, greys: tuple[float, float]) -> str:
    low, high = greys
    pixels = np.clip((scan.astype(np.float64) - low) / (high - low) * 255, 0, 255).round().astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _pooled(values: np.ndarray, factor: int) -> np.ndarray:
    """Return the means of blocks of `factor` x `factor` pixels; a mask's mean is above 0 where it has a voxel."""
    if factor == 1:
        return values
    padding = [(0, -size % factor) for size in values.shape]
    padded = np.pad(values.astype(np.float64), padding, mode="edge")
    height, width = (size // factor for size in padded.shape)
    return padded.reshape(height, factor, width, factor).mean(axis=(1, 3))


def _path(mask: Mask) -> str:
    """Return a mask's outline as an SVG path in voxels."""
    factor = 1
    runs = outline(mask, (1.0, 1.0)).astype(int)
    while len(runs) > _MOST_RUNS:
        factor *= 2
        runs = factor * outline(_pooled(mask, factor) > 0, (1.0, 1.0)).astype(int)
    commands = []
    for (x, y), (x_end, y_end) in runs.tolist():
        way = f"h{x_end - x}" if y == y_end else f"v{y_end - y}"
        commands.append(f"M{x} {y}{way}")
    return "".join(commands)
