"""A run of seconds: a narrow network on two small volumes a domain. As a program it ends itself at given moments.

`python -m tests.tiny_run FOLDER MOMENT...` runs it once for each moment, every time in a process of its own, forked so
that torch is imported once, and prints how each ended: its exit code, or minus the signal's number. At the moment
"never" it runs to its end.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch._dynamo  # Adam imports it when it is first made, which would be once in each fork

from challenge.contract import VS
from challenge.nifti import Geometry
from challenge.signals import Interrupted
from pipeline.adaptation.pseudo_labels import PseudoLabel
from pipeline.data.dataset import TrainingCase, TrainingData
from pipeline.data.sampling import TrainingVolume
from pipeline.training.listeners import Listener
from pipeline.training.phases import PHASES
from pipeline.training.recipes import AdaptationRecipe, SupervisedRecipe
from pipeline.training.run import train_run
from pipeline.training.settings import RunPlan
from pipeline.training.state import PhaseState

GEOMETRY = Geometry((24, 24, 24), (0.5, 0.5, 0.5), (0.0, 0.0, 0.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
SHARED = {"window": 16, "batch_size": 2, "epochs": 2, "patches_per_volume": 2, "mirror": True, "learning_rate": 1e-3}
RECIPE = SupervisedRecipe(**SHARED, channels=(4, 8, 16))
RECIPES = {"supervised": RECIPE, "adaptation": AdaptationRecipe(**SHARED)}


def ball(case: str, seed: int, inverted: bool = False) -> TrainingVolume:
    """A bright ball of radius 7 somewhere in noise, `(24, 24, 24)`."""
    rng = np.random.default_rng(seed)
    centre = rng.integers(9, 15, size=3)
    distance = np.linalg.norm(np.moveaxis(np.indices((24, 24, 24)), 0, -1) - centre, axis=-1)
    mask = distance < 7
    volume = rng.normal(0, 0.3, mask.shape) + np.where(mask, 2.0, 0.0)
    volume = ((volume - volume.mean()) / volume.std()).astype(np.float32)
    return TrainingVolume(case, -volume, None) if inverted else TrainingVolume(case, volume, mask)


def labelled_truly(known: Sequence[TrainingVolume]) -> Callable[..., Iterator[tuple[TrainingVolume, PseudoLabel]]]:
    """Return a stand-in for `label_target` that knows the masks of these cases, whatever the network says."""
    masks = {volume.case: volume.mask for volume in known}

    def label_target(
        segmenters: object, target: Sequence[TrainingVolume], *_: object, **__: object
    ) -> Iterator[tuple[TrainingVolume, PseudoLabel]]:
        for case in target:
            mask = masks[case.case]
            assert mask is not None
            yield case, PseudoLabel(mask, None, "", 1.0)

    return label_target


VOLUMES = {
    "source_training": [ball("crossmoda_1", 1), ball("crossmoda_2", 2)],
    "source_validation": [ball("crossmoda_96", 3), ball("crossmoda_97", 4)],
    "target_training": [ball("crossmoda_106", 5, inverted=True), ball("crossmoda_107", 6, inverted=True)],
}


def tiny_plan(phases: Sequence[str] = ("supervised", "adaptation"), seed: int = 0, **changes: object) -> RunPlan:
    """The tiny run's plan, with changes to the recipe of every phase."""
    recipes = {PHASES[key]: replace(RECIPES[key], **changes) for key in phases}
    parts = {
        part: tuple(TrainingCase(v.case, Path(v.case), None, GEOMETRY) for v in volumes)
        for part, volumes in VOLUMES.items()
    }
    return RunPlan(VS, recipes, "tiny", TrainingData(Path(), **parts, split="by hand"), seed)


class Ender(Listener):
    """Sends the process a signal at one moment: (phase, epoch under way, batches done, validated case or '')."""

    def __init__(self, phase: str, epoch: int, batches: int, case: str, number: signal.Signals) -> None:
        self._moment, self._number = (phase, epoch, batches, case), number

    def stepped(self, state: PhaseState) -> None:
        self._end_at(state, "")

    def validated(self, state: PhaseState, volume: TrainingVolume, prediction: np.ndarray) -> None:
        self._end_at(state, volume.case)

    def _end_at(self, state: PhaseState, case: str) -> None:
        if (state.phase.key, state.epoch + 1, state.batches_done, case) == self._moment:
            os.kill(os.getpid(), self._number)


def kill_at_a_checkpoint_s_last_byte() -> None:
    """Die once the new checkpoint is written and has not yet taken the old one's place."""
    sync, synced = os.fsync, 0

    def deadly(file: int) -> None:
        nonlocal synced
        sync(file)
        name = os.readlink(f"/proc/self/fd/{file}")
        synced += name.endswith("-checkpoint.pt")
        if synced == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = deadly


MOMENTS = {
    "amid an epoch": Ender("supervised", 2, 1, "", signal.SIGKILL),
    "amid validation": Ender("adaptation", 1, 4, "crossmoda_96", signal.SIGKILL),
    "asked amid an epoch": Ender("supervised", 1, 1, "", signal.SIGTERM),
    "asked amid validation": Ender("adaptation", 2, 4, "crossmoda_96", signal.SIGTERM),
}


def run_until(folder: Path, moment: str) -> int:
    """Run in this process, which may not survive it; return the exit code."""
    torch.set_num_threads(1)
    if moment == "at a checkpoint's last byte":
        kill_at_a_checkpoint_s_last_byte()
    try:
        train_run(
            tiny_plan(),
            VOLUMES,
            folder,
            device=torch.device("cpu"),
            listeners=[MOMENTS[moment]] if moment in MOMENTS else [],
        )
    except Interrupted as interrupted:
        return interrupted.exit_code
    return 0


def main(folder: Path, moments: list[str]) -> None:
    for moment in moments:
        if not (child := os.fork()):
            code = 1
            try:
                code = run_until(folder, moment)
            finally:
                os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
