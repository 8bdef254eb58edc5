"""Metrics against answers worked by hand, the challenge's golden values, MedPy and a plain full-volume reference."""

import numpy as np
import pytest
from medpy.metric import binary as medpy
from scipy import ndimage

from evaluation.metrics import (
    assd_mm,
    count_overlap,
    dice,
    hd95_mm,
    surface_distances,
    surface_voxels,
    volume_mm3,
)
from tests.evaluation.masks import box, pairs

GOLDEN_SPACING = (0.5, 0.5, 1.5)


def directed_means(reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...]) -> tuple[float, float]:
    """The definition of 2021 without any shortcut: whole-volume erosion and whole-volume distance maps."""

    def border(mask: np.ndarray) -> np.ndarray:
        return mask & ~ndimage.binary_erosion(mask, ndimage.generate_binary_structure(3, 1))

    def mean(here: np.ndarray, there: np.ndarray) -> float:
        return ndimage.distance_transform_edt(~border(there), sampling=spacing)[border(here)].mean()

    return mean(reference, prediction), mean(prediction, reference)


class TestGoldenValues:
    reference = box((24, 24, 24), slice(5, 15), slice(5, 15), slice(5, 15))

    def test_shift(self) -> None:
        # "Shifted by +3 in z" is along the file's third axis, the one of 1.5 mm spacing.
        prediction = box((24, 24, 24), slice(5, 15), slice(5, 15), slice(8, 18))
        distances = surface_distances(self.reference, prediction, GOLDEN_SPACING)
        assert dice(count_overlap(self.reference, prediction)) == pytest.approx(0.7, abs=1e-12)
        assert assd_mm(distances) == pytest.approx(1.3770492, abs=5e-8)
        assert assd_mm(distances, "pooled") == pytest.approx(1.3770492, abs=5e-8)

    def test_false_positive(self) -> None:
        prediction = self.reference | box((24, 24, 24), slice(20, 22), slice(20, 22), slice(20, 22))
        distances = surface_distances(self.reference, prediction, GOLDEN_SPACING)
        assert dice(count_overlap(self.reference, prediction)) == pytest.approx(2000 / 2008, abs=1e-12)  # 0.996016
        assert assd_mm(distances, "2021") == pytest.approx(0.0870086, abs=5e-8)
        assert assd_mm(distances, "pooled") == pytest.approx(0.0877160, abs=5e-8)


class TestByHand:
    def test_two_voxels_three_and_four_mm_apart_are_five_mm_apart(self) -> None:
        a, b = (
            box((4, 4, 4), slice(0, 1), slice(0, 1), slice(0, 1)),
            box((4, 4, 4), slice(3, 4), slice(2, 3), slice(0, 1)),
        )
        distances = surface_distances(a, b, (1.0, 2.0, 9.0))
        assert distances.reference_to_prediction_mm.tolist() == [5.0]
        assert distances.prediction_to_reference_mm.tolist() == [5.0]
        assert (assd_mm(distances), assd_mm(distances, "pooled"), hd95_mm(distances)) == (5.0, 5.0, 5.0)

    def test_definitions_differ_where_surfaces_differ_in_size(self) -> None:
        # Reference: one voxel. Prediction: that voxel and two more, 1 and 2 mm away along x.
        reference = box((1, 1, 5), slice(0, 1), slice(0, 1), slice(0, 1))
        prediction = box((1, 1, 5), slice(0, 1), slice(0, 1), slice(0, 3))
        distances = surface_distances(reference, prediction, (1.0, 1.0, 1.0))
        assert distances.reference_to_prediction_mm.tolist() == [0.0]
        assert distances.prediction_to_reference_mm.tolist() == [0.0, 1.0, 2.0]
        assert assd_mm(distances, "2021") == 0.5  # (0 + 1) / 2
        assert assd_mm(distances, "pooled") == 0.75  # (0 + 0 + 1 + 2) / 4
        assert hd95_mm(distances) == pytest.approx(1.85)  # 95 % of the way along 0, 0, 1, 2

    def test_dice(self) -> None:
        overlap = count_overlap(np.array([[[True, True, True, False]]]), np.array([[[False, True, False, False]]]))
        assert (overlap.reference_voxels, overlap.prediction_voxels, overlap.shared_voxels) == (3, 1, 1)
        assert dice(overlap) == 0.5

    def test_volume(self) -> None:
        assert volume_mm3(16, (1.5, 0.5, 0.5)) == 6.0

    def test_surface_of_a_cube_is_all_but_its_core(self) -> None:
        cube = box((5, 5, 5), slice(1, 4), slice(1, 4), slice(1, 4))
        surface = surface_voxels(cube)
        assert len(surface) == 26
        assert [2, 2, 2] not in surface.tolist()

    def test_surface_on_the_edge_counts(self) -> None:
        # 27 voxels that fill the volume: only the centre has all six neighbours.
        assert len(surface_voxels(np.ones((3, 3, 3), dtype=bool))) == 26

    def test_surface_of_nothing(self) -> None:
        assert surface_voxels(np.zeros((3, 3, 3), dtype=bool)).shape == (0, 3)


