"""`reproduce` from end to end on tiny phantoms: data in, the paper's table beside ours out."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from challenge.contract import STRUCTURES
from crossmoda_grl import reproduction
from crossmoda_grl.__main__ import main
from evaluation.score_files import scores_from_json
from pipeline.training import epoch_end, self_training
from tests.segmenters import found_somewhere

TINY = """
window = 48
batch_size = 2
epochs = 1
patches_per_volume = 1
overlap = 0.0
channels = [4, 8, 16]
"""
REFERENCES = "target_validation_reference"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    counts = ["--source", "2", "--target", "1", "--validation", "1"]
    made = CliRunner().invoke(main, ["phantom", "--out", str(root), *counts, "--seed", "5"])
    assert made.exit_code == 0, made.output
    (root / "tiny.toml").write_text(TINY)
    return root


def reproduce(data: Path, out: Path, *more: str) -> Result:
    settings = ["--recipe", "cpu", "--config", str(data / "tiny.toml"), "--validation-cases", "1", "--device", "cpu"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return CliRunner().invoke(main, ["reproduce", "--data", str(data), "--out", str(out), *settings, *more])
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def made(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """All of it, the references coming only when the label maps stand: before, nothing can have looked at them."""
    out, kept = tmp_path_factory.mktemp("out") / "new", tmp_path_factory.mktemp("kept")
    shutil.move(data / REFERENCES, kept)
    (data / REFERENCES).mkdir()
    run = reproduction._run

    def run_with_references_late(command, *arguments):
        if arguments[0] == "score":
            shutil.copytree(kept / REFERENCES, data / REFERENCES, dirs_exist_ok=True)
        return run(command, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproduction, "_run", run_with_references_late)
        return out, reproduce(data, out)


def test_from_data_to_the_paper_s_table(data: Path, made: tuple[Path, Result]) -> None:
    out, result = made
    assert result.exit_code == 0, result.output
    # The result is the table alone, as Markdown; what the steps print is progress.
    lines = result.stdout.splitlines()
    assert lines[0] == "## crossMoDA segmentation report"
    assert lines[2].startswith("> **Phantom data.** ")
    rows = [line for line in lines if line.startswith("| ") and "±" in line]
    # The paper's rows are left out: phantoms must not be compared with them.
    assert [row.split(" | ")[:2] for row in rows] == [["| crossmoda-grl", "VS"], ["| crossmoda-grl", "Cochlea"]]
    assert lines[-2].startswith("- VS: The network of phase 2 (adaptation), epoch 1 (the last), trained on phantoms")
    assert "window 48 instead of 128" in lines[-2]
    assert (out / "report.md").read_text() == result.stdout

    steps = [line.split()[2:4] for line in result.stderr.splitlines() if line.startswith("$ crossmoda-grl ")]
    assert [step[0] for step in steps] == ["train", "export", "predict", "evaluate", "evaluate"]
    assert f"{data}: phantoms, not patients" in result.stderr
    assert sorted(path.name for path in out.iterdir()) == [
        "labels", "report.html", "report.md", "runs", "scores.csv", "scores.json", "weights",
    ]  # fmt: skip
    [cohort] = scores_from_json((out / "scores.json").read_text())
    assert [case.case for case in cohort.results] == ["crossmoda_211"]


def test_the_same_command_again_repeats_nothing_and_a_bad_scan_loses_no_other(
    data: Path, made: tuple[Path, Result]
) -> None:
    out, first = made
    bad = data / "target_validation" / "crossmoda_212_hrT2.nii.gz"
    bad.write_bytes(b"no scan")
    try:
        again = reproduce(data, out, "--reference", str(data / REFERENCES))
    finally:
        bad.unlink()
    assert again.exit_code == 1
    assert again.stderr.count("finished, 1 epoch") == 2 * len(STRUCTURES)
    assert "skipped, crossmoda_211_Label.nii.gz is there" in again.stderr
    assert "1 of 2 cases failed" in again.stderr
    table = [line for line in first.stdout.splitlines() if line.startswith("|")]
    assert [line for line in again.stdout.splitlines() if line.startswith("|")] == table


def test_other_weights_leave_no_label_map_behind_and_no_references_no_table(
    data: Path, made: tuple[Path, Result], tmp_path: Path
) -> None:
    out, _ = made
    for entry in data.iterdir():
        if entry.name != REFERENCES:
            (tmp_path / entry.name).symlink_to(entry)
    result = reproduce(tmp_path, out, "--target-statistics")
    assert result.exit_code == 0, result.output
    assert f"{out}/labels: 1 label map of other weights removed" in result.stderr
    assert "skipped" not in result.stderr
    assert result.stdout == (
        f"no references, so nothing is scored: the same command with --reference scores {out}/labels\n"
    )
    assert "statistics re-estimated on 1 unlabelled target scans" in (out / "weights" / "vs.json").read_text()


def test_the_recipe_best_from_data_to_table(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Networks of one step find nothing that a round would keep; and validation takes longer than all steps.
    for module in (self_training, epoch_end):
        monkeypatch.setattr(module, "predict_structure", found_somewhere)
    config = tmp_path / "best.toml"
    config.write_text(TINY + "smallest_volume = 0.0\nlargest_volume = 1e3\n")
    result = reproduce(data, tmp_path / "out", "--recipe", "best", "--config", str(config))
    assert result.exit_code == 0, result.output
    rows = [line for line in result.stdout.splitlines() if line.startswith("| crossmoda-grl") and "±" in line]
    assert [row.split(" | ")[1] for row in rows] == ["VS", "Cochlea"]
    *_, of_vs, of_cochlea = result.stdout.splitlines()
    assert of_vs.startswith("- VS: The network of self-training 1 (round 1 on the target's pseudo-labels)")
    assert of_cochlea.startswith("- Cochlea: The network of self-training 2")
    assert "training on pseudo-labels of the target, which the paper does not have" in of_vs


def test_label_maps_of_somebody_else_stay(made: tuple[Path, Result], tmp_path: Path) -> None:
    (tmp_path / "crossmoda_211_Label.nii.gz").write_bytes(b"precious")
    with pytest.raises(ValueError, match="expected label maps made by this command, got 1 other; choose another"):
        reproduction.keep_own_labels(tmp_path, made[0] / "weights")
    assert (tmp_path / "crossmoda_211_Label.nii.gz").read_bytes() == b"precious"


def test_mistakes_are_told_before_anything_is_trained(data: Path, tmp_path: Path) -> None:
    (tmp_path / "source_training").mkdir()
    (tmp_path / "tiny.toml").write_text(TINY)
    out = tmp_path / "out"
    result = reproduce(tmp_path, out)
    assert result.exit_code == 1
    assert "expected a folder target_validation or validation of scans to predict, got none" in result.stderr
    (tmp_path / "validation").mkdir()
    result = reproduce(tmp_path, out)
    assert result.exit_code == 1
    assert f"{tmp_path}/validation: expected scans named {{case}}_hrT2.nii.gz, got an empty folder" in result.stderr
    assert not out.exists()


def test_an_interruption_is_said_and_its_exit_code_is_the_signal_s(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told_to_stop(*_: object) -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        return True

    monkeypatch.setattr(reproduction, "_run", told_to_stop)
    result = reproduce(data, tmp_path)
    assert result.exit_code == 143
    assert "interrupted by SIGTERM; the same command resumes from there" in result.stderr


def test_every_option_of_train_is_passed_on() -> None:
    told = json.dumps(CliRunner().invoke(main, ["reproduce", "--help"]).stdout)
    names = ("--recipe", "--config", "--epochs", "--split", "--validation-cases", "--seed", "--device", "--cache")
    assert all(name in told for name in names)
