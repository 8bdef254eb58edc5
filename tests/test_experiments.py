"""The experiment's tables, from scores that can be worked on paper."""

import json
from pathlib import Path

import pytest

from challenge.contract import VS
from experiments.ship import choose
from experiments.table import differences, read_scores, table


def write_scores(out: Path, arm: str, cohort: str, seeds: list[list[float]]) -> None:
    """Dice by seed and case; an empty prediction where it is 0."""
    for seed, dices in enumerate(seeds):
        scores = {
            f"crossmoda_{211 + number}": {
                "dice": dice,
                "assd_mm": 350.0 if dice == 0 else 2.0,
                "empty": dice == 0,
                "volume_ratio": 2 * dice,
            }
            for number, dice in enumerate(dices)
        }
        path = out / "arms" / arm / f"seed{seed}" / f"vs_{cohort}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(scores))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    write_scores(tmp_path, "phase2", "held_out", [[0.2, 0.4], [0.6, 0.0]])
    write_scores(tmp_path, "phase2", "source_validation", [[0.9, 0.7], [0.9, 0.7]])
    write_scores(tmp_path, "control", "held_out", [[0.1, 0.1], [0.3, 0.0]])
    return tmp_path


def test_a_row_counts_every_case_of_every_seed(out: Path) -> None:
    rows = list(table(out, VS, "held_out", {"phase2": "c", "never": "not run"}))[2:]
    # 0.2, 0.4, 0.6, 0: mean 0.3, sd sqrt(0.2 / 3), median 0.3; 2, 2, 2, 350 mm: mean 89, sd 174; volumes' median 0.6.
    # Source 0.9, 0.7, 0.9, 0.7: sd sqrt(0.04 / 3).
    assert rows == [
        "| c | 2 | 0.800 ± 0.115 | 0.300 ± 0.258, 0.300 | 0.300, 0.300 | 89.0 ± 174.0, 2.0 | 1 of 4 | 0.60 |"
    ]


def test_differences_are_paired_by_case(out: Path) -> None:
    rows = list(differences(out, VS, "held_out"))[2:]
    # By seed (0.1, 0.3) and (0.3, 0): by case 0.2 and 0.15, mean 0.175, error 0.05 / sqrt(2) / sqrt(2).
    assert rows == ["| phase2 - control | +0.175 ± 0.025 | +0.200, +0.150 |"]


def test_an_arm_that_was_not_run_has_no_scores(out: Path) -> None:
    assert read_scores(out, "oracle", VS, "held_out") is None


def test_what_is_shipped_is_chosen_by_the_tuning_phantoms(tmp_path: Path) -> None:
    write_scores(tmp_path, "phase2", "tuning", [[0.1, 0.2], [0.3, 0.2]])
    write_scores(tmp_path, "phase2+statistics", "tuning", [[0.2, 0.2], [0.2, 0.2]])
    arm, seed = choose(tmp_path, VS)
    assert (arm.name, seed) == ("phase2", 1)  # the same mean: the paper's, its better seed
    write_scores(tmp_path, "phase2+statistics", "tuning", [[0.7, 0.6], [0.2, 0.2]])
    arm, seed = choose(tmp_path, VS)
    assert (arm.name, seed) == ("phase2+statistics", 0)
