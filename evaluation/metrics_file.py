"""`metrics.json`, as an evaluation container of grand-challenge must write it.

`results` has an object for each case, `aggregates` the figures of which the platform's leaderboard takes one by its
path, as in `aggregates.vs.dice.mean`. Figures that are not defined are left out: the platform takes numbers alone::

    {"results": [{"case": "a", "vs": {"status": "scored", "dice": 0.9, "assd_mm": 0.4, ...}, "cochlea": {...}}],
     "aggregates": {"vs": {"dice": {"n": 1, "mean": 0.9, "median": 0.9, "q1": 0.9, "q3": 0.9}, ...}, "cochlea": {...}}}
"""

import json
from dataclasses import asdict

from evaluation.cohort import CohortScores


def metrics_json(cohort: CohortScores) -> str:
    """Return a team's scores as the text of `metrics.json`."""
    results = [
        {"case": result.case} | {key: _defined(asdict(scores)) for key, scores in result.structures.items()}
        for result in cohort.results
    ]
    aggregates = {
        key: {metric: _defined(asdict(summary)) for metric, summary in of_structure.metrics.items()}
        for key, of_structure in cohort.aggregates.items()
    }
    return json.dumps({"results": results, "aggregates": aggregates}, indent=2, allow_nan=False) + "\n"


def _defined(values: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}
