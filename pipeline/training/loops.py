"""Training: the paper's two phases, each one loop that is read from top to bottom.

Source: Kondo 2021, Sections 2 and 3.
"""

import copy
import json
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from challenge.contract import Structure
from evaluation.metrics import count_overlap, dice
from pipeline.config import OURS, PAPER
from pipeline.data.sampling import TrainingVolume, cut_batches, epoch_draws, half_and_half
from pipeline.inference.segment import predict_structure
from pipeline.model.domain import DomainClassifier, reversal_weight
from pipeline.model.enet import ENet3d
from pipeline.model.losses import adaptation_loss, domain_loss, supervised_loss
from pipeline.model.weights import Segmenter
from pipeline.runtime.distributed import ALONE, Ranks
from pipeline.training.execution import PLAIN, BatchForward, Execution

Batch = TypeVar("Batch")
EARLY_LAYER = "early"
FEATURE_LAYERS = (OURS.feature_layer, EARLY_LAYER)


@dataclass(frozen=True)
class Recipe:
    """Everything that a phase needs to know beside its data; `paper_recipe` gives the paper's.

    `feature_layer` is where the adversary takes its features, one of `FEATURE_LAYERS`, and `domain_grid` the side of
    the grid that it averages them onto. `patches_per_volume` is for one epoch; `validate_every` counts epochs, and the last is
    always validated; `channels` are the network's, ENet's own by default.
    """

    window: int
    batch_size: int
    epochs: int = PAPER.epochs
    supervised_rate: float = PAPER.supervised_rate
    adaptation_rate: float = PAPER.adaptation_rate
    dice_weight: float = PAPER.dice_weight
    grl_weight_max: float = OURS.grl_weight_max
    domain_grid: int = OURS.domain_grid
    feature_layer: str = OURS.feature_layer
    patches_per_volume: int = OURS.patches_per_volume
    structure_fraction: float = OURS.structure_fraction
    overlap: float = OURS.overlap
    mirror: bool = False
    validate_every: int = 1
    channels: tuple[int, int, int] = (16, 64, 128)

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


