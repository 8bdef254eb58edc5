"""A run goes on where it was left, whatever ended it, and refuses what does not fit."""

import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from challenge.contract import VS
from challenge.signals import Interrupted
from pipeline.model.weights import load_segmenter
from pipeline.training import checkpoint as checkpoints
from pipeline.training import report
from pipeline.training import run as runs
from pipeline.training import supervised as training
from pipeline.training.checkpoint import (
    best_network,
    finished_checkpoint,
    network_of,
    read_checkpoint,
    saved_progress,
)
from pipeline.training.execution import PLAIN, Execution
from pipeline.training.export import export_run
from pipeline.training.listeners import Listener
from pipeline.training.recipes import Recipe, SupervisedRecipe
from pipeline.training.run import train_run
from pipeline.training.settings import RunError, RunPlan
from pipeline.training.state import PhaseState
from pipeline.training.stopping import stop_requests
from tests.tiny_run import MOMENTS, RECIPES, VOLUMES, tiny_plan

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[3]
PHASES = ("supervised", "adaptation")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "vs"
    train_run(tiny_plan(), VOLUMES, folder, device=CPU)
    return folder


def run_until(folder: Path, *moments: str) -> list[int]:
    """Run the tiny run in a process of its own for each moment; return how each ended."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.tiny_run", str(folder), *moments]
    ended = subprocess.run(command, cwd=ROOT, env=environment, timeout=300, check=True, capture_output=True, text=True)
    return [int(line) for line in ended.stdout.split()]


def tensors(content: Any, path: str = "") -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, by where it stands."""
    if isinstance(content, torch.Tensor):
        return {path: content}
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return {name: t for key, value in items for name, t in tensors(value, f"{path}/{key}").items()}


def assert_same_end(one: Path, other: Path) -> None:
    for phase in PHASES:
        ends = [finished_checkpoint(folder / phase) for folder in (one, other)]
        first, second = map(tensors, ends)
        assert list(first) == list(second)
        assert len(first) > 300  # network, best, optimiser's two moments, random state
        assert [name for name in first if not torch.equal(first[name], second[name])] == []
        progress = [saved_progress(end) for end in ends]
        for numbers in progress:
            del numbers["seconds"]
            for epoch in numbers["history"]:
                del epoch["seconds"]
        assert progress[0] == progress[1]


