"""What a search tunes, by which criterion, and what it found: plain records, which nothing of the optimiser's enters.

The spaces stand in `pipeline.config`, beside the paper's chosen values.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from challenge.contract import STRUCTURES, Structure
from challenge.files import written_whole
from pipeline.config import ADAPTATION_SPACE, PAPER, SUPERVISED_SPACE, Parameter
from pipeline.data.sampling import TrainingVolume
from pipeline.inference.segment import predict_structure
from pipeline.model.enet import ENet3d
from pipeline.model.weights import Segmenter
from pipeline.training.checkpoint import best_network
from pipeline.training.named_recipes import RECIPES
from pipeline.training.phases import ADAPTATION, PHASES, SUPERVISED, Phase
from pipeline.training.recipes import Recipe
from pipeline.training.settings import RunPlan, weights_digest

# By the phase's key.
SPACES: Mapping[str, tuple[Parameter, ...]] = {SUPERVISED.key: SUPERVISED_SPACE, ADAPTATION.key: ADAPTATION_SPACE}
# The paper's objective: the best source validation Dice of the phase, by which training itself selects.
SOURCE_DICE = "source-dice"
# Beyond the paper, for phase 2: source Dice of the last epoch x `volume_agreement` on target scans, without a label.
TARGET_VOLUME = "target-volume"
_SCORE_NAMES = {SOURCE_DICE: "source Dice", TARGET_VOLUME: "source Dice x target volume agreement"}

RUNNING, WAITING, COMPLETE, PRUNED, FAILED, RETRIED = "running", "waiting", "complete", "pruned", "failed", "retried"
BEST_FILE, TRIALS_FILE = "best.toml", "trials.csv"


@dataclass(frozen=True)
class SearchPlan:
    """What is asked of a search: one phase of one structure's run, whose recipe it varies, and how trials are judged.

    `starts_from` is the folder of the finished phase 1 that phase 2 starts from.
    """

    run: RunPlan
    criterion: str = SOURCE_DICE
    pruner: str = "median"
    starts_from: Path | None = None

    @property
    def phase(self) -> Phase:
        """Return the one phase that is tuned."""
        (phase,) = self.run.phases
        return phase

    @property
    def space(self) -> tuple[Parameter, ...]:
        """Return the parameters that are tuned."""
        return SPACES[self.phase.key]

    def run_with(self, values: Mapping[str, float]) -> RunPlan:
        """Return the run of a trial: the plan's, with the trial's values in its recipe."""
        changes: dict[str, Any] = dict(values)
        return replace(self.run, recipes={self.phase: replace(self.run.recipes[self.phase], **changes)})

    def settings(self) -> dict[str, Any]:
        """Return what every trial of a study must share, as JSON holds it.

        Raises:
            RunError: the phase 1 to start from has not ended.
        """
        varied = {parameter.name for parameter in self.space}
        recipe = asdict(self.run.recipes[self.phase])
        settings: dict[str, Any] = {
            "structure": self.run.structure.key,
            "phase": self.phase.key,
            "criterion": self.criterion,
            "pruner": self.pruner,
            "space": {parameter.name: asdict(parameter) for parameter in self.space},
            "recipe_name": self.run.recipe_name,
            "recipe": {name: value for name, value in recipe.items() if name not in varied},
            "seed": self.run.seed,
            "spacing_mm": PAPER.spacing_mm,
        }
        for part in self.phase.reads:
            settings[part] = [case.case for case in self.run.data.parts[part]]
        if self.starts_from is not None:
            settings["starts_from"] = weights_digest(best_network(self.starts_from))
        plain: dict[str, Any] = json.loads(json.dumps(settings))
        return plain


@dataclass(frozen=True)
class TrialRow:
    """A trial as a person sees it: its state, values by parameter, last validated epoch, score, time, what happened."""

    number: int
    state: str
    values: dict[str, float]
    epoch: int | None = None
    score: float | None = None
    seconds: float | None = None
    note: str = ""

    def is_at(self, space: Sequence[Parameter]) -> bool:
        """Tell whether the trial stands at the paper's point."""
        return all(self.values.get(parameter.name) == parameter.paper for parameter in space)


def space_of(settings: Mapping[str, Any]) -> tuple[Parameter, ...]:
    """Return the space that a study was made with, from its settings."""
    return tuple(Parameter(**parameter) for parameter in settings["space"].values())


def score_name(settings: Mapping[str, Any]) -> str:
    """Return what a study's score is called, from its settings."""
    return _SCORE_NAMES[settings["criterion"]]


