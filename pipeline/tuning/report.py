"""What a search leaves behind: the best trial's settings, all trials as CSV, plots as pictures and as one page.

Files are whole or absent, and renewed whenever a process stops searching. The paper's point is marked on every plot
that has a place for it. The page opens from disk and fetches nothing.
"""

import fcntl
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from challenge.contract import STRUCTURES
from challenge.files import written_whole
from challenge.quantities import format_duration
from pipeline.config import Parameter
from pipeline.data.dataset import SPLIT_PARTS
from pipeline.tuning.search import (
    BEST_FILE,
    COMPLETE,
    FAILED,
    PRUNED,
    RETRIED,
    TRIALS_FILE,
    TrialRow,
    best_row,
    paper_row,
    remark_on,
    score_name,
    space_of,
    write_best,
    write_trials,
)
from pipeline.tuning.study import Plot

PAGE_FILE = "report.html"
_MARK = {"label": "the paper's point", "colour": "#D55E00"}
_PIXELS_HIGH = 460
_DOTS_PER_INCH = 110


def write_study(
    folder: Path, name: str, settings: Mapping[str, Any], rows: Sequence[TrialRow], plots: Mapping[str, Plot]
) -> list[Path]:
    """Write everything about a study; return the files, the best trial's settings first where there are any.

    Args:
        folder: of the study; several processes may write to it.
        name: the study's.
        settings: that it was made with.
        rows: its trials.
        plots: by name; the paper's point is drawn into them.

    Raises:
        OSError: a file cannot be written.
    """
    space, best = space_of(settings), best_row(rows)
    for plot_name, plot in plots.items():
        _mark_paper(plot_name, plot, space, paper_row(rows, space))
    written = []
    with (folder / ".report.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if best is not None:
            write_best(folder / BEST_FILE, best, settings, study=name)
            written.append(folder / BEST_FILE)
        write_trials(folder / TRIALS_FILE, rows, space)
        with written_whole(folder / PAGE_FILE) as partial:
            partial.write_text(_page(name, settings, rows, plots), encoding="utf-8")
        written += [folder / TRIALS_FILE, folder / PAGE_FILE]
        for plot_name, plot in plots.items():
            with written_whole(folder / f"{plot_name}.png") as partial:
                plot.picture.savefig(partial, dpi=_DOTS_PER_INCH, bbox_inches="tight", format="png")
            written.append(folder / f"{plot_name}.png")
    return written


def _mark_paper(name: str, plot: Plot, space: Sequence[Parameter], row: TrialRow | None) -> None:
    """Draw the paper's point into both forms of a plot; importances have no place for it."""
    values = {parameter.name: parameter.paper for parameter in space}
    label = f"{_MARK['label']}{'' if row is None or row.state == COMPLETE else f', {row.state}'}"
    points: list[tuple[float, float]] = []
    if name == "contour":
        points = [(values[plot.axes[0]], values[plot.axes[1]])]
    elif row is not None and row.score is not None:
        if name == "slice":
            points = [(values[axis], row.score) for axis in plot.axes]
        elif name == "optimization_history":
            points = [(row.number, row.score)]
    panels = plot.picture.axes
    for column, (x, y) in enumerate(points):
        place = {"row": 1, "col": column + 1} if len(points) > 1 else {}
        plot.page.add_scatter(
            x=[x],
            y=[y],
            mode="markers",
            name=label,
            showlegend=column == 0,
            marker={"symbol": "star", "size": 16, "color": _MARK["colour"], "line": {"width": 1, "color": "white"}},
            **place,
        )
        panels[column].plot(x, y, "*", markersize=16, color=_MARK["colour"], markeredgecolor="white", label=label)
    if points:
        # Above the panel: inside it hides trials, and plotly's own place is the colour bar's.
        plot.page.update_layout(legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"})
        handles, labels = panels[0].get_legend_handles_labels()
        shown = {text: handle for handle, text in zip(handles, labels, strict=True) if "Infeasible" not in text}
        panels[0].legend(
            shown.values(), shown.keys(), loc="lower left", bbox_to_anchor=(0, 1.0), frameon=False, ncols=3, fontsize=9
        )
    plot.page.update_layout(height=_PIXELS_HIGH, title=None, margin={"t": 60, "r": 20})
    for panel in panels:
        panel.set_title("")
    plot.picture.suptitle("")


def _page(name: str, settings: Mapping[str, Any], rows: Sequence[TrialRow], plots: Mapping[str, Plot]) -> str:
    space, best = space_of(settings), best_row(rows)
    paper = paper_row(rows, space)
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
        title=f"{_title(settings['structure'])}, {settings['phase']}: search of {name}",
        version=version("crossmoda-grl"),
        score=score_name(settings),
        facts=_facts(settings, rows),
        space=space,
        best=best,
        paper=paper,
        rows=rows,
        remark=remark_on,
        text=_text,
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
        "criterion": f"{settings['criterion']} ({score_name(settings)})",
        "pruner": settings["pruner"],
        "recipe": f"{settings['recipe_name']}: " + ", ".join(f"{k} {v}" for k, v in settings["recipe"].items()),
        "cases": "; ".join(f"{part.replace('_', ' ')} {len(cases)}" for part, cases in parts.items()),
        "seed": str(settings["seed"]),
    }


def _title(key: str) -> str:
    return next(structure.title for structure in STRUCTURES if structure.key == key)


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
