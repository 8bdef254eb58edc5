"""The records that a phase keeps beside its checkpoint: history, curves, validation slices."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from challenge.files import written_whole
from evaluation.metrics import count_overlap, dice
from pipeline.adaptation.pseudo_labels import PseudoLabel
from pipeline.config import PAPER
from pipeline.data.sampling import TrainingVolume
from pipeline.training.listeners import Listener
from pipeline.training.report import (
    ValidationSlice,
    draw_curves,
    draw_slices,
    telling_slice,
    write_history,
    write_pseudo_labels,
)
from pipeline.training.state import PhaseState

SLICES_FILE, PSEUDO_LABELS_FILE, PSEUDO_LABELS_FOLDER = "slices.png", "pseudo_labels.csv", "pseudo_labels"
_SLICES_SHOWN = 4


class RecordKeeper(Listener):
    """Writes `history.csv`, `curves.png` and `slices.png` after every epoch; pseudo-labels as they are made."""

    def __init__(self, folder: Path) -> None:
        """Keep the records of the phase in a folder."""
        self._folder = folder
        self._slices: list[ValidationSlice] = []
        self._labels: list[tuple[str, PseudoLabel]] = []

    def started(self, state: PhaseState) -> None:
        """Write what a kill between a checkpoint and its records may have prevented."""
        self._write(state)

    def pseudo_labelled(self, state: PhaseState, case: str, label: PseudoLabel) -> None:
        """Write which target cases are kept, why the others are not, and the labels themselves."""
        self._labels.append((case, label))
        write_pseudo_labels(self._labels, self._folder / PSEUDO_LABELS_FILE)
        masks = self._folder / PSEUDO_LABELS_FOLDER
        masks.mkdir(exist_ok=True)
        with written_whole(masks / f"{case}.npz") as partial, partial.open("wb") as stream:
            np.savez_compressed(stream, bits=np.packbits(label.mask), shape=label.mask.shape)

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


def read_pseudo_label(path: Path) -> NDArray[np.bool_]:
    """Read a pseudo-label that a round wrote, bool `(D, H, W)` on the 0.5 mm grid.

    Raises:
        OSError, ValueError, KeyError: the file is missing or damaged.
    """
    with np.load(path, allow_pickle=False) as content:
        shape = tuple(content["shape"].tolist())
        return np.unpackbits(content["bits"], count=int(np.prod(shape))).reshape(shape).astype(np.bool_)
