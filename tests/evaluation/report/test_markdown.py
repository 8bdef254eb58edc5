"""The report as Markdown."""

import re
from dataclasses import replace

from evaluation.report.markdown import escape_markdown, render_markdown
from evaluation.report.page import render_html
from tests.evaluation.report.cohorts import MADE, case, cohort, scores


def columns_of(line: str) -> int:
    return len(re.findall(r"(?<!\\)\|", line))


def test_markdown_tables_are_shaped_like_table_1() -> None:
    lines = render_markdown([cohort()], made=MADE).splitlines()
    assert "| Results of | Structure | Dice | ASSD, mm |" in lines
    assert "| skjp | VS | 0.350 ± 0.436 | 176.1 ± 200.8 |" in lines
    assert "| Kondo, Table 1, 32 validation cases | VS | 0.26 ± 0.31 | 11.4 ± 11.2 |" in lines
    # Counts that are 0 for every team have no column.
    assert "| Results of | Structure | Dice | ASSD, mm | averaged | empty | missing |" in lines
    assert "| skjp | VS | 0.250 [0.000 – 0.600] | 177.0 [3.12 – 350.0] | 4 | 1 | 1 |" in lines


def test_published_figures_stand_beside_phantoms_only_if_asked_for() -> None:
    phantoms = render_markdown([cohort()], phantom=True)
    assert "> **Phantom data.**" in phantoms
    assert "Kondo" not in phantoms
    assert "Kondo" in render_markdown([cohort()], phantom=True, with_published=True)
    assert "Kondo" not in render_markdown([cohort()], with_published=False)


def test_whose_cases_the_paper_s_figures_are() -> None:
    papers = replace(
        cohort(), results=tuple(case(f"crossmoda_{i}", scores(1, 0), scores(1, 0)) for i in range(211, 243))
    )
    same, other = "come from the same cases, by their names", "come from other cases"
    assert same in render_markdown([papers])
    assert same in render_html([papers])
    assert other in render_markdown([papers], phantom=True, with_published=True)
    assert other in render_html([replace(papers, results=papers.results[1:])])


def test_markdown_cells_are_escaped() -> None:
    nasty = "a|b\n<script>*x*</script>_[l](u)`"
    assert escape_markdown(nasty) == r"a\|b &lt;script&gt;\*x\*&lt;/script&gt;\_\[l\](u)\`"
    rows = [line for line in render_markdown([cohort(nasty)]).splitlines() if line.startswith("|")]
    assert {columns_of(row) for row in rows} == {5, 8}
    assert sum(escape_markdown(nasty) in row for row in rows) == 4
