"""A picture of label maps beside their reference: for each case a row of close-ups of each structure.

It is for a first look after `predict`, of one set of predictions or of several side by side::

                    VS                              Cochlea
             first   second  reference       first   second  reference
    case_1   [     ] [     ] [     ]         [     ] [     ] [     ]
    case_2   [     ] [     ] [     ]         [     ] [     ] [     ]
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from challenge.contract import STRUCTURES, Structure, label_file
from challenge.files import written_whole
from challenge.nifti import CaseError, geometry_of, read_image
from evaluation.metrics import count_overlap, dice
from evaluation.outlines import Field, draw_outlines, field_round
from pipeline.data.cases import array_from, read_scan
from pipeline.data.components import Mask, largest_component

_BACKGROUND = "#101418"
_INK = "#e8eaed"
_DOTS_PER_INCH = 110
_CLOSE_UP_MARGIN_MM = 9.0
_CLOSE_UP_MM = 32.0
_REFERENCE = "reference"

# The page in inches: panels with gaps, the rows' names on the left, headings above, the note below.
_PANEL, _GAP, _GROUP_GAP = 2.1, 0.07, 0.3
_LEFT, _RIGHT, _TOP, _BOTTOM = 0.4, 0.15, 1.0, 0.4
_LEAST_WIDTH = 6.5  # for the title and the note


@dataclass(frozen=True)
class PicturedCase:
    """A case turned to LPS: scan float32, labels uint8, all `(D, H, W)`; spacing along z, y, x.

    `predictions` holds label maps by the name under which they are shown.
    """

    case: str
    scan: NDArray[np.float32]
    predictions: Mapping[str, NDArray[np.uint8]]
    reference: NDArray[np.uint8] | None
    spacing_mm: tuple[float, float, float]


def read_pictured_case(
    case: str, scan: Path, labels_folders: Mapping[str, Path], reference_folder: Path | None
) -> PicturedCase:
    """Read a case's scan, its label maps by name and, if there is one, its reference; turn them to LPS.

    Raises:
        CaseError: the scan or a label map is missing or bad, or a label map is not on the scan's grid.
    """
    image = read_scan(scan)
    reference_path = reference_folder / label_file(case) if reference_folder else None
    turned = sitk.DICOMOrient(image, "LPS")
    spacing = turned.GetSpacing()
    return PicturedCase(
        case,
        scan=array_from(turned),
        predictions={name: _labels_on(image, folder / label_file(case)) for name, folder in labels_folders.items()},
        reference=_labels_on(image, reference_path) if reference_path and reference_path.exists() else None,
        spacing_mm=(spacing[2], spacing[1], spacing[0]),
    )


def _labels_on(scan: sitk.Image, path: Path) -> NDArray[np.uint8]:
    labels = read_image(path)
    if not geometry_of(labels).same_place(geometry_of(scan)):
        raise CaseError(
            f"{path.name}: expected the scan's grid ({geometry_of(scan)}), got {geometry_of(labels)}; "
            "predict the scan again"
        )
    return sitk.GetArrayFromImage(sitk.DICOMOrient(sitk.Cast(labels, sitk.sitkUInt8), "LPS"))


def draw_picture(cases: Sequence[PicturedCase], out: Path, *, note: str = "") -> None:
    """Draw a row of close-ups for each case, in radiological orientation, and write the PNG `out`, whole or not at all.

    All panels of a structure show the same field of the same slice, which the reference decides if there is one.

    Raises:
        ValueError: no case, or cases with other predictions than the first.
        OSError: the picture cannot be written.
    """
    if not cases:
        raise ValueError("picture: expected at least one case, got none; name folders that hold the same cases")
    names = list(cases[0].predictions)
    if any(list(case.predictions) != names for case in cases):
        raise ValueError(f"picture: expected every case with the predictions {', '.join(names)}; read them all alike")
    columns = [*names, _REFERENCE] if any(case.reference is not None for case in cases) else names
    page = _Page(rows=len(cases), groups=len(STRUCTURES), columns=len(columns))
    title = "Predicted outlines beside the reference" if _REFERENCE in columns else "Predicted outlines"
    page.write(_LEFT, 0.08, title, size=13)
    for group, structure in enumerate(STRUCTURES):
        page.write(page.left(group, 0), 0.43, structure.title, size=12)
        for column, name in enumerate(columns):
            page.write(page.left(group, column) + _PANEL / 2, 0.72, name, size=10, align="center")
        for row, case in enumerate(cases):
            _draw_panels([page.panel(row, group, column) for column in range(len(columns))], case, structure, columns)
    for row, case in enumerate(cases):
        middle = _TOP + row * (_PANEL + _GAP) + _PANEL / 2
        page.write(_LEFT / 2, middle, case.case, size=10, align="center", level="center", turned=True)
    page.write(_LEFT, page.height - 0.3, note, size=9)
    with written_whole(out) as partial:
        page.figure.savefig(partial, dpi=_DOTS_PER_INCH, facecolor=_BACKGROUND, format="png")


class _Page:
    """A figure whose panels lie in rows, and in groups of columns; places are in inches from the upper left corner."""

    def __init__(self, rows: int, groups: int, columns: int) -> None:
        self._group = columns * (_PANEL + _GAP) - _GAP + _GROUP_GAP
        self.width = max(_LEFT + groups * self._group - _GROUP_GAP + _RIGHT, _LEAST_WIDTH)
        self.height = _TOP + rows * (_PANEL + _GAP) - _GAP + _BOTTOM
        self.figure = Figure(figsize=(self.width, self.height), facecolor=_BACKGROUND)

    def left(self, group: int, column: int) -> float:
        """Return where a column of a group begins."""
        return _LEFT + group * self._group + column * (_PANEL + _GAP)

    def panel(self, row: int, group: int, column: int) -> Axes:
        """Make a panel."""
        bottom = self.height - _TOP - row * (_PANEL + _GAP) - _PANEL
        left = self.left(group, column)
        size = (_PANEL / self.width, _PANEL / self.height)
        return self.figure.add_axes((left / self.width, bottom / self.height, *size))

    def write(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float,
        align: str = "left",
        level: str = "top",
        turned: bool = False,
    ) -> None:
        """Write a line of text."""
        x, y, rotation = x / self.width, 1 - y / self.height, 90 if turned else 0
        self.figure.text(x, y, text, color=_INK, fontsize=size, ha=align, va=level, rotation=rotation)


def _draw_panels(panels: Sequence[Axes], case: PicturedCase, structure: Structure, columns: Sequence[str]) -> None:
    predicted = {name: labels == structure.label for name, labels in case.predictions.items()}
    wanted = None if case.reference is None else case.reference == structure.label
    shown = wanted if wanted is not None and wanted.any() else np.logical_or.reduce(list(predicted.values()))
    z, field = _place(shown, case.spacing_mm)
    for axes, name in zip(panels, columns, strict=True):
        reference = prediction = None
        if name in predicted:
            prediction, remark = case.predictions[name][z], _finding(predicted[name], wanted)
        elif wanted is None or case.reference is None:
            remark = "no reference"
        else:
            reference, remark = case.reference[z], "" if wanted.any() else "none"
        spacing_mm = case.spacing_mm[1:]
        draw_outlines(axes, case.scan[z], reference, prediction, spacing_mm, field=field, structures=[structure])
        _write_on(axes, remark)


def _place(mask: Mask, spacing_mm: tuple[float, float, float]) -> tuple[int, Field | None]:
    """Return the slice and the field that show most of a mask's largest component; the whole slice if it is empty.

    A cochlea lies on both sides; a field that holds both would show little of either.
    """
    if not mask.any():
        return len(mask) // 2, None
    body = largest_component(mask)
    z = int(np.argmax(np.count_nonzero(body, axis=(1, 2))))
    return z, field_round([body[z]], spacing_mm[1:], margin_mm=_CLOSE_UP_MARGIN_MM, least_mm=_CLOSE_UP_MM)


def _finding(predicted: Mask, wanted: Mask | None) -> str:
    """Say of a prediction, over the whole case, that it is empty, and its Dice if there is a reference."""
    findings = [] if predicted.any() else ["none found"]
    if wanted is not None and (wanted.any() or predicted.any()):
        findings.insert(0, f"Dice {dice(count_overlap(wanted, predicted)):.2f}")
    return ", ".join(findings)


def _write_on(axes: Axes, text: str) -> None:
    halo = [withStroke(linewidth=2.5, foreground="black")]  # readable on bright voxels too
    axes.text(
        0.04, 0.96, text, color="white", fontsize=10, va="top", transform=axes.transAxes, path_effects=halo, zorder=6
    )
