"""The scores of one case. This module decides what a missing, unusable or empty label map scores.

`score_case` gives one `CaseScores` per prediction, with one `StructureScores` per structure of the contract. A
structure of a case has one `Status`:

=================  ===================================================  ===========================================
status             when                                                 Dice, ASSD, HD95
=================  ===================================================  ===========================================
scored             both masks hold voxels                               computed
empty_prediction   the predicted mask is empty                          0, 350 mm, 350 mm
missing            no file for the case                                 0, 350 mm, 350 mm
refused            the file cannot be read, or does not fit the         0, 350 mm, 350 mm
                   reference (`CaseScores.problem` says how)
empty_reference    the reference lacks the structure, the prediction    none: not scored, counted
                   has it
both_empty         neither has it (a missing or refused prediction      none: not scored, counted
                   counts as empty)
bad_reference      the reference is unreadable or no label map of       none: not scored, counted
                   the contract
=================  ===================================================  ===========================================

350 mm is the organisers' ASSD for an empty class. That HD95 gets the same value is our choice: leaving a structure out
never helps. The volume error is prediction minus reference, and minus the reference's volume where the prediction is
missing or refused.

Decisions
---------
- A voxel belongs to a structure where its value equals the label exactly, as the organisers have it. Any other value
  of a prediction, fractions included, counts as background, with a warning. In a reference it is an error
  (`bad_reference`): a map with a label 3 belongs to 2023 and would be scored wrongly without notice. The whole tumour
  of 2023 is every voxel with the label of one of its parts. A file with NaN or infinite voxels is refused.
- A prediction of another shape is refused before its voxels are read, and so is a link that leaves its folder. One of
  the same shape on another grid is scored index by index, as the organisers do, with a warning that names both
  geometries; `strict_geometry` refuses it.
- The spacing is the reference header's, which is right for oblique scans too. (The organisers take the diagonal of the
  affine.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from challenge.contract import Structure
from challenge.layouts import CROSSMODA_2021, FolderLayout
from challenge.nifti import CaseError, Geometry, geometry_of, read_image
from evaluation.metrics import (
    CHALLENGE_ASSD,
    AssdDefinition,
    Mask,
    assd_mm,
    count_overlap,
    dice,
    hd95_mm,
    surface_distances,
    volume_mm3,
)

# The organisers' ASSD where the predicted mask is empty. Source: CrossMoDA2022-Evaluation-code, scores.py.
EMPTY_DISTANCE_MM = 350.0
EMPTY_DICE = 0.0

# A foreign label map may have thousands of values; the first few tell what it is.
_LABELS_SHOWN = 5


class Status(StrEnum):
    """What became of one structure of one case. The module's docstring says what each status scores."""

    SCORED = "scored"
    EMPTY_PREDICTION = "empty_prediction"
    MISSING = "missing"
    REFUSED = "refused"
    EMPTY_REFERENCE = "empty_reference"
    BOTH_EMPTY = "both_empty"
    BAD_REFERENCE = "bad_reference"

    @property
    def unscored(self) -> bool:
        """Whether Dice and distances are undefined, because the reference gives nothing to compare with."""
        return self in (Status.EMPTY_REFERENCE, Status.BOTH_EMPTY, Status.BAD_REFERENCE)


@dataclass(frozen=True)
class StructureScores:
    """The scores of one structure of one case; None where undefined. Distances in mm, volumes in mm3."""

    status: Status
    dice: float | None = None
    assd_mm: float | None = None
    hd95_mm: float | None = None
    reference_volume_mm3: float | None = None
    prediction_volume_mm3: float | None = None
    volume_error_mm3: float | None = None


@dataclass(frozen=True)
class CaseScores:
    """The scores of one case by `Structure.key`. `problem` says why a file could not be used, or is None."""

    case: str
    structures: Mapping[str, StructureScores]
    problem: str | None = None
    warnings: tuple[str, ...] = ()


