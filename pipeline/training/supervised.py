"""Phase 1, supervised training on the source domain: one loop, read from top to bottom. Its control runs it too.

Source: Kondo 2021, Section 2, Eq. 1; Section 3.
"""

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from challenge.contract import Structure
from pipeline.adaptation.randomisation import augment_by
from pipeline.config import OURS, SOURCE_TRAINING, SOURCE_VALIDATION
from pipeline.data.sampling import TrainingVolume, cut_batches, epoch_draws
from pipeline.model.enet import ENet3d
from pipeline.model.losses import supervised_loss
from pipeline.training.epoch_end import check_finite, validate_if_due
from pipeline.training.execution import PLAIN, BatchForward, Execution
from pipeline.training.listeners import Listener, Listeners
from pipeline.training.phases import SUPERVISED, Phase
from pipeline.training.recipes import ControlRecipe, SupervisedRecipe
from pipeline.training.state import PhaseState, Trained


def train_supervised(
    structure: Structure,
    network: ENet3d | None,
    volumes: Mapping[str, Sequence[TrainingVolume]],
    recipe: SupervisedRecipe | ControlRecipe,
    *,
    rng: np.random.Generator,
    phase: Phase = SUPERVISED,
    device: torch.device | str = "cpu",
    execution: Execution = PLAIN,
    listeners: Sequence[Listener] = (),
) -> Trained:
    """Train on the source domain with L_S (Eq. 1); keep what scores best on its validation cases.

    Args:
        structure: what the masks show.
        network: to start from, which is not changed; None for a new one.
        volumes: the parts `source_training` and `source_validation`, with masks.
        recipe: `SupervisedRecipe.paper(structure)`, or another.
        rng: where every random draw comes from; torch's own generator, for weights and dropout, is seeded from it.
        phase: which phase this is, for logs and checkpoints.
        device: where to train.
        execution: how to compute the steps.
        listeners: follow the phase; the first may restore a saved state.

    Raises:
        ValueError: volumes that the sampler or the validation refuses, a batch that the processes cannot share, or no
            network to start from where the recipe makes none.
        FloatingPointError: the loss is no longer a number; the batch's cases are named.

    Source: Section 2, Eq. 1; Section 3.
    """
    execution.check_batch(recipe.domain_batch, recipe.domain_batch_title)
    device, tell = torch.device(device), Listeners(listeners)
    source, validation = volumes[SOURCE_TRAINING], volumes[SOURCE_VALIDATION]
    torch.manual_seed(seed := int(rng.integers(2**31)))
    if network is not None:
        network = copy.deepcopy(network).to(device)
    elif isinstance(recipe, SupervisedRecipe):
        network = ENet3d(classes=OURS.classes, channels=recipe.channels, input=recipe.input).to(device)
    else:
        raise ValueError(f"{phase.key}: expected a network to start from, got none")
    optimiser = torch.optim.Adam(network.parameters(), lr=recipe.learning_rate)
    # Stepped once an epoch, our choice, because the paper counts in epochs.
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=recipe.epochs)
    batches_per_epoch = -(-len(source) * recipe.patches_per_volume // recipe.batch_size)
    state = PhaseState(structure, phase, network, optimiser, schedule, rng, recipe.epochs, batches_per_epoch)
    tell.started(state)
    forward = BatchForward(network, device, execution, seed=seed)

    for epoch in state.epochs_left():
        network.train()
        draws = epoch_draws(source, rng=rng, augment=augment_by(recipe.augmentation), **recipe.drawing())
        for batch in cut_batches(state.batches_left(draws), execution.workers):
            masks = torch.from_numpy(batch.masks).to(device)
            logits = forward(torch.from_numpy(batch.patches), step=state.steps_done)
            loss = supervised_loss(logits, masks, recipe.dice_weight)
            check_finite(loss.total, epoch, batch.cases)
            optimiser.zero_grad()
            loss.total.backward()
            optimiser.step()
            state.add_step(loss=loss.total, cross_entropy=loss.cross_entropy, dice_loss=loss.dice)
            tell.stepped(state)
        scores = validate_if_due(state, validation, recipe, device, ranks=execution.ranks, listener=tell)
        schedule.step()
        state.finish_epoch(scores)
        tell.epoch_finished(state)
    tell.finished(state)
    return state.trained()
