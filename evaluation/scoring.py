"""One case, one cohort: what every missing, misfit or empty label map scores is decided here.

Records
-------
`CohortScores` (one team) holds `results`, one `CaseScores` per reference case, each with one `StructureScores` per
structure of the contract. A structure of a case has one `Status`:

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

350 mm is the organisers' ASSD for an empty class; that HD95 gets it too is ours, so that leaving a structure out never
helps. Volume error is prediction minus reference, 0 minus reference where the prediction is missing or refused.

Decisions
---------
- Labels other than 0, 1, 2 in a prediction, fractions included: a voxel belongs to a structure where its value equals
  the label exactly, as for the organisers; the others are background, with a warning. In a reference they are an error
  (`bad_reference`): a map with a label 3 is another year's and would be scored wrongly in silence. NaN and infinity
  are no labels: such a file is refused.
- Another shape: refused. The same shape on another grid: scored index by index as the organisers do, with a warning
  that names both geometries; refused under `strict_geometry`.
- Spacing is the reference header's, right for oblique scans (the organisers take the affine's diagonal).
- Files without a reference are listed in `extra` and not scored. A file whose name is nearly right (`_label.nii.gz`,
  `_Label.nii`) does not count: its case is missing, and the note names it. Two spellings of one case's file are a
  `ValueError` before anything is scored, since nobody knows which one is meant. Hidden files are not looked at.

Memory: one case at a time in each process, its reference's masks and one prediction: 0.35 GB in all, measured for
512 x 512 x 120 voxels of uint8, 0.7 GB of float64, whatever the number of cases and teams.

JSON (`to_json`, `from_json`; undefined values are null)
---------------------------------------------------------
::

    {"format": "crossmoda-grl scores", "version": 1,
     "cohorts": [{
       "team": "skjp",
       "metadata": {"asd": "2021", "reference": "/ref", "prediction": "/pred", "strict_geometry": false},
       "results": [{"case": "crossmoda_211", "problem": null, "warnings": [],
                    "structures": {"vs": {"status": "scored", "dice": 0.9, "assd_mm": 0.4, "hd95_mm": 1.1,
                                          "reference_volume_mm3": 100.0, "prediction_volume_mm3": 98.0,
                                          "volume_error_mm3": -2.0},
                                   "cochlea": {...}}}],
       "aggregates": {"vs": {"metrics": {"dice": {"n": 32, "mean": 0.8, "sd": 0.1, "median": 0.8, "q1": 0.7, "q3": 0.9},
                                         "assd_mm": {...}, "hd95_mm": {...}, "volume_error_mm3": {...}},
                             "counts": {"scored": 31, "empty_prediction": 1, "missing": 0, ...}}, "cochlea": {...}},
       "extra": ["crossmoda_999_Label.nii.gz"]}]}

CSV (`write_csv`, `read_csv`): the organisers' columns first, ours behind; an undefined value is an empty cell.
"""

import csv
import json
import math
import multiprocessing
import re
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from challenge.contract import LABEL_SUFFIX, STRUCTURES, Structure, files_by_case, label_file, sorted_cases
from challenge.files import written_whole
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

# The organisers' ASSD of a class that the prediction leaves empty. Source: CrossMoDA2022-Evaluation-code, scores.py.
EMPTY_DISTANCE_MM = 350.0
EMPTY_DICE = 0.0

JSON_FORMAT = "crossmoda-grl scores"
JSON_VERSION = 1

# A foreign label map may have thousands of values; the first few tell what it is.
_LABELS_SHOWN = 5
_NEARLY_A_LABEL = re.compile(r"(?P<case>.+)_label\.nii(\.gz)?", re.IGNORECASE)

# What is averaged over a cohort, in the order of tables.
METRICS = ("dice", "assd_mm", "hd95_mm", "volume_error_mm3")


class Status(StrEnum):
    """What became of one structure of one case; the module's docstring tells what each scores."""

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
    """One case: `structures` by `Structure.key`; `problem` says why a file could not be used, None where it could."""

    case: str
    structures: Mapping[str, StructureScores]
    problem: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Summary:
    """One metric over a cohort's `n` defined values: mean, sample standard deviation (n - 1), median and quartiles.

    All are None where n is 0, and `sd` where n is 1. Quartiles interpolate linearly, as NumPy and pandas do.
    """

    n: int
    mean: float | None = None
    sd: float | None = None
    median: float | None = None
    q1: float | None = None
    q3: float | None = None


