"""The scores of one case: what every missing, unusable or empty label map scores."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from evaluation.metrics import assd_mm, surface_distances
from evaluation.scoring import Status
from tests.evaluation.cohorts import SHAPE, SPACING_XYZ, Folders, labels, write


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


class TestUsualCase:
    def test_scores(self, folders: Folders) -> None:
        cohort = folders.score()
        assert [result.case for result in cohort.results] == ["crossmoda_9", "crossmoda_10"]
        vs, cochlea = (cohort.results[0].structures[key] for key in ("vs", "cochlea"))
        # VS: 6 columns of 28 voxels against 5; a voxel is 0.375 mm3.
        assert vs.status is Status.SCORED
        assert vs.dice == pytest.approx(2 * 5 / 11)
        assert (vs.reference_volume_mm3, vs.prediction_volume_mm3, vs.volume_error_mm3) == (63.0, 52.5, -10.5)
        distances = surface_distances(labels() == 1, labels(vs=(5, 10)) == 1, SPACING_XYZ[::-1])
        assert vs.assd_mm == assd_mm(distances, "2021") > 0
        assert vs.hd95_mm == 0.5
        assert (cochlea.dice, cochlea.assd_mm, cochlea.hd95_mm, cochlea.volume_error_mm3) == (1.0, 0.0, 0.0, 0.0)
        assert cohort.results[0].problem is None
        assert cohort.results[0].warnings == ()

    def test_definition_is_passed_on(self, folders: Folders) -> None:
        challenge, pooled = (folders.first(asd=name).structures["vs"].assd_mm for name in ("2021", "pooled"))
        assert challenge != pooled
        assert folders.score(asd="pooled").metadata.asd == "pooled"

    @pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
    def test_any_numeric_type(self, folders: Folders, dtype: type) -> None:
        expected = folders.first().structures
        write(folders.predicted(), labels(vs=(5, 10)).astype(dtype))
        write(folders.reference / "crossmoda_9_Label.nii.gz", labels().astype(dtype))
        assert folders.first().structures == expected
        assert folders.first().warnings == ()

    def test_oblique_scan_has_its_headers_spacing(self, folders: Folders) -> None:
        # Turned by 30 degrees about z, the affine's diagonal is cos(30) times the spacing in x and y.
        cosine, sine = np.cos(np.pi / 6), np.sin(np.pi / 6)
        turned = (cosine, -sine, 0, sine, cosine, 0, 0, 0, 1)
        expected = folders.first().structures["vs"]
        write(folders.reference / "crossmoda_9_Label.nii.gz", labels(), direction=turned)
        write(folders.predicted(), labels(vs=(5, 10)), direction=turned)
        oblique = folders.first()
        assert oblique.structures["vs"].assd_mm == pytest.approx(expected.assd_mm, abs=1e-6)
        assert oblique.structures["vs"].reference_volume_mm3 == pytest.approx(63.0, abs=1e-4)
        assert oblique.warnings == ()


class TestEmpty:
    def test_empty_prediction(self, folders: Folders) -> None:
        write(folders.predicted(), labels(vs=None))
        scores = folders.first().structures
        assert scores["vs"].status is Status.EMPTY_PREDICTION
        assert (scores["vs"].dice, scores["vs"].assd_mm, scores["vs"].hd95_mm) == (0.0, 350.0, 350.0)
        assert scores["vs"].volume_error_mm3 == -63.0
        assert scores["cochlea"].status is Status.SCORED
        assert folders.run().exit_code == 0

    def test_empty_reference_is_not_scored_counted_and_said(self, folders: Folders) -> None:
        write(folders.reference / "crossmoda_9_Label.nii.gz", labels(vs=None))
        cohort = folders.score()
        vs = cohort.results[0].structures["vs"]
        assert vs.status is Status.EMPTY_REFERENCE
        assert (vs.dice, vs.assd_mm, vs.hd95_mm) == (None, None, None)
        assert vs.volume_error_mm3 == 52.5
        assert cohort.aggregates["vs"].metrics["dice"].n == 1
        assert cohort.aggregates["vs"].counts[Status.EMPTY_REFERENCE] == 1
        result = folders.run()
        assert result.exit_code == 0
        assert "VS not scored in some cases: 1 empty reference" in result.stderr

    def test_both_empty(self, folders: Folders) -> None:
        write(folders.reference / "crossmoda_9_Label.nii.gz", labels(cochlea=None))
        write(folders.predicted(), labels(cochlea=None))
        scores = folders.first().structures["cochlea"]
        assert scores.status is Status.BOTH_EMPTY
        assert scores.dice is None
        assert scores.volume_error_mm3 == 0.0


class TestRefused:
    def assert_refused(self, folders: Folders, message: str, **options) -> None:
        cohort = folders.score(**options)
        first = cohort.results[0]
        assert message in (first.problem or "")
        for scores in first.structures.values():
            assert (scores.status, scores.dice, scores.assd_mm) == (Status.REFUSED, 0.0, 350.0)
        assert [result.case for result in cohort.failed] == ["crossmoda_9"]
        assert cohort.missing == []
        assert cohort.results[1].structures["vs"].status is Status.SCORED
        result = folders.run("--allow-missing", *(["--strict-geometry"] if options else []))
        assert result.exit_code == 1
        assert message in result.stderr

    def test_other_shape(self, folders: Folders) -> None:
        write(folders.predicted(), labels()[1:])
        self.assert_refused(folders, "expected the reference's size 24 x 20 x 10, got 24 x 20 x 9")

    @pytest.mark.parametrize("damage", ["text", "cut", "empty", "folder", "dangling link", "four axes", "nan"])
    def test_unreadable(self, folders: Folders, damage: str) -> None:
        path = folders.predicted()
        whole = path.read_bytes()
        path.unlink()
        if damage == "text":
            path.write_text("no image")
        elif damage == "cut":
            path.write_bytes(gzip.compress(gzip.decompress(whole)[:900]))
        elif damage == "empty":
            path.write_bytes(b"")
        elif damage == "folder":
            path.mkdir()
        elif damage == "dangling link":
            path.symlink_to(folders.root / "nowhere")
        elif damage == "four axes":
            sitk.WriteImage(sitk.Image([4, 4, 4, 2], sitk.sitkUInt8), str(path))
        else:
            write(path, np.where(labels() == 0, np.nan, labels()))
        self.assert_refused(folders, "crossmoda_9_Label.nii.gz: expected")

    def test_other_grid_is_scored_with_a_warning_that_names_both(self, folders: Folders) -> None:
        expected = folders.first().structures
        write(folders.predicted(), labels(vs=(5, 10)), spacing_xyz=(0.5, 0.5, 2.0), origin=(7.0, 0.0, 0.0))
        first = folders.first()
        assert first.structures == expected
        assert "0.5 x 0.5 x 1.5 mm, origin (0, 0, 0)" in first.warnings[0]
        assert "0.5 x 0.5 x 2 mm, origin (7, 0, 0)" in first.warnings[0]
        assert folders.run().exit_code == 0
        self.assert_refused(folders, "expected the reference's grid", strict_geometry=True)

    def test_strict_geometry_bears_rounding(self, folders: Folders) -> None:
        write(folders.predicted(), labels(vs=(5, 10)), origin=(1e-5, 0.0, 0.0))
        assert folders.first(strict_geometry=True).structures["vs"].status is Status.SCORED


class TestForeignLabels:
    def test_other_label_counts_as_background_with_a_warning(self, folders: Folders) -> None:
        expected = folders.first().structures
        values = labels(vs=(5, 10))
        values[0, 0, :3] = 3, 3, 7
        write(folders.predicted(), values)
        first = folders.first()
        assert first.structures == expected
        assert "expected the labels 0, 1, 2, got also 3, 7 in 3 voxels; counted as background" in first.warnings[0]
        assert folders.run().exit_code == 0

    def test_fractions_count_as_background_with_a_warning(self, folders: Folders) -> None:
        values = labels().astype(np.float64)
        values[3:7, 5:12, 4] = 0.75  # VS's first column
        write(folders.predicted(), values)
        first = folders.first()
        assert first.structures["vs"].dice == pytest.approx(2 * 5 / 11)
        assert "got also 0.75 in 28 voxels" in first.warnings[0]

    def test_many_values_are_cut_short(self, folders: Folders) -> None:
        write(folders.predicted(), np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE))
        assert "got also 3, 4, 5, 6, 7 and 4792 more in 4797 voxels" in folders.first().warnings[0]

    @pytest.mark.parametrize("value", [3, 0.5])
    def test_reference_of_another_year_is_an_error(self, folders: Folders, value: float) -> None:
        values = labels().astype(np.float32)
        values[0, 0, 0] = value
        write(folders.reference / "crossmoda_9_Label.nii.gz", values)
        cohort = folders.score()
        assert cohort.results[0].structures["vs"].status is Status.BAD_REFERENCE
        assert cohort.results[0].structures["vs"].dice is None
        assert f"reference crossmoda_9_Label.nii.gz: expected the labels 0, 1, 2, got also {value}" in (
            cohort.results[0].problem or ""
        )
        assert cohort.aggregates["vs"].metrics["dice"].n == 1
        assert folders.run().exit_code == 1

    def test_unreadable_reference(self, folders: Folders) -> None:
        (folders.reference / "crossmoda_9_Label.nii.gz").write_text("no image")
        assert folders.first().structures["cochlea"].status is Status.BAD_REFERENCE
        assert folders.run().exit_code == 1
