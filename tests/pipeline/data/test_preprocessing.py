import numpy as np
import pytest
import SimpleITK as sitk

from challenge.nifti import CaseError, geometry_of
from pipeline.data.cases import array_from
from pipeline.data.preprocessing import array_at_spacing, array_back, normalise, resample_to_spacing
from tests.images import FLIPPED, OBLIQUE, PERMUTED, make_image


def corner(image):
    """The outer corner of the first voxel, in mm."""
    return np.array(image.TransformContinuousIndexToPhysicalPoint([-0.5, -0.5, -0.5]))


@pytest.mark.parametrize("direction", [(1, 0, 0, 0, 1, 0, 0, 0, 1), OBLIQUE, FLIPPED, PERMUTED])
def test_field_of_view_keeps_its_corner_and_its_extent(direction):
    image = make_image(np.zeros((20, 24, 32), dtype=np.float32), (0.4, 0.75, 1.5), (10, -20, 30), direction)
    resampled = resample_to_spacing(image, 0.5)
    assert resampled.GetSpacing() == (0.5, 0.5, 0.5)
    # 32 x 0.4 = 12.8 mm -> 26 voxels; 24 x 0.75 = 18 mm -> 36; 20 x 1.5 = 30 mm -> 60
    assert resampled.GetSize() == (26, 36, 60)
    np.testing.assert_allclose(corner(resampled), corner(image), atol=1e-9)
    np.testing.assert_allclose(resampled.GetDirection(), image.GetDirection(), atol=1e-12)


def test_half_voxel_shift_of_the_origin():
    resampled = resample_to_spacing(make_image(np.zeros((2, 2, 3), dtype=np.float32), (4, 4, 4)), 2)
    assert resampled.GetOrigin() == (-1, -1, -1)
    assert resampled.GetSize() == (6, 4, 4)


def test_linear_ramp_worked_by_hand():
    # Centres at 0 and 4 mm with values 0 and 8; new centres at -1, 1, 3, 5 mm: edge, 2, 6, edge.
    image = make_image(np.array([[[0, 8]]], dtype=np.float32), (4, 2, 2))
    np.testing.assert_allclose(array_from(resample_to_spacing(image, 2)), [[[0, 2, 6, 8]]], atol=1e-6)


def test_grid_of_the_right_spacing_is_left_as_it_is():
    image = make_image(np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32), (0.5, 0.5, 0.5), (1, 2, 3))
    resampled = resample_to_spacing(image, 0.5)
    assert geometry_of(resampled) == geometry_of(image)
    np.testing.assert_array_equal(array_from(resampled), array_from(image))


def test_size_is_not_rounded_up_by_float32_noise():
    image = make_image(np.zeros((10, 10, 10), dtype=np.float32), (float(np.float32(0.1)),) * 3)
    assert resample_to_spacing(image, 0.1).GetSize() == (10, 10, 10)


@pytest.mark.parametrize("direction", [(1, 0, 0, 0, 1, 0, 0, 0, 1), OBLIQUE, FLIPPED, PERMUTED])
def test_there_and_back_gives_a_smooth_volume_again(direction):
    z, y, x = np.meshgrid(*(np.linspace(0, 1, n) for n in (12, 20, 16)), indexing="ij")
    smooth = (3 * z + 2 * y - x + 5).astype(np.float32)
    image = make_image(smooth, (0.5, 0.7, 1.5), (3, 4, 5), direction)
    back = array_back(array_at_spacing(image, 0.5), 0.5, image)
    # A linear volume comes back but for its rim, where the nearest voxel stands in for what lies outside.
    np.testing.assert_allclose(back[1:-1, 1:-1, 1:-1], smooth[1:-1, 1:-1, 1:-1], atol=1e-5)


def test_labels_stay_labels_with_nearest():
    labels = make_image(np.random.default_rng(0).integers(0, 3, (6, 6, 6)).astype(np.uint8), (1, 1, 1.5))
    resampled = resample_to_spacing(labels, 0.5, nearest=True)
    assert resampled.GetPixelID() == sitk.sitkUInt8
    assert set(np.unique(sitk.GetArrayFromImage(resampled))) == {0, 1, 2}


def test_grid_that_would_not_fit_into_memory_is_refused():
    image = make_image(np.zeros((4, 4, 400), dtype=np.float32), (1000, 1000, 1000))
    with pytest.raises(CaseError, match=r"expected at most 100,663,296 voxels, got 800000 x 8000 x 8000"):
        resample_to_spacing(image, 0.5)


def test_normalised_volume_has_mean_0_and_deviation_1_and_comes_back():
    volume = np.random.default_rng(0).normal(300, 70, (10, 11, 12)).astype(np.float32)
    normalised = normalise(volume)
    assert normalised.dtype == np.float32
    assert normalised.mean(dtype=np.float64) == pytest.approx(0, abs=1e-6)
    assert normalised.std(dtype=np.float64) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(normalised * volume.std() + volume.mean(), volume, rtol=1e-5)


def test_normalise_worked_by_hand():
    # The mean is 4, the standard deviation the square root of 2.
    normalised = normalise(np.array([[[2, 4], [4, 6]]], dtype=np.float32))
    np.testing.assert_allclose(normalised, [[[-np.sqrt(2), 0], [0, np.sqrt(2)]]], rtol=1e-6)


def test_large_offset_does_not_drown_the_contrast():
    volume = np.full((64, 256, 256), 30000, dtype=np.float32)
    volume[:, ::2] += 1
    normalised = normalise(volume)
    assert np.unique(normalised).tolist() == pytest.approx([-1, 1], abs=1e-3)


@pytest.mark.parametrize("value", [7.0, np.nan, np.inf])
def test_constant_or_infinite_volume_is_refused(value):
    with np.errstate(invalid="ignore"), pytest.raises(CaseError, match="expected finite voxels with contrast"):
        normalise(np.full((4, 4, 4), value, dtype=np.float32))
