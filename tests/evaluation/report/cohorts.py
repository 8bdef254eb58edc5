"""A cohort of four cases for the tests of the report."""

from datetime import UTC, datetime
from html.parser import HTMLParser

from challenge.contract import COCHLEA, VS
from evaluation.cohort import CohortScores, Metadata
from evaluation.ranking import Ranking
from evaluation.report.ranking_view import try_ranking
from evaluation.scoring import CaseScores, Status, StructureScores

MADE = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
SCORED, EMPTY, MISSING = Status.SCORED, Status.EMPTY_PREDICTION, Status.MISSING
NASTY = "<script>alert(1)</script>\"'&</td></title>{{ 7 * 7 }}"


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


def ranked(cohorts: list[CohortScores]) -> Ranking:
    ranking, unranked = try_ranking(cohorts, samples=50)
    assert unranked is None
    assert ranking is not None
    return ranking