def score_masks(
    reference: Mask, prediction: Mask, spacing_mm: Sequence[float], asd: AssdDefinition = CHALLENGE_ASSD
) -> StructureScores:
    """Score one structure of one case. The module's docstring says what empty masks score.

    Args:
        reference: bool (D, H, W).
        prediction: bool (D, H, W).
        spacing_mm: voxel spacing in mm: z, y, x.
        asd: the definition of ASSD, see `metrics.assd_mm`.

    Raises:
        ValueError: a mask is not bool, the shapes differ, or a spacing is not finite and positive.
    """
    overlap = count_overlap(reference, prediction)
    reference_mm3 = volume_mm3(overlap.reference_voxels, spacing_mm)
    prediction_mm3 = volume_mm3(overlap.prediction_voxels, spacing_mm)
    if overlap.reference_voxels and overlap.prediction_voxels:
        distances = surface_distances(reference, prediction, spacing_mm)
        return StructureScores(
            status=Status.SCORED,
            dice=dice(overlap),
            assd_mm=assd_mm(distances, asd),
            hd95_mm=hd95_mm(distances),
            reference_volume_mm3=reference_mm3,
            prediction_volume_mm3=prediction_mm3,
            volume_error_mm3=prediction_mm3 - reference_mm3,
        )
    if overlap.reference_voxels:
        return _empty_scores(Status.EMPTY_PREDICTION, reference_mm3)
    return StructureScores(
        status=Status.EMPTY_REFERENCE if overlap.prediction_voxels else Status.BOTH_EMPTY,
        reference_volume_mm3=reference_mm3,
        prediction_volume_mm3=prediction_mm3,
        volume_error_mm3=prediction_mm3,
    )


def _empty_scores(status: Status, reference_mm3: float) -> StructureScores:
    return StructureScores(
        status=status,
        dice=EMPTY_DICE,
        assd_mm=EMPTY_DISTANCE_MM,
        hd95_mm=EMPTY_DISTANCE_MM,
        reference_volume_mm3=reference_mm3,
        prediction_volume_mm3=0.0,
        volume_error_mm3=-reference_mm3,
    )


@dataclass(frozen=True)
class _Reference:
    """A reference, read and checked: masks, bool (D, H, W), by `Structure.key`."""

    masks: Mapping[str, Mask]
    geometry: Geometry

    @property
    def spacing_zyx_mm(self) -> tuple[float, ...]:
        return self.geometry.spacing_mm[::-1]


def score_case(
    case: str,
    reference: Path,
    predictions: Sequence[Path | None],
    asd: AssdDefinition = CHALLENGE_ASSD,
    strict_geometry: bool = False,
    layout: FolderLayout = CROSSMODA_2021,
) -> list[CaseScores]:
    """Score several teams' predictions of one case. Whatever is wrong with a file becomes part of the scores.

    Args:
        case: the case's name.
        reference: label map with the labels of the contract, of any numeric type; read once.
        predictions: one label map per team on the same grid, or None where a team has none.
        asd: the definition of ASSD, see `metrics.assd_mm`.
        strict_geometry: refuse a prediction on another grid instead of scoring it index by index.
        layout: says which structures are scored, and by which labels.

    Returns:
        The scores in the order of `predictions`.
    """
    try:
        known = _read_reference(reference, layout)
    except CaseError as error:
        unscored = {structure.key: StructureScores(Status.BAD_REFERENCE) for structure in layout.scored}
        return [CaseScores(case, unscored, problem=f"reference {error}") for _ in predictions]
    return [_score_prediction(case, known, prediction, asd, strict_geometry, layout) for prediction in predictions]


def _score_prediction(
    case: str,
    reference: _Reference,
    prediction: Path | None,
    asd: AssdDefinition,
    strict_geometry: bool,
    layout: FolderLayout,
) -> CaseScores:
    if prediction is None:
        problem = f"{case}{layout.label_suffix}: expected a label map, got no such file; scored as empty"
        return CaseScores(case, _scores_without(reference, Status.MISSING), problem=problem)
    warnings: list[str] = []
    try:
        masks = _read_prediction(prediction, reference.geometry, strict_geometry, layout.scored, warnings)
        structures = {
            key: score_masks(mask, masks[key], reference.spacing_zyx_mm, asd) for key, mask in reference.masks.items()
        }
    except Exception as error:  # noqa: BLE001  whatever one team's file does, the other files are scored
        refusal = error if isinstance(error, CaseError) else _unexpected(prediction, error)
        return CaseScores(case, _scores_without(reference, Status.REFUSED), problem=f"{refusal}; scored as empty")
    return CaseScores(case, structures, warnings=tuple(warnings))


