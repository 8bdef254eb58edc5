import numpy as np
import pytest
import torch

from pipeline.data.patches import (
    Box,
    WeightedMean,
    box_around,
    crop_back,
    divide,
    pad_to,
    window_starts,
    window_weights,
    windows,
)


def combine(boxes, parts, shape, weights):
    mean = WeightedMean(shape, weights)
    for box, part in zip(boxes, parts, strict=True):
        mean.add(box, torch.from_numpy(part.copy()))
    return mean.volume()


def test_last_window_is_flush_with_the_border():
    assert window_starts(10, 4, 0.5) == [0, 2, 4, 6]
    assert window_starts(11, 4, 0.5) == [0, 2, 4, 6, 7]
    assert window_starts(10, 4, 0.0) == [0, 4, 6]
    assert window_starts(8, 4, 0.0) == [0, 4]
    assert window_starts(4, 4, 0.9) == [0]
    assert window_starts(240, 128, 0.25) == [0, 96, 112]
    # A step is at least one voxel, however large the overlap.
    assert window_starts(6, 4, 0.99) == [0, 1, 2]


@pytest.mark.parametrize(("length", "window", "overlap"), [(4, 5, 0.5), (4, 0, 0.5), (4, 4, 1.0), (4, 4, -0.1)])
def test_window_that_cannot_be_placed_is_refused(length, window, overlap):
    with pytest.raises(ValueError, match="expected"):
        window_starts(length, window, overlap)


def test_windows_are_boxes_in_z_y_x_order_and_cover_everything():
    boxes = windows((5, 4, 4), (4, 4, 3), 0.0)
    assert boxes == [
        Box((0, 0, 0), (4, 4, 3)),
        Box((0, 0, 1), (4, 4, 4)),
        Box((1, 0, 0), (5, 4, 3)),
        Box((1, 0, 1), (5, 4, 4)),
    ]
    assert boxes[0].shape == (4, 4, 3)
    covered = np.zeros((5, 4, 4), dtype=bool)
    for box in boxes:
        covered[box.slices] = True
    assert covered.all()


def test_box_around_a_centre_stays_inside_the_volume():
    assert box_around((5, 9, 0), 4, (10, 10, 10)) == Box((3, 6, 0), (7, 10, 4))
    assert box_around((7, -3, 99), 4, (2, 4, 5)) == Box((0, 0, 1), (2, 4, 5))


def test_gaussian_weights_are_highest_in_the_middle_symmetric_and_never_below_a_thousandth():
    weights = window_weights((8, 8, 8), "gaussian")
    assert weights.dtype == np.float32
    np.testing.assert_array_equal(weights, weights[::-1, ::-1, ::-1])
    assert weights.max() == weights[3, 3, 3]
    assert weights.min() == np.float32(1e-3)
    # Sigma is an eighth of the side, 1 voxel, and the centre lies between voxels: exp(-(0.5**2) / 2) on each axis.
    assert weights[3, 3, 3] == pytest.approx(np.exp(-0.125) ** 3, rel=1e-6)
    np.testing.assert_array_equal(window_weights((2, 3, 4), "constant"), np.ones((2, 3, 4), dtype=np.float32))
    with pytest.raises(ValueError, match="expected 'gaussian' or 'constant', got 'triangle'"):
        window_weights((2, 2, 2), "triangle")


@pytest.mark.parametrize("shape", [(3, 9, 4), (4, 4, 4), (1, 1, 1), (8, 5, 4)])
def test_padding_and_cropping_are_inverse(shape):
    volume = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    padded, padding = pad_to(volume, (4, 4, 4), value=-1.0)
    assert padded.shape == tuple(max(4, n) for n in shape)
    np.testing.assert_array_equal(crop_back(padded, padding), volume)
    assert (padded == -1).sum() == padded.size - volume.size


@pytest.mark.parametrize("weighting", ["gaussian", "constant"])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.8])
@pytest.mark.parametrize("shape", [(8, 8, 8), (17, 9, 23), (8, 30, 11)])
def test_combine_undoes_divide_to_the_last_bit(shape, overlap, weighting):
    volume = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    boxes = windows(shape, (8, 8, 8), overlap)
    again = combine(boxes, divide(volume, boxes), shape, window_weights((8, 8, 8), weighting))
    np.testing.assert_array_equal(again, volume)


def test_overlap_is_the_weighted_mean():
    boxes = [Box((0, 0, 0), (1, 1, 3)), Box((0, 0, 1), (1, 1, 4))]
    weights = np.array([[[1, 2, 1]]], dtype=np.float32)
    parts = [np.full((1, 1, 3), 6, dtype=np.float32), np.full((1, 1, 3), 12, dtype=np.float32)]
    # Voxel 1: (2 x 6 + 1 x 12) / 3; voxel 2: (1 x 6 + 2 x 12) / 3.
    np.testing.assert_allclose(combine(boxes, parts, (1, 1, 4), weights), [[[6, 8, 10, 12]]])
