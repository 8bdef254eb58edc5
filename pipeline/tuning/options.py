"""What a search can be asked for: criterion, pruner, and the options of `tune`. Needs neither torch nor Optuna."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.training.options import RunOptions


def best_epoch_score(scores: Mapping[int, float]) -> float:
    """Return the highest score of the validated epochs, given by epoch number."""
    return max(scores.values())


def last_epoch_score(scores: Mapping[int, float]) -> float:
    """Return the score of the last validated epoch, given by epoch number."""
    return scores[max(scores)]


@dataclass(frozen=True)
class Criterion:
    """How trials are scored.

    `trial_score` gives a trial's score from those of its epochs. An epoch's score is the source validation Dice; where
    `uses_target` is set, it is multiplied by `criterion.volume_agreement` on target scans, which needs no label.
    """

    key: str
    score_name: str
    trial_score: Callable[[Mapping[int, float]], float]
    uses_target: bool = False


# The paper's objective: the best source validation Dice of the phase, by which training itself selects.
SOURCE_DICE = Criterion("source-dice", "source Dice", best_epoch_score)
# Beyond the paper: the last epoch is scored, because that is the one that `export` ships after phase 2.
TARGET_VOLUME = Criterion("target-volume", "source Dice x target volume agreement", last_epoch_score, uses_target=True)
CRITERIA = {criterion.key: criterion for criterion in (SOURCE_DICE, TARGET_VOLUME)}

MEDIAN, HALVING, NO_PRUNING = "median", "halving", "none"
PRUNERS = (MEDIAN, HALVING, NO_PRUNING)
# Seconds between two signs of life of a process.
HEARTBEAT_S = 20


@dataclass(frozen=True)
class SearchOptions(RunOptions):
    """The options of `tune`, under the names of the command's parameters: of a trial's run, and of the search."""

    trials: int
    storage: str | None
    name: str | None
    timeout_s: float | None
    criterion: str
    pruner: str
    start: Path | None
    heartbeat_s: int
