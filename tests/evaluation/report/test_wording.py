"""Numbers and remarks as text."""

from dataclasses import replace

from challenge.contract import STRUCTURES
from evaluation.cohort import Summary
from evaluation.report.wording import decimal, listed, mean_sd, median_quartiles, millimetres, remarks_of
from tests.evaluation.report.cohorts import EMPTY, case, cohort, scores


def test_means_have_three_decimals_of_dice_and_published_ones_two() -> None:
    assert mean_sd(Summary(32, 0.2604, 0.3096), "dice") == "0.260 ± 0.310"
    assert mean_sd(Summary(32, 0.26, 0.31), "dice", 2) == "0.26 ± 0.31"
    assert mean_sd(Summary(32, 11.4, 11.2), "assd_mm") == "11.4 ± 11.2"
    assert mean_sd(Summary(137, 0.524, 0.108), "assd_mm") == "0.52 ± 0.11"
    assert mean_sd(Summary(32, 9.96, 1.0), "assd_mm") == "10.0 ± 1.0"
    assert mean_sd(Summary(1, 0.5), "dice") == "0.500 ± –"
    assert mean_sd(Summary(0), "dice") == "–"


def test_median_and_quartiles_have_the_units_of_the_means() -> None:
    summary = Summary(32, 0.5, 0.1, median=0.8842, q1=0.8, q3=0.9107)
    assert median_quartiles(summary, "dice") == "0.884 [0.800 – 0.911]"
    assert median_quartiles(Summary(32, 1, 1, median=0.394, q1=0.1, q3=12.345), "assd_mm") == "0.39 [0.10 – 12.3]"
    assert median_quartiles(Summary(0), "dice") == "–"


def test_numbers_as_text() -> None:
    assert [millimetres(v) for v in (0.0, 9.99, 9.996, 350.0)] == ["0.00", "9.99", "10.0", "350.0"]
    assert [listed("abc"[:count]) for count in (1, 2, 3)] == ["a", "a and b", "a, b and c"]
    assert decimal(None, 2) == "–"
    assert decimal(-0.001, 2) == "0.00"


def test_remarks_name_the_structure_once() -> None:
    results = cohort().results
    assert [remarks_of(entry, STRUCTURES) for entry in results] == [
        "",
        "another grid",
        "VS: predicted empty",
        "no such file",
    ]
    empty = scores(0.0, 350.0, EMPTY)
    assert remarks_of(case("a", empty, empty), STRUCTURES) == "predicted empty"
    assert remarks_of(replace(results[3], problem=None), STRUCTURES) == "no file"
