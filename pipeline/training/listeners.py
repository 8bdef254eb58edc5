"""The one interface of everything that follows a running phase: checkpoints, records, progress bar, TensorBoard.

::

    started -> [pseudo_labelled ...] -> (stepped ... -> validated ... -> epoch_finished) ... -> finished
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.adaptation.pseudo_labels import PseudoLabel
from pipeline.data.sampling import TrainingVolume
from pipeline.training.state import PhaseState


class Listener:
    """Follows a phase; this one does nothing, and a subclass overrides what it needs.

    The state is complete at every call, so a listener may save it, and may end the phase by raising.
    """

    def started(self, state: PhaseState) -> None:
        """Hear that a phase starts: before its first step, or as a checkpoint left it. May restore a saved state."""

    def pseudo_labelled(self, state: PhaseState, case: str, label: PseudoLabel) -> None:
        """Hear of a target case's pseudo-label, kept or refused; only self-training has such."""

    def stepped(self, state: PhaseState) -> None:
        """Hear that a step is done."""

    def validated(self, state: PhaseState, volume: TrainingVolume, prediction: NDArray[np.bool_]) -> None:
        """Hear of a validation case and its prediction, bool `(D, H, W)`."""

    def epoch_finished(self, state: PhaseState) -> None:
        """Hear that an epoch is finished, the last of the state's history."""

    def finished(self, state: PhaseState) -> None:
        """Hear that the phase has ended, after its last epoch."""


class Listeners(Listener):
    """Several listeners as one, called in their order."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        """Call each of them."""
        self._listeners = listeners

    def started(self, state: PhaseState) -> None:
        """Pass it on."""
        for listener in self._listeners:
            listener.started(state)

    def pseudo_labelled(self, state: PhaseState, case: str, label: PseudoLabel) -> None:
        """Pass it on."""
        for listener in self._listeners:
            listener.pseudo_labelled(state, case, label)

    def stepped(self, state: PhaseState) -> None:
        """Pass it on."""
        for listener in self._listeners:
            listener.stepped(state)

    def validated(self, state: PhaseState, volume: TrainingVolume, prediction: NDArray[np.bool_]) -> None:
        """Pass it on: the prediction is bool `(D, H, W)`."""
        for listener in self._listeners:
            listener.validated(state, volume, prediction)

    def epoch_finished(self, state: PhaseState) -> None:
        """Pass it on."""
        for listener in self._listeners:
            listener.epoch_finished(state)

    def finished(self, state: PhaseState) -> None:
        """Pass it on."""
        for listener in self._listeners:
            listener.finished(state)