def test_killed_at_three_moments_a_run_ends_with_the_same_weights(tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "vs"
    assert run_until(folder, "amid an epoch", "at a checkpoint's last byte") == [-9, -9]
    # Phase 2's first checkpoint is all there, and has not yet taken its name.
    assert list((folder / "adaptation").glob(".partial-*-checkpoint.pt"))
    assert not (folder / "adaptation" / "checkpoint.pt").exists()
    assert run_until(folder, "amid validation", "never") == [-9, 0]
    assert_same_end(folder, whole)


def test_sigterm_saves_amid_an_epoch_and_exits(tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "vs"
    for moment, phase, progress in (
        ("asked amid an epoch", "supervised", (0, 1)),
        ("asked amid validation", "adaptation", (1, 4)),
    ):
        with pytest.raises(Interrupted) as interrupted:
            train_run(tiny_plan(), VOLUMES, folder, device=CPU, listeners=[MOMENTS[moment]])
        assert interrupted.value.exit_code == 143
        saved = saved_progress(read_checkpoint(folder / phase / "checkpoint.pt"))
        assert (saved["epoch"], saved["batches_done"]) == progress
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that no step comes before the schedule's is no mistake here
        train_run(tiny_plan(), VOLUMES, folder, device=CPU)
    assert_same_end(folder, whole)


def test_workers_change_nothing_even_across_an_interruption(tmp_path: Path, whole: Path) -> None:
    folder, ahead = tmp_path / "vs", Execution(workers=2)
    with pytest.raises(Interrupted):
        train_run(tiny_plan(), VOLUMES, folder, device=CPU, execution=ahead, listeners=[MOMENTS["asked amid an epoch"]])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("patches")]
    train_run(tiny_plan(), VOLUMES, folder, device=CPU, execution=ahead)
    assert_same_end(folder, whole)


def test_another_seed_ends_elsewhere(tmp_path: Path, whole: Path) -> None:
    train_run(tiny_plan(phases=("supervised",), seed=1), VOLUMES, tmp_path / "vs", device=CPU)
    first, second = (
        tensors(finished_checkpoint(f / "supervised")["state"]["network"]) for f in (whole, tmp_path / "vs")
    )
    assert not torch.equal(first["/decoder.fullconv.weight"], second["/decoder.fullconv.weight"])


def test_what_a_run_leaves_behind(whole: Path) -> None:
    for phase in PHASES:
        files = sorted(p.name for p in (whole / phase).iterdir())
        assert files == ["checkpoint.pt", "curves.png", "history.csv", "settings.json", "slices.png"]
        with (whole / phase / "history.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        assert [row["epoch"] for row in rows] == ["1", "2"]
        assert {"loss", "cross_entropy", "dice_loss", "validation_dice", "predicted_over_true_volume"} <= set(rows[0])
        mean = (float(rows[0]["dice crossmoda_96"]) + float(rows[0]["dice crossmoda_97"])) / 2
        assert float(rows[0]["validation_dice"]) == pytest.approx(mean, abs=1e-4)
    record = json.loads((whole / "adaptation" / "settings.json").read_text())["record"]
    assert record["departures"]["window"] == "16 instead of 128"
    assert record["departures"]["split"] == "by hand, instead of the paper's ids"
    assert record["departures"]["cases"] == (
        "source training 2 instead of 95, source validation 2 instead of 10, target training 2 instead of 105"
    )
    summary = (whole / "summary.md").read_text()
    assert "## Phase 1, supervised" in summary
    assert "## Phase 2, adaptation" in summary
    assert "| epochs | 2 of 2 |" in summary


def test_phase_2_starts_from_phase_1_s_best(whole: Path) -> None:
    # The first thing that phase 2 does to the network is a step of Adam, at most its rate for each weight.
    checkpoint = finished_checkpoint(whole / "supervised")
    best = network_of(checkpoint, best=True).state_dict()
    assert torch.equal(best["decoder.fullconv.weight"], best_network(whole / "supervised").decoder.fullconv.weight)
    adapted = network_of(finished_checkpoint(whole / "adaptation"), best=False).decoder.fullconv.weight
    steps = 8 * RECIPES["adaptation"].learning_rate
    assert 0 < (adapted - best["decoder.fullconv.weight"]).abs().max() <= 1.5 * steps


def test_a_finished_run_is_not_trained_again(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "epoch_draws", lambda *_, **__: pytest.fail("trained again"))
    before = {phase: (whole / phase / "checkpoint.pt").stat().st_mtime_ns for phase in PHASES}
    assert train_run(tiny_plan(), VOLUMES, whole, device=CPU) == whole / "summary.md"
    assert {phase: (whole / phase / "checkpoint.pt").stat().st_mtime_ns for phase in PHASES} == before


def refused(plan: RunPlan, folder: Path, execution: Execution = PLAIN) -> str:
    with pytest.raises(RunError) as error:
        train_run(plan, VOLUMES, folder, device=CPU, execution=execution)
    return str(error.value)


def test_other_settings_are_refused_by_name(whole: Path) -> None:
    message = refused(tiny_plan(epochs=3, mirror=False), whole)
    assert "expected the settings that this run was started with" in message
    assert "got others: epochs was 2, is 3; mirror was True, is False; repeat them" in message
    assert "seed was 0, is 1" in refused(tiny_plan(seed=1), whole)
    plan = tiny_plan()
    fewer = dataclasses.replace(plan.data, source_training=plan.data.source_training[:1])
    assert "source_training differs in crossmoda_2" in refused(dataclasses.replace(plan, data=fewer), whole)
    # What only phase 2 looks at does not matter to phase 1.
    fewer = dataclasses.replace(plan.data, target_training=())
    train_run(dataclasses.replace(tiny_plan(("supervised",)), data=fewer), VOLUMES, whole, device=CPU)


def test_a_run_from_before_precision_was_named_goes_on(tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "vs"
    shutil.copytree(whole, folder)
    path = folder / "supervised" / "settings.json"
    content = json.loads(path.read_text())
    assert content["settings"].pop("precision") == "fp32"
    del content["record"]["execution"]
    path.write_text(json.dumps(content))
    train_run(tiny_plan(phases=("supervised",)), VOLUMES, folder, device=CPU)
    assert "got others: precision was fp32, is bf16" in refused(tiny_plan(), folder, Execution(precision="bf16"))


def test_a_run_of_an_older_version_is_refused_and_so_is_its_export(tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "vs"
    shutil.copytree(whole, folder)
    path = folder / "supervised" / "settings.json"
    content = json.loads(path.read_text())
    del content["format"]
    path.write_text(json.dumps(content))
    assert "expected format 2, got 1, of another version" in refused(tiny_plan(), folder)
    checkpoint = torch.load(folder / "adaptation" / "checkpoint.pt", weights_only=True)
    torch.save({**checkpoint, "format": 1}, folder / "adaptation" / "checkpoint.pt")
    with pytest.raises(RunError, match="start a new run folder, or export with the version that made this one"):
        export_run(folder, VS, tmp_path / "weights")


def test_phase_2_waits_for_phase_1(tmp_path: Path) -> None:
    assert "expected a checkpoint, got none; train this phase first" in refused(
        tiny_plan(phases=("adaptation",)), tmp_path / "vs"
    )


def test_a_damaged_checkpoint_is_said_and_not_run(tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "vs"
    (folder / "supervised").mkdir(parents=True)
    content = (whole / "supervised" / "checkpoint.pt").read_bytes()
    (folder / "supervised" / "checkpoint.pt").write_bytes(content[: len(content) // 2])
    assert "expected a checkpoint, got a damaged file" in refused(tiny_plan(), folder)
    torch.save({"format": 99}, folder / "supervised" / "checkpoint.pt")
    assert "expected format 2, got 99" in refused(tiny_plan(), folder)

    class Harmful:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.system, ("touch " + str(tmp_path / "harm"),)

    torch.save({"format": 2, "state": Harmful()}, folder / "supervised" / "checkpoint.pt")
    assert "expected a checkpoint, got a damaged file" in refused(tiny_plan(), folder)
    assert not (tmp_path / "harm").exists()


def test_two_processes_do_not_train_one_run(tmp_path: Path) -> None:
    folder = tmp_path / "vs"
    folder.mkdir()
    with runs._locked(folder):
        assert "got one that another process is training" in refused(tiny_plan(), folder)


class NotANumber(Listener):
    """Makes the network's next output NaN once an epoch is finished."""

    def epoch_finished(self, state: PhaseState) -> None:
        with torch.no_grad():
            state.network.decoder.fullconv.weight.fill_(float("nan"))


def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    plan = tiny_plan(phases=("supervised",))
    with pytest.raises(FloatingPointError, match=r"epoch 2, cases crossmoda_\d, crossmoda_\d: expected a finite loss"):
        train_run(plan, VOLUMES, tmp_path / "vs", device=CPU, listeners=[NotANumber()])
    checkpoint = read_checkpoint(tmp_path / "vs" / "supervised" / "checkpoint.pt")
    assert saved_progress(checkpoint)["epoch"] == 1
    assert all(t.isfinite().all() for t in network_of(checkpoint, best=False).state_dict().values())


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_bytes
    calls = []

    def full(path: Path, content: bytes) -> int:
        calls.append(path.name)
        if len(calls) == 2:
            write(path, content[:100])
            raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        train_run(tiny_plan(phases=("supervised",)), VOLUMES, tmp_path / "vs", device=CPU)
    assert all(name.endswith("-checkpoint.pt") for name in calls)
    assert saved_progress(read_checkpoint(tmp_path / "vs" / "supervised" / "checkpoint.pt"))["epoch"] == 1
    assert not list((tmp_path / "vs" / "supervised").glob(".partial*"))


def test_a_long_epoch_is_saved_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_SAVE_EVERY_S", -1.0)
    saved: list[tuple[int, int]] = []
    state_dict = PhaseState.state_dict
    monkeypatch.setattr(
        PhaseState,
        "state_dict",
        lambda self: (saved.append((self.epoch, self.batches_done)), state_dict(self))[1],
    )
    one = tiny_plan(("supervised",), epochs=1)
    train_run(one, VOLUMES, tmp_path / "vs", device=CPU)
    # After each of two batches, after each of two validation cases, and when the epoch is finished.
    assert saved == [(0, 1), (0, 2), (0, 2), (0, 2), (1, 0)]


def test_records_that_a_kill_prevented_are_written_by_the_next_start(tmp_path: Path) -> None:
    one = tiny_plan(("supervised",), epochs=1)
    train_run(one, VOLUMES, tmp_path / "vs", device=CPU)
    records = [tmp_path / "vs" / "supervised" / name for name in ("history.csv", "curves.png")]
    for record in records:
        record.unlink()
    train_run(one, VOLUMES, tmp_path / "vs", device=CPU)
    assert all(record.exists() for record in records)


def test_a_second_signal_ends_at_once() -> None:
    with stop_requests() as stop:
        os.kill(os.getpid(), 15)
        assert stop.signal_number == 15
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), 15)


def test_a_network_that_sees_descriptors_is_resumed_adapted_exported_and_predicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("draw_curves", "draw_slices"):  # they take longer than the training
        monkeypatch.setattr(report, name, lambda *_, **__: None)
    plan = tiny_plan(epochs=1)
    plan = dataclasses.replace(
        plan, recipes={phase: with_input(recipe) for phase, recipe in plan.recipes.items()}, recipe_name="descriptors"
    )
    whole, folder = tmp_path / "whole" / "vs", tmp_path / "vs"
    whole.parent.mkdir()
    train_run(plan, VOLUMES, whole, device=CPU)
    with pytest.raises(Interrupted):
        train_run(plan, VOLUMES, folder, device=CPU, listeners=[MOMENTS["asked amid an epoch"]])
    train_run(plan, VOLUMES, folder, device=CPU)
    assert_same_end(folder, whole)
    card = json.loads(export_run(folder, VS, tmp_path / "weights").read_text())
    assert card["network"]["config"]["input"] == "both"
    assert card["departures_from_paper"]["phase1"]["input"] == "both instead of volume"
    exported = load_segmenter(tmp_path / "weights", VS, CPU)
    trained = network_of(finished_checkpoint(folder / "adaptation"), best=False)
    windows = torch.from_numpy(VOLUMES["source_training"][0].volume[None, None, :16, :16, :16].copy())
    with torch.inference_mode():
        assert torch.equal(exported.network(windows), trained(windows))


def with_input(recipe: Recipe) -> Recipe:
    return dataclasses.replace(recipe, input="both") if isinstance(recipe, SupervisedRecipe) else recipe


def test_a_run_from_before_a_field_was_there_goes_on_with_its_default(tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "vs"
    shutil.copytree(whole, folder)
    path = folder / "supervised" / "settings.json"
    content = json.loads(path.read_text())
    assert content["settings"]["recipe"].pop("input") == "volume"
    path.write_text(json.dumps(content))
    train_run(tiny_plan(), VOLUMES, folder, device=CPU)
    plan = tiny_plan()
    changed = dataclasses.replace(plan, recipes={p: with_input(r) for p, r in plan.recipes.items()})
    assert "got others: input was volume, is both" in refused(changed, folder)
