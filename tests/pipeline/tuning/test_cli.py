"""`tune` and `study` as they are called: from folders of scans to settings that `train` takes."""

import csv
import os
import re
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner

from crossmoda_grl.__main__ import main
from pipeline.training import supervised as training
from tests.pipeline.training import test_cli as training_commands

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
data, opened, run, train = (getattr(training_commands, name) for name in ("data", "opened", "run", "train"))


def tune(data: Path, runs: Path, *more: object):
    base = ("--data", data, "--runs", runs, "--config", data / "config.toml", "--device", "cpu", "--structure", "vs")
    return run("tune", *base, *(("--phase", "supervised") if "--phase" not in more else ()), *more)


@pytest.fixture(scope="module")
def tuned(data: Path, tmp_path_factory: pytest.TempPathFactory):
    runs = tmp_path_factory.mktemp("runs")
    return runs, tune(data, runs, "--trials", 3)


def test_a_search_ends_with_settings_trials_page_and_pictures(tuned) -> None:
    runs, result = tuned
    assert result.exit_code == 0, result.output
    folder = runs / "vs-supervised"
    names = "best.toml trials.csv report.html optimization_history.png slice.png param_importances.png contour.png"
    assert result.stdout.splitlines() == [f"{folder}/{name}" for name in names.split()]
    lines = result.stderr.splitlines()
    assert lines[0] == f"study vs-supervised in sqlite:///{folder}/study.db"
    assert "trial 0 running, learning_rate 0.001, dice_weight 3.4, the paper's point" in lines
    assert [line for line in lines if line.startswith("trial 2 complete, learning_rate ")]
    with (folder / "trials.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["state"] for row in rows] == ["complete"] * 3
    assert (float(rows[0]["learning_rate"]), float(rows[0]["dice_weight"])) == (1e-3, 3.4)
    best = max(float(row["score"]) for row in rows)
    assert f": source-dice {best:.4f}" in (folder / "best.toml").read_text().splitlines()[0]


def test_the_page_is_self_contained_and_marks_the_paper_s_point(tuned) -> None:
    page = (tuned[0] / "vs-supervised" / "report.html").read_text()
    assert "default-src 'none'" in page
    assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=[\"'](?!data:)", page)
    # The star, on history, both slices, and contour.
    assert page.count('"symbol":"star"') == 4
    assert "The paper's point, trial 0 on the same budget, has " in page.replace("&#39;", "'")


def test_what_was_found_is_trained_in_one_step(data: Path, tuned, tmp_path: Path) -> None:
    best = tuned[0] / "vs-supervised" / "best.toml"
    more = ("--config", best, "--structure", "vs", "--phase", "supervised", "--device", "cpu")
    result = run("train", "--data", data, "--runs", tmp_path, *more)
    assert result.exit_code == 0, result.output
    with (tuned[0] / "vs-supervised" / "trials.csv").open() as stream:
        score = max(float(row["score"]) for row in csv.DictReader(stream))
    with (tmp_path / "vs" / "supervised" / "history.csv").open() as stream:
        dice = max(float(row["validation_dice"]) for row in csv.DictReader(stream))
    assert dice == pytest.approx(score, abs=1e-4)  # the same settings and seed: the same training


def test_the_same_command_again_finds_all_done_and_study_shows_it(data: Path, tuned) -> None:
    runs, first = tuned
    again = tune(data, runs, "--trials", 3)
    assert again.exit_code == 0, again.output
    assert again.stdout == first.stdout
    assert not [line for line in again.stderr.splitlines() if " running" in line]
    shown = run("study", "--runs", runs, "--study", "vs-supervised")
    assert shown.exit_code == 0, shown.output
    assert "the paper's point" in shown.stdout
    assert shown.stdout.count("complete") == 3


def test_no_label_of_the_target_is_opened_by_either_phase_or_criterion(
    data: Path, tmp_path: Path, opened: list[str]
) -> None:
    assert train(data, tmp_path / "first", "--structure", "vs", "--phase", "supervised").exit_code == 0
    phase_2 = ("--phase", "adaptation", "--from", tmp_path / "first", "--trials", 2)
    for criterion in ("source-dice", "target-volume"):
        result = tune(data, tmp_path, *phase_2, "--study", criterion, "--criterion", criterion)
        assert result.exit_code == 0, result.output
    dice, volume = ((tmp_path / name / "trials.csv").read_text() for name in ("source-dice", "target-volume"))
    assert dice.splitlines()[1].startswith("0,complete,6.7e-05,")  # the paper's rate
    scores = [float(text.splitlines()[1].split(",")[4]) for text in (dice, volume)]
    assert scores[1] <= scores[0]  # the same training, times an agreement of at most 1
    labels = {Path(name.removeprefix("ITK ")).name for name in opened if "_Label" in name}
    assert labels == {f"crossmoda_{number}_Label.nii.gz" for number in (1, 2, 96)}
    assert not [name for name in opened if "target_validation" in name]
    (data / "target_validation_reference" / "crossmoda_211_Label.nii.gz").read_bytes()
    assert [name for name in opened if "target_validation_reference" in name]  # the wire is live


def test_mistakes_end_with_one_line_that_says_what_to_do(data: Path, tuned, tmp_path: Path) -> None:
    def error(code: int, result) -> str:
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.stderr
        return result.stderr.strip().splitlines()[-1]

    runs, _ = tuned
    assert "0 is not in the range x>=1" in error(2, tune(data, tmp_path, "--trials", 0))
    assert "a time such as 90s, 30m or 8h, got soon" in error(
        2, tune(data, tmp_path, "--trials", 1, "--timeout", "soon")
    )
    assert "as in a folder's name, got a/b" in error(2, tune(data, tmp_path, "--trials", 1, "--study", "a/b"))
    assert "--from: expected with --phase adaptation" in error(
        2, tune(data, tmp_path, "--trials", 1, "--phase", "adaptation")
    )
    assert "target-volume: expected --phase adaptation" in error(
        2, tune(data, tmp_path, "--trials", 1, "--criterion", "target-volume")
    )
    nothing = run(
        "tune", "--data", tmp_path, "--runs", tmp_path, "--structure", "vs", "--phase", "supervised", "--trials", 1
    )
    assert "expected a folder source_training or training_source, got none" in error(1, nothing)
    assert "Connection refused" in error(
        1, tune(data, tmp_path, "--trials", 1, "--storage", "postgresql://x@127.0.0.1:1/y")
    )
    assert "got another: epochs was 1, is 2; repeat its options" in error(
        1, tune(data, runs, "--trials", 1, "--epochs", 2)
    )
    unfinished = tune(data, tmp_path, "--trials", 1, "--phase", "adaptation", "--from", runs)
    assert "expected a run, or a folder with runs vs or cochlea, got none" in error(1, unfinished)
    assert "study other: expected one of vs-supervised in sqlite" in error(
        1, run("study", "--runs", runs, "--study", "other", "--storage", f"sqlite:///{runs}/vs-supervised/study.db")
    )
    assert "expected a file of studies, got none" in error(1, run("study", "--runs", tmp_path, "--study", "other"))


def test_an_interruption_s_exit_code_is_the_signal_s(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = training.supervised_loss

    def asked_to_stop(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return loss(*arguments)

    monkeypatch.setattr(training, "supervised_loss", asked_to_stop)
    result = tune(data, tmp_path, "--trials", 2)
    assert result.exit_code == 143
    assert "interrupted by SIGTERM; the same command resumes the search" in result.stderr
    assert "0,retried,0.001,3.4" in (tmp_path / "vs-supervised" / "trials.csv").read_text()


def test_help_says_the_storage_s_variable() -> None:
    result = CliRunner().invoke(main, ["tune", "--help"])
    assert "CROSSMODA_GRL_STORAGE" in result.stdout
