"""Score files that are damaged, or made to mislead: refused in one line, or scores that can be scores."""

import csv
import json

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from crossmoda_grl.__main__ import main
from evaluation.score_files import MAX_ROWS, read_score_files, scores_to_json, write_csv
from tests.evaluation.report.cohorts import cohort
from tests.fuzz.examples import few

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**400), 10**400),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["=1+1", "\x1b[2J", "\ud800", 5, -1e300, [], {}, "x" * 300]),
)


def places(value, path=()):
    """Every place in a JSON document."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inside:
        yield from places(child, (*path, key))


def assert_refused_or_plausible(path):
    cohorts, problem = [], ""
    try:
        cohorts = read_score_files([path])
    except ValueError as error:
        problem = str(error)
    assert not problem or (path.name in problem and "expected" in problem)
    for read in cohorts:
        for result in read.results:
            assert f"{read.team}{result.case}{result.problem}{''.join(result.warnings)}".isprintable()
            for scores in result.structures.values():
                assert scores.dice is None or 0 <= scores.dice <= 1
                assert scores.assd_mm is None or 0 <= scores.assd_mm <= 1e5
                assert scores.status.unscored == (scores.dice is None)


@few(25)
@given(data=st.data())
def test_any_odd_value_anywhere_in_json(tmp_path, data):
    document = json.loads(scores_to_json([cohort("a")]))
    place = data.draw(st.sampled_from([p for p in places(document) if p]))
    parent = document
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = data.draw(ODD)
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(document))
    assert_refused_or_plausible(path)


@few(25)
@given(data=st.data(), ending=st.sampled_from(["json", "csv"]))
def test_any_damaged_bytes(tmp_path, data, ending):
    path = tmp_path / f"scores.{ending}"
    path.write_text(scores_to_json([cohort("a")])) if ending == "json" else write_csv([cohort("a")], path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.integers(0, len(content) - 1))
        content[where : where + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    path.write_bytes(content)
    assert_refused_or_plausible(path)


@few(25)
@given(team=st.text("=+-@'ab\t ", min_size=1, max_size=6).filter(lambda text: text.strip() == text))
def test_a_team_that_looks_like_a_formula_comes_back_from_csv(tmp_path, team):
    if not team.isprintable():
        return
    write_csv([cohort(team)], tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            assert not f"{row['Team']}".startswith(("=", "+", "-", "@"))
    assert [read.team for read in read_score_files([tmp_path / "scores.csv"])] == [team]


@pytest.mark.parametrize("command", ["rank", "report"])
@pytest.mark.parametrize("content", ["rows", "nested", "nul"])
def test_files_made_to_exhaust_end_in_one_line(tmp_path, command, content):
    path = tmp_path / "scores.csv"
    header = "Case,VS_Dice,VS_ASSD,Cochlea_Dice,Cochlea_ASSD,Team\n"
    rows = "".join(f"c{number},0.5,1,0.5,1,a\n" for number in range(MAX_ROWS + 1))
    path.write_text({"rows": header + rows, "nested": "[" * 100_000, "nul": header + "c1,0.5,\0,0.5,1,a\n"}[content])
    if content == "nested" and command == "report":
        path = path.rename(tmp_path / "scores.json")
    out = ["--markdown", "-"] if command == "report" else []
    result = CliRunner().invoke(main, ["evaluate", command, str(path), *out])
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert f"Error: {path.name}" in result.stderr
