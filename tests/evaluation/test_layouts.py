"""Scoring and ranking in other layouts: 2023's three labels, and what grand-challenge's evaluation containers do."""

import json

import medpy.metric.binary as medpy
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from click.testing import CliRunner
from monai.metrics import compute_dice

from challenge.layouts import CROSSMODA_2023, LAYOUTS
from crossmoda_grl import rank, score
from crossmoda_grl.__main__ import main
from evaluation.score_files import read_score_file
from tests.images import write_scan

SPACING = (0.4, 0.5, 1.5)


def blobs(seed):
    """A map with two touching parts of a tumour, labels 1 and 2, and a cochlea, label 3."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((12, 24, 20), np.uint8)
    for label, (z, y, x) in ((1, (2, 4, 3)), (2, (2, 10, 3)), (3, (7, 16, 12))):
        dz, dy, dx = rng.integers(0, 2, 3)
        labels[z + dz : z + 4 + dz, y + dy : y + 6 + dy, x + dx : x + 5 + dx] = label
    return labels


@pytest.fixture
def cohort(tmp_path):
    for case in ("a", "b", "c"):
        for number, folder in enumerate(("reference", "one", "two")):
            (tmp_path / folder).mkdir(exist_ok=True)
            write_scan(tmp_path / folder / f"{case}.nii.gz", blobs(ord(case) * 10 + number), spacing_mm=SPACING)
    return tmp_path


def evaluate(*arguments):
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def test_2023_agrees_with_medpy_and_monai(cohort):
    (scores,) = score(cohort / "reference", cohort / "one", layout="crossmoda2023", asd="pooled")
    assert [s.key for s in scores.structures] == ["extrameatal", "intrameatal", "vs", "cochlea"]
    for result in scores.results:
        reference, prediction = (
            sitk.GetArrayFromImage(sitk.ReadImage(str(cohort / folder / f"{result.case}.nii.gz")))
            for folder in ("reference", "one")
        )
        for key, labels in {"extrameatal": [1], "intrameatal": [2], "vs": [1, 2], "cochlea": [3]}.items():
            ours, theirs = np.isin(prediction, labels), np.isin(reference, labels)
            of = result.structures[key]
            assert 0 < of.dice <= 1
            assert of.dice == pytest.approx(medpy.dc(ours, theirs))
            monai = compute_dice(torch.tensor(ours)[None, None], torch.tensor(theirs)[None, None]).item()
            assert of.dice == pytest.approx(monai, abs=1e-6)
            assert of.assd_mm == pytest.approx(medpy.assd(ours, theirs, voxelspacing=SPACING[::-1]))
            assert of.hd95_mm == pytest.approx(medpy.hd95(ours, theirs, voxelspacing=SPACING[::-1]))


def test_2023_score_files_come_back_and_are_ranked(cohort):
    files = []
    for team in ("one", "two"):
        files += [cohort / f"{team}.json", cohort / f"{team}.csv"]
        given = ["--reference", cohort / "reference", "--prediction", cohort / team, "--layout", "crossmoda2023"]
        result = evaluate("score", *given, "--json", files[-2], "--csv", files[-1])
        assert result.exit_code == 0, result.output
        assert "Intra-meatal VS Dice" in result.stdout
        for path in files[-2:]:
            (read,) = read_score_file(path)
            assert read.structures == CROSSMODA_2023.scored
            assert read.results[0].structures == read_score_file(files[-2])[0].results[0].structures
    for of_kind in (files[::2], files[1::2]):
        result = evaluate("rank", *of_kind)
        assert result.exit_code == 0, result.output
    ranking = rank(files[::2], samples=10)
    assert ranking.metric_ranks.shape == (3, 2, 8)
    assert {"Extra-meatal VS_Dice", "VS_ASSD", "Cochlea_Dice"} <= set(ranking.p_values)
    # By hand: the mean of the 8 ranks of each case, then of the cases.
    ones, twos = (read_score_file(path)[0].results for path in files[::2])
    ranks = []
    for one, two in zip(ones, twos, strict=True):
        for key in one.structures:
            a, b = one.structures[key], two.structures[key]
            ranks += [1 + (b.dice > a.dice), 1 + (b.assd_mm < a.assd_mm)]
    assert ranking.scores[ranking.teams.index("one")] == pytest.approx(np.mean(ranks))


def test_years_do_not_mix(cohort):
    given = ["--reference", cohort / "reference", "--prediction", cohort / "one", "--layout", "crossmoda2023"]
    assert evaluate("score", *given, "--json", cohort / "new.json").exit_code == 0
    (cohort / "old.csv").write_text("Case,VS_Dice,VS_ASSD,Cochlea_Dice,Cochlea_ASSD,Team\na,0.5,1,0.5,1,two\n")
    result = evaluate("rank", cohort / "new.json", cohort / "old.csv")
    assert result.exit_code == 1
    assert "expected the same structures in all files" in result.output


def test_a_report_of_2023_has_its_structures_and_no_published_figures(cohort):
    (cohort / "teams").mkdir()
    for team in ("one", "two"):
        (cohort / team).rename(cohort / "teams" / team)
    given = ["--reference", cohort / "reference", "--prediction", cohort / "teams"]
    result = evaluate("score", *given, "--layout", "crossmoda2023", "--json", cohort / "scores.json")
    assert result.exit_code == 0, result.output
    page, text = cohort / "report.html", cohort / "report.md"
    result = evaluate("report", cohort / "scores.json", *given, "--out", page, "--markdown", text, "--worst", "1")
    assert result.exit_code == 0, result.output
    for written in (page.read_text(), text.read_text()):
        assert all(structure.title in written for structure in CROSSMODA_2023.scored)
        assert "Kondo" not in written
    # Of each team one case, with both parts of the tumour and the cochlea; the whole tumour is not drawn over them.
    assert page.read_text().count('<figure class="stack"') == 2 * 3
    assert "Significance by Intra-meatal VS ASSD" in page.read_text()
    for more, said in ((["--published"], "expected scores of VS"), (["--layout", "nnunet"], "with other structures")):
        result = evaluate("report", cohort / "scores.json", *given, "--out", page, *more)
        assert result.exit_code == 1
        assert said in result.output


def test_a_reference_of_2023_is_not_scored_as_one_of_2021(cohort):
    (cohort / "old").mkdir()
    write_scan(cohort / "old" / "a_Label.nii.gz", blobs(1))
    result = evaluate("score", "--reference", cohort / "old", "--prediction", cohort / "old")
    assert result.exit_code == 1
    assert "got also 3 in" in result.output
    assert "another --layout" in result.output


def test_a_name_of_2021_is_told_among_those_of_2023(cohort):
    (cohort / "one" / "a.nii.gz").rename(cohort / "one" / "a.nii")
    given = ["--reference", cohort / "reference", "--prediction", cohort / "one", "--layout", "crossmoda2023"]
    result = evaluate("score", *given)
    assert result.exit_code == 1
    assert "a.nii.gz: expected a label map, got no such file; scored as empty (found a.nii: rename it to a.nii.gz)" in (
        result.output
    )


def job(pk, case, key="socket", output=True):
    told = [{"image": {"name": f"{case}.mha"}, key: {"slug": "t2", "relative_path": "images/t2"}}]
    written = [{"image": {"name": "output.mha"}, key: {"slug": "vs", "relative_path": "images/vs"}}]
    value = {"image": None, "value": 3, key: {"slug": "age", "relative_path": "age.json"}}
    return {"pk": pk, "inputs": [*told, value], "outputs": written if output else []}


@pytest.fixture
def platform(tmp_path):
    """An evaluation container's /input and ground truth; the first prediction is the reference itself."""
    for folder in ("truth", "input/1-a/output/images/vs", "input/2-b/output/images/vs"):
        (tmp_path / folder).mkdir(parents=True)
    for seed, (case, pk) in enumerate((("a", "1-a"), ("b", "2-b"))):
        labels = np.where(blobs(seed) == 3, 0, blobs(seed))
        write_scan(tmp_path / "truth" / f"{case}.mha", labels)
        predicted = labels if case == "a" else np.roll(labels, 1, axis=2)
        write_scan(tmp_path / "input" / pk / "output" / "images" / "vs" / "output.mha", predicted)
    return tmp_path


