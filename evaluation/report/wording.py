"""Numbers and statuses as the report writes them. Dice is from 0 to 1 with three decimals, everywhere."""

from collections.abc import Sequence

from challenge.contract import Structure
from evaluation.cohort import Summary
from evaluation.scoring import CaseScores, Status, StructureScores

NONE = "–"
DICE_DECIMALS = 3

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


def listed(names: Sequence[str]) -> str:
    """Write names as a list: `a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def dice_text(value: float) -> str:
    """Write a Dice."""
    return decimal(value, DICE_DECIMALS)


def mean_sd(summary: Summary, metric: str, dice_decimals: int = DICE_DECIMALS) -> str:
    """Write mean ± sd, ASSD with two decimals below 10 mm and one from there.

    `dice_decimals` is for published figures, which have no more than two.
    """
    if summary.mean is None:
        return NONE
    decimals = dice_decimals if metric == "dice" else 1 if summary.mean >= 9.95 else 2
    sd = NONE if summary.sd is None else f"{summary.sd:.{decimals}f}"
    return f"{summary.mean:.{decimals}f} ± {sd}"


def median_quartiles(summary: Summary, metric: str) -> str:
    """Write median [Q1 – Q3]."""
    if summary.median is None or summary.q1 is None or summary.q3 is None:
        return NONE
    text = dice_text if metric == "dice" else millimetres
    return f"{text(summary.median)} [{text(summary.q1)} – {text(summary.q3)}]"


def remarks_of(case: CaseScores, structures: Sequence[Structure]) -> str:
    """Say in one line what is wrong with a case; empty where nothing is."""
    titles: dict[Status, list[str]] = {}
    for structure in structures:
        titles.setdefault(case.structures[structure.key].status, []).append(structure.title)
    # `problem` says these in more detail.
    said_by_problem = (Status.MISSING, Status.REFUSED, Status.BAD_REFERENCE) if case.problem else ()
    parts = [
        f"{'' if len(names) == len(structures) else listed(names) + ': '}{STATUS_TEXT[status]}"
        for status, names in titles.items()
        if status in STATUS_TEXT and status not in said_by_problem
    ]
    return "; ".join([*parts, *filter(None, [case.problem]), *case.warnings])


def score_text(scores: StructureScores) -> str:
    """Write one structure's Dice and ASSD, with its status unless it was simply scored."""
    remark = f" ({STATUS_TEXT[scores.status]})" if scores.status in STATUS_TEXT else ""
    if scores.dice is None or scores.assd_mm is None:
        return f"not scored{remark}"
    return f"Dice {dice_text(scores.dice)}, ASSD {millimetres(scores.assd_mm)} mm{remark}"
