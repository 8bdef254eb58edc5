"""The progress of a run on stderr: a bar on a terminal, plain lines elsewhere."""

import time
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from challenge.quantities import counted, format_duration
from pipeline.adaptation.pseudo_labels import PseudoLabel
from pipeline.data.sampling import TrainingVolume
from pipeline.training.listeners import Listener
from pipeline.training.state import PhaseState

_LINE_EVERY_S = 60.0


class ProgressDisplay(Listener):
    """Shows epochs, steps, losses and the time left; a context manager, which removes the bar whatever happens."""

    def __init__(self, console: Console) -> None:
        """Show on a console: a bar on a terminal, else a line for every epoch and every minute."""
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=8),
            TextColumn("{task.fields[status]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._since = self._said_at = time.perf_counter()
        self._steps_before = 0
        self._labels: list[bool] = []  # whether each target case's pseudo-label is kept, until that is told

    def __enter__(self) -> "ProgressDisplay":
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar down."""
        self._bar.stop()

    def started(self, state: PhaseState) -> None:
        """Say where the phase stands, and start its bar."""
        self._since = self._said_at = time.perf_counter()
        self._steps_before = state.steps_done
        self._labels.clear()
        epochs, batches = counted(state.epochs, "epoch"), counted(state.batches_per_epoch, "batch", "batches")
        if state.epoch == state.epochs:
            self._say(f"{state.title}: finished, {epochs}")
            return
        done = [f"epoch {state.epoch}"] if state.epoch else []
        done += [counted(state.batches_done, "batch", "batches")] if state.batches_done else []
        where = f", resumed after {' and '.join(done)}" if done else ""
        self._say(f"{state.title}: {epochs} of {batches}{where}")
        if self._task is not None:
            self._bar.remove_task(self._task)
        total = state.epochs * state.batches_per_epoch
        self._task = self._bar.add_task(state.title, total=total, completed=state.steps_done, status="")

    def pseudo_labelled(self, state: PhaseState, case: str, label: PseudoLabel) -> None:
        """Show that a target case is labelled; print why one is refused."""
        self._labels.append(not label.refused)
        self._show(state, f"labelled {case}")
        if label.refused:
            self._say(f"{state.title}: {case} is left out: {label.refused}")

    def stepped(self, state: PhaseState) -> None:
        """Show the epoch's mean loss so far, the domain classifier's accuracy if there is one, and the time left."""
        if self._labels:
            self._say(f"{state.title}: {counted(sum(self._labels), 'pseudo-label')} of {len(self._labels)} kept")
            self._labels.clear()
        means = state.means()
        parts = [f"batch {state.batches_done}/{state.batches_per_epoch}", f"loss {means['loss']:.3f}"]
        if "domain_accuracy" in means:
            parts.append(f"domain acc {means['domain_accuracy']:.2f}")
        self._show(state, " ".join(parts))

    def validated(self, state: PhaseState, volume: TrainingVolume, prediction: NDArray[np.bool_]) -> None:
        """Show which validation case is done; its prediction, bool `(D, H, W)`, is not shown."""
        self._show(state, f"validated {volume.case}")

    def epoch_finished(self, state: PhaseState) -> None:
        """Print the epoch's losses and scores in a line that stays."""
        left = self._left(state)
        self._say(f"{state.title}: {state.history[-1]}{f', {left}' if left else ''}")
        if self._task is not None:
            self._bar.update(self._task, completed=state.steps_done)

    def _show(self, state: PhaseState, status: str) -> None:
        left = self._left(state)
        epoch = f"{state.title} {state.epoch + 1}/{state.epochs}"
        if self._task is not None:
            described = f"{status}, {left}" if left else status
            self._bar.update(self._task, completed=state.steps_done, description=epoch, status=described)
        if not self._console.is_terminal and time.perf_counter() - self._said_at > _LINE_EVERY_S:
            self._say(f"{epoch}: {status}{f', {left}' if left else ''}")

    def _left(self, state: PhaseState) -> str:
        """Estimate how long the phase will last, from this process's steps so far, validation included."""
        done = state.steps_done - self._steps_before
        to_do = state.epochs * state.batches_per_epoch - state.steps_done
        if not done or not to_do:
            return ""
        return f"{format_duration((time.perf_counter() - self._since) / done * to_do)} left"

    def _say(self, line: str) -> None:
        self._said_at = time.perf_counter()
        self._console.print(line, markup=False)
