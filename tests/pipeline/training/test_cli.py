"""`train` and `export` as they are called: from folders of scans to weights that load."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from click.testing import CliRunner, Result

from challenge.contract import COCHLEA, STRUCTURES, VS
from crossmoda_grl.__main__ import main
from pipeline.data.known import known_by
from pipeline.model.weights import load_segmenter
from pipeline.training import supervised as training
from pipeline.training.checkpoint import finished_checkpoint, network_of, saved_progress
from tests.images import make_image

CPU = torch.device("cpu")
CONFIG = """
window = 16
batch_size = 2
epochs = 1
patches_per_volume = 2
channels = [4, 8, 16]
"""

# Every file that this process opens while the wire is laid, by Python or by ITK.
_opened: list[str] | None = None


def _note(event: str, arguments: tuple) -> None:
    if _opened is not None and event == "open":
        _opened.append(str(arguments[0]))


sys.addaudithook(_note)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The tripwire: the names of all files that are opened; `sitk.ReadImage` goes through `ImageFileReader` too."""
    global _opened
    names: list[str] = []
    set_name = sitk.ImageFileReader.SetFileName
    monkeypatch.setattr(
        sitk.ImageFileReader, "SetFileName", lambda self, path: (names.append(f"ITK {path}"), set_name(self, path))[1]
    )
    _opened = names
    yield names
    _opened = None


def write_case(path: Path, seed: int, labels: Path | None = None) -> None:
    """A bright ball and a small bright box in noise, 24 x 24 x 12 voxels of 0.5 x 0.5 x 1 mm."""
    rng = np.random.default_rng(seed)
    wanted = np.zeros((12, 24, 24), dtype=np.float64)
    z, y, x = np.indices(wanted.shape)
    wanted[(2 * z - 12) ** 2 + (y - 9) ** 2 + (x - 9) ** 2 < 30] = 1
    wanted[4:8, 17:21, 15:20] = 2
    scan = rng.normal(50, 10, wanted.shape) + 60 * (wanted > 0)
    for array, to in ((scan, path), (wanted, labels)):
        if to is not None:
            to.parent.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(make_image(array.astype(np.float64), (0.5, 0.5, 1.0)), str(to))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small copy of the 2021 archive, the organisers' labels beside it."""
    root = tmp_path_factory.mktemp("data")
    for number in (1, 2, 96):
        folder = root / "source_training"
        write_case(folder / f"crossmoda_{number}_ceT1.nii.gz", number, folder / f"crossmoda_{number}_Label.nii.gz")
    for number in (106, 107):
        write_case(root / "target_training" / f"crossmoda_{number}_hrT2.nii.gz", number)
    reference = root / "target_validation_reference" / "crossmoda_211_Label.nii.gz"
    write_case(root / "target_validation" / "crossmoda_211_hrT2.nii.gz", 211, reference)
    (root / "config.toml").write_text(CONFIG)
    return root


def run(*arguments: object) -> Result:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return CliRunner().invoke(main, [str(a) for a in arguments])
    finally:
        torch.set_num_threads(threads)


def train(data: Path, runs: Path, *more: object) -> Result:
    return run("train", "--data", data, "--runs", runs, "--config", data / "config.toml", "--device", "cpu", *more)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """Both phases of both structures."""
    runs = tmp_path_factory.mktemp("runs")
    return runs, train(data, runs)


def test_both_phases_of_both_structures(trained: tuple[Path, Result]) -> None:
    runs, result = trained
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [f"{runs}/vs/summary.md", f"{runs}/cochlea/summary.md"]
    lines = result.stderr.splitlines()
    # What was found stands before anything that was done with it.
    found = "source training: 2 cases (crossmoda_1 to crossmoda_2), 24 x 24 x 12 voxels of 0.5 x 0.5 x 1 mm"
    (departures,) = [i for i, line in enumerate(lines) if "from the paper" in line]
    assert lines[departures] == (
        "22 departures from the paper: VS supervised 6, VS adaptation 5, Cochlea supervised 6, Cochlea adaptation 5; "
        "listed in each settings.json and in summary.md"
    )
    started = lines.index("VS supervised: 1 epoch of 2 batches")
    assert lines.index(found) < departures < started
    summary = (runs / "vs" / "summary.md").read_text()
    assert "## Phase 1, supervised: departures from the paper" in summary
    for line in ("window | 16 instead of 128", "batch_size | 2 instead of 4", "epochs | 1 instead of 60"):
        assert f"| {line} |" in summary
    assert "target training: 2 cases (crossmoda_106 to crossmoda_107), 24 x 24 x 12 voxels of 0.5 x 0.5 x 1 mm" in lines
    assert any(line.startswith("Cochlea adaptation: epoch 1, rate 6.70e-05, loss") for line in lines)


