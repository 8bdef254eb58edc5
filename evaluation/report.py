"""The report: one HTML page that opens from disk and fetches nothing, and Markdown shaped like the paper's Table 1.

What the page says is put together here as plain records; how it looks stands in `templates/`. Every name that comes
from a file is escaped there, and the page's own policy lets no script run but the one that it came with.
"""

import base64
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from challenge.contract import STRUCTURES, TARGET_VALIDATION_IDS, case_name
from evaluation.figures import (
    NONE,
    STATUS_TEXT,
    CasePictures,
    box_plots,
    decimal,
    mean_dice,
    millimetres,
    worst_first,
)
from evaluation.ranking import (
    CHALLENGE_SCHEME,
    CHALLENGE_SUBSET,
    CUMULATIVE_RANK,
    METRICS,
    Ranking,
    rank_teams,
    table_of,
)
from evaluation.scoring import (
    EMPTY_DISTANCE_MM,
    CaseScores,
    CohortScores,
    Status,
    Summary,
    from_json,
    read_csv,
)

TITLE = "crossMoDA segmentation report"

# Names of the ASSD definitions as score files give them.
ASSD_TEXT = {
    "2021": "mean of the two directed mean surface distances, as the challenge computed it (MedPy up to 0.5.1)",
    "pooled": "mean over the surface distances of both directions together (MedPy from 0.5.2); not the challenge's",
}
ASSD_UNKNOWN = "not stated by the score file"

PHANTOM_TEXT = (
    "The scans are phantoms, made by a program. The scores show that the software works, not how well the method "
    "segments patients, and must not be compared with the published figures."
)


@dataclass(frozen=True)
class Column:
    """A column of the table of all cases: a field of `StructureScores`, its head and unit, and its decimals."""

    field: str
    title: str
    unit: str
    decimals: int


COLUMNS = (
    Column("dice", "Dice", "", 3),
    Column("assd_mm", "ASSD", "mm", 2),
    Column("hd95_mm", "HD95", "mm", 2),
    Column("volume_error_mm3", "Volume error", "mm³", 0),
)


def published() -> dict[str, Any]:
    """Return the paper's figures and the challenge's published results, with their sources."""
    return dict(json.loads(files("evaluation").joinpath("published.json").read_text(encoding="utf-8")))


def read_scores(paths: Sequence[Path]) -> list[CohortScores]:
    """Read score files, JSON or CSV by their ending, one cohort per team in the order given.

    Raises:
        ValueError: a file is no score file, or two files hold the same team.
        OSError: a file cannot be read.
    """
    cohorts: dict[str, CohortScores] = {}
    for path in paths:
        read = from_json(path.read_text(encoding="utf-8")) if path.suffix.lower() == ".json" else read_csv(path)
        for cohort in read:
            if cohort.team in cohorts:
                raise ValueError(
                    f"{path.name}: expected each team once, got {cohort.team} again; leave out one of its files"
                )
            cohorts[cohort.team] = cohort
    return list(cohorts.values())


# ----------------------------------------------------------------------------------------------------------------------
# Numbers as text
# ----------------------------------------------------------------------------------------------------------------------


def mean_sd(summary: Summary, metric: str) -> str:
    """Write mean ± sd with the decimals of the paper's Table 1; ASSD below 10 mm with one more.

    Source: the paper, Section 4, Table 1.
    """
    if summary.mean is None:
        return NONE
    decimals = 1 if metric == "assd_mm" and summary.mean >= 9.95 else 2
    sd = NONE if summary.sd is None else f"{summary.sd:.{decimals}f}"
    return f"{summary.mean:.{decimals}f} ± {sd}"


def median_quartiles(summary: Summary, metric: str) -> str:
    """Write median [Q1 – Q3] as the challenge's tables do: Dice in percent with one decimal, ASSD in mm."""
    if summary.median is None or summary.q1 is None or summary.q3 is None:
        return NONE
    if metric == "dice":
        return f"{100 * summary.median:.1f} [{100 * summary.q1:.1f} – {100 * summary.q3:.1f}]"
    return f"{millimetres(summary.median)} [{millimetres(summary.q1)} – {millimetres(summary.q3)}]"


