from dataclasses import dataclass

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from challenge.contract import COCHLEA, VS
from challenge.nifti import geometry_of
from pipeline.data.preprocessing import array_at_spacing, array_back
from pipeline.inference.postprocessing import merge
from pipeline.inference.segment import segment_case
from pipeline.model.rules import PostProcessing
from tests.images import FLIPPED, OBLIQUE, PERMUTED, make_image, noise
from tests.segmenters import ThresholdSegmenter


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
    labels = merge({VS: array_back(array_at_spacing(bright, 0.5), 0.5, image)})
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


def two_boxes():
    """Noise with a large bright box and a small one, 20 mm apart."""
    array = np.random.default_rng(0).normal(0, 1, (20, 40, 60)).astype(np.float32)
    array[8:14, 10:20, 6:16] = array[8:12, 20:24, 50:54] = 50
    return array


def test_rules_come_from_the_card_and_what_is_passed_takes_their_place():
    image = make_image(two_boxes(), (0.5, 0.5, 0.5))
    of_card = {"postprocessing": PostProcessing(components="largest").as_card()}
    segmenter = ThresholdSegmenter(VS, low=1.0, high=99.0, card=of_card)
    kept = segment_case(image, [segmenter]).labels
    assert (kept[8:14, 10:20, 6:16] == 1).all()
    assert not kept[8:12, 20:24, 50:54].any()
    every = segment_case(image, [segmenter], rules={VS: PostProcessing()}).labels
    assert (every[8:12, 20:24, 50:54] == 1).all()


@pytest.mark.parametrize(("spacing_xyz", "both"), [((1.0, 0.5, 0.5), True), ((0.5, 0.5, 3.0), False)])
def test_components_are_told_apart_in_mm_along_the_array_s_own_axes(spacing_xyz, both):
    """The boxes lie 41 voxels apart along x: 41 mm are two sides, 20.5 mm are one, however thick the slices are."""
    image = make_image(two_boxes(), spacing_xyz)
    rules = {COCHLEA: PostProcessing(components="one-a-side")}
    labels = segment_case(image, [ThresholdSegmenter(COCHLEA, low=1.0, high=99.0)], rules=rules).labels
    assert labels[8:12, 20:24, 50:54].any() == both


@dataclass(frozen=True)
class LeftOfTheWindow(ThresholdSegmenter):
    """Knows the patient's sides: says 1 in the first half of a window's axis `axis`, and 0 in the second."""

    axis: int = 2

    def __call__(self, windows):
        said = torch.zeros_like(windows[:, 0])
        said.narrow(self.axis + 1, 0, windows.shape[self.axis + 2] // 2).fill_(1.0)
        return said


@pytest.mark.parametrize(("direction", "axis"), [(OBLIQUE, 2), (FLIPPED, 2), (PERMUTED, 0)])
def test_flip_averaging_mirrors_the_patient_left_to_right(direction, axis):
    """In PERMUTED, the array's first axis runs from right to left."""
    image = make_image(noise((16, 16, 16), dtype="float32"), (0.5, 0.5, 0.5), direction=direction)
    averaged = {VS: PostProcessing(flip_average=True)}
    for seen in range(3):
        segmenter = LeftOfTheWindow(VS, low=0, high=0, axis=seen)
        plain = segment_case(image, [segmenter]).probabilities[VS]
        both = segment_case(image, [segmenter], rules=averaged).probabilities[VS]
        if seen == axis:
            np.testing.assert_allclose(both, (plain + np.flip(plain, axis)) / 2, atol=1e-6)
            np.testing.assert_allclose(both, 0.5, atol=1e-6)
        else:
            np.testing.assert_array_equal(both, plain)
    assert both.dtype == np.float32
