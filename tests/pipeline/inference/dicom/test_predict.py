"""The predict command on folders of DICOM files."""

import json
import os

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from click.testing import CliRunner

from challenge.nifti import read_geometry
from crossmoda_grl.__main__ import main
from pipeline.inference.dicom.series import find_series, read_series
from tests.dicom_files import set_to, voxels, write_series
from tests.segmenters import write_narrow_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_narrow_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def predict(tmp_path, weights):
    """Run predict on `tmp_path / "in"`, or on another folder; the output is `tmp_path / "out"`."""

    def run(*more, folder="in", layout="dicom"):
        options = ["-i", tmp_path / folder, "-o", tmp_path / "out", "--layout", layout, "--weights", weights]
        return CliRunner().invoke(main, ["predict", *map(str, options), "--device", "cpu", *more])

    return run


def values(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def cases(tmp_path):
    return json.loads((tmp_path / "out" / "predictions.json").read_text())["cases"]


def test_label_maps_and_segmentations_are_those_of_the_same_scan_as_nifti(tmp_path, predict):
    write_series(tmp_path / "in" / "a" / "T2")
    write_series(tmp_path / "in" / "b", voxels() + 3)
    result = predict()
    assert result.exit_code == 0, result.output
    assert "layout dicom" in result.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a_Label.dcm",
        "a_Label.nii.gz",
        "b_Label.dcm",
        "b_Label.nii.gz",
        "predictions.csv",
        "predictions.json",
    ]
    series = find_series(tmp_path / "in" / "a")
    assert read_geometry(tmp_path / "out" / "a_Label.nii.gz").same_place(series.geometry, tolerance=1e-6)
    labels = values(tmp_path / "out" / "a_Label.nii.gz")
    assert {1, 2} <= set(np.unique(labels))
    ds = pydicom.dcmread(tmp_path / "out" / "a_Label.dcm")
    assert np.count_nonzero(ds.pixel_array) == np.count_nonzero(labels)
    (tmp_path / "nifti").mkdir()
    sitk.WriteImage(read_series(series), str(tmp_path / "nifti" / "c_hrT2.nii.gz"))
    assert predict(folder="nifti", layout="crossmoda2021").exit_code == 0
    np.testing.assert_array_equal(values(tmp_path / "out" / "c_Label.nii.gz"), labels)


def test_a_folder_of_files_is_one_case_named_after_it(tmp_path, predict):
    write_series(tmp_path / "in")
    assert predict("--save-probabilities").exit_code == 0
    assert (tmp_path / "out" / "in_Label.dcm").exists()
    assert (tmp_path / "out" / "probabilities" / "in_vs.nii.gz").exists()


def test_a_bad_case_is_named_and_leaves_nothing_and_the_others_follow(tmp_path, predict):
    write_series(tmp_path / "in" / "bad", leave_out=[2])
    write_series(tmp_path / "in" / "good")
    (tmp_path / "in" / "good" / "report.pdf").write_bytes(b"x")
    result = predict()
    assert result.exit_code == 1
    assert "FAILED: bad: expected slices 1.5 mm apart" in result.output
    assert "warning: left out beside the series: report.pdf" in result.output
    assert not list((tmp_path / "out").glob("*bad*"))
    assert (tmp_path / "out" / "good_Label.dcm").exists()


def test_a_series_that_a_segmentation_cannot_refer_to_leaves_no_label_map(tmp_path, predict):
    write_series(tmp_path / "in" / "a", edit=set_to(PatientSex="not a code string of sixteen"))
    result = predict()
    assert result.exit_code == 1
    assert "a: expected headers that a DICOM segmentation can refer to" in result.output
    assert not list((tmp_path / "out").glob("*Label*"))


def test_existing_cases_are_skipped_if_all_of_them_is_there_and_the_scan_is_the_same(tmp_path, predict):
    write_series(tmp_path / "in" / "a")
    assert predict().exit_code == 0
    skipped = "skipped, a_Label.nii.gz is there"
    assert skipped in predict("--skip-existing").output
    (tmp_path / "out" / "a_Label.dcm").unlink()
    assert skipped not in predict("--skip-existing").output
    assert (tmp_path / "out" / "a_Label.dcm").exists()
    before = cases(tmp_path)["a"]["scan"]["sha256"]
    write_series(tmp_path / "in" / "a", voxels() + 5)
    assert skipped not in predict("--skip-existing").output
    assert cases(tmp_path)["a"]["scan"]["sha256"] != before


def test_the_series_of_several_is_chosen_and_recorded(tmp_path, predict):
    write_series(tmp_path / "in" / "a" / "1")
    write_series(tmp_path / "in" / "a" / "2", voxels(3), edit=set_to(SeriesDescription="T1 gd"))
    result = predict()
    assert result.exit_code == 1
    assert "a: expected one MR series, got 2 of 2: 'T2 CISS 3D'" in result.output
    assert predict("--series", "t1 GD").exit_code == 0
    assert cases(tmp_path)["a"]["scan"]["size_xyz"] == [16, 20, 3]
    assert cases(tmp_path)["a"]["made_by"]["options"]["series"] == "t1 GD"


def test_batch_norm_s_statistics_come_from_series_too(tmp_path, predict):
    write_series(tmp_path / "in" / "a")
    result = predict("--target-statistics")
    assert result.exit_code == 0, result.output
    assert "statistics: re-estimated on 1 scan" in result.output


def test_loose_images_beside_cases_are_failed_cases_and_other_files_are_ignored(tmp_path, predict):
    write_series(tmp_path / "in" / "a")
    (tmp_path / "in" / "notes.txt").write_text("x")
    (tmp_path / "in" / ".hidden").mkdir()
    os.link(tmp_path / "in" / "a" / "IM1", tmp_path / "in" / "IM1")
    result = predict()
    assert result.exit_code == 1
    assert "IM1: expected a scan named {case}/, got this name, so it was not segmented" in result.output
    assert "put all files of a scan into a folder of their own" in result.output
    assert "ignored in" in result.output
    assert "notes.txt" in result.output
    assert (tmp_path / "out" / "a_Label.dcm").exists()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "expected a folder of DICOM files, got: No such file"),
        (lambda path: path.mkdir(), "expected a folder of DICOM files for each case, got none"),
        (lambda path: path.write_bytes(b"x"), "expected a folder of DICOM files, got a file; name its folder"),
    ],
)
def test_inputs_that_are_no_folder_of_cases(tmp_path, predict, make, said):
    make(tmp_path / "in")
    result = predict()
    assert result.exit_code == 1
    assert said in result.output
