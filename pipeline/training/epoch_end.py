"""What every phase does at the end of a step and of an epoch: it checks the loss, and validates on the source.

Source: Kondo 2021, Section 3, "the model showing the highest Dice value for the validation data".
"""

from collections.abc import Sequence

import numpy as np
import torch

from challenge.contract import Structure
from evaluation.metrics import count_overlap, dice
from pipeline.adaptation.statistics import with_statistics_of
from pipeline.data.sampling import TrainingVolume
from pipeline.inference.segment import predict_structure
from pipeline.model.enet import ENet3d
from pipeline.model.inference_form import for_inference
from pipeline.model.weights import Segmenter
from pipeline.runtime.distributed import ALONE, Ranks
from pipeline.training.history import Validation
from pipeline.training.listeners import Listener
from pipeline.training.recipes import Recipe
from pipeline.training.state import PhaseState


def check_finite(loss: torch.Tensor, epoch: int, cases: Sequence[str]) -> None:
    """Refuse a loss, of shape (), that is no number.

    Raises:
        FloatingPointError: it is not finite; the batch's cases are named.
    """
    if not torch.isfinite(loss):
        raise FloatingPointError(
            f"epoch {epoch}, cases {', '.join(cases)}: expected a finite loss, got {loss.item()}; "
            "look at these scans, or lower the learning rate"
        )


def validate_if_due(
    state: PhaseState,
    volumes: Sequence[TrainingVolume],
    recipe: Recipe,
    device: torch.device,
    *,
    ranks: Ranks = ALONE,
    listener: Listener | None = None,
    statistics: ENet3d | None = None,
) -> Validation | None:
    """Validate the current epoch's network, as `validate` does, if the recipe validates this epoch.

    With `statistics`, that network's running ones stand in for its own.
    """
    epoch = state.epoch + 1
    if epoch % recipe.validate_every and epoch != recipe.epochs:
        return None
    # A copy: whoever stops a run during validation saves the state's network.
    network = state.network if statistics is None else with_statistics_of(state.network, statistics)
    return validate(network, volumes, state.structure, recipe, device, ranks=ranks, state=state, listener=listener)


def validate(
    network: ENet3d,
    volumes: Sequence[TrainingVolume],
    structure: Structure,
    recipe: Recipe,
    device: torch.device,
    *,
    ranks: Ranks = ALONE,
    state: PhaseState | None = None,
    listener: Listener | None = None,
) -> Validation:
    """Predict whole volumes as scans are predicted, in float32, and compare at 0.5 mm; leaves the network in eval mode.

    Several processes share the volumes, and all return the same. The listener hears of every volume of this process's,
    with the state.

    Raises:
        ValueError: a volume without a mask, or with an empty one.
    """
    segmenter = Segmenter(structure, network.eval(), recipe.window, device, card={})
    if device.type == "cpu":
        segmenter = for_inference(segmenter)
    table = np.zeros((len(volumes), 3))  # Dice, predicted voxels, true voxels
    for volume, row in list(zip(volumes, table, strict=True))[ranks.shard]:
        if volume.mask is None or not volume.mask.any():
            raise ValueError(f"{volume.case}: expected a mask with voxels to validate against, got none")
        prediction = predict_structure(volume.volume, segmenter, overlap=recipe.overlap) >= 0.5
        counts = count_overlap(volume.mask, prediction)
        row[:] = dice(counts), counts.prediction_voxels, counts.reference_voxels
        if listener is not None and state is not None:
            listener.validated(state, volume, prediction)
    scores, predicted_voxels, true_voxels = ranks.sum(table).T
    cases = (volume.case for volume in volumes)
    return Validation(dict(zip(cases, scores.tolist(), strict=True)), float(predicted_voxels.sum() / true_voxels.sum()))
