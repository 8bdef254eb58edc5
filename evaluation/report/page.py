"""The report as one HTML page that opens from disk and fetches nothing.

The content is put together here as plain records; `templates/` says how it looks. The templates escape every name that
comes from a file, and the page's own policy allows no script but the one it carries.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import jinja2
from markupsafe import Markup

from challenge.colours import REFERENCE_COLOUR, colour_of
from challenge.contract import Structure
from challenge.quantities import counted
from evaluation.cohort import CohortScores
from evaluation.ranking import Ranking
from evaluation.report.box_plots import box_plots
from evaluation.report.content import (
    TITLE,
    about,
    counts_shown,
    in_order,
    notices_of,
    paper_rows,
    published,
    structures_of,
    summary_rows,
    version,
    whose_cases,
    with_published_figures,
)
from evaluation.report.ranking_view import SIGNIFICANT, ranking_view
from evaluation.report.wording import (
    DICE_DECIMALS,
    decimal,
    dice_text,
    listed,
    mean_sd,
    median_quartiles,
    millimetres,
    remarks_of,
)
from evaluation.report.worst_cases import CasePictures, mean_dice, worst_first
from evaluation.scoring import EMPTY_DISTANCE_MM, CaseScores


@dataclass(frozen=True)
class Column:
    """A column of the table of all cases: a field of `StructureScores`, its head and unit, and its decimals."""

    field: str
    title: str
    unit: str
    decimals: int


COLUMNS = (
    Column("dice", "Dice", "", DICE_DECIMALS),
    Column("assd_mm", "ASSD", "mm", 2),
    Column("hd95_mm", "HD95", "mm", 2),
    Column("volume_error_mm3", "Volume error", "mm³", 0),
)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("evaluation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        mean_sd=mean_sd, median_quartiles=median_quartiles, millimetres=millimetres, dice_text=dice_text
    )
    return environment


def render_html(
    cohorts: Sequence[CohortScores],
    *,
    ranking: Ranking | None = None,
    unranked: str | None = None,
    pictures: Sequence[CasePictures] = (),
    scans_given: bool = False,
    phantom: bool = False,
    with_published: bool | None = None,
    made: datetime | None = None,
) -> str:
    """Return the report as one HTML page that needs no other file.

    Args:
        cohorts: the teams' scores, at least one.
        ranking: what `ranking.rank_teams` returns, or None.
        unranked: why several teams are not ranked.
        pictures: what `draw_worst` returns.
        scans_given: whether scans were given for the pictures.
        phantom: say that the data are phantoms.
        with_published: show the paper's and the challenge's figures too, by default unless the data are phantoms.
        made: the time to write, by default now.

    Raises:
        ValueError: as `in_order`, or the published figures are of other structures.
    """
    cohorts = in_order(cohorts, ranking)
    environment = _environment()
    script, _, _ = environment.loader.get_source(environment, "report.js")  # type: ignore[union-attr]
    style, _, _ = environment.loader.get_source(environment, "report.css")  # type: ignore[union-attr]
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    structures = structures_of(cohorts)
    ordered = worst_first(cohorts)
    columns = [
        column
        for column in COLUMNS
        if any(getattr(scores, column.field) is not None for _, case in ordered for scores in case.structures.values())
    ] or list(COLUMNS[:2])
    several = len(cohorts) > 1
    return environment.get_template("report.html").render(
        title=TITLE,
        lead=_lead(cohorts),
        notices=notices_of(cohorts, phantom=phantom, unranked=unranked),
        version=version(),
        style=Markup(style),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
        structures=structures,
        summary=[{"team": cohort.team, "rows": summary_rows(cohort)} for cohort in cohorts],
        counted=counts_shown(cohorts),
        empty_mm=f"{EMPTY_DISTANCE_MM:g}",
        **_published(cohorts, phantom=phantom, asked=with_published),
        ranking=None if ranking is None else ranking_view(ranking),
        significant=f"{SIGNIFICANT:g}",
        plots=box_plots(cohorts, ordered),
        outlined=[{"title": s.title, "colour": colour_of(s)} for s in structures if not s.also],
        reference_colour=REFERENCE_COLOUR,
        pictures=[
            {
                "heading": f"{picture.case}{' · ' + picture.team if several else ''}: "
                f"mean Dice {dice_text(picture.mean_dice)}",
                "problem": picture.problem,
                "places": picture.places,
            }
            for picture in pictures
        ],
        scans_given=scans_given,
        columns=[{"title": structure.title, "columns": columns} for structure in structures],
        rows=_case_rows(ordered, columns, structures),
        about=about(cohorts, phantom=phantom, made=made or datetime.now(UTC)),
    )


def _published(cohorts: Sequence[CohortScores], *, phantom: bool, asked: bool | None) -> dict[str, Any]:
    """Return the paper's and the challenge's figures, or None for both where the page does not show them."""
    if not with_published_figures(cohorts, phantom=phantom, asked=asked):
        return {"paper": None, "challenge": None}
    paper, challenge = (published()[of] for of in ("paper", "challenge"))
    return {
        "paper": paper | {"rows": paper_rows(paper), "whose": whose_cases(cohorts, phantom=phantom)},
        "challenge": challenge | {"teams_count": sum(team["rank"] is not None for team in challenge["teams"])},
    }


def _case_rows(
    ordered: Sequence[tuple[CohortScores, CaseScores]], columns: Sequence[Column], structures: Sequence[Structure]
) -> list[dict[str, Any]]:
    rows = []
    for cohort, case in ordered:
        cells = []
        for structure in structures:
            scores = case.structures[structure.key]
            for column in columns:
                value = getattr(scores, column.field)
                classes = ["first"] if column is columns[0] else ["more"] if column not in columns[:2] else []
                share = None
                if column.field == "dice" and value is not None:
                    classes.append("bar")
                    share = f"{min(max(value, 0.0), 1.0):.3f}"
                cells.append(_cell(value, column.decimals) | {"classes": " ".join(classes), "share": share})
        rows.append(
            {
                "case": case.case,
                "team": cohort.team,
                "cells": cells,
                "mean_dice": _cell(mean_dice(case), DICE_DECIMALS),
                "remarks": remarks_of(case, structures),
            }
        )
    return rows


def _cell(value: float | None, decimals: int) -> dict[str, Any]:
    return {"text": decimal(value, decimals), "value": "" if value is None else repr(float(value))}


def _lead(cohorts: Sequence[CohortScores]) -> str:
    sizes = {len(cohort.results) for cohort in cohorts}
    cases = f"{min(sizes)} to {max(sizes)} cases" if len(sizes) > 1 else counted(sizes.pop(), "case")
    names = listed([structure.title for structure in cohorts[0].structures])
    who = cohorts[0].team if len(cohorts) == 1 else f"{len(cohorts)} teams"
    return f"{who}, {cases}, {names}"
