import numpy as np
import pytest

from challenge.contract import COCHLEA, VS
from pipeline.config import COMPONENTS
from pipeline.inference.postprocessing import decide, merge
from pipeline.model.rules import PostProcessing

SPACING = (0.5, 0.5, 0.5)


def probability(*bodies, shape=(10, 12, 100)):
    """A volume of 0.01 with boxes of higher values: `(value, z, y, x)`, each axis from-to."""
    volume = np.full(shape, 0.01, dtype=np.float32)
    for value, z, y, x in bodies:
        volume[slice(*z), slice(*y), slice(*x)] = value
    return volume


TUMOUR = (0.9, (2, 8), (2, 10), (10, 20))
SPECK = (0.8, (2, 4), (2, 4), (60, 62))


def test_rules_that_change_nothing_by_default():
    volume = probability(TUMOUR, SPECK)
    assert np.array_equal(decide(volume, PostProcessing(), SPACING), volume > 0.5)


def of_row(*values):
    return np.array([[values]], dtype=np.float32)


def test_likelier_structure_wins_a_contested_voxel():
    merged = merge({VS: of_row(0.9, 0.6, 0.2, 0.5, 0.7), COCHLEA: of_row(0.3, 0.8, 0.4, 0.51, 0.7)})
    assert merged.dtype == np.uint8
    # Between equals the first; 0.5 is not likelier than not.
    assert merged.tolist() == [[[1, 2, 0, 2, 1]]]


def test_merge_refuses_shapes_that_differ_and_nothing_at_all():
    with pytest.raises(ValueError, match="expected one shape"):
        merge({VS: of_row(0.9), COCHLEA: of_row(0.9, 0.1)})
    with pytest.raises(ValueError, match="expected one shape, got \\[\\]"):
        merge({})


def test_components():
    volume = probability(TUMOUR, SPECK)
    kept = {name: decide(volume, PostProcessing(components=name), SPACING) for name in COMPONENTS}
    assert np.array_equal(kept["largest"], probability(TUMOUR) > 0.5)
    # The centres are 46 voxels apart: 23 mm at 0.5 mm is one side, 46 mm at 1 mm are two.
    assert np.array_equal(kept["one-a-side"], kept["largest"])
    assert decide(volume, PostProcessing(components="one-a-side"), (1.0, 1.0, 1.0))[2, 2, 60]


def test_never_empty_lowers_the_threshold_until_something_plausible_appears():
    faint = (0.2, (2, 6), (2, 6), (10, 14))  # 64 voxels of 0.125 mm3
    fainter_still = (0.05, (2, 9), (2, 9), (60, 70))
    volume = probability(faint, fainter_still)
    assert not decide(volume, PostProcessing(), SPACING).any()
    assert np.array_equal(decide(volume, PostProcessing(never_empty=True), SPACING), volume == np.float32(0.2))


def test_never_empty_gives_up_where_nothing_is():
    assert not decide(np.zeros((4, 4, 4), np.float32), PostProcessing(never_empty=True), SPACING).any()


def test_never_empty_keeps_what_was_found_where_nothing_plausible_is():
    found, larger = (0.9, (2, 4), (2, 4), (10, 12)), (0.3, (2, 5), (2, 5), (40, 43))  # 1 mm3 and 3.4 mm3
    volume = probability(found, larger)
    volume[volume < 0.1] = 0.0
    rules = PostProcessing(components="largest", never_empty=True)
    assert np.array_equal(decide(volume, rules, SPACING), volume > 0.5)


@pytest.mark.parametrize("never_empty", [False, True])
def test_never_empty_gets_its_claim_back_when_the_other_structure_takes_all_of_it(never_empty):
    inside = (0.7, (4, 8), (4, 8), (12, 16))  # 8 mm3, all of it likelier a tumour
    probabilities = {VS: probability(TUMOUR), COCHLEA: probability(inside)}
    labels = merge(probabilities, {COCHLEA: PostProcessing(never_empty=never_empty)}, SPACING)
    assert (labels == COCHLEA.label).sum() == (64 if never_empty else 0)
    assert (labels == VS.label).any()


def test_holes():
    volume = probability(TUMOUR)
    volume[5, 6, 15] = 0.1
    assert decide(volume, PostProcessing(fill_holes=True), SPACING)[5, 6, 15]
    assert not decide(volume, PostProcessing(), SPACING)[5, 6, 15]


@pytest.mark.parametrize("keeps", [False, True])
def test_a_network_that_paints_over_the_other_structure(keeps):
    """The tumour's network is surer than the cochlea's where the cochlea lies."""
    cochlea = (0.7, (4, 6), (4, 6), (12, 14))
    probabilities = {VS: probability(TUMOUR), COCHLEA: probability(cochlea)}
    rules = {COCHLEA: PostProcessing(keeps_contested=keeps)}
    labels = merge(probabilities, rules, SPACING)
    expected = COCHLEA.label if keeps else VS.label
    assert (labels[4:6, 4:6, 12:14] == expected).all()
    assert (labels > 0).sum() == (probabilities[VS] > 0.5).sum()


def test_what_a_filled_hole_claims_is_labelled_although_it_is_unlikely():
    volume = probability(TUMOUR)
    volume[5, 6, 15] = 0.1
    labels = merge({VS: volume}, {VS: PostProcessing(fill_holes=True)}, SPACING)
    assert labels[5, 6, 15] == VS.label
