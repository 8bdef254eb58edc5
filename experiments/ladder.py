"""The ladder beyond the paper: trains the recipe `best-cpu`, scores every rung of it. Phantoms, not patients.

    python -m experiments.ladder --out experiment --seeds 3 --jobs 2
    python -m experiments.table --out experiment

Uses the data of `experiments.arms`, makes it where it is missing, and leaves its files beside those; the same command
resumes where it was stopped.

    OUT/runs/best/seed{S}                the recipe's phases
    OUT/runs/{arm}/seed{S}               the same with one thing changed or left out
    OUT/arms/{arm}/seed{S}               weights, and scores of the cohorts
    OUT/arms/{arm}/seed{S}/*_labels.csv  the true Dice of a round's pseudo-labels, for the report alone
"""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

from challenge.contract import COCHLEA, STRUCTURES, VS, Structure, label_file
from challenge.files import written_whole
from evaluation.metrics import count_overlap, dice
from experiments.arms import Arm, command, in_parallel, make_data, options, score_arm, train_options
from pipeline.data.cache import structure_mask
from pipeline.runtime.allocator import keep_large_blocks
from pipeline.training.named_recipes import RECIPES
from pipeline.training.report import PSEUDO_LABELS_FILE, PSEUDO_LABELS_FOLDER, read_pseudo_label

RECIPE = "best-cpu"


@dataclass(frozen=True)
class Change:
    """An arm that differs from the best in one thing: the configuration that says so, and the last phase to train."""

    name: str
    config: str
    phase: str = "supervised"
    structures: tuple[Structure, ...] = field(default=STRUCTURES)


# First what phase 1 is worth under another randomisation, then what is left out of the best.
CHANGES = (
    Change("convolution", '[supervised]\naugmentation = "convolution"', structures=(VS,)),
    Change("label-aware", '[supervised]\naugmentation = "mixed"', structures=(VS,)),
    Change("tumour-intensity", '[supervised]\naugmentation = "structure"', structures=(VS,)),
    Change("not-randomised", '[supervised]\naugmentation = "none"\n', "self_training_1", (VS,)),
    Change("mild", '[supervised]\naugmentation = "mild"', structures=(COCHLEA,)),
    Change("own-teacher", '[self_training_1]\nteacher = "network"', "self_training_1", (COCHLEA,)),
    Change("no-agreement", "[self_training_1]\nagreement = 0.0", "self_training_1", (VS,)),
)


def rungs(structure: Structure, name: str = "best") -> Iterator[Arm]:
    """Yield an arm for every phase of the best recipe, the last of which is the best itself."""
    *phases, last = RECIPES[RECIPE][structure]
    for phase in phases:
        yield Arm(f"{name}:{phase.key}", f"{name}/seed{{seed}}", phase.key, anatomy=True, may_ship=True)
    yield Arm(name, f"{name}/seed{{seed}}", last.key, anatomy=True, may_ship=True)


def run_best(out: Path, structure: Structure, seed: int) -> None:
    """Train the best recipe, and score every rung."""
    train(out, structure, seed, "best", {})
    for arm in rungs(structure):
        score_arm(out, arm, structure, seed)
        score_pseudo_labels(out, arm, structure, seed)


def run_change(out: Path, structure: Structure, seed: int, change: Change) -> None:
    """Train the best recipe with one thing changed, up to the change's last phase; score that phase."""
    config = out / f"{change.name}.toml"
    with written_whole(config) as partial:
        partial.write_text(change.config + "\n", encoding="utf-8")
    for phase in RECIPES[RECIPE][structure]:
        train(out, structure, seed, change.name, {"--config": config, "--phase": phase.key})
        if phase.key == change.phase:
            break
    arm = Arm(change.name, f"{change.name}/seed{{seed}}", change.phase, anatomy=True)
    score_arm(out, arm, structure, seed)
    score_pseudo_labels(out, arm, structure, seed)


def train(out: Path, structure: Structure, seed: int, name: str, more: Mapping[str, Any]) -> None:
    """Run `train` with the recipe, into the arm's runs."""
    chosen = {
        "--recipe": RECIPE,
        "--seed": seed,
        "--split": out / "data" / "split.json",
        "--runs": out / "runs" / name / f"seed{seed}",
        **more,
    }
    log = out / f"{structure.key}_{name}_seed{seed}.log"
    command("train", *options(train_options(out, structure) | chosen), log=log)


def score_pseudo_labels(out: Path, arm: Arm, structure: Structure, seed: int) -> None:
    """Write the true Dice of the pseudo-labels that an arm's phase was trained on; nothing reads it but the report."""
    run = out / "runs" / arm.runs.format(seed=seed) / structure.key / arm.phase
    path = out / "arms" / arm.name / f"seed{seed}" / f"{structure.key}_labels.csv"
    if path.exists() or not (run / PSEUDO_LABELS_FILE).exists():
        return
    with (run / PSEUDO_LABELS_FILE).open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    with written_whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow([*rows[0], "true_dice"])
        for row in rows:
            label = read_pseudo_label(run / PSEUDO_LABELS_FOLDER / f"{row['case']}.npz")
            truth = structure_mask(out / "data" / "oracle" / label_file(row["case"]), structure)
            writer.writerow([*row.values(), f"{dice(count_overlap(np.asarray(truth, dtype=bool), label)):.4f}"])


@click.command(context_settings={"show_default": True})
@click.option("--out", type=click.Path(path_type=Path), default=Path("experiment"), help="Folder for everything.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, help="Training seeds of the best, from 0.")
@click.option("--jobs", type=click.IntRange(min=1), default=2, help="Processes at a time, one thread each.")
def main(out: Path, seeds: int, jobs: int) -> None:
    """Train and score the ladder; the same command resumes where it was stopped."""
    keep_large_blocks()
    out = out.resolve()
    make_data(out / "data")
    in_parallel(jobs, [(run_best, out, s, seed) for seed in range(seeds) for s in STRUCTURES])
    in_parallel(jobs, [(run_change, out, s, 0, change) for change in CHANGES for s in change.structures])


if __name__ == "__main__":
    main()
