"""A search of seconds on the tiny run's volumes. As a program it is one process of a search that others share.

`python -m tests.tiny_search STORAGE FOLDER TRIALS` runs trials of the study `tiny`; with a last argument `die` the
process kills itself with SIGKILL in the second epoch of its first trial.
"""

import os
import signal
import sys
from pathlib import Path

import optuna
import torch

from pipeline.training.state import PhaseState
from pipeline.tuning.display import SearchDisplay
from pipeline.tuning.plan import SearchPlan
from pipeline.tuning.storage import Storage, storage_at
from pipeline.tuning.study import open_study
from pipeline.tuning.worker import Worker
from tests.tiny_run import VOLUMES, tiny_plan

CPU = torch.device("cpu")
SEARCHED = {"epochs": 2, "patches_per_volume": 1}


def search_plan(**changes: object) -> SearchPlan:
    return SearchPlan(**{"run": tiny_plan(("supervised",), **SEARCHED), "pruner": "none", **changes})


def search(
    folder: Path,
    trials: int,
    plan: SearchPlan | None = None,
    storage: Storage | None = None,
    display: SearchDisplay | None = None,
    timeout_s: float | None = None,
) -> optuna.Study:
    """Search in this process; return the study."""
    plan = plan or search_plan()
    folder.mkdir(parents=True, exist_ok=True)
    storage = storage or storage_at(f"sqlite:///{folder}/study.db", 1)
    study = open_study(plan, storage, "tiny")
    Worker(plan, study, storage, VOLUMES, folder, CPU, display or SearchDisplay()).run(trials, timeout_s)
    return study


class Ender(SearchDisplay):
    """Sends the process a signal in a trial's second epoch."""

    def __init__(self, number: signal.Signals) -> None:
        self._number = number

    def stepped(self, state: PhaseState) -> None:
        if state.epoch == 1:
            os.kill(os.getpid(), self._number)


def main(url: str, folder: Path, trials: int, fate: str = "") -> None:
    torch.set_num_threads(1)
    display = Ender(signal.SIGKILL) if fate == "die" else None
    search(folder, trials, storage=storage_at(url, 1), display=display)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
