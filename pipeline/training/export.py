"""From a run to the shipped form: safetensors, and a card that tells where the weights come from."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from challenge.contract import STRUCTURES, Structure
from challenge.nifti import CaseError
from challenge.quantities import counted
from pipeline.adaptation.statistics import reestimate_statistics
from pipeline.config import BEST, LAST, OURS, SOURCE_TRAINING, SPLIT_PARTS, TARGET_TRAINING
from pipeline.data.cache import normalised_volume
from pipeline.data.known import SEEN, measure_labels, measure_scans
from pipeline.data.sampling import TrainingVolume
from pipeline.model.enet import ENet3d
from pipeline.model.rules import PostProcessing
from pipeline.model.weights import save_weights
from pipeline.training.checkpoint import finished_checkpoint, last_phase, network_of, saved_progress
from pipeline.training.execution import FP32
from pipeline.training.phases import PHASES, Phase
from pipeline.training.recipes import Recipe
from pipeline.training.settings import RunError, read_settings
from pipeline.training.summary import validation_scores

# These identify a cohort of phantoms; the rest of its record is about single cases.
PHANTOM_RECORD = "phantom.json"
_PHANTOM_NAMES = ("version", "preset", "hardness", "seed")
_OF_SOURCE = "the source's, as trained, not those of these weights"


@dataclass(frozen=True)
class ExportOptions:
    """What to export, and what to put on the card.

    Attributes:
        phase: key of the phase whose network it is; by default the run's last one that is no comparison.
        which: "best" by source validation, or "last"; by default what the phase's record says.
        target_statistics: re-estimate batch norm's statistics on the run's unlabelled target scans, beyond the paper.
        anatomy: put post-processing on the card: the components that anatomy allows, holes filled; by default for
            phases beyond the paper.
        note: a line for the card.
        scores: by name, put on the card beside the source validation's.
    """

    phase: str | None = None
    which: str | None = None
    target_statistics: bool = False
    anatomy: bool | None = None
    note: str = ""
    scores: Mapping[str, Any] = field(default_factory=dict)


def structure_runs(run: Path) -> dict[Structure, Path]:
    """Find the structures' runs in a folder: the folder's own, or those in it that are named after structures.

    Raises:
        RunError: there is none.
    """
    candidates = {s: run / s.key for s in STRUCTURES}
    candidates |= {s: run for s in STRUCTURES if s.key == run.resolve().name}
    found = {s: folder for s, folder in candidates.items() if any((folder / key).is_dir() for key in PHASES)}
    if not found:
        keys = " or ".join(s.key for s in STRUCTURES)
        raise RunError(
            f"{run}: expected a run, or a folder with runs {keys}, got none; name what train --runs was given"
        )
    return found


def export_run(folder: Path, structure: Structure, out: Path, options: ExportOptions | None = None) -> Path:
    """Write one structure's weights and card to `out`, made where it is missing; return the card's path.

    Raises:
        RunError: the folder holds no run of this structure, the phase has not ended, or its target scans are not known.
        CaseError: a target scan cannot be used.
        OSError: a file cannot be written.
    """
    options = options or ExportOptions()
    phase = PHASES[options.phase] if options.phase else last_phase(folder)
    checkpoint = finished_checkpoint(folder / phase.key)
    if checkpoint["structure"] != structure.key:
        raise RunError(f"{folder}: expected a run of {structure.key}, got one of {checkpoint['structure']}")
    best = (options.which or phase.exported_epoch) == BEST
    network = network_of(checkpoint, best=best)
    card = _card(folder, phase, best, options.note)
    settings = read_settings(folder / phase.key)
    window = int(settings["settings"]["recipe"]["window"])
    if options.target_statistics:
        network, told = _with_target_statistics(network, settings, window)
        card["summary"] += f"; {told}"
        card["departures_from_paper"]["statistics"] = f"{told} (pipeline.adaptation.statistics)"
        if card["scores"]["source_validation"]:
            card["scores"]["source_validation"]["statistics"] = _OF_SOURCE
    if options.anatomy if options.anatomy is not None else not (phase.is_the_papers or phase.is_comparison):
        rules = PostProcessing(components=OURS.components[structure], fill_holes=True)
        card["postprocessing"] = rules.as_card()
        card["departures_from_paper"]["postprocessing"] = f"{rules.components} component, holes filled"
    card[SEEN] = _seen(structure, settings, phase, with_target=options.target_statistics)
    card["scores"] |= options.scores
    return save_weights(out, structure, network, card, window=window)


def _seen(structure: Structure, settings: Mapping[str, Any], phase: Phase, *, with_target: bool) -> dict[str, Any]:
    """Return what the weights have seen, for the card: the target's scans if they have, and else the source's.

    Data that are gone, or that an older run did not record, do not stop the export: the card says so.
    """
    with_target |= TARGET_TRAINING in phase.reads
    part, recorded = (TARGET_TRAINING, "target_scans") if with_target else (SOURCE_TRAINING, "source_scans")
    labels, scans = (list(map(Path, settings["record"].get(name, {}).values())) for name in ("source_labels", recorded))
    if not (labels and scans):
        return {"not_measured": "the run does not record where its scans and label maps are"}
    try:
        return {"label_volumes_mm3": measure_labels(labels, structure), "scans": measure_scans(scans, part)}
    except CaseError:
        # Its message can name folders of this machine, which are nothing for a card.
        return {"not_measured": "the run's scans or label maps can no longer be read"}


def _with_target_statistics(network: ENet3d, settings: Mapping[str, Any], window: int) -> tuple[ENet3d, str]:
    """Return a network with the statistics of its run's target scans, and a sentence about that."""
    scans: dict[str, str] = settings["record"]["target_scans"]
    if not scans:
        raise RunError(
            "statistics: expected a run that found target scans, got one without; train a phase that needs them"
        )

    def volumes() -> Iterator[TrainingVolume]:
        for case, scan in scans.items():  # one at a time, because a hundred whole heads do not fit into memory
            yield TrainingVolume(case, normalised_volume(Path(scan)))

    patches = OURS.statistics_patches
    rng = np.random.default_rng(settings["settings"]["seed"])
    adapted = reestimate_statistics(network, volumes(), window, patches_per_volume=patches, rng=rng)
    told = f"batch norm's statistics re-estimated on {len(scans)} unlabelled target scans, {patches} patches of each"
    return adapted, f"{told}, which is beyond the paper"


