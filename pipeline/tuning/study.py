"""The search by Optuna: a study that several processes may share, one trial after another, each a run of `train`.

::

    a process:  take the study's turn -> anything left to do? -> begin a trial, its values drawn -> give the turn back
                -> train, report after every validated epoch, perhaps be pruned -> tell the study -> again

The turn is a lock, so that the processes of a study begin N trials in all and not one more, and each sees the values
of all that are under way. Who holds a trial says every few seconds that it is alive; of one that has fallen silent the
trial is begun anew by another, in the same folder, where its checkpoint lies.

Source: Akiba et al., Optuna, KDD 2019, which the paper cites; Section 3 for what it searched.
"""

import fcntl
import hashlib
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import optuna
import sqlalchemy as sql
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from challenge.signals import Interrupted
from pipeline.data.sampling import TrainingVolume
from pipeline.runtime.devices import is_out_of_memory
from pipeline.training.checkpoint import CHECKPOINT_FILE
from pipeline.training.history import Epoch
from pipeline.training.listeners import Listener
from pipeline.training.run import train_run
from pipeline.training.settings import differences
from pipeline.training.state import PhaseState
from pipeline.training.stopping import StopRequest, stop_requests
from pipeline.tuning.search import (
    COMPLETE,
    FAILED,
    PRUNED,
    RETRIED,
    RUNNING,
    TARGET_VOLUME,
    WAITING,
    SearchPlan,
    TrialRow,
    score_name,
    space_of,
    volume_agreement,
)

# Optuna's own marks of what may change between its releases; requirements.lock holds the one that is meant.
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
optuna.logging.set_verbosity(optuna.logging.ERROR)

PRUNERS = ("median", "halving", "none")
HEARTBEAT_S = 20
# A process is taken for dead after three heartbeats; a trial whose processes die is begun so many times anew.
_SILENT_HEARTBEATS, _MOST_RETRIES = 3, 3
_SETTINGS, _FAILURE = "search", "failure"
_POLL_S = 0.5
# A server that was set up without a locale hands out bytes unless told.
_SERVER = {"connect_timeout": 10, "client_encoding": "utf8"}
_STATES = {
    TrialState.RUNNING: RUNNING,
    TrialState.WAITING: WAITING,
    TrialState.COMPLETE: COMPLETE,
    TrialState.PRUNED: PRUNED,
    TrialState.FAIL: FAILED,
}


class StudyError(Exception):
    """A study or its storage that cannot be used: expected, got, next step."""


class _TrialFailed(Exception):
    """A trial that came to no score; the search goes on."""


@dataclass(frozen=True)
class Storage:
    """Where studies are kept: an SQLite file or a PostgreSQL server, `url` as SQLAlchemy takes it.

    SQLite and not Optuna's journal file is the one without a server, because a journal keeps no heartbeats.
    """

    url: str
    heartbeat_s: int = HEARTBEAT_S

    @property
    def shown(self) -> str:
        """Return the URL without its password."""
        return sql.make_url(self.url).render_as_string(hide_password=True)


def storage_at(url: str, heartbeat_s: int = HEARTBEAT_S) -> Storage:
    """Return the storage that a URL names: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME.

    Raises:
        StudyError: it names something else.
    """
    try:
        parsed = sql.make_url(url)
        backend = parsed.get_backend_name()
    except (sql.exc.ArgumentError, ValueError):
        backend = "something else"
    if backend not in ("sqlite", "postgresql") or (backend == "sqlite" and not parsed.database):
        raise StudyError(
            f"--storage: expected sqlite:///FILE or postgresql://USER@HOST/NAME, got {backend}; "
            "leave it out for a file in the run folder"
        )
    if backend == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    return Storage(parsed.render_as_string(hide_password=False), heartbeat_s)


def open_study(plan: SearchPlan, storage: Storage, name: str) -> optuna.Study:
    """Open a plan's study, or make it, the paper's point its first trial.

    Raises:
        StudyError: the storage cannot be reached, or holds another search under this name.
        RunError: the phase 1 to start from has not ended.
    """
    settings = plan.settings()
    paper = {parameter.name: parameter.paper for parameter in plan.space}
    # The turn of the whole storage, because whoever comes first makes its tables.
    with _told(storage), _turn(storage, ""):
        study = optuna.create_study(
            study_name=name,
            storage=_connected(storage),
            pruner=_pruner(plan),
            direction="maximize",
            load_if_exists=True,
        )
        if _SETTINGS not in study.user_attrs:
            if any(trial.state != TrialState.WAITING for trial in study.get_trials(deepcopy=False)):
                raise StudyError(
                    f"study {name}: expected one that tune made, got one without its settings; choose another --study"
                )
            study.enqueue_trial(paper, skip_if_exists=True)
            study.set_user_attr(_SETTINGS, settings)
        if differing := list(differences(study.user_attrs[_SETTINGS], settings)):
            raise StudyError(
                f"study {name}: expected the search that it was made with, got another: {'; '.join(differing)}; "
                "repeat its options, or choose another --study"
            )
    return study


