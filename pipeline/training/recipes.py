"""Recipes: everything that a phase needs to know apart from its data, one type for each kind of phase. Needs no torch.

A type holds only what its phase uses. Its defaults are the paper's values, and ours where the paper is silent; its
rules stand beside its fields.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple, Self

from challenge.contract import Structure
from pipeline.adaptation.augmentations import AUGMENTATIONS, NO_AUGMENTATION
from pipeline.config import BEST, FEATURE_LAYERS, INPUTS, LAST, OURS, PAPER, SIDE_MULTIPLE, VOLUME_INPUT


class Rule(NamedTuple):
    """What a field's value must satisfy, and how a message says so."""

    holds: Callable[[Any], bool]
    expected: str


_AT_LEAST_1 = Rule(lambda value: value >= 1, "at least 1")
_NOT_NEGATIVE = Rule(lambda value: 0 <= value < math.inf, "0 or more")
_FRACTION = Rule(lambda fraction: 0 <= fraction <= 1, "0 to 1")
_AUGMENTATION = Rule(
    lambda name: name == NO_AUGMENTATION or name in AUGMENTATIONS, " or ".join((NO_AUGMENTATION, *AUGMENTATIONS))
)
_EVEN = Rule(lambda size: size > 0 and size % 2 == 0, "an even number, half of it for each domain")
_BEST_OR_LAST = Rule(lambda epoch: epoch in (BEST, LAST), f"{BEST} or {LAST}")
_HALF_A_BATCH = "half a batch, of each domain"
# Who labels the target in a round of self-training: the network that the round starts from, the same with batch norm's
# statistics re-estimated on the target, or both, averaged.
NETWORK, STATISTICS, BOTH = "network", "statistics", "both"
TEACHERS = (NETWORK, STATISTICS, BOTH)
TEACHERS_INPUT = "teacher"


@dataclass(frozen=True)
class Recipe:
    """What every phase uses; each phase has its own type, with the paper's learning rate for it.

    `patches_per_volume` counts the patches of one epoch, `validate_every` counts epochs; the last epoch is always
    validated. `augmentation` names one of `pipeline.adaptation.augmentations` for the source's patches.
    """

    window: int
    batch_size: int
    learning_rate: float
    epochs: int = PAPER.epochs
    dice_weight: float = PAPER.dice_weight
    patches_per_volume: int = OURS.patches_per_volume
    structure_fraction: float = OURS.structure_fraction
    overlap: float = OURS.overlap
    mirror: bool = False
    augmentation: str = NO_AUGMENTATION
    validate_every: int = 1

    rules: ClassVar[Mapping[str, Rule]] = {
        "window": Rule(lambda side: side > 0 and side % SIDE_MULTIPLE == 0, f"a multiple of {SIDE_MULTIPLE}"),
        "batch_size": _AT_LEAST_1,
        "learning_rate": Rule(lambda rate: 0 < rate < math.inf, "above 0"),
        "epochs": _AT_LEAST_1,
        "dice_weight": _NOT_NEGATIVE,
        "patches_per_volume": _AT_LEAST_1,
        "structure_fraction": _FRACTION,
        "overlap": Rule(lambda overlap: 0 <= overlap < 1, "0 to less than 1"),
        "augmentation": _AUGMENTATION,
        "validate_every": _AT_LEAST_1,
    }
    # A batch holds equally many patches of each domain; several processes share each domain's patches evenly.
    domains: ClassVar[int] = 1
    domain_batch_title: ClassVar[str] = "batch size"

    @classmethod
    def paper(cls, structure: Structure) -> Self:
        """Return the paper's recipe for a structure. Source: Section 3."""
        plan = PAPER.plans[structure]
        return cls(window=plan.window, batch_size=plan.batch_size)  # type: ignore[call-arg]  # a phase's type has a rate

    @property
    def domain_batch(self) -> int:
        """Return how many patches of each domain a batch holds."""
        return self.batch_size // self.domains

    def drawing(self) -> dict[str, Any]:
        """Return how an epoch's patches are drawn, as arguments of `pipeline.data.sampling.epoch_draws`."""
        return {
            "window": self.window,
            "batch_size": self.domain_batch,
            "patches_per_volume": self.patches_per_volume,
            "structure_fraction": self.structure_fraction,
            "mirror": self.mirror,
        }

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values: those that would fail hours later, or that mean nothing."""
        for name, rule in self.rules.items():
            if not rule.holds(value := getattr(self, name)):
                yield f"{name}: expected {rule.expected}, got {value}"

    def departures(self, structure: Structure) -> dict[str, str]:
        """Name every setting that is not the paper's, or not our default where the paper is silent."""
        paper = self.paper(structure)
        both = {f.name: (getattr(self, f.name), getattr(paper, f.name)) for f in fields(self)}
        return {name: f"{value} instead of {default}" for name, (value, default) in both.items() if value != default}


