"""The `crossmoda-grl` command, and its Python interface: `load`, `score`, `rank` and what they return.

`import crossmoda_grl` imports none of what it offers: a name is imported when it is first used, torch only for
networks. docs/python.md describes the names below; others are no part of the interface.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from challenge.nifti import CaseError
    from crossmoda_grl.evaluating import rank, score
    from crossmoda_grl.segmenting import Model, Prediction, load
    from evaluation.cohort import CohortScores
    from evaluation.ranking import Ranking
    from pipeline.model.weights import WeightsError
    from pipeline.runtime.devices import DeviceError

__all__ = [
    "CaseError",
    "CohortScores",
    "DeviceError",
    "Model",
    "Prediction",
    "Ranking",
    "WeightsError",
    "__version__",
    "load",
    "rank",
    "score",
]

_MODULES = {
    "CaseError": "challenge.nifti",
    "CohortScores": "evaluation.cohort",
    "DeviceError": "pipeline.runtime.devices",
    "Model": "crossmoda_grl.segmenting",
    "Prediction": "crossmoda_grl.segmenting",
    "Ranking": "evaluation.ranking",
    "WeightsError": "pipeline.model.weights",
    "load": "crossmoda_grl.segmenting",
    "rank": "crossmoda_grl.evaluating",
    "score": "crossmoda_grl.evaluating",
}


def __getattr__(name: str) -> Any:
    """Import a name of the interface when it is first used.

    Raises:
        AttributeError: there is no such name.
    """
    if name == "__version__":
        from importlib.metadata import version

        return version("crossmoda-grl")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """Name the interface, for completion."""
    return sorted(__all__)