def load_study(storage: Storage, name: str) -> optuna.Study:
    """Open a study that is there, to look at it.

    Raises:
        StudyError: the storage cannot be reached, or has no such study of ours.
    """
    database = sql.make_url(storage.url).database
    if storage.url.startswith("sqlite") and not Path(database or "").exists():
        raise StudyError(f"{database}: expected a file of studies, got none; check --runs or --storage")
    with _told(storage):
        connected = _connected(storage)
        there = sorted(optuna.get_all_study_names(connected))
        if name not in there:
            raise StudyError(
                f"study {name}: expected one of {', '.join(there) or 'none, the storage is empty'} in {storage.shown}; "
                "check --study, or make it with tune"
            )
        study = optuna.load_study(study_name=name, storage=connected)
    if _SETTINGS not in study.user_attrs:
        raise StudyError(f"study {name}: expected one that tune made, got one without its settings")
    return study


def settings_of(study: optuna.Study) -> dict[str, Any]:
    """Return the settings that a study was made with, as `SearchPlan.settings` gave them."""
    settings: dict[str, Any] = study.user_attrs[_SETTINGS]
    return settings


def rows_of(study: optuna.Study) -> list[TrialRow]:
    """Return a study's trials, in the order in which they were begun.

    Raises:
        StudyError: the storage cannot be reached.
    """
    try:
        trials = study.get_trials(deepcopy=False)
    except (sql.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise StudyError(f"storage: expected it to answer, got: {_first_line(error)}") from error
    later = {number: t.number for t in trials for number in RetryHeartbeatStaleTrialCallback.retry_history(t)}
    return [_row(trial, later.get(trial.number)) for trial in trials]


def _row(trial: FrozenTrial, retried_as: int | None) -> TrialRow:
    values = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    epoch = max(trial.intermediate_values, default=None)
    score = trial.value
    if score is None and epoch is not None:
        score = trial.intermediate_values[epoch]
    state = _STATES[trial.state]
    # Another attempt inherits what the one before left.
    note = trial.user_attrs.get(_FAILURE, "") if state == FAILED else ""
    if retried_as is not None:
        state, note = RETRIED, f"{note or 'its process died'}; goes on as trial {retried_as}"
    elif state == FAILED and not note:
        note = "its process died or failed"
    elif (begun := RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)) is not None and not note:
        note = f"trial {begun} anew"
    seconds = trial.duration.total_seconds() if trial.duration else None
    return TrialRow(trial.number, state, values, epoch, score, seconds, note)


class SearchDisplay(Listener):
    """What a person sees of a search; this one shows nothing."""

    def show(self, rows: Sequence[TrialRow]) -> None:
        """Show all trials, after anything has happened to one."""

    def say(self, line: str) -> None:
        """Show a line."""


def tune(
    plan: SearchPlan,
    study: optuna.Study,
    storage: Storage,
    volumes: Mapping[str, Sequence[TrainingVolume]],
    folder: Path,
    *,
    trials: int,
    timeout_s: float | None = None,
    device: torch.device,
    display: SearchDisplay | None = None,
) -> None:
    """Run trials until the study has `trials` of them in all, those of other processes included.

    Waits for trials that other processes are at, and takes over those of processes that have died.

    Args:
        plan: what to search.
        study: opened with the same plan.
        storage: that the study is in.
        volumes: the plan's data by part, in its order, ready for training.
        folder: of the study; each trial's run goes into a folder of its own in it.
        trials: how many, failed and pruned ones included.
        timeout_s: begin no trial after so many seconds.
        device: where to train.
        display: shows the trials.

    Raises:
        StudyError: the storage cannot be reached any more.
        Interrupted: a signal asked to stop; the trial under way is back in the queue, its checkpoint saved.
        OSError: a file cannot be written, a full disk included.
    """
    worker = _Worker(plan, study, volumes, folder, device, display or SearchDisplay())
    until = time.monotonic() + timeout_s if timeout_s is not None else None
    waited = False
    with _told(storage), stop_requests() as stop:
        while until is None or time.monotonic() < until:
            stop.check()
            with _turn(storage, study.study_name) as end_turn:
                work = _work_left(study, trials)
                if work.number is not None:
                    # Drawn by the trial's number: the same search from the same seed, however often interrupted.
                    seed = np.random.SeedSequence([plan.run.seed, work.number]).generate_state(1)
                    study.sampler = optuna.samplers.TPESampler(seed=int(seed[0]), constant_liar=True)
                    try:
                        study.optimize(
                            partial(worker.run, end_turn=end_turn),
                            n_trials=1,
                            catch=(_TrialFailed,),
                            gc_after_trial=True,
                        )
                    except Interrupted:
                        end_turn()
                        with _turn(storage, study.study_name):
                            worker.put_back()
                        raise
                    finally:
                        worker.display.show(rows_of(study))
            if work.number is None:
                if not work.others:
                    return
                if not waited:
                    worker.display.say(f"waiting for {work.others} trials that other processes are at")
                waited = True
                worker.display.show(rows_of(study))
                _pause(min(storage.heartbeat_s, 5), stop)