@dataclass(frozen=True)
class StructureAggregates:
    """One structure over a cohort: a `Summary` for each of `METRICS`, and the number of cases of each status."""

    metrics: Mapping[str, Summary]
    counts: Mapping[Status, int]


@dataclass(frozen=True)
class Metadata:
    """How a cohort was scored; None where a score file does not say."""

    asd: str | None = None
    reference: str | None = None
    prediction: str | None = None
    strict_geometry: bool | None = None


@dataclass(frozen=True)
class CohortScores:
    """One team's scores over all reference cases, in the order of `contract.sorted_cases`."""

    team: str
    results: tuple[CaseScores, ...]
    metadata: Metadata = Metadata()
    extra: tuple[str, ...] = ()

    @property
    def aggregates(self) -> dict[str, StructureAggregates]:
        """Summaries and counts by `Structure.key`."""
        return {
            structure.key: aggregate([result.structures[structure.key] for result in self.results])
            for structure in STRUCTURES
        }

    @property
    def missing(self) -> list[str]:
        """Cases without a prediction file."""
        return [r.case for r in self.results if any(s.status is Status.MISSING for s in r.structures.values())]

    @property
    def failed(self) -> list[CaseScores]:
        """Cases whose prediction was refused or whose reference could not be used; `problem` says why."""
        return [result for result in self.results if result.problem is not None and result.case not in self.missing]


def score_masks(
    reference: Mask, prediction: Mask, spacing_mm: Sequence[float], asd: AssdDefinition = CHALLENGE_ASSD
) -> StructureScores:
    """Score one structure: computed where both masks hold voxels, else by the rules of the module's docstring.

    Args:
        reference: bool (D, H, W).
        prediction: bool (D, H, W).
        spacing_mm: voxel spacing in mm: z, y, x.
        asd: which ASSD, see `metrics.assd_mm`.

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
    """A reference that has been read and checked: masks bool (D, H, W) by `Structure.key`."""

    masks: Mapping[str, Mask]
    geometry: Geometry

    @property
    def spacing_zyx_mm(self) -> tuple[float, ...]:
        return self.geometry.spacing_mm[::-1]


def score_case(
    case: str,
    reference: Path,
    prediction: Path | None,
    *,
    asd: AssdDefinition = CHALLENGE_ASSD,
    strict_geometry: bool = False,
) -> CaseScores:
    """Score one prediction file against one reference file; whatever is wrong with a file becomes part of the result.

    Args:
        case: the case's name.
        reference: label map with the labels of the contract, of any numeric type.
        prediction: label map on the same grid; None where there is none.
        asd: which ASSD, see `metrics.assd_mm`.
        strict_geometry: refuse a prediction whose grid lies elsewhere, instead of scoring it index by index.
    """
    [scores] = _score_predictions(case, reference, [prediction], asd, strict_geometry)
    return scores


def _score_predictions(
    case: str, reference: Path, predictions: Sequence[Path | None], asd: AssdDefinition, strict_geometry: bool
) -> list[CaseScores]:
    """Score several teams' predictions of one case; the reference is read once."""
    try:
        known = _read_reference(reference)
    except CaseError as error:
        unscored = {structure.key: StructureScores(Status.BAD_REFERENCE) for structure in STRUCTURES}
        return [CaseScores(case, unscored, problem=f"reference {error}") for _ in predictions]
    return [_score_prediction(case, known, prediction, asd, strict_geometry) for prediction in predictions]


def _score_prediction(
    case: str, reference: _Reference, prediction: Path | None, asd: AssdDefinition, strict_geometry: bool
) -> CaseScores:
    if prediction is None:
        problem = f"{label_file(case)}: expected a label map, got no such file; scored as empty"
        return CaseScores(case, _scores_without(reference, Status.MISSING), problem=problem)
    warnings: list[str] = []
    try:
        masks = _read_prediction(prediction, reference.geometry, strict_geometry, warnings)
    except CaseError as error:
        return CaseScores(case, _scores_without(reference, Status.REFUSED), problem=f"{error}; scored as empty")
    structures = {
        key: score_masks(mask, masks[key], reference.spacing_zyx_mm, asd) for key, mask in reference.masks.items()
    }
    return CaseScores(case, structures, warnings=tuple(warnings))


