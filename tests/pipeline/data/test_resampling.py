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


@pytest.mark.parametrize("direction", [OBLIQUE, FLIPPED, PERMUTED])
@pytest.mark.parametrize("name", GRIDS)
def test_both_ways_as_itk_does_it(name, direction):
    shape, spacing = GRIDS[name]
    voxels = np.random.default_rng(0).normal(100, 20, shape).astype(np.float32)
    image = make_image(voxels, spacing, (3, -4, 5), direction)
    ours = resample_to_spacing(image, 0.5)
    theirs = sitk.Resample(image, ours, sitk.Transform(), sitk.sitkLinear, useNearestNeighborExtrapolator=True)
    np.testing.assert_allclose(
        sitk.GetArrayFromImage(ours), sitk.GetArrayFromImage(theirs), rtol=0, atol=1e-5 * voxels.std() + 1e-5 * 100
    )
    np.testing.assert_array_equal(array_at_spacing(image, 0.5), sitk.GetArrayFromImage(ours))
    back = sitk.Resample(theirs, image, sitk.Transform(), sitk.sitkLinear, useNearestNeighborExtrapolator=True)
    np.testing.assert_allclose(
        array_back(sitk.GetArrayFromImage(ours), 0.5, image), sitk.GetArrayFromImage(back), rtol=0, atol=2e-3
    )


def test_read_only_volume_is_left_alone_and_equal_grids_give_a_copy():
    volume = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    volume.flags.writeable = False
    same = resample_linear(volume, (2, 3, 4), (1.0, 1.0, 1.0))
    np.testing.assert_array_equal(same, volume)
    assert same.flags.writeable
    assert not np.shares_memory(same, volume)