@dataclass(frozen=True)
class SupervisedRecipe(Recipe):
    """Phase 1's recipe. `channels` are the new network's, those of the original ENet by default.

    `input` is what the network sees of a patch, one of `pipeline.config.INPUTS`; later phases take the network as it
    is, unless they name an input themselves.
    """

    learning_rate: float = PAPER.supervised_rate
    channels: tuple[int, int, int] = (16, 64, 128)
    input: str = VOLUME_INPUT

    rules: ClassVar[Mapping[str, Rule]] = {
        **Recipe.rules,
        "channels": Rule(
            lambda widths: (
                len(widths) == 3 and all(w > 0 and w % 4 == 0 for w in widths) and [*widths] == sorted(widths)
            ),
            "three multiples of 4, not falling",
        ),
        "input": Rule(lambda name: name in INPUTS, " or ".join(INPUTS)),
    }


@dataclass(frozen=True)
class AdaptationRecipe(Recipe):
    """Phase 2's recipe: half of a batch comes from each domain.

    `grl_weight_max` is the weight that the gradient reversal ends with, `feature_layer` where the adversary takes its
    features, and `domain_grid` the side of the grid that they are averaged onto.
    """

    learning_rate: float = PAPER.adaptation_rate
    grl_weight_max: float = OURS.grl_weight_max
    domain_grid: int = OURS.domain_grid
    feature_layer: str = OURS.feature_layer

    rules: ClassVar[Mapping[str, Rule]] = {
        **Recipe.rules,
        "batch_size": _EVEN,
        "grl_weight_max": _NOT_NEGATIVE,
        "domain_grid": _AT_LEAST_1,
        "feature_layer": Rule(lambda layer: layer in FEATURE_LAYERS, " or ".join(FEATURE_LAYERS)),
    }
    domains: ClassVar[int] = 2
    domain_batch_title: ClassVar[str] = _HALF_A_BATCH


@dataclass(frozen=True)
class ControlRecipe(Recipe):
    """The control's recipe: phase 2's epochs, learning rate and source patches a step."""

    learning_rate: float = PAPER.adaptation_rate

    @classmethod
    def paper(cls, structure: Structure) -> Self:
        """Return what follows from the paper's phase 2 for a structure."""
        return cls.following(AdaptationRecipe.paper(structure))

    @classmethod
    def following(cls, recipe: Recipe) -> Self:
        """Return the control of a phase with this recipe: the values that both have, and one domain's patches."""
        shared = {f.name: getattr(recipe, f.name) for f in fields(cls)}
        return cls(**{**shared, "batch_size": recipe.domain_batch})


