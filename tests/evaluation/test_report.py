"""The report: its numbers, its escaping, its figures. How it behaves in a browser: test_report_browser."""

import base64
import hashlib
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner

from challenge.contract import COCHLEA, STRUCTURES, VS, label_file
from challenge.nifti import CaseError
from evaluation.cli import evaluate
from evaluation.figures import box_plots, decimal, draw_worst, lps_array, mean_dice, millimetres, places_of, worst_first
from evaluation.ranking import Ranking
from evaluation.report import (
    escape_markdown,
    mean_sd,
    median_quartiles,
    published,
    read_scores,
    remarks_of,
    render_html,
    render_markdown,
    significance_maps,
    summary_rows,
    try_ranking,
)
from evaluation.scoring import CaseScores, CohortScores, Metadata, Status, StructureScores, Summary, to_json, write_csv
from tests.images import FLIPPED, PERMUTED, make_image

MADE = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
SCORED, EMPTY, MISSING = Status.SCORED, Status.EMPTY_PREDICTION, Status.MISSING


def scores(dice: float, assd_mm: float, status: Status = SCORED) -> StructureScores:
    return StructureScores(status, dice, assd_mm, 2 * assd_mm, 1000.0, 900.0, -100.0)


def case(name: str, vs: StructureScores, cochlea: StructureScores, **more: object) -> CaseScores:
    return CaseScores(name, {VS.key: vs, COCHLEA.key: cochlea}, **more)


def cohort(team: str = "skjp", shift: float = 0.0) -> CohortScores:
    """Four cases: a good one, a middling one, one with an empty tumour, one without a file."""
    return CohortScores(
        team,
        (
            case("crossmoda_211", scores(0.9 - shift, 0.5), scores(0.8 - shift, 0.4)),
            case("crossmoda_212", scores(0.5 - shift, 4.0), scores(0.6 - shift, 1.0), warnings=("another grid",)),
            case("crossmoda_213", scores(0.0, 350.0, EMPTY), scores(0.7 - shift, 0.6)),
            case("crossmoda_214", scores(0.0, 350.0, MISSING), scores(0.0, 350.0, MISSING), problem="no such file"),
        ),
        Metadata("2021", "/data/reference", "/data/prediction", False),
    )


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text between the tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


# Numbers as text


def test_mean_and_sd_have_the_papers_decimals() -> None:
    assert mean_sd(Summary(32, 0.26, 0.31), "dice") == "0.26 ± 0.31"
    assert mean_sd(Summary(32, 11.4, 11.2), "assd_mm") == "11.4 ± 11.2"
    assert mean_sd(Summary(137, 0.524, 0.108), "assd_mm") == "0.52 ± 0.11"
    assert mean_sd(Summary(32, 9.96, 1.0), "assd_mm") == "10.0 ± 1.0"
    assert mean_sd(Summary(1, 0.5), "dice") == "0.50 ± –"
    assert mean_sd(Summary(0), "dice") == "–"


def test_median_and_quartiles_are_written_as_in_the_challenges_tables() -> None:
    summary = Summary(32, 0.5, 0.1, median=0.8842, q1=0.8, q3=0.9107)
    assert median_quartiles(summary, "dice") == "88.4 [80.0 – 91.1]"
    assert median_quartiles(Summary(32, 1, 1, median=0.394, q1=0.1, q3=12.345), "assd_mm") == "0.39 [0.10 – 12.3]"
    assert median_quartiles(Summary(0), "dice") == "–"


def test_numbers_as_text() -> None:
    assert [millimetres(v) for v in (0.0, 9.99, 9.996, 350.0)] == ["0.00", "9.99", "10.0", "350.0"]
    assert decimal(None, 2) == "–"
    assert decimal(-0.001, 2) == "0.00"


# The published figures


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
    assert (vs["averaged"], vs["empty"], vs["missing"], vs["refused"], vs["unscored"]) == (4, 1, 1, 0, 0)
    assert (cochlea["averaged"], cochlea["empty"], cochlea["missing"]) == (4, 0, 1)
    assert vs["dice"].mean == pytest.approx(0.35)
    assert cochlea["assd"].median == pytest.approx(0.8)


