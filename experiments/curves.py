"""Learning curves of the best arm: both structures, every seed, all phases one after the other. Phantoms, not patients.

    python -m experiments.curves --out experiment --picture docs/images/curves.png

The loss on training patches and the source validation Dice are what a run sees; the tuning Dice, at the end of each
phase, is for the reader alone.
"""

from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from challenge.contract import STRUCTURES, Structure
from challenge.files import written_whole
from experiments.ladder import RECIPE, rungs
from experiments.scores import read_scores, seed_of
from pipeline.training.checkpoint import CHECKPOINT_FILE, read_checkpoint, saved_progress
from pipeline.training.named_recipes import RECIPES

# Okabe and Ito's: readers who are colour-blind can tell them apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
_DOTS_PER_INCH = 100


@dataclass(frozen=True)
class Curve:
    """One seed's course over all its phases; epochs count on from phase to phase.

    `source` and `tuning` are pairs of epoch and Dice; `ends` are the epochs with which phases end.
    """

    seed: int
    loss: list[float]
    source: list[tuple[int, float]]
    tuning: list[tuple[int, float]]
    ends: list[int]


def read_curve(out: Path, structure: Structure, seed: int) -> Curve | None:
    """Read a seed's phases as far as they have ended; None if the first has not."""
    curve = Curve(seed, [], [], [], [])
    run = out / "runs" / "best" / f"seed{seed}" / structure.key
    for phase, arm in zip(RECIPES[RECIPE][structure], rungs(structure), strict=True):
        if not (run / phase.key / CHECKPOINT_FILE).exists():
            break
        checkpoint = read_checkpoint(run / phase.key / CHECKPOINT_FILE)
        history, before = saved_progress(checkpoint)["history"], len(curve.loss)
        if len(history) < checkpoint["epochs"]:
            break
        for epoch in history:
            curve.loss.append(epoch["losses"]["dice_loss"])
            if epoch["validation"] is not None:
                dices = list(epoch["validation"]["dice"].values())
                curve.source.append((before + epoch["number"], float(np.mean(dices))))
        curve.ends.append(len(curve.loss))
        scores = read_scores(out, arm.name, structure, "tuning")
        if scores is not None and seed in scores.seeds:
            curve.tuning.append((len(curve.loss), float(scores.dice[scores.seeds.index(seed)].mean())))
    return curve if curve.loss else None


def draw(curves: dict[Structure, list[Curve]], path: Path) -> None:
    """Draw a panel for each structure, and write the PNG."""
    figure = Figure(figsize=(9.0, 3.6))
    figure.subplots_adjust(left=0.06, right=0.99, top=0.84, bottom=0.14, wspace=0.14)
    for panel, (structure, of_structure) in zip(figure.subplots(1, len(curves)), curves.items(), strict=True):
        draw_panel(panel, structure, of_structure)
    seeds = sorted({curve.seed for of_structure in curves.values() for curve in of_structure})
    marks = [
        Line2D([], [], color="#444444", linewidth=1, label="Dice loss, training patches"),
        Line2D([], [], color="#444444", marker=".", linestyle=":", label="Dice, source validation"),
        Line2D([], [], color="#444444", marker="*", markersize=9, linestyle="none", label="Dice, target (tuning)"),
        *(Line2D([], [], color=_COLOURS[seed % len(_COLOURS)], label=f"seed {seed}") for seed in seeds),
    ]
    figure.legend(handles=marks, loc="upper center", ncols=len(marks), fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as partial:
        figure.savefig(partial, dpi=_DOTS_PER_INCH, format="png")


def draw_panel(panel: Axes, structure: Structure, curves: list[Curve]) -> None:
    """Draw one structure's curves, with a line where a phase ends."""
    for curve in curves:
        colour = _COLOURS[curve.seed % len(_COLOURS)]
        panel.plot(range(1, len(curve.loss) + 1), curve.loss, color=colour, linewidth=1)
        panel.plot(*zip(*curve.source, strict=True), color=colour, marker=".", linestyle=":", linewidth=0.8)
        if curve.tuning:
            panel.plot(*zip(*curve.tuning, strict=True), color=colour, marker="*", markersize=9, linestyle="none")
    ends = max((curve.ends for curve in curves), key=len, default=[])
    for start, end, phase in zip([0, *ends[:-1]], ends, RECIPES[RECIPE][structure], strict=False):
        panel.axvline(end + 0.5, color="#bbbbbb", linewidth=0.8, zorder=0)
        panel.text((start + end) / 2, 1.02, phase.title.replace("Self-training ", "round "), ha="center", fontsize=7)
    panel.set_ylim(0, 1.08)
    panel.set_xlabel("epoch")
    panel.set_title(f"{structure.title}, best arm", fontsize=9, loc="left")


@click.command(context_settings={"show_default": True})
@click.option("--out", type=click.Path(path_type=Path), default=Path("experiment"), help="What ladder.py was given.")
@click.option(
    "--picture", type=click.Path(path_type=Path), default=Path("docs/images/curves.png"), help="PNG to write."
)
def main(out: Path, picture: Path) -> None:
    """Draw the learning curves of every seed of the best arm that has begun."""
    curves = {}
    for structure in STRUCTURES:
        seeds = map(seed_of, out.glob(f"runs/best/seed*/{structure.key}"))
        curves[structure] = [curve for seed in sorted(seeds) if (curve := read_curve(out, structure, seed))]
    if not any(curves.values()):
        raise click.ClickException(f"{out}: expected runs of the recipe {RECIPE}, got none; run ladder.py first")
    draw(curves, picture)


if __name__ == "__main__":
    main()
