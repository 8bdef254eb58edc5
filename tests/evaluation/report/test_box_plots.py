"""The geometry of the box plots."""

from dataclasses import replace

from evaluation.report.box_plots import box_plots
from evaluation.report.worst_cases import worst_first
from tests.evaluation.report.cohorts import case, cohort, scores


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
