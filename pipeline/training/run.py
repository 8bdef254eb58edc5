"""A run of one structure on disk: killed at any moment, the same command resumes it.

::

    RUNS/vs/summary.md
    RUNS/vs/supervised/    settings.json  checkpoint.pt  history.csv  curves.png  slices.png
    RUNS/vs/adaptation/    the same; and so for every other phase
    RUNS/vs/*/tensorboard/ events, where asked for (`pipeline.training.tensorboard`)

Every file is whole or absent. A checkpoint holds everything that a phase carries (`pipeline.training.state`).
"""

import fcntl
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from challenge.contract import COCHLEA, Structure
from pipeline.config import BEST, TARGET_TRAINING
from pipeline.data.sampling import TrainingVolume
from pipeline.training.checkpoint import CheckpointKeeper, Stopper, finished_checkpoint, network_of
from pipeline.training.cochleas import COCHLEAS_FILE, cochlea_factor, cochlea_network, find_nearness
from pipeline.training.execution import PLAIN, Execution
from pipeline.training.listeners import Listener
from pipeline.training.report import RecordKeeper, write_summary
from pipeline.training.settings import SETTINGS_FILE, RunError, RunPlan, claim, read_settings, refuse_differences
from pipeline.training.stopping import stop_requests
from pipeline.training.summary import summary_of


def train_run(
    plan: RunPlan,
    volumes: Mapping[str, Sequence[TrainingVolume]],
    folder: Path,
    *,
    device: torch.device,
    execution: Execution = PLAIN,
    listeners: Sequence[Listener] = (),
    starts_from: Path | None = None,
) -> Path:
    """Run a structure's phases in `folder`, or resume them where they were left; return the summary's path.

    Args:
        plan: what to do.
        volumes: the plan's data by part, in its order, ready for training.
        folder: of this structure's run, made where it is missing.
        device: where to train.
        execution: how to compute the steps; of several processes only the first writes files.
        listeners: follow every phase. They hear of an epoch after its checkpoint and records are written.
        starts_from: folder of the finished phase that phases start from, instead of one in this run.

    Raises:
        RunError: the folder holds a run with other settings or a damaged checkpoint, another process is training in it,
            or a phase is asked for before the one that it starts from has ended, or the cochlea's run that it needs.
        FloatingPointError: the loss is no longer a number; the last good checkpoint is kept.
        Interrupted: a signal asked to stop; everything is saved.
        ValueError: a batch that the processes cannot share, or a recipe that does not fit the structure.
        OSError: a file cannot be written, a full disk included; the last checkpoint is kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ranks = execution.ranks
    with _locked(folder) if ranks.is_first else nullcontext(), stop_requests() as stop:
        for phase, recipe in plan.recipes.items():
            start = phase.start(recipe)
            network = None
            if start is not None:
                checkpoint = finished_checkpoint(starts_from or folder / start)
                network = network_of(checkpoint, best=phase.start_epoch(recipe) == BEST)
            with ranks.rank_zero_first():
                settings = plan.settings(phase, network, execution)
                claim(folder / phase.key, settings, plan.record(phase, device, execution))
            keeper = CheckpointKeeper(folder / phase.key, ranks)
            records = [RecordKeeper(folder / phase.key)] if ranks.is_first else []
            more: dict[str, Any] = {}
            if factor := cochlea_factor(recipe, plan.structure):
                with ranks.rank_zero_first():  # the others read what the first has found
                    more["nearness"] = find_nearness(
                        folder / phase.key,
                        factor,
                        plan.data.source_training,
                        volumes[TARGET_TRAINING],
                        device=device,
                        after_each=stop.check if ranks.size == 1 else lambda: None,
                    )
            train = phase.training_function()
            train(
                plan.structure,
                network,
                {part: volumes[part] for part in phase.reads},
                recipe,
                rng=np.random.default_rng([plan.seed, plan.structure.label, phase.stream]),
                phase=phase,
                device=device,
                execution=execution,
                listeners=[keeper, *records, *listeners, Stopper(stop, ranks, keeper)],
                **more,
            )
    summary = folder / "summary.md"
    if ranks.is_first:
        write_summary(summary, summary_of(folder), title=f"{plan.structure.title}: training run")
    return summary


def check_run(
    plan: RunPlan, folder: Path, execution: Execution = PLAIN, *, planned: Collection[Structure] = ()
) -> None:
    """Refuse, before hours of preprocessing, what `train_run` would refuse after them.

    `planned` are the structures that are trained before this one; their runs need not have ended yet.

    Raises:
        RunError: the folder holds a run with other settings, or a phase is asked for before the one that it starts from
            has ended, or the cochlea's run that it needs.
        ValueError: a batch that the processes cannot share, or a recipe that does not fit the structure.
    """
    keys = {phase.key for phase in plan.phases}
    for phase, recipe in plan.recipes.items():
        execution.check_batch(recipe.domain_batch, f"{phase.key}: {recipe.domain_batch_title}")
        start = phase.start(recipe)
        if start is not None and start not in keys:
            finished_checkpoint(folder / start)
        compares = cochlea_factor(recipe, plan.structure) and COCHLEA not in planned
        if compares and not (folder / phase.key / COCHLEAS_FILE).exists():
            cochlea_network(folder.parent)
    for phase in plan.phases:
        if (folder / phase.key / SETTINGS_FILE).exists():
            before = read_settings(folder / phase.key)["settings"]
            before.pop("starts_from", None)
            refuse_differences(folder / phase.key, before, plan.settings(phase, None, execution))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of the run folder; the lock ends with the process, however that ends."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"{folder}: expected a run that no process is training, got one that another process is training; "
                "wait for it, or choose another --runs folder"
            ) from error
        yield
