"""What is asked of a run, and the settings in its folder that must match for it to be resumed."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from challenge.contract import Structure
from challenge.files import written_whole
from pipeline.config import PAPER, SPLIT_PARTS
from pipeline.data.dataset import TrainingData
from pipeline.model.enet import ENet3d
from pipeline.training.execution import FP32, Execution
from pipeline.training.phases import PHASES, Phase
from pipeline.training.provenance import commit, machine
from pipeline.training.recipes import Recipe

# Raised when older settings and checkpoints cannot be used any more.
RUN_FORMAT = 2
SETTINGS_FILE = "settings.json"
_PAPERS_CASES = {
    part: last - first + 1
    for part, (first, last) in zip(
        SPLIT_PARTS, (PAPER.source_training_ids, PAPER.source_validation_ids, PAPER.target_training_ids), strict=True
    )
}


class RunError(Exception):
    """A run folder that does not fit what is asked of it: path, expected, got, next step."""


@dataclass(frozen=True)
class RunPlan:
    """What is asked of a run of one structure: its phases, in order, each with its recipe; the data; the seed."""

    structure: Structure
    recipes: Mapping[Phase, Recipe]
    recipe_name: str
    data: TrainingData
    seed: int = 0

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Return the phases to run, in order."""
        return tuple(self.recipes)

    def departures(self, phase: Phase) -> dict[str, str]:
        """Name everything that is not the paper's, or not our default where the paper is silent."""
        named = self.recipes[phase].departures(self.structure)
        if phase.departure:
            named[phase.key] = phase.departure
        if not self.data.is_the_papers_split:
            named["split"] = f"{self.data.split}, instead of the paper's ids"
        counts = {part: (len(self.data.parts[part]), _PAPERS_CASES[part]) for part in phase.reads}
        other = [
            f"{part.replace('_', ' ')} {n} instead of {paper}" for part, (n, paper) in counts.items() if n != paper
        ]
        if other:
            named["cases"] = ", ".join(other)
        return named

    def settings(self, phase: Phase, network: ENet3d | None, execution: Execution) -> dict[str, Any]:
        """Return what decides a phase's weights, in the types that JSON has; `network` is the one it starts from."""
        settings: dict[str, Any] = {
            "structure": self.structure.key,
            "phase": phase.key,
            "seed": self.seed,
            "recipe": asdict(self.recipes[phase]),
            "spacing_mm": PAPER.spacing_mm,
            "precision": execution.precision,
            **{part: [case.case for case in self.data.parts[part]] for part in phase.reads},
        }
        if network is not None:
            settings["starts_from"] = weights_digest(network)
        plain: dict[str, Any] = json.loads(json.dumps(settings))  # so that tuples and lists compare
        return plain

    def record(self, phase: Phase, device: torch.device, execution: Execution) -> dict[str, Any]:
        """Return where and from what a phase is made, for people and for the card."""
        return {
            "recipe": self.recipe_name,
            "departures": self.departures(phase),
            "data": str(self.data),
            "cohort_folders": {p: str(cases[0].cohort_folder) for p, cases in self.data.parts.items() if cases},
            "source_scans": {case.case: str(case.scan.resolve()) for case in self.data.source_training},
            "source_labels": {c.case: str(c.labels.resolve()) for c in self.data.source_training if c.labels},
            "target_scans": {case.case: str(case.scan.resolve()) for case in self.data.target_training},
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(device),
            "execution": str(execution),
            "version": metadata.version("crossmoda-grl"),
            "commit": commit(),
        }


def weights_digest(network: ENet3d) -> str:
    """Return the sha256 of a network's weights and buffers, which are on the CPU."""
    weights = b"".join(tensor.numpy().tobytes() for tensor in network.state_dict().values())
    return hashlib.sha256(weights).hexdigest()


def check_format(path: Path, found: Any) -> None:
    """Refuse a file of a run that another version wrote in another form.

    Raises:
        RunError: `found` is not `RUN_FORMAT`.
    """
    if found != RUN_FORMAT:
        raise RunError(
            f"{path}: expected format {RUN_FORMAT}, got {found}, of another version (1: before November 2026); "
            "start a new run folder, or export with the version that made this one"
        )


def read_settings(folder: Path) -> dict[str, Any]:
    """Read a phase's settings: `settings` must match for the run to be resumed, `record` tells where it was made.

    Raises:
        RunError: they are missing, damaged or of another format.
    """
    path = folder / SETTINGS_FILE
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: expected a run's settings, got: {error}; choose another run folder") from error
    check_format(path, content.get("format", 1))
    return content


def claim(folder: Path, settings: dict[str, Any], record: dict[str, Any]) -> None:
    """Write a new phase's settings, or check that they are those in the folder.

    Raises:
        RunError: the folder holds other settings.
        OSError: they cannot be written.
    """
    folder.mkdir(exist_ok=True)
    path = folder / SETTINGS_FILE
    if path.exists():
        refuse_differences(folder, read_settings(folder)["settings"], settings)
        return
    content = {"format": RUN_FORMAT, "settings": settings, "record": record}
    with written_whole(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def refuse_differences(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to resume a run with other settings than it was started with.

    Raises:
        RunError: they differ; each one's name and values are given.
    """
    if differing := list(differences(_completed(before), now)):
        raise RunError(
            f"{folder}: expected the settings that this run was started with, got others: {'; '.join(differing)}; "
            "repeat them, or choose another --runs folder"
        )


def _completed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Add what older runs do not name: the precision, and fields of recipes, which had today's defaults."""
    defaults = {f.name: f.default for f in fields(PHASES[settings["phase"]].recipe_type) if f.default is not MISSING}
    plain = json.loads(json.dumps(defaults))
    return {"precision": FP32, **settings, "recipe": {**plain, **settings["recipe"]}}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield which settings differ, in the types that JSON has: what each was, and what it is now."""
    for name in sorted({*before, *now}):
        was, is_ = before.get(name), now.get(name)
        if isinstance(was, dict) and isinstance(is_, dict):
            yield from differences(was, is_)
        elif isinstance(was, list) and isinstance(is_, list) and name in SPLIT_PARTS:
            if was != is_:
                changed = sorted({*was} ^ {*is_}) or ["their order"]
                yield f"{name} differs in {', '.join(changed[:5])}"
        elif was != is_:
            yield f"{name} was {was}, is {is_}"
