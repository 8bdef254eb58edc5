"""From a run to the shipped form: safetensors, and a card that tells where the weights come from."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from challenge.contract import STRUCTURES, Structure
from pipeline.adaptation.statistics import reestimate_statistics
from pipeline.config import OURS
from pipeline.data.cache import normalised_volume
from pipeline.data.dataset import SPLIT_PARTS
from pipeline.data.sampling import TrainingVolume
from pipeline.model.enet import ENet3d
from pipeline.model.weights import save_weights
from pipeline.training.execution import FP32
from pipeline.training.run import (
    ADAPTATION,
    ALL_PHASES,
    CHECKPOINT_FILE,
    CONTROL,
    PHASE_TITLES,
    PHASES,
    SUPERVISED,
    RunError,
    finished_checkpoint,
    network_of,
    progress_of,
    read_settings,
    validation_scores,
)

BEST, LAST = "best", "last"
# A cohort of phantoms is named by these; what else its record holds, of single cases, is not looked at.
PHANTOM_RECORD = "phantom.json"
_PHANTOM_NAMES = ("version", "preset", "hardness", "seed")


def structure_runs(run: Path) -> dict[Structure, Path]:
    """Find the structures' runs in a folder: the folder's own, or those in it that are named after structures.

    Raises:
        RunError: there is none.
    """
    candidates = {s: run / s.key for s in STRUCTURES}
    candidates |= {s: run for s in STRUCTURES if s.key == run.resolve().name}
    found = {s: folder for s, folder in candidates.items() if any((folder / phase).is_dir() for phase in ALL_PHASES)}
    if not found:
        keys = " or ".join(s.key for s in STRUCTURES)
        raise RunError(
            f"{run}: expected a run, or a folder with runs {keys}, got none; name what train --runs was given"
        )
    return found


def export_run(
    folder: Path,
    structure: Structure,
    out: Path,
    *,
    phase: str | None = None,
    which: str | None = None,
    target_statistics: bool = False,
    note: str = "",
    scores: Mapping[str, Any] | None = None,
) -> Path:
    """Write one structure's weights and card to `out`; return the card's path.

    Args:
        folder: of the structure's run.
        structure: what it segments.
        out: made where it is missing.
        phase: whose network; the last of the paper's phases that the run has, by default.
        which: "best" by source validation, or "last". By default phase 1's best, as the paper selects it, and phase 2's
            last: the paper does not say, and the source's Dice would choose the network that has adapted least.
        target_statistics: re-estimate batch norm's statistics on the run's unlabelled target scans, beyond the paper.
        note: a line for the card.
        scores: by name, put on the card beside the source validation's.

    Raises:
        RunError: the run has no such phase, or it has not ended, or its target scans are not known.
        CaseError: a target scan cannot be used.
        OSError: a file cannot be written.
    """
    there = [p for p in PHASES if (folder / p / CHECKPOINT_FILE).exists()]
    chosen = phase or (there[-1] if there else SUPERVISED)
    checkpoint = finished_checkpoint(folder / chosen)
    if checkpoint["structure"] != structure.key:
        raise RunError(f"{folder}: expected a run of {structure.key}, got one of {checkpoint['structure']}")
    best = (which or (BEST if chosen == SUPERVISED else LAST)) == BEST
    network = network_of(checkpoint, best=best)
    card = _card(folder, chosen, best, note)
    settings = read_settings(folder / chosen)
    window = int(settings["settings"]["recipe"]["window"])
    if target_statistics:
        network, told = _with_target_statistics(network, settings, window)
        card["summary"] += f"; {told}"
        card["departures_from_paper"]["statistics"] = f"{told} (pipeline.adaptation.statistics)"
        if card["scores"]["source_validation"]:
            card["scores"]["source_validation"]["statistics"] = "the source's, as trained, not those of these weights"
    card["scores"] |= scores or {}
    return save_weights(out, structure, network, card, window=window)


def _with_target_statistics(network: ENet3d, settings: Mapping[str, Any], window: int) -> tuple[ENet3d, str]:
    """Return a network with the statistics of its run's target scans, and what to say of it."""
    scans: dict[str, str] = settings["record"]["target_scans"]
    if not scans:
        raise RunError("statistics: expected a run that knew the target's scans, got none; train with --phase all")

    def volumes() -> Iterator[TrainingVolume]:
        for case, scan in scans.items():  # one at a time: a hundred whole heads do not fit into memory
            yield TrainingVolume(case, normalised_volume(Path(scan)))

    patches = OURS.statistics_patches
    rng = np.random.default_rng(settings["settings"]["seed"])
    adapted = reestimate_statistics(network, volumes(), window, patches_per_volume=patches, rng=rng)
    told = f"batch norm's statistics re-estimated on {len(scans)} unlabelled target scans, {patches} patches of each"
    return adapted, f"{told}, which is beyond the paper"


