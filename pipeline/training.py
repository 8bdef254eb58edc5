"""Training: the paper's two phases, each one loop that is read from top to bottom.

Source: Kondo 2021, Sections 2 and 3.
"""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk
import torch

from evaluation.contract import LABEL_SUFFIX, SOURCE_SUFFIX, Structure, files_by_case
from evaluation.metrics import count_overlap, dice
from pipeline.cases import array_from, read_mask, read_scan
from pipeline.checkpoints import Segmenter
from pipeline.config import OURS, PAPER
from pipeline.domain import DomainClassifier, reversal_weight
from pipeline.enet import ENet3d
from pipeline.losses import adaptation_loss, domain_loss, supervised_loss
from pipeline.preprocessing import normalise, resample_to_spacing
from pipeline.sampling import TrainingVolume, epoch_batches
from pipeline.sliding_window import predict_volume


@dataclass(frozen=True)
class Recipe:
    """Everything that a phase needs to know beside its data; `paper_recipe` gives the paper's.

    `patches_per_volume` is for one epoch; `validate_every` counts epochs, and the last is always validated.
    """

    window: int
    batch_size: int
    epochs: int = PAPER.epochs
    supervised_rate: float = PAPER.supervised_rate
    adaptation_rate: float = PAPER.adaptation_rate
    dice_weight: float = PAPER.dice_weight
    reversal_maximum: float = OURS.reversal_maximum
    patches_per_volume: int = OURS.patches_per_volume
    structure_fraction: float = OURS.structure_fraction
    overlap: float = OURS.overlap
    mirror: bool = False
    validate_every: int = 1

    def departures(self, structure: Structure) -> dict[str, str]:
        """Name every setting that is not the paper's, or not our default where the paper is silent."""
        default = paper_recipe(structure)
        both = {f.name: (getattr(self, f.name), getattr(default, f.name)) for f in fields(self)}
        return {name: f"{ours} instead of {theirs}" for name, (ours, theirs) in both.items() if ours != theirs}


def paper_recipe(structure: Structure) -> Recipe:
    """Return the paper's settings for a structure, and ours where it is silent. Source: Section 3."""
    plan = PAPER.plans[structure]
    return Recipe(window=plan.window, batch_size=plan.batch_size)


