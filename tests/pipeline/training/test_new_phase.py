"""A phase that the code has never heard of: a module with a loop and one entry in the table are enough."""

import csv
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from challenge.contract import STRUCTURES, VS
from challenge.signals import Interrupted
from pipeline.config import PAPER
from pipeline.data.sampling import TrainingVolume, cut_batches, epoch_draws
from pipeline.model.enet import ENet3d
from pipeline.model.losses import supervised_loss
from pipeline.model.weights import load_segmenter
from pipeline.training.checkpoint import finished_checkpoint, network_of
from pipeline.training.epoch_end import validate_if_due
from pipeline.training.export import ExportOptions, export_run
from pipeline.training.listeners import Listener, Listeners
from pipeline.training.named_recipes import RECIPES, ConfigError, chosen_recipes
from pipeline.training.phases import LAST, PHASES, SUPERVISED, Phase
from pipeline.training.recipes import Recipe, SupervisedRecipe
from pipeline.training.run import check_run, train_run
from pipeline.training.settings import RunError
from pipeline.training.state import PhaseState, Trained
from tests.tiny_run import RECIPE, SHARED, VOLUMES, Ender, tiny_plan

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class ToyRecipe(Recipe):
    """A recipe with a field of its own, which also says where its phase starts."""

    learning_rate: float = PAPER.supervised_rate
    pull: float = 0.5
    starts_from: str = "supervised"


def train_toy(
    structure,
    network: ENet3d,
    volumes: Mapping[str, Sequence[TrainingVolume]],
    recipe: ToyRecipe,
    *,
    rng: np.random.Generator,
    phase: Phase,
    device: torch.device,
    listeners: Sequence[Listener],
    **_: object,
) -> Trained:
    """Train on the source, with a loss of its own on the first target volume."""
    tell = Listeners(listeners)
    source, target = volumes["source_training"], volumes["target_training"]
    torch.manual_seed(int(rng.integers(2**31)))
    optimiser = torch.optim.SGD(network.parameters(), lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimiser)
    head = torch.nn.Linear(1, 1)
    state = PhaseState(
        structure,
        phase,
        network,
        optimiser,
        schedule,
        epochs=recipe.epochs,
        batches_per_epoch=2,
        rng=rng,
        others={"head": head},
    )
    tell.started(state)
    patch = torch.from_numpy(np.array(target[0].volume[None, None, :16, :16, :16]))
    for _epoch in state.epochs_left():
        network.train()
        for batch in cut_batches(state.batches_left(epoch_draws(source, rng=rng, **recipe.drawing()))):
            loss = supervised_loss(network(torch.from_numpy(batch.patches)), torch.from_numpy(batch.masks))
            pulled = recipe.pull * network(patch).square().mean()
            optimiser.zero_grad()
            (loss.total + pulled).backward()
            optimiser.step()
            state.add_step(loss=loss.total + pulled, pull_loss=pulled)
            tell.stepped(state)
        scores = validate_if_due(state, volumes["source_validation"], recipe, device, listener=tell)
        schedule.step()
        state.finish_epoch(scores)
        tell.epoch_finished(state)
    tell.finished(state)
    return state.trained()


TOY = Phase(
    "toy_1",
    "Toy 1",
    "a first round",
    ToyRecipe,
    "the_toy_phase:train_toy",
    stream=7,
    reads=("source_training", "source_validation", "target_training"),
    departure="a toy, not in the paper",
)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """One entry in the table of phases, one in that of recipes; the module, importable by a name of its own."""
    monkeypatch.setitem(sys.modules, "the_toy_phase", sys.modules[__name__])
    monkeypatch.setitem(PHASES, TOY.key, TOY)
    toys = {s: {SUPERVISED: SupervisedRecipe.paper(s), TOY: ToyRecipe.paper(s)} for s in STRUCTURES}
    monkeypatch.setitem(RECIPES, "toys", toys)


