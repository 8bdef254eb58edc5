"""Outlines of reference and prediction on axial slices, drawn the same way in every picture.

Volumes are `(D, H, W)` in LPS order: rows run to posterior, columns to the patient's left. A slice drawn with its first
row on top is therefore in radiological orientation, with the patient's right on the reader's left.

Outlines follow the voxels' edges and show exactly what the label map holds. The reference is a broad line, the
prediction a narrow one on top of it, in its structure's colour: both are visible where they coincide, and can be told
apart without colour.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from challenge.colours import REFERENCE_COLOUR, colour_of
from challenge.contract import STRUCTURES, Structure

REFERENCE_WIDTH_PT = 2.6
PREDICTION_WIDTH_PT = 1.1

# The background without a scan: a grey on which all colours and the white marks stand out.
_BLANK = 0.12
_SCALE_BAR_MM = 10.0
_HALO = "#000000"
_MARK = "#ffffff"


@dataclass(frozen=True)
class Field:
    """A square of a slice in mm from the corner of its first voxel: x to the patient's left, y to posterior."""

    x_mm: float
    y_mm: float
    size_mm: float


def most_telling_slice(reference: np.ndarray, prediction: np.ndarray) -> int:
    """Return the axial slice on which two masks disagree most, if possible one that holds both.

    Among equals, the slice with most reference voxels wins, then the one nearest to the masks' middle. For two empty
    masks it is the middle slice of the volume.

    Args:
        reference: bool `(D, H, W)`.
        prediction: bool `(D, H, W)`.

    Raises:
        ValueError: the masks differ in shape.
    """
    if reference.shape != prediction.shape:
        raise ValueError(
            f"prediction: expected the reference's shape {reference.shape}, got {prediction.shape}; resample it first"
        )
    differing = np.count_nonzero(reference ^ prediction, axis=(1, 2))
    wanted = np.count_nonzero(reference, axis=(1, 2))
    if not differing.any() and not wanted.any():
        return len(reference) // 2
    both = (wanted > 0) & prediction.any(axis=(1, 2))
    middle = np.flatnonzero(wanted + differing).mean()
    nearness = -np.abs(np.arange(len(reference)) - middle)
    return int(np.lexsort((nearness, wanted, differing, both))[-1])


def field_round(
    masks: Iterable[np.ndarray],
    spacing_mm: tuple[float, float],
    *,
    margin_mm: float = 10.0,
    least_mm: float = 30.0,
) -> Field:
    """Return the square field that holds every mask with a margin, or the whole slice if all are empty.

    Args:
        masks: bool `(H, W)`, of one shape, at least one.
        spacing_mm: spacing of rows and columns in mm.
        margin_mm: margin on every side.
        least_mm: smallest side of the field, so that a one-voxel structure is seen in its surroundings.

    Raises:
        ValueError: no mask is given.
    """
    union = np.logical_or.reduce(list(masks))
    if union.ndim != 2:
        raise ValueError("masks: expected at least one of shape (H, W), got none; give the reference's")
    height_mm, width_mm = (n * s for n, s in zip(union.shape, spacing_mm, strict=True))
    rows, columns = np.nonzero(union)
    if rows.size == 0:
        size = max(height_mm, width_mm)
        return Field(x_mm=(width_mm - size) / 2, y_mm=(height_mm - size) / 2, size_mm=size)
    top, bottom = rows.min() * spacing_mm[0], (rows.max() + 1) * spacing_mm[0]
    left, right = columns.min() * spacing_mm[1], (columns.max() + 1) * spacing_mm[1]
    size = max(bottom - top + 2 * margin_mm, right - left + 2 * margin_mm, least_mm)
    return Field(x_mm=float(left + right - size) / 2, y_mm=float(top + bottom - size) / 2, size_mm=float(size))


def outline(mask: np.ndarray, spacing_mm: tuple[float, float]) -> np.ndarray:
    """Return a mask's outline as straight runs along voxel edges.

    Args:
        mask: bool `(H, W)`.
        spacing_mm: spacing of rows and columns in mm.

    Returns:
        float64 `(N, 2, 2)`: N runs, start and end, x and y in mm from the corner of the first voxel.
    """
    padded = np.pad(np.asarray(mask, dtype=bool), 1)
    row_mm, column_mm = spacing_mm
    # An edge lies between row r - 1 and row r where they differ. Padding shifts indices by 1, the difference back.
    across, from_column, to_column = _runs(padded[1:] ^ padded[:-1])
    down, from_row, to_row = _runs((padded[:, 1:] ^ padded[:, :-1]).T)
    horizontal = np.stack([from_column - 1, across, to_column - 1, across], axis=-1)
    vertical = np.stack([down, from_row - 1, down, to_row - 1], axis=-1)
    runs = np.concatenate([horizontal, vertical]).reshape(-1, 2, 2)
    return runs * np.array([column_mm, row_mm], dtype=np.float64)


