"""The report as a person meets it: in a real Chromium, from disk, by mouse and keyboard, on a phone and on paper."""

import io
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from evaluation.report.page import render_html
from evaluation.report.ranking_view import try_ranking
from evaluation.report.worst_cases import draw_worst
from evaluation.scoring import Status, StructureScores
from tests.evaluation.report.cohorts import NASTY, case, cohort, scores

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium found; install it with: apt-get install chromium"),
]

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as runner:
        started = runner.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    cohorts = [cohort(), cohort(NASTY, shift=0.05)]
    ranking, _ = try_ranking(cohorts, samples=100)
    page = render_html(cohorts, ranking=ranking, phantom=True)
    path.write_text(page, encoding="utf-8", newline="\n")
    return path


class Visit:
    """An open page, with what it asked the network for and what it complained about."""

    def __init__(self, browser: Any, path: Path, **context: Any) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))
        self.page.goto(path.as_uri())

    def column(self, number: int) -> list[str]:
        rows = self.page.locator("#cases tbody tr:visible").all()
        return [row.locator(":scope > *").nth(number).inner_text() for row in rows]


@pytest.fixture
def visit(browser: Any, report: Path) -> Iterator[Visit]:
    opened = Visit(browser, report, viewport={"width": 1280, "height": 900})
    yield opened
    assert opened.complaints == []
    opened.context.close()


def pixels_of(visit: Visit) -> np.ndarray:
    return matplotlib.image.imread(io.BytesIO(visit.page.screenshot()))[..., :3]


def test_loads_from_disk_without_network_or_complaint(visit: Visit, report: Path) -> None:
    visit.page.wait_for_load_state("networkidle")
    assert [url for url in visit.requests if not url.startswith("data:")] == [report.as_uri()]
    assert visit.page.title() == "crossMoDA segmentation report"
    assert pixels_of(visit).std() > 0.05


def test_page_cannot_reach_the_network_or_run_other_scripts(browser: Any, report: Path) -> None:
    visit = Visit(browser, report)
    reached = visit.page.evaluate(
        "fetch('http://127.0.0.1:9/').then(() => 'reached', (error) => error.name)",
    )
    visit.page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = true'}))"
    )
    assert reached == "TypeError"
    assert visit.page.evaluate("window.ran") is None
    assert all("Content Security Policy" in complaint for complaint in visit.complaints)
    assert len(visit.complaints) >= 2
    visit.context.close()


def test_names_are_shown_as_text(visit: Visit) -> None:
    assert visit.page.locator("#summary th.team").nth(1).inner_text() == NASTY
    assert NASTY in visit.page.locator("#ranking").inner_text()
    assert visit.page.locator("script").count() == 1
    assert visit.page.locator("select[name=team] option").nth(2).get_attribute("value") == NASTY


def test_sorting(visit: Visit) -> None:
    head = visit.page.locator("#cases th", has_text="Mean Dice")
    assert head.get_attribute("aria-sort") == "ascending"
    shown = [float(text) for text in visit.column(2)]
    assert shown == sorted(shown)
    assert len(shown) == 8
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert [float(text) for text in visit.column(2)] == sorted(shown, reverse=True)
    case = visit.page.locator("#cases th", has_text="Case")
    case.get_by_role("button").click()
    assert visit.column(0) == [f"crossmoda_{number}" for number in (211, 211, 212, 212, 213, 213, 214, 214)]
    assert head.get_attribute("aria-sort") == "none"
    # As numbers, not as text: 350 after 4.
    visit.page.locator("#cases th", has_text="ASSD").first.get_by_role("button").click()
    assert visit.column(4) == ["0.50", "0.50", "4.00", "4.00", "350.00", "350.00", "350.00", "350.00"]