# ----------------------------------------------------------------------------------------------------------------------
# What the page says
# ----------------------------------------------------------------------------------------------------------------------


def remarks_of(case: CaseScores) -> str:
    """Say in one line what is not as it should be with a case; empty where all is well."""
    titles: dict[Status, list[str]] = {}
    for structure in STRUCTURES:
        titles.setdefault(case.structures[structure.key].status, []).append(structure.title)
    # What `problem` says, it says better.
    told = (Status.MISSING, Status.REFUSED, Status.BAD_REFERENCE) if case.problem else ()
    parts = [
        f"{'' if len(names) == len(STRUCTURES) else ' and '.join(names) + ': '}{STATUS_TEXT[status]}"
        for status, names in titles.items()
        if status in STATUS_TEXT and status not in told
    ]
    return "; ".join([*parts, *filter(None, [case.problem]), *case.warnings])


def summary_rows(cohort: CohortScores) -> list[dict[str, Any]]:
    """Return one row per structure for the summary table: summaries and counts of cases."""
    rows = []
    for structure in STRUCTURES:
        aggregates = cohort.aggregates[structure.key]
        counts = aggregates.counts
        rows.append(
            {
                "structure": structure,
                "dice": aggregates.metrics["dice"],
                "assd": aggregates.metrics["assd_mm"],
                "averaged": aggregates.metrics["dice"].n,
                "empty": counts[Status.EMPTY_PREDICTION],
                "missing": counts[Status.MISSING],
                "refused": counts[Status.REFUSED],
                "unscored": sum(counts[status] for status in Status if status.unscored),
            }
        )
    return rows


def _paper_rows(paper: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "structure": structure,
            "dice": Summary(n=paper["cases"], **paper["scores"][structure.key]["dice"]),
            "assd": Summary(n=paper["cases"], **paper["scores"][structure.key]["assd_mm"]),
        }
        for structure in STRUCTURES
    ]


def _whose_cases(cohorts: Sequence[CohortScores], *, phantom: bool) -> str:
    """Say whether the paper's figures, of the validation cases of 2021, are of the cases scored here."""
    first, last = TARGET_VALIDATION_IDS
    papers = {case_name(number) for number in range(first, last + 1)}
    same = not phantom and all({result.case for result in cohort.results} == papers for cohort in cohorts)
    return "the same cases, by their names" if same else "other cases"


def _case_rows(ordered: Sequence[tuple[CohortScores, CaseScores]], columns: Sequence[Column]) -> list[dict[str, Any]]:
    rows = []
    for cohort, case in ordered:
        cells = []
        for structure in STRUCTURES:
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
                "mean_dice": _cell(mean_dice(case), 3),
                "remarks": remarks_of(case),
            }
        )
    return rows


def _cell(value: float | None, decimals: int) -> dict[str, Any]:
    return {"text": decimal(value, decimals), "value": "" if value is None else repr(float(value))}


def _notices(cohorts: Sequence[CohortScores], *, phantom: bool, unranked: str | None) -> list[dict[str, str]]:
    notices = []
    if phantom:
        notices.append({"head": "Phantom data.", "text": PHANTOM_TEXT})
    if len({cohort.metadata.asd for cohort in cohorts}) > 1:
        each = "; ".join(f"{cohort.team}: {_assd_text(cohort)}" for cohort in cohorts)
        notices.append({"head": "The teams' ASSD cannot be compared.", "text": f"They are of several kinds. {each}."})
    elif cohorts[0].metadata.asd == "pooled":
        notices.append({"head": "ASSD is not the challenge's.", "text": f"Here it is the {ASSD_TEXT['pooled']}."})
    if unranked is not None:
        notices.append({"head": "The teams are not ranked.", "text": unranked})
    return notices


def _assd_text(cohort: CohortScores) -> str:
    kind = cohort.metadata.asd
    return ASSD_UNKNOWN if kind is None else ASSD_TEXT.get(kind, kind)