@pytest.mark.parametrize("key", ["socket", "interface"])
def test_evaluation_container(platform, key):
    (platform / "input" / "predictions.json").write_text(json.dumps([job("2-b", "b", key), job("1-a", "a", key)]))
    given = ["--reference", platform / "truth", "--prediction", platform / "input", "--layout", "grand-challenge"]
    scores, page = platform / "scores.json", platform / "report.html"
    result = evaluate("score", *given, "--metrics", platform / "metrics.json", "--json", scores)
    assert result.exit_code == 0, result.output
    result = evaluate("report", scores, *given, "--out", page)
    assert result.exit_code == 0, result.output
    assert page.read_text().count('<figure class="stack"') == 2 * 2
    metrics = json.loads((platform / "metrics.json").read_text())
    assert set(metrics) == {"results", "aggregates"}
    assert [entry["case"] for entry in metrics["results"]] == ["a", "b"]
    assert metrics["results"][0]["vs"]["dice"] == 1
    dices = [entry["vs"]["dice"] for entry in metrics["results"]]
    assert 0 < dices[1] < 1
    assert metrics["aggregates"]["vs"]["dice"]["mean"] == pytest.approx(np.mean(dices))
    for summary in (s for of in metrics["aggregates"].values() for s in of.values()):
        assert all(isinstance(value, (int, float)) for value in summary.values())