class PhaseState:
    """All that a phase carries from step to step: what a checkpoint must hold for it to end as if never interrupted.

    `epoch` counts finished epochs, `batches_done` the batches of the one under way, `steps_done` all of them;
    `last_losses` are the last step's, by name.
    """

    def __init__(
        self,
        network: ENet3d,
        classifier: DomainClassifier | None,
        *,
        rate: float,
        epochs: int,
        batches_per_epoch: int,
        rng: np.random.Generator,
    ) -> None:
        """Begin a phase: Adam and a cosine over `epochs` for the network's and the classifier's parameters."""
        self.network, self.classifier = network, classifier
        trained = [*network.parameters(), *(classifier.parameters() if classifier else ())]
        self.optimiser = torch.optim.Adam(trained, lr=rate)
        # Stepped once an epoch, our choice, because the paper counts in epochs.
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimiser, T_max=epochs)
        self.epochs, self.batches_per_epoch = epochs, batches_per_epoch
        self.epoch = self.batches_done = self.steps_done = 0
        self.history: list[Epoch] = []
        self.best: ENet3d | None = None
        self.best_epoch, self.best_dice = 0, -1.0
        self._rng, self._rng_at_start = rng, rng.bit_generator.state
        self.last_losses: dict[str, float] = {}
        self._sums: dict[str, float] = {}
        self._since = time.perf_counter()

    def epochs_left(self) -> Iterator[int]:
        """Yield the numbers of the epochs to do, from 1, or from the one that a checkpoint was saved in."""
        while self.epoch < self.epochs:
            self._rng_at_start = self._rng.bit_generator.state
            yield self.epoch + 1

    def batches_left(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield an epoch's batches that are to do; those done are drawn again, so that the random stream goes on."""
        return islice(batches, self.batches_done, None)

    def add_step(self, **losses: torch.Tensor) -> None:
        """Count a batch, and add its losses, each of shape (), to the epoch's means."""
        self.last_losses = {name: float(value.detach()) for name, value in losses.items()}
        for name, value in self.last_losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self.batches_done += 1
        self.steps_done += 1

    def means(self) -> dict[str, float]:
        """Return the mean losses of the epoch under way, by name."""
        return {name: total / self.batches_done for name, total in self._sums.items()}

    def finish_epoch(self, scores: Validation | None) -> Epoch:
        """End an epoch: step the schedule, keep the network where it is the best so far."""
        self.epoch += 1
        now = time.perf_counter()
        epoch = Epoch(self.epoch, float(self.schedule.get_last_lr()[0]), self.means(), scores, now - self._since)
        self._since = now
        with warnings.catch_warnings():
            # After a stop amid validation no step of this process comes before, which torch takes for a mistake.
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            self.schedule.step()
        self.history.append(epoch)
        if scores is not None and scores.mean_dice > self.best_dice:
            self.best, self.best_epoch = copy.deepcopy(self.network).eval(), self.epoch
            self.best_dice = scores.mean_dice
        self.batches_done, self._sums = 0, {}
        return epoch

    def trained(self) -> Trained:
        """Return what the phase came to."""
        return Trained(self.best or self.network, self.network.eval(), self.best_epoch, tuple(self.history))

    def state_dict(self) -> dict[str, Any]:
        """Return everything as tensors and one JSON text, which `torch.load(weights_only=True)` takes."""
        progress = {
            "epoch": self.epoch,
            "batches_done": self.batches_done,
            "steps_done": self.steps_done,
            "best_epoch": self.best_epoch,
            "best_dice": self.best_dice,
            "history": [_epoch_as_json(epoch) for epoch in self.history],
            "sums": self._sums,
            "seconds": time.perf_counter() - self._since,
            # Amid an epoch its start, from which the batches done are drawn again.
            "rng": self._rng_at_start if self.batches_done else self._rng.bit_generator.state,
        }
        return {
            "network": self.network.state_dict(),
            "classifier": self.classifier.state_dict() if self.classifier else None,
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "best": self.best.state_dict() if self.best else None,
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "progress": json.dumps(progress),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` gave for the same network and recipe.

        Raises:
            KeyError, RuntimeError, ValueError: the state of something else.
        """
        progress = json.loads(saved["progress"])
        self.network.load_state_dict(saved["network"])
        if self.classifier is not None:
            self.classifier.load_state_dict(saved["classifier"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.schedule.load_state_dict(saved["schedule"])
        if saved["best"] is not None:
            self.best = copy.deepcopy(self.network).eval()
            self.best.load_state_dict(saved["best"])
        for name in ("epoch", "batches_done", "steps_done", "best_epoch", "best_dice"):
            setattr(self, name, progress[name])
        self.history = [_epoch_from_json(epoch) for epoch in progress["history"]]
        self._sums = progress["sums"]
        self._since = time.perf_counter() - progress["seconds"]
        self._rng.bit_generator.state = progress["rng"]
        torch.set_rng_state(saved["torch_rng"])
        if torch.cuda.is_available() and len(saved["cuda_rng"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(saved["cuda_rng"])


class Watcher:
    """What looks on while a phase runs: progress, pictures, checkpoints. Each method may be left as it is.

    The state is whole whenever one is called, so any of them may save it, and may end the phase by raising.
    """

    def started(self, state: PhaseState) -> None:
        """See the state before the first step; a saved one may be put back here."""

    def stepped(self, state: PhaseState) -> None:
        """See the state after every step."""

    def validated(self, state: PhaseState, volume: TrainingVolume, prediction: NDArray[np.bool_]) -> None:
        """See a validation case and its prediction, bool `(D, H, W)`."""

    def finished_epoch(self, state: PhaseState) -> None:
        """See the state after every epoch, which is the last of its history."""


def validate(
    network: ENet3d,
    volumes: Sequence[TrainingVolume],
    structure: Structure,
    recipe: Recipe,
    device: torch.device,
    *,
    ranks: Ranks = ALONE,
    watch: Callable[[TrainingVolume, NDArray[np.bool_]], None] = lambda _volume, _prediction: None,
) -> Validation:
    """Predict whole volumes by the sliding window that predicts scans, and compare at 0.5 mm; leaves eval mode on.

    In float32, as scans are predicted. Several processes share the volumes, and all return the same. `watch` is called
    with every volume that is this one's and its prediction, bool `(D, H, W)`.

    Raises:
        ValueError: a volume without a mask, or with an empty one.
    """
    segmenter = Segmenter(structure, network.eval(), recipe.window, device, card={})
    table = np.zeros((len(volumes), 3))  # Dice, predicted voxels, true voxels
    for volume, row in list(zip(volumes, table, strict=True))[ranks.shard]:
        if volume.mask is None or not volume.mask.any():
            raise ValueError(f"{volume.case}: expected a mask with voxels to validate against, got none")
        prediction = predict_structure(volume.volume, segmenter, overlap=recipe.overlap) >= 0.5
        overlap = count_overlap(volume.mask, prediction)
        row[:] = dice(overlap), overlap.prediction_voxels, overlap.reference_voxels
        watch(volume, prediction)
    scores, predicted_voxels, true_voxels = ranks.sum(table).T
    cases = (volume.case for volume in volumes)
    return Validation(dict(zip(cases, scores.tolist(), strict=True)), float(predicted_voxels.sum() / true_voxels.sum()))


def train_supervised(
    structure: Structure,
    training: Sequence[TrainingVolume],
    validation: Sequence[TrainingVolume],
    recipe: Recipe,
    *,
    rng: np.random.Generator,
    device: torch.device | str = "cpu",
    execution: Execution = PLAIN,
    network: ENet3d | None = None,
    report: Callable[[Epoch], None] = lambda _epoch: None,
    watch: Watcher | None = None,
) -> Trained:
    """Phase 1: train on the source domain with L_S (Eq. 1), keep what scores best on its validation cases.

    Args:
        structure: what the masks show.
        training: source volumes with masks.
        validation: other source volumes with masks.
        recipe: `paper_recipe(structure)`, or a smaller one.
        rng: where every random draw comes from; torch's own generator, for weights and dropout, is seeded from it.
        device: where to train.
        execution: how to compute the steps.
        network: to go on with; a new one by default.
        report: called after every epoch.
        watch: sees the state at every step, and may put a saved one back.

    Raises:
        ValueError: volumes that the sampler or the validation refuses, or a batch that the processes cannot share.
        FloatingPointError: the loss is no longer a number; the batch's cases are named.

    Source: Section 2, Eq. 1; Section 3.
    """
    execution.check_batch(recipe.batch_size)
    device = torch.device(device)
    torch.manual_seed(seed := int(rng.integers(2**31)))
    network = (network or ENet3d(classes=OURS.classes, channels=recipe.channels)).to(device)
    batches_per_epoch = -(-len(training) * recipe.patches_per_volume // recipe.batch_size)
    state = PhaseState(
        network, None, rate=recipe.supervised_rate, epochs=recipe.epochs, batches_per_epoch=batches_per_epoch, rng=rng
    )
    optimiser, watch = state.optimiser, watch or Watcher()
    watch.started(state)
    forward = BatchForward(network, device, execution, seed=seed)

    for epoch in state.epochs_left():
        network.train()
        draws = epoch_draws(
            training,
            window=recipe.window,
            batch_size=recipe.batch_size,
            rng=rng,
            patches_per_volume=recipe.patches_per_volume,
            structure_fraction=recipe.structure_fraction,
            mirror=recipe.mirror,
        )
        for batch in cut_batches(state.batches_left(draws), execution.workers):
            masks = torch.from_numpy(batch.masks).to(device)
            logits = forward(torch.from_numpy(batch.patches), step=state.steps_done)
            loss = supervised_loss(logits, masks, recipe.dice_weight)
            _check_finite(loss.total, epoch, batch.cases)
            optimiser.zero_grad()
            loss.total.backward()
            optimiser.step()
            state.add_step(loss=loss.total, cross_entropy=loss.cross_entropy, dice=loss.dice)
            watch.stepped(state)
        scores = None
        if _is_due(epoch, recipe):
            seen = partial(watch.validated, state)
            scores = validate(network, validation, structure, recipe, device, ranks=execution.ranks, watch=seen)
        report(state.finish_epoch(scores))
        watch.finished_epoch(state)
    return state.trained()


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
    execution: Execution = PLAIN,
    report: Callable[[Epoch], None] = lambda _epoch: None,
    watch: Watcher | None = None,
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
        execution: how to compute the steps.
        report: called after every epoch, with the adversary's health beside the losses: balanced domains the classifier
            cannot tell apart give an accuracy of 0.5 and a loss of 0.69.
        watch: sees the state at every step, and may put a saved one back.

    Raises:
        ValueError: an odd batch size, volumes that the sampler or the validation refuses, or a batch that the processes
            cannot share.
        FloatingPointError: the loss is no longer a number; the batch's cases are named.

    Source: Section 2, Eq. 2; Section 3, "Each batch … is composed the same number of the samples".
    """
    if recipe.batch_size < 2 or recipe.batch_size % 2:
        raise ValueError(f"batch size: expected an even number, half of it for each domain, got {recipe.batch_size}")
    execution.check_batch(recipe.batch_size // 2, "half a batch, of each domain")
    device = torch.device(device)
    torch.manual_seed(seed := int(rng.integers(2**31)))
    network = copy.deepcopy(network).to(device)
    early = recipe.feature_layer == EARLY_LAYER
    classifier = DomainClassifier(network.channels[1 if early else 2], recipe.domain_grid).to(device)
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
    batches_per_epoch = -(-smaller // drawing["batch_size"])
    steps = recipe.epochs * batches_per_epoch
    state = PhaseState(
        network,
        classifier,
        rate=recipe.adaptation_rate,
        epochs=recipe.epochs,
        batches_per_epoch=batches_per_epoch,
        rng=rng,
    )
    optimiser, watch = state.optimiser, watch or Watcher()
    watch.started(state)
    forward = BatchForward(_TwoHeads(network, classifier, early), device, execution, seed=seed)

    for epoch in state.epochs_left():
        network.train()
        classifier.train()
        draws = half_and_half(epoch_draws(source, **drawing), epoch_draws(unlabelled, **drawing))
        for batch in cut_batches(state.batches_left(draws), execution.workers):
            n = len(batch.cases) // 2
            masks = torch.from_numpy(batch.masks[:n]).to(device)
            is_target = torch.arange(2 * n, device=device) >= n
            weight = reversal_weight(min(state.steps_done / steps, 1.0), recipe.grl_weight_max)

            logits, domain_logits = forward(torch.from_numpy(batch.patches), weight, step=state.steps_done)
            supervised = supervised_loss(logits[:n], masks, recipe.dice_weight)
            loss = adaptation_loss(supervised, domain_loss(domain_logits, is_target))

            _check_finite(loss.total, epoch, batch.cases)
            optimiser.zero_grad()
            loss.total.backward()
            optimiser.step()
            state.add_step(
                loss=loss.total,
                cross_entropy=supervised.cross_entropy,
                dice=supervised.dice,
                domain=loss.domain,
                domain_accuracy=((domain_logits > 0) == is_target).float().mean(),
                reversal=torch.tensor(weight),
            )
            watch.stepped(state)
        scores = None
        if _is_due(epoch, recipe):
            seen = partial(watch.validated, state)
            scores = validate(network, validation, structure, recipe, device, ranks=execution.ranks, watch=seen)
        report(state.finish_epoch(scores))
        watch.finished_epoch(state)
    return state.trained()


class _TwoHeads(nn.Module):
    """Decoder and domain classifier on one encoder: phase 2's forward as one module, for whoever wraps modules."""

    def __init__(self, network: ENet3d, classifier: DomainClassifier, early: bool) -> None:
        super().__init__()
        self.network, self.classifier, self.early = network, classifier, early

    def forward(self, patches: torch.Tensor, weight: float) -> tuple[torch.Tensor, torch.Tensor]:
        encoded = self.network.encoder(patches)
        tapped = encoded.early_features if self.early else encoded.features
        return self.network.decoder(encoded), self.classifier(tapped, weight)


def _epoch_as_json(epoch: Epoch) -> dict[str, Any]:
    content = {f.name: getattr(epoch, f.name) for f in fields(epoch)}
    return {**content, "validation": epoch.validation._asdict() if epoch.validation is not None else None}


def _epoch_from_json(content: dict[str, Any]) -> Epoch:
    scores = content["validation"]
    return Epoch(**{**content, "validation": None if scores is None else Validation(**scores)})


def _is_due(epoch: int, recipe: Recipe) -> bool:
    return epoch % recipe.validate_every == 0 or epoch == recipe.epochs


def _check_finite(loss: torch.Tensor, epoch: int, cases: Sequence[str]) -> None:
    if not torch.isfinite(loss):
        raise FloatingPointError(
            f"epoch {epoch}, cases {', '.join(cases)}: expected a finite loss, got {loss.item()}; "
            "look at these scans, or lower the rate"
        )
