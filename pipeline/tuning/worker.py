"""A process of a search: it runs one trial after another, each as a run of `train`, and shares a study with others.

::

    lock the study -> queue what dead processes left -> anything left to do? -> take a trial, draw its values -> unlock
    -> train; report after every validated epoch; perhaps be pruned -> tell the study the score -> repeat

Under the lock, the processes together create exactly N trials, and each trial is drawn with the values of all running
ones known. A process that runs a trial sends a heartbeat. When heartbeats stop, another process retries the trial in
the same folder, from its checkpoint.
"""

import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import optuna
import torch
from optuna.trial import TrialState
from rich.console import Console

from challenge.signals import Interrupted
from pipeline.data.cache import cached_volumes
from pipeline.data.sampling import TrainingVolume
from pipeline.runtime.allocator import keep_large_blocks
from pipeline.runtime.devices import is_out_of_memory, pick_device
from pipeline.training.checkpoint import CHECKPOINT_FILE
from pipeline.training.export import structure_runs
from pipeline.training.phases import PHASES
from pipeline.training.report import SLICES_FILE
from pipeline.training.run import train_run
from pipeline.training.session import plan_runs
from pipeline.training.stopping import StopRequest, stop_requests
from pipeline.tuning.criterion import Objective
from pipeline.tuning.display import SearchDisplay, TrialsDisplay
from pipeline.tuning.options import CRITERIA, SearchOptions
from pipeline.tuning.plan import SearchPlan
from pipeline.tuning.report import write_study
from pipeline.tuning.retries import FAILURE, first_trial, mark_interrupted, mark_taken, queue_unfinished
from pipeline.tuning.storage import DEFAULT_URL, Storage, first_line, storage_at
from pipeline.tuning.study import open_study, rows_of

_POLL_S = 0.5


def run_search(options: SearchOptions, console: Console) -> list[Path]:
    """Do what the command `tune` was asked for, and show it on a console; return the files of the study.

    Raises:
        DataError, ConfigError, DeviceError, CaseError, ValueError: the data or an option cannot be used.
        RunError: the phase to start from has not ended.
        StudyError: the storage cannot be reached, or holds another search under this name.
        Interrupted: a signal asked to stop; the files of the study are written.
        OSError: a file cannot be written, a full disk included.
    """
    keep_large_blocks()
    device = pick_device(options.device)
    (run,) = plan_runs(options)
    structure, data, start = run.structure, run.data, PHASES[options.phase].starts_from
    starts_from = None
    if options.start and start:
        starts_from = structure_runs(options.start).get(structure, options.start / structure.key) / start
    plan = SearchPlan(run, CRITERIA[options.criterion], options.pruner, starts_from)
    plan.settings()  # raises here, before the folder is made, if phase 1 has not ended
    name = options.name or f"{options.structure}-{options.phase}"
    folder = options.runs / name
    storage = storage_at(options.storage or DEFAULT_URL.format(folder=folder), options.heartbeat_s)
    folder.mkdir(parents=True, exist_ok=True)
    study = open_study(plan, storage, name)
    console.print(f"study {name} in {storage.shown}\n{options.data}, on {device}\n{data}", markup=False)
    cache = options.cache or options.runs / "cache"
    volumes = {part: cached_volumes(cache, cases, structure) for part, cases in data.parts.items()}
    with TrialsDisplay(console, plan.space) as display:
        try:
            Worker(plan, study, storage, volumes, folder, device, display).run(options.trials, options.timeout_s)
        finally:
            written = write_study(folder, study)
    return written


class _TrialFailed(Exception):
    """A trial ended without a score; the search continues."""


class _Work(NamedTuple):
    """What is left to do: the place of the next trial's point among all points, or None; and how many trials run."""

    next_point: int | None
    running: int


