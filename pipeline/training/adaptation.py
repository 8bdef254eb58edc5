"""Phase 2, training against a domain classifier on both domains: one loop, read from top to bottom.

Source: Kondo 2021, Section 2, Eq. 2; Section 3.
"""

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from challenge.contract import Structure
from pipeline.adaptation.randomisation import augment_by
from pipeline.config import EARLY_LAYER, SOURCE_TRAINING, SOURCE_VALIDATION, TARGET_TRAINING
from pipeline.data.sampling import TrainingVolume, cut_batches, epoch_draws, half_and_half
from pipeline.model.domain import DomainClassifier, reversal_weight
from pipeline.model.enet import ENet3d
from pipeline.model.losses import adaptation_loss, domain_loss, supervised_loss
from pipeline.training.epoch_end import check_finite, validate_if_due
from pipeline.training.execution import PLAIN, BatchForward, Execution
from pipeline.training.listeners import Listener, Listeners
from pipeline.training.phases import ADAPTATION, Phase
from pipeline.training.recipes import AdaptationRecipe
from pipeline.training.state import PhaseState, Trained


def train_adaptation(
    structure: Structure,
    network: ENet3d,
    volumes: Mapping[str, Sequence[TrainingVolume]],
    recipe: AdaptationRecipe,
    *,
    rng: np.random.Generator,
    phase: Phase = ADAPTATION,
    device: torch.device | str = "cpu",
    execution: Execution = PLAIN,
    listeners: Sequence[Listener] = (),
) -> Trained:
    """Train a copy of the network and a domain classifier on both domains with L_D (Eq. 2).

    Half of every batch is source and half is target. Both go through encoder and decoder in one forward, so that they
    share the statistics of batch norm (our choice, the usual step of such adversaries); the target's logits are then
    dropped. An epoch ends with the smaller domain.

    If the classifier cannot tell balanced domains apart, its accuracy is 0.5 and its loss 0.69.

    Args:
        structure: what the source masks show.
        network: phase 1's best; it is not changed.
        volumes: the parts `source_training` and `source_validation`, with masks, and `target_training`, whose masks, if
            there are any, are not looked at.
        recipe: `AdaptationRecipe.paper(structure)`, or another.
        rng: where every random draw comes from; torch's own generator is seeded from it.
        phase: which phase this is, for logs and checkpoints.
        device: where to train.
        execution: how to compute the steps.
        listeners: follow the phase; the first may restore a saved state.

    Raises:
        ValueError: an odd batch size, volumes that the sampler or the validation refuses, or a batch that the processes
            cannot share.
        FloatingPointError: the loss is no longer a number; the batch's cases are named.

    Source: Section 2, Eq. 2; Section 3, "Each batch … is composed the same number of the samples".
    """
    if recipe.batch_size < 2 or recipe.batch_size % 2:
        raise ValueError(f"batch size: expected an even number, half of it for each domain, got {recipe.batch_size}")
    execution.check_batch(recipe.domain_batch, recipe.domain_batch_title)
    device, tell = torch.device(device), Listeners(listeners)
    source, validation = volumes[SOURCE_TRAINING], volumes[SOURCE_VALIDATION]
    target = [TrainingVolume(v.case, v.volume) for v in volumes[TARGET_TRAINING]]
    torch.manual_seed(seed := int(rng.integers(2**31)))
    network = copy.deepcopy(network).to(device)
    early = recipe.feature_layer == EARLY_LAYER
    classifier = DomainClassifier(network.channels[1 if early else 2], recipe.domain_grid).to(device)
    optimiser = torch.optim.Adam([*network.parameters(), *classifier.parameters()], lr=recipe.learning_rate)
    # Stepped once an epoch, our choice, because the paper counts in epochs.
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=recipe.epochs)
    batches_per_epoch = -(-min(len(source), len(target)) * recipe.patches_per_volume // recipe.domain_batch)
    steps = recipe.epochs * batches_per_epoch
    others = {"classifier": classifier}
    state = PhaseState(structure, phase, network, optimiser, schedule, rng, recipe.epochs, batches_per_epoch, others)
    tell.started(state)
    forward = BatchForward(_TwoHeads(network, classifier, early), device, execution, seed=seed)

    for epoch in state.epochs_left():
        network.train()
        classifier.train()
        drawing = recipe.drawing()
        draws = half_and_half(
            epoch_draws(source, rng=rng, augment=augment_by(recipe.augmentation), **drawing),
            epoch_draws(target, rng=rng, **drawing),
        )
        for batch in cut_batches(state.batches_left(draws), execution.workers):
            n = len(batch.cases) // 2
            masks = torch.from_numpy(batch.masks[:n]).to(device)
            is_target = torch.arange(2 * n, device=device) >= n
            weight = reversal_weight(min(state.steps_done / steps, 1.0), recipe.grl_weight_max)

            logits, domain_logits = forward(torch.from_numpy(batch.patches), weight, step=state.steps_done)
            supervised = supervised_loss(logits[:n], masks, recipe.dice_weight)
            loss = adaptation_loss(supervised, domain_loss(domain_logits, is_target))

            check_finite(loss.total, epoch, batch.cases)
            optimiser.zero_grad()
            loss.total.backward()
            optimiser.step()
            state.add_step(
                loss=loss.total,
                cross_entropy=supervised.cross_entropy,
                dice_loss=supervised.dice,
                domain_loss=loss.domain,
                domain_accuracy=((domain_logits > 0) == is_target).float().mean(),
                grl_weight=torch.tensor(weight),
            )
            tell.stepped(state)
        scores = validate_if_due(state, validation, recipe, device, ranks=execution.ranks, listener=tell)
        schedule.step()
        state.finish_epoch(scores)
        tell.epoch_finished(state)
    tell.finished(state)
    return state.trained()


class _TwoHeads(nn.Module):
    """Decoder and domain classifier on one encoder, as one module, because wrappers take modules."""

    def __init__(self, network: ENet3d, classifier: DomainClassifier, early: bool) -> None:
        super().__init__()
        self.network, self.classifier, self.early = network, classifier, early

    def forward(self, patches: torch.Tensor, weight: float) -> tuple[torch.Tensor, torch.Tensor]:
        encoded = self.network.encoder(patches)
        features = encoded.early_features if self.early else encoded.features
        return self.network.decoder(encoded), self.classifier(features, weight)
