"""The search: the paper's point first, N trials in all, whatever ends a trial or the process."""

import csv
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import torch

from challenge.contract import VS
from challenge.signals import Interrupted
from pipeline.config import PAPER
from pipeline.model.enet import ENet3d
from pipeline.training import supervised as training
from pipeline.training.named_recipes import RECIPES, chosen_recipes
from pipeline.training.phases import ADAPTATION, SUPERVISED
from pipeline.tuning.criterion import volume_agreement
from pipeline.tuning.plots import plots_of
from pipeline.tuning.report import write_best
from pipeline.tuning.spaces import SPACES
from pipeline.tuning.storage import StudyError, storage_at
from pipeline.tuning.study import load_study, open_study, rows_of, settings_of
from pipeline.tuning.trials import TrialRow, best_row, paper_row
from pipeline.tuning.worker import Worker
from tests.tiny_run import RECIPE, VOLUMES, tiny_plan
from tests.tiny_search import CPU, SEARCHED, Ender, search, search_plan

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
]
PAPERS_POINT = {"learning_rate": 1e-3, "dice_weight": 3.4}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[TrialRow]:
    """The trials of a search that nothing interrupted."""
    return rows_of(search(tmp_path_factory.mktemp("whole"), 3))


def points(rows: list[TrialRow]) -> list[tuple[dict[str, float], float | None]]:
    return [(row.values, row.score) for row in rows if row.state != "retried"]


def test_the_spaces_are_the_paper_s() -> None:
    # "from 1e-5 to 0.1, from 1e-10 to 0.1 and from 0.1 to 4.0 for the initial learning rate in the supervised learning
    # phase, the initial learning rate in the domain adaptation phase and the weight w_d, respectively"
    told = {phase: [(p.name, p.low, p.high, p.log, p.paper) for p in space] for phase, space in SPACES.items()}
    assert told == {
        "supervised": [("learning_rate", 1e-5, 0.1, True, 1e-3), ("dice_weight", 0.1, 4.0, False, 3.4)],
        "adaptation": [("learning_rate", 1e-10, 0.1, True, 6.7e-5)],
    }
    assert PAPER.supervised_rate_range == (1e-5, 0.1)


def test_the_paper_s_point_is_the_first_trial(whole: list[TrialRow]) -> None:
    assert [row.state for row in whole] == ["complete"] * 3
    assert whole[0].values == PAPERS_POINT
    assert whole[0].is_at(SPACES["supervised"])
    for row in whole[1:]:
        for parameter in SPACES["supervised"]:
            assert parameter.low <= row.values[parameter.name] <= parameter.high
        assert not row.is_at(SPACES["supervised"])
    assert paper_row(whole, SPACES["supervised"]) == whole[0]
    assert best_row(whole).score == max(row.score for row in whole)


def test_the_same_command_goes_on_up_to_n_trials_in_all(tmp_path: Path, whole: list[TrialRow]) -> None:
    assert points(rows_of(search(tmp_path, 1))) == points(whole)[:1]
    assert points(rows_of(search(tmp_path, 3))) == points(whole)  # as if never stopped
    assert len(rows_of(search(tmp_path, 2))) == 3
    assert search(tmp_path, 9, timeout_s=0.0).get_trials()[-1].number == 2  # no time left to begin another


def test_a_score_is_the_dice_that_training_selects_by_and_its_folder_is_small(tmp_path: Path) -> None:
    (row,) = rows_of(search(tmp_path, 1))
    folder = tmp_path / "trials" / "0000" / "supervised"
    with (folder / "history.csv").open() as stream:
        history = list(csv.DictReader(stream))
    assert row.score == pytest.approx(max(float(epoch["validation_dice"]) for epoch in history), abs=1e-4)
    assert sorted(path.name for path in folder.iterdir()) == ["curves.png", "history.csv", "settings.json"]


