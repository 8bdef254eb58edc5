"""Observers of a run: the interface, and the one for a console."""

from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Observer(Protocol):
    """Listens to what happens while containers run."""

    def begin(self, total: int) -> None:
        """Expect `total` label maps."""

    def log(self, line: str) -> None:
        """Take a line of a container's log, in printable characters. Called from another thread."""

    def case_done(self, number: int, total: int, case: str, seconds: float) -> None:
        """Take note of a new label map, the `number`-th of `total`."""

    def failed(self, message: str) -> None:
        """Take note that a container failed."""


class ConsoleObserver:
    """Shows log lines, finished cases and failures on a console, with a progress bar if it is a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        """Make the bar, by default on stderr. `with observer:` shows it."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._console = console or Console(stderr=True)
        self._bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("label maps", total=None)

    def __enter__(self) -> "ConsoleObserver":
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the bar and leave it on the screen."""
        self._bar.stop()

    def begin(self, total: int) -> None:
        """Set the bar's length."""
        self._bar.update(self._task, total=total)

    def log(self, line: str) -> None:
        """Print a log line, marked as the container's."""
        self._print(f"| {line}")

    def case_done(self, number: int, total: int, case: str, seconds: float) -> None:
        """Print `k/N case seconds` and move the bar."""
        self._bar.update(self._task, completed=number)
        self._print(f"{number}/{total} {case} {seconds:.1f} s")

    def failed(self, message: str) -> None:
        """Print why a container failed."""
        self._print(message)

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