class _Work(NamedTuple):
    """The number that the next trial will have, or None; how many trials others are at."""

    number: int | None
    others: int


def _work_left(study: optuna.Study, trials: int) -> _Work:
    """Look what is to do, with the turn held: first what waits, such as a dead process's trial, then new trials."""
    fail_stale_trials(study)
    there = study.get_trials(deepcopy=False)
    waiting = [trial.number for trial in there if trial.state == TrialState.WAITING]
    begun = {_origin(trial) for trial in there}
    running = sum(trial.state == TrialState.RUNNING for trial in there)
    if waiting:
        return _Work(waiting[0], running)
    return _Work(len(there) if len(begun) < trials else None, running)


def _origin(trial: FrozenTrial) -> int:
    """Return a trial's number, or that of the trial that it is another attempt at."""
    first = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
    return trial.number if first is None else first


def _pause(seconds: float, stop: StopRequest) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        stop.check()
        time.sleep(_POLL_S)


class _Worker:
    """Runs a trial as a run of `train`."""

    def __init__(
        self,
        plan: SearchPlan,
        study: optuna.Study,
        volumes: Mapping[str, Sequence[TrainingVolume]],
        folder: Path,
        device: torch.device,
        display: SearchDisplay,
    ) -> None:
        self._plan, self._study, self._volumes, self._folder = plan, study, volumes, folder
        self._device, self.display = device, display
        self._number: int | None = None

    def run(self, trial: optuna.Trial, end_turn: Callable[[], None]) -> float:
        """Train with a trial's values; return its score."""
        self._number = trial.number
        values = {p.name: trial.suggest_float(p.name, p.low, p.high, log=p.log) for p in self._plan.space}
        end_turn()
        trial.set_user_attr("process", f"{socket.gethostname()}, {os.getpid()}")
        trial.set_user_attr(_FAILURE, "")
        frozen = self._study.get_trials(deepcopy=False)[trial.number]
        folder = self._folder / "trials" / f"{_origin(frozen):04d}"
        scorer = _TrialScorer(self._plan, self._study, trial, frozen.intermediate_values, self._volumes, self.display)
        self.display.show(rows_of(self._study))
        try:
            with self._failures(trial):
                train_run(
                    self._plan.run_with(values),
                    self._volumes,
                    folder,
                    device=self._device,
                    listeners=[self.display, scorer],
                    starts_from=self._plan.starts_from,
                )
        except (optuna.TrialPruned, _TrialFailed):
            _keep_small(folder / self._plan.phase.key)
            raise
        _keep_small(folder / self._plan.phase.key)
        return scorer.score()

    def put_back(self) -> None:
        """Queue the trial that was interrupted, with the turn held."""
        frozen = self._study.get_trials()[self._number] if self._number is not None else None
        if frozen is not None and frozen.state == TrialState.FAIL:
            RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)(self._study, frozen)

    @contextmanager
    def _failures(self, trial: optuna.Trial) -> Iterator[None]:
        """Note why a trial fails that may fail without ending the search."""
        reason = ""
        try:
            yield
        except Interrupted as interrupted:
            trial.set_user_attr(_FAILURE, f"interrupted by {interrupted}")
            raise
        except FloatingPointError as error:
            reason = f"diverged: {error}"
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = f"out of memory: {_first_line(error)}"
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
        if reason:
            trial.set_user_attr(_FAILURE, reason)
            raise _TrialFailed(reason)


