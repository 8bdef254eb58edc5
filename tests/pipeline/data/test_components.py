import numpy as np
import pytest

from evaluation.metrics import bounding_box
from pipeline.data.components import (
    COMPONENTS,
    fill_holes,
    kept_components,
    largest_component,
    one_component_a_side,
)


def boxes(*boxes_zyx, shape=(12, 20, 100)):
    mask = np.zeros(shape, dtype=bool)
    for z, y, x in boxes_zyx:
        mask[slice(*z), slice(*y), slice(*x)] = True
    return mask


LARGE = ((2, 6), (2, 6), (5, 9))
SMALL = ((2, 4), (2, 4), (80, 83))
SPECK = ((9, 10), (2, 3), (14, 15))


def test_bounding_box():
    assert bounding_box(boxes(LARGE, SMALL)) == (slice(2, 6), slice(2, 6), slice(5, 83))
    assert bounding_box(boxes()) is None


def test_largest_component_by_voxels_and_by_score():
    mask = boxes(LARGE, SMALL, SPECK)
    assert np.array_equal(largest_component(mask), boxes(LARGE))
    score = np.where(boxes(SMALL), 10.0, 0.1).astype(np.float32)
    assert np.array_equal(largest_component(mask, score), boxes(SMALL))


def test_bodies_that_touch_at_an_edge_are_one_and_across_a_gap_two():
    first = ((0, 2), (0, 2), (0, 2))
    mask = boxes(first, ((2, 3), (2, 3), (0, 2)))
    assert np.array_equal(largest_component(mask), mask)
    assert np.array_equal(largest_component(boxes(first, ((3, 4), (0, 2), (0, 2)))), boxes(first))


def test_rules_by_name():
    mask = boxes(LARGE, SMALL, SPECK)
    kept = {rule: kept_components(mask, rule, (0.5, 0.5, 0.5)) for rule in COMPONENTS}
    assert np.array_equal(kept["every"], mask)
    assert np.array_equal(kept["largest"], boxes(LARGE))
    assert np.array_equal(kept["one-a-side"], boxes(LARGE, SMALL))
    with pytest.raises(ValueError, match="expected one of every, largest, one-a-side, got two"):
        kept_components(mask, "two", (0.5, 0.5, 0.5))


@pytest.mark.parametrize(("spacing", "expected"), [(0.5, (LARGE, SMALL)), (0.1, (LARGE,))])
def test_a_component_a_side_is_far_in_millimetres(spacing, expected):
    """75 voxels apart: 37.5 mm at 0.5 mm, two sides; 7.5 mm at 0.1 mm, one side, whose largest is kept."""
    mask = boxes(LARGE, SMALL, SPECK)
    assert np.array_equal(one_component_a_side(mask, (spacing,) * 3), boxes(*expected))


def test_nothing_stays_nothing():
    for keep in (largest_component, fill_holes, lambda mask: one_component_a_side(mask, (1.0, 1.0, 1.0))):
        assert not keep(boxes()).any()


def test_holes_are_filled_and_dents_are_not():
    shell = boxes(((2, 9), (2, 9), (2, 9)))
    shell[4:7, 4:7, 4:7] = False
    dented = shell.copy()
    dented[2:4, 5, 5] = False
    assert np.array_equal(fill_holes(shell), boxes(((2, 9), (2, 9), (2, 9))))
    assert np.array_equal(fill_holes(dented), dented)
    assert not shell[5, 5, 5]  # the mask given is left alone