class Validation(NamedTuple):
    """Whole-volume Dice by case; predicted over true volume of all cases together (0: collapsed, 10: not started)."""

    dice: dict[str, float]
    volume_ratio: float

    @property
    def mean_dice(self) -> float:
        """Return the mean Dice over the cases."""
        return float(np.mean(list(self.dice.values())))


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave: mean losses by name, and the validation where there was one."""

    number: int
    rate: float
    losses: dict[str, float]
    validation: Validation | None
    seconds: float

    def __str__(self) -> str:
        """Write the epoch as one line of a log."""
        parts = [f"epoch {self.number}", f"rate {self.rate:.2e}"]
        parts += [f"{name} {value:.4f}" for name, value in self.losses.items()]
        if self.validation is not None:
            parts += [f"val dice {self.validation.mean_dice:.3f}", f"pred/true {self.validation.volume_ratio:.2f}"]
        return ", ".join([*parts, f"{self.seconds:.0f} s"])


@dataclass(frozen=True)
class Trained:
    """A phase's end: `best` by the source validation's Dice, `last` as the final epoch left it, and the history."""

    best: ENet3d
    last: ENet3d
    best_epoch: int
    history: tuple[Epoch, ...]


def read_training_volume(
    case: str, scan: Path, labels: Path | None, structure: Structure, spacing_mm: float = PAPER.spacing_mm
) -> TrainingVolume:
    """Read a case as training sees it: resampled, normalised, with the structure's mask where there are labels.

    The mask is resampled linearly and cut at one half (our choice: nearest would repeat a thick slice as a stair).

    Raises:
        CaseError: a file that cannot be used, as `pipeline.cases.read_scan`.
    """
    volume, _ = normalise(array_from(resample_to_spacing(read_scan(scan), spacing_mm)))
    if labels is None:
        return TrainingVolume(case, volume)
    mask = resample_to_spacing(sitk.Cast(read_mask(labels, structure), sitk.sitkFloat32), spacing_mm)
    return TrainingVolume(case, volume, array_from(mask) >= 0.5)


def read_training_volumes(folder: Path, structure: Structure, suffix: str = SOURCE_SUFFIX) -> list[TrainingVolume]:
    """Read every scan `{case}{suffix}` of a folder, with its labels where `{case}_Label.nii.gz` stands beside it.

    Raises:
        CaseError: a file that cannot be used.
        OSError: the folder cannot be listed.
    """
    labels = files_by_case(folder, LABEL_SUFFIX)
    scans = files_by_case(folder, suffix)
    return [read_training_volume(case, path, labels.get(case), structure) for case, path in scans.items()]


def validate(
    network: ENet3d, volumes: Sequence[TrainingVolume], structure: Structure, recipe: Recipe, device: torch.device
) -> Validation:
    """Predict whole volumes by the sliding window that predicts scans, and compare at 0.5 mm; leaves eval mode on.

    Raises:
        ValueError: a volume without a mask, or with an empty one.
    """
    segmenter = Segmenter(structure, network.eval(), recipe.window, device, card={})
    scores, predicted_voxels, true_voxels = {}, 0, 0
    for volume in volumes:
        if volume.mask is None or not volume.mask.any():
            raise ValueError(f"{volume.case}: expected a mask with voxels to validate against, got none")
        probability = predict_volume(
            volume.volume,
            segmenter,
            recipe.window,
            overlap=recipe.overlap,
            windows_per_pass=OURS.windows_per_pass[structure],
            device=device,
        )
        overlap = count_overlap(volume.mask, probability >= 0.5)
        scores[volume.case] = dice(overlap)
        predicted_voxels += overlap.prediction_voxels
        true_voxels += overlap.reference_voxels
    return Validation(scores, predicted_voxels / true_voxels)


def train_supervised(
    structure: Structure,
    training: Sequence[TrainingVolume],
    validation: Sequence[TrainingVolume],
    recipe: Recipe,
    *,
    rng: np.random.Generator,
    device: torch.device | str = "cpu",
    network: ENet3d | None = None,
    report: Callable[[Epoch], None] = lambda _epoch: None,
) -> Trained:
    """Phase 1: train on the source domain with L_S (Eq. 1), keep what scores best on its validation cases.

    Args:
        structure: what the masks show.
        training: source volumes with masks.
        validation: other source volumes with masks.
        recipe: `paper_recipe(structure)`, or a smaller one.
        rng: where every random draw comes from; torch's own generator, for weights and dropout, is seeded from it.
        device: where to train.
        network: to go on with; a new one by default.
        report: called after every epoch.

    Raises:
        ValueError: volumes that the sampler or the validation refuses.
        FloatingPointError: the loss is no longer a number; the batch's cases are named.

    Source: Section 2, Eq. 1; Section 3.
    """
    device = torch.device(device)
    torch.manual_seed(int(rng.integers(2**31)))
    network = (network or ENet3d(classes=OURS.classes)).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=recipe.supervised_rate)
    # Stepped once an epoch, our choice, because the paper counts in epochs.
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=recipe.epochs)
    progress = _Progress(network, report)

    for epoch in range(1, recipe.epochs + 1):
        network.train()
        losses = _Means()
        for batch in epoch_batches(
            training,
            window=recipe.window,
            batch_size=recipe.batch_size,
            rng=rng,
            patches_per_volume=recipe.patches_per_volume,
            structure_fraction=recipe.structure_fraction,
            mirror=recipe.mirror,
        ):
            patches = torch.from_numpy(batch.patches).to(device)
            masks = torch.from_numpy(batch.masks).to(device)
            loss = supervised_loss(network(patches), masks, recipe.dice_weight)
            _check_finite(loss.total, epoch, batch.cases)
            optimiser.zero_grad()
            loss.total.backward()
            optimiser.step()
            losses.add(loss=loss.total, cross_entropy=loss.cross_entropy, dice=loss.dice)
        rate = float(schedule.get_last_lr()[0])
        schedule.step()
        scores = validate(network, validation, structure, recipe, device) if _is_due(epoch, recipe) else None
        progress.finish(epoch, rate, losses, scores)
    return progress.end()


def train_adaptation(
    structure: Structure,
    network: ENet3d,
    source: Sequence[TrainingVolume],
    target: Sequence[TrainingVolume],
    validation: Sequence[TrainingVolume],
    recipe: Recipe,
    *,
    rng: np.random.Generator,
    device: torch.device | str = "cpu",
    report: Callable[[Epoch], None] = lambda _epoch: None,
) -> Trained:
    """Phase 2: train network and domain classifier on both domains with L_D (Eq. 2); the network given is left alone.

    Half of every batch is source and half is target; both go through the encoder and the decoder in one concatenated
    forward, so that batch norm's statistics are shared (our choice, the usual step of such adversaries). The target's
    logits are then dropped. An epoch ends when either domain's volumes do.

    Args:
        structure: what the source masks show.
        network: phase 1's best.
        source: source volumes with masks.
        target: target volumes; masks, if any, are not looked at.
        validation: other source volumes with masks.
        recipe: `paper_recipe(structure)`, or a smaller one; its batch size is even.
        rng: where every random draw comes from; torch's own generator is seeded from it.
        device: where to train.
        report: called after every epoch, with the adversary's health beside the losses: balanced domains the classifier
            cannot tell apart give an accuracy of 0.5 and a loss of 0.69.

    Raises:
        ValueError: an odd batch size, or volumes that the sampler or the validation refuses.
        FloatingPointError: the loss is no longer a number; the batch's cases are named.

    Source: Section 2, Eq. 2; Section 3, "Each batch … is composed the same number of the samples".
    """
    if recipe.batch_size < 2 or recipe.batch_size % 2:
        raise ValueError(f"batch size: expected an even number, half of it for each domain, got {recipe.batch_size}")
    device = torch.device(device)
    torch.manual_seed(int(rng.integers(2**31)))
    network = copy.deepcopy(network).to(device)
    classifier = DomainClassifier(network.channels[-1]).to(device)
    optimiser = torch.optim.Adam([*network.parameters(), *classifier.parameters()], lr=recipe.adaptation_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=recipe.epochs)
    progress = _Progress(network, report)
    unlabelled = [TrainingVolume(v.case, v.volume) for v in target]
    drawing: dict[str, Any] = {
        "window": recipe.window,
        "batch_size": recipe.batch_size // 2,
        "rng": rng,
        "patches_per_volume": recipe.patches_per_volume,
        "structure_fraction": recipe.structure_fraction,
        "mirror": recipe.mirror,
    }
    smaller = min(len(source), len(target)) * recipe.patches_per_volume
    steps = recipe.epochs * -(-smaller // drawing["batch_size"])
    step = 0

    for epoch in range(1, recipe.epochs + 1):
        network.train()
        classifier.train()
        losses = _Means()
        pairs = zip(epoch_batches(source, **drawing), epoch_batches(unlabelled, **drawing), strict=False)
        for of_source, of_target in pairs:
            n = min(len(of_source.cases), len(of_target.cases))  # the same number, also in a domain's last batch
            patches = torch.from_numpy(np.concatenate([of_source.patches[:n], of_target.patches[:n]])).to(device)
            masks = torch.from_numpy(of_source.masks[:n]).to(device)
            is_target = torch.arange(2 * n, device=device) >= n
            weight = reversal_weight(min(step / steps, 1.0), recipe.reversal_maximum)

            encoded = network.encoder(patches)
            supervised = supervised_loss(network.decoder(encoded)[:n], masks, recipe.dice_weight)
            domain_logits = classifier(encoded.features, weight)
            loss = adaptation_loss(supervised, domain_loss(domain_logits, is_target))

            _check_finite(loss.total, epoch, of_source.cases[:n] + of_target.cases[:n])
            optimiser.zero_grad()
            loss.total.backward()
            optimiser.step()
            step += 1
            losses.add(
                loss=loss.total,
                cross_entropy=supervised.cross_entropy,
                dice=supervised.dice,
                domain=loss.domain,
                domain_accuracy=((domain_logits > 0) == is_target).float().mean(),
                reversal=torch.tensor(weight),
            )
        rate = float(schedule.get_last_lr()[0])
        schedule.step()
        scores = validate(network, validation, structure, recipe, device) if _is_due(epoch, recipe) else None
        progress.finish(epoch, rate, losses, scores)
    return progress.end()


class _Means:
    """Running means of an epoch's numbers, by name."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._count = 0

    def add(self, **values: torch.Tensor) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value.detach())
        self._count += 1

    def means(self) -> dict[str, float]:
        return {name: total / self._count for name, total in self._sums.items()}


