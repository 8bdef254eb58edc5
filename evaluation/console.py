"""What the commands of `evaluate` share at a terminal: paths as options, errors in a line, progress, scoring shown."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from challenge.layouts import CROSSMODA_2021, FolderLayout
from challenge.names import shown

if TYPE_CHECKING:
    from evaluation.cohort import CohortScores

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


class NewFile(click.Path):
    """A file to write. It is refused before the work begins if its folder is missing or cannot be written."""

    def convert(self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path; `-` stands for stdout in options that take it.

        Raises:
            click.ClickException: the folder is missing or cannot be written.
        """
        path = Path(os.fspath(super().convert(value, param, ctx)))  # type: ignore[arg-type]
        if str(path) != "-" and not os.access(path.parent, os.W_OK | os.X_OK):
            raise click.ClickException(
                f"{path}: expected a folder that exists and can be written, got {path.parent}; make it first"
            )
        return path


NEW_FILE = NewFile(dir_okay=False, path_type=Path)
NEW_FOLDER = click.Path(file_okay=False, path_type=Path)


def score_and_show(
    reference: Path,
    folders: Mapping[str, Path],
    csv_file: Path | None,
    json_file: Path | None,
    *,
    usable: bool = False,
    layout: FolderLayout = CROSSMODA_2021,
    **rules: Any,
) -> "list[CohortScores]":
    """Score teams' folders, write the files that are asked for, and show tables and findings.

    With `usable`, folders without one usable prediction are refused.
    """
    from evaluation.cohort import refuse_unusable, score_cohorts
    from evaluation.score_files import write_scores
    from evaluation.tables import findings, score_table

    with one_line_errors():
        with case_progress("scoring") as on_case:
            cohorts = score_cohorts(reference, folders, on_case=on_case, layout=layout, **rules)
        if usable:
            refuse_unusable(cohorts, layout)
        write_scores(cohorts, csv_file, json_file)
    for cohort in cohorts:
        click.echo(score_table(cohort))
        for line in findings(cohort):
            click.echo(line, err=True)
    return cohorts


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn a caller's mistake, or a file that cannot be read or written, into one line and exit code 1."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise click.ClickException("\n".join(map(shown, str(error).split("\n")))) from error


@contextmanager
def case_progress(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """Yield a function that shows progress: a bar on a terminal, elsewhere a line per case.

    It takes the number of cases done, the number of all cases, and the case.
    """
    if not sys.stderr.isatty():
        before = time.monotonic()

        def tell(done: int, total: int, case: str) -> None:
            nonlocal before
            now = time.monotonic()
            click.echo(f"{done}/{total} {case} {now - before:.2f} s", err=True)
            before = now

        yield tell
        return

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total, case: bar.update(task, completed=done, total=total, description=f"{title} {case}")