@dataclass(frozen=True)
class SelfTrainingRecipe(Recipe):
    """The recipe of a round of self-training, beyond the paper: half of a batch is target with pseudo-labels.

    Attributes:
        starts_from: key of the phase whose network labels the target and is trained further.
        start_epoch: which of that phase's networks: the best by source validation, or the last.
        teacher: one of `TEACHERS`. If it is the statistics alone, the round also starts from that network.
        input: what the trained network sees of a patch: `teacher`, as the one that labels, or one of
            `pipeline.config.INPUTS`. Where that is another input, a new network learns from the labels.
        separate_statistics: normalise each domain's half of a batch by its own batch statistics (Chang et al. 2019,
            arXiv 1906.03950). The running ones are then the target's; source validation has the source's.
        flipped_view: also predict each scan's mirror image, and average.
        contrast_view: augmentation of a further view of each scan, or none.
        target_augmentation: augmentation of patches with pseudo-labels.
        smallest_volume: this and the four fields below: `pipeline.adaptation.pseudo_labels.PseudoLabelRules`.
        cochlea_factor: refuse a tumour whose centre is farther from the nearest cochlea's than in any source label, by
            this factor, or nearer; 0 refuses none. For VS alone; the cochlea's run must have ended
            (`pipeline.adaptation.nearness`).
    """

    learning_rate: float = 3e-4
    starts_from: str = "supervised"
    start_epoch: str = LAST
    teacher: str = NETWORK
    input: str = TEACHERS_INPUT
    separate_statistics: bool = False
    flipped_view: bool = True
    contrast_view: str = NO_AUGMENTATION
    target_augmentation: str = NO_AUGMENTATION
    smallest_volume: float = 0.5
    largest_volume: float = 1.5
    kept_share: float = 0.5
    agreement: float = 0.5
    uncertain_band: float = 0.2
    cochlea_factor: float = 0.0

    rules: ClassVar[Mapping[str, Rule]] = {
        **Recipe.rules,
        "batch_size": _EVEN,
        "start_epoch": _BEST_OR_LAST,
        "teacher": Rule(lambda teacher: teacher in TEACHERS, " or ".join(TEACHERS)),
        "input": Rule(lambda name: name in (TEACHERS_INPUT, *INPUTS), " or ".join((TEACHERS_INPUT, *INPUTS))),
        "contrast_view": _AUGMENTATION,
        "target_augmentation": _AUGMENTATION,
        "smallest_volume": _NOT_NEGATIVE,
        "largest_volume": _NOT_NEGATIVE,
        "kept_share": _FRACTION,
        "agreement": _FRACTION,
        "uncertain_band": Rule(lambda band: 0 <= band < 0.5, "0 to less than 0.5"),
        "cochlea_factor": Rule(lambda factor: factor == 0 or 1 <= factor < math.inf, "0 or at least 1"),
    }
    domains: ClassVar[int] = 2
    domain_batch_title: ClassVar[str] = _HALF_A_BATCH


@dataclass(frozen=True)
class MeanTeacherRecipe(Recipe):
    """The recipe of the mean teacher, beyond the paper: half of a batch comes from each domain.

    Attributes:
        starts_from: key of the phase whose network student and teacher begin with.
        start_epoch: which of that phase's networks: the best by source validation, or the last.
        target_statistics: begin with batch norm's statistics re-estimated on the target.
        ema_decay: how much of itself the teacher keeps at every step.
        consistency_weight: of the consistency loss after the ramp; L_S has the weight 1.
        ramp_up: length of the ramp, as a fraction of the phase.
        target_augmentation: augmentation of the student's view of target patches, without its turns and zooms.
        teacher_augmentation: the same of the teacher's view.
    """

    learning_rate: float = 3e-4
    starts_from: str = "supervised"
    start_epoch: str = LAST
    target_statistics: bool = False
    ema_decay: float = 0.99
    consistency_weight: float = PAPER.dice_weight
    ramp_up: float = 0.25
    target_augmentation: str = "mild"
    teacher_augmentation: str = "light"

    rules: ClassVar[Mapping[str, Rule]] = {
        **Recipe.rules,
        "batch_size": _EVEN,
        "start_epoch": _BEST_OR_LAST,
        "ema_decay": Rule(lambda decay: 0 <= decay < 1, "0 to less than 1"),
        "consistency_weight": _NOT_NEGATIVE,
        "ramp_up": _FRACTION,
        "target_augmentation": _AUGMENTATION,
        "teacher_augmentation": _AUGMENTATION,
    }
    domains: ClassVar[int] = 2
    domain_batch_title: ClassVar[str] = _HALF_A_BATCH