def toy_plan(**changes: object):
    recipe = ToyRecipe(**{**SHARED, **changes})
    return dataclasses.replace(tiny_plan(), recipes={SUPERVISED: RECIPE, TOY: recipe}, recipe_name="toys")


def test_a_named_recipe_lists_it_and_a_file_changes_it(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("epochs = 5\n[toy_1]\npull = 2\n[vs.toy_1]\nlearning_rate = 1e-4")
    recipes = chosen_recipes("toys", VS, config=config)
    assert list(recipes) == [SUPERVISED, TOY]
    assert recipes[TOY] == dataclasses.replace(ToyRecipe.paper(VS), epochs=5, pull=2.0, learning_rate=1e-4)
    config.write_text("[supervised]\npull = 2")
    with pytest.raises(ConfigError, match="got pull"):
        chosen_recipes("toys", VS, config=config)
    with pytest.raises(ConfigError, match="recipe toys: expected one of its phases for vs, supervised, toy_1, got ada"):
        chosen_recipes("toys", VS, phases=[PHASES["adaptation"]])


def test_it_trains_is_resumed_and_is_summed_up(tmp_path: Path) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "vs"
    train_run(toy_plan(), VOLUMES, whole, device=CPU)
    with pytest.raises(Interrupted):
        train_run(toy_plan(), VOLUMES, folder, device=CPU, listeners=[Ender("toy_1", 2, 1, "", 15)])
    train_run(toy_plan(), VOLUMES, folder, device=CPU)
    one, other = (finished_checkpoint(run / "toy_1")["state"] for run in (whole, folder))
    for part in ("network", "best"):
        assert all(torch.equal(tensor, other[part][name]) for name, tensor in one[part].items())
    assert torch.equal(one["others"]["head"]["weight"], other["others"]["head"]["weight"])
    content = json.loads((folder / "toy_1" / "settings.json").read_text())
    assert content["settings"]["recipe"]["pull"] == 0.5
    assert content["settings"]["target_training"] == ["crossmoda_106", "crossmoda_107"]
    assert content["record"]["departures"]["toy_1"] == "a toy, not in the paper"
    with (folder / "toy_1" / "history.csv").open() as stream:
        assert {"loss", "pull_loss"} <= set(next(csv.DictReader(stream)))
    summary = (folder / "summary.md").read_text()
    assert "## Toy 1, a first round" in summary
    assert "| toy_1 | a toy, not in the paper |" in summary
    with pytest.raises(RunError, match=r"got others: pull was 0\.5, is 3\.0"):
        check_run(toy_plan(pull=3.0), folder)
    with pytest.raises(RunError, match=r"vs/missing/checkpoint\.pt: expected a checkpoint, got none"):
        check_run(toy_plan(starts_from="missing"), folder)


def test_its_network_is_exported(tmp_path: Path) -> None:
    train_run(toy_plan(), VOLUMES, tmp_path / "vs", device=CPU)
    card = json.loads(export_run(tmp_path / "vs", VS, tmp_path / "weights").read_text())
    assert card["summary"].startswith("The network of toy 1 (a first round), epoch 2 (the last)")
    assert card["schedule"][1] == "toy 1: 2 epochs, 4 steps, Adam, 0.001, cosine annealing"
    assert card["departures_from_paper"]["toy1"]["toy_1"] == "a toy, not in the paper"
    assert set(card["seconds"]) == {"phase1", "toy1"}
    last = network_of(finished_checkpoint(tmp_path / "vs" / "toy_1"), best=False).state_dict()
    shipped = load_segmenter(tmp_path / "weights", VS, CPU).network.state_dict()
    assert all(torch.equal(tensor, shipped[name]) for name, tensor in last.items())
    options = ExportOptions(phase="supervised", which=LAST)
    assert "phase 1 (supervised)" in export_run(tmp_path / "vs", VS, tmp_path / "first", options).read_text()
