"""Where the target's cochleas are, for rounds of self-training on the tumour: see `pipeline.adaptation.nearness`.

They come from the cochlea's own run, beside the tumour's in the runs folder. Each scan is predicted once; a round keeps
the centres in its folder, so that it is resumed with the same ones, whatever has become of the cochlea's run.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from challenge.contract import COCHLEA, VS, Structure
from challenge.files import written_whole
from challenge.nifti import read_image
from pipeline.adaptation.nearness import DistanceRange, Nearness, cochlea_centres, distance_to_nearest
from pipeline.config import BEST, PAPER
from pipeline.data.cases import array_from, read_mask
from pipeline.data.dataset import TrainingCase
from pipeline.data.sampling import TrainingVolume
from pipeline.inference.segment import predict_structure
from pipeline.model.enet import ENet3d
from pipeline.model.weights import Segmenter
from pipeline.training.checkpoint import finished_checkpoint, last_phase, network_of
from pipeline.training.recipes import Recipe
from pipeline.training.settings import RunError, read_settings, weights_digest

COCHLEAS_FILE = "cochleas.json"


def cochlea_factor(recipe: Recipe, structure: Structure) -> float:
    """Return the factor by which a recipe compares the tumour's place with the cochleas; 0 where it does not.

    Raises:
        ValueError: another structure than the tumour.
    """
    factor: float = getattr(recipe, "cochlea_factor", 0.0)
    if factor and structure is not VS:
        raise ValueError(
            f"cochlea_factor: expected it for {VS.key} alone, got it for {structure.key}; write it under [{VS.key}]"
        )
    return factor


def cochlea_network(runs: Path) -> tuple[ENet3d, dict[str, Any]]:
    """Return the network of the last phase of the cochlea's run in a runs folder, on the CPU, and the phase's recipe.

    Raises:
        RunError: there is no such run, or its last phase has not ended.
    """
    folder = runs / COCHLEA.key
    phase = last_phase(folder)
    try:
        network = network_of(finished_checkpoint(folder / phase.key), best=phase.exported_epoch == BEST)
        return network, read_settings(folder / phase.key)["settings"]["recipe"]
    except RunError as error:
        raise RunError(
            f"{folder}: expected the cochlea's finished run, with which cochlea_factor compares tumours, got none "
            f"({error}); train it first, with --structure {COCHLEA.key} and the same --runs"
        ) from error


def find_nearness(
    folder: Path,
    factor: float,
    source: Sequence[TrainingCase],
    target: Sequence[TrainingVolume],
    *,
    device: torch.device,
    after_each: Callable[[], None] = lambda: None,
) -> Nearness:
    """Return where the target's cochleas are and how far the source's tumours are from theirs; keep both in `folder`.

    Args:
        folder: of a round of the tumour's run, `RUNS/vs/{phase}`; what it already holds is not computed again.
        factor: as in `Nearness`.
        source: cases with label maps of both structures; cases without one of them do not count.
        target: volumes on the 0.5 mm grid.
        device: where to predict.
        after_each: called after each scan, and may end the work by raising.

    Raises:
        RunError: as `cochlea_network`, or no source label map holds both structures.
        CaseError: a source label map cannot be read.
        OSError: the file cannot be written.
    """
    path = folder / COCHLEAS_FILE
    known = _read(path)
    if not {volume.case for volume in target} <= set(known["cochleas_mm"]):
        network, recipe = cochlea_network(folder.parent.parent)
        digest = weights_digest(network)
        segmenter = Segmenter(COCHLEA, network.to(device), int(recipe["window"]), device, card={})
        if known["sha256"] != digest:
            known = {"sha256": digest, "source_mm": source_distances(source), "cochleas_mm": {}}
        for volume in target:
            if volume.case not in known["cochleas_mm"]:
                found = predict_structure(volume.volume, segmenter, overlap=recipe["overlap"]) > 0.5
                known["cochleas_mm"][volume.case] = cochlea_centres(found, [PAPER.spacing_mm] * 3).tolist()
                with written_whole(path) as partial:
                    partial.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
                after_each()
    centres = {case: np.reshape(mm, (-1, 3)).astype(np.float64) for case, mm in known["cochleas_mm"].items()}
    return Nearness(centres, DistanceRange(*known["source_mm"]), factor)


def source_distances(cases: Sequence[TrainingCase]) -> DistanceRange:
    """Return the range of the distances between the centres of the tumour and its nearest cochlea in label maps.

    Raises:
        RunError: no label map holds both structures.
        CaseError: a label map cannot be read.
    """
    distances = []
    for case in cases:
        if case.labels is None:
            continue
        spacing = read_image(case.labels).GetSpacing()[::-1]
        tumour, cochlea = (array_from(read_mask(case.labels, structure)) > 0 for structure in (VS, COCHLEA))
        if tumour.any() and cochlea.any():
            distances.append(distance_to_nearest(tumour, cochlea_centres(cochlea, spacing), spacing))
    if not distances:
        raise RunError(
            f"cochlea_factor: expected source label maps with {VS.title} and {COCHLEA.title}, got none of "
            f"{len(cases)}; leave cochlea_factor out"
        )
    return DistanceRange(min(distances), max(distances))


def _read(path: Path) -> dict[str, Any]:
    """Read what a folder holds; a file that is missing or damaged holds nothing."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {name: content[name] for name in ("sha256", "source_mm", "cochleas_mm")}
    except (OSError, ValueError, KeyError, TypeError):
        return {"sha256": "", "source_mm": None, "cochleas_mm": {}}
