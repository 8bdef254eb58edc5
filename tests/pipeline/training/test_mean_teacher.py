"""The mean teacher: its student learns, it follows, it is what is exported; a run is resumed bit by bit."""

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from challenge.contract import VS
from challenge.signals import Interrupted
from pipeline.model.enet import ENet3d
from pipeline.model.weights import load_segmenter
from pipeline.training import mean_teacher, report
from pipeline.training.checkpoint import finished_checkpoint, network_of, read_checkpoint, saved_progress
from pipeline.training.execution import Execution
from pipeline.training.export import export_run
from pipeline.training.listeners import Listener
from pipeline.training.mean_teacher import train_mean_teacher
from pipeline.training.phases import MEAN_TEACHER, SUPERVISED
from pipeline.training.recipes import MeanTeacherRecipe
from pipeline.training.run import train_run
from pipeline.training.settings import RunPlan
from pipeline.training.state import PhaseState, Trained
from tests.segmenters import narrow_network
from tests.tiny_run import RECIPE, SHARED, VOLUMES, Ender, tiny_plan

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
TEACHER_RECIPE = MeanTeacherRecipe(**SHARED, augmentation="mild", ema_decay=0.8)
KEY = MEAN_TEACHER.key


def plan() -> RunPlan:
    recipes = {SUPERVISED: dataclasses.replace(RECIPE, epochs=1), MEAN_TEACHER: TEACHER_RECIPE}
    return dataclasses.replace(tiny_plan(), recipes=recipes)


@pytest.fixture(scope="module", autouse=True)
def no_pictures() -> Iterator[None]:
    """They take longer than the training."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("draw_curves", "draw_slices"):
            patch.setattr(report, name, lambda *_, **__: None)
        yield


@pytest.fixture(scope="module")
def whole(no_pictures: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "vs"
    train_run(plan(), VOLUMES, folder, device=CPU)
    return folder


def trained(volumes: Any = VOLUMES, listeners: Any = (), network: ENet3d | None = None, **changes: Any) -> Trained:
    recipe = dataclasses.replace(TEACHER_RECIPE, epochs=1, **changes)
    given = network or narrow_network()
    return train_mean_teacher(VS, given, volumes, recipe, rng=np.random.default_rng(0), listeners=listeners)


def weights(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


class Students(Listener):
    """Keeps the student's weights after every step."""

    def __init__(self) -> None:
        self.after: list[dict[str, torch.Tensor]] = []

    def stepped(self, state: PhaseState) -> None:
        self.after.append(weights(state.others["student"]))


def test_the_teacher_is_the_running_mean_of_its_student() -> None:
    network, students = narrow_network(), Students()
    start = weights(network)
    result = trained(listeners=[students], network=network)
    assert same(start, weights(network))
    assert len(students.after) == 4  # two volumes of two patches, one of each domain in a batch
    expected = start
    for student in students.after:
        expected = {n: 0.8 * t + 0.2 * student[n] if t.is_floating_point() else student[n] for n, t in expected.items()}
    for name, tensor in result.last.state_dict().items():
        torch.testing.assert_close(tensor, expected[name])
    assert not same(students.after[0], students.after[-1])
    losses = result.history[-1].losses
    assert list(losses) == ["loss", "cross_entropy", "dice_loss", "consistency_loss", "consistency_weight"]
    assert all(np.isfinite(list(losses.values())))
    assert 0 < losses["consistency_loss"] <= 1
    # Steps 0 to 3 of 4, the ramp a quarter of them: exp(-5), then 1.
    assert losses["consistency_weight"] == pytest.approx(3.4 * (np.exp(-5) + 3) / 4, rel=1e-5)


def test_the_consistency_moves_the_student() -> None:
    one, other = (trained(consistency_weight=weight).last.state_dict() for weight in (0.0, 3.4))
    assert not same(one, other)


def test_two_views_of_the_same_target_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    cut, seen = mean_teacher.cut_batches, []

    def kept(*arguments: Any) -> Any:
        for batch in cut(*arguments):
            seen.append(batch)
            yield batch

    monkeypatch.setattr(mean_teacher, "cut_batches", kept)
    trained(batch_size=4, target_augmentation="none", teacher_augmentation="none")
    for batch in seen:
        assert [case in ("crossmoda_106", "crossmoda_107") for case in batch.cases] == [0, 0, 1, 1, 1, 1]
        assert batch.cases[2:4] == batch.cases[4:]
        np.testing.assert_array_equal(batch.patches[2:4], batch.patches[4:])
    seen.clear()
    trained(batch_size=4, target_augmentation="mild", teacher_augmentation="light")
    views = [np.split(batch.patches, 3)[1:] for batch in seen]
    assert any(not np.array_equal(student_s, teacher_s) for student_s, teacher_s in views)


def test_target_masks_are_never_looked_at() -> None:
    without = weights(trained().last)
    sealed = [SimpleNamespace(case=v.case, volume=v.volume) for v in VOLUMES["target_training"]]
    assert same(without, weights(trained({**VOLUMES, "target_training": sealed}).last))


def test_it_may_begin_with_the_targets_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    adapted = narrow_network(seed=9)
    monkeypatch.setattr(mean_teacher, "reestimate_statistics", lambda *_, **__: adapted)
    result = trained(target_statistics=True, ema_decay=0.999999, learning_rate=1e-9)
    name = "encoder.initial.conv.weight"
    torch.testing.assert_close(result.last.state_dict()[name], adapted.state_dict()[name])


def test_an_odd_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="expected an even number, half of it for each domain, got 3"):
        trained(batch_size=3)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_command_goes_on_and_ends_with_the_same_weights(tmp_path: Path, whole: Path, workers: int) -> None:
    folder = tmp_path / "vs"
    shutil.copytree(whole / "supervised", folder / "supervised")
    execution = Execution(workers=workers)
    with pytest.raises(Interrupted):
        train_run(plan(), VOLUMES, folder, device=CPU, execution=execution, listeners=[Ender(KEY, 2, 1, "", 15)])
    saved = saved_progress(read_checkpoint(folder / KEY / "checkpoint.pt"))
    assert (saved["epoch"], saved["batches_done"]) == (1, 1)
    train_run(plan(), VOLUMES, folder, device=CPU, execution=execution)
    one, other = (finished_checkpoint(run / KEY)["state"] for run in (whole, folder))
    assert same(one["network"], other["network"])
    assert same(one["best"], other["best"])
    assert same(one["others"]["student"], other["others"]["student"])


def test_the_teacher_is_exported(whole: Path, tmp_path: Path) -> None:
    checkpoint = finished_checkpoint(whole / KEY)
    assert not same(checkpoint["state"]["network"], checkpoint["state"]["others"]["student"])
    card = json.loads(export_run(whole, VS, tmp_path).read_text())
    assert card["summary"].startswith("The network of mean teacher (the mean of a student")
    assert card["departures_from_paper"]["meanteacher"][KEY].startswith("a mean teacher's consistency")
    assert card["postprocessing"]["components"] == "largest"
    shipped = load_segmenter(tmp_path, VS, CPU).network.state_dict()
    assert same(network_of(checkpoint, best=False).state_dict(), shipped)
