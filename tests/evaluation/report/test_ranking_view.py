"""The ranking in the report."""

import re
from dataclasses import replace

from evaluation.cohort import CohortScores
from evaluation.report.markdown import render_markdown
from evaluation.report.page import render_html
from evaluation.report.ranking_view import significance_maps, try_ranking
from tests.evaluation.report.cohorts import case, cohort, ranked, scores


def test_ranked_teams_stand_best_first() -> None:
    cohorts = [cohort("worse", shift=0.05), cohort("better")]
    page = render_html(cohorts, ranking=ranked(cohorts))
    heads = re.findall(r'<th class="team" [^>]*><span>(\w+)', page)
    assert heads == ["better", "worse", "Kondo"]
    assert page.index('id="ranking"') < page.index('id="distributions"')
    text = render_markdown(cohorts, ranking=ranked(cohorts))
    # Worse in both Dice of 211 and 212 and in the cochlea's of 213, equal in the rest: 5 of 16 ranks are 2, so their
    # mean is 1.3125 and their median 1, which ties.
    assert "| 1 | better | 1.000 | 1 | 1 | 1 |" in text
    assert "| 2 | worse | 1.312 | 1 | 2 | 2 |" in text
    assert try_ranking(cohorts[:1]) == (None, None)


def test_ragged_teams_are_reported_unranked() -> None:
    cohorts = [cohort(), replace(cohort("short"), results=cohort().results[:3])]
    ranking, unranked = try_ranking(cohorts)
    assert ranking is None
    assert "short lacks crossmoda_214" in str(unranked)
    page = render_html(cohorts, unranked=unranked)
    assert "The teams are not ranked." in page
    assert "short lacks crossmoda_214" in page
    assert 'id="ranking"' not in page


def test_significance_map_says_who_is_better() -> None:
    def team(name: str, dice: float) -> CohortScores:
        return CohortScores(name, tuple(case(f"c_{i}", scores(dice, 1.0), scores(dice, 1.0)) for i in range(12)))

    cumulative, vs_dice, vs_assd, *_ = significance_maps(ranked([team("a", 0.5), team("b", 0.9)]))
    assert cumulative["title"] == "cumulative rank"
    assert [row["team"] for row in cumulative["rows"]] == ["b", "a"]
    (_, better), (worse, _) = (row["cells"] for row in vs_dice["rows"])
    assert (better["kind"], better["sign"], better["p"]) == ("better", "▲", "< 0.001")
    assert (worse["kind"], worse["sign"], worse["p"]) == ("worse", "▼", "< 0.001")
    assert vs_assd["rows"][0]["cells"][1]["kind"] == "equal"
    assert vs_assd["rows"][0]["cells"][1]["p"] == "1.00"