def _scores_without(reference: _Reference, status: Status) -> dict[str, StructureScores]:
    """Score a prediction that cannot be used: as empty, but for structures that the reference lacks too."""
    scores = {}
    for key, mask in reference.masks.items():
        voxels = int(np.count_nonzero(mask))
        reference_mm3 = volume_mm3(voxels, reference.spacing_zyx_mm)
        lacking = StructureScores(
            Status.BOTH_EMPTY, reference_volume_mm3=0.0, prediction_volume_mm3=0.0, volume_error_mm3=0.0
        )
        scores[key] = _empty_scores(status, reference_mm3) if voxels else lacking
    return scores


def _read_reference(path: Path) -> _Reference:
    image = read_image(path)
    values = sitk.GetArrayViewFromImage(image)
    masks = _masks_of(values)
    foreign = _foreign_labels(values, masks)
    if foreign:
        raise CaseError(
            f"{path.name}: expected the labels {_label_list()}, got {foreign}; give the reference of 2021 or 2022"
        )
    return _Reference(masks=masks, geometry=geometry_of(image))


def _read_prediction(path: Path, expected: Geometry, strict_geometry: bool, warnings: list[str]) -> dict[str, Mask]:
    image = read_image(path)
    geometry = geometry_of(image)
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
    values = sitk.GetArrayViewFromImage(image)
    masks = _masks_of(values)
    foreign = _foreign_labels(values, masks)
    if foreign:
        warnings.append(f"{path.name}: expected the labels {_label_list()}, got {foreign}; counted as background")
    return masks


def _masks_of(values: NDArray[Any]) -> dict[str, Mask]:
    return {structure.key: np.asarray(values == structure.label) for structure in STRUCTURES}


def _foreign_labels(values: NDArray[Any], masks: Mapping[str, Mask]) -> str:
    """Name the values that are neither background nor a label, and how many voxels have them; empty without any."""
    foreign = np.count_nonzero(values) - sum(np.count_nonzero(mask) for mask in masks.values())
    if foreign == 0:
        return ""
    odd = values != 0
    for mask in masks.values():
        odd &= ~mask
    kinds = np.unique(values[odd])
    shown = ", ".join(f"{kind:g}" for kind in kinds[:_LABELS_SHOWN].tolist())
    more = f" and {len(kinds) - _LABELS_SHOWN} more" if len(kinds) > _LABELS_SHOWN else ""
    return f"also {shown}{more} in {foreign} voxels"


def _label_list() -> str:
    return ", ".join(["0", *(str(structure.label) for structure in STRUCTURES)])


def _sides(geometry: Geometry) -> str:
    return " x ".join(map(str, geometry.size_xyz))


