"""Scans on which no arm was developed, scored once, at the end: the stress set, and more. Phantoms, not patients.

    python -m experiments.stress --out experiment
    python -m experiments.stress --out experiment --cohort more_6

docs/phantoms.md says what they are like. Every seed of every arm below is scored that OUT/arms has; scores that exist
are kept, and a missing arm is named and left out.

    OUT/data/{cohort}                                  hrT2 with labels
    OUT/arms/{arm}/seed{S}/{structure}_{cohort}.json   the scores
"""

from pathlib import Path

import click

from challenge.contract import STRUCTURES, TARGET_SUFFIX, Structure
from experiments.arms import PAPER_ARM, PRESET, Scored, command, copy_paper, in_parallel, scores_of, write_json
from experiments.table import ladder
from pipeline.runtime.allocator import keep_large_blocks

# name -> hardness, seed, cases: the stress set, and more phantoms like the held-out ones, because 20 are few
COHORTS = {"stress": ("hard", 5, 20), "more_6": ("standard", 6, 32), "more_7": ("standard", 7, 32)}
# arm -> its title in the table
ARMS = {
    "phase1": "source only",
    PAPER_ARM: "paper, as shipped",
    "best": "best",
    "oracle": "oracle of `standard` phantoms",
}


def make_cohort(data: Path, name: str) -> Scored:
    """Make a cohort, if it is not there; return where it lies."""
    if not (data / name / "phantom.json").exists():
        hardness, seed, cases = COHORTS[name]
        counts = ["--source", 0, "--target", 0, "--validation", cases]
        kind = ["--preset", PRESET, "--hardness", hardness, "--seed", seed]
        command("phantom", "--out", data / name, *counts, *kind)
    return Scored(name, f"{name}/target_validation", f"{name}/target_validation_reference", TARGET_SUFFIX)


def weights_of(out: Path, arm: str, structure: Structure) -> list[Path]:
    """Return the folder of weights of every seed of an arm."""
    return [card.parent for card in sorted((out / "arms" / arm).glob(f"seed*/{structure.key}.json"))]


def score(out: Path, weights: Path, structure: Structure, scored: Scored) -> None:
    """Score one network on a cohort, unless that was done before."""
    path = weights / f"{structure.key}_{scored.name}.json"
    if not path.exists():
        write_json(path, scores_of(weights, structure, out / "data", scored))


@click.command(context_settings={"show_default": True})
@click.option("--out", type=click.Path(path_type=Path), default=Path("experiment"), help="What arms.py was given.")
@click.option("--cohort", type=click.Choice([*COHORTS]), default="stress", help="Which phantoms.")
@click.option("--jobs", type=click.IntRange(min=1), default=2, help="Networks at a time, one thread each.")
def main(out: Path, cohort: str, jobs: int) -> None:
    """Score a cohort and print its tables."""
    keep_large_blocks()
    out = out.resolve()
    scored = make_cohort(out / "data", cohort)
    copy_paper(out)
    work = []
    for structure in STRUCTURES:
        for arm in ARMS:
            folders = weights_of(out, arm, structure)
            work += [(score, out, folder, structure, scored) for folder in folders]
            if not folders:
                click.echo(f"{arm}, {structure.key}: no weights in {out / 'arms'}; left out", err=True)
    in_parallel(jobs, work)
    for structure in STRUCTURES:
        click.echo(f"{structure.title}, phantoms, {cohort}\n")
        click.echo("\n".join(ladder(out, structure, cohort, ARMS)) + "\n")


if __name__ == "__main__":
    main()