@pairs
class TestAgainstPeers:
    def test_dice(self, reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...]) -> None:
        assert dice(count_overlap(reference, prediction)) == pytest.approx(medpy.dc(prediction, reference), abs=1e-12)

    def test_assd(self, reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...]) -> None:
        distances = surface_distances(reference, prediction, spacing)
        there, back = directed_means(reference, prediction, spacing)
        assert distances.reference_to_prediction_mm.mean() == pytest.approx(there, abs=1e-9)
        assert distances.prediction_to_reference_mm.mean() == pytest.approx(back, abs=1e-9)
        assert assd_mm(distances, "2021") == pytest.approx((there + back) / 2, abs=1e-9)
        assert assd_mm(distances, "pooled") == pytest.approx(
            medpy.assd(prediction, reference, voxelspacing=spacing), abs=1e-9
        )

    def test_hd95(self, reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...]) -> None:
        distances = surface_distances(reference, prediction, spacing)
        assert hd95_mm(distances) == pytest.approx(medpy.hd95(prediction, reference, voxelspacing=spacing), abs=1e-9)

    def test_symmetric(self, reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...]) -> None:
        one, other = (
            surface_distances(reference, prediction, spacing),
            surface_distances(prediction, reference, spacing),
        )
        assert assd_mm(one) == pytest.approx(assd_mm(other), abs=1e-12)

    def test_axis_order_does_not_matter(
        self, reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...]
    ) -> None:
        # Transposed views are not contiguous: nothing may hang on the memory's layout.
        turned = surface_distances(reference.T, prediction.T, spacing[::-1])
        assert assd_mm(turned) == pytest.approx(
            assd_mm(surface_distances(reference, prediction, spacing)), rel=1e-12, abs=1e-12
        )


class TestRefusals:
    mask = np.ones((3, 3, 3), dtype=bool)

    def test_labels_are_no_masks(self) -> None:
        with pytest.raises(ValueError, match="prediction: expected a bool array, got uint8"):
            surface_distances(self.mask, self.mask.astype(np.uint8), (1, 1, 1))
        with pytest.raises(ValueError, match="reference: expected a bool array, got list"):
            count_overlap([True], self.mask)  # type: ignore[arg-type]

    def test_shapes_differ(self) -> None:
        with pytest.raises(ValueError, match=r"expected the reference's shape \(3, 3, 3\), got \(3, 3, 2\)"):
            surface_distances(self.mask, self.mask[..., :2], (1, 1, 1))

    @pytest.mark.parametrize("spacing", [(1, 1), (1, 1, 0), (1, -1, 1), (1, 1, np.nan), (1, 1, np.inf)])
    def test_bad_spacing(self, spacing: tuple[float, ...]) -> None:
        with pytest.raises(ValueError, match="spacing_mm: expected 3 finite spacings above 0 mm"):
            surface_distances(self.mask, self.mask, spacing)

    def test_not_three_axes(self) -> None:
        with pytest.raises(ValueError, match="expected 3 axes"):
            surface_distances(self.mask[0], self.mask[0], (1, 1))

    def test_empty_masks_have_no_distance(self) -> None:
        with pytest.raises(ValueError, match="prediction: expected a mask with voxels, got an empty one"):
            surface_distances(self.mask, ~self.mask, (1, 1, 1))
        with pytest.raises(ValueError, match="reference: expected a mask with voxels"):
            surface_distances(~self.mask, self.mask, (1, 1, 1))

    def test_two_empty_masks_have_no_dice(self) -> None:
        with pytest.raises(ValueError, match="got two empty ones"):
            dice(count_overlap(~self.mask, ~self.mask))

    def test_unknown_definition(self) -> None:
        with pytest.raises(ValueError, match="expected a definition of 2021, pooled, got '2022'"):
            assd_mm(surface_distances(self.mask, self.mask, (1, 1, 1)), "2022")  # type: ignore[arg-type]
