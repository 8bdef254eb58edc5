"""What a search writes: the best trial's settings, all trials as CSV, the plots as pictures, and a page.

Every file is whole or absent, and is written again whenever a process stops searching. The page opens from disk and
loads nothing from elsewhere.
"""

import csv
import fcntl
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import optuna
from markupsafe import Markup

from challenge.contract import STRUCTURES, Structure
from challenge.files import written_whole
from challenge.quantities import format_duration
from pipeline.config import SPLIT_PARTS
from pipeline.training.named_recipes import RECIPES
from pipeline.training.phases import PHASES
from pipeline.tuning.options import CRITERIA
from pipeline.tuning.plots import Plot, plots_of
from pipeline.tuning.spaces import Parameter, space_of
from pipeline.tuning.study import rows_of, settings_of
from pipeline.tuning.trials import COMPLETE, FAILED, PRUNED, RETRIED, TrialRow, best_row, paper_row, remark_on

BEST_FILE, TRIALS_FILE, PAGE_FILE = "best.toml", "trials.csv", "report.html"
_DOTS_PER_INCH = 110


def write_study(folder: Path, study: optuna.Study) -> list[Path]:
    """Write everything about a study to its folder; return the files, the best trial's settings first if there are any.

    Several processes may write at once.

    Raises:
        StudyError: the storage cannot be reached.
        OSError: a file cannot be written.
    """
    name, settings, rows, plots = study.study_name, settings_of(study), rows_of(study), plots_of(study)
    best = best_row(rows)
    written = []
    with (folder / ".report.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if best is not None:
            write_best(folder / BEST_FILE, best, settings, study=name)
            written.append(folder / BEST_FILE)
        write_trials(folder / TRIALS_FILE, rows, space_of(settings))
        with written_whole(folder / PAGE_FILE) as partial:
            partial.write_text(_page(name, settings, rows, plots), encoding="utf-8")
        written += [folder / TRIALS_FILE, folder / PAGE_FILE]
        for plot_name, plot in plots.items():
            with written_whole(folder / f"{plot_name}.png") as partial:
                plot.picture.savefig(partial, dpi=_DOTS_PER_INCH, bbox_inches="tight", format="png")
            written.append(folder / f"{plot_name}.png")
    return written


def write_best(path: Path, row: TrialRow, settings: Mapping[str, Any], *, study: str) -> None:
    """Write a trial's settings for `train --config`: the tuned values, and what the trials' recipe changed.

    The keys are dotted, so that the files of two phases or structures can be joined into one.

    Raises:
        OSError: the file cannot be written.
    """
    structure, phase = settings["structure"], settings["phase"]
    named = json.loads(json.dumps(asdict(RECIPES[settings["recipe_name"]][_structure(structure)][PHASES[phase]])))
    changed = {name: value for name, value in settings["recipe"].items() if value != named[name]}
    tables = {p.name: structure if p.of_all_phases else f"{structure}.{phase}" for p in space_of(settings)}
    lines = [
        f"# Trial {row.number} of the study {study}: {settings['criterion']} {row.score:.4f}",
        f"# crossmoda-grl train --recipe {settings['recipe_name']} --config {path.name} ...",
        *(f"{tables[name]}.{name} = {value!r}" for name, value in row.values.items()),
    ]
    if changed:
        lines.append("# What the trials changed in this recipe. Remove these lines to train by the recipe as it is.")
        lines += [f"{structure}.{phase}.{name} = {json.dumps(value)}" for name, value in changed.items()]
    with written_whole(path) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_trials(path: Path, rows: Sequence[TrialRow], space: Sequence[Parameter]) -> None:
    """Write one row of CSV for each trial.

    Raises:
        OSError: the file cannot be written.
    """
    names = [parameter.name for parameter in space]
    with written_whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["trial", "state", *names, "epoch", "score", "seconds", "note"])
        for row in rows:
            values = [row.values.get(name, "") for name in names]
            seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
            writer.writerow([row.number, row.state, *values, row.epoch, row.score, seconds, row.note])


def _page(name: str, settings: Mapping[str, Any], rows: Sequence[TrialRow], plots: Mapping[str, Plot]) -> str:
    space = space_of(settings)
    shown = {
        plot_name: Markup(
            plot.page.to_html(full_html=False, include_plotlyjs=number == 0, config={"displaylogo": False})
        )
        for number, (plot_name, plot) in enumerate(plots.items())
    }
    source = files("pipeline").joinpath("templates/study.html").read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined).from_string(
        source
    )
    return template.render(
        title=f"{_structure(settings['structure']).title}, {settings['phase']}: search of {name}",
        version=version("crossmoda-grl"),
        score=CRITERIA[settings["criterion"]].score_name,
        facts=_facts(settings, rows),
        space=space,
        best=best_row(rows),
        paper=paper_row(rows, space),
        rows=rows,
        remark=remark_on,
        text=lambda value: "" if value is None else f"{value:.4g}",
        seconds=lambda row: "" if row.seconds is None else format_duration(row.seconds),
        plots=shown,
    )


def _facts(settings: Mapping[str, Any], rows: Sequence[TrialRow]) -> dict[str, str]:
    counts = {state: sum(row.state == state for row in rows) for state in (COMPLETE, PRUNED, FAILED, RETRIED)}
    trained = [row.seconds for row in rows if row.seconds is not None]
    parts = {part: settings[part] for part in SPLIT_PARTS if part in settings}
    return {
        "trials": ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "none has ended",
        "time of all trials": format_duration(float(np.sum(trained))),
        "criterion": f"{settings['criterion']} ({CRITERIA[settings['criterion']].score_name})",
        "pruner": settings["pruner"],
        "recipe": f"{settings['recipe_name']}: " + ", ".join(f"{k} {v}" for k, v in settings["recipe"].items()),
        "cases": "; ".join(f"{part.replace('_', ' ')} {len(cases)}" for part, cases in parts.items()),
        "seed": str(settings["seed"]),
    }


def _structure(key: str) -> Structure:
    return next(structure for structure in STRUCTURES if structure.key == key)
