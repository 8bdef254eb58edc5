"""The ladder beyond the paper: trains the recipe `best-cpu`, scores every rung of it. Phantoms, not patients.

    python -m experiments.ladder --out experiment --seeds 3 --jobs 2
    python -m experiments.table --out experiment

Uses the data of `experiments.arms`, makes it where it is missing, and leaves its files beside those; the same command
resumes where it was stopped.

    OUT/runs/best/seed{S}                the recipe's phases
    OUT/runs/{arm}/seed{S}               the same with one thing changed; phases that do not change are copied
    OUT/arms/{arm}/seed{S}               weights, and scores of the cohorts
    OUT/arms/{arm}/seed{S}/*_labels.csv  the true Dice of a round's pseudo-labels, for the report alone
"""

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import click
import numpy as np

from challenge.contract import COCHLEA, STRUCTURES, VS, Structure, label_file
from challenge.files import written_whole
from evaluation.metrics import count_overlap, dice
from experiments.arms import Arm, command, copy_once, in_parallel, make_data, options, score_arm, train_options
from pipeline.data.cache import structure_mask
from pipeline.runtime.allocator import keep_large_blocks
from pipeline.training.named_recipes import RECIPES, chosen_recipes
from pipeline.training.phases import ADAPTATION, MEAN_TEACHER, PHASES, SELF_TRAINING, SUPERVISED, Phase
from pipeline.training.report import PSEUDO_LABELS_FILE, PSEUDO_LABELS_FOLDER, read_pseudo_label

RECIPE = "best-cpu"


@dataclass(frozen=True)
class Change:
    """An arm that differs from the best in one thing: the configuration that says so.

    Phases that the configuration leaves as they are are not trained again, but copied from the base of the same seed.

    Attributes:
        config: TOML, as `train --config` takes it.
        last: key of the phase to end with, which is scored; None for the recipe's last. A phase that the recipe does
            not list follows the base's phase 1.
        structures: for which it is trained.
        base: the arm whose phases it shares, and which is trained before it.
        with_cochlea: whether the VS needs the cochlea's finished run beside its own.
    """

    name: str
    config: str = ""
    last: str | None = None
    structures: tuple[Structure, ...] = STRUCTURES
    base: str = "best"
    with_cochlea: bool = False


_PHASE1 = SUPERVISED.key
_VOXELS = 'input = "volume"'
_PHASE_1_OF_40 = "[supervised]\nepochs = 40\n"
_WITHOUT_REVERSAL = "[adaptation]\ngrl_weight_max = 0.0"
_AS_IN_THE_ROUNDS = '[vs.adaptation]\naugmentation = "light"\n'
_RANDOMISED = 'augmentation = "mild"\ntarget_augmentation = "light"'
# The cochlea's round 1 with the network that labels, trained further, where the best trains a new one.
_FURTHER = f"""[cochlea.self_training_1]
{_RANDOMISED}
input = "teacher"
learning_rate = 3e-4
epochs = 12
validate_every = 12
separate_statistics = false
"""
_IN_BOTH_ROUNDS = f"[cochlea.self_training_1]\n{_RANDOMISED}\n[cochlea.self_training_2]\n{_RANDOMISED}"
_ROUND_ON_DESCRIPTORS = _FURTHER + 'teacher = "both"\nflipped_view = false'
# The VS with random contrast; the cochlea with the target's statistics, without which phase 1 does not find it.
_VOXELS_FROM_THE_FIRST = f"""
[vs]
augmentation = "contrast"
[vs.supervised]
{_VOXELS}
epochs = 60
validate_every = 50
[cochlea.supervised]
{_VOXELS}
{_FURTHER}teacher = "statistics"
[cochlea.self_training_2]
{_RANDOMISED}
teacher = "network"
separate_statistics = false
"""


def _alone(augmentation: str) -> str:
    """Return the configuration of one augmentation in phase 1 alone, on voxels."""
    return f'{_PHASE_1_OF_40}augmentation = "{augmentation}"\n{_VOXELS}'


# First what phase 1 is worth with one arm alone, then what else can follow it, then what is left out of the best.
CHANGES = (
    Change("random-contrast", _alone("contrast"), _PHASE1),
    Change("convolution", _alone("convolution"), _PHASE1, (VS,)),
    Change("label-aware", _alone("mixed"), _PHASE1, (VS,)),
    Change("tumour-intensity", _alone("structure"), _PHASE1, (VS,)),
    Change("mild", _alone("mild"), _PHASE1, (COCHLEA,)),
    Change("mind", f'{_PHASE_1_OF_40}input = "mind"', _PHASE1),
    Change("mind-randomised", f'{_PHASE_1_OF_40}augmentation = "contrast"', _PHASE1, (VS,)),
    Change("fewer-epochs", _PHASE_1_OF_40, structures=(VS,)),
    Change("voxels", _VOXELS_FROM_THE_FIRST),
    Change("adversary", last=ADAPTATION.key, base="voxels"),
    Change("adversary-off", _WITHOUT_REVERSAL, ADAPTATION.key, base="voxels"),
    Change("adversary-mind", _AS_IN_THE_ROUNDS, ADAPTATION.key),
    Change("adversary-mind-off", f"{_WITHOUT_REVERSAL}\n{_AS_IN_THE_ROUNDS}", ADAPTATION.key),
    Change("mean-teacher", last=MEAN_TEACHER.key, structures=(VS,)),
    Change("mean-teacher", last=MEAN_TEACHER.key, structures=(COCHLEA,), base="voxels"),
    Change("mind-fine-round", _ROUND_ON_DESCRIPTORS, SELF_TRAINING[0].key, (COCHLEA,)),
    Change("own-teacher", '[self_training_1]\nteacher = "network"\nflipped_view = true', structures=(VS,)),
    Change("no-agreement", "agreement = 0.0"),
    Change("not-randomised", 'augmentation = "none"\ntarget_augmentation = "none"', structures=(VS,)),
    Change("randomised", _IN_BOTH_ROUNDS, structures=(COCHLEA,)),
    Change("nearness", "cochlea_factor = 1.5", structures=(VS,), with_cochlea=True),
)


