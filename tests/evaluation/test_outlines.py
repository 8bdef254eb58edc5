"""Outlines along voxel edges: worked by hand, to physical scale, and as they come out in the picture."""

import io
from collections.abc import Sequence

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from challenge.colours import REFERENCE_COLOUR, colour_of
from challenge.contract import COCHLEA, STRUCTURES, VS, Structure
from evaluation.outlines import (
    Field,
    draw_outlines,
    field_round,
    legend_lines,
    most_telling_slice,
    outline,
)


def outlines_png(
    scan: np.ndarray | None,
    reference: np.ndarray | None,
    prediction: np.ndarray | None,
    spacing_mm: tuple[float, float],
    *,
    field: Field | None = None,
    structures: Sequence[Structure] = STRUCTURES,
    pixels: int = 400,
) -> bytes:
    """Draw a slice as a square PNG of `pixels` x `pixels`."""
    figure = Figure(figsize=(pixels / 150, pixels / 150), dpi=150, facecolor="black")
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    draw_outlines(axes, scan, reference, prediction, spacing_mm, field=field, structures=structures)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150)
    return stream.getvalue()


def runs_of(mask: np.ndarray, spacing_mm: tuple[float, float]) -> set[tuple[tuple[float, float], ...]]:
    return {tuple(map(tuple, run)) for run in outline(mask, spacing_mm).tolist()}


def colour_box(png: bytes, colour: str) -> tuple[int, int, int, int]:
    """Return top, bottom, left and right of the pixels of a colour, ends included."""
    pixels = matplotlib.image.imread(io.BytesIO(png))[..., :3]
    wanted = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    rows, columns = np.nonzero(np.abs(pixels - wanted).max(axis=2) < 0.03)
    return int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())


def test_outline_of_one_voxel_is_its_four_edges() -> None:
    mask = np.zeros((4, 5), dtype=bool)
    mask[1, 2] = True
    # Rows of 2 mm, columns of 0.5 mm: the voxel spans x 1 to 1.5 and y 2 to 4.
    assert runs_of(mask, (2.0, 0.5)) == {
        ((1.0, 2.0), (1.5, 2.0)),
        ((1.0, 4.0), (1.5, 4.0)),
        ((1.0, 2.0), (1.0, 4.0)),
        ((1.5, 2.0), (1.5, 4.0)),
    }


def test_outline_joins_edges_into_runs_and_follows_holes() -> None:
    mask = np.ones((3, 3), dtype=bool)
    mask[1, 1] = False
    assert runs_of(mask, (1.0, 1.0)) == {
        ((0.0, 0.0), (3.0, 0.0)),
        ((0.0, 3.0), (3.0, 3.0)),
        ((0.0, 0.0), (0.0, 3.0)),
        ((3.0, 0.0), (3.0, 3.0)),
        ((1.0, 1.0), (2.0, 1.0)),
        ((1.0, 2.0), (2.0, 2.0)),
        ((1.0, 1.0), (1.0, 2.0)),
        ((2.0, 1.0), (2.0, 2.0)),
    }


def test_outline_is_as_long_as_the_edges_between_inside_and_outside() -> None:
    mask = np.random.default_rng(3).random((17, 23)) < 0.4
    padded = np.pad(mask, 1)
    expected = 0.7 * np.count_nonzero(padded[1:] != padded[:-1]) + 1.3 * np.count_nonzero(
        padded[:, 1:] != padded[:, :-1]
    )
    runs = outline(mask, (1.3, 0.7))
    assert np.abs(runs[:, 1] - runs[:, 0]).sum() == pytest.approx(expected)


def test_outline_of_nothing_is_nothing() -> None:
    assert outline(np.zeros((4, 4), dtype=bool), (1.0, 1.0)).shape == (0, 2, 2)


def test_most_telling_slice_holds_both_where_it_can() -> None:
    reference, prediction = np.zeros((2, 6, 5, 5), dtype=bool)
    reference[2, :4, :4] = True
    reference[3, :2, :2] = True
    prediction[3, :3, :3] = True
    assert most_telling_slice(reference, prediction) == 3
    prediction[3] = False
    assert most_telling_slice(reference, prediction) == 2
    assert most_telling_slice(reference, reference) == 2
    reference[:3], reference[3] = reference[2], False
    assert most_telling_slice(reference, np.zeros_like(reference)) == 1
    prediction[5, 0, 0] = True
    assert most_telling_slice(np.zeros_like(prediction), prediction) == 5
    assert most_telling_slice(np.zeros_like(prediction), np.zeros_like(prediction)) == 3
    with pytest.raises(ValueError, match=r"prediction: expected the reference's shape \(6, 5, 5\), got \(5, 5, 5\)"):
        most_telling_slice(reference, prediction[1:])


