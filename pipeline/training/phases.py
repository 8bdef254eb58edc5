"""The phases of training, as records in one table. Needs no torch.

A new phase is a module with its training function and one entry here; nothing else knows a phase by its name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from pipeline.config import BEST, LAST, SOURCE_TRAINING, SOURCE_VALIDATION, TARGET_TRAINING
from pipeline.training.recipes import (
    AdaptationRecipe,
    ControlRecipe,
    MeanTeacherRecipe,
    Recipe,
    SelfTrainingRecipe,
    SupervisedRecipe,
)


@dataclass(frozen=True)
class Phase:
    """What there is to know about a phase.

    Attributes:
        key: its name in commands, folders and settings.
        title: its name on a page, `Phase 1`.
        description: what it does, in a word or a few.
        recipe_type: what its recipe is.
        function: `module:name` of its training function, imported when it is called for.
        stream: number of its random stream. Each phase has its own, so that none depends on what ran before it.
        reads: the parts of the data that it is given.
        records_target: whether target scans are looked for although the phase does not read them, so that
            `export --target-statistics` can use them.
        starts_from: key of the phase whose best network it begins with; None for a new network. A recipe with a field
            of this name says it instead.
        exported_epoch: which of its networks is exported by default, the best by source validation or the last.
        recipe_follows: key of the phase that its recipe follows from (`recipe_type.following`), where no named recipe
            lists the phase itself.
        departure: how it departs from the paper; empty for the phases of the paper's method.
        is_comparison: whether it only serves to compare with, so that it is exported only by name.
    """

    key: str
    title: str
    description: str
    recipe_type: type[Recipe]
    function: str
    stream: int
    reads: tuple[str, ...] = (SOURCE_TRAINING, SOURCE_VALIDATION)
    records_target: bool = False
    starts_from: str | None = None
    exported_epoch: str = LAST
    recipe_follows: str | None = None
    departure: str = ""
    is_comparison: bool = False

    @property
    def is_the_papers(self) -> bool:
        """Tell whether the phase belongs to the paper's method."""
        return not self.departure

    @property
    def heading(self) -> str:
        """Return title and description: `Phase 1, supervised`."""
        return f"{self.title}, {self.description}"

    @property
    def needs_target(self) -> bool:
        """Tell whether target scans must be there."""
        return self.records_target or TARGET_TRAINING in self.reads

    def start(self, recipe: Recipe) -> str | None:
        """Return the key of the phase whose best network this one begins with, given its recipe."""
        key: str | None = getattr(recipe, "starts_from", self.starts_from)
        return key

    def start_epoch(self, recipe: Recipe) -> str:
        """Return which network of that phase: the best by source validation, unless the recipe has a field for it."""
        epoch: str = getattr(recipe, "start_epoch", BEST)
        return epoch

    def training_function(self) -> Callable[..., Any]:
        """Import the training function: `train(structure, network, volumes, recipe, *, phase, rng, ...) -> Trained`."""
        module, name = self.function.split(":")
        function: Callable[..., Any] = getattr(import_module(module), name)
        return function


SUPERVISED = Phase(
    "supervised",
    "Phase 1",
    "supervised",
    SupervisedRecipe,
    "pipeline.training.supervised:train_supervised",
    stream=0,
    exported_epoch=BEST,  # as the paper selects it
)
# Exported as the last epoch left it: the paper does not say, and the source's Dice would choose the network that has
# adapted least.
ADAPTATION = Phase(
    "adaptation",
    "Phase 2",
    "adaptation",
    AdaptationRecipe,
    "pipeline.training.adaptation:train_adaptation",
    stream=1,
    reads=(SOURCE_TRAINING, SOURCE_VALIDATION, TARGET_TRAINING),
    starts_from="supervised",
)
# What phase 2 gains over its control comes from the target: from the adversary, or from the batches that domains share.
CONTROL = Phase(
    "control",
    "Control",
    "phase 2 without the adversary",
    ControlRecipe,
    "pipeline.training.supervised:train_supervised",
    stream=2,
    records_target=True,
    starts_from="supervised",
    recipe_follows="adaptation",
    departure="phase 2's steps on the source alone, without the adversary",
    is_comparison=True,
)
# Rounds of self-training: each labels the target with the network that it starts from, which its recipe names.
SELF_TRAINING = tuple(
    Phase(
        f"self_training_{number}",
        f"Self-training {number}",
        f"round {number} on the target's pseudo-labels",
        SelfTrainingRecipe,
        "pipeline.training.self_training:train_self_training",
        stream=2 + number,
        reads=(SOURCE_TRAINING, SOURCE_VALIDATION, TARGET_TRAINING),
        departure="training on pseudo-labels of the target, which the paper does not have",
    )
    for number in (1, 2, 3)
)
# The alternative to rounds.
MEAN_TEACHER = Phase(
    "mean_teacher",
    "Mean teacher",
    "the mean of a student that learns from two views of the target",
    MeanTeacherRecipe,
    "pipeline.training.mean_teacher:train_mean_teacher",
    stream=6,
    reads=(SOURCE_TRAINING, SOURCE_VALIDATION, TARGET_TRAINING),
    departure="a mean teacher's consistency on the target, which the paper does not have",
)
PHASES = {phase.key: phase for phase in (SUPERVISED, ADAPTATION, CONTROL, *SELF_TRAINING, MEAN_TEACHER)}