class _Progress:
    """Keeps the history and the best network so far."""

    def __init__(self, network: ENet3d, report: Callable[[Epoch], None]) -> None:
        self._network, self._report = network, report
        self._history: list[Epoch] = []
        self._best, self._best_epoch, self._best_dice = network, 0, -1.0
        self._since = time.perf_counter()

    def finish(self, number: int, rate: float, losses: _Means, scores: Validation | None) -> None:
        now = time.perf_counter()
        epoch = Epoch(number, rate, losses.means(), scores, now - self._since)
        self._since = now
        self._history.append(epoch)
        if scores is not None and scores.mean_dice > self._best_dice:
            self._best, self._best_epoch = copy.deepcopy(self._network).eval(), number
            self._best_dice = scores.mean_dice
        self._report(epoch)

    def end(self) -> Trained:
        return Trained(self._best, self._network.eval(), self._best_epoch, tuple(self._history))


def _is_due(epoch: int, recipe: Recipe) -> bool:
    return epoch % recipe.validate_every == 0 or epoch == recipe.epochs


def _check_finite(loss: torch.Tensor, epoch: int, cases: Sequence[str]) -> None:
    if not torch.isfinite(loss):
        raise FloatingPointError(
            f"epoch {epoch}, cases {', '.join(cases)}: expected a finite loss, got {loss.item()}; "
            "look at these scans, or lower the rate"
        )
