"""The page: its numbers, its escaping, its command. How it behaves in a browser: test_page_browser."""

import base64
import hashlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from challenge.contract import STRUCTURES
from evaluation.cli import evaluate
from evaluation.cohort import CohortScores, Metadata
from evaluation.report.content import counts_shown, published, summary_rows
from evaluation.report.markdown import render_markdown
from evaluation.report.page import render_html
from evaluation.report.slice_stacks import stack_of
from evaluation.report.worst_cases import CasePictures, PlacePicture, draw_worst
from evaluation.score_files import scores_to_json
from evaluation.scoring import Status, StructureScores
from tests.evaluation.report.cohorts import MADE, NASTY, Elements, case, cohort


def test_the_papers_figures_are_its_table_1() -> None:
    # "VS 0.26 ± 0.31, 11.4 ± 11.2; Cochlea 0.25 ± 0.25, 11.7 ± 11.3", the paper, Section 4, Table 1.
    paper = published()["paper"]
    assert paper["cases"] == 32
    assert paper["scores"] == {
        "vs": {"dice": {"mean": 0.26, "sd": 0.31}, "assd_mm": {"mean": 11.4, "sd": 11.2}},
        "cochlea": {"dice": {"mean": 0.25, "sd": 0.25}, "assd_mm": {"mean": 11.7, "sd": 11.3}},
    }


def test_the_published_results_are_whole() -> None:
    challenge = published()["challenge"]
    ranked = [team for team in challenge["teams"] if team["rank"] is not None]
    assert [team["rank"] for team in ranked] == list(range(1, 17))
    assert challenge["cases"] == 137
    ours = [team for team in ranked if team.get("this_method")]
    assert [(team["team"], team["rank"]) for team in ours] == [("skjp", 15)]
    assert ours[0]["scores"] == {"vs": {"dice": 0.210, "assd_mm": 24.5}, "cochlea": {"dice": 0.214, "assd_mm": 15.6}}
    for team in challenge["teams"]:
        for structure in STRUCTURES:
            assert 0 < team["scores"][structure.key]["dice"] < 1
            assert 0 < team["scores"][structure.key]["assd_mm"] < 350


# What is said of cases


def test_summary_counts_and_means() -> None:
    vs, cochlea = summary_rows(cohort())
    assert vs["counts"] == {"averaged": 4, "empty": 1, "missing": 1, "refused": 0, "not scored": 0}
    assert cochlea["counts"] == {"averaged": 4, "empty": 0, "missing": 1, "refused": 0, "not scored": 0}
    assert counts_shown([cohort()]) == ["averaged", "empty", "missing"]
    assert vs["dice"].mean == pytest.approx(0.35)
    assert cochlea["assd"].median == pytest.approx(0.8)


# The page


def test_page_holds_the_numbers() -> None:
    page = render_html([cohort()], made=MADE)
    assert "0.350 ± 0.436" in page
    assert "0.26 ± 0.31" in page
    assert "11.7 ± 11.3" in page
    assert "gabybaldeon" in page
    assert "2026-01-02 03:04 UTC with crossmoda-grl" in page
    assert "mean of the two directed mean surface distances" in page
    assert "/data/prediction against reference /data/reference" in page
    assert "Phantom" not in page
    assert 'id="ranking"' not in page


def test_phantoms_and_odd_distances_are_announced() -> None:
    phantoms = render_html([cohort()], phantom=True)
    assert "Phantom data." in phantoms
    assert not any(name in phantoms for name in ("Kondo", "gabybaldeon", 'id="published"', 'href="#published"'))
    assert "gabybaldeon" in render_html([cohort()], phantom=True, with_published=True)
    assert "gabybaldeon" not in render_html([cohort()], with_published=False)
    pooled = replace(cohort("other"), metadata=Metadata("pooled"))
    assert "ASSD is not the challenge&#39;s." in render_html([pooled])
    assert "The teams&#39; ASSD cannot be compared." in render_html([cohort(), pooled])
    assert "not stated by the score file" in render_html([replace(cohort(), metadata=Metadata())])


