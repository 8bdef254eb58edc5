"""What a run came to, on a page: settings, data, scores, time, machine, and how each phase departs from the paper."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from challenge.quantities import counted, format_duration
from pipeline.config import BEST, LAST
from pipeline.training.checkpoint import CHECKPOINT_FILE, read_checkpoint, saved_progress
from pipeline.training.execution import FP32
from pipeline.training.phases import PHASES
from pipeline.training.settings import read_settings


def summary_of(folder: Path) -> dict[str, dict[str, str]]:
    """Sum up the phases of a run that have a checkpoint, two tables each: facts, and departures from the paper.

    Raises:
        RunError: as `read_checkpoint`.
    """
    sections: dict[str, dict[str, str]] = {}
    for phase in PHASES.values():
        if not (folder / phase.key / CHECKPOINT_FILE).exists():
            continue
        checkpoint, content = read_checkpoint(folder / phase.key / CHECKPOINT_FILE), read_settings(folder / phase.key)
        progress, settings, record = saved_progress(checkpoint), content["settings"], content["record"]
        epochs = progress["history"]
        scores = {which: validation_scores(progress, best=which == BEST) for which in (BEST, LAST)}
        sections[phase.heading] = {
            "epochs": f"{progress['epoch']} of {checkpoint['epochs']}",
            "best epoch": str(progress["best_epoch"]),
            **{f"source validation Dice, {which} epoch": _score_line(s) for which, s in scores.items() if s},
            **{
                f"last mean {name.replace('_', ' ')}": f"{value:.4g}"
                for name, value in (epochs[-1]["losses"] if epochs else {}).items()
            },
            "time": format_duration(sum(epoch["seconds"] for epoch in epochs)),
            "recipe": f"{record['recipe']}: " + ", ".join(f"{k} {value}" for k, value in settings["recipe"].items()),
            "seed": str(settings["seed"]),
            "data": record["data"],
            "machine": record["machine"],
            "execution": record.get("execution", FP32),
            "code": f"{record['version']}, commit {record['commit'] or 'unknown'}",
            "started": record["started"],
        }
        sections[f"{phase.heading}: departures from the paper"] = record["departures"] or {"none": ""}
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
        f"{score['dice_mean']:.3f}{spread}, median {score['dice_median']:.3f}, {counted(score['cases'], 'case')}, "
        f"epoch {score['epoch']}, predicted/true volume {score['predicted_over_true_volume']:.2f}"
    )
