"""A run's losses, scores and pictures as TensorBoard shows them: `tensorboard --logdir RUNS`.

The axis is the phase's steps. An epoch's points stand at its last step, and are written after the checkpoint that holds
them. What a killed run wrote beyond its last checkpoint is purged when the run is resumed, so that no point is there
twice.
"""

from pathlib import Path
from types import TracebackType

import matplotlib.image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from pipeline.training.history import Epoch
from pipeline.training.listeners import Listener
from pipeline.training.report import SLICES_FILE
from pipeline.training.state import PhaseState

EVENTS_FOLDER = "tensorboard"

_EVERY_STEPS = 10
_FLUSH_EVERY_S = 30


class TrainingEvents(Listener):
    """Writes `RUNS/{structure}/{phase}/tensorboard`; a context manager, which writes what is pending at its end."""

    def __init__(self, runs: Path) -> None:
        """Write beside the records of the runs in a folder."""
        self._runs = runs
        self._folder = runs
        self._writer: SummaryWriter | None = None

    def __enter__(self) -> "TrainingEvents":
        """Write nothing yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what is pending."""
        self._close()

    def started(self, state: PhaseState) -> None:
        """Purge what lies beyond the state, and add the epochs of its history that are not written yet."""
        self._folder = self._runs / state.structure.key / state.phase.key
        events = self._folder / EVENTS_FOLDER
        written = _last_epoch_step(events, state.steps_done)
        missing = [epoch for epoch in state.history if _step_of(epoch, state) > written]
        if state.epoch == state.epochs and not missing:
            return
        self._writer = SummaryWriter(str(events), purge_step=state.steps_done + 1, flush_secs=_FLUSH_EVERY_S)
        for epoch in missing:
            self._add_epoch(epoch, state)

    def stepped(self, state: PhaseState) -> None:
        """Write every tenth step's losses."""
        if self._writer is not None and state.steps_done % _EVERY_STEPS == 0:
            for name, value in state.last_losses.items():
                self._writer.add_scalar(f"step/{name}", value, state.steps_done)

    def epoch_finished(self, state: PhaseState) -> None:
        """Write an epoch's means and scores, and the validation's picture."""
        epoch = state.history[-1]
        self._add_epoch(epoch, state)
        if self._writer is None:
            return
        picture = self._folder / SLICES_FILE
        if epoch.validation is not None and picture.exists():
            pixels = matplotlib.image.imread(picture)[..., :3]
            self._writer.add_image("validation/slices", pixels, state.steps_done, dataformats="HWC")
        self._writer.flush()

    def finished(self, state: PhaseState) -> None:
        """Write what is pending."""
        self._close()

    def _add_epoch(self, epoch: Epoch, state: PhaseState) -> None:
        values = {"epoch/rate": epoch.rate, **{f"epoch/{name}": value for name, value in epoch.losses.items()}}
        if epoch.validation is not None:
            values["validation/dice"] = epoch.validation.mean_dice
            values["validation/predicted_over_true_volume"] = epoch.validation.volume_ratio
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, _step_of(epoch, state))

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _step_of(epoch: Epoch, state: PhaseState) -> int:
    return epoch.number * state.batches_per_epoch


def _last_epoch_step(events: Path, most: int) -> int:
    """Return the last step, at most `most`, at which an epoch's points are written; 0 if there is none."""
    if not events.is_dir():
        return 0
    there = EventAccumulator(str(events), size_guidance={"scalars": 0, "images": 1})
    there.Reload()
    points = there.Scalars("epoch/rate") if "epoch/rate" in there.Tags()["scalars"] else []
    return max((point.step for point in points if point.step <= most), default=0)
