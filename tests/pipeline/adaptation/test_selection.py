import numpy as np
import pytest

from pipeline.adaptation.selection import LabelFreeScores, mask_agreement, volume_range_agreement

LABELS = [100.0, 200.0, 400.0]


@pytest.mark.parametrize(
    ("predicted", "expected"),
    [
        ([100, 200, 400], 1.0),  # the labels' own volumes
        ([150, 200, 300], 1.0),  # within their range, the same median
        ([0, 0, 0], 0.0),  # collapsed
        ([100, 100, 100], 0.5),  # each possible, all of them too small
        ([800, 800, 800], 0.5 * 0.25),  # twice the largest, four times the median
        ([50, 200, 400], (0.5 + 1 + 1) / 3),
    ],
)
def test_volumes_by_hand(predicted, expected):
    assert volume_range_agreement(predicted, LABELS) == pytest.approx(expected)


def test_volumes_need_labels():
    with pytest.raises(ValueError, match="above 0, got none"):
        volume_range_agreement([1.0], [])


def test_masks_by_hand():
    first, second = np.zeros((4, 4, 4), dtype=bool), np.zeros((4, 4, 4), dtype=bool)
    assert mask_agreement(first, second) == 0.0
    first[0, 0, :4] = True
    assert mask_agreement(first, second) == 0.0
    second[0, 0, 2:4] = True
    assert mask_agreement(first, second) == pytest.approx(2 * 2 / (4 + 2))
    assert mask_agreement(first, first) == 1.0


def test_one_failure_is_enough():
    good = LabelFreeScores(0.9, 0.9, 0.9, 0.9)
    assert good.product == pytest.approx(0.9**4)
    assert LabelFreeScores(0.9, 0.0, 1.0, 1.0).product == 0.0
