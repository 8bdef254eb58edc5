"""Shows a search on stderr: a live table on a terminal, elsewhere a line for every change of a trial."""

from collections.abc import Sequence
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from challenge.quantities import format_duration
from pipeline.data.sampling import TrainingVolume
from pipeline.training.listeners import Listener
from pipeline.training.state import PhaseState
from pipeline.tuning.spaces import Parameter
from pipeline.tuning.trials import COMPLETE, RUNNING, WAITING, TrialRow, remark_on

_STYLES = {COMPLETE: "green", RUNNING: "bold"}
_OTHER_LINES = 8


def trials_table(rows: Sequence[TrialRow], space: Sequence[Parameter], *, most: int | None = None) -> Table:
    """Make a table of trials that marks the best and the paper's point; `most` limits it to the last ones."""
    table = Table("trial", "state", *(parameter.name for parameter in space), "epoch", "score", "time", "")
    for row in rows[-most:] if most else rows:
        table.add_row(
            str(row.number),
            row.state,
            *(_value(row, parameter) for parameter in space),
            "" if row.epoch is None else str(row.epoch),
            "" if row.score is None else f"{row.score:.4f}",
            "" if row.seconds is None else format_duration(row.seconds),
            Text(remark_on(row, rows, space)),  # not markup: the message of a failure may contain brackets
            style=_STYLES.get(row.state, ""),
        )
    return table


def _value(row: TrialRow, parameter: Parameter) -> str:
    value = row.values.get(parameter.name)
    return "" if value is None else f"{value:.3g}"


class SearchDisplay(Listener):
    """Shows a search; this base class shows nothing."""

    def show(self, rows: Sequence[TrialRow]) -> None:
        """Show all trials, after any of them has changed."""

    def say(self, line: str) -> None:
        """Show a line that stays."""


class TrialsDisplay(SearchDisplay):
    """Shows trials on a console; a context manager, so that the table is closed in any case."""

    def __init__(self, console: Console, space: Sequence[Parameter]) -> None:
        """Show on a console: a live table if it is a terminal, lines otherwise."""
        self._console, self._space = console, space
        self._rows: list[TrialRow] = []
        self._footer = ""
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> "TrialsDisplay":
        """Start the live table."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Draw the table for the last time and end its updates."""
        self._footer = ""
        self._draw()
        if self._live is not None:
            self._live.stop()

    def show(self, rows: Sequence[TrialRow]) -> None:
        """Show all trials; without a terminal, only those that have changed."""
        if self._live is None:
            before = {row.number: (row.state, row.epoch) for row in self._rows}
            for row in rows:
                if row.state != WAITING and before.get(row.number) != (row.state, row.epoch):
                    self.say(self._line(row, rows))
        self._rows = list(rows)
        self._draw()

    def say(self, line: str) -> None:
        """Show a line that stays."""
        self._console.print(line, markup=False)

    def started(self, state: PhaseState) -> None:
        """Show the length of the running trial."""
        self._show_progress(state)

    def stepped(self, state: PhaseState) -> None:
        """Show the epoch and loss of the running trial."""
        self._show_progress(state)

    def validated(self, state: PhaseState, volume: TrainingVolume, prediction: NDArray[np.bool_]) -> None:
        """Show which validation case was just predicted; the prediction, bool `(D, H, W)`, is not shown."""
        self._footer = f"epoch {state.epoch + 1}/{state.epochs}, validated {volume.case}"
        self._draw()

    def _show_progress(self, state: PhaseState) -> None:
        loss = f", loss {state.means()['loss']:.3f}" if state.batches_done else ""
        batch = f"batch {state.batches_done}/{state.batches_per_epoch}"
        self._footer = f"epoch {state.epoch + 1}/{state.epochs}, {batch}{loss}"
        self._draw()

    def _draw(self) -> None:
        if self._live is None:
            return
        most = max(self._console.height - _OTHER_LINES, 4)
        table = trials_table(self._rows, self._space, most=most)
        self._live.update(Group(table, Text(self._footer)), refresh=True)

    def _line(self, row: TrialRow, rows: Sequence[TrialRow]) -> str:
        parts = [f"{parameter.name} {_value(row, parameter)}" for parameter in self._space]
        if row.epoch is not None and row.score is not None:
            parts.append(f"epoch {row.epoch}, score {row.score:.4f}")
        if row.seconds is not None:
            parts.append(format_duration(row.seconds))
        return ", ".join(filter(None, [f"trial {row.number} {row.state}", *parts, remark_on(row, rows, self._space)]))