def _runs(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the line, start and end (exclusive) of every run of True along the second axis."""
    steps = np.diff(np.pad(edges, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    lines, starts = np.nonzero(steps == 1)
    _, ends = np.nonzero(steps == -1)
    return lines, starts, ends


def draw_outlines(
    axes: Axes,
    scan: np.ndarray | None,
    reference: np.ndarray | None,
    prediction: np.ndarray | None,
    spacing_mm: tuple[float, float],
    *,
    field: Field | None = None,
    structures: Sequence[Structure] = STRUCTURES,
    marks: bool = True,
) -> None:
    """Draw one axial slice to physical scale, with the outlines of reference and prediction.

    Args:
        axes: the axes to draw on; their ticks and frame are removed.
        scan: `(H, W)` of any real type, or None for a flat background.
        reference: label map `(H, W)`, or None.
        prediction: label map `(H, W)`, or None. At least one of the three must be given.
        spacing_mm: spacing of rows and columns in mm.
        field: the part to show, by default the whole slice.
        structures: the labels to outline, each separately, so that touching structures stay distinct.
        marks: draw R and L for the patient's sides, and a 10 mm scale bar.

    Raises:
        ValueError: nothing is given to draw, or the slices differ in shape.
    """
    given = {"scan": scan, "reference": reference, "prediction": prediction}
    shapes = {name: array.shape for name, array in given.items() if array is not None}
    if not shapes or len(set(shapes.values())) > 1 or any(len(shape) != 2 for shape in shapes.values()):
        raise ValueError(f"slices: expected one shape (H, W), got {shapes or 'nothing'}; take them from one grid")
    height, width = next(iter(shapes.values()))
    extent_mm = (0.0, width * spacing_mm[1], height * spacing_mm[0], 0.0)
    axes.set_facecolor(str(_BLANK))
    if scan is not None:
        # Percentiles: a few bright vessels or a burnt-in mark must not leave the rest black.
        low, high = np.percentile(scan, [1.0, 99.5])
        axes.imshow(
            scan, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), extent=extent_mm, interpolation="nearest", zorder=0
        )
    for labels, reference_colour, width_pt, order in (
        (reference, REFERENCE_COLOUR, REFERENCE_WIDTH_PT, 2),
        (prediction, None, PREDICTION_WIDTH_PT, 3),
    ):
        if labels is None:
            continue
        for structure in structures:
            colour = reference_colour or colour_of(structure)
            runs = outline(np.isin(labels, structure.labels), spacing_mm)
            axes.add_collection(
                LineCollection(list(runs), colors=colour, linewidths=width_pt, capstyle="projecting", zorder=order),
                autolim=False,
            )
    if field is None:
        axes.set_xlim(extent_mm[0], extent_mm[1])
        axes.set_ylim(extent_mm[2], extent_mm[3])
    else:
        axes.set_xlim(field.x_mm, field.x_mm + field.size_mm)
        axes.set_ylim(field.y_mm + field.size_mm, field.y_mm)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    if marks:
        _mark_sides_and_scale(axes)


def _mark_sides_and_scale(axes: Axes) -> None:
    left, right = axes.get_xlim()
    style: dict[str, Any] = {
        "color": _MARK,
        "transform": axes.transAxes,
        "zorder": 5,
        "path_effects": [withStroke(linewidth=2.0, foreground=_HALO)],  # readable on bright voxels too
    }
    axes.text(0.03, 0.5, "R", ha="left", va="center", fontsize=9, **style)
    axes.text(0.97, 0.5, "L", ha="right", va="center", fontsize=9, **style)
    share = _SCALE_BAR_MM / (right - left)
    for colour, width_pt in ((_HALO, 4.0), (_MARK, 2.0)):
        axes.plot(
            [0.04, 0.04 + share],
            [0.05, 0.05],
            color=colour,
            linewidth=width_pt,
            solid_capstyle="butt",
            transform=axes.transAxes,
            zorder=5,
        )
    axes.text(0.04, 0.075, f"{_SCALE_BAR_MM:.0f} mm", ha="left", va="bottom", fontsize=8, **style)


def legend_lines(structure: Structure) -> list[Line2D]:
    """Return the legend's entries: the reference's outline, then the prediction's of a structure."""
    return [
        Line2D([], [], color=REFERENCE_COLOUR, linewidth=REFERENCE_WIDTH_PT, label="Reference"),
        Line2D([], [], color=colour_of(structure), linewidth=PREDICTION_WIDTH_PT, label="Prediction"),
    ]