def test_worst_cases_come_first_and_unscored_ones_last() -> None:
    nothing = StructureScores(Status.BOTH_EMPTY)
    unscored = case("crossmoda_215", nothing, nothing)
    both_zero = case("crossmoda_216", scores(0.0, 20.0), scores(0.0, 20.0))
    given = replace(cohort(), results=(*cohort().results, unscored, both_zero))
    assert [entry.case for _, entry in worst_first([given])] == [
        "crossmoda_214",  # Dice 0 like 216, and farther off
        "crossmoda_216",
        "crossmoda_213",
        "crossmoda_212",
        "crossmoda_211",
        "crossmoda_215",
    ]
    assert mean_dice(unscored) is None
    assert mean_dice(case("a", scores(0.4, 1.0), nothing)) == 0.4


def test_remarks_name_the_structure_once() -> None:
    results = cohort().results
    assert [remarks_of(entry) for entry in results] == ["", "another grid", "VS: predicted empty", "no such file"]
    empty = scores(0.0, 350.0, EMPTY)
    assert remarks_of(case("a", empty, empty)) == "predicted empty"
    assert remarks_of(replace(results[3], problem=None)) == "no file"


# The page


def test_page_holds_the_numbers() -> None:
    page = render_html([cohort()], made=MADE)
    assert "0.35 ± 0.44" in page
    assert "0.26 ± 0.31" in page
    assert "11.7 ± 11.3" in page
    assert "gabybaldeon" in page
    assert "2026-01-02 03:04 UTC with crossmoda-grl" in page
    assert "mean of the two directed mean surface distances" in page
    assert "/data/prediction against reference /data/reference" in page
    assert "Phantom" not in page
    assert 'id="ranking"' not in page


def test_phantoms_and_odd_distances_are_announced() -> None:
    assert "Phantom data." in render_html([cohort()], phantom=True)
    pooled = replace(cohort("other"), metadata=Metadata("pooled"))
    assert "ASSD is not the challenge&#39;s." in render_html([pooled])
    assert "The teams&#39; ASSD cannot be compared." in render_html([cohort(), pooled])
    assert "not stated by the score file" in render_html([replace(cohort(), metadata=Metadata())])


NASTY = "<script>alert(1)</script>\"'&</td></title>{{ 7 * 7 }}"


def test_names_from_files_are_shown_as_text() -> None:
    nasty = replace(
        cohort(NASTY),
        results=tuple(replace(r, case=r.case + NASTY, problem=NASTY, warnings=(NASTY,)) for r in cohort().results),
        metadata=Metadata(NASTY, NASTY, NASTY),
        extra=(NASTY,),
    )
    plain = Elements(render_html([replace(cohort(), metadata=Metadata("odd")), cohort("b")]))
    page = Elements(render_html([nasty, cohort("b")]))
    assert [tag for tag, _ in page.found].count("script") == 1
    # Neither an element nor an attribute more than with harmless names, except for cells that now hold remarks.
    assert [tag for tag, _ in page.found] == [tag for tag, _ in plain.found]
    attributes = {name for _, attrs in page.found for name in attrs}
    assert attributes <= {name for _, attrs in plain.found for name in attrs} | {"data-remarked"}
    assert not any(name.startswith("on") for name in attributes)
    assert NASTY in "".join(page.texts)


def test_page_needs_nothing_beside_itself() -> None:
    page = render_html([cohort(), cohort("b")], phantom=True)
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


# Box plots


def test_box_plot_geometry_worked_by_hand() -> None:
    values = [0.0, 0.5, 0.5, 0.5, 0.75, 1.0]
    given = replace(
        cohort(), results=tuple(case(f"c_{i}", scores(v, 1.0), scores(v, 1.0)) for i, v in enumerate(values))
    )
    plot = box_plots([given], worst_first([given]))[0]
    assert plot["title"] == "VS: Dice"
    # 440 wide with 14 free on each side: x = 14 + 412 * Dice.
    assert [tick["x"] for tick in plot["ticks"]] == [14.0, 96.4, 178.8, 261.2, 343.6, 426.0]
    (row,) = plot["rows"]
    assert [point["x"] for point in row["points"]] == [14.0, 220.0, 220.0, 220.0, 323.0, 426.0]
    # Quartiles 0.5, 0.5 and 0.6875, so whiskers reach 0.28 above and below: to 0.5 and 0.75, mean 0.5417.
    assert row["box"] == {
        "low": 220.0,
        "q1": 220.0,
        "median": 220.0,
        "mean": 237.2,
        "q3": 297.2,
        "high": 323.0,
        "width": 77.2,
    }
    assert row["points"][0]["text"] == "c_0: VS Dice 0.000"