class _TrialScorer(Listener):
    """Scores a trial after every validated epoch, tells the study, and ends the trial where its pruner says so."""

    def __init__(
        self,
        plan: SearchPlan,
        study: optuna.Study,
        trial: optuna.Trial,
        known: Mapping[int, float],
        volumes: Mapping[str, Sequence[TrainingVolume]],
        display: SearchDisplay,
    ) -> None:
        self._plan, self._study, self._trial, self._display = plan, study, trial, display
        self._scores, self._volumes = dict(known), volumes

    def started(self, state: PhaseState) -> None:
        # A process may have died between a checkpoint and its report.
        if state.history and not state.batches_done:
            self._report(state, state.history[-1])

    def epoch_finished(self, state: PhaseState) -> None:
        epoch = state.history[-1]
        self._report(state, epoch)
        if epoch.validation is not None:
            self._display.show(rows_of(self._study))
            if state.epoch < state.epochs and self._trial.should_prune():
                raise optuna.TrialPruned

    def score(self) -> float:
        """Return what the trial came to: the best epoch's source Dice, or the last epoch's target criterion."""
        if self._plan.criterion == TARGET_VOLUME:
            return self._scores[max(self._scores)]
        return max(self._scores.values())

    def _report(self, state: PhaseState, epoch: Epoch) -> None:
        if epoch.validation is None or epoch.number in self._scores:
            return
        score = epoch.validation.mean_dice
        if self._plan.criterion == TARGET_VOLUME:
            target = self._volumes["target_training"][: len(self._volumes["source_validation"])]
            device = next(state.network.parameters()).device
            score *= volume_agreement(
                state.network,
                self._volumes["source_training"],
                target,
                self._plan.run.structure,
                self._plan.run.recipes[self._plan.phase],
                device,
            )
        self._scores[epoch.number] = score
        self._trial.report(score, epoch.number)


class Plot(NamedTuple):
    """A plot twice: `page`, plotly's figure, for a page; `picture`, matplotlib's; and the axes' parameters, if any."""

    page: Any
    picture: Figure
    axes: tuple[str, ...]


def plots_of(study: optuna.Study) -> dict[str, Plot]:
    """Draw what a study found, by name: history, slice, and where enough trials are complete importances and contour.

    Nothing is drawn before a trial is complete, nor importances where all scores are the same.
    """
    score = score_name(settings_of(study))
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        return {}
    names = sorted(space_of(settings_of(study)), key=lambda parameter: parameter.name)
    axes = tuple(parameter.name for parameter in names)
    drawn: dict[str, tuple[str, ...]] = {"optimization_history": (), "slice": axes}
    if len(axes) > 1 and len({trial.value for trial in complete}) > 1:
        drawn |= {"param_importances": (), "contour": axes}
    plots = {}
    for name, parameters in drawn.items():
        page = getattr(optuna.visualization, f"plot_{name}")(study, target_name=score)
        with matplotlib.rc_context({"backend": "agg"}):
            axes_drawn = getattr(optuna.visualization.matplotlib, f"plot_{name}")(study, target_name=score)
            picture = np.ravel(axes_drawn)[0].figure
            pyplot.close(picture)
        plots[name] = Plot(page, picture, parameters)
    return plots


def _keep_small(folder: Path) -> None:
    """Take what is large out of a trial's folder: settings, history and curves stay."""
    for name in (CHECKPOINT_FILE, "slices.png"):
        (folder / name).unlink(missing_ok=True)


def _pruner(plan: SearchPlan) -> optuna.pruners.BasePruner:
    recipe = plan.run.recipes[plan.phase]
    if plan.pruner == "median":
        # Networks take off after some hundred steps: before a quarter of the epochs nothing is told from Dice.
        return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=recipe.epochs // 4)
    if plan.pruner == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=recipe.validate_every, reduction_factor=3)
    return optuna.pruners.NopPruner()


def _connected(storage: Storage) -> RDBStorage:
    is_file = storage.url.startswith("sqlite")
    return RDBStorage(
        storage.url,
        engine_kwargs={
            # A server may have closed an idle connection while a trial trained.
            "pool_pre_ping": True,
            "connect_args": {"timeout": 60} if is_file else _SERVER,
        },
        heartbeat_interval=storage.heartbeat_s,
        grace_period=_SILENT_HEARTBEATS * storage.heartbeat_s,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(
            _MOST_RETRIES, inherit_intermediate_values=True
        ),
    )


@contextmanager
def _turn(storage: Storage, name: str) -> Iterator[Callable[[], None]]:
    """Hold a study's turn, which goes with the process however that ends; yields what gives it back early."""
    url = sql.make_url(storage.url)
    with ExitStack() as held:
        if url.get_backend_name() == "sqlite":
            lock = held.enter_context(Path(f"{url.database}.lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        else:
            engine = sql.create_engine(url, poolclass=sql.NullPool, isolation_level="AUTOCOMMIT", connect_args=_SERVER)
            connection = held.enter_context(engine.connect())
            key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
            connection.execute(sql.text("SELECT pg_advisory_lock(:key)"), {"key": key})
        yield held.close


@contextmanager
def _told(storage: Storage) -> Iterator[None]:
    """Say what is wrong with a storage as a `StudyError`."""
    try:
        yield
    except ModuleNotFoundError:
        raise
    except (sql.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
        raise StudyError(
            f"storage {storage.shown}: expected it to answer, got: {_first_line(cause or error)}; "
            "look whether the server runs and may be reached, then give the same command again"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
