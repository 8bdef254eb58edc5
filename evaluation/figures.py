"""The report's figures: box plots as geometry for inline SVG, and slices of the worst cases with both outlines.

What figures and tables share, the order of the cases and the words for a status, stands here as well.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from challenge.contract import LABEL_SUFFIX, STRUCTURES, TARGET_SUFFIX, Structure, files_by_case
from challenge.nifti import CaseError, read_image
from evaluation.outlines import field_round, most_telling_slice, outlines_png, png_data_uri
from evaluation.scoring import CaseScores, CohortScores, Status, StructureScores

NONE = "–"

# A fixed score stands for what could not be measured.
FIXED = (Status.EMPTY_PREDICTION, Status.MISSING, Status.REFUSED)
STATUS_TEXT = {
    Status.EMPTY_PREDICTION: "predicted empty",
    Status.MISSING: "no file",
    Status.REFUSED: "file refused",
    Status.EMPTY_REFERENCE: "not in the reference",
    Status.BOTH_EMPTY: "in neither label map",
    Status.BAD_REFERENCE: "reference unusable",
}


@dataclass(frozen=True)
class SlicePicture:
    """One place of one structure of one case: an axial slice with both outlines as PNG, and what is said about it."""

    title: str
    uri: str
    pixels: int
    alt: str
    text: str


@dataclass(frozen=True)
class CasePictures:
    """The pictures of one case of one team; `problem` says what could not be drawn, None where all could."""

    team: str
    case: str
    mean_dice: float
    slices: tuple[SlicePicture, ...]
    problem: str | None = None


def millimetres(value: float) -> str:
    """Write a distance with two decimals below 10 mm and one from there."""
    return f"{value:.{2 if abs(value) < 9.995 else 1}f}"


def decimal(value: float | None, decimals: int) -> str:
    """Write a number with fixed decimals, or a dash where there is none."""
    # The sum turns -0.0 into 0.0.
    return NONE if value is None else f"{round(value, decimals) + 0.0:.{decimals}f}"


def mean_dice(case: CaseScores) -> float | None:
    """Return the mean Dice over the structures of a case that have one, or None."""
    values = [scores.dice for scores in case.structures.values() if scores.dice is not None]
    return math.fsum(values) / len(values) if values else None


def worst_first(cohorts: Sequence[CohortScores]) -> list[tuple[CohortScores, CaseScores]]:
    """Sort all cases by lowest mean Dice, then highest mean ASSD; cases without any score come last."""

    def key(entry: tuple[CohortScores, CaseScores]) -> tuple[bool, float, float]:
        dice = mean_dice(entry[1])
        distances = [scores.assd_mm for scores in entry[1].structures.values() if scores.assd_mm is not None]
        return dice is None, dice or 0.0, -math.fsum(distances) / max(len(distances), 1)

    return sorted(((cohort, case) for cohort in cohorts for case in cohort.results), key=key)


# ----------------------------------------------------------------------------------------------------------------------
# Box plots
# ----------------------------------------------------------------------------------------------------------------------

_PLOT_WIDTH = 440
_PLOT_LEFT = 14
_PLOT_RIGHT = 14
_BAND = 54
_HALF_BOX = 13
# More cases than this in a row are drawn small and faint.
_CROWD = 80
# Where ASSD's logarithmic axis turns linear: finer differences than a third of a voxel are of no interest.
_ASSD_KNEE_MM = 0.3
_ASSD_TICKS_MM = (0.0, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 350.0, 1000.0, 3000.0)
_GOLDEN = (math.sqrt(5) - 1) / 2


def _axis(metric: str, values: Sequence[float]) -> tuple[list[float], Callable[[float], float]]:
    """Return an axis's ticks and the function that maps a value to [0, 1]."""
    if metric == "dice":
        return [0.0, 0.2, 0.4, 0.6, 0.8, 1.0], lambda value: value
    most = max([*values, 3.0])
    count = next((i for i, tick in enumerate(_ASSD_TICKS_MM) if tick >= most), len(_ASSD_TICKS_MM) - 1)
    ticks = list(_ASSD_TICKS_MM[: count + 1])
    whole = math.log1p(max(ticks[-1], most) / _ASSD_KNEE_MM)
    return ticks, lambda value: math.log1p(value / _ASSD_KNEE_MM) / whole