def team_folders(prediction: Path, team: str | None = None) -> dict[str, Path]:
    """Tell whose predictions a folder holds: one team's label maps, or one folder of label maps per team.

    A folder with label maps directly in it is one team's, named `team` or after the folder. Else every folder in it
    is a team's, if at least one of them holds label maps. A folder with neither is one team's that handed in nothing.

    Returns:
        Folders by team, sorted by name.

    Raises:
        ValueError: there are label maps both in the folder and in folders in it, or `team` names several teams.
        OSError: a folder cannot be listed.
    """
    inside = sorted(entry for entry in prediction.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    holding = [folder for folder in inside if _label_files(folder)]
    if _label_files(prediction) or not holding:
        if holding:
            raise ValueError(
                f"{prediction}: expected label maps or folders of teams, got both, with label maps in "
                f"{holding[0].name}; give the folder that is meant"
            )
        return {team or prediction.resolve().name: prediction}
    if team is not None:
        raise ValueError(
            f"{prediction}: expected one team's label maps for the team {team!r}, got folders of {len(inside)} teams; "
            "leave the name out, the folders' names are taken"
        )
    return {folder.name: folder for folder in inside}


def _label_files(folder: Path) -> dict[str, Path]:
    """Find a folder's label maps by case, refusing two spellings of one.

    Raises:
        ValueError: two files stand for one case.
        OSError: the folder cannot be listed.
    """
    found = {case: path for case, path in files_by_case(folder, LABEL_SUFFIX).items() if not case.startswith(".")}
    spellings: dict[str, list[str]] = {}
    for case, name in (*((case, path.name) for case, path in found.items()), *_misspelt(folder)):
        spellings.setdefault(case.casefold(), []).append(name)
    for names in spellings.values():
        if len(names) > 1:
            raise ValueError(
                f"{folder}: expected one label map per case, got {' and '.join(sorted(names))}; remove all but one"
            )
    return found


def _misspelt(folder: Path) -> Iterator[tuple[str, str]]:
    """Find what was probably meant as a label map: (case, file name)."""
    for entry in folder.iterdir():
        match = _NEARLY_A_LABEL.fullmatch(entry.name)
        if match and not entry.name.endswith(LABEL_SUFFIX) and not entry.name.startswith("."):
            yield match["case"], entry.name


def score_cohort(
    reference: Path,
    prediction: Path,
    team: str,
    *,
    asd: AssdDefinition = CHALLENGE_ASSD,
    strict_geometry: bool = False,
    jobs: int = 1,
    on_case: Callable[[int, int, str], None] | None = None,
) -> CohortScores:
    """Score one team's folder of label maps; see `score_cohorts`."""
    [cohort] = score_cohorts(
        reference, {team: prediction}, asd=asd, strict_geometry=strict_geometry, jobs=jobs, on_case=on_case
    )
    return cohort


def score_cohorts(
    reference: Path,
    predictions: Mapping[str, Path],
    *,
    asd: AssdDefinition = CHALLENGE_ASSD,
    strict_geometry: bool = False,
    jobs: int = 1,
    on_case: Callable[[int, int, str], None] | None = None,
) -> list[CohortScores]:
    """Score each team's folder of label maps against a folder of references, case by case.

    Args:
        reference: folder of `{case}_Label.nii.gz`; its cases are the cohort.
        predictions: folder of `{case}_Label.nii.gz` by team.
        asd: which ASSD, see `metrics.assd_mm`.
        strict_geometry: refuse predictions whose grid lies elsewhere than the reference's.
        jobs: processes to spread the cases over; above 1 the caller's main module is imported in each.
        on_case: called with the number of cases done, of all cases, and the case, as each is done.

    Returns:
        One record per team, in the order given, the same for any number of jobs.

    Raises:
        ValueError: the reference holds no label map, a case has two files, or `jobs` is less than 1.
        OSError: a folder cannot be listed.
    """
    if jobs < 1:
        raise ValueError(f"jobs: expected at least 1, got {jobs}; give the number of processes")
    references = _label_files(reference)
    if not references:
        raise ValueError(f"{reference}: expected label maps named *{LABEL_SUFFIX}, got none; check the folder")
    found = {team: _label_files(folder) for team, folder in predictions.items()}
    tasks = [
        (case, references[case], [found[team].get(case) for team in predictions], asd, strict_geometry)
        for case in sorted_cases(references)
    ]
    scored: dict[str, list[CaseScores]] = {}
    for done, (case, results) in enumerate(_run_tasks(tasks, min(jobs, len(tasks))), start=1):
        scored[case] = results
        if on_case is not None:
            on_case(done, len(tasks), case)
    return [
        CohortScores(
            team=team,
            results=tuple(_hint(scored[case][index], folder) for case in sorted_cases(references)),
            metadata=Metadata(str(asd), str(reference), str(folder), strict_geometry),
            extra=tuple(
                [path.name for case, path in found[team].items() if case not in references]
                + sorted(name for _, name in _misspelt(folder))
            ),
        )
        for index, (team, folder) in enumerate(predictions.items())
    ]


_Task = tuple[str, Path, Sequence[Path | None], AssdDefinition, bool]


def _run_tasks(tasks: Sequence[_Task], jobs: int) -> Iterator[tuple[str, list[CaseScores]]]:
    """Yield each case's scores as they come."""
    if jobs == 1:
        for task in tasks:
            yield task[0], _score_predictions(*task)
        return
    # Spawned, not forked: ITK has threads, which a fork would leave half alive.
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_use_one_thread)
    try:
        with _interrupts_held():
            cases = {pool.submit(_score_predictions, *task): task[0] for task in tasks}
        for future in as_completed(cases):
            yield cases.pop(future), future.result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back, and from the processes started meanwhile for good: stopping them is the caller's business."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _use_one_thread() -> None:
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def _hint(result: CaseScores, folder: Path) -> CaseScores:
    """Name the file that was probably meant where a case is missing."""
    meant = [name for case, name in _misspelt(folder) if case.casefold() == result.case.casefold()]
    if result.problem is None or not meant or any(s.status is Status.REFUSED for s in result.structures.values()):
        return result
    return replace(result, problem=f"{result.problem} (found {meant[0]}: rename it to {label_file(result.case)})")