def test_the_same_command_again_finds_all_done(data: Path, trained: tuple[Path, Result]) -> None:
    runs, _ = trained
    again = train(data, runs)
    assert again.exit_code == 0, again.output
    assert "VS supervised: finished, 1 epoch" in again.stderr
    other = train(data, runs, "--epochs", 2, "--cache", runs / "another")
    assert other.exit_code == 1
    assert "got others: epochs was 1, is 2; repeat them, or choose another --runs folder" in other.stderr
    assert not (runs / "another").exists()  # said before any scan was preprocessed
    assert train(data, runs, "--phase", "adaptation").exit_code == 0


def test_export_writes_what_predict_loads(trained: tuple[Path, Result], tmp_path: Path) -> None:
    runs, _ = trained
    result = run("export", runs, "--out", tmp_path / "weights", "--note", "a test")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [str(tmp_path / "weights" / f"{s.key}.json") for s in STRUCTURES]
    for structure in STRUCTURES:
        segmenter = load_segmenter(tmp_path / "weights", structure, CPU)
        last = network_of(finished_checkpoint(runs / structure.key / "adaptation"), best=False)
        assert all(torch.equal(t, segmenter.network.state_dict()[n]) for n, t in last.state_dict().items())
        assert segmenter.window == 16
    card = json.loads((tmp_path / "weights" / "vs.json").read_text())
    assert card["summary"] == "The network of phase 2 (adaptation), epoch 1 (the last), trained on the data below"
    assert card["note"] == "a test"
    assert card["data"]["cases"] == {"source_training": 2, "source_validation": 1, "target_training": 2}
    assert card["schedule"] == [
        "phase 1: 1 epoch, 2 steps, Adam, 0.001, cosine annealing",
        "phase 2: 1 epoch, 4 steps, Adam, 6.7e-05, cosine annealing, reversal weight by Ganin's ramp to 1",
    ]
    assert card["departures_from_paper"]["phase1"]["window"] == "16 instead of 128"
    assert set(card["scores"]["source_validation"]["dice"]) == {"crossmoda_96"}
    assert set(card["seconds"]) == {"phase1", "phase2"}
    assert card["machine"].endswith("torch " + torch.__version__)
    assert card["seen"]["label_volumes_mm3"]["cases"] == 2
    assert (card["seen"]["scans"]["part"], card["seen"]["scans"]["cases"]) == ("target_training", 2)
    assert known_by(card).scans is not None
    assert str(runs) not in json.dumps(card)  # nor any other path of this machine

    first = run("export", runs / "vs", "--out", tmp_path / "first", "--phase", "supervised")
    assert first.exit_code == 0, first.output
    assert [p.name for p in sorted((tmp_path / "first").iterdir())] == ["vs.json", "vs.safetensors"]
    card = json.loads((tmp_path / "first" / "vs.json").read_text())
    assert card["summary"].startswith("The network of phase 1 (supervised), epoch 1 (best by source validation)")
    assert card["seen"]["scans"]["part"] == "source_training"  # phase 1 sees no target


