"""The Python interface as a researcher meets it: what `import crossmoda_grl` offers, and what comes back."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner

import crossmoda_grl
from crossmoda_grl.__main__ import main
from tests.images import FLIPPED, make_image, noise, write_scan
from tests.segmenters import write_narrow_weights

ROOT = Path(__file__).parents[2]
SPACING_ZYX = (1.5, 0.6, 0.5)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return crossmoda_grl.load(write_narrow_weights(tmp_path_factory.mktemp("weights")), device="cpu")


@pytest.fixture
def scan(tmp_path):
    return write_scan(tmp_path / "crossmoda_1_hrT2.nii.gz", noise((12, 20, 16)), spacing_mm=SPACING_ZYX[::-1])


def test_import_imports_nothing_heavy():
    code = "import sys, crossmoda_grl; crossmoda_grl.__version__, dir(crossmoda_grl)\n"
    code += "assert not {'torch', 'numpy', 'SimpleITK', 'scipy', 'pipeline', 'evaluation'} & set(sys.modules)\n"
    code += "crossmoda_grl.score, crossmoda_grl.rank, crossmoda_grl.CaseError\n"
    code += "assert 'torch' not in sys.modules\n"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_every_name_is_there_documented_and_listed():
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)", page, flags=re.MULTILINE)
    assert sorted(listed) == sorted(crossmoda_grl.__all__) == dir(crossmoda_grl)
    for name in crossmoda_grl.__all__:
        assert inspect.getdoc(getattr(crossmoda_grl, name)), name
    assert (Path(crossmoda_grl.__file__).parent / "py.typed").exists()
    with pytest.raises(AttributeError, match="no attribute 'segment'"):
        _ = crossmoda_grl.segment


def test_signatures_are_typed_and_those_of_the_page():
    def names(function):
        return list(inspect.signature(function).parameters)

    assert names(crossmoda_grl.load) == ["weights", "device"]
    assert names(crossmoda_grl.Model.segment) == ["self", "scan", "spacing_mm", "overlap"]
    assert names(crossmoda_grl.score)[:2] == ["reference", "prediction"]
    assert names(crossmoda_grl.rank)[:1] == ["scores"]
    for function in (crossmoda_grl.load, crossmoda_grl.Model.segment, crossmoda_grl.score, crossmoda_grl.rank):
        parameters = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
        assert all(p.annotation is not p.empty for p in parameters), function
        assert inspect.signature(function).return_annotation is not inspect.Signature.empty


def test_file_image_and_array_give_the_same(model, scan):
    image = sitk.ReadImage(str(scan))
    array = sitk.GetArrayFromImage(image)
    by_file, by_image, by_array = (
        model.segment(str(scan)),
        model.segment(image),
        model.segment(array, spacing_mm=SPACING_ZYX),
    )
    for other in (by_image, by_array):
        np.testing.assert_allclose(other.probabilities["vs"], by_file.probabilities["vs"], atol=1e-5)
        assert other.volumes_mm3 == pytest.approx(by_file.volumes_mm3, rel=0.02)
    assert by_file.labels.shape == array.shape
    assert by_file.labels.dtype == np.uint8
    assert set(by_file.probabilities) == set(by_file.volumes_mm3) == set(by_file.components) == {"vs", "cochlea"}
    assert by_file.volumes_mm3["vs"] == pytest.approx((by_file.labels == 1).sum() * np.prod(SPACING_ZYX), rel=1e-5)


def test_the_same_label_map_as_predict_on_the_scan_s_grid(tmp_path, model):
    write_scan(tmp_path / "crossmoda_1_hrT2.nii.gz", noise((12, 20, 16)), direction=FLIPPED, origin_mm=(3.0, 4.0, 5.0))
    weights = write_narrow_weights(tmp_path / "weights")
    options = ["--input", tmp_path, "--output", tmp_path / "out", "--weights", weights, "--device", "cpu"]
    assert CliRunner().invoke(main, ["predict", *map(str, options)]).exit_code == 0
    prediction = model.segment(tmp_path / "crossmoda_1_hrT2.nii.gz")
    prediction.save(tmp_path / "ours.nii.gz")
    ours, theirs = (nibabel.load(p) for p in (tmp_path / "ours.nii.gz", tmp_path / "out/crossmoda_1_Label.nii.gz"))
    np.testing.assert_array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj))
    np.testing.assert_array_equal(ours.affine, theirs.affine)
    assert ours.header["descrip"].item().decode() == f"crossmoda-grl {crossmoda_grl.__version__}"
    assert prediction.image.GetOrigin() == (3.0, 4.0, 5.0)


def test_weights_without_knowledge_say_so(model):
    assert model.trained_on.splitlines() == [
        "weights: their card does not say what they were trained on",
        "the cards of VS and Cochlea do not say what is usual: no volume or scan is told as unusual",
    ]
    assert model.cards["vs"]["label"] == 1


@pytest.mark.parametrize("name", ["best", "paper"])
def test_shipped_weights_know_their_scans(name):
    model = crossmoda_grl.load(name, device="cpu")
    assert "trained on phantoms alone" in model.trained_on
    assert "do not say" not in model.trained_on
    assert all(k.volumes is not None and k.scans is not None for k in model.known.values())


BAD = {
    "2-D": (np.zeros((3, 4)), {"spacing_mm": (1, 1, 1)}, "expected numbers \\(D, H, W\\)"),
    "spacing": (noise((3, 4, 5)), {"spacing_mm": (1, 0, 1)}, "expected three spacings above 0 mm"),
    "NaN": (np.full((3, 4, 5), np.nan), {"spacing_mm": (1, 1, 1)}, "expected voxels in float32's range"),
    "constant": (make_image(np.ones((3, 4, 5), dtype="int16")), {}, "expected a scan with contrast"),
    "2-D image": (sitk.GetImageFromArray(np.eye(4)), {}, "expected a 3-D scan"),
    "no file": ("nowhere.nii.gz", {}, "expected a file in"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_scans_are_case_errors(model, name):
    scan, options, message = BAD[name]
    with pytest.raises(crossmoda_grl.CaseError, match=message):
        model.segment(scan, **options)


def test_a_spacing_belongs_to_arrays_alone(model, scan):
    for given, options in ((noise((3, 4, 5)), {}), (scan, {"spacing_mm": (1, 1, 1)})):
        with pytest.raises(TypeError, match="expected spacing_mm"):
            model.segment(given, **options)


def test_missing_weights(tmp_path):
    with pytest.raises(crossmoda_grl.WeightsError, match="expected the card of the weights for VS"):
        crossmoda_grl.load(tmp_path)


def test_score_and_rank(tmp_path):
    labels = np.zeros((6, 12, 14), dtype=np.uint8)
    labels[2:4, 3:8, 3:7], labels[2:4, 3:8, 9:12] = 1, 2
    for name, shift in (("reference", 0), ("teams/a", 0), ("teams/b", 1)):
        (tmp_path / name).mkdir(parents=True)
        for case in ("crossmoda_211", "crossmoda_212"):
            write_scan(tmp_path / name / f"{case}_Label.nii.gz", np.roll(labels, shift, axis=1))
    scores = crossmoda_grl.score(tmp_path / "reference", tmp_path / "teams")
    assert [(c.team, c.aggregates["vs"].metrics["dice"].mean) for c in scores] == [
        ("a", 1.0),
        ("b", pytest.approx(0.8)),
    ]
    ranking = crossmoda_grl.rank(scores, samples=10)
    assert (ranking.teams, ranking.ranks.tolist()) == (("a", "b"), [1, 2])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="got none that can be used"):
        crossmoda_grl.score(tmp_path / "reference", tmp_path / "empty")


def test_the_notebook_runs(monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "notebooks" / "quickstart.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "kept without outputs"
    nbclient.NotebookClient(notebook, timeout=500, kernel_name="python3").execute()
    last = "".join(output.get("text", "") for output in notebook.cells[-1].outputs)
    dice = dict(re.findall(r"'(\w+)': ([\d.]+)", last))
    assert float(dice["cochlea"]) > 0.5, last
