"""`crossmoda-grl evaluate`: the organiser's commands. Results go to stdout, progress and notes to stderr.

Each command imports its modules when it runs. A package that one command lacks does not stop the others.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from challenge.files import write_text
from challenge.layouts import DEFAULT_LAYOUT, LAYOUTS
from evaluation.console import FILE, FOLDER, NEW_FILE, case_progress, one_line_errors, score_and_show
from evaluation.run_command import run

if TYPE_CHECKING:
    from evaluation.cohort import CohortScores
    from evaluation.report.worst_cases import CasePictures


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
    cohorts = score_and_show(reference, folders, csv_file, json_file, usable=True, layout=LAYOUTS[layout], **rules)
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


evaluate.add_command(run)


def _draw_worst(cohorts: "list[CohortScores]", worst: int, layout: str | None, **folders: Any) -> "list[CasePictures]":
    from evaluation.report.content import structures_of
    from evaluation.report.worst_cases import draw_worst

    structures = structures_of(cohorts)
    named = LAYOUTS[layout] if layout else next(known for known in LAYOUTS.values() if known.scored == structures)
    if named.scored != structures:
        raise ValueError(f"--layout {layout}: expected the layout of the scores, got one with other structures")
    with case_progress("drawing") as on_case:
        return draw_worst(cohorts, **folders, layout=named, count=worst, on_case=on_case)
