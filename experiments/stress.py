"""The stress set: scans on which no arm was developed, scored once, at the end. Phantoms, not patients.

    python -m experiments.stress --out experiment

docs/phantoms.md says what they are like. Every seed of every arm below is scored that OUT/arms has; scores that exist
are kept, and a missing arm is named and left out.

    OUT/data/stress                                  seed 5: 20 hrT2 of hardness `hard`, with labels
    OUT/arms/{arm}/seed{S}/{structure}_stress.json   the scores
"""

from pathlib import Path

import click

from challenge.contract import STRUCTURES, TARGET_SUFFIX, Structure
from experiments.arms import PAPER_ARM, PRESET, Scored, command, copy_paper, in_parallel, scores_of, write_json
from experiments.table import ladder
from pipeline.runtime.allocator import keep_large_blocks

LEVEL, SEED, CASES = "hard", 5, 20
STRESS = Scored("stress", "stress/target_validation", "stress/target_validation_reference", TARGET_SUFFIX)
# arm -> its title in the table
ARMS = {
    "phase1": "source only",
    PAPER_ARM: "paper, as shipped",
    "best": "best",
    "oracle": "oracle of `standard` phantoms",
}


def make_stress(data: Path) -> None:
    """Make the cohort, if it is not there."""
    if not (data / "stress" / "phantom.json").exists():
        counts = ["--source", 0, "--target", 0, "--validation", CASES]
        kind = ["--preset", PRESET, "--hardness", LEVEL, "--seed", SEED]
        command("phantom", "--out", data / "stress", *counts, *kind)


def weights_of(out: Path, arm: str, structure: Structure) -> list[Path]:
    """Return the folder of weights of every seed of an arm."""
    return [card.parent for card in sorted((out / "arms" / arm).glob(f"seed*/{structure.key}.json"))]


def score_stress(out: Path, weights: Path, structure: Structure) -> None:
    """Score one network on the stress set, unless that was done before."""
    path = weights / f"{structure.key}_{STRESS.name}.json"
    if not path.exists():
        write_json(path, scores_of(weights, structure, out / "data", STRESS))


@click.command(context_settings={"show_default": True})
@click.option("--out", type=click.Path(path_type=Path), default=Path("experiment"), help="What arms.py was given.")
@click.option("--jobs", type=click.IntRange(min=1), default=2, help="Networks at a time, one thread each.")
def main(out: Path, jobs: int) -> None:
    """Score the stress set and print its tables."""
    keep_large_blocks()
    out = out.resolve()
    make_stress(out / "data")
    copy_paper(out)
    work = []
    for structure in STRUCTURES:
        for arm in ARMS:
            folders = weights_of(out, arm, structure)
            work += [(score_stress, out, folder, structure) for folder in folders]
            if not folders:
                click.echo(f"{arm}, {structure.key}: no weights in {out / 'arms'}; left out", err=True)
    in_parallel(jobs, work)
    for structure in STRUCTURES:
        click.echo(f"{structure.title}, phantoms, stress set\n")
        click.echo("\n".join(ladder(out, structure, STRESS.name, ARMS)) + "\n")


if __name__ == "__main__":
    main()
