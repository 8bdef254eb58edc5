"""The predict command on folders of other layouts, and on single files of other formats."""

import json
import os

import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner

from challenge.label_tables import itk_snap_labels, slicer_colours
from challenge.layouts import LAYOUTS
from challenge.nifti import ENDINGS, read_geometry
from crossmoda_grl.__main__ import main
from tests.images import PERMUTED, write_scan
from tests.segmenters import write_narrow_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_narrow_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def folders(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in", tmp_path / "out"


def predict(folders, weights, *more):
    options = ["-i", folders[0], "-o", folders[1], "--weights", weights, "--device", "cpu", *more]
    return CliRunner().invoke(main, ["predict", *map(str, options)])


def label_maps(folder):
    """The files below an output folder, but for the record of the results."""
    found = (os.path.relpath(os.path.join(at, name), folder) for at, _, names in os.walk(folder) for name in names)
    return sorted(name for name in found if name not in ("predictions.csv", "predictions.json"))


def values(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


@pytest.fixture
def expected(folders, weights, tmp_path):
    """The label map of the default layout, for the scan that `write_scan` makes."""
    (tmp_path / "default").mkdir()
    write_scan(tmp_path / "default" / "a_hrT2.nii.gz", direction=PERMUTED)
    assert predict((tmp_path / "default", tmp_path / "default_out"), weights).exit_code == 0
    labels = values(tmp_path / "default_out" / "a_Label.nii.gz")
    assert {1, 2} <= set(np.unique(labels))
    return labels


@pytest.mark.parametrize("ending", ENDINGS)
def test_one_file_of_any_format(folders, weights, expected, ending):
    scan = write_scan(folders[0] / f"a{ending}", direction=PERMUTED)
    result = predict((scan, folders[1]), weights)
    assert result.exit_code == 0, result.output
    assert label_maps(folders[1]) == ["a_Label.nii.gz"]
    np.testing.assert_array_equal(values(folders[1] / "a_Label.nii.gz"), expected)
    assert read_geometry(folders[1] / "a_Label.nii.gz").same_place(read_geometry(scan), tolerance=1e-6)


def test_a_file_with_a_scans_name_keeps_its_case(folders, weights):
    write_scan(folders[0] / "a_hrT2.nii.gz")
    write_scan(folders[0] / "b_hrT2.nii.gz")
    result = predict((folders[0] / "a_hrT2.nii.gz", folders[1]), weights)
    assert result.exit_code == 0, result.output
    assert label_maps(folders[1]) == ["a_Label.nii.gz"]


@pytest.mark.parametrize("name", ["a.dcm", ".nii.gz", "a\x1b.nii.gz"])
def test_a_file_that_is_no_scan_by_name(folders, weights, name):
    (folders[0] / name).write_bytes(b"x")
    result = predict((folders[0] / name, folders[1]), weights)
    assert result.exit_code == 1
    assert "expected a scan that ends in" in result.output
    assert "\x1b" not in result.output


def test_2023_has_three_labels_and_one_stays_unwritten(folders, weights, expected):
    write_scan(folders[0] / "a_T2.nii.gz", direction=PERMUTED)
    for _ in range(2):
        result = predict(folders, weights, "--layout", "crossmoda2023", "--skip-existing")
        assert result.exit_code == 0, result.output
        assert "label 2 (intra-meatal VS) is not written" in result.output
    assert "skipped, a.nii.gz is there" in result.output
    assert label_maps(folders[1]) == ["a.nii.gz"]
    np.testing.assert_array_equal(values(folders[1] / "a.nii.gz"), np.array([0, 1, 3])[expected])
    record = json.loads((folders[1] / "predictions.json").read_text())["cases"]["a"]
    assert record["made_by"]["options"]["layout"] == "crossmoda2023"
    # A map with the labels of 2021 is not taken for one of 2023, and is made anew.
    write_scan(folders[1] / "a.nii.gz", expected.astype(np.uint8), direction=PERMUTED)
    result = predict(folders, weights, "--layout", "crossmoda2023", "--skip-existing", "--colours")
    assert "skipped" not in result.output
    assert set(np.unique(values(folders[1] / "a.nii.gz"))) == {0, 1, 3}
    assert label_maps(folders[1]) == ["a.nii.gz", "labels.ctbl", "labels.label"]
    assert (folders[1] / "labels.label").read_text() == itk_snap_labels(LAYOUTS["crossmoda2023"])
    assert (folders[1] / "labels.ctbl").read_text() == slicer_colours(LAYOUTS["crossmoda2023"])


def make_socket(folder, socket, *cases, inputs_json="socket"):
    (folder / "images" / socket).mkdir(parents=True)
    for case in cases:
        write_scan(folder / "images" / socket / f"{case}.mha", direction=PERMUTED)
    if inputs_json:
        told = {"slug": socket, "relative_path": f"images/{socket}", "super_kind": "Image"}
        number = {"slug": "age", "relative_path": "age.json", "super_kind": "Value"}
        entries = [{inputs_json: number, "value": 55}, {inputs_json: told, "image": {"name": "a.mha"}}]
        (folder / "inputs.json").write_text(json.dumps(entries))


@pytest.mark.parametrize("inputs_json", ["socket", "interface", None])
@pytest.mark.parametrize("named", [False, True])
def test_grand_challenge(folders, weights, expected, inputs_json, named):
    make_socket(folders[0], "t2-brain-mri", "a", inputs_json=inputs_json)
    options = ["--layout", "grand-challenge", "--output-socket", "vs-and-cochlea"] if named else []
    result = predict(folders, weights, *options)
    assert result.exit_code == 0, result.output
    assert "layout grand-challenge" in result.output
    written = f"images/{'vs-and-cochlea' if named else 't2-brain-mri'}/a.mha"
    assert label_maps(folders[1]) == [written]
    np.testing.assert_array_equal(values(folders[1] / written), expected)
    scan = folders[0] / "images" / "t2-brain-mri" / "a.mha"
    assert read_geometry(folders[1] / written).same_place(read_geometry(scan), tolerance=1e-6)


def test_grand_challenge_has_one_case_a_run(folders, weights):
    make_socket(folders[0], "t2", "a", "b")
    result = predict(folders, weights)
    assert result.exit_code == 1
    assert "expected one scan a run, got 2: a, b" in result.output


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ("{", "expected a list of objects"),
        ('[{"socket": {"relative_path": "images/../../etc"}}]', "expected one image socket"),
        ('[{"socket": {"relative_path": "age.json"}}]', "expected one image socket, got none"),
        (
            '[{"socket": {"relative_path": "images/a"}}, {"socket": {"relative_path": "images/b"}}]',
            "images/a, images/b",
        ),
    ],
)
def test_bad_inputs_json(folders, weights, inputs, said):
    make_socket(folders[0], "t2", "a")
    (folders[0] / "inputs.json").write_text(inputs)
    result = predict(folders, weights, "--layout", "grand-challenge")
    assert result.exit_code == 1
    assert said in result.output


