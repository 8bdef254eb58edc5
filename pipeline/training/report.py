"""The files that show a run to people: history as CSV, curves, validation slices, and a page that sums it up.

Every file is written whole, and renewed while the run continues.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy import ndimage

from challenge.contract import Structure
from challenge.files import written_whole
from evaluation.metrics import count_overlap, dice
from evaluation.outlines import draw_outlines, field_round, legend_lines, most_telling_slice
from pipeline.adaptation.pseudo_labels import PseudoLabel
from pipeline.config import PAPER
from pipeline.data.sampling import TrainingVolume
from pipeline.training.history import Epoch
from pipeline.training.listeners import Listener
from pipeline.training.state import PhaseState

SLICES_FILE, PSEUDO_LABELS_FILE, PSEUDO_LABELS_FOLDER = "slices.png", "pseudo_labels.csv", "pseudo_labels"
_SLICES_SHOWN = 4
_DOTS_PER_INCH = 100
_DARK, _LIGHT = "#101418", "#e8eaed"
_PANEL_INCHES = 3.0
_CLOSE_UP_MARGIN_MM = 7.0
_CLOSE_UP_MM = 22.0
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe and Ito's
# How the adversary is doing: drawn apart from the losses of the segmentation.
_ADVERSARY = ("domain_loss", "domain_accuracy", "grl_weight")


@dataclass(frozen=True)
class ValidationSlice:
    """The most telling slice of a validation case: `(H, W)` scan float32, reference and prediction bool."""

    case: str
    dice: float
    scan: NDArray[np.float32]
    reference: NDArray[np.bool_]
    prediction: NDArray[np.bool_]


def telling_slice(volume: TrainingVolume, prediction: NDArray[np.bool_], dice: float) -> ValidationSlice:
    """Return the slice on which a case's reference and its prediction, bool `(D, H, W)`, disagree most.

    Raises:
        ValueError: a case without a mask.
    """
    if volume.mask is None:
        raise ValueError(f"{volume.case}: expected a mask to show beside the prediction, got none")
    z = most_telling_slice(volume.mask, prediction)
    # Copies: the volumes are mapped from disk, and the slices outlive the epoch.
    return ValidationSlice(
        volume.case, dice, np.array(volume.volume[z]), np.array(volume.mask[z]), np.array(prediction[z])
    )


def write_pseudo_labels(labels: Sequence[tuple[str, PseudoLabel]], path: Path) -> None:
    """Write a row for each target case: whether its pseudo-label is kept, voxels, the views' agreement, why it is not.

    Raises:
        OSError: the file cannot be written.
    """
    with written_whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["case", "kept", "voxels", "agreement", "refused"])
        for case, label in labels:
            kept = "no" if label.refused else "yes"
            writer.writerow([case, kept, int(label.mask.sum()), f"{label.agreement:.4f}", label.refused])


def write_history(history: Sequence[Epoch], path: Path) -> None:
    """Write a row for each epoch: rate, mean losses, validation Dice (mean, by case), predicted/true volume, seconds.

    Raises:
        OSError: the file cannot be written.
    """
    rows = [_row(epoch) for epoch in history]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with written_whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)


def _row(epoch: Epoch) -> dict[str, Any]:
    row = {"epoch": epoch.number, "rate": f"{epoch.rate:.6g}", "seconds": f"{epoch.seconds:.1f}"}
    row |= {name: f"{value:.6g}" for name, value in epoch.losses.items()}
    if epoch.validation is not None:
        row["validation_dice"] = f"{epoch.validation.mean_dice:.4f}"
        row["predicted_over_true_volume"] = f"{epoch.validation.volume_ratio:.4g}"
        row |= {f"dice {case}": f"{value:.4f}" for case, value in epoch.validation.dice.items()}
    return row


def draw_curves(history: Sequence[Epoch], path: Path, *, title: str) -> None:
    """Draw losses, validation Dice and predicted/true volume by epoch, and how the adversary is doing if there is one.

    Raises:
        ValueError: no epoch.
        OSError: the picture cannot be written.
    """
    if not history:
        raise ValueError("curves: expected at least one epoch, got none; train first")
    losses = [name for name in history[0].losses if name not in _ADVERSARY]
    adversary = [name for name in _ADVERSARY if name in history[0].losses]
    columns = 4 if adversary else 3
    figure = Figure(figsize=(4.2 * columns, 3.6))
    panels = figure.subplots(1, columns)
    # Set by hand: matplotlib's own layout takes as long as the drawing, every epoch.
    figure.subplots_adjust(left=0.16 / columns, right=1 - 0.04 / columns, top=0.82, bottom=0.14, wspace=0.2)
    _draw_losses(panels[0], history, losses)
    panels[0].set_title("training losses")
    validated = [epoch for epoch in history if epoch.validation is not None]
    _draw_validation(panels[1], panels[2], validated)
    if adversary:
        _draw_losses(panels[3], history, adversary)
        panels[3].axhline(np.log(2), color=_COLOURS[0], linewidth=0.8, linestyle=":")
        panels[3].axhline(0.5, color=_COLOURS[1], linewidth=0.8, linestyle=":")
        panels[3].set_title("adversary (dotted: cannot tell)")
    for axes in panels:
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlim(0.5, max(history[-1].number, 2) + 0.5)
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    with written_whole(path) as partial:
        figure.savefig(partial, dpi=_DOTS_PER_INCH, format="png")


def _draw_losses(axes: Axes, history: Sequence[Epoch], names: Sequence[str]) -> None:
    numbers = [epoch.number for epoch in history]
    for name, colour in zip(names, _COLOURS, strict=False):
        values = [epoch.losses[name] for epoch in history]
        axes.plot(numbers, values, color=colour, marker="." if len(numbers) < 30 else "", label=name.replace("_", " "))
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)


def _draw_validation(dice_axes: Axes, ratio_axes: Axes, validated: Sequence[Epoch]) -> None:
    scores = [(epoch.number, epoch.validation) for epoch in validated if epoch.validation is not None]
    numbers = [number for number, _ in scores]
    for case in scores[0][1].dice if scores else ():
        dice_axes.plot(numbers, [v.dice.get(case, np.nan) for _, v in scores], color="0.75", linewidth=0.8)
    dice_axes.plot(numbers, [v.mean_dice for _, v in scores], color=_COLOURS[0], marker=".", label="mean")
    dice_axes.set_ylim(0, 1)
    dice_axes.set_title("source validation Dice (grey: cases)")
    # A ratio of 0 has no logarithm: it is drawn at the bottom of the panel.
    ratio_axes.plot(numbers, [max(v.volume_ratio, 1e-2) for _, v in scores], color=_COLOURS[1], marker=".")
    ratio_axes.axhline(1.0, color="0.5", linewidth=0.8)
    ratio_axes.set_yscale("log")
    ratio_axes.set_ylim(0.8e-2, max([12.0, *(1.2 * v.volume_ratio for _, v in scores)]))
    ratio_axes.set_title("predicted / true volume")


def draw_slices(
    slices: Sequence[ValidationSlice], structure: Structure, spacing_mm: float, path: Path, *, title: str
) -> None:
    """Draw each validation case's slice, whole and close up, with the outlines of reference and prediction.

    Rows and columns are the scan's own. The patient's sides are not marked, because they are not known here.

    Raises:
        ValueError: no slice.
        OSError: the picture cannot be written.
    """
    if not slices:
        raise ValueError("slices: expected at least one, got none; validate first")
    figure = Figure(figsize=(_PANEL_INCHES * len(slices), 2 * _PANEL_INCHES + 1.2), facecolor=_DARK)
    grid = figure.subplots(2, len(slices), squeeze=False)
    spacing = (spacing_mm, spacing_mm)
    for column, shown in zip(grid.T, slices, strict=True):
        reference, prediction = (mask * np.uint8(structure.label) for mask in (shown.reference, shown.prediction))
        # Around the reference, because a scattered prediction would leave no close-up.
        body = _largest(shown.reference if shown.reference.any() else shown.prediction)
        near = field_round([body], spacing, margin_mm=_CLOSE_UP_MARGIN_MM, least_mm=_CLOSE_UP_MM)
        for axes, field in zip(column, (None, near), strict=True):
            draw_outlines(
                axes, shown.scan, reference, prediction, spacing, field=field, structures=[structure], marks=False
            )
        column[0].set_title(f"{shown.case}\nDice {shown.dice:.3f}", color=_LIGHT, fontsize=9)
    figure.suptitle(title, color=_LIGHT, fontsize=10)
    handles = legend_lines(structure)
    figure.legend(handles=handles, loc="lower center", ncols=2, frameon=False, labelcolor=_LIGHT, fontsize=9)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.87, bottom=0.06, wspace=0.03, hspace=0.03)
    with written_whole(path) as partial:
        figure.savefig(partial, dpi=_DOTS_PER_INCH, facecolor=_DARK, format="png")


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the largest connected part of a mask `(H, W)`: one of two cochleas."""
    components, count = ndimage.label(mask)
    return mask if count < 2 else components == 1 + np.argmax(np.bincount(components.ravel())[1:])


def write_summary(path: Path, sections: Mapping[str, Mapping[str, str]], *, title: str) -> None:
    """Write a page of Markdown: a table of names and values under each heading.

    Raises:
        OSError: the page cannot be written.
    """
    lines = [f"# {title}", ""]
    for heading, rows in sections.items():
        lines += [f"## {heading}", "", "| | |", "|---|---|"]
        lines += [f"| {name} | {value.replace('|', '/').replace(chr(10), '<br>')} |" for name, value in rows.items()]
        lines.append("")
    with written_whole(path) as partial:
        partial.write_text("\n".join(lines), encoding="utf-8")


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