def summarise(values: Iterable[float | None]) -> Summary:
    """Summarise the values that are defined.

    Source: mean and standard deviation as in the paper's Table 1, median and quartiles as in the challenge's tables.
    """
    defined = np.array([value for value in values if value is not None], dtype=np.float64)
    if not defined.size:
        return Summary(n=0)
    q1, median, q3 = np.percentile(defined, [25, 50, 75])
    return Summary(
        n=defined.size,
        mean=float(defined.mean()),
        sd=float(defined.std(ddof=1)) if defined.size > 1 else None,
        median=float(median),
        q1=float(q1),
        q3=float(q3),
    )


def aggregate(scores: Sequence[StructureScores]) -> StructureAggregates:
    """Reduce one structure's scores over a cohort to summaries and counts."""
    return StructureAggregates(
        metrics={metric: summarise(getattr(score, metric) for score in scores) for metric in METRICS},
        counts={status: sum(score.status is status for score in scores) for status in Status},
    )


def to_json(cohorts: Sequence[CohortScores]) -> str:
    """Write cohorts as the JSON of the module's docstring. Every float survives the way back unchanged."""
    document = {
        "format": JSON_FORMAT,
        "version": JSON_VERSION,
        "cohorts": [
            {
                "team": cohort.team,
                "metadata": asdict(cohort.metadata),
                "results": [asdict(result) for result in cohort.results],
                "aggregates": {key: asdict(aggregates) for key, aggregates in cohort.aggregates.items()},
                "extra": list(cohort.extra),
            }
            for cohort in cohorts
        ],
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def from_json(text: str) -> list[CohortScores]:
    """Read what `to_json` wrote. Aggregates are computed again, not believed.

    Raises:
        ValueError: not JSON, another format or version, or a field is missing or of another kind.
    """
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"score file: expected JSON, got {error}; write it with: evaluate score --json") from error
    if not isinstance(document, dict) or document.get("format") != JSON_FORMAT:
        raise ValueError(f"score file: expected the format {JSON_FORMAT!r}; write it with: evaluate score --json")
    if document.get("version") != JSON_VERSION:
        raise ValueError(
            f"score file: expected version {JSON_VERSION}, got {document.get('version')!r}; score the cohort again"
        )
    try:
        return [_cohort_from(entry) for entry in document["cohorts"]]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"score file: expected the fields of version {JSON_VERSION}, got a fault at {error}; score the cohort again"
        ) from error


def _cohort_from(entry: Mapping[str, Any]) -> CohortScores:
    return CohortScores(
        team=str(entry["team"]),
        results=tuple(
            CaseScores(
                case=str(result["case"]),
                structures={
                    structure.key: _structure_from(result["structures"][structure.key]) for structure in STRUCTURES
                },
                problem=result["problem"],
                warnings=tuple(result["warnings"]),
            )
            for result in entry["results"]
        ),
        metadata=Metadata(**entry["metadata"]),
        extra=tuple(entry["extra"]),
    )


def _structure_from(entry: Mapping[str, Any]) -> StructureScores:
    values = {name: None if value is None else float(value) for name, value in entry.items() if name != "status"}
    return StructureScores(status=Status(entry["status"]), **values)


def _challenge_columns() -> list[str]:
    return ["Case", *(f"{s.title}_{metric}" for s in STRUCTURES for metric in ("Dice", "ASSD")), "Team"]


