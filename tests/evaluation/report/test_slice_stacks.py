"""Stacks of slices: which slices, of which field, with which outlines, and how much they can weigh."""

import base64
import io
import re

import matplotlib.image
import numpy as np
import pytest

from evaluation.outlines import outline
from evaluation.report.slice_stacks import SliceStack, stack_of

SPACING = (1.0, 0.5)


def cells(path: str, shape: tuple[int, int]) -> np.ndarray:
    """Fill an SVG path of runs along voxel edges, by counting the vertical ones to the left of each voxel."""
    crossings = np.zeros((shape[0], shape[1] + 1), dtype=int)
    for x, y, way, length in re.findall(r"M(\d+) (\d+)([hv])(\d+)", path):
        if way == "v":
            crossings[int(y) : int(y) + int(length), int(x)] += 1
    return np.cumsum(crossings, axis=1)[:, :-1] % 2 == 1


def window(stack: SliceStack) -> tuple[slice, slice]:
    (column, row), (width, height) = stack.corner, stack.size
    return slice(row, row + height), slice(column, column + width)


def test_a_stack_holds_the_place_and_shows_both_outlines_voxel_by_voxel() -> None:
    rng = np.random.default_rng(1)
    reference, prediction = np.zeros((2, 20, 90, 180), dtype=bool)
    reference[6:10, 30:40, 60:80] = True
    prediction[7:12, 30:45, 60:80] = rng.random((5, 15, 20)) < 0.7
    reference[8, 50, 70] = True  # another place, in the same field
    scan = rng.normal(100, 20, reference.shape)
    place = (slice(6, 12), slice(30, 45), slice(60, 80))
    stack = stack_of(scan, reference, prediction, place, SPACING)
    assert [entry.number for entry in stack.slices] == [6, 7, 8, 9, 10, 11, 12, 13]  # from 1, one more on either side
    assert stack.slices[stack.first].number in (8, 9, 10)  # both are there
    assert stack.of == 20
    # 15 rows of 1 mm, 20 columns of 0.5 mm, and 10 mm round them.
    assert (stack.field.x_mm, stack.field.y_mm, stack.field.size_mm) == (17.5, 20.0, 35.0)
    for entry in stack.slices:
        shown = [mask[entry.number - 1][window(stack)] for mask in (reference, prediction)]
        for mask, path in zip(shown, (entry.reference, entry.prediction), strict=True):
            assert np.array_equal(cells(path, mask.shape), mask)
        assert entry.voxels == tuple(np.count_nonzero(mask) for mask in shown)
        png = matplotlib.image.imread(io.BytesIO(base64.b64decode(entry.uri.split(",")[1])))
        voxels = scan[entry.number - 1][window(stack)]
        assert png.shape == voxels.shape
        assert np.corrcoef(png.ravel(), voxels.ravel())[0, 1] > 0.99


def test_a_stack_stays_small_whatever_the_label_maps_hold() -> None:
    rng = np.random.default_rng(2)
    speckle = rng.random((40, 400, 400)) < 0.5
    place = (slice(0, 40), slice(0, 400), slice(0, 400))
    stack = stack_of(rng.normal(size=speckle.shape), speckle, ~speckle, place, (0.5, 0.5))
    assert 1 < len(stack.slices) <= 15
    assert sum(len(entry.uri) for entry in stack.slices) < 200_000
    assert all(len(path) < 30_000 for entry in stack.slices for path in (entry.reference, entry.prediction))
    # Coarser outlines still hold every voxel.
    entry = stack.slices[stack.first]
    assert len(outline(speckle[entry.number - 1], (1.0, 1.0))) > 1_500
    assert cells(entry.reference, (400, 400))[speckle[entry.number - 1]].all()


@pytest.mark.parametrize("slices", [1, 3])
def test_nothing_to_outline_shows_the_middle_of_the_whole_slice(slices: int) -> None:
    nothing = np.zeros((slices, 10, 20), dtype=bool)
    stack = stack_of(None, nothing, nothing, (slice(0, slices), slice(0, 10), slice(0, 20)), SPACING)
    assert stack.slices[stack.first].number == (slices + 1) // 2
    assert stack.slices[stack.first].uri == stack.slices[stack.first].reference == ""
    assert (stack.field.size_mm, stack.size) == (10.0, (20, 10))
