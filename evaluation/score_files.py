"""Files of scores: JSON, which keeps everything, and CSV, which begins with the organisers' columns.

JSON (undefined values are null)::

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

CSV: one row per team and case. The organisers' columns come first, then ours; an undefined value is an empty cell.
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from challenge.contract import STRUCTURES, Structure
from challenge.files import write_text, written_whole
from evaluation.cohort import CohortScores, Metadata
from evaluation.scoring import CaseScores, Status, StructureScores

_JSON_FORMAT = "crossmoda-grl scores"
_JSON_VERSION = 1
# Column after the structure's title -> field of `StructureScores`.
_CHALLENGE_FIELDS = {"Dice": "dice", "ASSD": "assd_mm"}
_OUR_FIELDS = {
    "HD95": "hd95_mm",
    "Reference_mm3": "reference_volume_mm3",
    "Prediction_mm3": "prediction_volume_mm3",
    "Volume_Error_mm3": "volume_error_mm3",
}
# The organisers' header: Case,VS_Dice,VS_ASSD,Cochlea_Dice,Cochlea_ASSD,Team.
CHALLENGE_COLUMNS = (
    "Case",
    *[f"{structure.title}_{column}" for structure in STRUCTURES for column in ("Dice", "ASSD")],
    "Team",
)
_STATUS = "Status"
_NOTE = "Note"
CSV_COLUMNS = (
    *CHALLENGE_COLUMNS,
    *(f"{s.title}_{column}" for s in STRUCTURES for column in (*_OUR_FIELDS, _STATUS)),
    _NOTE,
)


def write_scores(cohorts: Sequence[CohortScores], csv_file: Path | None, json_file: Path | None) -> None:
    """Write cohorts to the files that are given.

    Raises:
        OSError: a file cannot be written.
    """
    if csv_file is not None:
        write_csv(cohorts, csv_file)
    if json_file is not None:
        write_text(json_file, scores_to_json(cohorts))


def read_score_files(paths: Sequence[Path]) -> list[CohortScores]:
    """Read score files, JSON or CSV by their ending, as one cohort per team in the order given.

    Raises:
        ValueError: a file is no score file, or two files hold the same team.
        OSError: a file cannot be read.
    """
    cohorts: dict[str, CohortScores] = {}
    for path in paths:
        for cohort in read_score_file(path):
            if cohort.team in cohorts:
                raise ValueError(
                    f"{path.name}: expected each team once, got {cohort.team} again; leave out one of its files"
                )
            cohorts[cohort.team] = cohort
    return list(cohorts.values())


def read_score_file(path: Path) -> list[CohortScores]:
    """Read a score file, JSON or CSV by its ending, as one cohort per team in the order of the file.

    Raises:
        ValueError: it is no score file.
        OSError: it cannot be read.
    """
    if path.suffix.lower() == ".json":
        return scores_from_json(path.read_text(encoding="utf-8"))
    return read_csv(path)


def scores_to_json(cohorts: Sequence[CohortScores]) -> str:
    """Return cohorts as the JSON of the module's docstring. Reading it back gives the same floats."""
    document = {
        "format": _JSON_FORMAT,
        "version": _JSON_VERSION,
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


def scores_from_json(text: str) -> list[CohortScores]:
    """Read what `scores_to_json` wrote. Aggregates are computed again, not read.

    Raises:
        ValueError: not JSON, another format or version, or a field is missing or of another kind.
    """
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"score file: expected JSON, got {error}; write it with: evaluate score --json") from error
    if not isinstance(document, dict) or document.get("format") != _JSON_FORMAT:
        raise ValueError(f"score file: expected the format {_JSON_FORMAT!r}; write it with: evaluate score --json")
    if document.get("version") != _JSON_VERSION:
        raise ValueError(
            f"score file: expected version {_JSON_VERSION}, got {document.get('version')!r}; score the cohort again"
        )
    try:
        return [_cohort_from(entry) for entry in document["cohorts"]]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"score file: expected the fields of version {_JSON_VERSION}, got a fault at {error}; "
            "score the cohort again"
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


def write_csv(cohorts: Sequence[CohortScores], path: Path) -> None:
    """Write cohorts as CSV, a row per team and case; floats are written in full.

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
    """Read a CSV file of scores, ours or the organisers', as one cohort per team in the order of the file.

    In a file without our columns every status is `scored`: 0 and 350 mm do not tell a missing file from an empty one.
    A CSV file does not bring back metadata, notes and extra files; a JSON file does.

    Raises:
        ValueError: a column is missing, a value is no finite number, a cell is empty without a status that explains
            it, or a team has a case twice. The message names the line.
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
            f"{where}: {structure.title}_{_STATUS}: expected one of {', '.join(Status)}, got {name!r}; fix the cell"
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
        raise ValueError(f"{what}: expected a finite number, got {text!r}; fix the cell")
    return value
