"""`crossmoda-grl evaluate`: the organiser's commands. Results go to stdout, progress and notes to stderr.

Each command imports its room in its handler, so that one command's missing package does not stop the others.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import click

from challenge.contract import STRUCTURES
from challenge.signals import Interrupted, interruptible

if TYPE_CHECKING:
    from evaluation.ranking import Ranking
    from evaluation.runner import RunRecord
    from evaluation.scoring import CohortScores, Summary

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


class NewFile(click.Path):
    """A file to write, refused before the work begins where its folder is missing or cannot be written."""

    def convert(self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path. `-` stands for stdout where an option takes it.

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


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def evaluate() -> None:
    """Score, rank and report submissions, and run their images."""


@evaluate.command()
@click.option("--reference", type=FOLDER, required=True, help="Folder of reference label maps, {case}_Label.nii.gz.")
@click.option(
    "--prediction", type=FOLDER, required=True, help="Folder of predicted label maps, or of one such folder per team."
)
@click.option("--team", help="The team's name.  [default: the folder's name]")
@click.option("--csv", "csv_file", type=NEW_FILE, help="Write the scores per case as CSV.")
@click.option("--json", "json_file", type=NEW_FILE, help="Write the scores per case and their aggregates as JSON.")
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
    jobs: int,
    asd: str,
    strict_geometry: bool,
    allow_missing: bool,
) -> None:
    """Score label maps against references: Dice, ASSD, HD95 and volumes of every case.

    A missing or unusable prediction scores as an empty one, Dice 0 and 350 mm. Exit code 1: a prediction is missing
    (unless --allow-missing) or a file could not be used.
    """
    from evaluation.metrics import ASSD_DEFINITIONS
    from evaluation.scoring import score_cohorts, team_folders, to_json, write_csv

    [definition] = [name for name in ASSD_DEFINITIONS if name == asd]
    with told():
        folders = team_folders(prediction, team)
        with progress_of("scoring") as on_case:
            cohorts = score_cohorts(
                reference, folders, asd=definition, strict_geometry=strict_geometry, jobs=jobs, on_case=on_case
            )
        if csv_file is not None:
            write_csv(cohorts, csv_file)
        if json_file is not None:
            write_text(json_file, to_json(cohorts))
    for cohort in cohorts:
        click.echo(score_table(cohort))
        tell_findings(cohort)
    failed = any(cohort.failed for cohort in cohorts)
    missing = any(cohort.missing for cohort in cohorts)
    if failed or (missing and not allow_missing):
        sys.exit(1)


@evaluate.command()
@click.argument("scores", type=FILE, nargs=-1, required=True)
@click.option("--json", "json_file", type=NEW_FILE, help="Write the ranking and its statistics as JSON.")
@click.option("--samples", type=click.IntRange(min=1), default=1000, help="Bootstrap samples of the cases.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed of the bootstrap.")
def rank(scores: tuple[Path, ...], json_file: Path | None, samples: int, seed: int) -> None:
    """Rank teams as the challenge does, from score files: ours or the organisers' published ones.

    SCORES are CSV files with the columns Case, VS_Dice, VS_ASSD, Cochlea_Dice, Cochlea_ASSD and Team; each may hold
    one team or several.
    """
    import numpy as np

    from evaluation.ranking import rank_teams, table_of, to_json
    from evaluation.scoring import read_csv

    with told():
        table = table_of([cohort for path in scores for cohort in read_csv(path)])
        ranking = rank_teams(table, np.random.default_rng(seed), samples=samples)
        if json_file is not None:
            write_text(json_file, to_json(ranking))
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
@click.option("--worst", type=click.IntRange(min=0), default=4, help="Cases to draw per team.")
@click.option("--phantom", is_flag=True, help="Say that the scans are phantoms.")
@click.option("--samples", type=click.IntRange(min=1), default=1000, help="Bootstrap samples of the ranking.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed of the bootstrap.")
def report(
    scores: tuple[Path, ...],
    out: Path | None,
    markdown: Path | None,
    reference: Path | None,
    prediction: Path | None,
    scans: Path | None,
    worst: int,
    phantom: bool,
    samples: int,
    seed: int,
) -> None:
    """Report scores: a page with tables, box plots, the worst cases and, with several teams, the ranking.

    SCORES are JSON or CSV files as `evaluate score` writes them, or the organisers' published CSV files. With
    --reference and --prediction the page shows slices of the worst cases.
    """
    if out is None and markdown is None:
        raise click.UsageError("expected --out FILE or --markdown FILE, got neither; name a file to write")
    if (reference is None) != (prediction is None) or (scans is not None and reference is None):
        raise click.UsageError("expected --reference and --prediction to draw the worst cases; give both")
    from evaluation.figures import draw_worst
    from evaluation.report import read_scores, render_html, render_markdown, try_ranking

    with told():
        cohorts = read_scores(scores)
        ranking, unranked = try_ranking(cohorts, samples=samples, seed=seed)
        if markdown is not None:
            text = render_markdown(cohorts, ranking=ranking, unranked=unranked, phantom=phantom)
            click.echo(text, nl=False) if str(markdown) == "-" else write_text(markdown, text)
        if out is not None:
            pictures = []
            if reference is not None and prediction is not None:
                with progress_of("drawing") as on_case:
                    pictures = draw_worst(cohorts, reference, prediction, scans, count=worst, on_case=on_case)
            page = render_html(
                cohorts,
                ranking=ranking,
                unranked=unranked,
                pictures=pictures,
                scans_given=scans is not None,
                phantom=phantom,
            )
            write_text(out, page)


@evaluate.command()
@click.argument("image")
@click.option("--input", "input_folder", type=FOLDER, required=True, help="Folder of {case}_hrT2.nii.gz.")
@click.option("--output", "output_folder", type=NEW_FOLDER, required=True, help="Folder for label maps and run.json.")
@click.option("--reference", type=FOLDER, help="Score against the label maps of this folder.")
@click.option("--gpus", help="GPUs as docker run takes them: all, a number, or device=0,1.  [default: none]")
@click.option("--memory", default="16g", help="Memory limit of a container, swap included.")
@click.option("--timeout", default="30m", help="Time limit of a container; s, m or h behind the number.")
@click.option("--cpus", type=click.FloatRange(min=0, min_open=True), help="CPUs of a container.  [default: all]")
@click.option("--per-case", is_flag=True, help="One container per case, each with the whole time limit.")
@click.option("--strict", is_flag=True, help="Make the container's own files read-only, /tmp apart.")
@click.option("--user", help="Run as uid:gid.  [default: the caller's]")
@click.option("--csv", "csv_file", type=NEW_FILE, help="Write the scores per case as CSV.")
@click.option("--json", "json_file", type=NEW_FILE, help="Write the scores per case and their aggregates as JSON.")
def run(
    image: str,
    input_folder: Path,
    output_folder: Path,
    reference: Path | None,
    gpus: str | None,
    memory: str,
    timeout: str,
    cpus: float | None,
    per_case: bool,
    strict: bool,
    user: str | None,
    csv_file: Path | None,
    json_file: Path | None,
) -> None:
    """Run a submission's IMAGE on a folder of scans, check what comes back, and score it.

    A container sees the scans read-only, has no network and no capabilities, and runs as the caller; it is removed
    whatever happens. Exit code 1: it failed, or a label map breaks the contract; OUTPUT/run.json tells which.
    """
    with running() as runner:
        if reference is not None:
            runner.check_reference_hidden(reference, input_folder, output_folder)
        settings = runner.Settings(
            image,
            memory_bytes=runner.parse_bytes(memory),
            timeout_s=runner.parse_duration_s(timeout),
            gpus=gpus,
            cpus=cpus,
            user=user or runner.caller(),
            strict=strict,
        )
        with runner.ConsoleObserver() as observer:
            record = runner.run_submission(settings, input_folder, output_folder, per_case=per_case, observer=observer)
        runner.write_record(record, output_folder / "run.json")
    click.echo(run_table(record))
    scored = reference is None or write_scores(image, reference, output_folder, csv_file, json_file)
    for failure in record.failures:
        click.echo(f"failed ({failure.kind}): {failure}", err=True)
    sys.exit(0 if record.succeeded and scored else 1)


@contextmanager
def running() -> Iterator[ModuleType]:
    """Yield `evaluation.runner`, which needs the package docker; turn what stops a run into one line and exit code."""
    try:
        from evaluation import runner
    except ModuleNotFoundError as missing:
        raise click.ClickException(
            f"evaluate run: needs the package {missing.name}, which is not installed; "
            "install it with: pip install 'crossmoda-grl[runner]'"
        ) from missing
    try:
        with told(), interruptible():
            yield runner
    except runner.SubmissionError as error:
        raise click.ClickException(str(error)) from error
    except Interrupted as interrupted:
        click.echo(f"interrupted by {interrupted}; the container is removed", err=True)
        sys.exit(interrupted.exit_code)


def write_scores(team: str, reference: Path, prediction: Path, csv_file: Path | None, json_file: Path | None) -> bool:
    """Score a run's label maps, show the scores, write them where wanted; return whether every file could be used."""
    from evaluation.scoring import score_cohort, to_json, write_csv

    with told():
        with progress_of("scoring") as on_case:
            cohort = score_cohort(reference, prediction, team, on_case=on_case)
        if csv_file is not None:
            write_csv([cohort], csv_file)
        if json_file is not None:
            write_text(json_file, to_json([cohort]))
    click.echo(score_table(cohort))
    tell_findings(cohort)
    return not cohort.failed


