"""The ranking as the report shows it: the table, how stable it is, and which differences are significant."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from evaluation.cohort import CohortScores
from evaluation.ranking import (
    CHALLENGE_SCHEME,
    CHALLENGE_SUBSET,
    CUMULATIVE_RANK,
    Ranking,
    rank_teams,
    table_of,
)

SIGNIFICANT = 0.05


def try_ranking(
    cohorts: Sequence[CohortScores], *, samples: int = 1000, seed: int = 0
) -> tuple[Ranking | None, str | None]:
    """Rank several teams, or say why they cannot be ranked. Incomplete scores can be reported, but not ranked.

    Returns:
        The ranking, or None; and the reason why several teams are not ranked, or None.
    """
    if len(cohorts) < 2:
        return None, None
    try:
        return rank_teams(table_of(cohorts), np.random.default_rng(seed), samples=samples), None
    except ValueError as error:
        return None, str(error)


def ranking_view(ranking: Ranking) -> dict[str, Any]:
    """Return a ranking as rows for the page and the Markdown, teams best first."""
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
    """Return tables of which team is significantly better than which, by cumulative rank and by each metric.

    The better of two teams is the one with the smaller mean rank, so that no single outlier decides.
    """
    mean_ranks = {CUMULATIVE_RANK: ranking.scores}
    metrics = [title for title in ranking.p_values if title != CUMULATIVE_RANK]
    for number, metric in enumerate(metrics):
        if not np.isnan(ranking.metric_ranks[..., number]).all():
            mean_ranks[metric] = np.nanmean(ranking.metric_ranks[..., number], axis=0)
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
    """Compare one team with another. `lead` is the difference of their mean ranks, above 0 where the team is better."""
    shown = "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.0995 else f"{p:.2f}"
    if p >= SIGNIFICANT or lead == 0:
        return {"kind": "equal", "sign": "○", "p": shown, "spoken": "no significant difference"}
    if lead > 0:
        return {"kind": "better", "sign": "▲", "p": shown, "spoken": "significantly better"}
    return {"kind": "worse", "sign": "▼", "p": shown, "spoken": "significantly worse"}