# The organisers' header: Case,VS_Dice,VS_ASSD,Cochlea_Dice,Cochlea_ASSD,Team.
CHALLENGE_COLUMNS = tuple(_challenge_columns())
# Column after the structure's title -> field of `StructureScores`.
_CHALLENGE_FIELDS = {"Dice": "dice", "ASSD": "assd_mm"}
_OUR_FIELDS = {
    "HD95": "hd95_mm",
    "Reference_mm3": "reference_volume_mm3",
    "Prediction_mm3": "prediction_volume_mm3",
    "Volume_Error_mm3": "volume_error_mm3",
}
_STATUS = "Status"
_NOTE = "Note"
CSV_COLUMNS = (
    *CHALLENGE_COLUMNS,
    *(f"{s.title}_{column}" for s in STRUCTURES for column in (*_OUR_FIELDS, _STATUS)),
    _NOTE,
)


def write_csv(cohorts: Sequence[CohortScores], path: Path) -> None:
    """Write one row per team and case: the organisers' columns, then ours. Floats in full, undefined cells empty.

    Raises:
        OSError: the file cannot be written.
    """
    with written_whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, CSV_COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        for cohort in cohorts:
            for result in cohort.results:
                writer.writerow(_row_of(result, cohort.team))


def _row_of(result: CaseScores, team: str) -> dict[str, object]:
    row: dict[str, object] = {"Case": result.case, "Team": team}
    for structure in STRUCTURES:
        scores = result.structures[structure.key]
        for column, field in (_CHALLENGE_FIELDS | _OUR_FIELDS).items():
            value = getattr(scores, field)
            row[f"{structure.title}_{column}"] = "" if value is None else repr(float(value))
        row[f"{structure.title}_{_STATUS}"] = str(scores.status)
    row[_NOTE] = "; ".join(filter(None, (result.problem, *result.warnings)))
    return row


def read_csv(path: Path) -> list[CohortScores]:
    """Read a score file, ours or the organisers' published one, one cohort per team in the order of the file.

    Without our columns a row's status is `scored`: 0 and 350 mm alone do not tell a missing file from an empty one.
    Notes and the number of extra files do not come back; use JSON for a full round trip.

    Raises:
        ValueError: a column is missing, a value is no finite number, a cell is empty without a status that explains
            it, or a case stands twice for a team. The message names the line.
        OSError: the file cannot be read.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        absent = [column for column in CHALLENGE_COLUMNS if column not in (reader.fieldnames or ())]
        if absent:
            raise ValueError(
                f"{path.name}: expected the columns {','.join(CHALLENGE_COLUMNS)}, "
                f"got none named {', '.join(absent)}; rename or add them"
            )
        teams: dict[str, dict[str, CaseScores]] = {}
        for row in reader:
            where = f"{path.name}, line {reader.line_num}"
            case, team = (row["Case"] or "").strip(), (row["Team"] or "").strip()
            if not case or not team:
                raise ValueError(f"{where}: expected a case and a team, got {case!r} and {team!r}; fill the cells")
            cases = teams.setdefault(team, {})
            if case in cases:
                raise ValueError(
                    f"{where}: expected each case once per team, got {case} of {team} again; remove one of the rows"
                )
            structures = {structure.key: _scores_from(row, structure, where) for structure in STRUCTURES}
            cases[case] = CaseScores(case=case, structures=structures)
    if not teams:
        raise ValueError(f"{path.name}: expected at least one row of scores, got none; score a cohort first")
    return [CohortScores(team=team, results=tuple(cases.values())) for team, cases in teams.items()]


def _scores_from(row: Mapping[str, str | None], structure: Structure, where: str) -> StructureScores:
    values = {
        field: _number(row.get(f"{structure.title}_{column}"), f"{where}: {structure.title}_{column}")
        for column, field in (_CHALLENGE_FIELDS | _OUR_FIELDS).items()
    }
    name = row.get(f"{structure.title}_{_STATUS}") or Status.SCORED
    try:
        status = Status(name)
    except ValueError as error:
        raise ValueError(
            f"{where}: {structure.title}_{_STATUS}: expected one of {', '.join(Status)}, got {name!r}; mend the cell"
        ) from error
    for column, field in _CHALLENGE_FIELDS.items():
        if (values[field] is None) != status.unscored:
            raise ValueError(
                f"{where}: {structure.title}_{column}: expected {'no value' if status.unscored else 'a number'} "
                f"with the status {status}, got {values[field]}; fill or empty the cell"
            )
    return StructureScores(status=status, **values)


def _number(text: str | None, what: str) -> float | None:
    if text is None or not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{what}: expected a finite number, got {text!r}; mend the cell")
    return value