def _about(cohorts: Sequence[CohortScores], *, phantom: bool, made: datetime) -> list[dict[str, str]]:
    several = len(cohorts) > 1
    entries = []
    for cohort in cohorts:
        metadata = cohort.metadata
        folders = (
            f"prediction {metadata.prediction} against reference {metadata.reference}"
            if metadata.reference is not None and metadata.prediction is not None
            else "read from a score file that does not name its folders"
        )
        left = f"; {len(cohort.extra)} files without a reference left out" if cohort.extra else ""
        strict = "; predictions on another grid refused" if metadata.strict_geometry else ""
        head = f"{cohort.team}: " if several else ""
        entries.append({"term": "Scored", "text": f"{head}{len(cohort.results)} cases, {folders}{left}{strict}"})
    kinds = sorted({_assd_text(cohort) for cohort in cohorts})
    return [
        *entries,
        {"term": "Data", "text": PHANTOM_TEXT if phantom else "as given; not marked as phantoms"},
        {"term": "ASSD", "text": "; ".join(kinds)},
        {"term": "sd", "text": "sample standard deviation (n - 1); quartiles interpolated linearly"},
        {"term": "Made", "text": f"{made:%Y-%m-%d %H:%M} UTC with crossmoda-grl {_version()}"},
    ]


def _version() -> str:
    try:
        return importlib.metadata.version("crossmoda-grl")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def _lead(cohorts: Sequence[CohortScores]) -> str:
    sizes = {len(cohort.results) for cohort in cohorts}
    count = f"{min(sizes)} to {max(sizes)}" if len(sizes) > 1 else str(sizes.pop())
    cases = f"{count} case{'s' if count != '1' else ''}"
    names = " and ".join(structure.title for structure in STRUCTURES)
    who = cohorts[0].team if len(cohorts) == 1 else f"{len(cohorts)} teams"
    return f"{who}, {cases}, {names}"


# ----------------------------------------------------------------------------------------------------------------------
# The ranking
# ----------------------------------------------------------------------------------------------------------------------

SIGNIFICANT = 0.05


def try_ranking(
    cohorts: Sequence[CohortScores], *, samples: int = 1000, seed: int = 0
) -> tuple[Ranking | None, str | None]:
    """Rank several teams, or say why they cannot be: a report of ragged scores is of use, a ranking of them is not.

    Returns:
        The ranking, None for a single team; and why there is none, None where nothing is amiss.
    """
    if len(cohorts) < 2:
        return None, None
    try:
        return rank_teams(table_of(cohorts), np.random.default_rng(seed), samples=samples), None
    except ValueError as error:
        return None, str(error)


def _ranking_view(ranking: Ranking) -> dict[str, Any]:
    """Put a ranking as rows for the page and the Markdown, teams best first."""
    challenge = ranking.subsets[CHALLENGE_SUBSET]
    others = {scheme: ranks for scheme, ranks in ranking.schemes.items() if scheme != CHALLENGE_SCHEME}
    frequencies = challenge.frequencies
    rows = []
    for index, team in enumerate(ranking.teams):
        low, high = (int(edge) for edge in challenge.intervals[index])
        rows.append(
            {
                "team": team,
                "rank": int(ranking.ranks[index]),
                "score": f"{ranking.scores[index]:.3f}",
                "alternatives": [int(ranks[index]) for ranks in others.values()],
                "interval": str(low) if low == high else f"{low} – {high}",
                "first": f"{100 * frequencies[index, 0]:.1f}",
                "frequencies": [
                    {"share": f"{share:.3f}", "text": f"{100 * share:.1f}" if share else ""}
                    for share in frequencies[index].tolist()
                ],
            }
        )
    return {
        "schemes": [scheme.replace("-", " ") for scheme in others],
        "rows": rows,
        "possible": list(range(1, len(ranking.teams) + 1)),
        "samples": len(challenge.taus),
        "taus": [_tau_text(name, subset.taus) for name, subset in ranking.subsets.items()],
        "maps": significance_maps(ranking),
        "note": f"Over {len(ranking.cases)} cases. For each case, structure and metric a team's rank is 1 + the number "
        "of teams strictly better; the score is the mean of these ranks over metrics and cases, the smaller the "
        f"better. {' '.join(f'{note[:1].upper()}{note[1:]}.' for note in ranking.notes)}".rstrip(),
    }