def test_distance_axis_reaches_from_zero_past_the_farthest() -> None:
    distances = [0.0, 0.5, 4.0, 350.0]
    given = replace(
        cohort(), results=tuple(case(f"c_{i}", scores(0.5, d), scores(0.5, 900.0)) for i, d in enumerate(distances))
    )
    _, _, vs, cochlea = box_plots([given], worst_first([given]))
    assert [tick["text"] for tick in vs["ticks"]] == ["0", "0.3", "1", "3", "10", "30", "100", "350"]
    at = {point["text"].split()[-2]: point["x"] for point in vs["rows"][0]["points"]}
    assert at["0.00"] == 14.0
    assert at["350.00"] == 426.0
    assert 14.0 < at["0.50"] < at["4.00"] < 426.0
    assert cochlea["ticks"][-1]["text"] == "1000"


def test_fixed_scores_are_marked_and_points_know_their_row() -> None:
    first, second = cohort(), cohort("second", shift=0.05)
    ordered = worst_first([first, second])
    plot = box_plots([first, second], ordered)[0]
    for row, owner in zip(plot["rows"], (first, second), strict=True):
        assert row["label"] == owner.team
        assert [point["fixed"] for point in row["points"]] == [True, True, False, False]
        for point in row["points"]:
            team, entry = ordered[point["row"]]
            assert team is owner
            assert point["text"].startswith(f"{entry.case} · {owner.team}: VS Dice")


# Pictures


def test_both_cochleas_are_two_places_and_touching_parts_one() -> None:
    reference, prediction = np.zeros((2, 20, 60, 120), dtype=bool)
    reference[8:10, 20:24, 10:14] = True
    reference[8:10, 20:24, 100:104] = True
    prediction[8:10, 20:24, 12:16] = True
    prediction[8:10, 30:33, 104:107] = True  # 3 mm from the second
    left, right = (slice(8, 10), slice(20, 24), slice(10, 16)), (slice(8, 10), slice(20, 33), slice(100, 107))
    assert places_of(reference, prediction, (1.5, 0.5, 0.5)) == [right, left]
    assert places_of(reference, reference, (1.5, 0.5, 0.5), apart_mm=50.0) == [
        (slice(8, 10), slice(20, 24), slice(10, 104))
    ]


def test_far_false_positive_is_a_place_and_nothing_is_everywhere() -> None:
    reference, prediction = np.zeros((2, 40, 20, 20), dtype=bool)
    reference[3:6, 5:9, 5:9] = True
    prediction[3:6, 5:9, 5:9] = True
    prediction[30, 5, 5] = True
    far = (slice(30, 31), slice(5, 6), slice(5, 6))
    assert places_of(reference, prediction, (1.0, 1.0, 1.0)) == [far, (slice(3, 6), slice(5, 9), slice(5, 9))]
    nothing = np.zeros_like(reference)
    assert places_of(nothing, nothing, (1.0, 1.0, 1.0)) == [(slice(0, 40), slice(0, 20), slice(0, 20))]


@pytest.mark.parametrize("direction", [FLIPPED, PERMUTED, (-1, 0, 0, 0, -1, 0, 0, 0, 1)])
def test_patients_right_is_on_the_readers_left_whatever_the_scans_axes(direction: tuple[float, ...]) -> None:
    image = make_image(np.zeros((6, 8, 10), dtype=np.uint8), spacing_mm=(1.0, 1.0, 1.0), direction=direction)
    image[2, 5, 3] = 1
    x, y, z = image.TransformIndexToPhysicalPoint((2, 5, 3))
    corners = [
        image.TransformIndexToPhysicalPoint((i * 9, j * 7, k * 5)) for i in (0, 1) for j in (0, 1) for k in (0, 1)
    ]
    # Distances in mm, which are voxels here, from the right, the anterior and the inferior end.
    expected = tuple(round(at - min(corner[axis] for corner in corners)) for axis, at in ((2, z), (1, y), (0, x)))
    assert tuple(np.argwhere(lps_array(image, image))[0]) == expected


