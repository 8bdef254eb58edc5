"""Ranking against a table worked by hand, a plain slow reference, and SciPy."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

from crossmoda_grl.__main__ import main
from evaluation.ranking import (
    RANKED_METRICS,
    SUBSETS,
    ScoreTable,
    holm,
    kendall_taus,
    pairwise_p_values,
    rank_teams,
    signed_rank_p_value,
    table_of,
)
from evaluation.ranking_file import ranking_to_json
from evaluation.score_files import read_csv

HEADER = "Case,VS_Dice,VS_ASSD,Cochlea_Dice,Cochlea_ASSD,Team"

# Three teams, two cases. Ranks per metric (VS Dice, VS ASSD, cochlea Dice, cochlea ASSD):
#   case 1: a 1 1 1 2, b 1 2 3 3, c 3 3 1 1    (a and b tie in VS Dice, a and c in cochlea Dice)
#   case 2: a 2 2 1 1, b 1 1 1 1, c 3 3 1 3    (all tie in cochlea Dice, a and b in cochlea ASSD)
# Cumulative: case 1: a 1.25, b 2.25, c 2.0; case 2: a 1.5, b 1.0, c 2.5.
# Score: a 1.375, b 1.625, c 2.25.
BY_HAND = f"""{HEADER}
crossmoda_211,0.8,0.5,0.7,0.3,a
crossmoda_212,0.6,1.5,0.5,0.4,a
crossmoda_211,0.8,0.6,0.6,0.4,b
crossmoda_212,0.9,0.2,0.5,0.4,b
crossmoda_211,0.0,350,0.7,0.2,c
crossmoda_212,0.5,2.0,0.5,0.5,c
"""


def written(folder: Path, text: str, name: str = "scores.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def random_table(rng: np.random.Generator, teams: int, cases: int) -> ScoreTable:
    """Coarsely rounded scores, so that ties are many."""
    values = np.round(rng.random((cases, teams, len(RANKED_METRICS))), 1)
    names = [f"team {chr(97 + index)}" for index in range(teams)]
    return ScoreTable(tuple(names), tuple(f"case_{index}" for index in range(cases)), values)


def slow_ranks(values: dict[str, float], higher_is_better: bool) -> dict[str, int]:
    return {
        team: 1 + sum(other > value if higher_is_better else other < value for other in values.values())
        for team, value in values.items()
    }


def slow_ranking(table: ScoreTable, drawn: list[int] | None = None, kinds: tuple[str, ...] = ("Dice", "ASSD")) -> dict:
    """The rules of the challenge in plain loops: team -> (score, rank)."""
    per_case: dict[str, list[float]] = {team: [] for team in table.teams}
    for case in range(len(table.cases)) if drawn is None else drawn:
        ranks: dict[str, list[int]] = {team: [] for team in table.teams}
        for metric, which in enumerate(RANKED_METRICS):
            if which.kind not in kinds or np.isnan(table.values[case, 0, metric]):
                continue
            found = {team: table.values[case, index, metric] for index, team in enumerate(table.teams)}
            for team, rank in slow_ranks(found, which.higher_is_better).items():
                ranks[team].append(rank)
        for team in table.teams:
            per_case[team].append(sum(ranks[team]) / len(ranks[team]))
    scores = {team: sum(ranks) / len(ranks) for team, ranks in per_case.items()}
    final = slow_ranks(scores, higher_is_better=False)
    return {team: (scores[team], final[team]) for team in table.teams}


class TestByHand:
    @pytest.fixture
    def ranking(self, tmp_path: Path):
        return rank_teams(table_of(read_csv(written(tmp_path, BY_HAND))), np.random.default_rng(0), samples=50)

    def test_ranks_per_metric_share_the_smaller(self, ranking) -> None:
        assert ranking.metric_ranks[0].tolist() == [[1, 1, 1, 2], [1, 2, 3, 3], [3, 3, 1, 1]]
        assert ranking.metric_ranks[1].tolist() == [[2, 2, 1, 1], [1, 1, 1, 1], [3, 3, 1, 3]]

    def test_cumulative_ranks_and_score(self, ranking) -> None:
        assert ranking.teams == ("a", "b", "c")
        assert ranking.cases == ("crossmoda_211", "crossmoda_212")
        assert ranking.case_ranks.tolist() == [[1.25, 2.25, 2.0], [1.5, 1.0, 2.5]]
        assert ranking.scores.tolist() == [1.375, 1.625, 2.25]
        assert ranking.ranks.tolist() == [1, 2, 3]

    def test_subsets(self, ranking) -> None:
        # Dice: a (1 + 1.5) / 2, b (2 + 1) / 2, c (2 + 2) / 2. ASSD: a (1.5 + 1.5) / 2, b (2.5 + 1) / 2, c (2 + 3) / 2.
        assert ranking.subsets["Dice"].scores.tolist() == [1.25, 1.5, 2.0]
        assert ranking.subsets["ASSD"].scores.tolist() == [1.5, 1.75, 2.5]

    def test_other_schemes(self, ranking) -> None:
        # All ranks: a 1 1 1 2 2 2 1 1, b 1 2 3 3 1 1 1 1, c 3 3 1 1 3 3 1 3: medians 1, 1, 3.
        assert ranking.schemes["rank-then-median"].tolist() == [1, 1, 3]
        # Means: VS Dice .7 .85 .25, VS ASSD 1.0 .4 176, cochlea Dice .6 .55 .6, cochlea ASSD .35 .4 .35.
        # Ranks: a 2 2 1 1, b 1 1 3 3, c 3 3 1 1 -> 1.5, 2, 2.
        assert ranking.schemes["mean-then-rank"].tolist() == [1, 2, 2]
        # Medians of two values are their means: the same ranks, medians 1.5, 2, 2.
        assert ranking.schemes["median-then-rank"].tolist() == [1, 2, 2]

    def test_samples_are_one_of_three(self, ranking) -> None:
        # Two cases drawn twice: 211 twice (a 1.25, c 2, b 2.25), 212 twice (b 1, a 1.5, c 2.5), or both.
        seen = {tuple(ranks) for ranks in ranking.subsets["Dice and ASSD"].sample_ranks.tolist()}
        assert seen == {(1, 3, 2), (2, 1, 3), (1, 2, 3)}
        # Kendall's tau of three teams with one swap of neighbours is 1/3.
        assert sorted({round(tau, 12) for tau in ranking.subsets["Dice and ASSD"].taus.tolist()}) == [
            pytest.approx(1 / 3),
            1.0,
        ]

    def test_frequencies_sum_to_one(self, ranking) -> None:
        frequencies = ranking.subsets["Dice and ASSD"].frequencies
        assert frequencies.shape == (3, 3)
        np.testing.assert_allclose(frequencies.sum(axis=1), 1)
        assert frequencies[0, 2] == 0  # a is never last
        assert frequencies[2, 0] == 0  # c is never first


@pytest.mark.parametrize("seed", range(8))
class TestAgainstASlowReference:
    def test_scores_and_ranks(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        table = random_table(rng, teams=int(rng.integers(1, 7)), cases=int(rng.integers(1, 12)))
        ranking = rank_teams(table, rng, samples=2)
        for name, kinds in SUBSETS.items():
            expected = slow_ranking(table, kinds=kinds)
            subset = ranking.subsets[name]
            assert subset.ranks.tolist() == [expected[team][1] for team in ranking.teams]
            np.testing.assert_allclose(subset.scores, [expected[team][0] for team in ranking.teams], atol=1e-12)

    def test_bootstrap(self, seed: int) -> None:
        table = random_table(np.random.default_rng(100 + seed), teams=5, cases=9)
        ranking = rank_teams(table, np.random.default_rng(seed), samples=20)
        drawn = np.random.default_rng(seed).integers(9, size=(20, 9))
        final = ranking.subsets["ASSD"].ranks
        for sample, cases in enumerate(drawn.tolist()):
            expected = slow_ranking(table, cases, SUBSETS["ASSD"])
            found = ranking.subsets["ASSD"].sample_ranks[sample]
            assert found.tolist() == [expected[team][1] for team in ranking.teams]
            np.testing.assert_allclose(
                ranking.subsets["ASSD"].taus[sample], stats.kendalltau(final, found).statistic, atol=1e-12
            )

    def test_unscored_structure_is_left_out_of_its_case(self, seed: int) -> None:
        table = random_table(np.random.default_rng(200 + seed), teams=4, cases=6)
        values = table.values.copy()
        values[2, :, :2] = np.nan
        table = ScoreTable(table.teams, table.cases, values)
        ranking = rank_teams(table, np.random.default_rng(seed), samples=5)
        expected = slow_ranking(table)
        np.testing.assert_allclose(ranking.scores, [expected[team][0] for team in ranking.teams], atol=1e-12)


class TestStatistics:
    def test_kendall_of_equal_ranks_is_undefined(self) -> None:
        assert np.isnan(kendall_taus(np.array([1, 1, 1]), np.array([[1, 2, 3]]))).all()
        assert np.isnan(kendall_taus(np.array([1]), np.array([[1]]))).all()

    def test_kendall_of_the_reverse_is_minus_one(self) -> None:
        assert kendall_taus(np.array([1, 2, 3]), np.array([[3, 2, 1], [1, 2, 3]])).tolist() == [-1.0, 1.0]

    def test_holm(self) -> None:
        # Sorted .01 .02 .03 .9 times 4 3 2 1: .04 .06 .06 .9, never falling.
        assert holm(np.array([0.02, 0.9, 0.01, 0.03])) == pytest.approx([0.06, 0.9, 0.04, 0.06])
        assert holm(np.array([0.6, 0.7])) == pytest.approx([1.0, 1.0])
        assert holm(np.array([])).size == 0

    def test_pairwise(self) -> None:
        # Six cases, always better by a different amount: the smallest two-sided p of six pairs is 2 / 2^6.
        one = np.arange(6.0)
        by_case = np.stack([one, one + np.arange(1, 7), one], axis=1)
        p_values = pairwise_p_values(by_case)
        assert p_values[0, 1] == pytest.approx(3 * 2 / 64)
        assert p_values[1, 2] == pytest.approx(3 * 2 / 64)
        assert p_values[0, 2] == 1.0  # never differ
        np.testing.assert_array_equal(p_values, p_values.T)
        assert np.diag(p_values).tolist() == [1, 1, 1]

    def test_pairwise_against_scipy(self) -> None:
        by_case = np.random.default_rng(3).random((40, 2))
        assert pairwise_p_values(by_case)[0, 1] == pytest.approx(stats.wilcoxon(by_case[:, 0], by_case[:, 1]).pvalue)

    def test_same_seed_same_samples(self) -> None:
        table = random_table(np.random.default_rng(1), teams=5, cases=20)
        one, again, other = (rank_teams(table, np.random.default_rng(seed), samples=50) for seed in (7, 7, 8))
        taus = [ranking.subsets["Dice"].taus for ranking in (one, again, other)]
        np.testing.assert_array_equal(taus[0], taus[1])
        assert (taus[0] != taus[2]).any()

    def test_challenge_size(self) -> None:
        table = random_table(np.random.default_rng(0), teams=12, cases=271)
        ranking = rank_teams(table, np.random.default_rng(0))
        assert ranking.subsets["Dice"].sample_ranks.shape == (1000, 12)
        np.testing.assert_allclose(ranking.subsets["Dice"].frequencies.sum(axis=1), 1)

    @pytest.mark.parametrize("cases", [3, 11, 30, 50, 51, 200])
    def test_signed_rank_without_ties_as_scipy(self, cases: int) -> None:
        differences = np.random.default_rng(cases).normal(0.2, 1, cases)
        assert signed_rank_p_value(differences) == pytest.approx(stats.wilcoxon(differences).pvalue, abs=1e-12)

    def test_signed_rank_with_ties_by_all_signs(self) -> None:
        differences = np.array([1.0, -1.0, 2.0, 2.0, 2.0, -3.0, 0.0, 4.0])
        ranks = np.array([1.5, 1.5, 4, 4, 4, 6, 7])  # of 1 1 2 2 2 3 4, the zero dropped
        sums = [float(ranks[np.array(signs)].sum()) for signs in product([False, True], repeat=7)]
        # Negative ranks: 1.5 + 6.
        expected = 2 * sum(total <= 7.5 for total in sums) / 2**7
        assert signed_rank_p_value(differences) == pytest.approx(expected, abs=1e-12)

    def test_signed_rank_of_no_difference(self) -> None:
        assert signed_rank_p_value(np.zeros(5)) == 1.0
        assert signed_rank_p_value(np.array([1.0, -1.0])) == 1.0

    def test_no_samples(self) -> None:
        with pytest.raises(ValueError, match="samples: expected at least 1, got 0"):
            rank_teams(random_table(np.random.default_rng(0), 2, 2), np.random.default_rng(0), samples=0)


class TestTable:
    def test_a_teams_cases_may_come_in_several_files(self, tmp_path: Path) -> None:
        lines = BY_HAND.splitlines()
        one = written(tmp_path, "\n".join([HEADER, *lines[1::2]]), "ldn.csv")
        other = written(tmp_path, "\n".join([HEADER, *lines[2::2]]), "etz.csv")
        together = table_of([*read_csv(one), *read_csv(other)])
        np.testing.assert_array_equal(together.values, table_of(read_csv(written(tmp_path, BY_HAND))).values)

    def test_ragged_teams_are_refused_with_what_is_missing(self, tmp_path: Path) -> None:
        ragged = "\n".join(line for line in BY_HAND.splitlines() if not line.endswith(("212,0.5,2.0,0.5,0.5,c", ",b")))
        ragged += "\ncrossmoda_300,0.5,2.0,0.5,0.5,b\n"
        with pytest.raises(ValueError, match="a lacks crossmoda_300; b lacks crossmoda_211, crossmoda_212; c lacks"):
            table_of(read_csv(written(tmp_path, ragged)))

    def test_same_file_twice(self, tmp_path: Path) -> None:
        cohorts = read_csv(written(tmp_path, BY_HAND))
        with pytest.raises(ValueError, match="got crossmoda_211 of a again"):
            table_of([*cohorts, *cohorts])

    def test_scored_for_some_only(self, tmp_path: Path) -> None:
        text = f"{HEADER},VS_Status\nx_1,0.5,1,0.5,1,a,scored\nx_1,,,0.5,1,b,empty_reference\n"
        with pytest.raises(ValueError, match="x_1 VS_Dice is missing for b; x_1 VS_ASSD is missing for b"):
            table_of(read_csv(written(tmp_path, text)))

    def test_case_without_any_score_is_left_out_and_told(self, tmp_path: Path) -> None:
        text = (
            f"{HEADER},VS_Status,Cochlea_Status\n"
            "x_1,0.5,1,0.5,1,a,scored,scored\nx_2,,,,,a,empty_reference,both_empty\n"
        )
        table = table_of(read_csv(written(tmp_path, text)))
        assert table.cases == ("x_1",)
        assert table.notes == ("left out, because no structure is scored there: x_2",)

    def test_nothing_scored(self, tmp_path: Path) -> None:
        text = f"{HEADER},VS_Status,Cochlea_Status\nx_2,,,,,a,empty_reference,both_empty\n"
        with pytest.raises(ValueError, match="expected a case with a score"):
            table_of(read_csv(written(tmp_path, text)))
        with pytest.raises(ValueError, match="expected at least one team"):
            table_of([])


class TestCommand:
    def test_published_file_as_it_is(self, tmp_path: Path) -> None:
        result = CliRunner().invoke(
            main, ["evaluate", "rank", str(written(tmp_path, BY_HAND)), "--json", str(tmp_path / "ranking.json")]
        )
        assert result.exit_code == 0, result.output
        lines = result.stdout.splitlines()
        assert lines[0] == "2 cases, 3 teams"
        assert lines[3].split() == ["a", "1", "1.375", "1", "-", "2", "1", "1", "1"]
        assert lines[5].split() == ["c", "3", "2.250", "2", "-", "3", "3", "2", "2"]
        document = json.loads((tmp_path / "ranking.json").read_text())
        assert document["ranks"] == {"a": 1, "b": 2, "c": 3}
        assert document["cumulative_ranks"]["crossmoda_212"] == {"a": 1.5, "b": 1.0, "c": 2.5}
        assert document["bootstrap"]["ASSD"]["samples"] == 1000
        assert document["p_values_holm"]["cumulative rank"]["a"]["a"] == 1.0

    def test_one_team(self, tmp_path: Path) -> None:
        text = f"{HEADER}\nx_1,0.5,1,0.5,1,only\n"
        result = CliRunner().invoke(main, ["evaluate", "rank", str(written(tmp_path, text))])
        assert result.exit_code == 0, result.output
        assert "1 case, 1 team" in result.stdout

    def test_equal_teams_have_no_tau_and_valid_json(self, tmp_path: Path) -> None:
        text = f"{HEADER}\nx_1,0.5,1,0.5,1,a\nx_1,0.5,1,0.5,1,b\n"
        ranking = rank_teams(table_of(read_csv(written(tmp_path, text))), np.random.default_rng(0), samples=3)
        assert ranking.ranks.tolist() == [1, 1]
        assert json.loads(ranking_to_json(ranking))["bootstrap"]["Dice"]["kendall_tau"]["mean"] is None
        result = CliRunner().invoke(main, ["evaluate", "rank", str(tmp_path / "scores.csv")])
        assert result.exit_code == 0, result.output

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("Case,Team\nx,a\n", "got none named VS_Dice, VS_ASSD, Cochlea_Dice, Cochlea_ASSD"),
            (f"{HEADER}\n", "expected at least one row of scores"),
            (f"{HEADER}\nx_1,0.5,nan,0.5,1,a\n", "line 2: VS_ASSD: expected a finite number, got 'nan'"),
            (f"{HEADER}\nx_1,high,1,0.5,1,a\n", "line 2: VS_Dice: expected a finite number, got 'high'"),
            (f"{HEADER}\nx_1,0.5,,0.5,1,a\n", "line 2: VS_ASSD: expected a number with the status scored"),
            (f"{HEADER}\nx_1,0.5,1,0.5,1,\n", "line 2: expected a case and a team"),
            (f"{HEADER}\nx_1,0.5,1,0.5,1,a\nx_1,0.5,1,0.5,1,a\n", "line 3: expected each case once per team"),
        ],
    )
    def test_bad_score_files(self, tmp_path: Path, text: str, message: str) -> None:
        result = CliRunner().invoke(main, ["evaluate", "rank", str(written(tmp_path, text))])
        assert result.exit_code == 1
        assert message in result.stderr
        assert "Traceback" not in result.stderr
