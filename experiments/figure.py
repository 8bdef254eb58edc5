"""The same slices under source only, paper, best and oracle: one figure for docs/results.md. Phantoms, not patients.

    python -m experiments.figure --out experiment --picture docs/images/arms.png

Three held-out cases: of the best arm's seed shown, those whose Dice, mean of both structures, is the best, the median
and the worst. What is drawn is what `predict` writes with each arm's weights, both structures in one label map.
"""

import shutil
from pathlib import Path

import click
import numpy as np
from matplotlib.colors import to_rgb
from PIL import Image

from challenge.colours import REFERENCE_COLOUR, colour_of
from challenge.contract import STRUCTURES, TARGET_SUFFIX
from challenge.files import written_whole
from experiments.arms import PAPER_ARM, command, copy_paper
from experiments.scores import read_scores

SCANS, REFERENCE = "data/held_out/target_validation", "data/held_out/target_validation_reference"
# title -> arm; a seed of an arm is shown if it has both structures
ARMS = {"source only": "phase1", "paper": PAPER_ARM, "best": "best", "oracle": "oracle"}
_GREYS = 24
_WIDTH = 1500


def chosen_cases(out: Path, seed: int) -> list[str]:
    """Return the best arm's best, median and worst case: by the mean Dice of both structures."""
    dice = []
    for structure in STRUCTURES:
        scores = read_scores(out, "best", structure, "held_out")
        if scores is None or seed not in scores.seeds:
            raise click.ClickException(f"{out}: expected the best arm's scores of seed {seed}; run ladder.py first")
        dice.append(scores.dice[scores.seeds.index(seed)])
        cases = scores.cases
    order = np.argsort(np.mean(dice, axis=0), kind="stable")[::-1]
    return [cases[order[place]] for place in (0, len(order) // 2, -1)]


def shown_weights(out: Path, arm: str, seed: int) -> Path | None:
    """Return the folder of an arm's weights: this seed's, or the first's that has both structures."""
    folders = [out / "arms" / arm / f"seed{seed}", *sorted((out / "arms" / arm).glob("seed*"))]
    both = [folder for folder in folders if all((folder / f"{s.key}.json").exists() for s in STRUCTURES)]
    return both[0] if both else None


def make_small(picture: Path) -> None:
    """Scale the picture down and give it a palette of greys and the outlines' colours, to lie in the repository."""
    image = Image.open(picture).convert("RGB")
    if image.width > _WIDTH:
        size = (_WIDTH, round(image.height * _WIDTH / image.width))
        image = image.resize(size, Image.Resampling.BOX)
    palette = Image.new("P", (1, 1))
    palette.putpalette(bytes(round(channel) for colour in _palette() for channel in colour))
    small = image.quantize(palette=palette, dither=Image.Dither.NONE)
    with written_whole(picture) as partial:
        small.save(partial, format="png", optimize=True)


def _palette() -> list[np.ndarray]:
    """Return greys, and the outlines' colours from full to half."""
    greys = [np.full(3, grey) for grey in np.linspace(0, 255, _GREYS)]
    colours = (REFERENCE_COLOUR, *map(colour_of, STRUCTURES))
    outlines = [np.multiply(to_rgb(colour), 255) for colour in colours]
    return greys + [share * colour + (1 - share) * 90 for colour in outlines for share in (1.0, 0.75, 0.5)]


@click.command(context_settings={"show_default": True})
@click.option("--out", type=click.Path(path_type=Path), default=Path("experiment"), help="What ladder.py was given.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed to show.")
@click.option("--picture", type=click.Path(path_type=Path), default=Path("docs/images/arms.png"), help="PNG to write.")
def main(out: Path, seed: int, picture: Path) -> None:
    """Predict three held-out cases with every arm and draw them."""
    out = out.resolve()
    copy_paper(out)
    cases = chosen_cases(out, seed)
    scans = out / "figure" / "scans"
    shutil.rmtree(scans.parent, ignore_errors=True)
    scans.mkdir(parents=True)
    for case in cases:
        shutil.copy(out / SCANS / (case + TARGET_SUFFIX), scans)
    labels: list[object] = []
    for title, arm in ARMS.items():
        if (weights := shown_weights(out, arm, seed)) is None:
            click.echo(f"{arm}: no weights of both structures in {out / 'arms'}; left out", err=True)
            continue
        folder = scans.parent / arm
        command("predict", "--weights", weights, "--input", scans, "--output", folder)
        labels += ["--labels", f"{title}={folder}"]
    picture.parent.mkdir(parents=True, exist_ok=True)
    named = ", ".join(f"{what} {case}" for what, case in zip(("best", "median", "worst"), cases, strict=True))
    note = f"Phantoms, not patients. Held-out cases of the best arm, seed {seed}: {named}"
    command("picture", "--scans", scans, *labels, "--reference", out / REFERENCE, "--out", picture, "--note", note)
    make_small(picture)


if __name__ == "__main__":
    main()