def run_table(record: "RunRecord") -> str:
    """Show a run: a row per case, what its label map lacks, and time and memory of every container."""
    rows = [["case", "seconds", "label map"]]
    for outcome in record.cases:
        verdict = (
            "breaks the contract" if outcome.problems else "as agreed, but see below" if outcome.warnings else "ok"
        )
        rows.append([outcome.case, "-" if outcome.seconds is None else f"{outcome.seconds:.1f}", verdict])
    findings = [line for outcome in record.cases for line in (*outcome.problems, *outcome.warnings)]
    if record.extra:
        findings.append(f"not part of the contract: {', '.join(record.extra)}")
    peaks = [c.peak_memory_bytes for c in record.containers if c.peak_memory_bytes]
    peak = f", peak memory {max(peaks) / 2**30:.2f} GB" if peaks else ""
    count = f"{len(record.containers)} container{'s' if len(record.containers) > 1 else ''}"
    return "\n".join([table_of_text(rows), *findings, f"{count}, {record.seconds:.1f} s{peak}", ""])


@contextmanager
def told() -> Iterator[None]:
    """Turn a caller's mistake or a file that cannot be read or written into one line and exit code 1."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text that is whole or absent.

    Raises:
        OSError: the file cannot be written.
    """
    from challenge.files import written_whole

    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def progress_of(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """Yield a function to call with cases done, cases in all, and the case: a bar on a terminal, else a line each."""
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


def table_of_text(rows: Sequence[Sequence[str]]) -> str:
    """Align rows of text in columns: the first to the left, the others to the right, a line under the first row."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in rows)
    ]
    return "\n".join([lines[0].rstrip(), "-" * len(lines[0]), *(line.rstrip() for line in lines[1:])])


def score_table(cohort: "CohortScores") -> str:
    """Show a team's aggregates: a row per structure and metric, and the counts of what was not simply scored."""
    rows = [["structure, metric", "n", "mean ± sd", "median [Q1 - Q3]"]]
    labels = {"dice": "Dice", "assd_mm": "ASSD, mm", "hd95_mm": "HD95, mm", "volume_error_mm3": "volume error, mm3"}
    counts = []
    for structure in STRUCTURES:
        aggregates = cohort.aggregates[structure.key]
        for metric, summary in aggregates.metrics.items():
            digits = {"dice": 3, "volume_error_mm3": 1}.get(metric, 2)
            rows.append([f"{structure.title} {labels[metric]}", str(summary.n), *_summary_cells(summary, digits)])
        told_counts = ", ".join(f"{n} {status.replace('_', ' ')}" for status, n in aggregates.counts.items() if n)
        counts.append(f"{structure.title}: {told_counts}")
    asd = f", ASSD of {cohort.metadata.asd}" if cohort.metadata.asd else ""
    return "\n".join([f"{cohort.team}: {len(cohort.results)} cases{asd}", table_of_text(rows), *counts, ""])


def _summary_cells(summary: "Summary", digits: int) -> list[str]:
    if summary.mean is None:
        return ["-", "-"]
    sd = "-" if summary.sd is None else f"{summary.sd:.{digits}f}"
    return [
        f"{summary.mean:.{digits}f} ± {sd}",
        f"{summary.median:.{digits}f} [{summary.q1:.{digits}f} - {summary.q3:.{digits}f}]",
    ]


def tell_findings(cohort: "CohortScores") -> None:
    """Say on stderr what went wrong in which case."""
    for result in cohort.results:
        for message in filter(None, (result.problem, *result.warnings)):
            click.echo(f"{cohort.team}, {result.case}: {message}", err=True)
    for structure in STRUCTURES:
        counts = cohort.aggregates[structure.key].counts
        unscored = {status: n for status, n in counts.items() if status.unscored and n}
        if unscored:
            reasons = ", ".join(f"{n} {status.replace('_', ' ')}" for status, n in unscored.items())
            click.echo(f"{cohort.team}: {structure.title} not scored in some cases: {reasons}", err=True)
    if cohort.extra:
        click.echo(f"{cohort.team}: not scored, without a reference: {', '.join(cohort.extra)}", err=True)


def rank_tables(ranking: "Ranking") -> str:
    """Show a ranking: final scores and other schemes, then how stable it is and which differences hold."""
    from evaluation.ranking import CHALLENGE_SCHEME, CHALLENGE_SUBSET, CUMULATIVE_RANK

    schemes = [scheme for scheme in ranking.schemes if scheme != CHALLENGE_SCHEME]
    intervals = ranking.subsets[CHALLENGE_SUBSET].intervals
    rows = [["team", "rank", "score", "95 % of samples", *schemes]]
    for index, team in enumerate(ranking.teams):
        low, high = intervals[index]
        others = (str(ranking.schemes[scheme][index]) for scheme in schemes)
        rows.append([team, str(ranking.ranks[index]), f"{ranking.scores[index]:.3f}", f"{low} - {high}", *others])
    parts = [f"{len(ranking.cases)} cases, {len(ranking.teams)} teams", table_of_text(rows)]
    if len(ranking.teams) > 1:
        samples = len(ranking.subsets[CHALLENGE_SUBSET].taus)
        taus = [[f"Kendall's tau with the final ranking, {samples} samples", "mean", "smallest"]]
        for name, subset in ranking.subsets.items():
            defined = [tau for tau in subset.taus.tolist() if tau == tau]
            shown = (sum(defined) / len(defined), min(defined)) if defined else ()
            taus.append([name, *([f"{value:.3f}" for value in shown] or ["-", "-"])])
        pairs = [["neighbours, Wilcoxon signed-rank test of the cumulative ranks", "p (Holm)"]]
        p_values = ranking.p_values[CUMULATIVE_RANK]
        for index, (team, following) in enumerate(pairwise(ranking.teams)):
            pairs.append([f"{team} / {following}", f"{p_values[index, index + 1]:.2g}"])
        parts += ["", table_of_text(taus), "", table_of_text(pairs)]
    return "\n".join(parts)
