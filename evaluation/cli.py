"""`crossmoda-grl evaluate`: the organiser's commands. Results go to stdout, progress and notes to stderr.

Each command imports its modules when it runs. A package that one command lacks does not stop the others.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from challenge.files import write_text
from challenge.layouts import CROSSMODA_2021, DEFAULT_LAYOUT, LAYOUTS, FolderLayout
from challenge.names import shown
from challenge.quantities import parse_bytes, parse_duration_s
from challenge.signals import Interrupted, interruptible
from evaluation.runner.errors import RunnerError

if TYPE_CHECKING:
    from evaluation.cohort import CohortScores
    from evaluation.report.worst_cases import CasePictures

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


def _parsed_by(parse: Callable[[str], float]) -> Callable[[click.Context, click.Parameter, str], float]:
    """Make the callback of an option whose text `parse` reads."""

    def callback(context: click.Context, parameter: click.Parameter, text: str) -> float:
        with one_line_errors():
            return parse(text)

    return callback


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def evaluate() -> None:
    """Score, rank and report submissions, and run their images."""


@evaluate.command()
@click.option("--reference", type=FOLDER, required=True, help="Folder of reference label maps, {case}_Label.nii.gz.")
@click.option(
    "--layout",
    type=click.Choice(list(LAYOUTS)),
    default=DEFAULT_LAYOUT,
    help="How label maps are named, and what is scored; docs/layouts.md describes them.",
)
@click.option(
    "--prediction", type=FOLDER, required=True, help="Folder of predicted label maps, or of one such folder per team."
)
@click.option("--team", help="The team's name.  [default: the folder's name]")
@click.option("--csv", "csv_file", type=NEW_FILE, help="Write the scores per case as CSV.")
@click.option("--json", "json_file", type=NEW_FILE, help="Write the scores per case and their aggregates as JSON.")
@click.option("--metrics", "metrics_file", type=NEW_FILE, help="Write one team's scores as grand-challenge takes them.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, help="Processes; each needs up to about 1 GB.")
@click.option(
    "--asd",
    type=click.Choice(["2021", "pooled"]),
    default="2021",
    help="ASSD: mean of the two directed means, as the challenge has it, or of all distances together.",
)
@click.option("--strict-geometry", is_flag=True, help="Refuse predictions on another grid than the reference's.")
@click.option("--allow-missing", is_flag=True, help="Exit with 0 although predictions are missing.")
def score(
    reference: Path,
    prediction: Path,
    team: str | None,
    csv_file: Path | None,
    json_file: Path | None,
    metrics_file: Path | None,
    allow_missing: bool,
    layout: str,
    **rules: Any,
) -> None:
    """Score label maps against references: Dice, ASSD, HD95 and volumes of every case.

    A missing or unusable prediction scores as an empty one, Dice 0 and 350 mm. Without one usable prediction nothing is
    scored. Exit code 1: a prediction is missing (unless --allow-missing) or a file could not be used.
    """
    from evaluation.cohort import team_folders

    with one_line_errors():
        folders = team_folders(prediction, team, LAYOUTS[layout])
        if metrics_file is not None and len(folders) > 1:
            raise ValueError(f"--metrics: expected one team, got {len(folders)}; score one team's folder")
    cohorts = _score_and_show(reference, folders, csv_file, json_file, usable=True, layout=LAYOUTS[layout], **rules)
    if metrics_file is not None:
        from evaluation.metrics_file import metrics_json

        with one_line_errors():
            write_text(metrics_file, metrics_json(cohorts[0]))
    if any(cohort.failed or (cohort.missing and not allow_missing) for cohort in cohorts):
        sys.exit(1)


@evaluate.command()
@click.argument("scores", type=FILE, nargs=-1, required=True)
@click.option("--json", "json_file", type=NEW_FILE, help="Write the ranking and its statistics as JSON.")
@click.option("--samples", type=click.IntRange(min=1), default=1000, help="Bootstrap samples of the cases.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed of the bootstrap.")
def rank(scores: tuple[Path, ...], json_file: Path | None, samples: int, seed: int) -> None:
    """Rank teams as the challenge does, from score files: ours or the organisers' published ones.

    SCORES are JSON files of `evaluate score`, or CSV files with the columns Case, VS_Dice, VS_ASSD, Cochlea_Dice,
    Cochlea_ASSD and Team; each may hold one team or several.
    """
    import numpy as np

    from evaluation.ranking import rank_teams, table_of
    from evaluation.ranking_file import ranking_to_json
    from evaluation.score_files import read_score_file
    from evaluation.tables import rank_tables

    with one_line_errors():
        table = table_of([cohort for path in scores for cohort in read_score_file(path)])
        ranking = rank_teams(table, np.random.default_rng(seed), samples=samples)
        if json_file is not None:
            write_text(json_file, ranking_to_json(ranking))
    click.echo(rank_tables(ranking))
    for note in ranking.notes:
        click.echo(note, err=True)


@evaluate.command()
@click.argument("scores", type=FILE, nargs=-1, required=True)
@click.option("--out", type=NEW_FILE, help="Write the report as one HTML page that opens from disk.")
@click.option(
    "--markdown",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="Write the tables as Markdown; - for stdout.",
)
@click.option("--reference", type=FOLDER, help="Folder of reference label maps, to draw the worst cases.")
@click.option("--prediction", type=FOLDER, help="Folder of predicted label maps, or of one such folder per team.")
@click.option("--scans", type=FOLDER, help="Folder of {case}_hrT2.nii.gz, to draw the worst cases on.")
@click.option("--worst", type=click.IntRange(min=0), default=4, help="Cases to draw per team, about 0.2 MB each.")
@click.option(
    "--layout",
    type=click.Choice(list(LAYOUTS)),
    show_default="by the structures that are scored",
    help="How the files of --reference, --prediction and --scans are named.",
)
@click.option("--phantom", is_flag=True, help="Say that the scans are phantoms.")
@click.option(
    "--published/--no-published",
    "with_published",
    default=None,
    show_default="published, unless --phantom",
    help="Show the paper's figures and the challenge's results beside the scores.",
)
@click.option("--samples", type=click.IntRange(min=1), default=1000, help="Bootstrap samples of the ranking.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed of the bootstrap.")
def report(
    scores: tuple[Path, ...],
    out: Path | None,
    markdown: Path | None,
    phantom: bool,
    with_published: bool | None,
    samples: int,
    seed: int,
    **drawing: Any,
) -> None:
    """Report scores: a page with tables, box plots, the worst cases and, with several teams, the ranking.

    SCORES are JSON or CSV files as `evaluate score` writes them, or the organisers' published CSV files. With
    --reference and --prediction the page shows slices of the worst cases.
    """
    if out is None and markdown is None:
        raise click.UsageError("expected --out FILE or --markdown FILE, got neither; name a file to write")
    given = {name for name in ("reference", "prediction", "scans") if drawing[name] is not None}
    if given and not given >= {"reference", "prediction"}:
        raise click.UsageError("expected --reference and --prediction to draw the worst cases; give both")
    from evaluation.report.markdown import render_markdown
    from evaluation.report.page import render_html
    from evaluation.report.ranking_view import try_ranking
    from evaluation.score_files import read_score_files

    with one_line_errors():
        cohorts = read_score_files(scores)
        shown: Any = {"phantom": phantom, "with_published": with_published}
        ranking, unranked = try_ranking(cohorts, samples=samples, seed=seed)
        if markdown is not None:
            text = render_markdown(cohorts, ranking=ranking, unranked=unranked, **shown)
            click.echo(text, nl=False) if str(markdown) == "-" else write_text(markdown, text)
        if out is not None:
            page = render_html(
                cohorts,
                ranking=ranking,
                unranked=unranked,
                pictures=_draw_worst(cohorts, **drawing) if given else [],
                scans_given="scans" in given,
                **shown,
            )
            write_text(out, page)


@evaluate.command()
@click.argument("image")
@click.option("--input", "input_folder", type=FOLDER, required=True, help="Folder of {case}_hrT2.nii.gz.")
@click.option("--output", "output_folder", type=NEW_FOLDER, required=True, help="Folder for label maps and run.json.")
@click.option("--reference", type=FOLDER, help="Score against the label maps of this folder.")
@click.option("--gpus", help="GPUs as docker run takes them: all, a number, or device=0,1.  [default: none]")
@click.option(
    "--memory",
    "memory_bytes",
    default="16g",
    callback=_parsed_by(parse_bytes),
    help="Memory limit of a container, swap included.",
)
@click.option(
    "--timeout",
    "timeout_s",
    default="30m",
    callback=_parsed_by(parse_duration_s),
    help="Time limit of a container, a number followed by s, m or h.",
)
@click.option("--cpus", type=click.FloatRange(min=0, min_open=True), help="CPUs of a container.  [default: all]")
@click.option("--per-case", is_flag=True, help="One container per case, each with the whole time limit.")
@click.option(
    "--max-output",
    "max_output_bytes",
    default="2g",
    callback=_parsed_by(parse_bytes),
    help="What a container may write, in at most 10,000 files.",
)
@click.option("--writable", is_flag=True, help="Let the container change its own files, not only /tmp.")
@click.option("--user", help="Run as uid:gid.  [default: the caller's]")
@click.option("--csv", "csv_file", type=NEW_FILE, help="Write the scores per case as CSV.")
@click.option("--json", "json_file", type=NEW_FILE, help="Write the scores per case and their aggregates as JSON.")
def run(
    image: str,
    input_folder: Path,
    output_folder: Path,
    reference: Path | None,
    per_case: bool,
    user: str | None,
    csv_file: Path | None,
    json_file: Path | None,
    **limits: Any,
) -> None:
    """Run a submission's IMAGE on a folder of scans, check the label maps that it writes, and score them.

    A container sees the scans read-only, has no network and no capabilities, and runs as the caller. It is always
    removed. Its label maps are copied to OUTPUT, which it does not see. Exit code 1: it failed, or a label map breaks
    the contract; OUTPUT/run.json says which.
    """
    from evaluation.tables import run_table

    with _run_errors():
        from evaluation.runner.folders import check_reference_hidden
        from evaluation.runner.observers import ConsoleObserver
        from evaluation.runner.record import Settings, caller
        from evaluation.runner.run import run_submission

        if reference is not None:
            check_reference_hidden(reference, input_folder, output_folder)
        settings = Settings(image, user=user or caller(), **limits)
        with ConsoleObserver() as observer:
            record = run_submission(settings, input_folder, output_folder, per_case=per_case, observer=observer)
    click.echo(run_table(record))
    cohorts = _score_and_show(reference, {image: output_folder}, csv_file, json_file) if reference else []
    for failure in record.failures:
        click.echo(f"failed ({failure.kind}): {shown(str(failure))}", err=True)
    sys.exit(0 if record.succeeded and not any(cohort.failed for cohort in cohorts) else 1)


def _score_and_show(
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


def _draw_worst(cohorts: "list[CohortScores]", worst: int, layout: str | None, **folders: Any) -> "list[CasePictures]":
    from evaluation.report.content import structures_of
    from evaluation.report.worst_cases import draw_worst

    structures = structures_of(cohorts)
    named = LAYOUTS[layout] if layout else next(known for known in LAYOUTS.values() if known.scored == structures)
    if named.scored != structures:
        raise ValueError(f"--layout {layout}: expected the layout of the scores, got one with other structures")
    with case_progress("drawing") as on_case:
        return draw_worst(cohorts, **folders, layout=named, count=worst, on_case=on_case)


@contextmanager
def _run_errors() -> Iterator[None]:
    """Turn what stops a run, a missing package included, into one line and an exit code."""
    if not hasattr(os, "fwalk"):  # stands for all that Windows lacks
        raise click.ClickException(
            "evaluate run: expected Linux, whose files it reaches by descriptor, got another system; "
            "run it in WSL 2 or on another machine"
        )
    try:
        with one_line_errors(), interruptible():
            yield
    except ModuleNotFoundError as missing:
        raise click.ClickException(
            f"evaluate run: needs the package {missing.name}, which is not installed; "
            "install it with: pip install 'crossmoda-grl[runner]'"
        ) from missing
    except RunnerError as error:
        raise click.ClickException(str(error)) from error
    except Interrupted as interrupted:
        click.echo(f"interrupted by {interrupted}; the container is removed", err=True)
        sys.exit(interrupted.exit_code)


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
