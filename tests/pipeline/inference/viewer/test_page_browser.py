"""The page as a person meets it: in a real Chromium, with WebGL in software, by mouse and keyboard."""

import io
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from challenge.contract import STRUCTURES
from pipeline.inference.viewer.cases import CaseFiles
from pipeline.inference.viewer.niivue import BUNDLE
from pipeline.inference.viewer.server import ViewerServer
from tests.pipeline.inference.viewer.volumes import SHAPE, write_case

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium found; install it with: apt-get install chromium"),
    pytest.mark.skipif(not BUNDLE.is_file(), reason="NiiVue was not fetched; see docs/view.md"),
]

ARGUMENTS = [
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
READY = "body[data-state=ready]"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ViewerServer]:
    folder: Path = tmp_path_factory.mktemp("cases")
    first = write_case(folder, "<b>crossmoda_1</b>".replace("/", "_"))
    (folder / "bad.nii.gz").write_bytes(b"no scan")
    cases = [first, CaseFiles("bad", folder / "bad.nii.gz", first.labels, None)]
    with ViewerServer(cases, STRUCTURES, print) as started:
        thread = threading.Thread(target=started.serve_forever, daemon=True)
        thread.start()
        yield started
        started.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def page(server: ViewerServer) -> Iterator[Any]:
    """Open the page; in the end, it has asked for nothing but what the server has, and complained of nothing."""
    requests: list[str] = []
    complaints: list[str] = []
    with playwright.sync_playwright() as runner:
        browser = runner.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        opened = browser.new_page(viewport={"width": 900, "height": 600})
        opened.set_default_timeout(120_000)  # WebGL in software, on a machine that does other things too
        opened.on("request", lambda request: requests.append(request.url))
        opened.on("console", lambda message: complaints.append(message.text))
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.goto(server.url)
        opened.wait_for_selector(READY)
        yield opened
        browser.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith((server.url, "data:", "blob:"))] == []


def pixels_of(page: Any, selector: str = "#stage") -> np.ndarray:
    return matplotlib.image.imread(io.BytesIO(page.locator(selector).screenshot()))[..., :3]


def cross(page: Any) -> list[float]:
    """Where the page says that the cross is, which NiiVue has told it."""
    return page.evaluate("viewer.state.mm")


def coloured(pixels: np.ndarray) -> int:
    return int((np.ptp(pixels, axis=-1) > 0.3).sum())


def test_the_volumes_are_loaded_and_drawn(page: Any) -> None:
    names = page.evaluate("viewer.nv.volumes.map((v) => [v.name, ...v.dimsRAS.slice(1, 4)])")
    assert names == [[f"{role}.nii", *SHAPE[::-1]] for role in ("scan", "reference", "prediction")]
    drawn = pixels_of(page)
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 200
    assert coloured(drawn) > 1000
    assert page.locator("h1").inner_text() == "<b>crossmoda_1<_b>"  # a name is no markup
    assert page.locator("#figures tbody tr").first.inner_text().split() == ["VS", "281", "750", "0.545"]


def test_places_are_reached_by_key_and_by_button(page: Any, server: ViewerServer) -> None:
    case = server.read(0)
    places = {place["title"]: place["mm"] for place in case.description["places"]}  # type: ignore[union-attr]
    assert list(places) == ["VS", "Cochlea, left", "Cochlea, right", "Largest disagreement"]
    for title, key in zip(places, "123d", strict=True):
        page.keyboard.press(key)
        assert cross(page) == pytest.approx(places[title], abs=0.01), title
        assert page.evaluate("viewer.nv.scene.pan2Dxyzmm[3]") >= 1
    assert "reference VS · labels nothing" in page.locator("#status").inner_text()
    page.get_by_role("button", name="Cochlea, right").click()
    assert cross(page) == pytest.approx(places["Cochlea, right"], abs=0.01)
    assert "labels Cochlea" in page.locator("#status").inner_text()


def test_outlines_lie_where_niivue_draws_the_voxels(page: Any) -> None:
    def box(fill: float) -> list[int]:
        """The first and last coloured row and column."""
        page.locator("#fill").fill(str(fill))
        coloured = np.ptp(pixels_of(page), axis=-1) > 0.3
        return [int(side) for axis in (1, 0) for side in np.flatnonzero(coloured.any(axis=axis))[[0, -1]]]

    page.keyboard.press("1")
    page.keyboard.press("r")
    for view in ("Axial", "Coronal", "Sagittal"):
        page.get_by_role("button", name=view).click()
        outlines = box(fill=0)
        page.keyboard.press("o")
        voxels = box(fill=1)
        page.keyboard.press("o")
        assert outlines[1] - outlines[0] > 50, view
        assert outlines == pytest.approx(voxels, abs=2), view
    page.get_by_role("button", name="All").click()
    page.keyboard.press("r")
    box(fill=0.2)


def test_maps_and_outlines_are_switched_by_key(page: Any) -> None:
    page.keyboard.press("1")
    both = coloured(pixels_of(page))
    page.keyboard.press("l")
    page.keyboard.press("r")
    assert coloured(pixels_of(page)) == 0
    page.keyboard.press("r")
    page.keyboard.press("l")
    assert coloured(pixels_of(page)) == both
    faint = np.ptp(pixels_of(page), axis=-1).sum()
    page.keyboard.press("]")
    assert np.ptp(pixels_of(page), axis=-1).sum() > faint
    page.keyboard.press("[")
    page.keyboard.press("?")
    assert page.locator("dialog").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()


def test_arrows_move_by_a_voxel_as_the_reader_sees_it(page: Any) -> None:
    page.locator("#slices").focus()  # NiiVue has keys of its own there, which do nothing
    page.keyboard.press("1")
    right, front, up = cross(page)
    page.keyboard.press("ArrowLeft")  # the patient's right
    page.keyboard.press("ArrowDown")
    page.keyboard.press("PageUp")
    page.keyboard.press("h")
    assert cross(page) == pytest.approx([right + 1.25, front - 1.5, up + 2.0], abs=0.01)


def test_a_bad_case_is_told_and_the_others_go_on(page: Any) -> None:
    page.keyboard.press("n")
    page.wait_for_selector("body[data-state=error]")
    assert page.locator("#message").inner_text().startswith("bad.nii.gz: expected")
    page.keyboard.press("p")
    page.wait_for_selector(READY)
    assert page.evaluate("viewer.nv.volumes.length") == 3


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_not_wider_than_the_screen(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert len(np.unique(pixels_of(page).reshape(-1, 3), axis=0)) > 200
