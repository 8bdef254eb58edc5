"""A run on disk: settings, checkpoints and records, so that the same command goes on where it was killed.

::

    RUNS/vs/summary.md
    RUNS/vs/supervised/    settings.json  checkpoint.pt  history.csv  curves.png  slices.png
    RUNS/vs/adaptation/    the same
    RUNS/vs/control/       the same, where asked for
    RUNS/vs/*/tensorboard/ events, where asked for (`pipeline.training.tensorboard`)

Every file is whole or absent. A checkpoint holds everything that a phase carries
(`pipeline.training.loops.PhaseState`). It is renewed after every epoch, every ten minutes within one, and when a
signal asks the run to stop.
"""

import fcntl
import hashlib
import io
import json
import os
import pickle
import platform
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from challenge.contract import Structure
from challenge.files import written_whole
from challenge.signals import SIGNALS, Interrupted
from evaluation.metrics import count_overlap, dice
from pipeline.config import PAPER
from pipeline.data.dataset import SPLIT_PARTS, TrainingData
from pipeline.data.sampling import TrainingVolume
from pipeline.model.enet import ENet3d
from pipeline.runtime.distributed import Ranks
from pipeline.training.execution import FP32, PLAIN, Execution
from pipeline.training.loops import PhaseState, Recipe, Watcher, train_adaptation, train_supervised
from pipeline.training.report import (
    ValidationSlice,
    draw_curves,
    draw_slices,
    duration,
    telling_slice,
    write_history,
    write_summary,
)

SUPERVISED, ADAPTATION, CONTROL = "supervised", "adaptation", "control"
# The paper's two. The control is phase 2's extra steps on the source alone: what phase 2 gains over it comes from the
# target, by the adversary or by the batches that the domains share.
PHASES = (SUPERVISED, ADAPTATION)
ALL_PHASES = (*PHASES, CONTROL)
PHASE_TITLES = {
    SUPERVISED: "Phase 1, supervised",
    ADAPTATION: "Phase 2, adaptation",
    CONTROL: "Control, phase 2 without the adversary",
}
CHECKPOINT_FORMAT = 1
CHECKPOINT_FILE, SETTINGS_FILE, SLICES_FILE = "checkpoint.pt", "settings.json", "slices.png"

_SAVE_EVERY_S = 600.0
_SLICES_SHOWN = 4
ADAPTATION_ONLY = ("adaptation_rate", "grl_weight_max", "domain_grid", "feature_layer")
_PAPERS_CASES = {
    part: last - first + 1
    for part, (first, last) in zip(
        SPLIT_PARTS, (PAPER.source_training_ids, PAPER.source_validation_ids, PAPER.target_training_ids), strict=True
    )
}


class RunError(Exception):
    """A run folder that does not fit what is asked of it: path, expected, got, next step."""


@dataclass(frozen=True)
class RunPlan:
    """What is asked of a run of one structure: a recipe for each of its phases, the data, the seed."""

    structure: Structure
    recipes: Mapping[str, Recipe]
    recipe_name: str
    data: TrainingData
    seed: int = 0

    @property
    def phases(self) -> tuple[str, ...]:
        """Return the phases to run, in order."""
        return tuple(phase for phase in ALL_PHASES if phase in self.recipes)

    def departures(self, phase: str) -> dict[str, str]:
        """Name everything that is not the paper's, or not our default where the paper is silent."""
        named = self.recipes[phase].departures(self.structure)
        if phase != ADAPTATION:
            named = {name: what for name, what in named.items() if name not in ADAPTATION_ONLY}
        if phase == CONTROL:
            named["control"] = "phase 2's steps on the source alone, without the adversary"
        if not self.data.is_the_papers_split:
            named["split"] = f"{self.data.split}, instead of the paper's ids"
        counts = {part: (len(self.data.parts[part]), paper) for part, paper in _PAPERS_CASES.items()}
        if fewer := [
            f"{part.replace('_', ' ')} {ours} instead of {paper}"
            for part, (ours, paper) in counts.items()
            if ours != paper and (phase == ADAPTATION or part != "target_training")
        ]:
            named["cases"] = ", ".join(fewer)
        return named


