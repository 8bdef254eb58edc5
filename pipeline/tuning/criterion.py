"""How a trial is judged: its epochs are scored and reported to the study, which may prune the trial."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
import torch

from challenge.contract import Structure
from pipeline.config import SOURCE_TRAINING, SOURCE_VALIDATION, TARGET_TRAINING
from pipeline.data.sampling import TrainingVolume
from pipeline.inference.segment import predict_structure
from pipeline.model.enet import ENet3d
from pipeline.model.weights import Segmenter
from pipeline.training.history import Epoch
from pipeline.training.listeners import Listener
from pipeline.training.recipes import Recipe
from pipeline.training.state import PhaseState
from pipeline.tuning.plan import SearchPlan


@dataclass
class Objective(Listener):
    """Scores a trial after every validated epoch, reports the score, and ends the trial if the pruner says so.

    `scores`, by epoch, are at first those that a retry inherits. `reported` is called after every report, before the
    trial may be pruned.
    """

    plan: SearchPlan
    trial: optuna.Trial
    volumes: Mapping[str, Sequence[TrainingVolume]]
    scores: dict[int, float]
    reported: Callable[[], None]

    def started(self, state: PhaseState) -> None:
        """Report the checkpoint's last epoch: the process may have died before it did."""
        if state.history and not state.batches_done:
            self._report(state, state.history[-1])

    def epoch_finished(self, state: PhaseState) -> None:
        """Report an epoch that was validated.

        Raises:
            TrialPruned: the pruner ends the trial.
        """
        epoch = state.history[-1]
        self._report(state, epoch)
        if epoch.validation is not None:
            self.reported()
            if state.epoch < state.epochs and self.trial.should_prune():
                raise optuna.TrialPruned

    def score(self) -> float:
        """Return the trial's score, by the plan's criterion."""
        return self.plan.criterion.trial_score(self.scores)

    def _report(self, state: PhaseState, epoch: Epoch) -> None:
        if epoch.validation is None or epoch.number in self.scores:
            return
        score = epoch.validation.mean_dice
        if self.plan.criterion.uses_target:
            score *= volume_agreement(
                state.network,
                self.volumes[SOURCE_TRAINING],
                self.volumes[TARGET_TRAINING][: len(self.volumes[SOURCE_VALIDATION])],
                self.plan.run.structure,
                self.plan.run.recipes[self.plan.phase],
                next(state.network.parameters()).device,
            )
        self.scores[epoch.number] = score
        self.trial.report(score, epoch.number)


@torch.inference_mode()
def volume_agreement(
    network: ENet3d,
    source: Sequence[TrainingVolume],
    target: Sequence[TrainingVolume],
    structure: Structure,
    recipe: Recipe,
    device: torch.device,
) -> float:
    """Compare the volumes predicted on target scans with the source labels' mean volume: 1 is equal, 0 is empty.

    The agreement of a scan is the smaller of the two volumes over the larger; the mean over the scans is returned. No
    mask of the target is used. A network that finds nothing scores 0, and one that sees the structure everywhere
    scores almost 0. The network is left in eval mode.

    Args:
        network: to judge.
        source: volumes with masks, which give the expected volume.
        target: volumes to predict.
        structure: what is segmented.
        recipe: its window and overlap.
        device: where to predict.

    Raises:
        ValueError: no target volume, or a source volume without a mask.

    Source: Bateson et al., Constrained Domain Adaptation for Segmentation, MICCAI 2019, and Source-Relaxed Domain
        Adaptation, MICCAI 2020, use the size of a structure as prior knowledge of an unlabelled domain, in the loss.
        To select by it, and this formula, are our choice.
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
