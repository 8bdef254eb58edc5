"""Mean teacher, the alternative to rounds of self-training: one loop, read from top to bottom. Beyond the paper.

A student learns from the source's labels, and to say of one view of a target patch what its teacher says of another.
The teacher is the running mean of the student; it is what is validated, exported and started from.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from challenge.contract import Structure
from pipeline.adaptation.consistency import consistency_loss, move_towards, ramp_up
from pipeline.adaptation.randomisation import augment_by
from pipeline.adaptation.statistics import reestimate_statistics
from pipeline.config import OURS, SOURCE_TRAINING, SOURCE_VALIDATION, TARGET_TRAINING
from pipeline.data.sampling import Augment, PatchDraw, TrainingVolume, cut_batches, epoch_draws, half_and_half
from pipeline.model.enet import ENet3d
from pipeline.model.losses import supervised_loss
from pipeline.model.weights import Segmenter
from pipeline.training.epoch_end import check_finite, validate_if_due
from pipeline.training.execution import PLAIN, BatchForward, Execution
from pipeline.training.listeners import Listener, Listeners
from pipeline.training.phases import MEAN_TEACHER, Phase
from pipeline.training.recipes import MeanTeacherRecipe
from pipeline.training.state import PhaseState, Trained


def train_mean_teacher(
    structure: Structure,
    network: ENet3d,
    volumes: Mapping[str, Sequence[TrainingVolume]],
    recipe: MeanTeacherRecipe,
    *,
    rng: np.random.Generator,
    phase: Phase = MEAN_TEACHER,
    device: torch.device | str = "cpu",
    execution: Execution = PLAIN,
    listeners: Sequence[Listener] = (),
) -> Trained:
    """Train a student with L_S (Eq. 1) on the source and a consistency loss on the target. The teacher is the result.

    Half of the student's batch is source, half is target. Both go through it in one forward, so that batch norm has
    both domains' statistics. The teacher sees other views of the same target patches, in eval mode. An epoch ends with
    the smaller domain.

    Args:
        structure: what the source masks show.
        network: what student and teacher begin with; it is not changed.
        volumes: the parts `source_training` and `source_validation`, with masks, and `target_training`, whose masks, if
            there are any, are not looked at.
        recipe: the phase's.
        rng: where every random draw comes from; torch's own generator is seeded from it.
        phase: which phase this is, for logs and checkpoints.
        device: where to train.
        execution: how to compute the steps; each of several processes computes the teacher for the whole batch.
        listeners: follow the phase; the first may restore a saved state.

    Raises:
        ValueError: an odd batch size, volumes that the sampler or the validation refuses, or a batch that the processes
            cannot share.
        FloatingPointError: the loss is no longer a number; the batch's cases are named.

    Source: Tarvainen and Valpola, arXiv 1703.01780.
    """
    if recipe.batch_size < 2 or recipe.batch_size % 2:
        raise ValueError(f"batch size: expected an even number, half of it for each domain, got {recipe.batch_size}")
    execution.check_batch(recipe.domain_batch, recipe.domain_batch_title)
    device, tell = torch.device(device), Listeners(listeners)
    source, validation = volumes[SOURCE_TRAINING], volumes[SOURCE_VALIDATION]
    target = [TrainingVolume(v.case, v.volume) for v in volumes[TARGET_TRAINING]]
    torch.manual_seed(seed := int(rng.integers(2**31)))
    statistics_rng = np.random.default_rng(int(rng.integers(2**63)))
    teacher, student = (copy.deepcopy(network).to(device) for _ in range(2))
    optimiser = torch.optim.Adam(student.parameters(), lr=recipe.learning_rate)
    # Stepped once an epoch, our choice, because the paper counts in epochs.
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=recipe.epochs)
    batches_per_epoch = -(-min(len(source), len(target)) * recipe.patches_per_volume // recipe.domain_batch)
    steps = recipe.epochs * batches_per_epoch
    others = {"student": student}
    state = PhaseState(structure, phase, teacher, optimiser, schedule, rng, recipe.epochs, batches_per_epoch, others)
    tell.started(state)
    if recipe.target_statistics and not state.steps_done:
        n = OURS.statistics_patches
        adapted = reestimate_statistics(teacher, target, recipe.window, patches_per_volume=n, rng=statistics_rng)
        for begun in (teacher, student):
            begun.load_state_dict(adapted.state_dict())
    forward = BatchForward(student, device, execution, seed=seed)
    expect = Segmenter(structure, teacher, recipe.window, device, card={})

    for epoch in state.epochs_left():
        student.train()
        teacher.eval()
        student_view = augment_by(recipe.target_augmentation, geometry=False)
        teacher_view = augment_by(recipe.teacher_augmentation, geometry=False)
        draws = half_and_half(
            epoch_draws(source, rng=rng, augment=augment_by(recipe.augmentation), **recipe.drawing()),
            epoch_draws(target, rng=rng, augment=student_view, **recipe.drawing()),
        )
        for batch in cut_batches(state.batches_left(_with_second_views(draws, teacher_view, rng)), execution.workers):
            n = len(batch.cases) // 3
            patches, masks = torch.from_numpy(batch.patches), torch.from_numpy(batch.masks[:n]).to(device)
            with torch.no_grad():
                expected = expect(patches[2 * n :].to(device))
            weight = recipe.consistency_weight * ramp_up(state.steps_done / steps, recipe.ramp_up)

            logits = forward(patches[: 2 * n], step=state.steps_done)
            supervised = supervised_loss(logits[:n], masks, recipe.dice_weight)
            consistency = consistency_loss(logits[n:], expected)
            total = supervised.total + weight * consistency

            check_finite(total, epoch, batch.cases)
            optimiser.zero_grad()
            total.backward()
            optimiser.step()
            move_towards(teacher, student, recipe.ema_decay)
            state.add_step(
                loss=total,
                cross_entropy=supervised.cross_entropy,
                dice_loss=supervised.dice,
                consistency_loss=consistency,
                consistency_weight=torch.tensor(weight),
            )
            tell.stepped(state)
        scores = validate_if_due(state, validation, recipe, device, ranks=execution.ranks, listener=tell)
        schedule.step()
        state.finish_epoch(scores)
        tell.epoch_finished(state)
    tell.finished(state)
    return state.trained()


def _with_second_views(
    draws: Iterator[list[PatchDraw]], augment: Augment | None, rng: np.random.Generator
) -> Iterator[list[PatchDraw]]:
    """Add to every batch, source patches and then target patches, the target's once more with another augmentation."""
    for batch in draws:
        target = batch[len(batch) // 2 :]
        seeds = [int(rng.integers(2**63)) if augment is not None else 0 for _ in target]
        again = [draw._replace(augment=augment, seed=seed) for draw, seed in zip(target, seeds, strict=True)]
        yield [*batch, *again]
