"""A round of self-training: the target's pseudo-labels beside the source's labels. Beyond the paper.

The target is labelled once, at the start of a round; several rounds are several phases of a run.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from challenge.contract import Structure
from pipeline.adaptation.nearness import Nearness
from pipeline.adaptation.pseudo_labels import PseudoLabel, PseudoLabelRules, pseudo_label, volume_range
from pipeline.adaptation.randomisation import augment_by
from pipeline.adaptation.statistics import reestimate_statistics, statistics_of
from pipeline.config import OURS, PAPER, SOURCE_TRAINING, SOURCE_VALIDATION, TARGET_TRAINING
from pipeline.data.sampling import TrainingVolume, cut_batches, epoch_draws, half_and_half
from pipeline.inference.segment import predict_structure
from pipeline.model.enet import ENet3d
from pipeline.model.losses import supervised_loss
from pipeline.model.weights import Segmenter
from pipeline.training.epoch_end import check_finite, validate_if_due
from pipeline.training.execution import PLAIN, BatchForward, Execution
from pipeline.training.listeners import Listener, Listeners
from pipeline.training.phases import SELF_TRAINING, Phase
from pipeline.training.recipes import NETWORK, STATISTICS, TEACHERS_INPUT, SelfTrainingRecipe
from pipeline.training.state import PhaseState, Trained


def train_self_training(
    structure: Structure,
    network: ENet3d,
    volumes: Mapping[str, Sequence[TrainingVolume]],
    recipe: SelfTrainingRecipe,
    *,
    rng: np.random.Generator,
    phase: Phase = SELF_TRAINING[0],
    device: torch.device | str = "cpu",
    execution: Execution = PLAIN,
    listeners: Sequence[Listener] = (),
    nearness: Nearness | None = None,
) -> Trained:
    """Label the target with the network, then train a copy of it with L_S (Eq. 1) on both domains' labels.

    Where the recipe names another input than the network's, a new network is trained instead of a copy: descriptors,
    say, find a structure in either domain, and voxels then show its outline.

    Half of every batch is source, half is target with pseudo-labels. Both go through the network in one forward, so
    that batch norm has both domains' statistics; or one after the other, each with its own, as the recipe says. An
    epoch takes as many patches of the target as of the source, however few of its cases are kept.

    Args:
        structure: what the masks show.
        network: labels the target and is trained further; it is left alone.
        volumes: the parts `source_training` and `source_validation`, with masks, and `target_training`, whose masks, if
            there are any, are not looked at.
        recipe: the round's.
        rng: where every random draw comes from; torch's own generator is seeded from it.
        phase: which phase this is, for logs and checkpoints.
        device: where to train.
        execution: how to compute the steps.
        listeners: follow the phase; the first may restore a saved state.
        nearness: where tumours may lie, if the recipe has a `cochlea_factor`.

    Raises:
        ValueError: an odd batch size, no target case whose pseudo-label is kept, volumes that the sampler or the
            validation refuses, or a batch that the processes cannot share.
        FloatingPointError: the loss is no longer a number; the batch's cases are named.
    """
    if recipe.batch_size < 2 or recipe.batch_size % 2:
        raise ValueError(f"batch size: expected an even number, half of it for each domain, got {recipe.batch_size}")
    execution.check_batch(recipe.domain_batch, recipe.domain_batch_title)
    device, tell = torch.device(device), Listeners(listeners)
    source, validation = volumes[SOURCE_TRAINING], volumes[SOURCE_VALIDATION]
    target = [TrainingVolume(v.case, v.volume) for v in volumes[TARGET_TRAINING]]
    torch.manual_seed(seed := int(rng.integers(2**31)))
    # A stream of its own, so that a resumed round labels the target as the interrupted one did.
    label_rng = np.random.default_rng(int(rng.integers(2**63)))
    given = network.to(device)
    is_new = recipe.input not in (TEACHERS_INPUT, network.input)
    network = (_new_network(network, recipe.input) if is_new else copy.deepcopy(network)).to(device)
    of_source = copy.deepcopy(network) if recipe.separate_statistics else None  # for its running statistics alone
    optimiser = torch.optim.Adam(network.parameters(), lr=recipe.learning_rate)
    # Stepped once an epoch, our choice, because the paper counts in epochs.
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=recipe.epochs)
    source_patches = len(source) * recipe.patches_per_volume
    state = PhaseState(
        structure,
        phase,
        network,
        optimiser,
        schedule,
        epochs=recipe.epochs,
        batches_per_epoch=-(-source_patches // recipe.domain_batch),
        rng=rng,
        others={} if of_source is None else {"of_source": of_source},
    )
    tell.started(state)
    labelled = []
    if state.epoch < recipe.epochs:
        teachers = _teachers(given, target, recipe, label_rng)
        if not (state.steps_done or is_new):
            network.load_state_dict(teachers[0].state_dict())
        segmenters = [Segmenter(structure, teacher.eval(), recipe.window, device, card={}) for teacher in teachers]
        for case, label in label_target(segmenters, target, source, recipe, rng=label_rng, nearness=nearness):
            tell.pseudo_labelled(state, case.case, label)
            if not label.refused:
                labelled.append(TrainingVolume(case.case, case.volume, label.mask, label.certain))
        if not labelled:
            raise ValueError(
                f"{phase.key}: expected a pseudo-label for at least one of {len(target)} target cases, got none that "
                "the rules keep; train the phase before for longer, or loosen the rules"
            )
    forward = BatchForward(network, device, execution, seed=seed)

    source_draws, target_draws = recipe.drawing(), recipe.drawing()
    target_draws["patches_per_volume"] = -(-source_patches // max(len(labelled), 1))

    for epoch in state.epochs_left():
        network.train()
        draws = half_and_half(
            epoch_draws(source, rng=rng, augment=augment_by(recipe.augmentation), **source_draws),
            epoch_draws(labelled, rng=rng, augment=augment_by(recipe.target_augmentation), **target_draws),
        )
        for batch in cut_batches(state.batches_left(draws), execution.workers):
            masks = torch.from_numpy(batch.masks).to(device)
            certain = None if batch.certain is None else torch.from_numpy(batch.certain).to(device)
            patches, step = torch.from_numpy(batch.patches), state.steps_done
            if of_source is None:
                logits = forward(patches, step=step)
            else:
                halves = patches.tensor_split(2)
                # Two steps of the forward's, because several processes seed dropout with its number.
                with statistics_of(network, of_source):
                    logits = forward(halves[0], step=2 * step)
                logits = torch.cat([logits, forward(halves[1], step=2 * step + 1)])
            loss = supervised_loss(logits, masks, recipe.dice_weight, certain)
            check_finite(loss.total, epoch, batch.cases)
            optimiser.zero_grad()
            loss.total.backward()
            optimiser.step()
            state.add_step(loss=loss.total, cross_entropy=loss.cross_entropy, dice_loss=loss.dice)
            tell.stepped(state)
        scores = validate_if_due(
            state, validation, recipe, device, ranks=execution.ranks, listener=tell, statistics=of_source
        )
        schedule.step()
        state.finish_epoch(scores)
        tell.epoch_finished(state)
    tell.finished(state)
    return state.trained()


def label_target(
    segmenters: Sequence[Segmenter],
    target: Sequence[TrainingVolume],
    source: Sequence[TrainingVolume],
    recipe: SelfTrainingRecipe,
    *,
    rng: np.random.Generator,
    nearness: Nearness | None = None,
) -> Iterator[tuple[TrainingVolume, PseudoLabel]]:
    """Yield every target case with its pseudo-label, kept or refused.

    Args:
        segmenters: whose predictions are averaged.
        target: volumes; masks, if there are any, are not looked at.
        source: volumes with masks, for the range of volumes.
        recipe: views and rules.
        rng: for views of random contrast.
        nearness: where tumours may lie; None for anywhere.
    """
    sizes = volume_range([volume.mask for volume in source if volume.mask is not None])
    rules = PseudoLabelRules(
        OURS.components[segmenters[0].structure],
        recipe.smallest_volume,
        recipe.largest_volume,
        recipe.kept_share,
        recipe.agreement,
        recipe.uncertain_band,
    )
    spacing = [PAPER.spacing_mm] * 3
    for case in target:
        views = [view for segmenter in segmenters for view in _views(case, segmenter, recipe, rng)]
        label = pseudo_label(views, sizes, rules, spacing)
        if nearness is not None and not label.refused:
            label = label._replace(refused=nearness.refusal(case.case, label.mask, spacing))
        yield case, label


def _new_network(teacher: ENet3d, input: str) -> ENet3d:
    """Return a new network as wide as the teacher that sees another input, with weights of torch's own generator."""
    return ENet3d(**{**teacher.config(), "input": input})