def box_plots(
    cohorts: Sequence[CohortScores], ordered: Sequence[tuple[CohortScores, CaseScores]]
) -> list[dict[str, Any]]:
    """Return the geometry of the box plots, one per metric and structure, with a row per team and a point per case.

    Args:
        cohorts: the teams, from top to bottom.
        ordered: all cases in the order of the page's table; a point refers to its row by position.
    """
    return [
        _box_plot(cohorts, ordered, structure, metric, unit)
        for metric, unit in (("dice", ""), ("assd_mm", " mm"))
        for structure in STRUCTURES
    ]


def _box_plot(
    cohorts: Sequence[CohortScores],
    ordered: Sequence[tuple[CohortScores, CaseScores]],
    structure: Structure,
    metric: str,
    unit: str,
) -> dict[str, Any]:
    name = "Dice" if metric == "dice" else "ASSD"
    several = len(cohorts) > 1
    values = [v for _, case in ordered if (v := getattr(case.structures[structure.key], metric)) is not None]
    ticks, share = _axis(metric, values)

    def x(value: float) -> float:
        return round(_PLOT_LEFT + share(value) * (_PLOT_WIDTH - _PLOT_LEFT - _PLOT_RIGHT), 1)

    label_height = 18 if several else 0
    rows = []
    for number, cohort in enumerate(cohorts):
        top = 6 + number * (_BAND + label_height)
        y = top + label_height + _BAND / 2
        found = [
            (value, index, case.structures[structure.key].status, case.case)
            for index, (owner, case) in enumerate(ordered)
            if owner is cohort and (value := getattr(case.structures[structure.key], metric)) is not None
        ]
        found.sort()
        points = [
            {
                "x": x(value),
                # A golden-ratio sequence spreads neighbours evenly, and the same way on every run.
                "y": round(y + ((i * _GOLDEN) % 1 - 0.5) * 1.5 * _HALF_BOX, 1),
                "row": index,
                "fixed": status in FIXED,
                "text": f"{case}{' · ' + cohort.team if several else ''}: {structure.title} {name} "
                f"{decimal(value, 3 if metric == 'dice' else 2)}{unit}"
                f"{' (' + STATUS_TEXT[status] + ')' if status in FIXED else ''}",
            }
            for i, (value, index, status, case) in enumerate(found)
        ]
        rows.append(
            {
                "label": _shortened(cohort.team, 52) if several else "",
                "label_y": top + 13,
                "y": y,
                "box": _box([value for value, *_ in found], x),
                "points": points,
            }
        )
    bottom = 6 + len(cohorts) * (_BAND + label_height)
    return {
        "title": f"{structure.title}: {name}{', mm' if unit else ''}",
        "width": _PLOT_WIDTH,
        "height": bottom + 26,
        "left": _PLOT_LEFT,
        "top": 4,
        "bottom": bottom,
        "half": _HALF_BOX,
        "ticks": [{"x": x(tick), "text": f"{tick:g}"} for tick in ticks],
        "rows": rows,
        "crowded": max(len(cohort.results) for cohort in cohorts) > _CROWD,
    }


def _box(values: Sequence[float], x: Callable[[float], float]) -> dict[str, float] | None:
    """Return a box's positions; whiskers reach the farthest values within 1.5 box lengths (Tukey)."""
    if not values:
        return None
    q1, median, q3 = (float(q) for q in np.percentile(values, [25, 50, 75]))
    reach = 1.5 * (q3 - q1)
    low = min(value for value in values if value >= q1 - reach)
    high = max(value for value in values if value <= q3 + reach)
    # Interpolated quartiles may lie beyond the last value within reach: a whisker never points into the box.
    return {
        "low": x(min(low, q1)),
        "q1": x(q1),
        "median": x(median),
        "mean": x(math.fsum(values) / len(values)),
        "q3": x(q3),
        "high": x(max(high, q3)),
        "width": round(x(q3) - x(q1), 1),
    }


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


# ----------------------------------------------------------------------------------------------------------------------
# Pictures of the worst cases
# ----------------------------------------------------------------------------------------------------------------------

_PIXELS = 380
_MOST_PLACES = 2
_MOST_COMPONENTS = 50