def test_rows_without_a_value_sort_last_both_ways(browser: Any, tmp_path: Path) -> None:
    nothing = StructureScores(Status.EMPTY_REFERENCE)
    results = (case("c_9", scores(0.2, 1.0), scores(0.2, 1.0)), case("c_10", nothing, scores(0.1, 1.0)))
    path = tmp_path / "report.html"
    path.write_text(render_html([replace(cohort(), results=results)]), encoding="utf-8", newline="\n")
    visit = Visit(browser, path)
    dice = visit.page.locator("#cases th", has_text="Dice").nth(1)
    for _ in range(2):
        dice.get_by_role("button").click()
        assert visit.column(2) == ["0.200", "–"]
    visit.page.locator("#cases th", has_text="Case").get_by_role("button").click()
    assert visit.column(0) == ["c_9", "c_10"]  # numbers in names count as numbers
    visit.context.close()


def test_filtering(visit: Visit) -> None:
    count = visit.page.locator("output[name=count]")
    assert count.inner_text() == "8 of 8 shown"
    visit.page.get_by_label("Find").fill("214 SUCH")
    assert visit.column(0) == ["crossmoda_214", "crossmoda_214"]
    assert count.inner_text() == "2 of 8 shown"
    visit.page.get_by_label("Team").select_option(NASTY)
    assert count.inner_text() == "1 of 8 shown"
    visit.page.get_by_label("Find").fill("")
    visit.page.get_by_label("only with remarks").check()
    assert visit.column(0) == ["crossmoda_214", "crossmoda_213", "crossmoda_212"]


def test_more_columns_on_demand(visit: Visit) -> None:
    hd95 = visit.page.locator("#cases th", has_text="HD95")
    assert not hd95.first.is_visible()
    visit.page.get_by_label("HD95 and volumes").check()
    assert hd95.first.is_visible()
    # A structure's head spans its columns in both states.
    for checked in (True, False):
        visit.page.get_by_label("HD95 and volumes").set_checked(checked)
        edges = visit.page.evaluate(
            """() => [document.querySelectorAll('#cases th.group')[1], document.querySelectorAll(
                '#cases thead tr:nth-child(2) th.first')[1]].map((e) => Math.round(e.getBoundingClientRect().left))"""
        )
        assert edges[0] == edges[1]


def test_everything_can_be_reached_by_keyboard(visit: Visit) -> None:
    page = visit.page
    reached = []
    for _ in range(80):
        page.keyboard.press("Tab")
        state = page.evaluate(
            """() => {
                const e = document.activeElement, style = getComputedStyle(e);
                return [e.tagName, e.name || e.textContent.trim() || e.getAttribute('aria-label') || '',
                        style.outlineStyle !== 'none' || style.strokeWidth === '5px'];
            }"""
        )
        if state[0] == "BODY":
            break
        reached.append(state)
    names = [name for _, name, _ in reached]
    assert names[0] == "Skip to the summary"
    for wanted in ("Summary", "All cases", "words", "team", "remarked", "Case", "Mean Dice", "Remarks"):
        assert any(name.startswith(wanted) for name in names), wanted
    assert [tag for tag, _, _ in reached].count("circle") == 4  # each plot is one stop
    assert all(visible for _, _, visible in reached), [name for _, name, visible in reached if not visible]

    button = page.locator("#cases th", has_text="Mean Dice").get_by_role("button")
    button.focus()
    page.keyboard.press("Enter")
    assert page.locator("#cases th", has_text="Mean Dice").get_attribute("aria-sort") == "descending"


def test_points_tell_their_case_on_focus_and_lead_to_its_row(visit: Visit) -> None:
    page = visit.page
    tip = page.locator("#tip")
    page.locator(".plots svg").first.locator("circle").first.focus()
    assert tip.inner_text() in (
        "crossmoda_213 · skjp: VS Dice 0.000 (predicted empty)",
        "crossmoda_214 · skjp: VS Dice 0.000 (no file)",
    )
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert tip.inner_text() == "crossmoda_212 · skjp: VS Dice 0.500"
    page.keyboard.press("End")
    assert tip.inner_text() == f"crossmoda_211 · {NASTY}: VS Dice 0.850"
    page.get_by_label("Find").fill("214")  # hides the row that the point leads to
    page.locator(".plots svg").first.locator("circle").last.focus()
    page.keyboard.press("Enter")
    row = page.evaluate("[document.activeElement.className, document.activeElement.cells[0].textContent]")
    assert row == ["picked", "crossmoda_211"]
    assert not tip.is_visible()


