"""The records that a phase keeps beside its checkpoint: history, curves, validation slices."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation.metrics import count_overlap, dice
from pipeline.config import PAPER
from pipeline.data.sampling import TrainingVolume
from pipeline.training.listeners import Listener
from pipeline.training.report import ValidationSlice, draw_curves, draw_slices, telling_slice, write_history
from pipeline.training.state import PhaseState

SLICES_FILE = "slices.png"
_SLICES_SHOWN = 4


class RecordKeeper(Listener):
    """Writes `history.csv`, `curves.png` and `slices.png` after every epoch."""

    def __init__(self, folder: Path) -> None:
        """Keep the records of the phase in a folder."""
        self._folder = folder
        self._slices: list[ValidationSlice] = []

    def started(self, state: PhaseState) -> None:
        """Write what a kill between a checkpoint and its records may have prevented."""
        self._write(state)

    def validated(self, state: PhaseState, volume: TrainingVolume, prediction: NDArray[np.bool_]) -> None:
        """Keep a slice of one of the first cases; the prediction is bool `(D, H, W)`."""
        if volume.mask is not None and len(self._slices) < _SLICES_SHOWN:
            score = dice(count_overlap(volume.mask, prediction))
            self._slices.append(telling_slice(volume, prediction, score))

    def epoch_finished(self, state: PhaseState) -> None:
        """Write the epoch's records."""
        self._write(state)

    def _write(self, state: PhaseState) -> None:
        if not state.history:
            return
        title = f"{state.structure.title}, {state.phase.key}"
        write_history(state.history, self._folder / "history.csv")
        draw_curves(state.history, self._folder / "curves.png", title=title)
        if self._slices:
            note = f"{title}, epoch {state.epoch}"
            draw_slices(self._slices, state.structure, PAPER.spacing_mm, self._folder / SLICES_FILE, title=note)
            self._slices = []
