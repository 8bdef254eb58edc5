"""Checkpoints: written whole with a checksum, read without running code, and the listeners that save and restore them.

A checkpoint is renewed after every epoch, every ten minutes within one, and when a signal asks the run to stop.
"""

import io
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from challenge.files import read_regular, written_whole
from challenge.signals import Interrupted
from pipeline.adaptation.pseudo_labels import PseudoLabel
from pipeline.data.sampling import TrainingVolume
from pipeline.model.enet import ENet3d
from pipeline.runtime.checksums import seal, unsealed
from pipeline.runtime.distributed import Ranks
from pipeline.training.listeners import Listener
from pipeline.training.phases import PHASES, SUPERVISED, Phase
from pipeline.training.settings import RUN_FORMAT, RunError, check_format
from pipeline.training.state import PhaseState
from pipeline.training.stopping import StopRequest

CHECKPOINT_FILE = "checkpoint.pt"
_SAVE_EVERY_S = 600.0
_MAX_BYTES = 2**30  # a hundred times the paper's


class CheckpointKeeper(Listener):
    """Restores the state of a folder's checkpoint, and saves new ones; of several processes only the first saves."""

    def __init__(self, folder: Path, ranks: Ranks) -> None:
        """Keep the checkpoint of the phase in a folder."""
        self._path, self._ranks = folder / CHECKPOINT_FILE, ranks
        self._saved_at = time.perf_counter()

    def started(self, state: PhaseState) -> None:
        """Restore the checkpoint's state, if there is one.

        Raises:
            RunError: it is damaged, or of another network or recipe.
        """
        if not self._path.exists():
            return
        try:
            state.load_state_dict(read_checkpoint(self._path)["state"])
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise RunError(
                f"{self._path}: expected a state of this network and recipe, got another ({error}); "
                "choose another run folder, or remove this one to start again"
            ) from error

    def stepped(self, state: PhaseState) -> None:
        """Save if the last time is long ago."""
        self._save_if_due(state)

    def validated(self, state: PhaseState, volume: TrainingVolume, prediction: NDArray[np.bool_]) -> None:
        """Save if the last time is long ago; the prediction, bool `(D, H, W)`, is not saved."""
        self._save_if_due(state)

    def epoch_finished(self, state: PhaseState) -> None:
        """Save."""
        self.save(state)

    def save(self, state: PhaseState) -> None:
        """Write the checkpoint, whole or not at all.

        Raises:
            OSError: it cannot be written, a full disk included; the one before is kept.
        """
        if not self._ranks.is_first:
            return
        checkpoint = {
            "format": RUN_FORMAT,
            "structure": state.structure.key,
            "phase": state.phase.key,
            "network": state.network.config(),
            "epochs": state.epochs,
            "state": state.state_dict(),
        }
        # Through memory, because torch's own writer hides a full disk behind an internal error.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        with written_whole(self._path) as partial:
            partial.write_bytes(buffer.getbuffer())
            seal(partial)
        self._saved_at = time.perf_counter()

    def _save_if_due(self, state: PhaseState) -> None:
        if time.perf_counter() - self._saved_at > _SAVE_EVERY_S:
            self.save(state)


class Stopper(Listener):
    """Saves and ends the phase once a signal has asked any of the processes to stop. The last of the listeners."""

    def __init__(self, stop: StopRequest, ranks: Ranks, keeper: CheckpointKeeper) -> None:
        """Stop at a request; the keeper saves."""
        self._stop, self._ranks, self._keeper = stop, ranks, keeper

    def pseudo_labelled(self, state: PhaseState, case: str, label: PseudoLabel) -> None:
        """End, if asked; the resumed phase labels the target again."""
        self._end_if_asked(state)

    def stepped(self, state: PhaseState) -> None:
        """Save and end, if asked."""
        self._end_if_asked(state)

    def validated(self, state: PhaseState, volume: TrainingVolume, prediction: NDArray[np.bool_]) -> None:
        """Save and end, if asked; the prediction is bool `(D, H, W)`."""
        if self._ranks.size == 1:  # several processes validate cases of their own, and agree to stop afterwards
            self._end_if_asked(state)

    def epoch_finished(self, state: PhaseState) -> None:
        """End, if asked; the epoch is saved."""
        self._end_if_asked(state, saved=True)

    def _end_if_asked(self, state: PhaseState, *, saved: bool = False) -> None:
        if asked := self._ranks.all_reduce_max(self._stop.signal_number or 0):
            if not saved:
                self._keeper.save(state)
            raise Interrupted(asked)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU and compare its checksum; reading cannot run code (`weights_only`).

    Checkpoints of older versions carry no checksum.

    Raises:
        RunError: it is missing, damaged, or of another format.
    """
    try:
        content = unsealed(read_regular(path, _MAX_BYTES))
        checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise RunError(f"{path}: expected a checkpoint, got none; train this phase first") from error
    except Exception as error:  # torch raises almost anything at damaged bytes
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise RunError(
            f"{path}: expected a checkpoint, got a damaged file ({reason}); "
            "bring back a copy of it, or remove it to start this phase again"
        ) from error
    check_format(path, checkpoint.get("format") if isinstance(checkpoint, dict) else type(checkpoint).__name__)
    return dict(checkpoint)


def finished_checkpoint(folder: Path) -> dict[str, Any]:
    """Read the checkpoint of a phase that has ended.

    Raises:
        RunError: as `read_checkpoint`, or the phase has not ended.
    """
    checkpoint = read_checkpoint(folder / CHECKPOINT_FILE)
    done = saved_progress(checkpoint)["epoch"]
    if done < checkpoint["epochs"]:
        raise RunError(
            f"{folder}: expected the phase to have ended, got {done} of {checkpoint['epochs']} epochs; train on"
        )
    return checkpoint


def last_phase(folder: Path) -> Phase:
    """Return the last phase of a run, in the table's order, that is no comparison; phase 1 if there is none."""
    done = [p for p in PHASES.values() if not p.is_comparison and (folder / p.key / CHECKPOINT_FILE).exists()]
    return done[-1] if done else SUPERVISED


def saved_progress(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's counts, history and random state as plain values."""
    progress: dict[str, Any] = json.loads(checkpoint["state"]["progress"])
    return progress


def network_of(checkpoint: Mapping[str, Any], *, best: bool) -> ENet3d:
    """Rebuild a checkpoint's network: the best by source validation, or as the last step left it; in eval mode.

    Raises:
        RunError: the best is asked for and no epoch has been validated.
    """
    weights = checkpoint["state"]["best" if best else "network"]
    if weights is None:
        raise RunError(f"{checkpoint['phase']}: expected a validated epoch, got none; train on")
    network = ENet3d(**checkpoint["network"])
    network.load_state_dict(weights)
    return network.eval()


def best_network(folder: Path) -> ENet3d:
    """Return the best network of a phase that has ended.

    Raises:
        RunError: as `finished_checkpoint`.
    """
    return network_of(finished_checkpoint(folder), best=True)