def test_points_tell_their_case_under_the_mouse(visit: Visit) -> None:
    point = visit.page.locator(".plots svg").first.locator("circle").nth(3)
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    visit.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert visit.page.locator("#tip").inner_text() == "crossmoda_211 · skjp: VS Dice 0.900"
    visit.page.mouse.move(5, 5)
    assert not visit.page.locator("#tip").is_visible()


def test_points_tell_their_case_without_the_script(browser: Any, report: Path) -> None:
    visit = Visit(browser, report, java_script_enabled=False)
    titles = visit.page.locator(".plots svg").first.locator("circle title")
    assert titles.nth(3).text_content() == "crossmoda_211 · skjp: VS Dice 0.900"
    assert not visit.page.locator("#filters").is_visible()
    assert visit.page.locator("#cases tbody tr").count() == 8
    visit.context.close()


@pytest.fixture
def stacks(browser: Any, folders: Path) -> Iterator[Any]:
    """Open the page of one worst case: VS in slices 2 to 6 of 8, two cochleas in 3 to 5."""
    drawn = draw_worst([cohort()], folders / "reference", folders / "prediction", folders / "scans", count=1)
    path = folders / "report.html"
    path.write_text(render_html([cohort()], pictures=drawn, scans_given=True), encoding="utf-8", newline="\n")

    opened = []

    def visit(**context: Any) -> Visit:
        opened.append(Visit(browser, path, viewport={"width": 1280, "height": 900}, **context))
        return opened[-1]

    yield visit
    for visited in opened:
        assert visited.complaints == []
        visited.context.close()


def shown_slices(visit: Visit) -> list[str | None]:
    return [entry.get_attribute("data-number") for entry in visit.page.locator(".stack .slice:visible").all()]


def test_slider_keys_and_wheel_go_through_the_slices(stacks: Any) -> None:
    visit = stacks()
    page = visit.page
    assert shown_slices(visit) == ["4", "4", "4"]
    slider = page.get_by_label("Slice of VS, crossmoda_214")
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert shown_slices(visit) == ["5", "4", "4"]
    assert slider.get_attribute("aria-valuetext") == "slice 5"
    assert "slice 5 of 8" in page.locator(".stack figcaption").first.inner_text()
    page.keyboard.press("End")
    page.keyboard.press("ArrowRight")
    assert shown_slices(visit) == ["6", "4", "4"]
    page.locator(".stack svg").nth(1).scroll_into_view_if_needed()
    page.wait_for_timeout(450)  # a page that scrolls goes on scrolling
    page.locator(".stack svg").nth(1).hover()
    before = page.evaluate("window.scrollY")
    page.mouse.wheel(0, 100)
    page.wait_for_selector(".stack:nth-of-type(2) .slice.shown[data-number='3']")
    assert page.evaluate("window.scrollY") == before
    page.mouse.wheel(0, 100)  # at the end of the stack the page goes on
    page.wait_for_timeout(300)
    assert page.evaluate("window.scrollY") > before
    assert shown_slices(visit) == ["6", "3", "4"]


def test_paper_and_pages_without_the_script_show_the_telling_slice(stacks: Any) -> None:
    visit = stacks()
    slider = visit.page.get_by_label("Slice of VS, crossmoda_214")
    slider.focus()
    visit.page.keyboard.press("Home")
    assert shown_slices(visit) == ["2", "4", "4"]
    visit.page.emulate_media(media="print")
    assert shown_slices(visit) == ["4", "4", "4"]
    assert not slider.is_visible()
    assert "slice 4 of 8" in visit.page.locator(".stack figcaption").first.inner_text()
    still = stacks(java_script_enabled=False)
    assert shown_slices(still) == ["4", "4", "4"]
    assert not still.page.locator(".stack input").first.is_visible()