def _teachers(
    network: ENet3d, target: Sequence[TrainingVolume], recipe: SelfTrainingRecipe, rng: np.random.Generator
) -> list[ENet3d]:
    """Return the networks that label the target; the first is the one that is trained further."""
    if recipe.teacher == NETWORK:
        return [network]
    patches = OURS.statistics_patches
    adapted = reestimate_statistics(network, target, recipe.window, patches_per_volume=patches, rng=rng)
    return [adapted] if recipe.teacher == STATISTICS else [network, adapted]


def _views(
    case: TrainingVolume, segmenter: Segmenter, recipe: SelfTrainingRecipe, rng: np.random.Generator
) -> Iterator[NDArray[np.float32]]:
    """Yield a case's probabilities `(D, H, W)` as each of its views gives them, turned back to the scan."""
    yield predict_structure(case.volume, segmenter, overlap=recipe.overlap)
    if recipe.flipped_view:
        flipped = np.ascontiguousarray(case.volume[..., ::-1])
        yield predict_structure(flipped, segmenter, overlap=recipe.overlap)[..., ::-1]
    if (augment := augment_by(recipe.contrast_view, geometry=False)) is not None:
        nothing = np.zeros(case.volume.shape, dtype=np.bool_)
        other, _, _ = augment(case.volume, nothing, nothing, case, rng)
        yield predict_structure(other, segmenter, overlap=recipe.overlap)