def rungs(structure: Structure) -> Iterator[Arm]:
    """Yield an arm for every phase of the best recipe, the last of which is the best itself."""
    yield from arms_of("best", RECIPES[RECIPE][structure], may_ship=True)


def arms_of(name: str, phases: Iterable[Phase], *, may_ship: bool = False) -> Iterator[Arm]:
    """Yield an arm for each phase of the runs of this name; the last one has the name alone."""
    *earlier, last = phases
    for phase in earlier:
        yield Arm(f"{name}:{phase.key}", f"{name}/seed{{seed}}", phase.key, anatomy=True, may_ship=may_ship)
    yield Arm(name, f"{name}/seed{{seed}}", last.key, anatomy=True, may_ship=may_ship)


def with_statistics(structure: Structure) -> Iterator[Arm]:
    """Yield an arm for every phase of the best recipe, with the target's batch statistics."""
    for arm in rungs(structure):
        yield replace(arm, name=f"{arm.name}+statistics", target_statistics=True)


def run_best(out: Path, structure: Structure, seed: int) -> None:
    """Train the best recipe, and score every rung."""
    train(out, structure, seed, "best", {})
    for arm in (*rungs(structure), *with_statistics(structure)):
        score_arm(out, arm, structure, seed)
        score_pseudo_labels(out, arm, structure, seed)


def run_change(out: Path, structure: Structure, seed: int, change: Change) -> None:
    """Train the best recipe with one thing changed, up to the change's last phase; score that phase.

    Of a change that shares no phase with its base, the earlier phases are scored as well.
    """
    config = out / f"{change.name}.toml"
    with written_whole(config) as partial:
        partial.write_text(change.config + "\n", encoding="utf-8")
    shared, phases = shared_phases(structure, change, config), trained_phases(structure, change)
    copy_from_base(out, structure, seed, change, shared)
    for phase in phases:
        train(out, structure, seed, change.name, {"--config": config, "--phase": phase.key})
    for arm in arms_of(change.name, phases[-1:] if shared else phases):
        score_arm(out, arm, structure, seed)
        score_pseudo_labels(out, arm, structure, seed)


def copy_from_base(out: Path, structure: Structure, seed: int, change: Change, shared: Iterable[Phase]) -> None:
    """Copy what a change shares with the arm that it is based on, before it trains anything itself."""
    base, mine = (out / "runs" / name / f"seed{seed}" for name in (change.base, change.name))
    copied = [Path(structure.key, phase.key) for phase in shared]
    if change.with_cochlea:
        copied.append(Path(COCHLEA.key))
    for folder in copied:
        copy_once(base / folder, mine / folder)


def trained_phases(structure: Structure, change: Change) -> list[Phase]:
    """Return the phases of an arm that `train` is called for; those that were copied have nothing left to do."""
    phases = [*RECIPES[RECIPE][structure]]
    if change.last is None:
        return phases
    last = PHASES[change.last]
    return phases[: phases.index(last) + 1] if last in phases else [last]


def shared_phases(structure: Structure, change: Change, config: Path) -> list[Phase]:
    """Return the leading phases that a change leaves as its base has them; both configurations lie in one folder."""
    phases, of_base = trained_phases(structure, change), config.with_name(f"{change.base}.toml")
    if phases[0] not in RECIPES[RECIPE][structure]:
        mine = chosen_recipes(RECIPE, structure, phases=[SUPERVISED], config=config)
        if mine[SUPERVISED] != RECIPES[RECIPE][structure][SUPERVISED]:
            raise ValueError(
                f"{change.name}: expected phase 1 as in {change.base}, from which it is copied, got another recipe for "
                "it; end with a phase of the recipe, or base it on an arm with that phase 1"
            )
        return [SUPERVISED]
    base = chosen_recipes(RECIPE, structure, config=of_base if of_base.exists() else None)
    changed = chosen_recipes(RECIPE, structure, phases=phases, config=config)
    return list(takewhile(lambda phase: changed[phase] == base[phase], changed))


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
@click.option("--change-seeds", type=click.IntRange(min=1), default=1, help="Training seeds of the changes, from 0.")
@click.option(
    "--only",
    type=click.Choice([*dict.fromkeys(change.name for change in CHANGES)]),
    multiple=True,
    help="Of the changes, train only this one; can be repeated.  [default: all]",
)
@click.option("--jobs", type=click.IntRange(min=1), default=2, help="Processes at a time, one thread each.")
def main(out: Path, seeds: int, change_seeds: int, only: tuple[str, ...], jobs: int) -> None:
    """Train and score the ladder; the same command resumes where it was stopped."""
    keep_large_blocks()
    out = out.resolve()
    make_data(out / "data")
    in_parallel(jobs, [(run_best, out, s, seed) for seed in range(max(seeds, change_seeds)) for s in STRUCTURES])
    changes = [change for change in CHANGES if not only or change.name in only]
    bases = {change.base for change in changes}
    for round_of in ([c for c in CHANGES if c.name in bases], [c for c in changes if c.name not in bases]):
        in_parallel(
            jobs,
            [(run_change, out, s, seed, c) for seed in range(change_seeds) for c in round_of for s in c.structures],
        )


if __name__ == "__main__":
    main()