def test_field_is_square_in_millimetres_and_centred() -> None:
    mask = np.zeros((40, 100), dtype=bool)
    mask[10:20, 30:70] = True
    # Rows 10 to 20 of 1 mm and columns 30 to 70 of 0.5 mm: 10 x 20 mm round (25, 15).
    assert field_round([mask], (1.0, 0.5), margin_mm=5.0, least_mm=10.0) == Field(x_mm=10.0, y_mm=0.0, size_mm=30.0)
    assert field_round([mask], (1.0, 0.5), margin_mm=0.0, least_mm=36.0) == Field(x_mm=7.0, y_mm=-3.0, size_mm=36.0)
    nothing = np.zeros((40, 100), dtype=bool)
    assert field_round([nothing], (1.0, 0.5)) == Field(x_mm=0.0, y_mm=-5.0, size_mm=50.0)
    with pytest.raises(ValueError, match="expected at least one"):
        field_round([], (1.0, 1.0))


def test_picture_is_to_physical_scale() -> None:
    labels = np.zeros((60, 60), dtype=np.uint8)
    labels[10:20, 10:50] = VS.label
    # 10 rows of 2 mm and 40 columns of 0.5 mm make a square of 20 mm in a field of 40 mm.
    png = outlines_png(None, labels, None, (2.0, 0.5), field=Field(-5.0, 10.0, 40.0))
    top, bottom, left, right = colour_box(png, REFERENCE_COLOUR)
    assert matplotlib.image.imread(io.BytesIO(png)).shape[:2] == (400, 400)
    for edge, at in ((top, 100), (bottom, 300), (left, 100), (right, 300)):
        assert abs(edge - at) <= 5


def test_first_column_is_drawn_on_the_readers_left_and_first_row_on_top() -> None:
    labels = np.zeros((40, 40), dtype=np.uint8)
    labels[5:10, 5:10] = VS.label
    prediction = np.zeros_like(labels)
    prediction[30:35, 28:33] = VS.label
    png = outlines_png(None, labels, prediction, (1.0, 1.0))
    _, bottom, _, right = colour_box(png, REFERENCE_COLOUR)
    top, _, left, _ = colour_box(png, colour_of(VS))
    assert bottom < 120
    assert right < 120
    assert top > 280
    assert left > 260


def test_prediction_on_top_leaves_the_reference_to_be_seen() -> None:
    labels = np.zeros((40, 40), dtype=np.uint8)
    labels[10:30, 10:30] = COCHLEA.label
    png = outlines_png(np.zeros((40, 40)), labels, labels, (1.0, 1.0))
    pixels = matplotlib.image.imread(io.BytesIO(png))[..., :3]
    for colour in (REFERENCE_COLOUR, colour_of(COCHLEA)):
        wanted = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        assert np.count_nonzero(np.abs(pixels - wanted).max(axis=2) < 0.03) > 400


def test_only_the_structures_asked_for_are_outlined() -> None:
    labels = np.zeros((40, 40), dtype=np.uint8)
    labels[5:10, 5:10] = VS.label
    labels[30:35, 30:35] = COCHLEA.label
    png = outlines_png(None, labels, None, (1.0, 1.0), structures=[COCHLEA])
    top, _, left, _ = colour_box(png, REFERENCE_COLOUR)
    assert top > 280
    assert left > 280


def test_slices_of_different_shapes_are_refused() -> None:
    axes = Figure().add_subplot()
    with pytest.raises(ValueError, match=r"expected one shape \(H, W\), got \{'scan': \(4, 4\), 'reference': \(4, 5\)"):
        draw_outlines(axes, np.zeros((4, 4)), np.zeros((4, 5)), None, (1.0, 1.0))
    with pytest.raises(ValueError, match="got nothing"):
        draw_outlines(axes, None, None, None, (1.0, 1.0))


def test_legend() -> None:
    assert [line.get_label() for line in legend_lines(VS)] == ["Reference", "Prediction"]