def test_prediction_is_laid_on_the_reference_by_index() -> None:
    reference = make_image(np.zeros((4, 5, 6), dtype=np.uint8))
    labels = np.arange(120, dtype=np.uint8).reshape(4, 5, 6)
    moved = make_image(labels, origin_mm=(7.0, 0.0, 0.0), direction=FLIPPED)
    assert np.array_equal(lps_array(moved, reference), labels)
    with pytest.raises(CaseError, match=r"expected the reference's size \(6, 5, 4\), got \(6, 5, 3\)"):
        lps_array(make_image(labels[:3]), reference)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Reference, scans and prediction of the cases of `cohort()`: 213's prediction misfits, 214 has none."""
    for name in ("reference", "prediction", "scans"):
        (tmp_path / name).mkdir()
    for number in (211, 212, 213, 214):
        labels = np.zeros((8, 40, 60), dtype=np.uint8)
        labels[2:5, 10:20, 10:20] = VS.label
        labels[3, 25:28, 5:8] = COCHLEA.label
        labels[3, 25:28, 52:55] = COCHLEA.label
        name = label_file(f"crossmoda_{number}")
        sitk.WriteImage(make_image(labels), str(tmp_path / "reference" / name))
        if number != 214:
            given = np.roll(labels, 2, axis=2) if number != 213 else labels[:7]
            sitk.WriteImage(make_image(given), str(tmp_path / "prediction" / name))
        noise = np.random.default_rng(number).normal(100, 20, labels.shape).astype(np.int16)
        if number != 212:
            sitk.WriteImage(make_image(noise), str(tmp_path / "scans" / f"crossmoda_{number}_hrT2.nii.gz"))
    return tmp_path


def test_worst_cases_are_drawn(folders: Path) -> None:
    drawn = draw_worst([cohort()], folders / "reference", folders / "prediction", folders / "scans", count=3)
    assert [(entry.case, entry.mean_dice) for entry in drawn] == [
        ("crossmoda_214", 0.0),
        ("crossmoda_213", pytest.approx(0.35)),
        ("crossmoda_212", pytest.approx(0.55)),
    ]
    assert drawn[0].problem == "No prediction in the folder given."
    assert "expected the reference's size (60, 40, 8), got (60, 40, 7)" in str(drawn[1].problem)
    assert drawn[2].problem is None
    assert [picture.title for picture in drawn[2].slices] == [
        "VS",
        "Cochlea (1 of 2 places)",
        "Cochlea (2 of 2 places)",
    ]
    assert [picture.text for picture in drawn[2].slices] == [
        "Dice 0.50, ASSD 4.00 mm; slice 4 of 8",
        "Dice 0.60, ASSD 1.00 mm; slice 4 of 8",
        "slice 4 of 8",
    ]
    assert drawn[0].slices[0].text == "Dice 0.00, ASSD 350.0 mm (no file); slice 4 of 8"
    page = render_html([cohort()], pictures=drawn, scans_given=True)
    images = [attrs for tag, attrs in Elements(page).found if tag == "img"]
    assert len(images) == 9
    assert all(str(attrs["src"]).startswith("data:image/png;base64,") and attrs["alt"] for attrs in images)


def test_scans_are_seen_where_given(folders: Path) -> None:
    arguments = ([cohort()], folders / "reference", folders / "prediction")
    with_scans = draw_worst(*arguments, folders / "scans", count=4)
    without = draw_worst(*arguments, count=4)
    assert with_scans[0].slices[0].uri != without[0].slices[0].uri
    assert with_scans[2].slices[0].uri == without[2].slices[0].uri  # 212 has no scan


def test_team_folders_are_found_and_not_left(folders: Path) -> None:
    teams = folders / "teams"
    teams.mkdir()
    (folders / "prediction").rename(teams / "skjp")
    drawn = draw_worst([cohort()], folders / "reference", teams, count=4)
    assert [entry.problem for entry in drawn if entry.case == "crossmoda_211"] == [None]
    with pytest.raises(ValueError, match=r"expected a folder named '\.\.' in it for each of 2 teams"):
        draw_worst([cohort(), cohort("..")], folders / "reference", teams)
    with pytest.raises(ValueError, match=r"--scans .*nowhere: expected a folder, got none"):
        draw_worst([cohort()], folders / "reference", teams, folders / "nowhere")


