"""A round of self-training: it labels, trains, goes on where it was left, and never looks at a target mask."""

import csv
import dataclasses
import json
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from challenge.contract import VS
from challenge.signals import Interrupted
from pipeline.adaptation.nearness import DistanceRange, Nearness
from pipeline.adaptation.pseudo_labels import PseudoLabel
from pipeline.adaptation.randomisation import smoothed
from pipeline.config import MIND_INPUT, VOLUME_INPUT
from pipeline.data.sampling import TrainingVolume
from pipeline.model.enet import ENet3d
from pipeline.model.weights import Segmenter
from pipeline.training import epoch_end, report, self_training
from pipeline.training import run as runs
from pipeline.training.checkpoint import finished_checkpoint, network_of, read_checkpoint, saved_progress
from pipeline.training.export import export_run
from pipeline.training.listeners import Listener
from pipeline.training.phases import SELF_TRAINING, SUPERVISED
from pipeline.training.recipes import BOTH, NETWORK, STATISTICS, TEACHERS_INPUT, SelfTrainingRecipe
from pipeline.training.report import read_pseudo_label
from pipeline.training.run import train_run
from pipeline.training.self_training import label_target, train_self_training
from pipeline.training.settings import RunError, RunPlan
from pipeline.training.state import PhaseState, Trained
from tests.tiny_run import RECIPE, SHARED, VOLUMES, Ender, ball, labelled_truly, tiny_plan

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
FIRST, SECOND, _ = SELF_TRAINING
# In the source's contrast, so that a network of seconds finds something there.
TARGET = [ball("crossmoda_106", 5), ball("crossmoda_107", 6)]
ROUND: Mapping[str, Any] = {**VOLUMES, "target_training": [TrainingVolume(v.case, v.volume) for v in TARGET]}
LOOSE = {"smallest_volume": 0.0, "largest_volume": 100.0, "kept_share": 0.0, "agreement": 0.0}
LOOSE_RECIPE = SelfTrainingRecipe(**SHARED, **LOOSE, augmentation="contrast", target_augmentation="light")
# Sixty steps: it finds too much, but not nothing.
BEFORE = dataclasses.replace(RECIPE, epochs=1, patches_per_volume=60, learning_rate=1e-2)


def plan(*phases: Any, **changes: Any) -> RunPlan:
    """The tiny run with rounds of self-training after phase 1, and changes to their recipes."""
    recipe = dataclasses.replace(LOOSE_RECIPE, **changes)
    return dataclasses.replace(tiny_plan(), recipes={SUPERVISED: BEFORE, **dict.fromkeys(phases or (FIRST,), recipe)})


@pytest.fixture(scope="module")
def phase_1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose phase 1 has ended."""
    folder = tmp_path_factory.mktemp("phase_1") / "vs"
    train_run(dataclasses.replace(plan(), recipes={SUPERVISED: BEFORE}), ROUND, folder, device=CPU)
    return folder


@pytest.fixture(scope="module")
def whole(phase_1: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a round that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "vs"
    shutil.copytree(phase_1, folder)
    train_run(plan(), ROUND, folder, device=CPU)
    return folder


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than the training; the run that `whole` gives has them."""
    for name in ("draw_curves", "draw_slices"):
        monkeypatch.setattr(report, name, lambda *_, **__: None)