def test_no_column_is_clipped_with_five_teams(browser: Any, tmp_path: Path) -> None:
    nothing = StructureScores(Status.BOTH_EMPTY)
    refused = scores(0.0, 350.0, Status.REFUSED)
    more = (case("crossmoda_215", refused, nothing), case("crossmoda_216", nothing, refused))
    teams = [cohort(f"a team with a rather long name {number}", 0.05 * number) for number in range(5)]
    teams = [replace(team, results=(*team.results, *more)) for team in teams]
    ranking, _ = try_ranking(teams, samples=50)
    path = tmp_path / "report.html"
    path.write_text(render_html(teams, ranking=ranking), encoding="utf-8", newline="\n")
    visit = Visit(browser, path, viewport={"width": 1280, "height": 900})
    clipped = """() => [...document.querySelectorAll('.scroll')].filter((e) => e.scrollWidth > e.clientWidth)
                       .map((e) => e.getAttribute('aria-label'))"""
    assert visit.page.evaluate(clipped) == []
    visit.context.close()


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_page_is_never_wider_than_the_screen(browser: Any, report: Path, width: int) -> None:
    visit = Visit(browser, report, viewport={"width": width, "height": 800})
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    visit.page.get_by_role("link", name="All cases").click()
    assert visit.page.locator("#cases").is_visible()
    visit.context.close()


def test_touch_shows_a_point_first_and_follows_it_then(browser: Any, report: Path) -> None:
    visit = Visit(browser, report, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    point = visit.page.locator(".plots svg").first.locator("circle").nth(3)
    point.scroll_into_view_if_needed()
    point.tap(force=True)
    assert visit.page.locator("#tip").inner_text() == "crossmoda_211 · skjp: VS Dice 0.900"
    point.tap(force=True)
    assert visit.page.evaluate("document.activeElement.cells[0].textContent") == "crossmoda_211"
    assert visit.complaints == []
    visit.context.close()


def contrast(visit: Visit, selector: str) -> float:
    """Return the contrast of an element's text on the page's ground, as WCAG 2 defines it."""
    colours = visit.page.evaluate(
        """(selector) => [getComputedStyle(document.querySelector(selector)).color,
                          getComputedStyle(document.body).backgroundColor]""",
        selector,
    )
    lights = []
    for colour in colours:
        channels = np.array([int(part) for part in colour[4:-1].split(",")]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        lights.append(float(linear @ [0.2126, 0.7152, 0.0722]))
    return (max(lights) + 0.05) / (min(lights) + 0.05)


@pytest.mark.parametrize(("scheme", "darkest", "lightest"), [("light", 0.8, 1.0), ("dark", 0.0, 0.2)])
def test_light_and_dark(browser: Any, report: Path, scheme: str, darkest: float, lightest: float) -> None:
    visit = Visit(browser, report, color_scheme=scheme)
    assert darkest <= float(np.median(pixels_of(visit))) <= lightest
    for selector in ("h1", ".lead", ".caption", "nav a", "td.note"):
        assert contrast(visit, selector) >= 4.5, selector
    visit.context.close()


def test_paper_shows_every_case_on_a_light_ground(browser: Any, report: Path) -> None:
    visit = Visit(browser, report, color_scheme="dark")
    visit.page.emulate_media(media="print", color_scheme="dark")
    assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not visit.page.locator("#filters").is_visible()
    assert visit.page.evaluate("getComputedStyle(document.querySelector('.scroll.tall')).maxHeight") == "none"
    assert visit.page.pdf(format="A4").startswith(b"%PDF")
    visit.context.close()
