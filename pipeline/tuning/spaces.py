"""What is tuned in each phase: the parameters, their ranges and the paper's point. Needs neither torch nor Optuna."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.config import PAPER
from pipeline.training.phases import ADAPTATION, SUPERVISED


@dataclass(frozen=True)
class Parameter:
    """A field of a phase's recipe: its range, whether the scale is logarithmic, and the paper's choice.

    Where `of_all_phases` is set, the value found is used in every phase of the structure, not only in the tuned one.
    """

    name: str
    low: float
    high: float
    log: bool
    paper: float
    of_all_phases: bool = False


# By phase key; a phase can be tuned if it has an entry here. Ranges and chosen values are the paper's (Section 3).
# Ours: the logarithmic scale, because the rates' ranges span four and nine decades and a linear draw would hardly ever
# fall below a tenth of the upper end; and that w_d is tuned in phase 1, where it weighs most of the loss and the
# source's Dice can judge it. Phase 2 uses the w_d found in phase 1.
SPACES: Mapping[str, tuple[Parameter, ...]] = {
    SUPERVISED.key: (
        Parameter("learning_rate", *PAPER.supervised_rate_range, log=True, paper=PAPER.supervised_rate),
        Parameter("dice_weight", *PAPER.dice_weight_range, log=False, paper=PAPER.dice_weight, of_all_phases=True),
    ),
    ADAPTATION.key: (Parameter("learning_rate", *PAPER.adaptation_rate_range, log=True, paper=PAPER.adaptation_rate),),
}


def space_of(settings: Mapping[str, Any]) -> tuple[Parameter, ...]:
    """Return the space of a study from the settings stored with it."""
    return tuple(Parameter(**parameter) for parameter in settings["space"].values())
