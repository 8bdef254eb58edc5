"""The worst cases: which they are, and stacks of slices of them with the outlines of reference and prediction."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from challenge.colours import colour_of
from challenge.contract import Structure, files_by_case
from challenge.layouts import CROSSMODA_2021, FolderLayout
from challenge.nifti import CaseError, read_image
from evaluation.cohort import CohortScores, label_files, leaves_folder
from evaluation.report.slice_stacks import SliceStack, stack_of
from evaluation.report.wording import score_text
from evaluation.scoring import CaseScores

_MOST_PLACES = 2
_MOST_COMPONENTS = 50


@dataclass(frozen=True)
class PlacePicture:
    """One place of one structure of one case: a stack of axial slices with both outlines, and its caption.

    `colour` is that of the prediction's outline.
    """

    title: str
    stack: SliceStack
    colour: str
    alt: str
    text: str


@dataclass(frozen=True)
class CasePictures:
    """The pictures of one case of one team. `problem` says what could not be drawn, or is None."""

    team: str
    case: str
    mean_dice: float
    places: tuple[PlacePicture, ...]
    problem: str | None = None


def mean_dice(case: CaseScores) -> float | None:
    """Return the mean Dice over a case's scored structures, or None where none is scored."""
    values = [scores.dice for scores in case.structures.values() if scores.dice is not None]
    return math.fsum(values) / len(values) if values else None


def worst_first(cohorts: Sequence[CohortScores]) -> list[tuple[CohortScores, CaseScores]]:
    """Sort all cases by lowest mean Dice, then by highest mean ASSD; put unscored cases last."""

    def key(entry: tuple[CohortScores, CaseScores]) -> tuple[bool, float, float]:
        dice = mean_dice(entry[1])
        distances = [scores.assd_mm for scores in entry[1].structures.values() if scores.assd_mm is not None]
        return dice is None, dice or 0.0, -math.fsum(distances) / max(len(distances), 1)

    return sorted(((cohort, case) for cohort in cohorts for case in cohort.results), key=key)


def draw_worst(
    cohorts: Sequence[CohortScores],
    reference: Path,
    prediction: Path,
    scans: Path | None = None,
    *,
    layout: FolderLayout = CROSSMODA_2021,
    count: int = 4,
    on_case: Callable[[int, int, str], None] = lambda done, total, case: None,
) -> list[CasePictures]:
    """Draw the worst cases of every team: stacks of each structure, with the outlines of both label maps.

    A structure that is the union of others is not drawn: its parts are.

    Args:
        cohorts: scores of the label maps in the folders.
        reference: folder of `{case}_Label.nii.gz`, or as `layout` has it.
        prediction: the same of one team, or a folder of folders named as the teams.
        scans: folder of `{case}_hrT2.nii.gz`, or None for outlines alone. A case without a scan gets outlines alone.
        layout: how files are named.
        count: cases per team.
        on_case: called after each case with the number of cases done, the number of all cases, and the case.

    Raises:
        ValueError: a folder is missing, or there are several teams and `prediction` has no folder for one of them.
    """
    for name, folder in (("reference", reference), ("prediction", prediction), ("scans", scans)):
        if folder is not None and not folder.is_dir():
            raise ValueError(f"--{name} {folder}: expected a folder, got none; check the path")
    references = label_files(reference, layout)
    images = files_by_case(scans, layout.scan_suffix) if scans is not None else {}
    structures = [structure for structure in layout.scored if not structure.also]
    wanted = [
        (cohort.team, case, dice, predictions.get(case.case))
        for cohort in cohorts
        for predictions in [_own_label_maps(_team_folder(prediction, cohort.team, len(cohorts)), layout)]
        for _, case in worst_first([cohort])[:count]
        if (dice := mean_dice(case)) is not None
    ]
    drawn = []
    for done, (team, case, dice, predicted) in enumerate(wanted, start=1):
        files = (references.get(case.case), predicted, images.get(case.case))
        drawn.append(_draw_case(team, case, dice, structures, *files))
        on_case(done, len(wanted), case.case)
    return drawn


def _own_label_maps(folder: Path, layout: FolderLayout) -> dict[str, Path]:
    return {case: path for case, path in label_files(folder, layout).items() if not leaves_folder(path, folder)}


def _team_folder(prediction: Path, team: str, teams: int) -> Path:
    # A team's name comes from a file. Ignore one that is a path: it could lead anywhere.
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
    team: str,
    case: CaseScores,
    dice: float,
    structures: Sequence[Structure],
    reference: Path | None,
    prediction: Path | None,
    scan: Path | None,
) -> CasePictures:
    problems = []
    places: tuple[PlacePicture, ...] = ()
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
        places = tuple(
            picture
            for structure in structures
            for picture in _draw_structure(case, structure, image, labels, predicted, (z_mm, y_mm, x_mm))
        )
    except CaseError as error:
        problems.append(str(error))
    return CasePictures(team=team, case=case.case, mean_dice=dice, places=places, problem=" ".join(problems) or None)


def lps_array(image: sitk.Image, grid: sitk.Image) -> np.ndarray:
    """Return an image's voxels as `(D, H, W)` in LPS order, placed on `grid` index by index, as they are scored.

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
) -> list[PlacePicture]:
    """Draw a structure at its places: one stack each, at most two, those with most disagreement."""
    ours, theirs = (np.isin(values, structure.labels) for values in (labels, predicted))
    places = places_of(ours, theirs, spacing_mm)
    shown = sorted(places[:_MOST_PLACES], key=lambda place: place[2].start)
    pictures = []
    for count, place in enumerate(shown, start=1):
        stack = stack_of(image, ours, theirs, place, spacing_mm[1:])
        part = f"{structure.title} ({count} of {len(places)} places)" if len(places) > 1 else structure.title
        first = stack.slices[stack.first]
        in_reference, in_prediction = map(_extent, first.voxels)
        pictures.append(
            PlacePicture(
                title=part,
                stack=stack,
                colour=colour_of(structure),
                alt=f"{case.case}, axial slice {first.number} of {stack.of}: outlines of {part} in the reference "
                f"({in_reference}) and in the prediction ({in_prediction})",
                text=score_text(case.structures[structure.key]) if count == 1 else "",
            )
        )
    return pictures


def places_of(
    reference: np.ndarray, prediction: np.ndarray, spacing_mm: tuple[float, float, float], *, apart_mm: float = 15.0
) -> list[tuple[slice, slice, slice]]:
    """Return the boxes in which a structure lies, those with most disagreement between the masks first.

    A place is a group of connected components whose boxes lie closer together than `apart_mm`. The two cochleas are two
    places, and a false positive far from the tumour is another. Two empty masks have one place: the whole volume.

    Args:
        reference: bool `(D, H, W)`.
        prediction: bool `(D, H, W)`.
        spacing_mm: spacing of slices, rows and columns.
        apart_mm: the smallest distance between two places, along the axis that separates them most.
    """
    union = reference | prediction
    depths, rows = union.any(axis=(1, 2)).nonzero()[0], union.any(axis=(0, 2)).nonzero()[0]
    if not depths.size:
        return [(slice(0, union.shape[0]), slice(0, union.shape[1]), slice(0, union.shape[2]))]
    corner = np.array([[depths[0]], [rows[0]], [0]])
    components, _ = ndimage.label(union[depths[0] : depths[-1] + 1, rows[0] : rows[-1] + 1])
    found = ndimage.find_objects(components)
    sizes = np.bincount(components.ravel())[1:]
    # Noise has thousands of components; the largest are enough.
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


def _extent(count: int) -> str:
    return f"{count} voxels" if count else "none here"