class Display:
    """What a person sees while a run goes on; this one shows nothing."""

    def phase_started(self, structure: Structure, phase: str, state: PhaseState) -> None:
        """Show where the phase stands: at its start, or at what a checkpoint held."""

    def stepped(self, state: PhaseState) -> None:
        """Show a step."""

    def validated(self, state: PhaseState, case: str) -> None:
        """Show that a validation case is done."""

    def epoch_finished(self, state: PhaseState) -> None:
        """Show an epoch, the last of the state's history."""


class StopRequest:
    """Whether a signal has asked the run to stop."""

    signal_number: int | None = None

    def check(self) -> None:
        """Raise `Interrupted` where one has.

        Raises:
            Interrupted: with the signal's exit code.
        """
        if self.signal_number is not None:
            raise Interrupted(self.signal_number)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Note `SIGNALS` inside the block instead of ending amid a step; a second one ends at once.

    Raises:
        Interrupted: at the second signal.
    """
    request = StopRequest()

    def note(signal_number: int, _: FrameType | None) -> None:
        request.check()
        request.signal_number = signal_number

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train_run(
    plan: RunPlan,
    volumes: Mapping[str, Sequence[TrainingVolume]],
    folder: Path,
    *,
    device: torch.device,
    execution: Execution = PLAIN,
    display: Display | None = None,
    starts_from: Path | None = None,
) -> Path:
    """Run a structure's phases in `folder`, or go on with them where they were left; return the summary's path.

    Args:
        plan: what to do.
        volumes: the plan's data by part, in its order, ready for training.
        folder: of this structure's run, made where it is missing.
        device: where to train.
        execution: how to compute the steps; of several processes the first alone writes files.
        display: shows the progress; it may end the run by raising, after an epoch's checkpoint and records.
        starts_from: folder of the finished phase 1 that later phases start from; this run's own by default.

    Raises:
        RunError: the folder holds a run with other settings or a damaged checkpoint, another process is at work in it,
            or phase 2 is asked for before phase 1 has ended.
        FloatingPointError: the loss is no longer a number; the last good checkpoint is kept.
        Interrupted: a signal asked to stop; everything is saved.
        ValueError: a batch that the processes cannot share.
        OSError: a file cannot be written, a full disk included; the last checkpoint is kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source, validation, target = (volumes[part] for part in SPLIT_PARTS)
    structure, ranks = plan.structure, execution.ranks
    with _locked(folder) if ranks.is_first else nullcontext(), stop_requests() as stop:
        for phase in plan.phases:
            recipe = plan.recipes[phase]
            # Each phase has its own stream, so that neither depends on how the other was interrupted.
            rng = np.random.default_rng([plan.seed, structure.label, ALL_PHASES.index(phase)])
            network = best_network(starts_from or folder / SUPERVISED) if phase != SUPERVISED else None
            with ranks.rank_zero_first():
                _claim(
                    folder / phase,
                    _settings(plan, phase, network, execution),
                    _record(plan, phase, device, execution),
                )
            watch = _Keeper(folder / phase, structure, phase, stop, ranks, display or Display())
            how: dict[str, Any] = {"rng": rng, "device": device, "execution": execution, "watch": watch}
            if phase == ADAPTATION and network is not None:
                train_adaptation(structure, network, source, target, validation, recipe, **how)
            else:
                train_supervised(structure, source, validation, recipe, network=network, **how)
    summary = folder / "summary.md"
    if ranks.is_first:
        write_summary(summary, summary_of(folder), title=f"{structure.title}: training run")
    return summary


