"""The progress of a run on stderr: a bar on a terminal, plain lines elsewhere."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from challenge.contract import Structure
from pipeline.training.loops import PhaseState
from pipeline.training.report import duration
from pipeline.training.run import Display

_LINE_EVERY_S = 60.0


class Displays(Display):
    """Several displays as one, in their order."""

    def __init__(self, *displays: Display) -> None:
        """Show on each of them."""
        self._displays = displays

    def phase_started(self, structure: Structure, phase: str, state: PhaseState) -> None:
        """Show where the phase stands."""
        for display in self._displays:
            display.phase_started(structure, phase, state)

    def stepped(self, state: PhaseState) -> None:
        """Show a step."""
        for display in self._displays:
            display.stepped(state)

    def validated(self, state: PhaseState, case: str) -> None:
        """Show that a validation case is done."""
        for display in self._displays:
            display.validated(state, case)

    def epoch_finished(self, state: PhaseState) -> None:
        """Show an epoch."""
        for display in self._displays:
            display.epoch_finished(state)


class ProgressDisplay(Display):
    """Shows epochs, steps, losses and the time left; a context, so that the bar is taken down whatever happens."""

    def __init__(self, console: Console) -> None:
        """Show on a console: a bar where it is a terminal, else a line an epoch and a minute."""
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[status]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._title = ""
        self._since = self._spoke_at = time.perf_counter()
        self._steps_before = 0

    def __enter__(self) -> "ProgressDisplay":
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar down."""
        self._bar.stop()

    def phase_started(self, structure: Structure, phase: str, state: PhaseState) -> None:
        """Say where the phase stands, and begin its bar."""
        self._title = f"{structure.title} {phase}"
        self._since = self._spoke_at = time.perf_counter()
        self._steps_before = state.steps_done
        if state.epoch == state.epochs:
            self._say(f"{self._title}: all {state.epochs} epochs are done")
            return
        where = f", going on after epoch {state.epoch}" if state.epoch else ""
        where += f" and {state.batches_done} batches" if state.batches_done else ""
        self._say(f"{self._title}: {state.epochs} epochs of {state.batches_per_epoch} batches{where}")
        if self._task is not None:
            self._bar.remove_task(self._task)
        total = state.epochs * state.batches_per_epoch
        self._task = self._bar.add_task(self._title, total=total, completed=state.steps_done, status="")

    def stepped(self, state: PhaseState) -> None:
        """Show the epoch's mean loss so far, in phase 2 the domain classifier's accuracy, and the time left."""
        means = state.means()
        parts = [f"batch {state.batches_done}/{state.batches_per_epoch}", f"loss {means['loss']:.3f}"]
        if "domain_accuracy" in means:
            parts.append(f"domain {means['domain_accuracy']:.2f}")
        self._show(state, " ".join(parts))

    def validated(self, state: PhaseState, case: str) -> None:
        """Show which validation case is done."""
        self._show(state, f"validated {case}")

    def epoch_finished(self, state: PhaseState) -> None:
        """Say the epoch's losses and scores in a line that stays."""
        left = self._left(state)
        self._say(f"{self._title}: {state.history[-1]}{f', {left}' if left else ''}")
        if self._task is not None:
            self._bar.update(self._task, completed=state.steps_done)

    def _show(self, state: PhaseState, status: str) -> None:
        left = self._left(state)
        epoch = f"{self._title} {state.epoch + 1}/{state.epochs}"
        if self._task is not None:
            described = f"{status}, {left}" if left else status
            self._bar.update(self._task, completed=state.steps_done, description=epoch, status=described)
        if not self._console.is_terminal and time.perf_counter() - self._spoke_at > _LINE_EVERY_S:
            self._say(f"{epoch}: {status}{f', {left}' if left else ''}")

    def _left(self, state: PhaseState) -> str:
        """Say how long the phase will last, by this process's steps so far, validation included."""
        done = state.steps_done - self._steps_before
        to_do = state.epochs * state.batches_per_epoch - state.steps_done
        if not done or not to_do:
            return ""
        return f"{duration((time.perf_counter() - self._since) / done * to_do)} left"

    def _say(self, line: str) -> None:
        self._spoke_at = time.perf_counter()
        self._console.print(line, markup=False)