def test_an_output_socket_leads_nowhere_else(folders, weights):
    make_socket(folders[0], "t2", "a")
    result = predict(folders, weights, "--output-socket", "../../x")
    assert result.exit_code == 1
    assert "expected a slug" in result.output


def test_scans_of_2021_beside_a_folder_images_are_scans_of_2021(folders, weights):
    make_socket(folders[0], "t2", "b")
    write_scan(folders[0] / "a_hrT2.nii.gz")
    result = predict(folders, weights)
    assert result.exit_code == 0, result.output
    assert label_maps(folders[1]) == ["a_Label.nii.gz"]


def write_dataset(folder, **changes):
    document = {"channel_names": {"0": "hrT2"}, "labels": {"background": 0, "VS": 1, "cochlea": 2}, "numTraining": 0}
    (folder / "dataset.json").write_text(json.dumps({**document, "file_ending": ".nii.gz", **changes}))


@pytest.mark.parametrize("ending", ENDINGS)
def test_nnunet(folders, weights, expected, ending):
    (folders[0] / "imagesTs").mkdir()
    write_scan(folders[0] / "imagesTs" / f"a_0000{ending}", direction=PERMUTED)
    write_dataset(folders[0], file_ending=ending)
    result = predict(folders, weights, "--layout", "nnunet")
    assert result.exit_code == 0, result.output
    assert label_maps(folders[1]) == [f"a{ending}"]
    np.testing.assert_array_equal(values(folders[1] / f"a{ending}"), expected)


def test_nnunet_without_a_dataset(folders, weights):
    write_scan(folders[0] / "a_0000.nii.gz")
    result = predict(folders, weights, "--layout", "nnunet", "--save-probabilities")
    assert result.exit_code == 0, result.output
    assert label_maps(folders[1]) == ["a.nii.gz", "probabilities/a_cochlea.nii.gz", "probabilities/a_vs.nii.gz"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"channel_names": {"0": "T1", "1": "T2"}}, "expected one channel"),
        ({"labels": {"background": 0, "cochlea": 1, "VS": 2}}, "expected the labels 1 vs, 2 cochlea"),
        ({"file_ending": ".png"}, "expected a file_ending of"),
    ],
)
def test_a_dataset_that_does_not_fit(folders, weights, changes, said):
    write_scan(folders[0] / "a_0000.nii.gz")
    write_dataset(folders[0], **changes)
    result = predict(folders, weights, "--layout", "nnunet")
    assert result.exit_code == 1
    assert said in result.output


@pytest.mark.parametrize(
    ("layout", "scan", "near", "advice"),
    [
        ("crossmoda2021", "a_hrT2.nii.gz", "b_T2.nii.gz", "rename it to b_hrT2.nii.gz"),
        ("crossmoda2023", "a_T2.nii.gz", "b_hrT2.nii.gz", "rename it to b_T2.nii.gz"),
        ("crossmoda2023", "a_T2.nii.gz", "b_T2.nii", "compress it to b_T2.nii.gz"),
        ("crossmoda2023", "a_T2.nii.gz", "b.mha", "convert it to b_T2.nii.gz"),
        ("grand-challenge", "images/t2/a.mha", "images/t2/b.nii.gz", "convert it to b.mha"),
        ("nnunet", "imagesTs/a_0000.nii.gz", "imagesTs/b.nii.gz", "rename it to b_0000.nii.gz"),
        ("nnunet", "imagesTs/a_0000.nii.gz", "imagesTs/b_0000.nii", "compress it to b_0000.nii.gz"),
    ],
)
def test_near_misses_of_every_layout_fail(folders, weights, layout, scan, near, advice):
    for name in (scan, near):
        (folders[0] / name).parent.mkdir(parents=True, exist_ok=True)
        write_scan(folders[0] / name)
    result = predict(folders, weights, "--layout", layout)
    assert result.exit_code == 1
    assert advice in result.output
    assert len(label_maps(folders[1])) == 1


def test_near_misses_are_tried_for_every_layout():
    (mark,) = test_near_misses_of_every_layout_fail.pytestmark
    # Loose files beside folders of DICOM series: test_predict.py of dicom.
    assert {case[0] for case in mark.args[1]} == {name for name, layout in LAYOUTS.items() if not layout.dicom}
