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
- Labels other than 0, 1, 2 in a prediction, fractions and NaN included: a voxel belongs to a structure where its value
  equals the label exactly, as for the organisers; the others are background, with a warning. In a reference they are an
  error (`bad_reference`): a map with a label 3 is another year's and would be scored wrongly in silence.
- Another shape: refused. The same shape on another grid: scored index by index as the organisers do, with a warning
  that names both geometries; refused under `strict_geometry`.
- Spacing is the reference header's, right for oblique scans (the organisers take the affine's diagonal).
- Files without a reference are listed in `extra` and not scored. Two spellings of one case's file are an error, since
  nobody knows which one is meant.

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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.contract import STRUCTURES, Structure
from evaluation.images import written_whole

# The organisers' ASSD of a class that the prediction leaves empty. Source: CrossMoDA2022-Evaluation-code, scores.py.
EMPTY_DISTANCE_MM = 350.0
EMPTY_DICE = 0.0

JSON_FORMAT = "crossmoda-grl scores"
JSON_VERSION = 1

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
    unscored = status in (Status.EMPTY_REFERENCE, Status.BOTH_EMPTY, Status.BAD_REFERENCE)
    for column, field in _CHALLENGE_FIELDS.items():
        if (values[field] is None) != unscored:
            raise ValueError(
                f"{where}: {structure.title}_{column}: expected {'no value' if unscored else 'a number'} with the "
                f"status {status}, got {values[field]}; fill or empty the cell"
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
