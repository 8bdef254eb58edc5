"""The plan of a search: which phase's recipe is varied, how trials are scored and pruned, and what they all share."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.config import PAPER
from pipeline.training.checkpoint import best_network
from pipeline.training.phases import Phase
from pipeline.training.settings import RunPlan, weights_digest
from pipeline.tuning.options import MEDIAN, SOURCE_DICE, Criterion
from pipeline.tuning.spaces import SPACES, Parameter


@dataclass(frozen=True)
class SearchPlan:
    """A search over one phase of one structure's run.

    `starts_from` is the folder of the finished phase that the tuned phase starts from, if it starts from one.
    """

    run: RunPlan
    criterion: Criterion = SOURCE_DICE
    pruner: str = MEDIAN
    starts_from: Path | None = None

    @property
    def phase(self) -> Phase:
        """Return the one phase that is tuned."""
        (phase,) = self.run.phases
        return phase

    @property
    def space(self) -> tuple[Parameter, ...]:
        """Return the parameters that are tuned."""
        return SPACES[self.phase.key]

    def run_with(self, values: Mapping[str, float]) -> RunPlan:
        """Return the run of a trial: the plan's run with the trial's values in its recipe."""
        changes: dict[str, Any] = dict(values)
        return replace(self.run, recipes={self.phase: replace(self.run.recipes[self.phase], **changes)})

    def settings(self) -> dict[str, Any]:
        """Return what all trials of a study must share, in the types that JSON has.

        Raises:
            RunError: the phase to start from has not ended.
        """
        space = {parameter.name: asdict(parameter) for parameter in self.space}
        recipe = asdict(self.run.recipes[self.phase])
        settings: dict[str, Any] = {
            "structure": self.run.structure.key,
            "phase": self.phase.key,
            "criterion": self.criterion.key,
            "pruner": self.pruner,
            "space": space,
            "recipe_name": self.run.recipe_name,
            "recipe": {name: value for name, value in recipe.items() if name not in space},
            "seed": self.run.seed,
            "spacing_mm": PAPER.spacing_mm,
            **{part: [case.case for case in self.run.data.parts[part]] for part in self.phase.reads},
        }
        if self.starts_from is not None:
            settings["starts_from"] = weights_digest(best_network(self.starts_from))
        plain: dict[str, Any] = json.loads(json.dumps(settings))
        return plain
