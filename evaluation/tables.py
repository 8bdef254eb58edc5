"""Scores, rankings and runs as tables of text for a terminal."""

from collections.abc import Sequence
from itertools import pairwise

from challenge.names import shown
from challenge.quantities import counted
from evaluation.cohort import CohortScores, Summary
from evaluation.ranking import CHALLENGE_SCHEME, CHALLENGE_SUBSET, CUMULATIVE_RANK, Ranking
from evaluation.runner.record import RunRecord


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Align rows of text in columns, the first to the left and the others to the right; underline the first row.

    What cannot be printed appears as an escape, in every function here: names come from files.
    """
    rows = [[shown(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in rows)
    ]
    return "\n".join([lines[0].rstrip(), "-" * len(lines[0]), *(line.rstrip() for line in lines[1:])])


def score_table(cohort: CohortScores) -> str:
    """Show a team's aggregates: a row per structure and metric, and the number of cases of each status."""
    rows = [["structure, metric", "n", "mean ± sd", "median [Q1 - Q3]"]]
    labels = {"dice": "Dice", "assd_mm": "ASSD, mm", "hd95_mm": "HD95, mm", "volume_error_mm3": "volume error, mm3"}
    counts = []
    for structure in cohort.structures:
        aggregates = cohort.aggregates[structure.key]
        for metric, summary in aggregates.metrics.items():
            digits = {"dice": 3, "volume_error_mm3": 1}.get(metric, 2)
            rows.append([f"{structure.title} {labels[metric]}", str(summary.n), *_summary_cells(summary, digits)])
        statuses = ", ".join(f"{n} {status.replace('_', ' ')}" for status, n in aggregates.counts.items() if n)
        counts.append(f"{structure.title}: {statuses}")
    asd = f", ASSD of {cohort.metadata.asd}" if cohort.metadata.asd else ""
    return "\n".join(
        [f"{shown(cohort.team)}: {counted(len(cohort.results), 'case')}{asd}", text_table(rows), *counts, ""]
    )


def _summary_cells(summary: Summary, digits: int) -> list[str]:
    if summary.mean is None:
        return ["-", "-"]
    sd = "-" if summary.sd is None else f"{summary.sd:.{digits}f}"
    return [
        f"{summary.mean:.{digits}f} ± {sd}",
        f"{summary.median:.{digits}f} [{summary.q1:.{digits}f} - {summary.q3:.{digits}f}]",
    ]


def findings(cohort: CohortScores) -> list[str]:
    """Return a line for everything that was wrong with a team's files."""
    lines = [
        f"{cohort.team}, {result.case}: {message}"
        for result in cohort.results
        for message in filter(None, (result.problem, *result.warnings))
    ]
    for structure in cohort.structures:
        counts = cohort.aggregates[structure.key].counts
        reasons = [f"{n} {status.replace('_', ' ')}" for status, n in counts.items() if status.unscored and n]
        if reasons:
            lines.append(f"{cohort.team}: {structure.title} not scored in some cases: {', '.join(reasons)}")
    if cohort.extra:
        lines.append(f"{cohort.team}: not scored, without a reference: {', '.join(cohort.extra)}")
    return [shown(line) for line in lines]


def rank_tables(ranking: Ranking) -> str:
    """Show a ranking: final scores and other schemes, how stable it is, and which differences are significant."""
    schemes = [scheme for scheme in ranking.schemes if scheme != CHALLENGE_SCHEME]
    intervals = ranking.subsets[CHALLENGE_SUBSET].intervals
    rows = [["team", "rank", "score", "95 % of samples", *schemes]]
    for index, team in enumerate(ranking.teams):
        low, high = intervals[index]
        others = (str(ranking.schemes[scheme][index]) for scheme in schemes)
        rows.append([team, str(ranking.ranks[index]), f"{ranking.scores[index]:.3f}", f"{low} - {high}", *others])
    parts = [f"{counted(len(ranking.cases), 'case')}, {counted(len(ranking.teams), 'team')}", text_table(rows)]
    if len(ranking.teams) > 1:
        samples = len(ranking.subsets[CHALLENGE_SUBSET].taus)
        taus = [[f"Kendall's tau with the final ranking, {samples} samples", "mean", "smallest"]]
        for name, subset in ranking.subsets.items():
            defined = [tau for tau in subset.taus.tolist() if tau == tau]
            mean_and_least = (sum(defined) / len(defined), min(defined)) if defined else ()
            taus.append([name, *([f"{value:.3f}" for value in mean_and_least] or ["-", "-"])])
        pairs = [["neighbours, Wilcoxon signed-rank test of the cumulative ranks", "p (Holm)"]]
        p_values = ranking.p_values[CUMULATIVE_RANK]
        for index, (team, following) in enumerate(pairwise(ranking.teams)):
            pairs.append([f"{team} / {following}", f"{p_values[index, index + 1]:.2g}"])
        parts += ["", text_table(taus), "", text_table(pairs)]
    return "\n".join(parts)


def run_table(record: RunRecord) -> str:
    """Show a run: a row per case, what is wrong with its label map, and the time and memory of all containers."""
    rows = [["case", "seconds", "label map"]]
    for outcome in record.cases:
        verdict = (
            "breaks the contract" if outcome.problems else "as agreed, but see below" if outcome.warnings else "ok"
        )
        rows.append([outcome.case, "-" if outcome.seconds is None else f"{outcome.seconds:.1f}", verdict])
    findings = [line for outcome in record.cases for line in (*outcome.problems, *outcome.warnings)]
    if record.extra:
        more = record.extra_count - len(record.extra)
        others = f" and {more} more" if more else ""
        findings.append(f"not part of the contract, and not kept: {', '.join(record.extra)}{others}")
    peaks = [c.peak_memory_bytes for c in record.containers if c.peak_memory_bytes]
    peak = f", peak memory {max(peaks) / 2**30:.2f} GB" if peaks else ""
    summary = f"{counted(len(record.containers), 'container')}, {record.seconds:.1f} s{peak}"
    return "\n".join([text_table(rows), *map(shown, findings), summary, ""])
