"""Choose what is shipped, and export it with its scores. Phantoms, not patients; the held-out ones play no part.

    python -m experiments.ship --out experiment --set paper
    python -m experiments.ship --out experiment --set best

`paper`: for each structure the paper's phase 2, or the same with the target's statistics if the mean tuning Dice of all
seeds is clearly better; then the seed with the highest tuning Dice.

`best`: the last phase of the recipe `best-cpu`, and the seed that is chosen without target labels: the one whose source
validation Dice, times the mean agreement of the views in its last round, is the highest.
"""

import csv
import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np

from challenge.contract import STRUCTURES, Structure
from experiments.arms import ARMS, COHORTS, Arm, command, write_json
from experiments.ladder import RECIPE, rungs
from experiments.scores import read_scores, seed_of
from experiments.table import LADDER, TITLES
from pipeline.training.checkpoint import finished_checkpoint, saved_progress
from pipeline.training.report import PSEUDO_LABELS_FILE
from pipeline.training.settings import RunError

# A smaller gain than this is noise, and the paper's method is shipped.
CLEARLY = 0.01


def choose(out: Path, structure: Structure) -> tuple[Arm, int]:
    """Return the arm and the seed to ship, chosen on the tuning phantoms only."""
    paper, *others = [arm for arm in ARMS if arm.may_ship]
    dice = {arm: tuning_dice(out, arm, structure) for arm in (paper, *others)}
    mean = {arm: float(np.mean([*by_seed.values()])) for arm, by_seed in dice.items()}
    best = max(others, key=lambda arm: mean[arm])
    chosen = best if mean[best] > mean[paper] + CLEARLY else paper
    return chosen, max(dice[chosen], key=lambda seed: dice[chosen][seed])


def choose_without_labels(out: Path, structure: Structure) -> tuple[Arm, int]:
    """Return the best recipe's last arm, and the seed to ship, chosen by what is known without target labels."""
    *_, arm = rungs(structure)
    scores = {}
    for run in sorted((out / "runs" / "best").glob(f"seed*/{structure.key}/{arm.phase}")):
        try:
            scores[seed_of(run.parent)] = label_free_score(run)
        except RunError as error:
            click.echo(f"{error}; this seed is left out", err=True)
    if not scores:
        raise click.ClickException(
            f"{out}: expected finished runs of the recipe {RECIPE}, got none; run ladder.py first"
        )
    click.echo(f"{structure.title}: source Dice x agreement by seed {scores}")
    return arm, max(scores, key=lambda seed: scores[seed])


def label_free_score(run: Path) -> float:
    """Return a round's last source validation Dice, times the mean agreement of the views of its pseudo-labels."""
    history = saved_progress(finished_checkpoint(run))["history"]
    source = float(np.mean(list(history[-1]["validation"]["dice"].values())))
    with (run / PSEUDO_LABELS_FILE).open(encoding="utf-8") as stream:
        agreement = float(np.mean([float(row["agreement"]) for row in csv.DictReader(stream)]))
    return round(source * agreement, 4)


def tuning_dice(out: Path, arm: Arm, structure: Structure) -> dict[int, float]:
    """Return an arm's mean tuning Dice by seed."""
    scores = read_scores(out, arm.name, structure, "tuning")
    if scores is None:
        raise click.ClickException(f"{out}: expected scores of {arm.name} on the tuning phantoms; run arms.py first")
    return dict(zip(scores.seeds, scores.dice.mean(axis=1).tolist(), strict=True))


def summary(out: Path, arm: str, structure: Structure, cohort: str, seed: int) -> dict[str, Any]:
    """Sum up one seed's scores on a cohort, for the card."""
    scores = read_scores(out, arm, structure, cohort)
    if scores is None or seed not in scores.seeds:
        raise click.ClickException(
            f"{out}: expected scores of {arm}, seed {seed}, {structure.key}, on {cohort}, got none; score it first"
        )
    seed = scores.seeds.index(seed)
    dice, assd = scores.dice[seed], scores.assd_mm[seed]
    return {
        "phantom_seed": COHORTS[cohort][0],
        "cases": len(dice),
        "dice_mean": round(float(dice.mean()), 3),
        "dice_sd": round(float(dice.std(ddof=1)), 3),
        "dice_median": round(float(np.median(dice)), 3),
        "assd_mm_mean": round(float(assd.mean()), 2),
        "assd_mm_median": round(float(np.median(assd)), 2),
        "empty": int(scores.empty[seed].sum()),
        "predicted_over_true_volume_median": round(float(np.median(scores.volume_ratio[seed])), 3),
    }