def check_run(plan: RunPlan, folder: Path, execution: Execution = PLAIN) -> None:
    """Refuse, before hours of preprocessing, what `train_run` would refuse after them.

    Raises:
        RunError: the folder holds a run with other settings, or phase 2 is asked for before phase 1 has ended.
        ValueError: a batch that the processes cannot share.
    """
    for phase, recipe in plan.recipes.items():
        if phase == ADAPTATION:
            execution.check_batch(recipe.batch_size // 2, f"{phase}: half a batch, of each domain")
        else:
            execution.check_batch(recipe.batch_size, f"{phase}: batch size")
    if SUPERVISED not in plan.phases:
        finished_checkpoint(folder / SUPERVISED)
    for phase in plan.phases:
        if (folder / phase / SETTINGS_FILE).exists():
            there = read_settings(folder / phase)["settings"]
            there.pop("starts_from", None)
            _refuse_differences(folder / phase, there, _settings(plan, phase, None, execution))


class _Keeper(Watcher):
    """Puts a saved state back, saves new ones, and keeps the records beside them."""

    def __init__(
        self, folder: Path, structure: Structure, phase: str, stop: StopRequest, ranks: Ranks, display: Display
    ) -> None:
        self._folder, self._structure, self._phase = folder, structure, phase
        self._stop, self._ranks, self._display = stop, ranks, display
        self._slices: list[ValidationSlice] = []
        self._saved_at = time.perf_counter()

    def started(self, state: PhaseState) -> None:
        path = self._folder / CHECKPOINT_FILE
        if path.exists():
            checkpoint = read_checkpoint(path)
            try:
                state.load_state_dict(checkpoint["state"])
            except (KeyError, RuntimeError, ValueError, TypeError) as error:
                raise RunError(
                    f"{path}: expected a state of this network and recipe, got another ({error}); "
                    "choose another run folder, or remove this one to start anew"
                ) from error
            # A kill may have come between the checkpoint and its records.
            self._write_records(state)
        self._display.phase_started(self._structure, self._phase, state)

    def stepped(self, state: PhaseState) -> None:
        self._display.stepped(state)
        self._save_if_asked(state)

    def validated(self, state: PhaseState, volume: TrainingVolume, prediction: NDArray[np.bool_]) -> None:
        self._display.validated(state, volume.case)
        if volume.mask is not None and len(self._slices) < _SLICES_SHOWN:
            score = dice(count_overlap(volume.mask, prediction))
            self._slices.append(telling_slice(volume, prediction, score))
        if self._ranks.size == 1:  # of several, each validates its own cases, and they agree to stop afterwards
            self._save_if_asked(state)

    def finished_epoch(self, state: PhaseState) -> None:
        self._save(state)
        self._write_records(state)
        self._display.epoch_finished(state)
        if asked := self._asked_to_stop():
            raise Interrupted(asked)

    def _write_records(self, state: PhaseState) -> None:
        if not state.history or not self._ranks.is_first:
            return
        title = f"{self._structure.title}, {self._phase}"
        write_history(state.history, self._folder / "history.csv")
        draw_curves(state.history, self._folder / "curves.png", title=title)
        if self._slices:
            note = f"{title}, epoch {state.epoch}"
            draw_slices(self._slices, self._structure, PAPER.spacing_mm, self._folder / SLICES_FILE, title=note)
            self._slices = []

    def _save_if_asked(self, state: PhaseState) -> None:
        asked = self._asked_to_stop()
        if asked or time.perf_counter() - self._saved_at > _SAVE_EVERY_S:
            self._save(state)
        if asked:
            raise Interrupted(asked)

    def _asked_to_stop(self) -> int:
        """Return the signal that has asked any of the processes to stop, or 0; all get the same answer."""
        return self._ranks.all_reduce_max(self._stop.signal_number or 0)

    def _save(self, state: PhaseState) -> None:
        if not self._ranks.is_first:
            return
        checkpoint = {
            "format": CHECKPOINT_FORMAT,
            "structure": self._structure.key,
            "phase": self._phase,
            "network": state.network.config(),
            "epochs": state.epochs,
            "state": state.state_dict(),
        }
        # Through memory, because torch's own writer hides a full disk behind an internal error.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        with written_whole(self._folder / CHECKPOINT_FILE) as partial:
            partial.write_bytes(buffer.getbuffer())
        self._saved_at = time.perf_counter()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, which cannot run code (`weights_only`), onto the CPU.

    Raises:
        RunError: it is missing, damaged, or of another format.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise RunError(f"{path}: expected a checkpoint, got none; train this phase first") from error
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise RunError(
            f"{path}: expected a checkpoint, got a damaged file ({str(error).splitlines()[0]}); "
            "bring back a copy of it, or remove it to start this phase anew"
        ) from error
    if not isinstance(checkpoint, dict) or checkpoint.get("format") != CHECKPOINT_FORMAT:
        found = checkpoint.get("format") if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise RunError(f"{path}: expected a checkpoint of format {CHECKPOINT_FORMAT}, got {found}; start a new run")
    return checkpoint


def progress_of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
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


def weights_digest(network: ENet3d) -> str:
    """Return the sha256 of a network's weights and buffers, which are on the CPU."""
    weights = b"".join(tensor.numpy().tobytes() for tensor in network.state_dict().values())
    return hashlib.sha256(weights).hexdigest()


def finished_checkpoint(folder: Path) -> dict[str, Any]:
    """Read the checkpoint of a phase that has ended.

    Raises:
        RunError: as `read_checkpoint`, or the phase has not ended.
    """
    checkpoint = read_checkpoint(folder / CHECKPOINT_FILE)
    done = progress_of(checkpoint)["epoch"]
    if done < checkpoint["epochs"]:
        raise RunError(
            f"{folder}: expected the phase to have ended, got {done} of {checkpoint['epochs']} epochs; train on"
        )
    return checkpoint


def best_network(folder: Path) -> ENet3d:
    """Return the best network of a phase that has ended.

    Raises:
        RunError: as `finished_checkpoint`.
    """
    return network_of(finished_checkpoint(folder), best=True)


def read_settings(folder: Path) -> dict[str, Any]:
    """Read a phase's settings: `settings` must match for the run to go on, `record` tells where it was made.

    Raises:
        RunError: they are missing or damaged.
    """
    path = folder / SETTINGS_FILE
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: expected a run's settings, got: {error}; choose another run folder") from error
    return content


def _settings(plan: RunPlan, phase: str, network: ENet3d | None, execution: Execution) -> dict[str, Any]:
    """Return what decides a phase's weights, as JSON holds it."""
    left_out = ADAPTATION_ONLY if phase != ADAPTATION else ()
    settings: dict[str, Any] = {
        "structure": plan.structure.key,
        "phase": phase,
        "seed": plan.seed,
        "recipe": {name: value for name, value in asdict(plan.recipes[phase]).items() if name not in left_out},
        "spacing_mm": PAPER.spacing_mm,
        "precision": execution.precision,
    }
    for part, cases in plan.data.parts.items():
        if phase == ADAPTATION or part != "target_training":
            settings[part] = [case.case for case in cases]
    if network is not None:
        settings["starts_from"] = weights_digest(network)
    # Through JSON, so that tuples and lists compare.
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain


def _record(plan: RunPlan, phase: str, device: torch.device, execution: Execution) -> dict[str, Any]:
    return {
        "recipe": plan.recipe_name,
        "departures": plan.departures(phase),
        "data": str(plan.data),
        "cohort_folders": {part: str(cases[0].cohort_folder) for part, cases in plan.data.parts.items() if cases},
        "target_scans": {case.case: str(case.scan.resolve()) for case in plan.data.target_training},
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(device),
        "execution": str(execution),
        "version": metadata.version("crossmoda-grl"),
        "commit": commit(),
    }


def _claim(folder: Path, settings: dict[str, Any], record: dict[str, Any]) -> None:
    """Write a new phase's settings, or check that they are those of the one in the folder."""
    folder.mkdir(exist_ok=True)
    path = folder / SETTINGS_FILE
    if path.exists():
        _refuse_differences(folder, read_settings(folder)["settings"], settings)
        return
    with written_whole(path) as partial:
        partial.write_text(json.dumps({"settings": settings, "record": record}, indent=2) + "\n", encoding="utf-8")


def _refuse_differences(folder: Path, there: dict[str, Any], now: dict[str, Any]) -> None:
    if differing := list(differences({"precision": FP32, **there}, now)):  # older runs name none
        raise RunError(
            f"{folder}: expected the settings that this run was begun with, got others: {'; '.join(differing)}; "
            "repeat them, or choose another --runs folder"
        )


def differences(there: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Say which settings differ, as JSON holds them: what each was, and what it is now."""
    for name in sorted({*there, *now}):
        was, is_ = there.get(name), now.get(name)
        if isinstance(was, dict) and isinstance(is_, dict):
            yield from differences(was, is_)
        elif isinstance(was, list) and isinstance(is_, list) and name in SPLIT_PARTS:
            if was != is_:
                changed = sorted({*was} ^ {*is_}) or ["their order"]
                yield f"{name} differs in {', '.join(changed[:5])}"
        elif was != is_:
            yield f"{name} was {was}, is {is_}"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of the run folder; the lock goes with the process, however that ends."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"{folder}: expected a run that nobody is at work in, got one that another process is training; "
                "wait for it, or choose another --runs folder"
            ) from error
        yield


def summary_of(folder: Path) -> dict[str, dict[str, str]]:
    """Sum up the phases of a run that have a checkpoint: settings, data, scores, time, machine.

    Raises:
        RunError: as `read_checkpoint`.
    """
    sections: dict[str, dict[str, str]] = {}
    for phase in ALL_PHASES:
        if not (folder / phase / CHECKPOINT_FILE).exists():
            continue
        checkpoint, settings = read_checkpoint(folder / phase / CHECKPOINT_FILE), read_settings(folder / phase)
        progress, record = progress_of(checkpoint), settings["record"]
        recipe = settings["settings"]["recipe"]
        epochs = progress["history"]
        scores = {name: validation_scores(progress, best=name == "best") for name in ("best", "last")}
        sections[PHASE_TITLES[phase]] = {
            "epochs": f"{progress['epoch']} of {checkpoint['epochs']}",
            "best epoch": str(progress["best_epoch"]),
            **{f"source validation Dice, {name} epoch": _score_line(score) for name, score in scores.items() if score},
            **{f"last mean {name.replace('_', ' ')}": f"{value:.4g}" for name, value in epochs[-1]["losses"].items()},
            "time": duration(sum(epoch["seconds"] for epoch in epochs)),
            "recipe": f"{record['recipe']}: " + ", ".join(f"{name} {value}" for name, value in recipe.items()),
            "departures from the paper": "; ".join(f"{k}: {v}" for k, v in record["departures"].items()) or "none",
            "seed": str(settings["settings"]["seed"]),
            "data": record["data"],
            "machine": record["machine"],
            "execution": record.get("execution", FP32),
            "code": f"{record['version']}, commit {record['commit'] or 'unknown'}",
            "started": record["started"],
        }
    return sections


def validation_scores(progress: Mapping[str, Any], *, best: bool) -> dict[str, Any] | None:
    """Return the source validation of a phase's best or last epoch: epoch, Dice by case, mean, sd, median, volumes.

    None where no epoch has been validated.
    """
    validated = [epoch for epoch in progress["history"] if epoch["validation"] is not None]
    if best:
        validated = [epoch for epoch in validated if epoch["number"] == progress["best_epoch"]]
    if not validated:
        return None
    epoch = validated[-1]
    values = list(epoch["validation"]["dice"].values())
    return {
        "epoch": epoch["number"],
        "cases": len(values),
        "dice_mean": round(float(np.mean(values)), 4),
        "dice_sd": round(float(np.std(values, ddof=1)), 4) if len(values) > 1 else None,
        "dice_median": round(float(np.median(values)), 4),
        "predicted_over_true_volume": round(epoch["validation"]["volume_ratio"], 4),
        "dice": epoch["validation"]["dice"],
    }


def _score_line(score: Mapping[str, Any]) -> str:
    spread = "" if score["dice_sd"] is None else f" +- {score['dice_sd']:.3f}"
    return (
        f"{score['dice_mean']:.3f}{spread}, median {score['dice_median']:.3f}, {score['cases']} cases, epoch "
        f"{score['epoch']}, predicted/true volume {score['predicted_over_true_volume']:.2f}"
    )


def machine(device: torch.device) -> str:
    """Describe where a run is made: processor, cores, GPU, torch."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():  # Linux, where platform knows the architecture alone
        models = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = f", {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    return f"{name}, {cores} cores, threads: {torch.get_num_threads()}{gpu}, torch {torch.__version__}"


def commit() -> str | None:
    """Return the commit that the code stands at, with `+` where it was changed since; None where none is known."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None  # an installed package, perhaps inside another project's repository
    try:
        head, changed = (
            subprocess.run(
                ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True, timeout=10
            ).stdout.strip()
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no", "pipeline"])
        )
    except (OSError, subprocess.SubprocessError):
        return None  # no git here
    return head + ("+" if changed else "")