def draw_worst(
    cohorts: Sequence[CohortScores],
    reference: Path,
    prediction: Path,
    scans: Path | None = None,
    *,
    count: int = 4,
    on_case: Callable[[int, int, str], None] = lambda done, total, case: None,
) -> list[CasePictures]:
    """Draw the worst cases of every team: slices of each structure with the outlines of both label maps.

    Args:
        cohorts: scores of the label maps in the folders.
        reference: folder of `{case}_Label.nii.gz`.
        prediction: the same of one team, or a folder of folders named as the teams.
        scans: folder of `{case}_hrT2.nii.gz`, or None for outlines alone. A case without a scan is drawn without.
        count: cases per team.
        on_case: called after each case with the cases done, the cases in all, and the case.

    Raises:
        ValueError: a folder is missing, or there are several teams and `prediction` has no folder for one of them.
    """
    for name, folder in (("reference", reference), ("prediction", prediction), ("scans", scans)):
        if folder is not None and not folder.is_dir():
            raise ValueError(f"--{name} {folder}: expected a folder, got none; check the path")
    references = files_by_case(reference, LABEL_SUFFIX)
    images = files_by_case(scans, TARGET_SUFFIX) if scans is not None else {}
    wanted = [
        (cohort.team, case, dice, predictions.get(case.case))
        for cohort in cohorts
        for predictions in [files_by_case(_team_folder(prediction, cohort.team, len(cohorts)), LABEL_SUFFIX)]
        for _, case in worst_first([cohort])[:count]
        if (dice := mean_dice(case)) is not None
    ]
    drawn = []
    for done, (team, case, dice, predicted) in enumerate(wanted, start=1):
        drawn.append(_draw_case(team, case, dice, references.get(case.case), predicted, images.get(case.case)))
        on_case(done, len(wanted), case.case)
    return drawn


def _team_folder(prediction: Path, team: str, teams: int) -> Path:
    # A team's name comes from a file: one that is a path names no folder of ours.
    own = prediction / team if team != ".." and Path(team).name == team else prediction
    if own != prediction and own.is_dir():
        return own
    if teams > 1:
        raise ValueError(
            f"--prediction {prediction}: expected a folder named {team!r} in it for each of {teams} teams, got none; "
            "give the folder that holds the teams' folders"
        )
    return prediction


def _draw_case(
    team: str, case: CaseScores, dice: float, reference: Path | None, prediction: Path | None, scan: Path | None
) -> CasePictures:
    problems = []
    slices: tuple[SlicePicture, ...] = ()
    try:
        if reference is None:
            raise CaseError(f"{case.case}: no reference in the folder given; not drawn")
        grid = read_image(reference)
        labels = lps_array(grid, grid)
        predicted = np.zeros_like(labels)
        if prediction is None:
            problems.append("No prediction in the folder given.")
        else:
            try:
                predicted = lps_array(read_image(prediction), grid)
            except CaseError as error:
                problems.append(f"The prediction is not drawn: {error}")
        image = None
        if scan is not None:
            try:
                image = lps_array(read_image(scan), grid)
            except CaseError as error:
                problems.append(f"The scan is not drawn: {error}")
        x_mm, y_mm, z_mm = sitk.DICOMOrient(grid, "LPS").GetSpacing()
        slices = tuple(
            picture
            for structure in STRUCTURES
            for picture in _draw_structure(case, structure, image, labels, predicted, (z_mm, y_mm, x_mm))
        )
    except CaseError as error:
        problems.append(str(error))
    return CasePictures(team=team, case=case.case, mean_dice=dice, slices=slices, problem=" ".join(problems) or None)


def lps_array(image: sitk.Image, grid: sitk.Image) -> np.ndarray:
    """Return voxels as `(D, H, W)` in LPS order, taken index by index as lying on `grid`, which is how they are scored.

    Raises:
        CaseError: the sizes differ.
    """
    if image.GetSize() != grid.GetSize():
        raise CaseError(f"expected the reference's size {grid.GetSize()}, got {image.GetSize()} voxels (x, y, z)")
    placed = sitk.Image(image)
    placed.CopyInformation(grid)
    return sitk.GetArrayFromImage(sitk.DICOMOrient(placed, "LPS"))


