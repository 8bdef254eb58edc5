"""A search whose processes are killed at any write to the storage tries the same points as one that nobody disturbs."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import optuna
import pytest
import sqlalchemy as sql
from optuna.storages import RDBStorage

from pipeline.tuning import retries, worker
from pipeline.tuning.storage import storage_at
from pipeline.tuning.study import load_study, open_study, rows_of
from tests.tiny_search import search, search_plan

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
TRIALS = 12  # from the eleventh on, TPE draws by its model of the others
WRITES = (
    "create_new_trial",
    "set_trial_param",
    "set_trial_user_attr",
    "set_trial_state_values",
    "set_trial_intermediate_value",
    "record_heartbeat",
)


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the search catches it, so the storage stays as it was at that moment."""


@pytest.fixture(scope="module", autouse=True)
def fast_sqlite() -> Iterator[None]:
    """Do not wait for the disk: no process really dies here."""

    def hasten(connection, _) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    sql.event.listen(sql.Engine, "connect", hasten)
    yield
    sql.event.remove(sql.Engine, "connect", hasten)


@pytest.fixture(autouse=True)
def instant_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train in no time: a trial's score is a function of its values."""

    def train(plan, volumes, folder, *, listeners, **_) -> None:
        objective = listeners[1]
        (recipe,) = plan.recipes.values()
        score = float(1 / (1 + abs(np.log10(recipe.learning_rate) + 2) + abs(recipe.dice_weight - 2)))
        objective.scores[1] = score
        objective.trial.report(score, 1)

    monkeypatch.setattr(worker, "train_run", train)
    # Optuna collects after each trial, which takes longer than all else.
    monkeypatch.setattr("gc.collect", lambda *_: 0)


def killed_at(monkeypatch: pytest.MonkeyPatch, write: int, before: bool) -> None:
    """Kill the process at its n-th write from now, before or after the storage has it."""
    left = write

    def dying(name: str):
        real = getattr(RDBStorage, name)

        def method(self, *arguments, **options):
            nonlocal left
            if threading.current_thread() is not threading.main_thread():
                return real(self, *arguments, **options)  # the later heartbeats
            left -= 1
            if left == 0 and before:
                raise Killed
            result = real(self, *arguments, **options)
            if left == 0:
                raise Killed
            return result

        return method

    for name in WRITES:
        monkeypatch.setattr(RDBStorage, name, dying(name))


def let_heartbeats_age(file: Path) -> None:
    with sql.create_engine(f"sqlite:///{file}").begin() as connection:
        connection.execute(sql.text("UPDATE trial_heartbeats SET heartbeat = '2000-01-01 00:00:00'"))


def tried(study: optuna.Study) -> list[tuple[dict[str, float], float | None]]:
    return [(row.values, row.score) for row in rows_of(study) if row.state == "complete"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list:
    with pytest.MonkeyPatch.context() as patch:
        instant_training.__wrapped__(patch)  # the module's fixture comes before the test's
        return tried(search(tmp_path_factory.mktemp("whole"), TRIALS))


def kills(seed: int) -> list[tuple[int, bool]]:
    """Draw at which write each of five processes dies. Early writes are those between taking and training."""
    generator = np.random.default_rng(seed)
    return [(int(generator.integers(1, 14)), bool(generator.integers(2))) for _ in range(5)]


@pytest.mark.parametrize(
    ("trials", "deaths"),
    [
        *((2, [(write, before)]) for write in range(1, 13) for before in (True, False)),
        *((TRIALS, kills(n)) for n in (1, 2)),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else "-".join(f"{n}{'b' if b else 'a'}" for n, b in value),
)
def test_the_same_points_whoever_dies_when(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: list, trials: int, deaths: list
) -> None:
    # A trial that dies more often in training than this is given up, which has a test of its own.
    monkeypatch.setattr(retries, "_MOST_RETRIES", len(deaths))
    open_study(search_plan(), storage_at(f"sqlite:///{tmp_path}/study.db", 1), "tiny")
    for write, before in deaths:
        with pytest.MonkeyPatch.context() as patch:
            killed_at(patch, write, before)
            # Optuna trips over a variable of its own where it is left like this while it tells a score.
            with pytest.raises((Killed, UnboundLocalError)):
                search(tmp_path, trials)
        let_heartbeats_age(tmp_path / "study.db")
    study = search(tmp_path, trials)
    assert tried(study) == undisturbed[:trials]
    assert all(row.state in ("complete", "retried") for row in rows_of(study))


def test_a_trial_that_kills_its_process_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = worker.train_run

    def deadly(plan, *arguments, **options):
        (recipe,) = plan.recipes.values()
        if recipe.dice_weight == 3.4:
            raise Killed
        train(plan, *arguments, **options)

    monkeypatch.setattr(worker, "train_run", deadly)
    for _ in range(4):
        with pytest.raises(Killed):
            search(tmp_path, 3)
        let_heartbeats_age(tmp_path / "study.db")
    search(tmp_path, 3)
    rows = rows_of(load_study(storage_at(f"sqlite:///{tmp_path}/study.db"), "tiny"))
    assert [row.state for row in rows] == ["retried"] * 3 + ["failed"] + ["complete"] * 2
