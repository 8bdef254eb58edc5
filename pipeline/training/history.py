"""What a phase has done so far, epoch by epoch: plain records, as a checkpoint's JSON keeps them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Validation:
    """Whole-volume Dice by case, and predicted over true volume of all cases together.

    A volume ratio of 0 is a network that has collapsed to background, 10 one that has hardly learnt.
    """

    dice: dict[str, float]
    volume_ratio: float

    @property
    def mean_dice(self) -> float:
        """Return the mean Dice over the cases."""
        return float(np.mean(list(self.dice.values())))


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave: its learning rate, mean losses by name, and the validation where there was one."""

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

    def as_json(self) -> dict[str, Any]:
        """Return the epoch in the types that JSON has."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Epoch":
        """Return the epoch that `as_json` gave this for."""
        scores = content["validation"]
        return cls(**{**content, "validation": None if scores is None else Validation(**scores)})
