"""A tumour's place: the distance of its centre to the nearest cochlea's, against the source's range."""

import numpy as np
import pytest

from pipeline.adaptation.nearness import DistanceRange, Nearness, cochlea_centres, distance_to_nearest

SHAPE = (10, 20, 120)
MM = (2.0, 0.5, 0.5)


def block(z: int, y: int, x: int, side: int = 3) -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=np.bool_)
    mask[z : z + side, y : y + side, x : x + side] = True
    return mask


def test_one_cochlea_a_side_and_no_speck() -> None:
    # Two blocks 45 mm apart; the speck between them is neither side's.
    mask = block(2, 4, 10) | block(4, 6, 100) | block(0, 0, 50, side=1)
    np.testing.assert_allclose(cochlea_centres(mask, MM), [[3 * 2, 5 * 0.5, 11 * 0.5], [5 * 2, 7 * 0.5, 101 * 0.5]])
    assert cochlea_centres(np.zeros(SHAPE, dtype=np.bool_), MM).shape == (0, 3)


def test_the_distance_is_to_the_nearer_one_in_mm() -> None:
    cochleas = np.array([[6.0, 2.5, 5.5], [10.0, 3.5, 50.5]])
    # Its centre lies at (4 x 2, 5 x 0.5, 12 x 0.5) mm: 2 mm and 0.5 mm away.
    assert distance_to_nearest(block(3, 4, 11), cochleas, MM) == pytest.approx(np.hypot(2.0, 0.5))


@pytest.mark.parametrize(
    ("x", "refused"),
    [
        (29, ""),  # 10 mm away
        (21, "centre 6.0 mm from the nearest cochlea's, outside 6.4 to 15.0"),
        (40, "centre 15.5 mm from the nearest cochlea's, outside 6.4 to 15.0"),
    ],
)
def test_a_tumour_outside_of_the_sources_range_is_refused(x: int, refused: str) -> None:
    nearness = Nearness({"a": np.array([[8.0, 2.5, 5.0]])}, DistanceRange(8.0, 12.0), 1.25)
    assert nearness.refusal("a", block(3, 4, x), MM) == refused


def test_without_a_cochlea_nothing_can_be_said_and_the_label_is_refused() -> None:
    nearness = Nearness({"a": np.zeros((0, 3))}, DistanceRange(8.0, 12.0), 1.25)
    assert nearness.refusal("a", block(3, 4, 20), MM) == "no cochlea was found to compare its place with"
