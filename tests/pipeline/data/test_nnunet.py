"""Datasets of nnU-Net: written by its rules, and read back for training."""

import json
import re

import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner

from challenge.contract import STRUCTURES
from challenge.layouts import NNUNET
from crossmoda_grl.__main__ import main
from pipeline.data.dataset import DataError, find_training_data
from pipeline.training.options import RunOptions
from pipeline.training.session import plan_runs
from tests.images import write_scan


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    out = tmp_path_factory.mktemp("phantoms") / "data"
    counts = ["--source", "2", "--target", "1", "--validation", "1"]
    made = CliRunner().invoke(main, ["phantom", "--out", str(out), *counts, "--hardness", "easy"])
    assert made.exit_code == 0, made.output
    return out


@pytest.fixture
def dataset(phantoms, tmp_path):
    out = tmp_path / "Dataset001_Phantoms"
    result = export(phantoms, out)
    assert result.exit_code == 0, result.output
    return out


def export(data, out):
    return CliRunner().invoke(main, ["export-dataset", "--data", str(data), "--out", str(out)])


def changed(dataset, **changes):
    path = dataset / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_rules_of_the_format(dataset, phantoms):
    """What `documentation/dataset_format.md` of nnU-Net v2 asks for."""
    assert re.fullmatch(r"Dataset\d{3}_\w+", dataset.name)
    document = json.loads((dataset / "dataset.json").read_text())
    assert set(document) == {"channel_names", "labels", "numTraining", "file_ending"}
    assert document["channel_names"] == {"0": "MRI"}
    assert document["labels"] == {"background": 0, "VS": 1, "Cochlea": 2}
    assert sorted(document["labels"].values()) == list(range(len(STRUCTURES) + 1))
    ending = document["file_ending"]
    names = {
        folder: sorted(p.name for p in (dataset / folder).iterdir()) for folder in ("imagesTr", "labelsTr", "imagesTs")
    }
    assert document["numTraining"] == len(names["imagesTr"]) == 2
    assert names["imagesTr"] == [f"crossmoda_{n}_0000{ending}" for n in (1, 2)]
    assert names["labelsTr"] == [f"crossmoda_{n}{ending}" for n in (1, 2)]
    assert names["imagesTs"] == [f"crossmoda_106_0000{ending}"]
    for case in ("crossmoda_1", "crossmoda_2"):
        scan, labels = (
            sitk.ReadImage(str(dataset / name))
            for name in (f"imagesTr/{case}_0000{ending}", f"labelsTr/{case}{ending}")
        )
        assert scan.GetSize() == labels.GetSize()
        assert scan.GetSpacing() == labels.GetSpacing()
        assert scan.GetDirection() == labels.GetDirection()
        assert set(np.unique(sitk.GetArrayFromImage(labels))) == {0, 1, 2}
    copied, original = (
        dataset / "labelsTr" / "crossmoda_1.nii.gz",
        phantoms / "source_training" / "crossmoda_1_Label.nii.gz",
    )
    assert copied.read_bytes() == original.read_bytes()
    assert (dataset / "phantom.json").exists()


def test_it_is_read_back_as_the_same_training_data(dataset, phantoms):
    ours = find_training_data(phantoms, validation_cases=1)
    theirs = find_training_data(dataset, validation_cases=1, layout=NNUNET)
    for part, cases in ours.parts.items():
        assert [(c.case, c.geometry) for c in cases] == [(c.case, c.geometry) for c in theirs.parts[part]]
        assert all(c.cohort_folder == dataset.resolve() for c in theirs.parts[part])
    assert [c.labels for c in theirs.target_training] == [None]


def test_train_takes_it(dataset, tmp_path):
    common = (dataset, tmp_path, "all", "all", None, "cpu", None, None, 1, "cpu", None, 0)
    plans = plan_runs(RunOptions(*common, layout="nnunet"))
    assert [len(cases) for cases in plans[0].data.parts.values()] == [1, 1, 1]
    result = CliRunner().invoke(main, ["train", "--data", str(dataset), "--runs", str(tmp_path / "runs")])
    assert result.exit_code == 1
    assert "expected a folder source_training" in result.output


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: changed(d, numTraining=7), "expected numTraining = 2, the scans in imagesTr, got 7"),
        (lambda d: changed(d, labels={"background": 0, "VS": 2, "Cochlea": 1}), "expected the labels 1 vs, 2 cochlea"),
        (lambda d: changed(d, channel_names={"0": "a", "1": "b"}), "expected one channel"),
        (lambda d: changed(d, file_ending=".mha"), "expected files named {case}_0000.mha, got none"),
        (lambda d: (d / "dataset.json").write_text("{}"), "as nnU-Net v2 has them"),
        (lambda d: (d / "dataset.json").write_text("["), "expected JSON"),
        (lambda d: (d / "labelsTr" / "crossmoda_1.nii.gz").unlink(), "expected a label map beside every scan"),
        (lambda d: write_scan(d / "labelsTr" / "crossmoda_1.nii.gz"), "expected its scan's grid"),
        (lambda d: (d / "imagesTs" / "crossmoda_106_0000.nii.gz").unlink(), "imagesTs: expected files named"),
    ],
)
def test_a_dataset_that_does_not_fit(dataset, change, said):
    change(dataset)
    with pytest.raises(DataError, match=re.escape(said)):
        find_training_data(dataset, validation_cases=1, layout=NNUNET)


def test_export_refuses_another_name_and_a_full_folder(phantoms, dataset, tmp_path):
    assert "expected a name as nnU-Net takes it" in export(phantoms, tmp_path / "mine").output
    result = export(phantoms, dataset)
    assert result.exit_code == 1
    assert "expected a new or empty folder" in result.output
    result = export(tmp_path / "nowhere", tmp_path / "Dataset002_x")
    assert result.exit_code == 1
    assert "expected a folder source_training" in result.output
