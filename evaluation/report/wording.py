"""Numbers and statuses as the report writes them."""

from challenge.contract import STRUCTURES
from evaluation.cohort import Summary
from evaluation.scoring import CaseScores, Status, StructureScores

NONE = "–"

# These statuses get a fixed score, because nothing could be measured.
FIXED = (Status.EMPTY_PREDICTION, Status.MISSING, Status.REFUSED)
STATUS_TEXT = {
    Status.EMPTY_PREDICTION: "predicted empty",
    Status.MISSING: "no file",
    Status.REFUSED: "file refused",
    Status.EMPTY_REFERENCE: "not in the reference",
    Status.BOTH_EMPTY: "in neither label map",
    Status.BAD_REFERENCE: "reference unusable",
}


def millimetres(value: float) -> str:
    """Write a distance with two decimals below 10 mm and one from there."""
    return f"{value:.{2 if abs(value) < 9.995 else 1}f}"


def decimal(value: float | None, decimals: int) -> str:
    """Write a number with fixed decimals, or a dash where there is none."""
    # The sum turns -0.0 into 0.0.
    return NONE if value is None else f"{round(value, decimals) + 0.0:.{decimals}f}"


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


def remarks_of(case: CaseScores) -> str:
    """Say in one line what is wrong with a case; empty where nothing is."""
    titles: dict[Status, list[str]] = {}
    for structure in STRUCTURES:
        titles.setdefault(case.structures[structure.key].status, []).append(structure.title)
    # `problem` says these in more detail.
    said_by_problem = (Status.MISSING, Status.REFUSED, Status.BAD_REFERENCE) if case.problem else ()
    parts = [
        f"{'' if len(names) == len(STRUCTURES) else ' and '.join(names) + ': '}{STATUS_TEXT[status]}"
        for status, names in titles.items()
        if status in STATUS_TEXT and status not in said_by_problem
    ]
    return "; ".join([*parts, *filter(None, [case.problem]), *case.warnings])


def score_text(scores: StructureScores) -> str:
    """Write one structure's Dice and ASSD, with its status unless it was simply scored."""
    remark = f" ({STATUS_TEXT[scores.status]})" if scores.status in STATUS_TEXT else ""
    if scores.dice is None or scores.assd_mm is None:
        return f"not scored{remark}"
    return f"Dice {scores.dice:.2f}, ASSD {millimetres(scores.assd_mm)} mm{remark}"