def test_interrupted_the_trial_is_queued_and_goes_on_from_its_checkpoint(tmp_path: Path, whole: list[TrialRow]) -> None:
    with pytest.raises(Interrupted) as interrupted:
        search(tmp_path, 3, display=Ender(signal.SIGTERM))
    assert interrupted.value.exit_code == 143
    rows = rows_of(load_study(storage_at(f"sqlite:///{tmp_path}/study.db"), "tiny"))
    assert [(row.number, row.state, row.note) for row in rows] == [
        (0, "retried", "interrupted by SIGTERM; retried as trial 1"),
        (1, "waiting", "retry of trial 0"),
    ]
    assert (tmp_path / "trials" / "0000" / "supervised" / "checkpoint.pt").exists()
    rows = rows_of(search(tmp_path, 3))
    assert [row.state for row in rows] == ["retried", "complete", "complete", "complete"]
    assert points(rows)[0] == points(whole)[0]  # the same weights, so the same score
    assert not list(tmp_path.rglob("checkpoint.pt"))


@pytest.mark.parametrize(
    ("failing", "reason"),
    [
        (lambda loss: loss._replace(total=torch.tensor(float("nan"))), "diverged: epoch 1, cases crossmoda_"),
        (lambda _: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory")), "out of memory: CUDA"),
    ],
)
def test_a_failed_trial_is_recorded_and_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: Callable, reason: str
) -> None:
    loss = training.supervised_loss

    def fails_at_the_paper_s_point(logits, masks, dice_weight):
        computed = loss(logits, masks, dice_weight)
        return failing(computed) if dice_weight == PAPER.dice_weight else computed

    monkeypatch.setattr(training, "supervised_loss", fails_at_the_paper_s_point)
    study = search(tmp_path, 2)
    first, second = rows_of(study)
    assert first.state == "failed"
    assert first.note.startswith(reason)
    assert second.state == "complete"
    assert paper_row([first, second], SPACES["supervised"]) is None
    assert set(plots_of(study)) == {"optimization_history", "slice"}  # one score has no importances


def test_a_pruned_trial_keeps_the_epochs_that_it_had(tmp_path: Path) -> None:
    plan, storage = search_plan(), storage_at(f"sqlite:///{tmp_path}/study.db")
    study = open_study(plan, storage, "tiny")
    study.pruner = optuna.pruners.ThresholdPruner(lower=2.0)  # no Dice is that high
    Worker(plan, study, storage, VOLUMES, tmp_path, CPU).run(1)
    (row,) = rows_of(study)
    assert (row.state, row.epoch) == ("pruned", 1)
    folder = tmp_path / "trials" / "0000" / "supervised"
    assert len((folder / "history.csv").read_text().splitlines()) == 2  # the head and one epoch
    assert not (folder / "checkpoint.pt").exists()
    assert plots_of(study) == {}


def test_the_median_prunes_after_a_quarter_of_the_epochs(tmp_path: Path) -> None:
    long = tiny_plan(("supervised",), epochs=8)
    study = open_study(search_plan(run=long, pruner="median"), storage_at(f"sqlite:///{tmp_path}/study.db"), "tiny")
    space = {p.name: optuna.distributions.FloatDistribution(p.low, p.high, log=p.log) for p in SPACES["supervised"]}
    for _ in range(5):
        study.add_trial(
            optuna.create_trial(
                value=0.5, params=PAPERS_POINT, distributions=space, intermediate_values=dict.fromkeys((1, 2, 3), 0.5)
            )
        )
    poor, good = study.ask(), study.ask()
    poor.report(0.4, 1)
    assert not poor.should_prune()
    poor.report(0.4, 3)
    assert poor.should_prune()
    good.report(0.6, 3)
    assert not good.should_prune()


