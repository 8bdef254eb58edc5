"""The report as Markdown, shaped like the paper's Table 1."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from evaluation.cohort import CohortScores
from evaluation.ranking import Ranking
from evaluation.report.content import (
    TITLE,
    about,
    counts_shown,
    in_order,
    notices_of,
    paper_rows,
    published,
    summary_rows,
    whose_cases,
    with_published_figures,
)
from evaluation.report.ranking_view import ranking_view
from evaluation.report.wording import DICE_DECIMALS, mean_sd, median_quartiles


def render_markdown(
    cohorts: Sequence[CohortScores],
    *,
    ranking: Ranking | None = None,
    unranked: str | None = None,
    phantom: bool = False,
    with_published: bool | None = None,
    made: datetime | None = None,
) -> str:
    """Return the report as Markdown: a table shaped like the paper's Table 1 for every team, and the ranking.

    Args:
        cohorts: the teams' scores, at least one.
        ranking: what `ranking.rank_teams` returns, or None.
        unranked: why several teams are not ranked.
        phantom: say that the data are phantoms.
        with_published: show the paper's figures too, by default unless the data are phantoms.
        made: the time to write, by default now.

    Raises:
        ValueError: as `in_order`, or the paper's figures are of other structures.
    """
    cohorts = in_order(cohorts, ranking)
    with_paper = with_published_figures(cohorts, phantom=phantom, asked=with_published)
    lines = [f"## {TITLE}", ""]
    for notice in notices_of(cohorts, phantom=phantom, unranked=unranked):
        lines += [f"> **{notice['head']}** {escape_markdown(notice['text'])}", ""]
    lines += ["| Results of | Structure | Dice | ASSD, mm |", "|---|---|---|---|"]
    for cohort in cohorts:
        lines += _means(cohort.team, summary_rows(cohort), DICE_DECIMALS)
    source, counted = "", counts_shown(cohorts)
    if with_paper:
        paper = published()["paper"]
        lines += _means(f"{paper['name']}, {paper['cases']} validation cases", paper_rows(paper), 2)
        source = f" The paper's figures come from {whose_cases(cohorts, phantom=phantom)}."
    lines += [
        "",
        f"Mean ± sd.{source} Median [Q1 – Q3] and the number of cases:",
        "",
        f"| Results of | Structure | Dice | ASSD, mm | {' | '.join(counted)} |",
        "|---" * (4 + len(counted)) + "|",
    ]
    for cohort in cohorts:
        for row in summary_rows(cohort):
            counts = " | ".join(str(row["counts"][name]) for name in counted)
            lines.append(
                f"| {escape_markdown(cohort.team)} | {row['structure'].title} "
                f"| {median_quartiles(row['dice'], 'dice')} | {median_quartiles(row['assd'], 'assd_mm')} | {counts} |"
            )
    if ranking is not None:
        lines += ["", *_ranking_markdown(ranking_view(ranking))]
    lines += [
        "",
        *(
            f"- {e['term']}: {escape_markdown(e['text'])}"
            for e in about(cohorts, phantom=phantom, made=made or datetime.now(UTC))
        ),
    ]
    return "\n".join(lines) + "\n"


def _means(team: str, rows: Sequence[Mapping[str, Any]], dice_decimals: int) -> list[str]:
    return [
        f"| {escape_markdown(team)} | {row['structure'].title} | {mean_sd(row['dice'], 'dice', dice_decimals)} "
        f"| {mean_sd(row['assd'], 'assd_mm')} |"
        for row in rows
    ]


def _ranking_markdown(ranking: Mapping[str, Any]) -> list[str]:
    schemes = ranking["schemes"]
    return [
        f"| Rank | Team | Score | {' | '.join(schemes)} | 95 % of bootstrap ranks | first, % |",
        "|---" * (len(schemes) + 5) + "|",
        *(
            f"| {row['rank']} | {escape_markdown(row['team'])} | {row['score']} "
            f"| {' | '.join(map(str, row['alternatives']))} | {row['interval']} | {row['first']} |"
            for row in ranking["rows"]
        ),
        "",
        escape_markdown(ranking["note"]),
    ]


def escape_markdown(text: str) -> str:
    """Escape a text so that Markdown shows it unchanged, in one cell of a table."""
    shown = "".join(
        f"\\{character}" if character in "\\`*_[]|~$" else character for character in " ".join(text.split())
    )
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