def _draw_structure(
    case: CaseScores,
    structure: Structure,
    image: np.ndarray | None,
    labels: np.ndarray,
    predicted: np.ndarray,
    spacing_mm: tuple[float, float, float],
) -> list[SlicePicture]:
    """Draw a structure where it lies: a picture for each of its places, the two with most disagreement at most."""
    ours, theirs = labels == structure.label, predicted == structure.label
    places = places_of(ours, theirs, spacing_mm)
    shown = sorted(places[:_MOST_PLACES], key=lambda place: place[2].start)
    pictures = []
    for count, (depth, rows, columns) in enumerate(shown, start=1):
        number = depth.start + most_telling_slice(ours[depth, rows, columns], theirs[depth, rows, columns])
        near = np.zeros(labels.shape[1:], dtype=bool)
        near[rows, columns] = True
        png = outlines_png(
            None if image is None else image[number],
            labels[number],
            predicted[number],
            spacing_mm[1:],
            field=field_round([near & ours[number], near & theirs[number]], spacing_mm[1:]),
            structures=[structure],
            pixels=_PIXELS,
        )
        where = f"slice {number + 1} of {len(labels)}"
        part = f"{structure.title} ({count} of {len(places)} places)" if len(places) > 1 else structure.title
        text = f"{_score_text(case.structures[structure.key])}; {where}" if count == 1 else where
        pictures.append(
            SlicePicture(
                title=part,
                uri=png_data_uri(png),
                pixels=_PIXELS,
                alt=f"{case.case}, axial {where}: outlines of {part} in the reference "
                f"({_extent(ours[number] & near)}) and in the prediction ({_extent(theirs[number] & near)})",
                text=text,
            )
        )
    return pictures


def places_of(
    reference: np.ndarray, prediction: np.ndarray, spacing_mm: tuple[float, float, float], *, apart_mm: float = 15.0
) -> list[tuple[slice, slice, slice]]:
    """Return the boxes in which a structure lies, those with most disagreement between the masks first.

    A place is a group of connected components whose boxes are nearer to each other than `apart_mm`: both cochleas are
    two places, and so is a false positive far from the tumour. Where both masks are empty, the place is everywhere.

    Args:
        reference: bool `(D, H, W)`.
        prediction: bool `(D, H, W)`.
        spacing_mm: of slices, rows and columns.
        apart_mm: the least distance between two places, along the axis that separates them most.
    """
    union = reference | prediction
    depths, rows = union.any(axis=(1, 2)).nonzero()[0], union.any(axis=(0, 2)).nonzero()[0]
    if not depths.size:
        return [(slice(0, union.shape[0]), slice(0, union.shape[1]), slice(0, union.shape[2]))]
    corner = np.array([[depths[0]], [rows[0]], [0]])
    components, _ = ndimage.label(union[depths[0] : depths[-1] + 1, rows[0] : rows[-1] + 1])
    found = ndimage.find_objects(components)
    sizes = np.bincount(components.ravel())[1:]
    # Noise has thousands of components; the largest tell where to look.
    places = [
        np.array([[edge.start, edge.stop] for edge in found[index]]) + corner
        for index in np.argsort(-sizes, kind="stable")[:_MOST_COMPONENTS]
    ]
    merging = True
    while merging:
        merging = False
        for i, j in itertools.combinations(range(len(places)), 2):
            gaps = np.maximum(places[i][:, 0] - places[j][:, 1], places[j][:, 0] - places[i][:, 1])
            if (gaps * spacing_mm).max() < apart_mm:
                other = places.pop(j)
                places[i] = np.stack([np.minimum(places[i], other)[:, 0], np.maximum(places[i], other)[:, 1]], axis=1)
                merging = True
                break
    boxes = [(slice(*map(int, a)), slice(*map(int, b)), slice(*map(int, c))) for a, b, c in places]
    return sorted(boxes, key=lambda box: -np.count_nonzero(reference[box] ^ prediction[box]))


def _extent(mask: np.ndarray) -> str:
    count = int(np.count_nonzero(mask))
    return f"{count} voxels" if count else "none here"


def _score_text(scores: StructureScores) -> str:
    remark = f" ({STATUS_TEXT[scores.status]})" if scores.status in STATUS_TEXT else ""
    if scores.dice is None or scores.assd_mm is None:
        return f"not scored{remark}"
    return f"Dice {scores.dice:.2f}, ASSD {millimetres(scores.assd_mm)} mm{remark}"