def test_the_control_and_the_target_s_statistics(data: Path, trained: tuple[Path, Result], tmp_path: Path) -> None:
    runs, _ = trained
    control = train(data, runs, "--phase", "control", "--structure", "vs")
    assert control.exit_code == 0, control.output
    # Two source cases, two patches of each, one a step as phase 2 takes one source patch a step.
    assert "VS supervised" not in control.stderr
    assert "VS control: 1 epoch of 4 batches" in control.stderr
    summary = (runs / "vs" / "summary.md").read_text()
    assert "| control | phase 2's steps on the source alone, without the adversary |" in summary
    assert "## Control, phase 2 without the adversary" in summary
    (tmp_path / "scores.json").write_text('{"target": {"dice_mean": 0.5}}')

    def exported(*more: object) -> tuple[dict, dict[str, torch.Tensor]]:
        out = tmp_path / "-".join(str(m).strip("-/") for m in more[:3])
        result = run("export", runs / "vs", "--out", out, *more)
        assert result.exit_code == 0, result.output
        return json.loads((out / "vs.json").read_text()), load_segmenter(out, VS, CPU).network.state_dict()

    plain, before = exported("--phase", "control")
    assert plain["schedule"][1] == "control: 1 epoch, 4 steps, Adam, 6.7e-05, cosine annealing"
    assert plain["summary"].startswith("The network of control (phase 2 without the adversary), epoch 1")
    card, after = exported("--phase", "control", "--target-statistics", "--scores", tmp_path / "scores.json")
    assert card["departures_from_paper"]["statistics"].startswith(
        "batch norm's statistics re-estimated on 2 unlabelled target scans, 4 patches of each, which is beyond"
    )
    assert card["scores"]["target"] == {"dice_mean": 0.5}
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("running_" in name or "num_batches" in name for name in changed)
    (tmp_path / "bad.json").write_text("[1]")
    bad = run("export", runs / "vs", "--out", tmp_path / "bad", "--scores", tmp_path / "bad.json")
    assert bad.exit_code == 1
    assert "expected an object of scores by name, got list" in bad.stderr


def test_a_run_of_another_version_is_exported(trained: tuple[Path, Result], tmp_path: Path) -> None:
    """Its recipes may have had fields that are no longer known; the card keeps what was written."""
    runs = Path(shutil.copytree(trained[0], tmp_path / "runs"))
    path = runs / "vs" / "adaptation" / "settings.json"
    settings = json.loads(path.read_text())
    settings["settings"]["recipe"]["of_another_version"] = 1
    path.write_text(json.dumps(settings))
    result = run("export", runs / "vs", "--out", tmp_path / "weights")
    assert result.exit_code == 0, result.output
    card = json.loads((tmp_path / "weights" / "vs.json").read_text())
    assert card["phase2"]["recipe"]["of_another_version"] == 1


def test_a_card_names_the_phantoms(data: Path, trained: tuple[Path, Result], tmp_path: Path) -> None:
    runs, _ = trained
    record = data / "phantom.json"
    record.write_text(json.dumps({"version": 1, "preset": "small", "seed": 7, "hardness": "standard", "cases": {}}))
    try:
        run("export", runs / "cochlea", "--out", tmp_path)
    finally:
        record.unlink()
    card = json.loads((tmp_path / "cochlea.json").read_text())
    cohort = {"phantom_version": 1, "preset": "small", "hardness": "standard", "seed": 7}
    assert card["data"]["kind"] == "phantom"
    assert card["data"]["phantoms"] == dict.fromkeys(
        ("source_training", "source_validation", "target_training"), cohort
    )
    assert "no figure here says anything about patients" in card["summary"]


def test_no_label_of_the_target_is_opened(data: Path, tmp_path: Path, opened: list[str]) -> None:
    result = train(data, tmp_path / "runs", "--structure", "vs")
    assert result.exit_code == 0, result.output
    run("export", tmp_path / "runs", "--out", tmp_path / "weights")
    labels = {Path(name.removeprefix("ITK ")).name for name in opened if "_Label" in name}
    assert labels == {f"crossmoda_{number}_Label.nii.gz" for number in (1, 2, 96)}
    assert not [name for name in opened if "target_validation" in name]
    # The wire is live: whoever reads such a file, by either way, is seen.
    (data / "target_validation_reference" / "crossmoda_211_Label.nii.gz").read_bytes()
    sitk.ReadImage(str(data / "target_validation_reference" / "crossmoda_211_Label.nii.gz"))
    assert len([name for name in opened if "target_validation_reference" in name]) == 2


