"""What TensorBoard reads back: every point once, whatever interrupted the run."""

import shutil
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from challenge.signals import Interrupted
from pipeline.training import tensorboard as training_events
from pipeline.training.checkpoint import finished_checkpoint, saved_progress
from pipeline.training.run import train_run
from pipeline.training.state import PhaseState
from pipeline.training.tensorboard import TrainingEvents
from tests.tiny_run import MOMENTS, VOLUMES, tiny_plan

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_events, "_EVERY_STEPS", 1)


def events(folder: Path) -> EventAccumulator:
    read = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    read.Reload()
    return read


def train(runs: Path, *, until: str | None = None, epochs: int = 2) -> None:
    plan = tiny_plan(epochs=epochs, validate_every=2)
    with TrainingEvents(runs) as shown:
        listeners = [shown, MOMENTS[until]] if until else [shown]
        train_run(plan, VOLUMES, runs / "vs", device=CPU, listeners=listeners)


def assert_all_there(folder: Path) -> None:
    """Every epoch's and every step's points, once and in order, with the history's values."""
    history = saved_progress(finished_checkpoint(folder))["history"]
    read = events(folder)
    batches = saved_progress(finished_checkpoint(folder))["steps_done"] // len(history)
    for name, value in history[0]["losses"].items():
        points = read.Scalars(f"epoch/{name}")
        assert [point.step for point in points] == [batches * epoch["number"] for epoch in history]
        assert points[0].value == pytest.approx(value, rel=1e-6)
        steps = read.Scalars(f"step/{name}")
        assert [point.step for point in steps] == list(range(1, batches * len(history) + 1))
        assert sum(point.value for point in steps[:batches]) / batches == pytest.approx(value, rel=1e-5)
    assert [point.value for point in read.Scalars("epoch/rate")] == pytest.approx([e["rate"] for e in history])
    scores = [epoch["validation"] for epoch in history if epoch["validation"] is not None]
    ratios = [point.value for point in read.Scalars("validation/predicted_over_true_volume")]
    assert ratios == pytest.approx([score["volume_ratio"] for score in scores])
    assert len(read.Scalars("validation/dice")) == len(read.Images("validation/slices")) == len(scores)


def test_both_phases_interrupted_twice(tmp_path: Path) -> None:
    for moment in ("asked amid an epoch", "asked amid validation"):
        with pytest.raises(Interrupted):
            train(tmp_path, until=moment)
    train(tmp_path)
    for phase in ("supervised", "adaptation"):
        assert_all_there(tmp_path / "vs" / phase)
    assert {"epoch/domain_accuracy", "epoch/grl_weight"} <= set(
        events(tmp_path / "vs" / "adaptation").Tags()["scalars"]
    )
    files = sorted((tmp_path / "vs").rglob("events.*"))
    train(tmp_path)  # all is done
    assert sorted((tmp_path / "vs").rglob("events.*")) == files


class OlderCheckpoint(TrainingEvents):
    """Keeps a copy of the run as it is after the first epoch, and ends as if killed after the next step."""

    def stepped(self, state: PhaseState) -> None:
        super().stepped(state)
        if state.steps_done == 3:
            raise KeyboardInterrupt


def test_what_a_killed_run_wrote_beyond_its_checkpoint_is_purged(tmp_path: Path) -> None:
    plan = tiny_plan(("supervised",), validate_every=2)
    with pytest.raises(KeyboardInterrupt), OlderCheckpoint(tmp_path) as shown:
        train_run(plan, VOLUMES, tmp_path / "vs", device=CPU, listeners=[shown])
    with TrainingEvents(tmp_path) as shown:
        train_run(plan, VOLUMES, tmp_path / "vs", device=CPU, listeners=[shown])
    assert_all_there(tmp_path / "vs" / "supervised")


class Silent(TrainingEvents):
    """Knows of no epoch's end: a kill between the checkpoint and the events."""

    def epoch_finished(self, state: PhaseState) -> None:
        pass


@pytest.mark.parametrize("without_events", [False, True])
def test_epochs_that_are_not_written_yet_are_added_from_the_history(tmp_path: Path, without_events: bool) -> None:
    plan = tiny_plan(phases=("supervised",))
    with Silent(tmp_path) as shown:
        train_run(plan, VOLUMES, tmp_path / "vs", device=CPU, listeners=[shown])
    folder = tmp_path / "vs" / "supervised"
    if without_events:
        shutil.rmtree(folder / "tensorboard")
    with TrainingEvents(tmp_path) as shown:
        train_run(plan, VOLUMES, tmp_path / "vs", device=CPU, listeners=[shown])
    assert [point.step for point in events(folder).Scalars("epoch/loss")] == [2, 4]
    assert [point.step for point in events(folder).Scalars("validation/dice")] == [2, 4]
