import numpy as np
import pytest
import SimpleITK as sitk

from challenge.contract import COCHLEA, VS
from challenge.nifti import geometry_of
from pipeline.data.cases import array_from
from pipeline.data.preprocessing import resample_to_spacing
from pipeline.inference.segment import merge_structures, restore_probability, segment_case
from tests.images import FLIPPED, OBLIQUE, PERMUTED, make_image
from tests.segmenters import ThresholdSegmenter


def probabilities(*values):
    return np.array([[values]], dtype=np.float32)


def test_likelier_structure_wins_a_contested_voxel():
    merged = merge_structures(
        {VS: probabilities(0.9, 0.6, 0.2, 0.5, 0.7), COCHLEA: probabilities(0.3, 0.8, 0.4, 0.51, 0.7)}
    )
    assert merged.dtype == np.uint8
    # Between equals the first; 0.5 is not likelier than not.
    assert merged.tolist() == [[[1, 2, 0, 2, 1]]]


def test_merge_refuses_shapes_that_differ_and_nothing_at_all():
    with pytest.raises(ValueError, match="expected one shape"):
        merge_structures({VS: probabilities(0.9), COCHLEA: probabilities(0.9, 0.1)})
    with pytest.raises(ValueError, match="expected one shape, got \\[\\]"):
        merge_structures({})


@pytest.mark.parametrize("direction", [(1, 0, 0, 0, 1, 0, 0, 0, 1), OBLIQUE, FLIPPED, PERMUTED])
@pytest.mark.parametrize("spacing_mm", [(0.5, 0.5, 0.5), (0.469, 0.469, 1.5), (1.0, 0.4, 0.7)])
def test_ball_comes_back_where_it_was_on_the_scan_s_own_grid(direction, spacing_mm):
    shape = (14, 22, 18)
    image = make_image(np.zeros(shape, dtype=np.float32), spacing_mm, (-12, 7, 3), direction)
    z, y, x = np.indices(shape)
    distance_mm = np.sqrt(
        ((x - 9) * spacing_mm[0]) ** 2 + ((y - 10) * spacing_mm[1]) ** 2 + ((z - 6) * spacing_mm[2]) ** 2
    )
    bright = make_image((distance_mm < 3).astype(np.float32), spacing_mm, (-12, 7, 3), direction)
    resampled = resample_to_spacing(bright, 0.5)
    labels = merge_structures({VS: restore_probability(array_from(resampled), resampled, image)})
    np.testing.assert_array_equal(labels == 1, distance_mm < 3)


@pytest.mark.parametrize("direction", [OBLIQUE, FLIPPED])
def test_case_from_scan_to_labels_with_two_bright_boxes(direction):
    """A head of 0 with a box of 50 and one of 100: one segmenter takes the middle, the other the bright one."""
    array = np.random.default_rng(0).normal(0, 1, (20, 40, 36)).astype(np.float32)
    array[8:14, 10:20, 6:16] = 50
    array[8:14, 25:32, 20:30] = 100
    image = make_image(array, (0.6, 0.5, 1.2), (5, 6, 7), direction)
    middle = ThresholdSegmenter(VS, low=1.0, high=5.0)
    bright = ThresholdSegmenter(COCHLEA, low=5.0, high=99.0)
    segmentation = segment_case(image, [middle, bright])
    assert segmentation.labels.shape == array.shape
    inside = np.zeros(array.shape, dtype=bool)
    inside[9:13, 11:19, 7:15] = True
    assert (segmentation.labels[inside] == 1).all()
    assert (segmentation.labels[9:13, 26:31, 21:29] == 2).all()
    assert (segmentation.labels[:6] == 0).all()
    assert set(segmentation.probabilities) == {VS, COCHLEA}
    assert segmentation.probabilities[VS].shape == array.shape


def test_two_runs_give_identical_labels():
    image = make_image(np.random.default_rng(0).normal(0, 1, (20, 40, 36)).astype(np.float32), (0.6, 0.5, 1.2))
    segmenters = [ThresholdSegmenter(VS, low=0.5, high=5.0)]
    first, second = (segment_case(image, segmenters).labels for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.any()


@pytest.mark.parametrize("shape", [(1, 1, 2), (3, 5, 4), (7, 7, 7), (1, 30, 30)])
def test_scan_smaller_than_8_voxels_a_side_is_segmented(shape):
    array = np.zeros(shape, dtype=np.float32)
    array[0, 0, 0] = 1
    image = make_image(array, (0.5, 0.5, 0.5))
    labels = segment_case(image, [ThresholdSegmenter(VS, low=0.0, high=99.0)]).labels
    np.testing.assert_array_equal(labels == 1, array > 0)
    assert geometry_of(sitk.GetImageFromArray(labels)).size_xyz == shape[::-1]