@dataclass(frozen=True)
class Worker:
    """Runs the trials of a study in this process.

    `study` was opened with `plan` in `storage`. `volumes` are the plan's data by part, in its order, ready for
    training. Each trial's run has its own folder in `folder`, which is the study's.
    """

    plan: SearchPlan
    study: optuna.Study
    storage: Storage
    volumes: Mapping[str, Sequence[TrainingVolume]]
    folder: Path
    device: torch.device
    display: SearchDisplay = field(default_factory=SearchDisplay)

    def run(self, trials: int, timeout_s: float | None = None) -> None:
        """Run trials until the study has `trials` of them, counting other processes', failed and pruned ones.

        Waits for the trials of other processes, and retries those of processes that have died. Starts no trial after
        `timeout_s` seconds.

        Raises:
            StudyError: the storage cannot be reached any more.
            Interrupted: a signal asked to stop; the running trial is queued again, its checkpoint is saved.
            OSError: a file cannot be written, a full disk included.
        """
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        waiting = False
        with self.storage.errors(), stop_requests() as stop:
            while time.monotonic() < deadline:
                stop.check()
                with self.storage.lock(self.study.study_name) as unlock:
                    work = self._look_for_work(trials)
                    if work.next_point is not None:
                        self._run_trial(work.next_point, unlock)
                        continue
                if not work.running:
                    return
                if not waiting:
                    self.display.say(f"waiting for {work.running} trials of other processes")
                waiting = True
                self._show()
                _pause(min(self.storage.heartbeat_s, 5), stop)

    def _look_for_work(self, trials: int) -> _Work:
        """Find the next trial, with the lock held: first queued ones, such as a dead process's, then new ones."""
        queue_unfinished(self.study, self.plan.space)
        present = self.study.get_trials(deepcopy=False)
        points = sorted({first_trial(trial) for trial in present})
        queued = [first_trial(trial) for trial in present if trial.state == TrialState.WAITING]
        running = sum(trial.state == TrialState.RUNNING for trial in present)
        if queued:
            return _Work(points.index(queued[0]), running)
        return _Work(len(points) if len(points) < trials else None, running)

    def _run_trial(self, point: int, unlock: Callable[[], None]) -> None:
        """Run the trial of the next point; release the lock once its values are drawn."""
        # The seed depends on the point alone, and retries are no new points: an interrupted search draws the same
        # values when it is resumed.
        seed = np.random.SeedSequence([self.plan.run.seed, point]).generate_state(1)
        self.study.sampler = optuna.samplers.TPESampler(seed=int(seed[0]), constant_liar=True)
        try:
            self.study.optimize(
                partial(self._train, unlock=unlock), n_trials=1, catch=(_TrialFailed,), gc_after_trial=True
            )
        except Interrupted:
            unlock()
            with self.storage.lock(self.study.study_name):
                queue_unfinished(self.study, self.plan.space)
            raise
        finally:
            self._show()

    def _train(self, trial: optuna.Trial, unlock: Callable[[], None]) -> float:
        """Train with a trial's values; return its score."""
        values = {p.name: trial.suggest_float(p.name, p.low, p.high, log=p.log) for p in self.plan.space}
        mark_taken(self.study, trial)
        unlock()
        trial.set_user_attr("process", f"{socket.gethostname()}, {os.getpid()}")
        trial.set_user_attr(FAILURE, "")
        stored = self.study.get_trials(deepcopy=False)[trial.number]
        folder = self.folder / "trials" / f"{first_trial(stored):04d}"
        objective = Objective(self.plan, trial, self.volumes, dict(stored.intermediate_values), self._show)
        self._show()
        try:
            with self._recorded_failures(trial):
                train_run(
                    self.plan.run_with(values),
                    self.volumes,
                    folder,
                    device=self.device,
                    listeners=[self.display, objective],
                    starts_from=self.plan.starts_from,
                )
        except (optuna.TrialPruned, _TrialFailed):
            _delete_large_files(folder / self.plan.phase.key)
            raise
        _delete_large_files(folder / self.plan.phase.key)
        return objective.score()

    @contextmanager
    def _recorded_failures(self, trial: optuna.Trial) -> Iterator[None]:
        """Record why a trial fails, and raise `_TrialFailed` where the search can continue without it."""
        reason = ""
        try:
            yield
        except Interrupted as interrupted:
            mark_interrupted(trial, str(interrupted))
            raise
        except FloatingPointError as error:
            reason = f"diverged: {error}"
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = f"out of memory: {first_line(error)}"
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        if reason:
            trial.set_user_attr(FAILURE, reason)
            raise _TrialFailed(reason)

    def _show(self) -> None:
        self.display.show(rows_of(self.study))


def _pause(seconds: float, stop: StopRequest) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        stop.check()
        time.sleep(_POLL_S)


def _delete_large_files(folder: Path) -> None:
    """Delete a trial's checkpoint and slices; settings, history and curves stay."""
    for name in (CHECKPOINT_FILE, SLICES_FILE):
        (folder / name).unlink(missing_ok=True)
