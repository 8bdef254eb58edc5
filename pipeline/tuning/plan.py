"""The plan of a search: which phase's recipe is varied, how trials are scored and pruned, and what they all share."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.config import PAPER
from pipeline.training.run import ADAPTATION, ADAPTATION_ONLY, SUPERVISED, RunPlan, best_network, weights_digest
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
    def phase(self) -> str:
        """Return the one phase that is tuned."""
        (phase,) = self.run.phases
        return phase

    @property
    def space(self) -> tuple[Parameter, ...]:
        """Return the parameters that are tuned."""
        return SPACES[self.phase]

    def run_with(self, values: Mapping[str, float]) -> RunPlan:
        """Return the run of a trial: the plan's run with the trial's values in its recipe."""
        changes: dict[str, Any] = dict(values)
        return replace(self.run, recipes={self.phase: replace(self.run.recipes[self.phase], **changes)})

    def settings(self) -> dict[str, Any]:
        """Return what all trials of a study must share, in the types that JSON has.

        Raises:
            RunError: the phase to start from has not ended.
        """
        varied = {parameter.name for parameter in self.space}
        left_out = {*varied, *(ADAPTATION_ONLY if self.phase == SUPERVISED else ("supervised_rate",))}
        recipe = asdict(self.run.recipes[self.phase])
        settings: dict[str, Any] = {
            "structure": self.run.structure.key,
            "phase": self.phase,
            "criterion": self.criterion.key,
            "pruner": self.pruner,
            "space": {parameter.name: asdict(parameter) for parameter in self.space},
            "recipe_name": self.run.recipe_name,
            "recipe": {name: value for name, value in recipe.items() if name not in left_out},
            "seed": self.run.seed,
            "spacing_mm": PAPER.spacing_mm,
        }
        for part, cases in self.run.data.parts.items():
            if self.phase == ADAPTATION or part != "target_training":
                settings[part] = [case.case for case in cases]
        if self.starts_from is not None:
            settings["starts_from"] = weights_digest(best_network(self.starts_from))
        plain: dict[str, Any] = json.loads(json.dumps(settings))
        return plain