def test_a_job_without_an_output_is_missing(platform):
    (platform / "input" / "predictions.json").write_text(json.dumps([job("1-a", "a"), job("2-b", "b", output=False)]))
    given = ["--reference", platform / "truth", "--prediction", platform / "input", "--layout", "grand-challenge"]
    result = evaluate("score", *given)
    assert result.exit_code == 1
    assert "b.mha: expected a label map, got no such file" in result.output


def test_an_output_that_is_a_link_to_the_truth_is_refused(platform):
    images = platform / "input" / "1-a" / "output" / "images"
    (images / "vs").rename(images / "own")
    (images / "vs").symlink_to(platform / "truth")
    (platform / "truth" / "b.mha").unlink()
    (platform / "input" / "predictions.json").write_text(json.dumps([job("1-a", "a")]))
    given = ["--reference", platform / "truth", "--prediction", platform / "input", "--layout", "grand-challenge"]
    result = evaluate("score", *given)
    assert result.exit_code == 1
    assert "a link out of the output of a" in result.output


@pytest.mark.parametrize(
    ("jobs", "said"),
    [
        ([job("../../truth", "a")], "a job or socket named"),
        ([job("1-a", "a"), job("2-b", "a")], "two jobs of a"),
        ({"pk": 1}, "list of jobs"),
        ([{"pk": "1-a", "inputs": [], "outputs": []}], "0 images of a job"),
    ],
)
def test_bad_predictions_json(platform, jobs, said):
    (platform / "input" / "predictions.json").write_text(json.dumps(jobs))
    given = ["--reference", platform / "truth", "--prediction", platform / "input", "--layout", "grand-challenge"]
    result = evaluate("score", *given)
    assert result.exit_code == 1
    assert said in result.output


def test_an_unknown_layout_is_named(cohort):
    with pytest.raises(ValueError, match=", ".join(LAYOUTS)):
        score(cohort / "reference", cohort / "one", layout="crossmoda2024")