def test_mistakes_end_with_one_line_and_exit_code_1(data: Path, tmp_path: Path) -> None:
    def error(*arguments: object) -> str:
        result = run(*arguments)
        assert result.exit_code == 1, result.output
        assert "Traceback" not in result.stderr
        return result.stderr.strip().splitlines()[-1]

    runs = tmp_path / "runs"
    assert error("train", "--data", tmp_path / "none", "--runs", runs).startswith(
        f"Error: {tmp_path}/none: expected a folder source_training or training_source, got none"
    )
    (tmp_path / "bad.toml").write_text("epoch = 3")
    assert "or a table of a structure or phase, got epoch" in error(
        "train", "--data", data, "--runs", runs, "--config", tmp_path / "bad.toml"
    )
    (tmp_path / "file").write_text("")
    assert "Not a directory" in error("train", "--data", data, "--runs", tmp_path / "file", "--structure", "vs")
    adaptation = error("train", "--data", data, "--runs", runs, "--phase", "adaptation", "--structure", "vs")
    assert adaptation.endswith("vs/supervised/checkpoint.pt: expected a checkpoint, got none; train this phase first")
    assert not runs.exists()  # said before any scan was preprocessed
    assert "expected a run, or a folder with runs vs or cochlea, got none" in error("export", tmp_path, "--out", runs)


def test_an_interruption_is_said_and_its_exit_code_is_the_signal_s(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = training.supervised_loss

    def asked_to_stop(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return loss(*arguments)

    monkeypatch.setattr(training, "supervised_loss", asked_to_stop)
    result = train(data, tmp_path, "--structure", "vs")
    assert result.exit_code == 143
    assert (
        f"interrupted by SIGTERM; everything is saved in {tmp_path}, the same command resumes it"
        in result.stderr.replace("\n", " ")
    )
    assert (tmp_path / "vs" / "supervised" / "checkpoint.pt").exists()
    unfinished = run("export", tmp_path, "--out", tmp_path / "weights")
    assert unfinished.exit_code == 1
    assert "expected the phase to have ended, got 0 of 1 epochs; train on" in unfinished.stderr


def test_a_loss_that_is_no_number_names_the_cases(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = training.supervised_loss
    monkeypatch.setattr(training, "supervised_loss", lambda *a: loss(*a)._replace(total=torch.tensor(float("nan"))))
    result = train(data, tmp_path, "--structure", "vs")
    assert result.exit_code == 1
    assert "Error: epoch 1, cases crossmoda_" in result.stderr
    assert f"the last good checkpoint is kept in {tmp_path}" in result.stderr


def test_memory_that_runs_out_is_said(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(training, "supervised_loss", full)
    result = train(data, tmp_path, "--structure", "vs")
    assert result.exit_code == 1
    assert "Error: memory: expected enough for a step" in result.stderr


def test_the_defaults_are_the_paper_s() -> None:
    result = run("train", "--help")
    assert result.exit_code == 0
    assert "[default: paper]" in result.stdout
    assert VS.key in result.stdout
    assert COCHLEA.key in result.stdout


def test_a_run_of_one_process_goes_on_in_two(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under torchrun itself, with workers and events."""
    loss = training.supervised_loss

    def asked_to_stop(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return loss(*arguments)

    one = ("--structure", "vs", "--phase", "supervised", "--epochs", 2, "--workers", 1)
    with monkeypatch.context() as patched:
        patched.setattr(training, "supervised_loss", asked_to_stop)
        assert train(data, tmp_path, *one).exit_code == 143
    phase = tmp_path / "vs" / "supervised"
    before = (phase / "settings.json").read_text()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    arguments = ["--data", data, "--runs", tmp_path, "--config", data / "config.toml", "--device", "cpu", *one]
    done = subprocess.run(
        [*torchrun, "-m", "crossmoda_grl", "train", *map(str, arguments), "--tensorboard"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{tmp_path}/vs/summary.md"]
    assert f"{data}, on cpu, fp32, workers 1, processes 2" in done.stderr
    assert done.stderr.count("VS supervised: 2 epochs of 2 batches, resumed after 1 batch") == 1
    assert saved_progress(finished_checkpoint(phase))["steps_done"] == 4
    assert (phase / "settings.json").read_text() == before
    assert len(list((phase / "tensorboard").iterdir())) == 1