def _tau_text(name: str, taus: np.ndarray) -> str:
    defined = taus[~np.isnan(taus)]
    if not defined.size:
        return f"{name}: not defined"
    q1, median, q3 = np.percentile(defined, [25, 50, 75])
    return f"{name}: median {median:.2f} [{q1:.2f} – {q3:.2f}]"


def significance_maps(ranking: Ranking) -> list[dict[str, Any]]:
    """Return a table of who is significantly better than whom, by cumulative rank and by each metric.

    Which of two teams is better is told by their mean ranks, so a map by Dice or ASSD is not led by a single outlier.
    """
    mean_ranks = {CUMULATIVE_RANK: ranking.scores}
    for number, metric in enumerate(METRICS):
        if not np.isnan(ranking.metric_ranks[..., number]).all():
            mean_ranks[metric.column] = np.nanmean(ranking.metric_ranks[..., number], axis=0)
    return [
        {
            "title": title.replace("_", " "),
            "rows": [
                {
                    "team": team,
                    "cells": [
                        _significance_cell(float(ranks[other] - ranks[one]), float(ranking.p_values[title][one, other]))
                        if one != other
                        else {"kind": "self", "sign": "", "p": "", "spoken": ""}
                        for other in range(len(ranking.teams))
                    ],
                }
                for one, team in enumerate(ranking.teams)
            ],
        }
        for title, ranks in mean_ranks.items()
    ]


def _significance_cell(lead: float, p: float) -> dict[str, str]:
    """Say how one team stands to another: `lead` is by how much its mean rank is smaller."""
    shown = "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.0995 else f"{p:.2f}"
    if p >= SIGNIFICANT or lead == 0:
        return {"kind": "equal", "sign": "○", "p": shown, "spoken": "no significant difference"}
    if lead > 0:
        return {"kind": "better", "sign": "▲", "p": shown, "spoken": "significantly better"}
    return {"kind": "worse", "sign": "▼", "p": shown, "spoken": "significantly worse"}


# ----------------------------------------------------------------------------------------------------------------------
# The page and the Markdown
# ----------------------------------------------------------------------------------------------------------------------


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("evaluation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(mean_sd=mean_sd, median_quartiles=median_quartiles, millimetres=millimetres)
    return environment


def render_html(
    cohorts: Sequence[CohortScores],
    *,
    ranking: Ranking | None = None,
    unranked: str | None = None,
    pictures: Sequence[CasePictures] = (),
    scans_given: bool = False,
    phantom: bool = False,
    made: datetime | None = None,
) -> str:
    """Return the report as one HTML page that needs nothing beside itself.

    Args:
        cohorts: the teams' scores, at least one.
        ranking: what `ranking.rank_teams` returns, or None for no ranking.
        unranked: why several teams are not ranked, to be said on the page.
        pictures: what `draw_worst` returns.
        scans_given: whether scans were given for the pictures.
        phantom: say that the data are phantoms.
        made: the time to put on the page, now where it is None.

    Raises:
        ValueError: no cohort is given, or one has no cases.
    """
    cohorts = _in_order(cohorts, ranking)
    environment = _environment()
    script, _, _ = environment.loader.get_source(environment, "report.js")  # type: ignore[union-attr]
    style, _, _ = environment.loader.get_source(environment, "report.css")  # type: ignore[union-attr]
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    known = published()
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
        notices=_notices(cohorts, phantom=phantom, unranked=unranked),
        version=_version(),
        style=Markup(style),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
        structures=STRUCTURES,
        summary=[{"team": cohort.team, "rows": summary_rows(cohort)} for cohort in cohorts],
        empty_mm=f"{EMPTY_DISTANCE_MM:g}",
        paper=known["paper"] | {"rows": _paper_rows(known["paper"]), "whose": _whose_cases(cohorts, phantom=phantom)},
        challenge=known["challenge"]
        | {"teams_count": sum(team["rank"] is not None for team in known["challenge"]["teams"])},
        ranking=None if ranking is None else _ranking_view(ranking),
        significant=f"{SIGNIFICANT:g}",
        plots=box_plots(cohorts, ordered),
        pictures=[
            {
                "heading": f"{picture.case}{' · ' + picture.team if several else ''}: "
                f"mean Dice {picture.mean_dice:.2f}",
                "problem": picture.problem,
                "slices": picture.slices,
            }
            for picture in pictures
        ],
        scans_given=scans_given,
        columns=[{"title": structure.title, "columns": columns} for structure in STRUCTURES],
        rows=_case_rows(ordered, columns),
        about=_about(cohorts, phantom=phantom, made=made or datetime.now(UTC)),
    )


