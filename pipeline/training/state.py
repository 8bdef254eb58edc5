"""All that a phase carries from step to step: what a checkpoint must hold, so that a resumed run ends the same."""

import copy
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from challenge.contract import Structure
from pipeline.model.enet import ENet3d
from pipeline.training.history import Epoch, Validation
from pipeline.training.phases import Phase

Item = TypeVar("Item")


@dataclass(frozen=True)
class Trained:
    """A phase's result: `best` by the source validation's Dice, `last` as the final epoch left it, and the history."""

    best: ENet3d
    last: ENet3d
    best_epoch: int
    history: tuple[Epoch, ...]


class PhaseState:
    """A running phase: its networks, optimiser, schedule, random stream, counts and history.

    `epoch` counts finished epochs, `batches_done` the batches of the current one, `steps_done` all batches.
    `last_losses` are the last step's, by name.
    """

    def __init__(
        self,
        structure: Structure,
        phase: Phase,
        network: ENet3d,
        optimiser: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        rng: np.random.Generator,
        epochs: int,
        batches_per_epoch: int,
        others: Mapping[str, nn.Module] | None = None,
    ) -> None:
        """Begin a phase.

        Args:
            structure: what the network segments.
            phase: which phase this is.
            network: the one that is trained.
            optimiser: of all that is trained.
            schedule: of the optimiser's rate, stepped once an epoch, before `finish_epoch`.
            rng: where the phase draws from.
            epochs: in all.
            batches_per_epoch: in each.
            others: other modules that a checkpoint must hold, such as a domain classifier, by name.
        """
        self.structure, self.phase, self.network, self.others = structure, phase, network, dict(others or {})
        self.optimiser, self.schedule = optimiser, schedule
        self.epochs, self.batches_per_epoch = epochs, batches_per_epoch
        self.epoch = self.batches_done = self.steps_done = 0
        self.history: list[Epoch] = []
        self.best: ENet3d | None = None
        self.best_epoch, self.best_dice = 0, -1.0
        self.last_losses: dict[str, float] = {}
        self._rng, self._rng_at_start = rng, rng.bit_generator.state
        self._rate = 0.0
        self._sums: dict[str, float] = {}
        self._since = time.perf_counter()

    @property
    def title(self) -> str:
        """Return what is trained, for logs: `VS supervised`."""
        return f"{self.structure.title} {self.phase.key}"

    def epochs_left(self) -> Iterator[int]:
        """Yield the numbers of the epochs left to do: from 1, or from the one that a checkpoint was saved in."""
        while self.epoch < self.epochs:
            self._rng_at_start = self._rng.bit_generator.state
            self._rate = float(self.optimiser.param_groups[0]["lr"])
            yield self.epoch + 1

    def batches_left(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Yield the batches of an epoch that are left; those done are drawn again, to advance the random stream."""
        return islice(batches, self.batches_done, None)

    def add_step(self, *, loss: torch.Tensor, **parts: torch.Tensor) -> None:
        """Count a batch; add its loss, and parts of it or other numbers, each of shape (), to the epoch's means."""
        self.last_losses = {name: float(value.detach()) for name, value in {"loss": loss, **parts}.items()}
        for name, value in self.last_losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self.batches_done += 1
        self.steps_done += 1

    def means(self) -> dict[str, float]:
        """Return the mean losses of the current epoch, by name."""
        return {name: total / self.batches_done for name, total in self._sums.items()}

    def finish_epoch(self, scores: Validation | None) -> None:
        """End an epoch: add it to the history, and keep a copy of the network if it is the best so far."""
        self.epoch += 1
        now = time.perf_counter()
        self.history.append(Epoch(self.epoch, self._rate, self.means(), scores, now - self._since))
        self._since = now
        if scores is not None and scores.mean_dice > self.best_dice:
            self.best, self.best_epoch = copy.deepcopy(self.network).eval(), self.epoch
            self.best_dice = scores.mean_dice
        self.batches_done, self._sums = 0, {}

    def trained(self) -> Trained:
        """Return the result of the phase."""
        return Trained(self.best or self.network, self.network.eval(), self.best_epoch, tuple(self.history))

    def state_dict(self) -> dict[str, Any]:
        """Return everything as tensors and one JSON text, which `torch.load(weights_only=True)` takes."""
        progress = {
            "epoch": self.epoch,
            "batches_done": self.batches_done,
            "steps_done": self.steps_done,
            "best_epoch": self.best_epoch,
            "best_dice": self.best_dice,
            "history": [epoch.as_json() for epoch in self.history],
            "sums": self._sums,
            "seconds": time.perf_counter() - self._since,
            # Within an epoch: the state at its start, from which the batches that are done are drawn again.
            "rng": self._rng_at_start if self.batches_done else self._rng.bit_generator.state,
        }
        return {
            "network": self.network.state_dict(),
            "others": {name: module.state_dict() for name, module in self.others.items()},
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "best": self.best.state_dict() if self.best else None,
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "progress": json.dumps(progress),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Resume from a state that `state_dict` gave for the same network and recipe.

        Raises:
            KeyError, RuntimeError, ValueError: the state of something else.
        """
        progress = json.loads(saved["progress"])
        self.network.load_state_dict(saved["network"])
        for name, module in self.others.items():
            module.load_state_dict(saved["others"][name])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.schedule.load_state_dict(saved["schedule"])
        # After a stop during validation the schedule steps first in this process, which torch would warn of.
        self.optimiser._opt_called = True  # type: ignore[attr-defined]
        if saved["best"] is not None:
            self.best = copy.deepcopy(self.network).eval()
            self.best.load_state_dict(saved["best"])
        for name in ("epoch", "batches_done", "steps_done", "best_epoch", "best_dice"):
            setattr(self, name, progress[name])
        self.history = [Epoch.from_json(epoch) for epoch in progress["history"]]
        self._sums = progress["sums"]
        self._since = time.perf_counter() - progress["seconds"]
        # Both: a run may be stopped again before its next epoch begins.
        self._rng.bit_generator.state = self._rng_at_start = progress["rng"]
        torch.set_rng_state(saved["torch_rng"])
        if torch.cuda.is_available() and len(saved["cuda_rng"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(saved["cuda_rng"])
