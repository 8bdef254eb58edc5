"""The tables of docs/results.md, from the files of arms.py and ladder.py: Markdown on stdout. Phantoms, not patients.

    python -m experiments.table --out experiment

The adversary's health and every phase's time become OUT/adversary.csv and OUT/times.csv: docs/results/ has copies.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from challenge.contract import STRUCTURES, Structure
from challenge.files import written_whole
from experiments.ladder import CHANGES
from experiments.scores import paired, read_scores, training_minutes
from pipeline.training.checkpoint import read_checkpoint, saved_progress

TITLES = {
    "phase1": "b. phase 1, source only (its source column is a.)",
    "phase1+statistics": "b. with the target's statistics",
    "phase2": "c. phase 2, the paper's method",
    "phase2+statistics": "e. c with the target's statistics",
    "control": "d. control: phase 2's steps, source only",
    "control+statistics": "e. d with the target's statistics",
    "oracle": "f. oracle: phase 1 on the target's labels",
}
# The ladder: what a paper's reader knows, each arm alone, the best's rungs, the best without one thing, the oracle.
LADDER = {
    "phase1": "source only",
    "phase2": "the paper's method",
    "control": "its control",
    "phase1+statistics": "alone: the target's statistics",
    "random-contrast": "alone: random contrast",
    "convolution": "alone: random convolutions (GIN) for the maps",
    "label-aware": "alone: label-aware maps, half of them convolutions",
    "tumour-intensity": "alone: the tumour's intensity (jwc-rad)",
    "mild": "alone: mild, monotone contrast",
    "mind": "alone: MIND descriptors that reach 2 voxels as input",
    "mind-randomised": "VS: alone, MIND descriptors that reach 1 voxel, with random contrast",
    "best:supervised": "best, its phase 1: MIND descriptors that reach 1 voxel, alone",
    "best:supervised+statistics": "the same with the target's statistics",
    "mind-fine-round": "best's phase 1, then a round on descriptors",
    "voxels:supervised": "voxels as input: phase 1 (VS: 60 epochs of random contrast)",
    "adversary": "the line above, then the adversary",
    "adversary-off": "the same steps without reversal",
    "adversary-mind": "best's phase 1, then the adversary",
    "adversary-mind-off": "the same steps without reversal",
    "mean-teacher": "phase 1 (cochlea: on voxels), then a mean teacher",
    "best:self_training_1": "best, self-training 1",
    "best:self_training_1+statistics": "the same with the target's statistics",
    "best": "**best**",
    "best+statistics": "best, with the target's statistics",
    "fewer-epochs:supervised": "best, with 40 epochs of phase 1: phase 1",
    "fewer-epochs": "best, with 40 epochs of phase 1",
    "voxels:self_training_1": "voxels from the first, self-training 1",
    "voxels": "best, with voxels from the first",
    "not-randomised": "best, nothing randomised in its round",
    "randomised": "best, with mild contrast, noise and small turns in its rounds",
    "own-teacher": "best, first teacher without the target's statistics",
    "no-agreement": "best, without the views' agreement",
    "nearness": "best, with nearness to a cochlea",
    "oracle": "oracle: target labels",
}
# A case below this Dice counts as missed.
_MISSED = 0.3
_TRIED = {
    "no_reversal": "reversal weight 0: shared batches, no adversary",
    "weight_0.1": "reversal weight up to 0.1",
    "weight_3": "reversal weight up to 3",
    "rate_4e-4": "rate 4e-4",
    "grid_1": "features pooled globally",
    "tap_early": "tapped after stage 1",
}
# Seed 0 only, to compare with seed 0 of c.
TRIED = _TRIED | {f"{name}+statistics": f"{what}, the target's statistics" for name, what in _TRIED.items()}
# Compared case by case: the first minus the second.
PAIRS = (
    ("phase2", "control"),
    ("phase2+statistics", "control+statistics"),
    ("phase2+statistics", "phase1+statistics"),
    ("phase2+statistics", "phase2"),
    ("control+statistics", "control"),
    ("phase2", "phase1"),
)
LADDER_PAIRS = (
    *((arm, "random-contrast") for arm in ("convolution", "label-aware", "tumour-intensity")),
    ("random-contrast", "phase1"),
    ("best:supervised", "random-contrast"),
    ("best:supervised", "phase1"),
    ("best:supervised", "mind"),
    ("best:supervised", "mind-randomised"),
    ("mind", "phase1"),
    ("mind-fine-round", "best:supervised"),
    ("best", "mind-fine-round"),
    ("best:supervised+statistics", "best:supervised"),
    ("adversary", "adversary-off"),
    ("adversary", "voxels:supervised"),
    ("adversary-mind", "adversary-mind-off"),
    ("adversary-mind", "best:supervised"),
    ("mean-teacher", "best"),
    ("best", "best:supervised"),
    ("best", "best:supervised+statistics"),
    ("best", "best+statistics"),
    ("best", "best:self_training_1"),
    *(
        ("best", arm)
        for arm in ("voxels", "fewer-epochs", "not-randomised", "randomised", "own-teacher", "no-agreement", "nearness")
    ),
    *(("best", arm) for arm in ("phase2", "phase1")),
    ("best", "oracle"),
)


def table(out: Path, structure: Structure, cohort: str, titles: Mapping[str, str]) -> Iterator[str]:
    """Yield a structure's table: a row for each arm, in which every case of every seed counts once."""
    yield "| arm | seeds | source Dice | target Dice, median | by seed | ASSD mm, median | empty | volume |"
    yield "|---|---|---|---|---|---|---|---|"
    for arm, title in titles.items():
        if (target := read_scores(out, arm, structure, cohort)) is None:
            continue
        source = read_scores(out, arm, structure, "source_validation")
        by_seed = ", ".join(f"{dice:.3f}" for dice in target.dice.mean(axis=1))
        cells = [
            title,
            str(len(target.dice)),
            "" if source is None else f"{source.dice.mean():.3f} ± {source.dice.std(ddof=1):.3f}",
            f"{target.dice.mean():.3f} ± {target.dice.std(ddof=1):.3f}, {np.median(target.dice):.3f}",
            by_seed,
            f"{target.assd_mm.mean():.1f} ± {target.assd_mm.std(ddof=1):.1f}, {np.median(target.assd_mm):.1f}",
            f"{target.empty.sum():.0f} of {target.empty.size}",
            f"{np.median(target.volume_ratio):.2f}",
        ]
        yield f"| {' | '.join(cells)} |"