def test_case_that_cannot_be_read_does_not_stop_the_others(folders: Path) -> None:
    (folders / "reference" / label_file("crossmoda_214")).write_bytes(b"no NIfTI")
    (folders / "reference" / label_file("crossmoda_213")).unlink()
    drawn = draw_worst([cohort()], folders / "reference", folders / "prediction", count=4)
    assert [len(entry.slices) for entry in drawn] == [0, 0, 3, 3]
    assert "crossmoda_214_Label.nii.gz" in str(drawn[0].problem)
    assert "no reference in the folder given" in str(drawn[1].problem)


# Markdown and score files


def columns_of(line: str) -> int:
    return len(re.findall(r"(?<!\\)\|", line))


def test_markdown_tables_are_shaped_like_table_1() -> None:
    text = render_markdown([cohort()], phantom=True, made=MADE)
    lines = text.splitlines()
    assert "| Results of | Structure | Dice score | ASSD, mm |" in lines
    assert "| skjp | VS | 0.35 ± 0.44 | 176.1 ± 200.8 |" in lines
    assert "| Kondo, Table 1, 32 validation cases | VS | 0.26 ± 0.31 | 11.4 ± 11.2 |" in lines
    assert any(line.startswith("> **Phantom data.**") for line in lines)


def test_whose_cases_the_paper_s_figures_are() -> None:
    papers = replace(
        cohort(), results=tuple(case(f"crossmoda_{i}", scores(1, 0), scores(1, 0)) for i in range(211, 243))
    )
    same, other = "come from the same cases, by their names", "come from other cases"
    assert same in render_markdown([papers])
    assert same in render_html([papers])
    assert other in render_markdown([papers], phantom=True)
    assert other in render_html([replace(papers, results=papers.results[1:])])


def test_markdown_cells_are_escaped() -> None:
    nasty = "a|b\n<script>*x*</script>_[l](u)`"
    assert escape_markdown(nasty) == r"a\|b &lt;script&gt;\*x\*&lt;/script&gt;\_\[l\](u)\`"
    rows = [line for line in render_markdown([cohort(nasty)]).splitlines() if line.startswith("|")]
    assert {columns_of(row) for row in rows} == {5, 10}
    assert sum(escape_markdown(nasty) in row for row in rows) == 4


def test_score_files_are_read_and_each_team_once(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(to_json([cohort("a")]), encoding="utf-8")
    write_csv([cohort("b"), cohort("c")], tmp_path / "b.csv")
    assert [read.team for read in read_scores([tmp_path / "a.json", tmp_path / "b.csv"])] == ["a", "b", "c"]
    with pytest.raises(ValueError, match=r"a\.json: expected each team once, got a again"):
        read_scores([tmp_path / "a.json", tmp_path / "a.json"])


# Several teams, and the command


def ranked(cohorts: list[CohortScores]) -> Ranking:
    ranking, unranked = try_ranking(cohorts, samples=50)
    assert unranked is None
    assert ranking is not None
    return ranking


def test_ranked_teams_stand_best_first() -> None:
    cohorts = [cohort("worse", shift=0.05), cohort("better")]
    page = render_html(cohorts, ranking=ranked(cohorts))
    heads = re.findall(r'<th class="team" [^>]*>(\w+)', page)
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


def test_command_writes_page_and_markdown(folders: Path) -> None:
    file = folders / "scores.json"
    file.write_text(to_json([cohort()]), encoding="utf-8")
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
    assert page.read_text(encoding="utf-8").count("<img ") == 6
    assert "Phantom data." in page.read_text(encoding="utf-8")
    assert text.read_text(encoding="utf-8").startswith("## crossMoDA segmentation report\n")
    on_stdout = CliRunner().invoke(evaluate, ["report", str(file), "--markdown", "-"])
    assert on_stdout.stdout.startswith("## crossMoDA segmentation report\n")


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
