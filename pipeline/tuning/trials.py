"""Trials as tables and plots show them: plain records, without anything of Optuna's."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.tuning.spaces import Parameter

RUNNING, WAITING, COMPLETE, PRUNED, FAILED, RETRIED = "running", "waiting", "complete", "pruned", "failed", "retried"


@dataclass(frozen=True)
class TrialRow:
    """A trial: its state, values by parameter, last validated epoch, score, time, and a note on what happened to it."""

    number: int
    state: str
    values: dict[str, float]
    epoch: int | None = None
    score: float | None = None
    seconds: float | None = None
    note: str = ""

    def is_at(self, space: Sequence[Parameter]) -> bool:
        """Tell whether the trial has the paper's values."""
        return all(self.values.get(parameter.name) == parameter.paper for parameter in space)


def best_row(rows: Sequence[TrialRow]) -> TrialRow | None:
    """Return the first of the complete trials with the highest score; None if no trial is complete."""
    complete = [row for row in rows if row.state == COMPLETE and row.score is not None]
    return max(complete, key=lambda row: (row.score or 0.0, -row.number), default=None)


def paper_row(rows: Sequence[TrialRow], space: Sequence[Parameter]) -> TrialRow | None:
    """Return the trial at the paper's point; None if none has a score."""
    scored = [row for row in rows if row.is_at(space) and row.score is not None]
    return next((row for row in scored if row.state == COMPLETE), scored[0] if scored else None)


def remark_on(row: TrialRow, rows: Sequence[TrialRow], space: Sequence[Parameter]) -> str:
    """Say what distinguishes a trial: whether it is the best or the paper's point, and its note."""
    marks = {"best": row == best_row(rows), "the paper's point": row.is_at(space), row.note: bool(row.note)}
    return ", ".join(mark for mark, holds in marks.items() if holds)
