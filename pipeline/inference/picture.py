"""A picture of label maps: for each case a whole slice, and a close-up of each structure.

It is for a first look after `predict`. The reference is drawn too if there is one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage

from challenge.contract import COCHLEA, STRUCTURES, VS, Structure, label_file
from challenge.files import written_whole
from challenge.nifti import CaseError, geometry_of, read_image
from evaluation.outlines import Field, draw_outlines, field_round, legend_lines, most_telling_slice
from pipeline.data.cases import array_from, read_scan

_BACKGROUND = "#101418"
_INK = "#e8eaed"
_PANEL_INCHES = 2.9
_DOTS_PER_INCH = 110
_CLOSE_UP_MARGIN_MM = 7.0
_CLOSE_UP_MM = 22.0


@dataclass(frozen=True)
class CloseUp:
    """A column of the picture: a structure, and the patient's side if the structure is on both."""

    structure: Structure
    side: str | None

    @property
    def title(self) -> str:
        """Return the column's heading."""
        return self.structure.title if self.side is None else f"{self.structure.title}, {self.side}"


CLOSE_UPS = (CloseUp(VS, None), CloseUp(COCHLEA, "right"), CloseUp(COCHLEA, "left"))


@dataclass(frozen=True)
class PicturedCase:
    """A case turned to LPS: scan float32, labels uint8, all `(D, H, W)`; spacing along z, y, x."""

    case: str
    scan: NDArray[np.float32]
    prediction: NDArray[np.uint8]
    reference: NDArray[np.uint8] | None
    spacing_mm: tuple[float, float, float]


def read_pictured_case(case: str, scan: Path, labels_folder: Path, reference_folder: Path | None) -> PicturedCase:
    """Read a case's scan, its label map and, if there is one, its reference; turn them to LPS.

    Raises:
        CaseError: the scan or a label map is missing or bad, or a label map is not on the scan's grid.
    """
    image = read_scan(scan)
    prediction = _labels_on(image, labels_folder / label_file(case))
    reference_path = reference_folder / label_file(case) if reference_folder else None
    reference = _labels_on(image, reference_path) if reference_path and reference_path.exists() else None
    spacing = sitk.DICOMOrient(image, "LPS").GetSpacing()
    return PicturedCase(
        case,
        scan=array_from(sitk.DICOMOrient(image, "LPS")),
        prediction=prediction,
        reference=reference,
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
    """Draw a row of slices for each case, in radiological orientation, and write the PNG `out`, complete or not at all.

    Raises:
        ValueError: no case.
        OSError: the picture cannot be written.
    """
    if not cases:
        raise ValueError("picture: expected at least one case, got none; name folders that hold the same cases")
    widths = [_whole_slice_width(cases), *(1.0 for _ in CLOSE_UPS)]
    figure = Figure(figsize=(_PANEL_INCHES * sum(widths), _PANEL_INCHES * len(cases) + 0.7), facecolor=_BACKGROUND)
    grid = figure.subplots(len(cases), len(widths), squeeze=False, gridspec_kw={"width_ratios": widths})
    for row, case in zip(grid, cases, strict=True):
        _draw_row(row, case)
    for axes, title in zip(grid[0], ["whole slice", *(c.title for c in CLOSE_UPS)], strict=True):
        axes.set_title(title, color=_INK, fontsize=11)
    legend = legend_lines() if any(case.reference is not None for case in cases) else legend_lines()[1:]
    figure.legend(handles=legend, loc="lower right", ncols=2, frameon=False, labelcolor=_INK, fontsize=10)
    figure.text(0.012, 0.012, note, color=_INK, fontsize=9, ha="left", va="bottom")
    bottom = 0.45 / figure.get_figheight()
    figure.subplots_adjust(
        left=0.03, right=0.995, top=1 - 0.3 / figure.get_figheight(), bottom=bottom, wspace=0.03, hspace=0.04
    )
    with written_whole(out) as partial:
        figure.savefig(partial, dpi=_DOTS_PER_INCH, facecolor=_BACKGROUND, format="png")


def _whole_slice_width(cases: Sequence[PicturedCase]) -> float:
    """Return the largest ratio of width to height; a scan cropped around the ears is wider than a head."""
    sides_mm = [np.multiply(case.scan.shape, case.spacing_mm) for case in cases]
    return float(np.clip(max(width / height for _, height, width in sides_mm), 1.0, 2.0))


def _draw_row(row: NDArray[np.object_], case: PicturedCase) -> None:
    _draw_slice(row[0], case, most_telling_slice(*_masks(case, STRUCTURES)), field=None)
    row[0].set_ylabel(case.case, color=_INK, fontsize=10)
    for axes, close_up in zip(row[1:], CLOSE_UPS, strict=True):
        reference, prediction = (_on_side(m, close_up.side) for m in _masks(case, (close_up.structure,)))
        z = most_telling_slice(reference, prediction)
        target = _largest(reference[z]) if reference[z].any() else _largest(prediction[z])
        if not target.any():
            _draw_empty(axes, close_up)
            continue
        field = field_round([target], case.spacing_mm[1:], margin_mm=_CLOSE_UP_MARGIN_MM, least_mm=_CLOSE_UP_MM)
        _draw_slice(axes, case, z, field=field)


def _masks(case: PicturedCase, structures: tuple[Structure, ...]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    labels = [structure.label for structure in structures]
    prediction = np.isin(case.prediction, labels)
    reference = np.zeros_like(prediction) if case.reference is None else np.isin(case.reference, labels)
    return reference, prediction


def _on_side(mask: NDArray[np.bool_], side: str | None) -> NDArray[np.bool_]:
    """Keep one side of a mask; the columns of LPS run from the patient's right to the left."""
    if side is None:
        return mask
    kept = mask.copy()
    middle = mask.shape[2] // 2
    kept[:, :, middle:] &= side == "left"
    kept[:, :, :middle] &= side == "right"
    return kept


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    components, count = ndimage.label(mask)
    if count < 2:
        return mask
    return components == 1 + np.argmax(np.bincount(components.ravel())[1:])


def _draw_slice(axes: Axes, case: PicturedCase, z: int, *, field: Field | None) -> None:
    reference = None if case.reference is None else case.reference[z]
    draw_outlines(axes, case.scan[z], reference, case.prediction[z], case.spacing_mm[1:], field=field)


def _draw_empty(axes: Axes, close_up: CloseUp) -> None:
    axes.set_facecolor(_BACKGROUND)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, f"no {close_up.title}", color=_INK, ha="center", va="center", transform=axes.transAxes)
