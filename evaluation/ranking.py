"""The challenge's ranking, how stable it is, and which differences between teams are significant.

For each case and metric a team's rank is 1 + the number of teams that are strictly better, so ties share the smaller
rank. The mean over the metrics is the case's cumulative rank; the mean over the cases is the team's score. Teams are
ranked by score, smallest first.

Source: CrossMoDA2022-Evaluation-code, ranking.py; Dorent et al., CrossMoDA 2021 challenge, Medical Image Analysis 2023.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from challenge.contract import STRUCTURES, Structure, sorted_cases
from evaluation.cohort import CohortScores

Values = NDArray[np.float64]
RankArray = NDArray[np.int64]


@dataclass(frozen=True)
class RankedMetric:
    """One of the ranked metrics: its column in a score file, and its field of `StructureScores`."""

    column: str
    kind: str
    structure: str
    field: str
    higher_is_better: bool


def ranked_metrics(structures: Sequence[Structure]) -> tuple[RankedMetric, ...]:
    """Return the metrics that are ranked: Dice and ASSD of each structure."""
    return tuple(
        RankedMetric(f"{structure.title}_{kind}", kind, structure.key, field, higher)
        for structure in structures
        for kind, field, higher in (("Dice", "dice", True), ("ASSD", "assd_mm", False))
    )


# The four of 2021 and 2022.
RANKED_METRICS = ranked_metrics(STRUCTURES)
# The kinds of metrics that a ranking may use: the challenge's, and each half of it. Source: ranking.py, step 7.
SUBSETS: Mapping[str, tuple[str, ...]] = {
    "Dice and ASSD": ("Dice", "ASSD"),
    "Dice": ("Dice",),
    "ASSD": ("ASSD",),
}
CHALLENGE_SUBSET = "Dice and ASSD"
CHALLENGE_SCHEME = "rank-then-mean"

# Pairs of teams are compared by this and by each metric's column.
CUMULATIVE_RANK = "cumulative rank"

_CASES_SHOWN = 10
# float64 counts up to 2^50 choices of signs exactly.
_EXACT_UP_TO = 50


@dataclass(frozen=True)
class ScoreTable:
    """Scores of several teams on the same cases: `values` float64 (cases, teams, `metrics`).

    NaN where the reference gives nothing to compare with: then for all teams, but never for all metrics of a case.
    """

    teams: tuple[str, ...]
    cases: tuple[str, ...]
    values: Values
    notes: tuple[str, ...] = ()
    metrics: tuple[RankedMetric, ...] = RANKED_METRICS


@dataclass(frozen=True)
class SubsetRanking:
    """A ranking by some of the metrics, and its bootstrap. Teams are in the order of `Ranking.teams`.

    Attributes:
        scores: float64 (teams), mean cumulative rank.
        ranks: int64 (teams); ties share the smaller rank.
        sample_ranks: int64 (samples, teams).
        taus: float64 (samples), Kendall's tau-b of each sample's ranking against `ranks`; NaN where all teams tie.
    """

    scores: Values
    ranks: RankArray
    sample_ranks: RankArray
    taus: Values

    @property
    def frequencies(self) -> Values:
        """Share of the samples in which a team (row) has a rank (column, rank 1 first): float64 (teams, teams)."""
        possible = np.arange(1, len(self.ranks) + 1)
        return (self.sample_ranks[:, :, None] == possible).mean(axis=0)

    @property
    def intervals(self) -> RankArray:
        """Smallest and largest rank of each team over the middle 95 % of the samples: int64 (teams, 2)."""
        return np.percentile(self.sample_ranks, [2.5, 97.5], axis=0, method="inverted_cdf").T.astype(np.int64)


@dataclass(frozen=True)
class Ranking:
    """The challenge's ranking, with its alternatives, bootstrap and tests.

    Attributes:
        teams: best first; teams of equal score by name.
        cases: in the order of `contract.sorted_cases`.
        metric_ranks: float64 (cases, teams, metrics), NaN where not scored.
        case_ranks: float64 (cases, teams), each case's cumulative rank.
        scores: float64 (teams), the final score.
        ranks: int64 (teams), the final rank.
        schemes: int64 (teams) by scheme, the challenge's `rank-then-mean` first.
        subsets: by the names of `SUBSETS`, the challenge's first.
        p_values: float64 (teams, teams) by `CUMULATIVE_RANK` and metric column; symmetric, 1 on the diagonal.
        notes: what was left out, in words.
    """

    teams: tuple[str, ...]
    cases: tuple[str, ...]
    metric_ranks: Values
    case_ranks: Values
    scores: Values
    ranks: RankArray
    schemes: Mapping[str, RankArray]
    subsets: Mapping[str, SubsetRanking]
    p_values: Mapping[str, Values]
    notes: tuple[str, ...] = ()


def table_of(cohorts: Sequence[CohortScores]) -> ScoreTable:
    """Arrange cohorts as a table. A team's cases may come in several cohorts.

    A structure for which no team has a score in a case is NaN there. A case without any score is left out, with a note.

    Raises:
        ValueError: there are no scores, a team has a case twice, a team lacks cases that others have, or a structure is
            scored for some teams only. The message lists what is missing.
    """
    kinds = {cohort.structures for cohort in cohorts}
    if len(kinds) > 1:
        raise ValueError("scores: expected the same structures in all files, got others; rank one year at a time")
    metrics = ranked_metrics(*kinds) if kinds else RANKED_METRICS
    scores: dict[str, dict[str, list[float]]] = {}
    for cohort in cohorts:
        cases = scores.setdefault(cohort.team, {})
        for result in cohort.results:
            if result.case in cases:
                raise ValueError(
                    f"scores: expected each case once per team, got {result.case} of {cohort.team} again; "
                    "give each score file once"
                )
            found = (getattr(result.structures[metric.structure], metric.field) for metric in metrics)
            cases[result.case] = [np.nan if value is None else value for value in found]
    teams, cases_of_all = sorted(scores), sorted_cases({case for cases in scores.values() for case in cases})
    if not teams or not cases_of_all:
        raise ValueError("scores: expected at least one team with one case, got none; score a cohort first")
    _refuse_ragged({team: [case for case in cases_of_all if case not in scores[team]] for team in teams})
    values = np.array([[scores[team][case] for team in teams] for case in cases_of_all], dtype=np.float64)
    _refuse_partly_scored(values, cases_of_all, teams, metrics)
    empty = np.asarray(np.isnan(values).all(axis=(1, 2)))
    if empty.all():
        raise ValueError("scores: expected a case with a score, got none; check the references")
    notes = []
    if empty.any():
        left_out = [case for case, out in zip(cases_of_all, empty, strict=True) if out]
        notes.append(f"left out, because no structure is scored there: {', '.join(left_out)}")
    kept = tuple(case for case, out in zip(cases_of_all, empty, strict=True) if not out)
    return ScoreTable(teams=tuple(teams), cases=kept, values=values[~empty], notes=tuple(notes), metrics=metrics)


def _refuse_ragged(absent: Mapping[str, Sequence[str]]) -> None:
    lines = [f"{team} lacks {_shown(cases)}" for team, cases in absent.items() if cases]
    if lines:
        raise ValueError(
            f"scores: expected the same cases of every team; {'; '.join(lines)}; score them or leave them out for all"
        )


def _refuse_partly_scored(
    values: Values, cases: Sequence[str], teams: Sequence[str], metrics: Sequence[RankedMetric]
) -> None:
    unscored = np.isnan(values)
    partly = unscored.any(axis=1) & ~unscored.all(axis=1)
    lines = [
        f"{cases[case]} {metrics[metric].column} is missing for "
        f"{', '.join(team for team, out in zip(teams, unscored[case, :, metric], strict=True) if out)}"
        for case, metric in np.argwhere(partly)
    ]
    if lines:
        raise ValueError(
            f"scores: expected a structure to be scored for every team or for none; {_shown(lines, '; ')}; "
            "score all teams against the same references"
        )


def _shown(items: Sequence[str], separator: str = ", ") -> str:
    more = f" and {len(items) - _CASES_SHOWN} more" if len(items) > _CASES_SHOWN else ""
    return separator.join(items[:_CASES_SHOWN]) + more


def rank_teams(table: ScoreTable, rng: np.random.Generator, samples: int = 1000) -> Ranking:
    """Rank teams by the challenge's rules, with alternatives, bootstrap and pairwise tests.

    Args:
        table: at least one team and one case.
        rng: draws the bootstrap samples, the same for every subset of the metrics.
        samples: number of bootstrap samples. Each draws as many cases as there are, with replacement.

    Raises:
        ValueError: `samples` is less than 1.

    Source: CrossMoDA2022-Evaluation-code, ranking.py. There, Kendall's tau ranks teams of
    equal final score in the order in which they are listed; here they tie.
    """
    if samples < 1:
        raise ValueError(f"samples: expected at least 1, got {samples}; give the number of bootstrap samples")
    better = np.array([1.0 if metric.higher_is_better else -1.0 for metric in table.metrics])
    metric_ranks = np.where(np.isnan(table.values), np.nan, smaller_ranks(-table.values * better, axis=1))
    final = np.nanmean(metric_ranks, axis=2).mean(axis=0)
    order = sorted(range(len(table.teams)), key=lambda team: (final[team], table.teams[team]))
    values, metric_ranks = table.values[:, order], metric_ranks[:, order]

    case_ranks = {
        name: np.nanmean(metric_ranks[..., [metric.kind in kinds for metric in table.metrics]], axis=2)
        for name, kinds in SUBSETS.items()
    }
    weights = _sample_weights(len(table.cases), samples, rng)
    subsets = {name: _bootstrap(ranks, weights) for name, ranks in case_ranks.items()}
    compared = {CUMULATIVE_RANK: case_ranks[CHALLENGE_SUBSET]} | {
        metric.column: values[..., index] for index, metric in enumerate(table.metrics)
    }
    return Ranking(
        teams=tuple(table.teams[team] for team in order),
        cases=table.cases,
        metric_ranks=metric_ranks,
        case_ranks=case_ranks[CHALLENGE_SUBSET],
        scores=subsets[CHALLENGE_SUBSET].scores,
        ranks=subsets[CHALLENGE_SUBSET].ranks,
        schemes=_rank_by_schemes(values * better, metric_ranks, subsets[CHALLENGE_SUBSET].ranks),
        subsets=subsets,
        p_values={name: pairwise_p_values(by_case) for name, by_case in compared.items()},
        notes=table.notes,
    )


def smaller_ranks(values: Values, axis: int) -> RankArray:
    """Rank values along an axis, smallest first: 1 + the number of strictly smaller ones. NaN is ranked 1.

    Source: ranking.py, step 1 ("using minimum rank").
    """
    moved = np.moveaxis(values, axis, -1)
    ranks = 1 + (moved[..., None, :] < moved[..., :, None]).sum(axis=-1)
    return np.moveaxis(ranks, -1, axis).astype(np.int64)


def _rank_by_schemes(goodness: Values, metric_ranks: Values, final: RankArray) -> dict[str, RankArray]:
    """Rank by the challenge's scheme and its alternatives. `goodness` is (cases, teams, metrics), larger is better.

    Source: ranking.py, step 6.
    """
    scored = ~np.isnan(goodness).all(axis=(0, 1))
    goodness, teams = goodness[..., scored], goodness.shape[1]
    all_ranks = np.moveaxis(metric_ranks, 1, 0).reshape(teams, -1)
    of_means = smaller_ranks(-np.nanmean(goodness, axis=0), axis=0)
    of_medians = smaller_ranks(-np.nanmedian(goodness, axis=0), axis=0)
    return {
        CHALLENGE_SCHEME: final,
        "rank-then-median": smaller_ranks(np.nanmedian(all_ranks, axis=1), axis=0),
        "mean-then-rank": smaller_ranks(of_means.mean(axis=1), axis=0),
        "median-then-rank": smaller_ranks(np.median(of_medians, axis=1), axis=0),
    }


def _sample_weights(cases: int, samples: int, rng: np.random.Generator) -> Values:
    """Draw bootstrap samples: how often each holds each case, float64 (samples, cases)."""
    drawn = rng.integers(cases, size=(samples, cases)) + cases * np.arange(samples)[:, None]
    return np.bincount(drawn.ravel(), minlength=samples * cases).reshape(samples, cases).astype(np.float64)


def _bootstrap(case_ranks: Values, weights: Values) -> SubsetRanking:
    """Rank the cohort and every bootstrap sample from the ranks per case. Source: ranking.py, step 7."""
    # RankArray per case are multiples of 1/4 (in 2023 of 1/8), so sums are exact and ties are ties.
    scores = case_ranks.sum(axis=0) / len(case_ranks)
    ranks = smaller_ranks(scores, axis=0)
    sample_ranks = smaller_ranks(weights @ case_ranks, axis=1)
    return SubsetRanking(scores=scores, ranks=ranks, sample_ranks=sample_ranks, taus=kendall_taus(ranks, sample_ranks))


def kendall_taus(ranks: RankArray, sample_ranks: RankArray) -> Values:
    """Return Kendall's tau-b of each row of `sample_ranks` (samples, teams) against `ranks` (teams).

    NaN where all teams tie in one of the two rankings, as a single team does.
    """
    above, right = np.triu_indices(len(ranks), k=1)
    signs = np.sign(ranks[above] - ranks[right])
    sample_signs = np.sign(sample_ranks[:, above] - sample_ranks[:, right])
    untied = np.sqrt(np.count_nonzero(signs) * np.count_nonzero(sample_signs, axis=1).astype(np.float64))
    agreement = (signs * sample_signs).sum(axis=1)
    return np.divide(agreement, untied, out=np.full(len(sample_ranks), np.nan), where=untied > 0)


def pairwise_p_values(by_case: Values) -> Values:
    """Compare all pairs of teams over the cases: Wilcoxon's two-sided signed-rank test, Holm-corrected for the pairs.

    Args:
        by_case: float64 (cases, teams), one value per case and team. Cases with NaN are left out.

    Returns:
        Corrected p-values, float64 (teams, teams), symmetric, 1 on the diagonal and for teams that never differ.
    """
    by_case = by_case[~np.isnan(by_case).any(axis=1)]
    teams = by_case.shape[1]
    first, second = np.triu_indices(teams, k=1)
    raw = np.ones(len(first))
    for pair, (one, other) in enumerate(zip(first, second, strict=True)):
        raw[pair] = signed_rank_p_value(by_case[:, one] - by_case[:, other])
    corrected = np.ones((teams, teams))
    corrected[first, second] = corrected[second, first] = holm(raw)
    return corrected


def signed_rank_p_value(differences: Values) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test. Zeros are dropped; without other values it is 1.

    Up to 50 differences it is exact, also with ties. (SciPy is exact only without ties, or by trying all signs, which
    takes a second for 13 cases.) Beyond that it is the normal approximation.

    Args:
        differences: float64 (N,).

    Source: Wilcoxon, Biometrics Bulletin 1, 1945.
    """
    differences = differences[differences != 0]
    if not differences.size:
        return 1.0
    if differences.size > _EXACT_UP_TO:
        return float(stats.wilcoxon(differences).pvalue)
    # Mean ranks are multiples of 1/2. Doubled, they are whole, so the sums of all choices of signs can be counted.
    doubled = np.rint(2 * stats.rankdata(np.abs(differences))).astype(np.int64)
    total = int(doubled.sum())
    ways = np.zeros(total + 1)
    ways[0] = 1
    for rank in doubled.tolist():
        ways[rank:] = ways[rank:] + ways[: total + 1 - rank]
    positive = int(doubled[differences > 0].sum())
    smaller = min(positive, total - positive)
    return min(1.0, 2 * float(ways[: smaller + 1].sum()) / 2.0**differences.size)


def holm(p_values: Values) -> Values:
    """Correct p-values (N,) by Holm's step-down procedure. Source: Holm, Scand. J. Statist. 6, 1979."""
    order = np.argsort(p_values, kind="stable")
    steps = p_values[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(p_values) else steps
    return corrected
