"""The experiment's tables, from scores that can be worked on paper."""

import dataclasses
import itertools
import json
import time
from collections.abc import Iterable
from pathlib import Path

import click
import numpy as np
import pytest

from challenge.contract import COCHLEA, VS
from experiments.arms import ARMS, copy_once, in_parallel
from experiments.ladder import CHANGES, RECIPE, copy_from_base, rungs, shared_phases, trained_phases, with_statistics
from experiments.scores import read_scores
from experiments.selection import Candidate, label_free_scores, selection_table
from experiments.ship import check_scored, choose, compared
from experiments.table import differences, ladder, table
from pipeline.training.named_recipes import RECIPES, chosen_recipes
from tests.segmenters import ThresholdSegmenter


def write_scores(
    out: Path, arm: str, cohort: str, seeds: list[list[float]], numbers: Iterable[int] = range(100)
) -> None:
    """Dice by seed and case; an empty prediction where it is 0."""
    for seed, dices in zip(numbers, seeds, strict=False):
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


def test_a_rung_names_its_worst_case_those_missed_and_its_training_time(out: Path) -> None:
    for seed, seconds in enumerate(({"phase1": 600, "phase2": 240}, {"phase1": 720, "phase2": 360})):
        card = out / "arms" / "phase2" / f"seed{seed}" / "vs.json"
        card.write_text(json.dumps({"seconds": seconds}))
    rows = list(ladder(out, VS, "held_out", {"phase2": "paper", "control": "control"}))[2:]
    # 14 and 18 minutes; 0.2, 0.4, 0.6 and 0 as above. The control has no card and no source scores.
    assert rows == [
        "| paper | 2 | 16 | 0.800 | 0.300 ± 0.258 | 0.300 | 0.000 | 2 of 4 | 1 | 2.00 |",
        "| control | 2 |  |  | 0.125 ± 0.126 | 0.100 | 0.000 | 3 of 4 | 1 | 2.00 |",
    ]


def test_every_seed_is_compared_with_the_one_oracle_and_others_seed_by_seed(out: Path) -> None:
    write_scores(out, "oracle", "held_out", [[0.9, 0.8]])
    write_scores(out, "best", "held_out", [[0.8, 0.8], [0.6, 0.8]])
    write_scores(out, "mild", "held_out", [[0.7, 0.8]])
    rows = list(differences(out, VS, "held_out", [("best", "oracle"), ("best", "mild")]))[2:]
    # By case (-0.2, 0): error 0.2 / sqrt(2) / sqrt(2); seed 0 alone for the other: (0.1, 0).
    assert rows == [
        "| best - oracle | -0.100 ± 0.100 | -0.050, -0.150 |",
        "| best - mild | +0.050 ± 0.050 | +0.050 |",
    ]


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


def test_the_table_of_selection_ranks_and_picks() -> None:
    networks = [
        {"name": name, "true_dice": truth, "source_dice": source, "domain_confusion": None}
        | dict.fromkeys(("volume", "flip", "contrast"), 0.5)
        | {"product": product}
        for name, truth, source, product in (
            ("a", 0.2, 0.9, 0.1),
            ("b", 0.8, 0.7, 0.6),
            ("c", 0.6, 0.8, 0.7),
            ("d", 0.0, 0.6, 0.0),
        )
    ]
    rows = {row.split(" | ")[0]: row for row in selection_table(networks)}
    # Ranks of the truth 2, 4, 3, 1; of the source Dice 4, 2, 3, 1: squared differences 4 + 4, 1 - 6 * 8 / 60 = 0.2.
    assert rows["| source_dice"] == "| source_dice | 4 | +0.20 | a | 0.200 | 0.600 |"
    # Of the product 2, 3, 4, 1: 1 - 6 * 2 / 60 = 0.8.
    assert rows["| product"] == "| product | 4 | +0.80 | c | 0.600 | 0.200 |"
    assert rows["| flip"] == "| flip | 4 | +nan | a | 0.200 | 0.600 |"
    assert "| domain_confusion" not in rows


def test_label_free_scores_see_a_network_that_depends_on_contrast() -> None:
    volume = np.random.default_rng(0).normal(0, 0.1, (24, 24, 24)).astype(np.float32)
    volume[8:14, 8:14, 2:8] = 3.0  # a cube of 216 voxels, not in the middle
    bright = Candidate("bright", ThresholdSegmenter(VS, 2.0, 9.0), source_dice=0.8, confusion=None)
    scores = label_free_scores(bright, [volume], [216.0, 400.0])
    assert (scores.source_dice, scores.flip) == (0.8, 1.0)
    assert scores.volume == pytest.approx(216 / 308)  # within the labels' range; the medians are 216 and 308
    assert scores.contrast < 1.0  # the border, or all of it, is lost in another contrast
    nothing = Candidate("nothing", ThresholdSegmenter(VS, 8.0, 9.0), source_dice=0.8, confusion=None)
    assert label_free_scores(nothing, [volume], [216.0, 400.0]).product == 0


def test_every_phase_of_the_best_is_scored_with_the_target_s_statistics_as_well() -> None:
    for structure in (VS, COCHLEA):
        for plain, other in zip(rungs(structure), with_statistics(structure), strict=True):
            assert (other.name, other.phase) == (f"{plain.name}+statistics", plain.phase)
            assert (plain.target_statistics, other.target_statistics) == (False, True)