def _unexpected(path: Path, error: Exception) -> CaseError:
    kind = "too little memory" if isinstance(error, MemoryError) else f"{type(error).__name__} ({error})"
    return CaseError(f"{path.name}: expected a label map that can be scored, got {kind}; please report it")


def _scores_without(reference: _Reference, status: Status) -> dict[str, StructureScores]:
    """Score an unusable prediction as empty. A structure that the reference lacks too is not scored."""
    scores = {}
    for key, mask in reference.masks.items():
        voxels = int(np.count_nonzero(mask))
        reference_mm3 = volume_mm3(voxels, reference.spacing_zyx_mm)
        lacking = StructureScores(
            Status.BOTH_EMPTY, reference_volume_mm3=0.0, prediction_volume_mm3=0.0, volume_error_mm3=0.0
        )
        scores[key] = _empty_scores(status, reference_mm3) if voxels else lacking
    return scores


def _read_reference(path: Path, layout: FolderLayout) -> _Reference:
    image = read_image(path)
    values = sitk.GetArrayViewFromImage(image)
    foreign = _foreign_labels(values, layout.scored)
    if foreign:
        raise CaseError(
            f"{path.name}: expected the labels {_label_list(layout.scored)}, got {foreign}; "
            f"give the reference of {layout.name}, or another --layout"
        )
    return _Reference(masks=_masks_of(values, layout.scored), geometry=geometry_of(image))


def _read_prediction(
    path: Path, expected: Geometry, strict_geometry: bool, structures: Sequence[Structure], warnings: list[str]
) -> dict[str, Mask]:
    def accept(geometry: Geometry) -> None:
        if geometry.size_xyz != expected.size_xyz:
            raise CaseError(
                f"{path.name}: expected the reference's size {_sides(expected)}, got {_sides(geometry)}; "
                "write the label map on the scan's own grid"
            )
        if not geometry.same_place(expected):
            message = f"{path.name}: expected the reference's grid, {expected}, got {geometry}"
            if strict_geometry:
                raise CaseError(f"{message}; write the label map on the scan's own grid")
            warnings.append(f"{message}; scored index by index, as the challenge does")

    # A link could lead to the reference. Reading the voxels of a map of another size could exhaust the memory.
    image = read_image(path, accept=accept, within=path.parent)
    values = sitk.GetArrayViewFromImage(image)
    foreign = _foreign_labels(values, structures)
    if foreign:
        expected_labels = _label_list(structures)
        warnings.append(f"{path.name}: expected the labels {expected_labels}, got {foreign}; counted as background")
    return _masks_of(values, structures)


def _masks_of(values: NDArray[Any], structures: Sequence[Structure]) -> dict[str, Mask]:
    masks = {}
    for structure in structures:
        masks[structure.key] = np.asarray(values == structure.label)
        for label in structure.also:
            masks[structure.key] |= np.asarray(values == label)
    return masks


def _foreign_labels(values: NDArray[Any], structures: Sequence[Structure]) -> str:
    """Name the values that are neither background nor a label, and count their voxels; empty where there are none."""
    labels = _labels_of(structures)
    foreign = np.count_nonzero(values) - sum(np.count_nonzero(values == label) for label in labels)
    if foreign == 0:
        return ""
    odd = values != 0
    for label in labels:
        odd &= values != label
    kinds = np.unique(values[odd])
    shown = ", ".join(f"{kind:g}" for kind in kinds[:_LABELS_SHOWN].tolist())
    more = f" and {len(kinds) - _LABELS_SHOWN} more" if len(kinds) > _LABELS_SHOWN else ""
    return f"also {shown}{more} in {foreign} voxels"


def _labels_of(structures: Sequence[Structure]) -> list[int]:
    return sorted({label for structure in structures for label in structure.labels})


def _label_list(structures: Sequence[Structure]) -> str:
    return ", ".join(map(str, [0, *_labels_of(structures)]))


def _sides(geometry: Geometry) -> str:
    return " x ".join(map(str, geometry.size_xyz))
