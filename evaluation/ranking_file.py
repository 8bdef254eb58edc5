"""A ranking as JSON."""

import json

import numpy as np
from numpy.typing import NDArray

from evaluation.ranking import Ranking, Values

_JSON_FORMAT = "crossmoda-grl ranking"
_JSON_VERSION = 1


def ranking_to_json(ranking: Ranking) -> str:
    """Return a ranking as JSON: teams best first, ranks and scores by team, NaN as null."""
    teams = ranking.teams

    def by_team(values: NDArray[np.generic]) -> dict[str, object]:
        return dict(zip(teams, values.tolist(), strict=True))

    document = {
        "format": _JSON_FORMAT,
        "version": _JSON_VERSION,
        "teams": list(teams),
        "cases": list(ranking.cases),
        "scores": by_team(ranking.scores),
        "ranks": by_team(ranking.ranks),
        "schemes": {scheme: by_team(ranks) for scheme, ranks in ranking.schemes.items()},
        "cumulative_ranks": {
            case: by_team(ranks) for case, ranks in zip(ranking.cases, ranking.case_ranks, strict=True)
        },
        "bootstrap": {
            name: {
                "samples": len(subset.taus),
                "scores": by_team(subset.scores),
                "ranks": by_team(subset.ranks),
                "kendall_tau": _tau_summary(subset.taus),
                "rank_interval_95": by_team(subset.intervals),
                "rank_frequencies": by_team(subset.frequencies),
            }
            for name, subset in ranking.subsets.items()
        },
        "p_values_holm": {
            name: {team: by_team(row) for team, row in zip(teams, values, strict=True)}
            for name, values in ranking.p_values.items()
        },
        "notes": list(ranking.notes),
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _tau_summary(taus: Values) -> dict[str, float | None]:
    defined = taus[~np.isnan(taus)]
    if not defined.size:
        return {"mean": None, "median": None, "q1": None, "q3": None, "smallest": None}
    q1, median, q3 = np.percentile(defined, [25, 50, 75]).tolist()
    return {"mean": float(defined.mean()), "median": median, "q1": q1, "q3": q3, "smallest": float(defined.min())}