def compared(out: Path, structure: Structure) -> dict[str, Any]:
    """Return every arm's mean Dice by seed on the held-out target and on the source validation phantoms."""
    told: dict[str, Any] = {}
    for arm, title in (TITLES | LADDER).items():
        for cohort in ("held_out", "source_validation"):
            if (scores := read_scores(out, arm, structure, cohort)) is not None:
                means = zip(scores.seeds, scores.dice.mean(axis=1).tolist(), strict=True)
                by_seed = {f"seed {seed}": round(mean, 3) for seed, mean in means}
                told.setdefault(arm, {"title": title.strip("*")})[f"{cohort}_dice"] = by_seed
    return told


def check_scored(out: Path, arm: Arm, structure: Structure, seed: int, exported: Path) -> None:
    """Make sure that an arm's scores are of the weights that were exported, and not of an earlier run's."""
    card = f"{structure.key}.json"
    paths = (out / "arms" / arm.name / f"seed{seed}" / card, exported / card)
    scored, shipped = (json.loads(path.read_text())["sha256"] for path in paths)
    if scored != shipped:
        raise click.ClickException(
            f"{paths[0]}: expected the weights of {arm.runs.format(seed=seed)}, sha256 {shipped}, got {scored}; remove "
            f"{paths[0].parent} and score them again"
        )


@click.command(context_settings={"show_default": True})
@click.option("--out", type=click.Path(path_type=Path), default=Path("experiment"), help="What arms.py was given.")
@click.option("--set", "named", type=click.Choice(["paper", "best"]), default="paper", help="Which set.")
@click.option(
    "--structure", "key", type=click.Choice([s.key for s in STRUCTURES]), help="Only this one.  [default: both]"
)
@click.option("--weights", type=click.Path(path_type=Path), help="Where to export to.  [default: weights/SET]")
def main(out: Path, named: str, key: str | None, weights: Path | None) -> None:
    """Export each structure's chosen network, its card with the scores of every arm."""
    weights = weights or Path("weights") / named
    for structure in (s for s in STRUCTURES if key in (None, s.key)):
        arm, seed = choose(out, structure) if named == "paper" else choose_without_labels(out, structure)
        scores = {
            "target": {cohort: summary(out, arm.name, structure, cohort, seed) for cohort in ("tuning", "held_out")},
            "source_with_these_weights": summary(out, arm.name, structure, "source_validation", seed),
            "how": "each structure predicted alone, on the scans' own grids; ASSD as in 2021, an empty prediction "
            "counts Dice 0 and 350 mm",
            "compared": compared(out, structure),
        }
        path = out / f"{structure.key}_scores.json"
        write_json(path, scores)
        note = (
            f"Phantoms only: no figure here says anything about patients. Training seed {seed}, chosen "
            + ("by the Dice on the tuning phantoms" if named == "paper" else "without target labels")
            + "; docs/results.md has the whole comparison, its arms by the same names."
        )
        run = out / "runs" / arm.runs.format(seed=seed) / structure.key
        flag = ["--target-statistics"] if arm.target_statistics else []
        flag += ["--anatomy"] if arm.anatomy else []
        with TemporaryDirectory() as folder:
            exported = Path(folder)
            command("export", run, "--phase", arm.phase, "--out", exported, "--scores", path, "--note", note, *flag)
            check_scored(out, arm, structure, seed, exported)
            weights.mkdir(parents=True, exist_ok=True)
            for file in exported.iterdir():
                shutil.copy(file, weights)
        click.echo(f"{structure.title}: {json.dumps(scores['target'])}")


if __name__ == "__main__":
    main()