@pytest.fixture
def a_teacher_that_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every prediction is right: the balls are brighter than all else by far, once smoothed."""

    def predict(volume: np.ndarray, *_: object, **__: object) -> np.ndarray:
        return np.where(smoothed(volume, 0.7) > 1.0, np.float32(0.9), np.float32(0.1))

    monkeypatch.setattr(self_training, "predict_structure", predict)


@pytest.fixture
def folder(phase_1: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(phase_1, tmp_path / "vs"))


@pytest.fixture
def network(phase_1: Path) -> ENet3d:
    return network_of(finished_checkpoint(phase_1 / "supervised"), best=False)


def trained(network: ENet3d, volumes: Any = ROUND, listeners: Any = (), **changes: Any) -> Trained:
    recipe = dataclasses.replace(LOOSE_RECIPE, **changes)
    return train_self_training(VS, network, volumes, recipe, rng=np.random.default_rng(0), listeners=listeners)


def weights(network: ENet3d) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    assert list(one) == list(other)
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


class Heard(Listener):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.labels: dict[str, PseudoLabel] = {}
        self.steps = 0

    def pseudo_labelled(self, state: PhaseState, case: str, label: PseudoLabel) -> None:
        assert self.steps == 0
        self.labels[case] = label

    def stepped(self, state: PhaseState) -> None:
        self.steps += 1


class StopAtALabel(Listener):
    """Asks the process to stop when a case is labelled."""

    def __init__(self, case: str) -> None:
        self._case = case

    def pseudo_labelled(self, state: PhaseState, case: str, label: PseudoLabel) -> None:
        if case == self._case:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_round_trains_and_leaves_the_network_given_alone(network: ENet3d) -> None:
    before, heard = weights(network), Heard()
    result = trained(network, listeners=[heard])
    assert same(before, weights(network))
    assert not same(before, weights(result.last))
    assert list(heard.labels) == ["crossmoda_106", "crossmoda_107"]
    assert [label.refused for label in heard.labels.values()] == ["", ""]
    # Two source volumes of two patches each, one of them in a batch: four batches an epoch.
    assert heard.steps == 8
    assert [epoch.number for epoch in result.history] == [1, 2]
    assert result.history[-1].validation is not None
    assert all(np.isfinite(list(epoch.losses.values())).all() for epoch in result.history)


@pytest.mark.usefixtures("a_teacher_that_knows")
def test_it_is_trained_on_the_labels_that_it_made(network: ENet3d, monkeypatch: pytest.MonkeyPatch) -> None:
    heard, seen, cut = Heard(), [], self_training.cut_batches

    def kept(*arguments: Any) -> Any:
        for batch in cut(*arguments):
            seen.append(batch)
            yield batch

    monkeypatch.setattr(self_training, "cut_batches", kept)
    rules = {"smallest_volume": 0.5, "largest_volume": 1.5, "kept_share": 0.5, "agreement": 0.5}
    trained(network, listeners=[heard], **rules, augmentation="none", target_augmentation="none", epochs=1)
    for volume in TARGET:
        label = heard.labels[volume.case]
        assert label.refused == ""
        assert label.agreement == 1.0
        assert 2 * (label.mask & volume.mask).sum() / (label.mask.sum() + volume.mask.sum()) > 0.9
    # Half of a batch is source, half target; a target's patches lie with its label: bright inside, dark outside.
    assert [[case in ("crossmoda_106", "crossmoda_107") for case in batch.cases] for batch in seen] == [[0, 1]] * 4
    for batch in seen:
        (_, patch), (_, mask) = batch.patches[:, 0], batch.masks
        if mask.any():
            assert patch[mask].mean() > 1.2
            assert patch[~mask].mean() < 0


@pytest.mark.parametrize("teacher", [NETWORK, STATISTICS, BOTH])
def test_every_teacher_labels_and_is_left_alone(network: ENet3d, teacher: str) -> None:
    before, heard = weights(network), Heard()
    result = trained(network, listeners=[heard], teacher=teacher, contrast_view="mild", epochs=1)
    assert same(before, weights(network))
    assert len(heard.labels) == 2
    assert len(result.history) == 1


def test_the_round_starts_from_the_statistics_where_they_alone_teach(network: ENet3d) -> None:
    class Started(Exception):
        pass

    class Start(Listener):
        def pseudo_labelled(self, state: PhaseState, case: str, label: PseudoLabel) -> None:
            starts.append(weights(state.network))
            raise Started

    starts: list[dict[str, torch.Tensor]] = []
    for teacher in (NETWORK, BOTH, STATISTICS):
        with pytest.raises(Started):
            trained(network, listeners=[Start()], teacher=teacher)
    alone, both, statistics = starts
    assert same(alone, weights(network))
    assert same(both, weights(network))
    differing = {name for name, tensor in statistics.items() if not torch.equal(tensor, alone[name])}
    assert differing
    assert all("running" in name or "num_batches" in name for name in differing)


def test_a_new_network_learns_where_the_round_names_another_input(network: ENet3d) -> None:
    class Start(Listener):
        def pseudo_labelled(self, state: PhaseState, case: str, label: PseudoLabel) -> None:
            starts.append(weights(state.network))

    starts: list[dict[str, torch.Tensor]] = []
    before = weights(network)
    for input in (MIND_INPUT, VOLUME_INPUT, TEACHERS_INPUT):
        result = trained(network, listeners=[Start()], input=input, teacher=STATISTICS, epochs=1)
        assert result.last.config() == {**network.config(), **({"input": MIND_INPUT} if input == MIND_INPUT else {})}
    assert same(before, weights(network))
    new, _, further, _, same_input, _ = starts
    assert same(further, same_input)
    name = "encoder.downsample1_0.branch.0.weight"
    assert torch.equal(further[name], before[name])
    assert not torch.equal(new[name], before[name])


def test_separate_statistics_are_the_target_s_and_validation_has_the_source_s(
    network: ENet3d, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The target is brighter by 50 everywhere, which no weight undoes: the first norm's running mean tells of it.
    far = {**ROUND, "target_training": [TrainingVolume(v.case, v.volume + 50) for v in TARGET]}
    validated: list[float] = []
    validate = epoch_end.validate

    def seen(given: ENet3d, *arguments: Any, **named: Any) -> Any:
        validated.append(float(given.encoder.initial.norm.running_mean[-1]))
        return validate(given, *arguments, **named)

    monkeypatch.setattr(epoch_end, "validate", seen)
    monkeypatch.setattr(self_training, "label_target", labelled_truly(TARGET))
    shared: dict[str, Any] = {"epochs": 1, "patches_per_volume": 40, "augmentation": "none"}
    mixed, apart = (trained(network, far, separate_statistics=separate, **shared).last for separate in (False, True))
    of_mixed, of_apart = (float(result.encoder.initial.norm.running_mean[-1]) for result in (mixed, apart))
    assert 20 < of_mixed < 35
    assert of_apart > 45
    assert validated[0] == of_mixed
    assert validated[1] < 5


def test_target_masks_are_never_looked_at(network: ENet3d) -> None:
    without = weights(trained(network, epochs=1).last)
    wrong = [TrainingVolume(v.case, v.volume, ~v.mask, v.mask) for v in TARGET]
    # Asking these for a mask raises AttributeError.
    sealed = [SimpleNamespace(case=v.case, volume=v.volume) for v in TARGET]
    for volumes in (wrong, sealed):
        assert same(without, weights(trained(network, {**ROUND, "target_training": volumes}, epochs=1).last))


def test_a_mirrored_view_is_turned_back(network: ENet3d) -> None:
    # Mirroring the scan mirrors the mean of both views.
    recipe = dataclasses.replace(LOOSE_RECIPE, overlap=0.0, uncertain_band=0.2)
    segmenter = Segmenter(VS, network.eval(), 24, CPU, card={})
    volume = ROUND["target_training"][0]
    mirrored = TrainingVolume(volume.case, np.ascontiguousarray(volume.volume[..., ::-1]))
    (_, one), (_, other) = label_target(
        [segmenter], [volume, mirrored], VOLUMES["source_training"], recipe, rng=np.random.default_rng(0)
    )
    np.testing.assert_array_equal(one.mask, other.mask[..., ::-1])
    np.testing.assert_array_equal(one.certain, other.certain[..., ::-1])
    assert one.mask.any()
    assert one.agreement == pytest.approx(other.agreement)


@pytest.mark.usefixtures("a_teacher_that_knows")
def test_a_view_of_random_contrast_keeps_every_voxel_in_its_place(network: ENet3d) -> None:
    # `light` turns, zooms and adds some noise, through which the ball is still seen.
    recipe = dataclasses.replace(LOOSE_RECIPE, contrast_view="light")
    segmenter = Segmenter(VS, network, 24, CPU, card={})
    for seed in range(8):
        rng = np.random.default_rng(seed)
        labels = label_target([segmenter], TARGET, VOLUMES["source_training"], recipe, rng=rng)
        assert all(label.agreement > 0.9 for _, label in labels)


def test_a_round_that_keeps_nothing_is_refused(network: ENet3d, folder: Path) -> None:
    message = (
        r"self_training_1: expected a pseudo-label for at least one of 2 target cases, got none that the rules keep; "
        r"train the phase before for longer, or loosen the rules"
    )
    with pytest.raises(ValueError, match=message):
        trained(network, smallest_volume=50.0)
    with pytest.raises(ValueError, match=message):
        train_run(plan(smallest_volume=50.0), ROUND, folder, device=CPU)
    with (folder / FIRST.key / "pseudo_labels.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["kept"] for row in rows] == ["no", "no"]
    assert all(row["refused"].startswith("volume of ") for row in rows)


@pytest.mark.usefixtures("a_teacher_that_knows")
def test_one_case_kept_makes_up_for_the_other(network: ENet3d) -> None:
    heard, kept = Heard(), ROUND["target_training"][0]
    nothing = TrainingVolume("crossmoda_107", np.zeros((24, 24, 24), dtype=np.float32))
    trained(network, {**ROUND, "target_training": [kept, nothing]}, [heard], epochs=1)
    assert {case: label.refused for case, label in heard.labels.items()} == {
        "crossmoda_106": "",
        "crossmoda_107": "empty",
    }
    assert heard.steps == 4  # an epoch has as many steps as if both were kept


@pytest.mark.usefixtures("a_teacher_that_knows")
def test_a_tumour_far_from_every_cochlea_is_left_out_and_said_to_be(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Centres of 106 and 107 lie within the scan of 12 mm; the second one's cochlea is elsewhere.
    cochleas = {"crossmoda_106": np.array([[6.0, 6.0, 6.0]]), "crossmoda_107": np.array([[6.0, 6.0, 60.0]])}
    asked: list[tuple[Any, ...]] = []

    def find(*arguments: Any, **_: Any) -> Nearness:
        asked.append(arguments)
        return Nearness(cochleas, DistanceRange(0.1, 5.0), arguments[1])

    monkeypatch.setattr(runs, "find_nearness", find)
    near = plan(cochlea_factor=2.0, epochs=1, patches_per_volume=1)
    train_run(near, ROUND, folder, device=CPU)
    assert asked == [(folder / FIRST.key, 2.0, near.data.source_training, ROUND["target_training"])]
    with (folder / FIRST.key / "pseudo_labels.csv").open() as stream:
        kept, left_out = csv.DictReader(stream)
    assert (kept["case"], kept["kept"]) == ("crossmoda_106", "yes")
    assert (left_out["case"], left_out["kept"]) == ("crossmoda_107", "no")
    assert left_out["refused"].endswith(" mm from the nearest cochlea's, outside 0.1 to 10.0")


def test_an_odd_batch_is_refused(network: ENet3d) -> None:
    with pytest.raises(ValueError, match="expected an even number, half of it for each domain, got 3"):
        trained(network, batch_size=3)


def test_what_a_round_leaves_behind(whole: Path) -> None:
    names = sorted(path.name for path in (whole / FIRST.key).iterdir())
    assert names == [
        "checkpoint.pt",
        "curves.png",
        "history.csv",
        "pseudo_labels",
        "pseudo_labels.csv",
        "settings.json",
        "slices.png",
    ]
    with (whole / FIRST.key / "pseudo_labels.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["case"], row["kept"], row["refused"]) for row in rows] == [
        ("crossmoda_106", "yes", ""),
        ("crossmoda_107", "yes", ""),
    ]
    network = network_of(finished_checkpoint(whole / "supervised"), best=False)
    segmenter = Segmenter(VS, network, LOOSE_RECIPE.window, CPU, card={})
    again = label_target(
        [segmenter], ROUND["target_training"], VOLUMES["source_training"], LOOSE_RECIPE, rng=np.random.default_rng(0)
    )
    for row, (case, label) in zip(rows, again, strict=True):
        mask = read_pseudo_label(whole / FIRST.key / "pseudo_labels" / f"{case.case}.npz")
        assert (mask.dtype, mask.shape) == (np.bool_, (24, 24, 24))
        np.testing.assert_array_equal(mask, label.mask)
        assert int(row["voxels"]) == mask.sum()
        assert float(row["agreement"]) == pytest.approx(label.agreement, abs=1e-4)
    summary = (whole / "summary.md").read_text()
    assert "## Self-training 1, round 1 on the target's pseudo-labels" in summary
    assert "training on pseudo-labels of the target, which the paper does not have" in summary


def assert_same_end(one: Path, other: Path) -> None:
    ends = [finished_checkpoint(folder / FIRST.key) for folder in (one, other)]
    assert same(ends[0]["state"]["network"], ends[1]["state"]["network"])
    assert same(ends[0]["state"]["best"], ends[1]["state"]["best"])
    progress = [saved_progress(end) for end in ends]
    assert progress[0]["rng"] == progress[1]["rng"]
    for value in ("losses", "validation"):
        assert [epoch[value] for epoch in progress[0]["history"]] == [epoch[value] for epoch in progress[1]["history"]]
    tables = [(folder / FIRST.key / "pseudo_labels.csv").read_text() for folder in (one, other)]
    assert tables[0] == tables[1]


@pytest.mark.parametrize(
    ("stopper", "progress"),
    [
        (StopAtALabel("crossmoda_106"), (0, 0)),
        (Ender(FIRST.key, 2, 1, "", 15), (1, 1)),
        (Ender(FIRST.key, 2, 4, "crossmoda_96", 15), (1, 4)),
    ],
    ids=["labelling", "amid an epoch", "validating"],
)
def test_the_same_command_goes_on_and_ends_with_the_same_weights(
    folder: Path, whole: Path, stopper: Listener, progress: tuple[int, int]
) -> None:
    with pytest.raises(Interrupted) as interrupted:
        train_run(plan(), ROUND, folder, device=CPU, listeners=[stopper])
    assert interrupted.value.exit_code == 143
    saved = saved_progress(read_checkpoint(folder / FIRST.key / "checkpoint.pt"))
    assert (saved["epoch"], saved["batches_done"]) == progress
    train_run(plan(), ROUND, folder, device=CPU)
    assert_same_end(folder, whole)


def test_a_second_interruption_while_labels_are_made_again_loses_nothing(folder: Path, whole: Path) -> None:
    drawn = []
    for stopper in (Ender(FIRST.key, 2, 1, "", 15), StopAtALabel("crossmoda_106")):
        with pytest.raises(Interrupted):
            train_run(plan(), ROUND, folder, device=CPU, listeners=[stopper])
        drawn.append(saved_progress(read_checkpoint(folder / FIRST.key / "checkpoint.pt"))["rng"])
    assert drawn[0] == drawn[1]
    train_run(plan(), ROUND, folder, device=CPU)
    assert_same_end(folder, whole)


def test_views_of_random_contrast_and_separate_statistics_are_the_same_after_an_interruption(
    phase_1: Path, tmp_path: Path
) -> None:
    one, other = (Path(shutil.copytree(phase_1, tmp_path / name)) for name in ("one", "other"))
    with_views = plan(teacher=BOTH, contrast_view="contrast", separate_statistics=True)
    train_run(with_views, ROUND, one, device=CPU)
    card = json.loads(export_run(one, VS, tmp_path / "weights").read_text())
    told = "the source's, as trained, not those of these weights"
    assert card["scores"]["source_validation"]["statistics"] == told
    assert "statistics" not in card["phase1"]["source_validation"]["last"]
    with pytest.raises(Interrupted):
        train_run(with_views, ROUND, other, device=CPU, listeners=[Ender(FIRST.key, 2, 1, "", 15)])
    train_run(with_views, ROUND, other, device=CPU)
    assert_same_end(one, other)


def test_a_new_network_s_round_goes_on_and_is_what_the_next_one_starts_from(phase_1: Path, tmp_path: Path) -> None:
    one, other = (Path(shutil.copytree(phase_1, tmp_path / name)) for name in ("one", "other"))
    new = plan(input=MIND_INPUT)
    train_run(new, ROUND, one, device=CPU)
    with pytest.raises(Interrupted):
        train_run(new, ROUND, other, device=CPU, listeners=[Ender(FIRST.key, 2, 1, "", 15)])
    train_run(new, ROUND, other, device=CPU)
    assert_same_end(one, other)
    second = dataclasses.replace(LOOSE_RECIPE, starts_from=FIRST.key, epochs=1)
    train_run(dataclasses.replace(new, recipes={**new.recipes, SECOND: second}), ROUND, one, device=CPU)
    assert network_of(finished_checkpoint(one / SECOND.key), best=False).input == MIND_INPUT


def test_a_finished_round_is_not_labelled_again(whole: Path) -> None:
    heard, before = Heard(), (whole / FIRST.key / "pseudo_labels.csv").stat().st_mtime_ns
    train_run(plan(), ROUND, whole, device=CPU, listeners=[heard])
    assert (heard.labels, heard.steps) == ({}, 0)
    assert (whole / FIRST.key / "pseudo_labels.csv").stat().st_mtime_ns == before


def test_a_finished_round_does_not_estimate_statistics_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    statistics = plan(teacher=STATISTICS, epochs=1, patches_per_volume=1)
    train_run(statistics, ROUND, folder, device=CPU)
    monkeypatch.setattr(self_training, "reestimate_statistics", lambda *_, **__: pytest.fail("estimated again"))
    train_run(statistics, ROUND, folder, device=CPU)


def test_a_second_round_goes_on_from_the_first_one_s_last_network(whole: Path, tmp_path: Path) -> None:
    class Start(Listener):
        def started(self, state: PhaseState) -> None:
            if state.phase is SECOND:
                self.network = weights(state.network)

    folder, start = Path(shutil.copytree(whole, tmp_path / "vs")), Start()
    recipes = {**plan().recipes, SECOND: dataclasses.replace(LOOSE_RECIPE, starts_from=FIRST.key)}
    train_run(dataclasses.replace(plan(), recipes=recipes), ROUND, folder, device=CPU, listeners=[start])
    last = network_of(finished_checkpoint(folder / FIRST.key), best=False)
    assert same(start.network, weights(last))


def test_a_round_waits_for_the_phase_that_it_starts_from(tmp_path: Path) -> None:
    alone = dataclasses.replace(plan(), recipes={FIRST: LOOSE_RECIPE})
    with pytest.raises(RunError, match=r"supervised/checkpoint\.pt: expected a checkpoint, got none"):
        train_run(alone, ROUND, tmp_path / "vs", device=CPU)