@pytest.mark.parametrize("structure", [VS, COCHLEA], ids=["vs", "cochlea"])
def test_every_change_of_the_ladder_is_another_recipe_than_the_best_and_all_others(structure, tmp_path: Path) -> None:
    told = {"best": (None, RECIPES[RECIPE][structure])}
    for change in (change for change in CHANGES if structure in change.structures):
        config = tmp_path / f"{change.name}.toml"
        config.write_text(change.config)
        phases = trained_phases(structure, change)
        assert change.last in {None, phases[-1].key}
        follows = None if phases[0] in RECIPES[RECIPE][structure] else change.base
        told[change.name] = (follows, chosen_recipes(RECIPE, structure, phases=phases, config=config))
    for (one, recipes), (other, of_other) in itertools.combinations(told.items(), 2):
        assert recipes != of_other, (one, other)


@pytest.mark.parametrize(
    ("name", "structure", "shared"),
    [
        ("convolution", VS, []),
        ("adversary", VS, ["supervised"]),
        ("adversary", COCHLEA, ["supervised"]),
        ("mean-teacher", COCHLEA, ["supervised"]),
        ("own-teacher", VS, ["supervised"]),
        ("no-agreement", COCHLEA, ["supervised"]),
        ("voxels", VS, []),
        ("voxels", COCHLEA, []),
        ("mind-fine-round", COCHLEA, ["supervised"]),  # that of its base
        ("adversary-mind", COCHLEA, ["supervised"]),
        ("not-randomised", VS, ["supervised"]),  # its phase 1 never was
        ("randomised", COCHLEA, ["supervised"]),
    ],
)
def test_phases_that_do_not_change_are_copied_from_the_base(tmp_path: Path, name, structure, shared) -> None:
    change = next(change for change in CHANGES if change.name == name and structure in change.structures)
    config = tmp_path / "change.toml"
    config.write_text(change.config)
    for base in CHANGES:
        if base.name == change.base and structure in base.structures:
            (tmp_path / f"{base.name}.toml").write_text(base.config)
    phases = shared_phases(structure, change, config)
    assert [phase.key for phase in phases] == shared
    for phase in RECIPES[RECIPE][structure]:
        folder = tmp_path / "runs" / change.base / "seed0" / structure.key / phase.key
        folder.mkdir(parents=True)
        (folder / "checkpoint.pt").write_text(phase.key)
    copy_from_base(tmp_path, structure, 0, change, phases)
    copied = (tmp_path / "runs" / name).rglob("checkpoint.pt")
    assert [path.read_text() for path in copied] == shared


def test_a_change_of_phase_1_is_not_copied_from_a_base_without_it(tmp_path: Path) -> None:
    change = next(change for change in CHANGES if change.name == "adversary-mind")
    config = tmp_path / "change.toml"
    config.write_text('[supervised]\ninput = "volume"\n')
    with pytest.raises(ValueError, match=r"adversary-mind: expected phase 1 as in best, .* got another recipe for it"):
        shared_phases(VS, dataclasses.replace(change, config=config.read_text()), config)


def test_a_copy_that_was_killed_is_made_again_and_a_whole_one_is_kept(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "arm" / "supervised"
    for path in (source / "checkpoint.pt", folder.with_name(".supervised.partial") / "half"):
        path.parent.mkdir(parents=True)
        path.write_text("first")
    copy_once(source, folder)
    assert [path.name for path in folder.iterdir()] == ["checkpoint.pt"]
    assert [path.name for path in folder.parent.iterdir()] == ["supervised"]
    (source / "checkpoint.pt").write_text("second")
    copy_once(source, folder)
    assert (folder / "checkpoint.pt").read_text() == "first"


def test_after_an_error_no_other_work_begins() -> None:
    begun = []

    def fail() -> None:
        raise RuntimeError("expected a network, got none")

    def work(number: int) -> None:
        time.sleep(0.01)  # or all might end before the error is seen
        begun.append(number)

    with pytest.raises(RuntimeError, match="expected a network"):
        in_parallel(1, [(fail,), *((work, number) for number in range(100))])
    assert len(begun) < 100


def test_the_seed_with_the_highest_tuning_dice_is_shipped_whichever_were_scored(tmp_path: Path) -> None:
    for arm in ARMS:
        if arm.may_ship:
            write_scores(tmp_path, arm.name, "tuning", [[0.5], [0.7], [0.6]], [1, 2, 10])
    arm, seed = choose(tmp_path, VS)
    assert (arm.name, seed) == ("phase2", 2)


def test_a_card_names_every_arm_and_seed(tmp_path: Path) -> None:
    for arm in ("adversary-off", "adversary-mind-off"):  # their titles are the same
        write_scores(tmp_path, arm, "held_out", [[0.5], [0.7]], [1, 10])
    told = compared(tmp_path, VS)
    assert [*told] == ["adversary-off", "adversary-mind-off"]
    assert told["adversary-off"]["held_out_dice"] == {"seed 1": 0.5, "seed 10": 0.7}


def test_scores_of_other_weights_are_not_shipped(tmp_path: Path) -> None:
    (*_, arm), exported = rungs(VS), tmp_path / "exported"
    scored = tmp_path / "arms" / arm.name / "seed0"
    for folder, digest in ((scored, "a"), (exported, "b")):
        folder.mkdir(parents=True)
        (folder / "vs.json").write_text(json.dumps({"sha256": digest}))
    with pytest.raises(click.ClickException, match="expected the weights of best/seed0, sha256 b, got a; remove"):
        check_scored(tmp_path, arm, VS, 0, exported)
    check_scored(tmp_path, arm, VS, 0, scored)