def test_another_search_under_the_same_name_is_refused(tmp_path: Path) -> None:
    storage = storage_at(f"sqlite:///{tmp_path}/study.db")
    open_study(search_plan(), storage, "tiny")
    longer = search_plan(run=tiny_plan(("supervised",), **{**SEARCHED, "epochs": 9}), pruner="median")
    with pytest.raises(StudyError, match="got another: pruner was none, is median; epochs was 2, is 9; repeat"):
        open_study(longer, storage, "tiny")
    study = open_study(search_plan(), storage, "narrow")
    settings = settings_of(study)
    settings["space"]["dice_weight"]["high"] = 2.0
    study.set_user_attr("search", settings)
    with pytest.raises(StudyError, match=r"study narrow: .* high was 2\.0, is 4\.0"):
        open_study(search_plan(), storage, "narrow")
    foreign = optuna.create_study(study_name="foreign", storage=storage.url)
    foreign.add_trial(optuna.create_trial(value=1.0))
    with pytest.raises(StudyError, match="study foreign: expected one that tune made"):
        open_study(search_plan(), storage, "foreign")
    with pytest.raises(StudyError, match="study none: expected one of foreign, narrow, tiny in sqlite"):
        load_study(storage, "none")


@pytest.mark.parametrize("url", ["mysql://host/name", "sqlite://", "nonsense"])
def test_storages_that_are_none_are_refused(url: str) -> None:
    with pytest.raises(StudyError, match="expected sqlite:///FILE or postgresql://USER@HOST/NAME"):
        storage_at(url)


@pytest.mark.parametrize("name", ["paper", "cpu"])
def test_the_best_trial_s_settings_are_what_train_takes(tmp_path: Path, name: str) -> None:
    recipe = replace(RECIPES[name][VS][SUPERVISED], window=48, channels=(4, 8, 16))
    plan = search_plan(run=replace(tiny_plan(), recipes={SUPERVISED: recipe}, recipe_name=name))
    values = {"learning_rate": 1.25e-5, "dice_weight": 0.3}
    write_best(tmp_path / "best.toml", TrialRow(7, "complete", values, 3, 0.5), plan.settings(), study="tiny")
    taken = chosen_recipes(name, VS, config=tmp_path / "best.toml")
    assert taken[SUPERVISED] == plan.run_with(values).recipes[SUPERVISED]
    # Phase 2 takes w_d over; nothing else.
    assert taken[ADAPTATION] == replace(RECIPES[name][VS][ADAPTATION], dice_weight=0.3)
    # The files of two phases can be joined.
    other = search_plan(run=replace(tiny_plan(), recipes={ADAPTATION: RECIPES[name][VS][ADAPTATION]}, recipe_name=name))
    write_best(
        tmp_path / "2.toml", TrialRow(1, "complete", {"learning_rate": 2e-6}, 3, 0.5), other.settings(), study="b"
    )
    (tmp_path / "both.toml").write_text((tmp_path / "best.toml").read_text() + (tmp_path / "2.toml").read_text())
    assert chosen_recipes(name, VS, config=tmp_path / "both.toml")[ADAPTATION].learning_rate == 2e-6


def test_volumes_agree_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    source = VOLUMES["source_training"]
    expected = sum(int(volume.mask.sum()) for volume in source) // 2
    assert 2 * expected == sum(int(volume.mask.sum()) for volume in source)
    predicted = iter([expected, expected // 2, 0])

    def predict(volume, *_, **__):
        flat = torch.zeros(volume.size).numpy()
        flat[: next(predicted)] = 1.0
        return flat.reshape(volume.shape)

    monkeypatch.setattr("pipeline.inference.segment.predict_volume", predict)
    target = [*VOLUMES["target_training"], VOLUMES["target_training"][0]]
    agreement = volume_agreement(ENet3d(channels=(4, 8, 16)), source, target, VS, RECIPE, CPU)
    assert agreement == pytest.approx((1 + (expected // 2) / expected + 0) / 3)
    with pytest.raises(ValueError, match="expected target volumes"):
        volume_agreement(ENet3d(channels=(4, 8, 16)), source, [], VS, RECIPE, CPU)
