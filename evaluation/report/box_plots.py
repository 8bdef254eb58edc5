"""The report's box plots, as geometry for inline SVG."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from challenge.contract import Structure
from evaluation.cohort import CohortScores
from evaluation.report.wording import DICE_DECIMALS, FIXED, STATUS_TEXT, decimal
from evaluation.scoring import CaseScores

_PLOT_WIDTH = 440
_PLOT_LEFT = 14
_PLOT_RIGHT = 14
_BAND = 54
_HALF_BOX = 13
# More cases than this in a row are drawn small and faint.
_CROWD = 80
# Below this the logarithmic axis of ASSD is nearly linear: differences below a voxel do not matter.
_ASSD_KNEE_MM = 0.3
_ASSD_TICKS_MM = (0.0, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 350.0, 1000.0, 3000.0)
_GOLDEN = (math.sqrt(5) - 1) / 2


def _axis(metric: str, values: Sequence[float]) -> tuple[list[float], Callable[[float], float]]:
    """Return an axis's ticks and the function that maps a value to [0, 1]."""
    if metric == "dice":
        return [0.0, 0.2, 0.4, 0.6, 0.8, 1.0], lambda value: value
    most = max([*values, 3.0])
    count = next((i for i, tick in enumerate(_ASSD_TICKS_MM) if tick >= most), len(_ASSD_TICKS_MM) - 1)
    ticks = list(_ASSD_TICKS_MM[: count + 1])
    whole = math.log1p(max(ticks[-1], most) / _ASSD_KNEE_MM)
    return ticks, lambda value: math.log1p(value / _ASSD_KNEE_MM) / whole


def box_plots(
    cohorts: Sequence[CohortScores], ordered: Sequence[tuple[CohortScores, CaseScores]]
) -> list[dict[str, Any]]:
    """Return the geometry of the box plots: one per metric and structure, a row per team, a point per case.

    Args:
        cohorts: the teams, from top to bottom.
        ordered: all cases in the order of the page's table. Each point holds the position of its row there.
    """
    return [
        _box_plot(cohorts, ordered, structure, metric, unit)
        for metric, unit in (("dice", ""), ("assd_mm", " mm"))
        for structure in cohorts[0].structures
    ]


def _box_plot(
    cohorts: Sequence[CohortScores],
    ordered: Sequence[tuple[CohortScores, CaseScores]],
    structure: Structure,
    metric: str,
    unit: str,
) -> dict[str, Any]:
    name = "Dice" if metric == "dice" else "ASSD"
    several = len(cohorts) > 1
    values = [v for _, case in ordered if (v := getattr(case.structures[structure.key], metric)) is not None]
    ticks, share = _axis(metric, values)

    def x(value: float) -> float:
        return round(_PLOT_LEFT + share(value) * (_PLOT_WIDTH - _PLOT_LEFT - _PLOT_RIGHT), 1)

    label_height = 18 if several else 0
    rows = []
    for number, cohort in enumerate(cohorts):
        top = 6 + number * (_BAND + label_height)
        y = top + label_height + _BAND / 2
        found = [
            (value, index, case.structures[structure.key].status, case.case)
            for index, (owner, case) in enumerate(ordered)
            if owner is cohort and (value := getattr(case.structures[structure.key], metric)) is not None
        ]
        found.sort()
        points = [
            {
                "x": x(value),
                # A golden-ratio sequence spreads neighbours evenly, and the same way on every run.
                "y": round(y + ((i * _GOLDEN) % 1 - 0.5) * 1.5 * _HALF_BOX, 1),
                "row": index,
                "fixed": status in FIXED,
                "text": f"{case}{' · ' + cohort.team if several else ''}: {structure.title} {name} "
                f"{decimal(value, DICE_DECIMALS if metric == 'dice' else 2)}{unit}"
                f"{' (' + STATUS_TEXT[status] + ')' if status in FIXED else ''}",
            }
            for i, (value, index, status, case) in enumerate(found)
        ]
        rows.append(
            {
                "label": _shortened(cohort.team, 52) if several else "",
                "label_y": top + 13,
                "y": y,
                "box": _box([value for value, *_ in found], x),
                "points": points,
            }
        )
    bottom = 6 + len(cohorts) * (_BAND + label_height)
    return {
        "title": f"{structure.title}: {name}{', mm' if unit else ''}",
        "width": _PLOT_WIDTH,
        "height": bottom + 26,
        "left": _PLOT_LEFT,
        "top": 4,
        "bottom": bottom,
        "half": _HALF_BOX,
        "ticks": [{"x": x(tick), "text": f"{tick:g}"} for tick in ticks],
        "rows": rows,
        "crowded": max(len(cohort.results) for cohort in cohorts) > _CROWD,
    }


def _box(values: Sequence[float], x: Callable[[float], float]) -> dict[str, float] | None:
    """Return a box's positions. Whiskers reach to the farthest values within 1.5 box lengths (Tukey)."""
    if not values:
        return None
    q1, median, q3 = (float(q) for q in np.percentile(values, [25, 50, 75]))
    reach = 1.5 * (q3 - q1)
    low = min(value for value in values if value >= q1 - reach)
    high = max(value for value in values if value <= q3 + reach)
    # Interpolated quartiles may lie beyond the last value within reach. A whisker must not point into the box.
    return {
        "low": x(min(low, q1)),
        "q1": x(q1),
        "median": x(median),
        "mean": x(math.fsum(values) / len(values)),
        "q3": x(q3),
        "high": x(max(high, q3)),
        "width": round(x(q3) - x(q1), 1),
    }


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