def test_names_from_files_are_shown_as_text() -> None:
    nasty = replace(
        cohort(NASTY),
        results=tuple(replace(r, case=r.case + NASTY, problem=NASTY, warnings=(NASTY,)) for r in cohort().results),
        metadata=Metadata(NASTY, NASTY, NASTY),
        extra=(NASTY,),
    )
    mask = np.ones((2, 3, 3), dtype=bool)
    stack = stack_of(None, mask, mask, (slice(0, 2), slice(0, 3), slice(0, 3)), (1.0, 1.0))

    def pictured(name: str) -> list[CasePictures]:
        return [CasePictures(name, name, 0.5, (PlacePicture(name, stack, "#D55E00", name, name),), name)]

    plain = Elements(
        render_html([replace(cohort(), metadata=Metadata("odd")), cohort("b")], pictures=pictured("harmless"))
    )
    page = Elements(render_html([nasty, cohort("b")], pictures=pictured(NASTY)))
    assert [tag for tag, _ in page.found].count("script") == 1
    # Neither an element nor an attribute more than with harmless names, except for cells that now hold remarks.
    assert [tag for tag, _ in page.found] == [tag for tag, _ in plain.found]
    attributes = {name for _, attrs in page.found for name in attrs}
    assert attributes <= {name for _, attrs in plain.found for name in attrs} | {"data-remarked"}
    assert not any(name.startswith("on") for name in attributes)
    assert NASTY in "".join(page.texts)


def test_page_needs_nothing_beside_itself(folders: Path) -> None:
    pictures = draw_worst([cohort()], folders / "reference", folders / "prediction", folders / "scans", count=1)
    page = render_html([cohort(), cohort("b")], pictures=pictures)
    assert "data:image/png;base64," in page
    for _, attrs in Elements(page).found:
        for name in ("src", "href", "srcset", "action", "data"):
            assert (attrs.get(name) or "#").startswith(("#", "data:"))
    assert "@import" not in page
    assert "url(" not in page
    assert "://" not in page


def test_policy_names_the_pages_own_script() -> None:
    page = render_html([cohort()])
    (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(attrs["content"] for tag, attrs in Elements(page).found if tag == "meta" and "http-equiv" in attrs)
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_page_without_scored_cases_is_still_a_page() -> None:
    nothing = StructureScores(Status.BAD_REFERENCE)
    page = render_html([replace(cohort(), results=(case("a", nothing, nothing, problem="unreadable"),))])
    assert "no scored case" in page
    assert "unreadable" in page


def test_no_scores_are_refused() -> None:
    for given in ([], [CohortScores("skjp", ())]):
        with pytest.raises(ValueError, match="expected at least one team with at least one case"):
            render_html(given)
        with pytest.raises(ValueError, match="expected at least one team with at least one case"):
            render_markdown(given)


def test_command_writes_page_and_markdown(folders: Path) -> None:
    file = folders / "scores.json"
    file.write_text(scores_to_json([cohort()]), encoding="utf-8")
    page, text = folders / "report.html", folders / "report.md"
    drawing = [f"--{name}={folders / name}" for name in ("reference", "prediction", "scans")]
    arguments = [
        "report",
        str(file),
        "--out",
        str(page),
        "--markdown",
        str(text),
        "--phantom",
        "--worst",
        "2",
        *drawing,
    ]
    result = CliRunner().invoke(evaluate, arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert page.read_text(encoding="utf-8").count('<figure class="stack"') == 6
    assert "Phantom data." in page.read_text(encoding="utf-8")
    assert "Kondo" not in page.read_text(encoding="utf-8") + text.read_text(encoding="utf-8")
    assert text.read_text(encoding="utf-8").startswith("## crossMoDA segmentation report\n")
    on_stdout = CliRunner().invoke(evaluate, ["report", str(file), "--markdown", "-", "--phantom", "--published"])
    assert on_stdout.stdout.startswith("## crossMoDA segmentation report\n")
    assert "Kondo" in on_stdout.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "expected --out FILE or --markdown FILE, got neither"),
        (["--out", "x.html", "--reference", "."], 2, "expected --reference and --prediction"),
        (["--out", "x.html", "--scans", "."], 2, "expected --reference and --prediction"),
        (["--out", "nowhere/x.html"], 1, "nowhere"),
    ],
)
def test_command_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("scores.csv").write_text("Case,VS_Dice,VS_ASSD,Cochlea_Dice,Cochlea_ASSD,Team\nc_1,1,0,1,0,a\n")
    result = CliRunner().invoke(evaluate, ["report", "scores.csv", *arguments])
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.output
