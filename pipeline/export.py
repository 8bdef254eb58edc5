"""From a run to the shipped form: safetensors, and a card that tells where the weights come from."""

import json
from pathlib import Path
from typing import Any

from evaluation.contract import STRUCTURES, Structure
from pipeline.checkpoints import save_weights
from pipeline.runs import (
    ADAPTATION,
    CHECKPOINT_FILE,
    PHASES,
    SUPERVISED,
    RunError,
    finished_checkpoint,
    network_of,
    progress_of,
    read_settings,
    validation_scores,
)
from pipeline.training_data import SPLIT_PARTS

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
    found = {s: folder for s, folder in candidates.items() if any((folder / phase).is_dir() for phase in PHASES)}
    if not found:
        keys = " or ".join(s.key for s in STRUCTURES)
        raise RunError(
            f"{run}: expected a run, or a folder with runs {keys}, got none; name what train --runs was given"
        )
    return found


def export_run(
    folder: Path, structure: Structure, out: Path, *, phase: str | None = None, which: str | None = None, note: str = ""
) -> Path:
    """Write one structure's weights and card to `out`; return the card's path.

    Args:
        folder: of the structure's run.
        structure: what it segments.
        out: made where it is missing.
        phase: whose network; the last phase that the run has, by default.
        which: "best" by source validation, or "last". By default phase 1's best, as the paper selects it, and phase 2's
            last: the paper does not say, and the source's Dice would choose the network that has adapted least.
        note: a line for the card.

    Raises:
        RunError: the run has no such phase, or it has not ended.
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
    window = int(read_settings(folder / chosen)["settings"]["recipe"]["window"])
    return save_weights(out, structure, network, card, window=window)


def _card(folder: Path, chosen: str, best: bool, note: str) -> dict[str, Any]:
    """Tell everything about the chosen network's phase, and about phase 1 where phase 2 is chosen."""
    phases = PHASES if chosen == ADAPTATION else (SUPERVISED,)
    told = {phase: _phase(folder / phase) for phase in phases}
    settings = read_settings(folder / chosen)
    record = settings["record"]
    progress = progress_of(finished_checkpoint(folder / chosen))
    number = progress["best_epoch"] if best else progress["epoch"]
    phantom = _phantom_record(Path(record["data_folder"]))
    numbered = {phase: f"phase{1 + PHASES.index(phase)}" for phase in phases}
    card: dict[str, Any] = {
        "spacing_mm": settings["settings"]["spacing_mm"],
        "summary": f"The network of phase {1 + PHASES.index(chosen)} ({chosen}), epoch {number}"
        f" ({'best by source validation' if best else 'the last'}), trained on "
        + ("phantoms: no figure here says anything about patients" if phantom else "the data below"),
        "note": note,
        "data": {
            "kind": "phantom" if phantom else "scans",
            **phantom,
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
        "last_losses": {name: round(value, 4) for name, value in progress["history"][-1]["losses"].items()},
        "source_validation": {name: validation_scores(progress, best=name == BEST) for name in (BEST, LAST)},
        "departures": record["departures"],
        "seconds": round(sum(epoch["seconds"] for epoch in progress["history"])),
    }


def _schedule(phase: str, told: dict[str, Any]) -> str:
    recipe = told["recipe"]
    rate = recipe["supervised_rate" if phase == SUPERVISED else "adaptation_rate"]
    steps = f"{told['epochs']} epochs, {told['steps']} steps"
    line = f"phase {1 + PHASES.index(phase)}: {steps}, Adam, {rate:g}, cosine annealing"
    return line if phase == SUPERVISED else f"{line}, reversal weight by Ganin's ramp to {recipe['reversal_maximum']:g}"


def _phantom_record(data: Path) -> dict[str, Any]:
    """Return which phantoms a folder holds; nothing where it holds none, or is no longer there."""
    try:
        record = json.loads((data / PHANTOM_RECORD).read_text(encoding="utf-8"))
        return {f"phantom_{name}" if name == "version" else name: record[name] for name in _PHANTOM_NAMES}
    except (OSError, ValueError, KeyError):
        return {}