def best_row(rows: Sequence[TrialRow]) -> TrialRow | None:
    """Return the complete trial with the highest score, the first of them; None where none is complete."""
    complete = [row for row in rows if row.state == COMPLETE and row.score is not None]
    return max(complete, key=lambda row: (row.score or 0.0, -row.number), default=None)


def paper_row(rows: Sequence[TrialRow], space: Sequence[Parameter]) -> TrialRow | None:
    """Return the trial at the paper's point; None where none has a score."""
    there = [row for row in rows if row.is_at(space) and row.score is not None]
    return next((row for row in there if row.state == COMPLETE), there[0] if there else None)


def remark_on(row: TrialRow, rows: Sequence[TrialRow], space: Sequence[Parameter]) -> str:
    """Say what is to be said of a trial among the others: the best, the paper's point, what happened to it."""
    marks = {"best": row == best_row(rows), "the paper's point": row.is_at(space), row.note: bool(row.note)}
    return ", ".join(mark for mark, holds in marks.items() if holds)


@torch.inference_mode()
def volume_agreement(
    network: ENet3d,
    source: Sequence[TrainingVolume],
    target: Sequence[TrainingVolume],
    structure: Structure,
    recipe: Recipe,
    device: torch.device,
) -> float:
    """Compare what is predicted on target scans with the source labels' mean volume: 1 the same, 0 nothing predicted.

    For each target scan the smaller of the two volumes over the larger, then the mean; masks of the target are not
    looked at. A collapsed network gives 0, and one that sees the structure everywhere next to 0. Leaves eval mode on.

    Args:
        network: to judge.
        source: volumes with masks, which give the expected volume.
        target: volumes to predict.
        structure: what is segmented.
        recipe: its window and overlap.
        device: where to predict.

    Raises:
        ValueError: no target volume, or a source volume without a mask.

    Source: the size of the structure as what is known of an unlabelled domain, Bateson et al., Constrained Domain
        Adaptation for Segmentation, MICCAI 2019, and Source-Relaxed Domain Adaptation, MICCAI 2020, where it is a loss;
        as a criterion to select by, and in this form, our choice.
    """
    if not target or any(volume.mask is None for volume in source):
        raise ValueError("volumes: expected target volumes, and source volumes with masks, got neither; check the data")
    expected = float(np.mean([len(volume.structure_voxels) for volume in source]))
    segmenter = Segmenter(structure, network.eval(), recipe.window, device, card={})
    agreements = []
    for volume in target:
        probability = predict_structure(volume.volume, segmenter, overlap=recipe.overlap)
        predicted = float(np.count_nonzero(probability >= 0.5))
        agreements.append(min(predicted, expected) / max(predicted, expected))
    return float(np.mean(agreements))


def write_best(path: Path, row: TrialRow, settings: Mapping[str, Any], *, study: str) -> None:
    """Write a trial's settings as `train --config` takes them: what was tuned, and what departs from the recipe named.

    Keys are dotted, so that the files of two phases or structures can be joined into one.

    Raises:
        OSError: the file cannot be written.
    """
    structure, phase = settings["structure"], settings["phase"]
    named = asdict(RECIPES[settings["recipe_name"]][_structure(structure)][PHASES[phase]])
    plain = json.loads(json.dumps(named))
    everywhere = {parameter.name for parameter in space_of(settings) if parameter.of_all_phases}
    own = {name: value for name, value in settings["recipe"].items() if value != plain[name]}
    lines = [
        f"# Trial {row.number} of the study {study}: {settings['criterion']} {row.score:.4f}",
        f"# crossmoda-grl train --recipe {settings['recipe_name']} --config {path.name} ...",
        *(
            f"{structure if name in everywhere else f'{structure}.{phase}'}.{name} = {value!r}"
            for name, value in row.values.items()
        ),
    ]
    if own:
        lines.append("# What the trials' recipe changed beside; take these lines out to train by the recipe as named.")
        lines += [f"{structure}.{phase}.{name} = {json.dumps(value)}" for name, value in own.items()]
    with written_whole(path) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _structure(key: str) -> Structure:
    return next(structure for structure in STRUCTURES if structure.key == key)


def write_trials(path: Path, rows: Sequence[TrialRow], space: Sequence[Parameter]) -> None:
    """Write a row a trial as CSV.

    Raises:
        OSError: the file cannot be written.
    """
    names = [parameter.name for parameter in space]
    with written_whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["trial", "state", *names, "epoch", "score", "seconds", "note"])
        for row in rows:
            values = [row.values.get(name, "") for name in names]
            seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
            writer.writerow([row.number, row.state, *values, row.epoch, row.score, seconds, row.note])