def ladder(out: Path, structure: Structure, cohort: str, titles: Mapping[str, str]) -> Iterator[str]:
    """Yield a structure's ladder: a row for each arm, in which every case of every seed counts once."""
    yield "| arm | seeds | minutes a seed | source Dice | Dice | median | worst | below .3 | empty | ASSD mm, median |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for arm, title in titles.items():
        if (target := read_scores(out, arm, structure, cohort)) is None:
            continue
        source = read_scores(out, arm, structure, "source_validation")
        minutes = training_minutes(out, arm, structure)
        cells = [
            title,
            str(len(target.dice)),
            "" if minutes is None else f"{minutes:.0f}",
            "" if source is None else f"{source.dice.mean():.3f}",
            f"{target.dice.mean():.3f} ± {target.dice.std(ddof=1):.3f}",
            f"{np.median(target.dice):.3f}",
            f"{target.dice.min():.3f}",
            f"{(target.dice < _MISSED).sum()} of {target.dice.size}",
            f"{target.empty.sum():.0f}",
            f"{np.median(target.assd_mm):.2f}",
        ]
        yield f"| {' | '.join(cells)} |"


def differences(
    out: Path, structure: Structure, cohort: str, pairs: Sequence[tuple[str, str]] = PAIRS
) -> Iterator[str]:
    """Yield the paired differences: a case's Dice is its mean over the seeds, the error is that of the cases' mean."""
    yield "| first - second | Dice, mean ± standard error | by seed |"
    yield "|---|---|---|"
    for first, second in pairs:
        one, other = (read_scores(out, arm, structure, cohort) for arm in (first, second))
        if one is None or other is None:
            continue
        if (difference := paired(one, other, whole=second == "oracle")) is None:
            continue
        by_case = difference.mean(axis=0)
        error = by_case.std(ddof=1) / np.sqrt(len(by_case))
        by_seed = ", ".join(f"{value:+.3f}" for value in difference.mean(axis=1))
        yield f"| {first} - {second} | {by_case.mean():+.3f} ± {error:.3f} | {by_seed} |"