def _card(folder: Path, chosen: str, best: bool, note: str) -> dict[str, Any]:
    """Tell everything about the chosen network's phase, and about phase 1 where it began with that."""
    phases = (SUPERVISED,) if chosen == SUPERVISED else (SUPERVISED, chosen)
    told = {phase: _phase(folder / phase) for phase in phases}
    settings = read_settings(folder / chosen)
    record = settings["record"]
    progress = progress_of(finished_checkpoint(folder / chosen))
    number = progress["best_epoch"] if best else progress["epoch"]
    phantoms = {part: phantom_record(Path(cohort)) for part, cohort in record["cohort_folders"].items()}
    phantoms = {part: cohort for part, cohort in phantoms.items() if cohort}
    numbered = {phase: _numbered(phase) for phase in phases}
    card: dict[str, Any] = {
        "spacing_mm": settings["settings"]["spacing_mm"],
        "summary": f"The network of {_told(chosen)}, epoch {number}"
        f" ({'best by source validation' if best else 'the last'}), trained on "
        + ("phantoms: no figure here says anything about patients" if phantoms else "the data below"),
        "note": note,
        "data": {
            "kind": "phantom" if phantoms else "scans",
            "phantoms": phantoms,
            "cases": {part: len(settings["settings"].get(part, [])) for part in SPLIT_PARTS},
            "found": record["data"].splitlines(),
        },
        "schedule": [_schedule(phase, told[phase]) for phase in phases],
        "departures_from_paper": {numbered[phase]: told[phase].pop("departures") for phase in phases},
        "scores": {"source_validation": validation_scores(progress, best=best)},
        "seconds": {numbered[phase]: told[phase].pop("seconds") for phase in phases},
        "machine": record["machine"],
        "version": record["version"],
        "commit": record["commit"],
    }
    return {**card, **{numbered[phase]: told[phase] for phase in phases}}


def _phase(folder: Path) -> dict[str, Any]:
    progress, content = progress_of(finished_checkpoint(folder)), read_settings(folder)
    settings, record = content["settings"], content["record"]
    return {
        "epochs": progress["epoch"],
        "steps": progress["steps_done"],
        "best_epoch": progress["best_epoch"],
        "recipe_name": record["recipe"],
        "recipe": settings["recipe"],
        "seed": settings["seed"],
        "started": record["started"],
        "machine": record["machine"],
        "execution": record.get("execution", FP32),
        "last_losses": {name: round(value, 4) for name, value in progress["history"][-1]["losses"].items()},
        "source_validation": {name: validation_scores(progress, best=name == BEST) for name in (BEST, LAST)},
        "departures": record["departures"],
        "seconds": round(sum(epoch["seconds"] for epoch in progress["history"])),
    }


def _schedule(phase: str, told: dict[str, Any]) -> str:
    recipe = told["recipe"]
    rate = recipe["adaptation_rate" if phase == ADAPTATION else "supervised_rate"]
    steps = f"{told['epochs']} epochs, {told['steps']} steps"
    line = f"{_numbered(phase).replace('phase', 'phase ')}: {steps}, Adam, {rate:g}, cosine annealing"
    return f"{line}, reversal weight by Ganin's ramp to {recipe['grl_weight_max']:g}" if phase == ADAPTATION else line


def _numbered(phase: str) -> str:
    return CONTROL if phase == CONTROL else f"phase{1 + PHASES.index(phase)}"


def _told(phase: str) -> str:
    title, what = PHASE_TITLES[phase].split(", ")
    return f"{title.lower()} ({what})"


def phantom_record(data: Path) -> dict[str, Any]:
    """Return which phantoms a folder holds, by version, preset, hardness and seed; {} where it has none or is gone."""
    try:
        record = json.loads((data / PHANTOM_RECORD).read_text(encoding="utf-8"))
        return {f"phantom_{name}" if name == "version" else name: record[name] for name in _PHANTOM_NAMES}
    except (OSError, ValueError, KeyError):
        return {}


def read_scores(path: Path) -> dict[str, Any]:
    """Read scores for a card: a JSON object of anything.

    Raises:
        RunError: the file is missing or damaged, or holds no object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: expected scores as JSON, got: {error}; check --scores") from error
    if not isinstance(content, dict):
        raise RunError(f"{path}: expected an object of scores by name, got {type(content).__name__}")
    return content