def _card(folder: Path, phase: Phase, best: bool, note: str) -> dict[str, Any]:
    """Return the card of a phase's network, with the facts of the phases that it starts from."""
    phases = _lineage(folder, phase)
    facts = {p: _facts(folder / p.key) for p in phases}
    settings, record = (read_settings(folder / phase.key)[name] for name in ("settings", "record"))
    progress = saved_progress(finished_checkpoint(folder / phase.key))
    number = progress["best_epoch"] if best else progress["epoch"]
    phantoms = {part: phantom_record(Path(cohort)) for part, cohort in record["cohort_folders"].items()}
    phantoms = {part: cohort for part, cohort in phantoms.items() if cohort}
    names = {p: p.title.lower().replace(" ", "") for p in phases}
    card: dict[str, Any] = {
        "spacing_mm": settings["spacing_mm"],
        "summary": f"The network of {phase.title.lower()} ({phase.description}), epoch {number}"
        f" ({'best by source validation' if best else 'the last'}), trained on "
        + ("phantoms: no figure here says anything about patients" if phantoms else "the data below"),
        "note": note,
        "data": {
            "kind": "phantom" if phantoms else "scans",
            "phantoms": phantoms,
            "cases": {part: len(settings.get(part, [])) for part in SPLIT_PARTS},
            "found": record["data"].splitlines(),
        },
        "schedule": [_schedule(p, facts[p]) for p in phases],
        "departures_from_paper": {names[p]: facts[p].pop("departures") for p in phases},
        "scores": {"source_validation": _source_scores(progress, settings["recipe"], best=best)},
        "seconds": {names[p]: facts[p].pop("seconds") for p in phases},
        "machine": record["machine"],
        "version": record["version"],
        "commit": record["commit"],
    }
    return {**card, **{names[p]: facts[p] for p in phases}}


def _lineage(folder: Path, phase: Phase) -> list[Phase]:
    """Return the phases that led to a phase's network, in order, the phase itself last."""
    lineage = [phase]
    while start := lineage[0].start(_saved_recipe(folder, lineage[0])):
        lineage.insert(0, PHASES[start])
    return lineage


def _saved_recipe(folder: Path, phase: Phase) -> Recipe:
    """Return the recipe in a phase's settings, without what only another version knows; JSON has lists for tuples."""
    saved, known = read_settings(folder / phase.key)["settings"]["recipe"], {f.name for f in fields(phase.recipe_type)}
    return phase.recipe_type(**{name: value for name, value in saved.items() if name in known})


def _facts(folder: Path) -> dict[str, Any]:
    progress, content = saved_progress(finished_checkpoint(folder)), read_settings(folder)
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
        "source_validation": {
            which: _source_scores(progress, settings["recipe"], best=which == BEST) for which in (BEST, LAST)
        },
        "departures": record["departures"],
        "seconds": round(sum(epoch["seconds"] for epoch in progress["history"])),
    }


def _source_scores(progress: dict[str, Any], recipe: Mapping[str, Any], *, best: bool) -> dict[str, Any] | None:
    """Return a phase's source validation; with separate statistics it had the source's, the weights the target's."""
    scores = validation_scores(progress, best=best)
    if scores and recipe.get("separate_statistics"):
        scores["statistics"] = _OF_SOURCE
    return scores


def _schedule(phase: Phase, facts: dict[str, Any]) -> str:
    recipe = facts["recipe"]
    steps = f"{counted(facts['epochs'], 'epoch')}, {counted(facts['steps'], 'step')}"
    line = f"{phase.title.lower()}: {steps}, Adam, {recipe['learning_rate']:g}, cosine annealing"
    if "grl_weight_max" in recipe:
        line += f", reversal weight by Ganin's ramp to {recipe['grl_weight_max']:g}"
    return line


def phantom_record(data: Path) -> dict[str, Any]:
    """Return the version, preset, hardness and seed of the phantoms in a folder; {} if it holds none or is gone."""
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