def render_markdown(
    cohorts: Sequence[CohortScores],
    *,
    ranking: Ranking | None = None,
    unranked: str | None = None,
    phantom: bool = False,
    made: datetime | None = None,
) -> str:
    """Return the scores as Markdown: a table shaped like the paper's Table 1 for every team, and the ranking.

    Args:
        cohorts: the teams' scores, at least one.
        ranking: what `ranking.rank_teams` returns, or None.
        unranked: why several teams are not ranked.
        phantom: say that the data are phantoms.
        made: the time to write, now where it is None.

    Raises:
        ValueError: no cohort is given, or one has no cases.
    """
    cohorts = _in_order(cohorts, ranking)
    paper = published()["paper"]
    lines = [f"## {TITLE}", ""]
    for notice in _notices(cohorts, phantom=phantom, unranked=unranked):
        lines += [f"> **{notice['head']}** {escape_markdown(notice['text'])}", ""]
    lines += ["| Results of | Structure | Dice score | ASSD, mm |", "|---|---|---|---|"]
    blocks = [(cohort.team, summary_rows(cohort)) for cohort in cohorts]
    blocks.append((f"{paper['name']}, {paper['cases']} validation cases", _paper_rows(paper)))
    for team, rows in blocks:
        lines += [
            f"| {escape_markdown(team)} | {row['structure'].title} | {mean_sd(row['dice'], 'dice')} "
            f"| {mean_sd(row['assd'], 'assd_mm')} |"
            for row in rows
        ]
    lines += [
        "",
        f"Mean ± sd. The paper's figures come from {_whose_cases(cohorts, phantom=phantom)}. "
        "Median [Q1 – Q3] and the number of cases:",
        "",
        "| Results of | Structure | Dice, % | ASSD, mm | averaged | empty | missing | refused | not scored |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for cohort in cohorts:
        for row in summary_rows(cohort):
            counts = " | ".join(str(row[name]) for name in ("averaged", "empty", "missing", "refused", "unscored"))
            lines.append(
                f"| {escape_markdown(cohort.team)} | {row['structure'].title} "
                f"| {median_quartiles(row['dice'], 'dice')} | {median_quartiles(row['assd'], 'assd_mm')} | {counts} |"
            )
    if ranking is not None:
        lines += ["", *_ranking_markdown(_ranking_view(ranking))]
    lines += [
        "",
        *(
            f"- {e['term']}: {escape_markdown(e['text'])}"
            for e in _about(cohorts, phantom=phantom, made=made or datetime.now(UTC))
        ),
    ]
    return "\n".join(lines) + "\n"


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
    """Write a text so that Markdown shows it as it is, in one cell of a table."""
    shown = "".join(
        f"\\{character}" if character in "\\`*_[]|~$" else character for character in " ".join(text.split())
    )
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _in_order(cohorts: Sequence[CohortScores], ranking: Ranking | None) -> list[CohortScores]:
    """Return the teams best first where they are ranked, else as given.

    Raises:
        ValueError: no cohort is given, or one has no cases.
    """
    if not cohorts or any(not cohort.results for cohort in cohorts):
        raise ValueError("scores: expected at least one team with at least one case, got none; score a folder first")
    if ranking is None:
        return list(cohorts)
    return sorted(cohorts, key=lambda cohort: ranking.teams.index(cohort.team))
