"""Pseudo-labels: what is kept of a prediction, which voxels count, and each reason to refuse a case."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.adaptation.pseudo_labels import PseudoLabelRules, VolumeRange, pseudo_label, volume_range
from pipeline.config import EVERY, LARGEST, ONE_A_SIDE

SHAPE = (10, 10, 80)
MM = (0.5, 0.5, 0.5)
TUMOUR = PseudoLabelRules(LARGEST)
COCHLEAS = PseudoLabelRules(ONE_A_SIDE)
SAME = VolumeRange(64, 64)  # as many voxels as a cube of side 4


def cube(side: int, x: int, width: int | None = None) -> np.ndarray:
    """A block of `side` x `side` x `width` voxels, `side` wide by default, that begins at `x`."""
    mask = np.zeros(SHAPE, dtype=np.bool_)
    mask[1 : 1 + side, 1 : 1 + side, x : x + (width or side)] = True
    return mask


def label(*views: np.ndarray, rules: PseudoLabelRules = TUMOUR, source: VolumeRange = SAME):
    return pseudo_label([np.asarray(view, dtype=np.float32) for view in views], source, rules, MM)


def test_the_range_of_source_volumes() -> None:
    assert volume_range([cube(2, 0), cube(4, 0), cube(3, 0)]) == (8, 64)


def test_a_good_prediction_is_kept_as_it_is() -> None:
    result = label(cube(4, 10))
    assert (result.refused, result.agreement, result.certain) == ("", 1.0, None)
    np.testing.assert_array_equal(result.mask, cube(4, 10))


def test_nothing_found_is_refused() -> None:
    result = label(np.zeros(SHAPE))
    assert result.refused == "empty"
    assert not result.mask.any()
    assert result.agreement == 0.0
    # One half is not more than one half.
    assert label(cube(4, 10) * 0.5).refused == "empty"


@pytest.mark.parametrize(
    ("source", "refused"),
    [
        (VolumeRange(128, 200), ""),  # half of the smallest: 64 is allowed
        (VolumeRange(130, 200), "volume of 64 voxels, outside 65 to 300"),
        (VolumeRange(10, 43), ""),  # one and a half times the largest: 64.5
        (VolumeRange(10, 42), "volume of 64 voxels, outside 5 to 63"),
    ],
)
def test_a_volume_that_no_source_label_is_near_is_refused(source: VolumeRange, refused: str) -> None:
    assert label(cube(4, 10), source=source).refused == refused


def test_the_factors_of_the_volume_are_the_rules() -> None:
    assert label(cube(4, 10), source=VolumeRange(100, 100)).refused == ""
    strict = replace(TUMOUR, smallest_volume=0.7)
    assert label(cube(4, 10), source=VolumeRange(100, 100), rules=strict).refused.startswith("volume of 64")
    loose = replace(TUMOUR, smallest_volume=0.0, largest_volume=10.0)
    assert label(cube(4, 10), source=VolumeRange(10, 10), rules=loose).refused == ""


def test_a_prediction_in_pieces_is_refused() -> None:
    # 64 voxels are kept of 64 + 27 + 27 + 27 = 145: 44 %.
    scattered = cube(4, 10) | cube(3, 20) | cube(3, 30) | cube(3, 40)
    result = label(scattered)
    assert result.refused == "only 44% of the voxels found are in the components kept"
    np.testing.assert_array_equal(result.mask, cube(4, 10))
    assert label(scattered, rules=replace(TUMOUR, kept_share=0.4)).refused == ""
    assert label(cube(4, 10) | cube(3, 20)).refused == ""  # 64 of 91
    every = replace(TUMOUR, components=EVERY)
    np.testing.assert_array_equal(label(scattered, rules=every).mask, scattered)


def test_a_filled_hole_is_no_voxel_found() -> None:
    # The share is of the voxels found: a shell of 125 - 27 voxels, and 27 elsewhere, of which 98 / 125 are kept.
    hollow = cube(5, 10)
    hollow[2:5, 2:5, 11:14] = False
    result = label(hollow | cube(3, 30), rules=replace(TUMOUR, kept_share=0.79), source=VolumeRange(125, 125))
    np.testing.assert_array_equal(result.mask, cube(5, 10))
    assert result.refused.startswith("only 78%")


def test_holes_are_filled_and_count() -> None:
    hollow = cube(5, 10)
    hollow[3, 3, 12] = False
    result = label(hollow, rules=replace(TUMOUR, uncertain_band=0.2), source=VolumeRange(125, 125))
    np.testing.assert_array_equal(result.mask, cube(5, 10))
    assert result.refused == ""
    assert result.certain.all()
    # A notch is no hole.
    notched = cube(5, 10)
    notched[1, 3, 12] = False
    np.testing.assert_array_equal(label(notched, source=VolumeRange(125, 125)).mask, notched)


def test_a_cochlea_lies_on_each_side() -> None:
    # 60 voxels of 0.5 mm lie between them, 30 mm: just far enough.
    both = cube(4, 5) | cube(4, 65)
    result = label(both, rules=COCHLEAS, source=VolumeRange(128, 128))
    assert result.refused == ""
    np.testing.assert_array_equal(result.mask, both)
    one = label(cube(4, 5, 8), rules=COCHLEAS, source=VolumeRange(128, 128))
    assert one.refused == "components of 128 voxels, expected one of similar size a side"
    # Two components on one side are one side.
    near = label(cube(4, 5, 8) | cube(4, 30), rules=COCHLEAS, source=VolumeRange(128, 128))
    np.testing.assert_array_equal(near.mask, cube(4, 5, 8))
    assert near.refused == "components of 128 voxels, expected one of similar size a side"


def test_sides_of_very_different_sizes_are_refused() -> None:
    wide = VolumeRange(1, 1000)
    # 16 voxels a slice: 3 slices to 9 are a third, which is allowed; 2 to 9 are less.
    assert label(cube(4, 0, 9) | cube(4, 70, 3), rules=COCHLEAS, source=wide).refused == ""
    lopsided = label(cube(4, 0, 9) | cube(4, 70, 2), rules=COCHLEAS, source=wide)
    assert lopsided.refused == "components of 32 and 144 voxels, expected one of similar size a side"


def test_a_tumour_needs_no_other_side() -> None:
    assert label(cube(4, 5)).refused == ""


def test_views_that_disagree_are_refused() -> None:
    # The mean of three finds what two find. A view shifted by one of four voxels has a Dice of 3/4 with it.
    shifted = label(cube(4, 10), cube(4, 10), cube(4, 11))
    assert shifted.agreement == pytest.approx(0.75)
    assert shifted.refused == ""
    strict = label(cube(4, 10), cube(4, 10), cube(4, 11), rules=replace(TUMOUR, agreement=0.8))
    assert strict.refused == "the views agree to a Dice of 0.75 only"
    np.testing.assert_array_equal(strict.mask, cube(4, 10))
    elsewhere = label(cube(4, 10), cube(4, 10), cube(4, 50))
    assert elsewhere.agreement == 0.0
    assert elsewhere.refused == "the views agree to a Dice of 0.00 only"
    nothing = label(cube(4, 10), cube(4, 10), np.zeros(SHAPE))
    assert nothing.refused == "the views agree to a Dice of 0.00 only"


def test_views_are_compared_as_labels() -> None:
    # A speck that the rule drops is no disagreement.
    assert label(cube(4, 10), cube(4, 10) | cube(2, 30)).agreement == 1.0


def test_the_first_rule_broken_is_named() -> None:
    small = label(cube(2, 10), cube(2, 50), cube(2, 10))
    assert small.refused == "volume of 8 voxels, outside 32 to 96"


def test_voxels_near_one_half_do_not_count() -> None:
    probability = cube(4, 10) * 0.9
    probability[cube(4, 14, 1)] = 0.4  # beside it, 0.1 from one half
    probability[cube(4, 9, 1)] = 0.25  # 0.25 from it
    result = label(probability, rules=replace(TUMOUR, uncertain_band=0.2))
    np.testing.assert_array_equal(result.certain, ~cube(4, 14, 1))
    assert label(probability, rules=replace(TUMOUR, uncertain_band=0.3)).certain.sum() == np.prod(SHAPE) - 32
    assert label(probability).certain is None


def test_voxels_found_and_not_kept_do_not_count() -> None:
    found = cube(4, 10) | cube(3, 30)
    result = label(found, rules=replace(TUMOUR, uncertain_band=0.2))
    np.testing.assert_array_equal(result.certain, ~cube(3, 30))


def test_where_views_differ_nothing_is_certain() -> None:
    # Each is sure of itself, and their mean is one half where one alone finds it.
    result = label(cube(4, 10, 6), cube(4, 10, 4), rules=replace(TUMOUR, uncertain_band=0.2))
    np.testing.assert_array_equal(result.mask, cube(4, 10))
    np.testing.assert_array_equal(result.certain, ~cube(4, 14, 2))
    assert result.agreement == pytest.approx(2 * 64 / (64 + 96))


def test_the_views_are_left_alone() -> None:
    views = [(cube(4, 10) | cube(3, 30)).astype(np.float32) * 0.9 for _ in range(2)]
    before = [view.copy() for view in views]
    pseudo_label(views, VolumeRange(64, 64), TUMOUR, MM)
    for view, old in zip(views, before, strict=True):
        np.testing.assert_array_equal(view, old)
