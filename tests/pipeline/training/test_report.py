"""The records of a run: what stands in them, and that the pictures show it."""

import csv
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from challenge.colours import REFERENCE_COLOUR, colour_of
from challenge.contract import VS
from challenge.quantities import format_duration
from pipeline.data.sampling import TrainingVolume
from pipeline.training.history import Epoch, Validation
from pipeline.training.report import (
    draw_curves,
    draw_slices,
    telling_slice,
    write_history,
    write_summary,
)


def epoch(number: int, dice: float | None, **losses: float) -> Epoch:
    scores = None if dice is None else Validation({"crossmoda_96": dice, "crossmoda_97": 0.5}, 1.25)
    return Epoch(number, 1e-3, {"loss": 2.0 / number, "cross_entropy": 0.5, "dice_loss": 0.4, **losses}, scores, 12.34)


def test_the_history_has_a_row_an_epoch(tmp_path: Path) -> None:
    write_history([epoch(1, None), epoch(2, 0.7)], tmp_path / "history.csv")
    with (tmp_path / "history.csv").open() as stream:
        first, second = csv.DictReader(stream)
    assert (first["epoch"], first["rate"], first["loss"], first["validation_dice"]) == ("1", "0.001", "2", "")
    assert (second["validation_dice"], second["predicted_over_true_volume"]) == ("0.6000", "1.25")
    assert (second["dice crossmoda_96"], second["dice crossmoda_97"], second["seconds"]) == ("0.7000", "0.5000", "12.3")


def shows(path: Path, colour: str, tolerance: int = 24) -> bool:
    """Whether a picture has pixels of a colour; narrow lines are mixed a little with what lies under them."""
    pixels = matplotlib.image.imread(path)[..., :3] * 255
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return bool((np.abs(pixels - wanted).max(axis=-1) <= tolerance).any())


def test_curves_of_both_phases_and_before_the_first_validation(tmp_path: Path) -> None:
    draw_curves([epoch(1, None)], tmp_path / "one.png", title="VS")
    draw_curves([epoch(n, 0.2 * n) for n in (1, 2, 3)], tmp_path / "three.png", title="VS")
    health = {"domain_loss": 0.69, "domain_accuracy": 0.5, "grl_weight": 0.4}
    draw_curves([epoch(n, 0.0, **health) for n in (1, 2)], tmp_path / "adversary.png", title="VS")
    width = {name: matplotlib.image.imread(tmp_path / f"{name}.png").shape[1] for name in ("one", "three", "adversary")}
    assert width == {"one": 1260, "three": 1260, "adversary": 1680}  # a fourth panel for the adversary
    assert shows(tmp_path / "three.png", "#0072B2")
    with pytest.raises(ValueError, match="expected at least one epoch"):
        draw_curves([], tmp_path / "none.png", title="VS")


def test_the_slice_that_tells_most_with_both_outlines(tmp_path: Path) -> None:
    mask = np.zeros((10, 40, 40), dtype=bool)
    mask[2:6, 10:20, 10:20] = True
    prediction = mask.copy()
    prediction[4, 10:20, 20:25] = True
    volume = TrainingVolume("crossmoda_96", np.random.default_rng(0).normal(size=mask.shape).astype(np.float32), mask)
    shown = telling_slice(volume, prediction, 0.9)
    assert np.array_equal(shown.scan, volume.volume[4])  # where the two differ
    assert shown.scan.base is None  # a copy: nothing holds on to the mapped volume
    draw_slices([shown], VS, 0.5, tmp_path / "slices.png", title="VS")
    assert shows(tmp_path / "slices.png", REFERENCE_COLOUR)
    assert shows(tmp_path / "slices.png", colour_of(VS))
    with pytest.raises(ValueError, match="expected at least one, got none"):
        draw_slices([], VS, 0.5, tmp_path / "slices.png", title="VS")
    with pytest.raises(ValueError, match="crossmoda_1: expected a mask to show"):
        telling_slice(TrainingVolume("crossmoda_1", volume.volume), prediction, 0.0)


def test_a_summary_is_a_table_under_each_heading(tmp_path: Path) -> None:
    write_summary(tmp_path / "summary.md", {"Phase 1": {"epochs": "2", "data": "a | b\nc"}}, title="VS")
    assert (tmp_path / "summary.md").read_text().splitlines() == [
        "# VS", "", "## Phase 1", "", "| | |", "|---|---|", "| epochs | 2 |", "| data | a / b<br>c |", "",
    ][:-1]  # fmt: skip


def test_times_as_a_person_says_them() -> None:
    assert [format_duration(s) for s in (0.4, 59, 120, 3500, 3599, 11_100)] == [
        "0 s", "59 s", "2 min", "58 min", "1 h 00 min", "3 h 05 min",
    ]  # fmt: skip
