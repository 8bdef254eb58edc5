"""The plots of a study, each as a picture and for a page, with the paper's point marked where it has a place."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import optuna
from matplotlib import pyplot
from matplotlib.figure import Figure

from pipeline.tuning.options import CRITERIA
from pipeline.tuning.spaces import Parameter, space_of
from pipeline.tuning.study import rows_of, settings_of
from pipeline.tuning.trials import COMPLETE, TrialRow, paper_row

_LABEL, _COLOUR = "the paper's point", "#D55E00"
_PIXELS_HIGH = 460


class Plot(NamedTuple):
    """A plot twice: `page` is plotly's figure, for a page; `picture` is matplotlib's."""

    page: Any
    picture: Figure


def plots_of(study: optuna.Study) -> dict[str, Plot]:
    """Draw a study's plots, by name: history and slices, and importances and contour if there are enough trials.

    Without a complete trial there is no plot, and no importances and no contour if all scores are the same.
    """
    settings, rows = settings_of(study), rows_of(study)
    scores = [row.score for row in rows if row.state == COMPLETE]
    if not scores:
        return {}
    space = sorted(space_of(settings), key=lambda parameter: parameter.name)  # the order of Optuna's axes
    names = ["optimization_history", "slice"]
    if len(space) > 1 and len(set(scores)) > 1:
        names += ["param_importances", "contour"]
    score_name = CRITERIA[settings["criterion"]].score_name
    plots = {}
    for name in names:
        page = getattr(optuna.visualization, f"plot_{name}")(study, target_name=score_name)
        with matplotlib.rc_context({"backend": "agg"}):
            axes = getattr(optuna.visualization.matplotlib, f"plot_{name}")(study, target_name=score_name)
            picture = np.ravel(axes)[0].figure
            pyplot.close(picture)
        plots[name] = Plot(page, picture)
        _mark_paper(name, plots[name], space, paper_row(rows, space))
    return plots


def _mark_paper(name: str, plot: Plot, space: Sequence[Parameter], row: TrialRow | None) -> None:
    """Draw the paper's point into both forms of a plot; importances have no place for it."""
    label = f"{_LABEL}{'' if row is None or row.state == COMPLETE else f', {row.state}'}"
    points: list[tuple[float, float]] = []
    if name == "contour":
        points = [(space[0].paper, space[1].paper)]
    elif row is not None and row.score is not None:
        if name == "slice":
            points = [(parameter.paper, row.score) for parameter in space]
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
            marker={"symbol": "star", "size": 16, "color": _COLOUR, "line": {"width": 1, "color": "white"}},
            **place,
        )
        panels[column].plot(x, y, "*", markersize=16, color=_COLOUR, markeredgecolor="white", label=label)
    if points:
        # Above the panel: inside, the legend would hide trials, and plotly's own place is the colour bar's.
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