def adversary(out: Path) -> Iterator[tuple[object, ...]]:
    """Yield the domain classifier's loss and accuracy, and the source's Dice, at three epochs of every phase 2."""
    yield "structure", "run", "epoch", "domain_loss", "domain_accuracy", "grl_weight", "source_dice", "volume_ratio"
    for path in sorted((out / "runs").rglob("adaptation/checkpoint.pt")):
        *run, structure, _, _ = path.relative_to(out / "runs").parts
        history: Sequence[dict[str, Any]] = saved_progress(read_checkpoint(path))["history"]
        validated = [epoch for epoch in history if epoch["validation"] is not None]
        if not validated:
            continue  # still training
        for epoch in [validated[0], validated[len(validated) // 2], validated[-1]]:
            losses, validation = epoch["losses"], epoch["validation"]
            yield (
                structure,
                " ".join(run),
                f"{epoch['number']} of {len(history)}",
                *(f"{losses[name]:.3f}" for name in ("domain_loss", "domain_accuracy", "grl_weight")),
                f"{np.mean(list(validation['dice'].values())):.3f}",
                f"{validation['volume_ratio']:.2f}",
            )


def times(out: Path) -> Iterator[tuple[object, ...]]:
    """Yield how long each phase took, validation included, one thread; phases that were copied count where they ran."""
    yield "run", "structure", "phase", "epochs", "seconds"
    seen = set()
    for path in sorted((out / "runs").rglob("checkpoint.pt"), key=lambda path: _bases_first(path.relative_to(out))):
        *run, structure, phase = path.parent.relative_to(out / "runs").parts
        history = saved_progress(read_checkpoint(path))["history"]
        seconds = [epoch["seconds"] for epoch in history]
        if (structure, phase, *seconds) in seen:
            continue  # copied from another run
        seen.add((structure, phase, *seconds))
        yield " ".join(run), structure, phase, len(history), f"{sum(seconds):.0f}"


def _bases_first(path: Path) -> tuple[bool, Path]:
    """Return a key that sorts `runs/{arm}/...`: arms that others copy phases from come before those."""
    arm = path.parts[1]
    return not (arm.startswith("seed") or arm in {change.base for change in CHANGES}), path


def write_csv(path: Path, rows: Iterable[tuple[object, ...]]) -> None:
    """Write rows, the first of them the columns' names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)


@click.command(context_settings={"show_default": True})
@click.option("--out", type=click.Path(path_type=Path), default=Path("experiment"), help="What arms.py was given.")
@click.option("--cohort", type=click.Choice(["held_out", "tuning"]), default="held_out", help="Which target phantoms.")
def main(out: Path, cohort: str) -> None:
    """Print the tables; write OUT/adversary.csv and OUT/times.csv."""
    untitled = {change.name: change.name for change in CHANGES if change.name not in LADDER}
    for structure in STRUCTURES:
        for lines in (
            table(out, structure, cohort, TITLES),
            differences(out, structure, cohort),
            table(out, structure, cohort, TRIED),
            ladder(out, structure, cohort, LADDER | untitled),
            differences(out, structure, cohort, LADDER_PAIRS),
        ):
            click.echo(f"{structure.title}, phantoms, {cohort.replace('_', ' ')}\n")
            click.echo("\n".join(lines) + "\n")
    for name, rows in {"adversary": adversary(out), "times": times(out)}.items():
        write_csv(out / f"{name}.csv", rows)


if __name__ == "__main__":
    main()
