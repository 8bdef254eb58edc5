"""What both forms of the report say, the HTML page and the Markdown."""

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.resources import files
from typing import Any

from challenge.contract import STRUCTURES, TARGET_VALIDATION_IDS, Structure, case_name
from challenge.quantities import counted
from evaluation.cohort import CohortScores, Summary
from evaluation.ranking import Ranking
from evaluation.scoring import Status

TITLE = "crossMoDA segmentation report"

# By the names that score files give to the definitions of ASSD.
ASSD_TEXT = {
    "2021": "mean of the two directed mean surface distances, as the challenge computed it (MedPy up to 0.5.1)",
    "pooled": "mean over the surface distances of both directions together (MedPy from 0.5.2); not the challenge's",
}
ASSD_UNKNOWN = "not stated by the score file"

PHANTOM_TEXT = (
    "The scans are phantoms, made by a program. The scores show that the software works, not how well the method "
    "segments patients, and must not be compared with the published figures."
)


def structures_of(cohorts: Sequence[CohortScores]) -> tuple[Structure, ...]:
    """Return the structures that all cohorts are scored for.

    Raises:
        ValueError: there are several kinds.
    """
    kinds = {cohort.structures for cohort in cohorts}
    if len(kinds) > 1:
        raise ValueError("report: expected the same structures in all files, got others; report one year at a time")
    return kinds.pop()


def with_published_figures(cohorts: Sequence[CohortScores], *, phantom: bool, asked: bool | None) -> bool:
    """Decide whether the published figures stand beside the scores: if asked for, else unless the data are phantoms.

    Raises:
        ValueError: they are asked for beside structures that they are not of.
    """
    comparable = structures_of(cohorts) == STRUCTURES
    if asked and not comparable:
        raise ValueError(
            "--published: expected scores of VS and cochlea, which the published figures are of, got others; drop it"
        )
    return comparable and not phantom if asked is None else asked


def published() -> dict[str, Any]:
    """Return the paper's figures and the challenge's published results, with their sources."""
    return dict(json.loads(files("evaluation").joinpath("published.json").read_text(encoding="utf-8")))


def summary_rows(cohort: CohortScores) -> list[dict[str, Any]]:
    """Return one row per structure for the summary table: summaries and counts of cases."""
    rows = []
    for structure in cohort.structures:
        aggregates = cohort.aggregates[structure.key]
        counts = aggregates.counts
        rows.append(
            {
                "structure": structure,
                "dice": aggregates.metrics["dice"],
                "assd": aggregates.metrics["assd_mm"],
                "counts": {
                    "averaged": aggregates.metrics["dice"].n,
                    "empty": counts[Status.EMPTY_PREDICTION],
                    "missing": counts[Status.MISSING],
                    "refused": counts[Status.REFUSED],
                    "not scored": sum(counts[status] for status in Status if status.unscored),
                },
            }
        )
    return rows


def counts_shown(cohorts: Sequence[CohortScores]) -> list[str]:
    """Return the counts of `summary_rows` to show: the cases averaged, and those that are not 0 for every team."""
    rows = [row["counts"] for cohort in cohorts for row in summary_rows(cohort)]
    return [name for name in rows[0] if name == "averaged" or any(row[name] for row in rows)]


def paper_rows(paper: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the paper's figures as rows like those of `summary_rows`. Source: the paper, Table 1."""
    return [
        {
            "structure": structure,
            "dice": Summary(n=paper["cases"], **paper["scores"][structure.key]["dice"]),
            "assd": Summary(n=paper["cases"], **paper["scores"][structure.key]["assd_mm"]),
        }
        for structure in STRUCTURES
    ]


def whose_cases(cohorts: Sequence[CohortScores], *, phantom: bool) -> str:
    """Say whether the cases scored are those of the paper's figures, the validation cases of 2021."""
    first, last = TARGET_VALIDATION_IDS
    papers = {case_name(number) for number in range(first, last + 1)}
    same = not phantom and all({result.case for result in cohort.results} == papers for cohort in cohorts)
    return "the same cases, by their names" if same else "other cases"


def notices_of(cohorts: Sequence[CohortScores], *, phantom: bool, unranked: str | None) -> list[dict[str, str]]:
    """Return what the reader must know before the numbers: a head and a text each."""
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


def about(cohorts: Sequence[CohortScores], *, phantom: bool, made: datetime) -> list[dict[str, str]]:
    """Return what was scored and how: a term and a text each."""
    several = len(cohorts) > 1
    entries = []
    for cohort in cohorts:
        metadata = cohort.metadata
        folders = (
            f"prediction {metadata.prediction} against reference {metadata.reference}"
            if metadata.reference is not None and metadata.prediction is not None
            else "read from a score file that does not name its folders"
        )
        left = f"; {counted(len(cohort.extra), 'file')} without a reference left out" if cohort.extra else ""
        strict = "; predictions on another grid refused" if metadata.strict_geometry else ""
        head = f"{cohort.team}: " if several else ""
        entries.append(
            {"term": "Scored", "text": f"{head}{counted(len(cohort.results), 'case')}, {folders}{left}{strict}"}
        )
    kinds = sorted({_assd_text(cohort) for cohort in cohorts})
    return [
        *entries,
        {"term": "Data", "text": PHANTOM_TEXT if phantom else "as given; not marked as phantoms"},
        {"term": "ASSD", "text": "; ".join(kinds)},
        {"term": "sd", "text": "sample standard deviation (n - 1); quartiles interpolated linearly"},
        {"term": "Made", "text": f"{made:%Y-%m-%d %H:%M} UTC with crossmoda-grl {version()}"},
    ]


def version() -> str:
    """Return the installed version of crossmoda-grl."""
    try:
        return importlib.metadata.version("crossmoda-grl")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def in_order(cohorts: Sequence[CohortScores], ranking: Ranking | None) -> list[CohortScores]:
    """Return the teams best first where they are ranked, else as given.

    Raises:
        ValueError: no cohort is given, one has no cases, or they are scored for different structures.
    """
    if not cohorts or any(not cohort.results for cohort in cohorts):
        raise ValueError("scores: expected at least one team with at least one case, got none; score a folder first")
    structures_of(cohorts)
    if ranking is None:
        return list(cohorts)
    return sorted(cohorts, key=lambda cohort: ranking.teams.index(cohort.team))
