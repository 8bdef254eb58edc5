"""Our resampling against ITK's linear filter, on random grids."""

import numpy as np
import pytest
import SimpleITK as sitk

from pipeline.data.preprocessing import array_at_spacing, array_back, resample_to_spacing
from pipeline.data.resampling import resample_linear
from tests.images import FLIPPED, OBLIQUE, PERMUTED, make_image

GRIDS = {
    "z alone": ((20, 24, 16), (0.5, 0.5, 1.5)),
    "z alone, fewer slices": ((40, 24, 16), (0.5, 0.5, 0.3)),
    "a real scan's": ((12, 30, 34), (0.469, 0.469, 1.5)),
    "coarse in plane": ((9, 11, 13), (0.8, 0.7, 1.0)),
    "y alone": ((9, 11, 13), (0.5, 0.7, 0.5)),
    "one slice": ((1, 11, 13), (0.6, 0.6, 2.0)),
    "equal": ((5, 6, 7), (0.5, 0.5, 0.5)),
}


def inside(shape, step, old_shape):
    """Mark the voxels whose centre lies in the old grid: outside, ITK takes the nearest voxel along every axis."""
    axes = [(np.arange(n) + 0.5) * s <= old for n, s, old in zip(shape, step, old_shape, strict=True)]
    return axes[0][:, None, None] & axes[1][:, None] & axes[2]


@pytest.mark.parametrize("direction", [OBLIQUE, FLIPPED, PERMUTED])
@pytest.mark.parametrize("name", GRIDS)
def test_both_ways_as_itk_does_it(name, direction):
    shape, spacing = GRIDS[name]
    voxels = np.random.default_rng(0).normal(100, 20, shape).astype(np.float32)
    image = make_image(voxels, spacing, (3, -4, 5), direction)
    ours = resample_to_spacing(image, 0.5)
    array = sitk.GetArrayFromImage(ours)
    np.testing.assert_array_equal(array_at_spacing(image, 0.5), array)
    step = np.array([0.5 / s for s in spacing[::-1]])
    for new, got, old, steps in (
        (ours, array, image, step),
        (image, array_back(array, 0.5, image), ours, 1 / step),
    ):
        theirs = sitk.GetArrayFromImage(
            sitk.Resample(old, new, sitk.Transform(), sitk.sitkLinear, useNearestNeighborExtrapolator=True)
        )
        where = inside(got.shape, steps, sitk.GetArrayViewFromImage(old).shape)
        assert where.mean() > 0.7
        np.testing.assert_allclose(got[where], theirs[where], rtol=0, atol=2e-3)


def test_read_only_volume_is_left_alone_and_equal_grids_give_a_copy():
    volume = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    volume.flags.writeable = False
    same = resample_linear(volume, (2, 3, 4), (1.0, 1.0, 1.0))
    np.testing.assert_array_equal(same, volume)
    assert same.flags.writeable
    assert not np.shares_memory(same, volume)
