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

CSV: one row per team and case. The organisers' columns come first, then ours; an undefined value is an empty cell. A
quote stands before text that a spreadsheet would run as a formula.

A score file may come from anyone. Its size, its rows and every value are checked, so that whatever reads it gets scores
that can be scores.
"""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from challenge.contract import Structure
from challenge.files import read_regular, write_text, written_whole
from challenge.layouts import CROSSMODA_2021, CROSSMODA_2023
from challenge.names import shown, spreadsheet_cell, text_of_cell
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
# What a file can be about. 2023's columns and keys include those of 2021, so they are tried first.
_KNOWN_STRUCTURES = (CROSSMODA_2023.scored, CROSSMODA_2021.scored)
# A hundred teams with a hundred cases each, and a kilobyte of notes for every case.
MAX_ROWS = 10_000
_MAX_BYTES = 2**24
_MAX_NAME = 255
# A distance across any scan, and the volume of one that is a metre wide.
_LIMITS = {
    "dice": (0.0, 1.0),
    "assd_mm": (0.0, 1e5),
    "hd95_mm": (0.0, 1e5),
    "reference_volume_mm3": (0.0, 1e9),
    "prediction_volume_mm3": (0.0, 1e9),
    "volume_error_mm3": (-1e9, 1e9),
}
_STATUS = "Status"
_NOTE = "Note"


def challenge_columns(structures: Sequence[Structure]) -> tuple[str, ...]:
    """Return the organisers' header; for 2021 Case,VS_Dice,VS_ASSD,Cochlea_Dice,Cochlea_ASSD,Team."""
    return ("Case", *(f"{s.title}_{column}" for s in structures for column in _CHALLENGE_FIELDS), "Team")


def csv_columns(structures: Sequence[Structure]) -> tuple[str, ...]:
    """Return our header, which begins with the organisers'."""
    ours = (f"{s.title}_{column}" for s in structures for column in (*_OUR_FIELDS, _STATUS))
    return (*challenge_columns(structures), *ours, _NOTE)


CSV_COLUMNS = csv_columns(CROSSMODA_2021.scored)


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
    return _read_json(path) if path.suffix.lower() == ".json" else read_csv(path)


def _read_json(path: Path) -> list[CohortScores]:
    with _refused(path):
        return scores_from_json(_text_of(path))


def _text_of(path: Path) -> str:
    return read_regular(path, _MAX_BYTES).decode("utf-8-sig")


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    """Turn whatever is wrong with a score file into its refusal, one line that names it."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{path.name}: expected a score file, got {error.strerror or error}; check the path") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path.name}: expected UTF-8, got other bytes ({error.reason}); score the cohort again"
        ) from error
    except csv.Error as error:
        raise ValueError(f"{path.name}: expected CSV, got a fault ({error}); score the cohort again") from error
    except ValueError as error:
        raise error if path.name in str(error) else ValueError(f"{path.name}: {error}") from error


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
        ValueError: not JSON, another format or version, too many cases, or a field is missing, of another kind or out
            of its range.
    """
    try:
        document = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"score file: expected JSON, got {error}; write it with: evaluate score --json") from error
    if not isinstance(document, dict) or document.get("format") != _JSON_FORMAT:
        raise ValueError(f"score file: expected the format {_JSON_FORMAT!r}; write it with: evaluate score --json")
    if document.get("version") != _JSON_VERSION:
        raise ValueError(
            f"score file: expected version {_JSON_VERSION}, got {document.get('version')!r}; score the cohort again"
        )
    try:
        _check_rows(sum(len(entry["results"]) for entry in document["cohorts"]))
        return [_cohort_from(entry) for entry in document["cohorts"]]
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"score file: expected the fields of version {_JSON_VERSION}, got a fault at {error}; "
            "score the cohort again"
        ) from error


def _no_constant(name: str) -> float:
    raise ValueError(f"{name}, which is no JSON")


def _check_rows(rows: int) -> None:
    if rows > MAX_ROWS:
        raise ValueError(f"score file: expected at most {MAX_ROWS:,} cases, got {rows:,}; split it by teams")


def _cohort_from(entry: Mapping[str, Any]) -> CohortScores:
    structures = _structures_of(entry["results"])
    results = tuple(
        CaseScores(
            case=_name(result["case"]),
            structures={
                structure.key: _structure_from(result["structures"][structure.key]) for structure in structures
            },
            problem=None if result["problem"] is None else _text(result["problem"]),
            warnings=tuple(_text(warning) for warning in _list(result["warnings"])),
        )
        for result in _list(entry["results"])
    )
    if len({result.case for result in results}) < len(results):
        raise ValueError("results: expected each case once")
    metadata = Metadata(**entry["metadata"])
    for value in (metadata.asd, metadata.reference, metadata.prediction):
        _text("" if value is None else value)
    if metadata.strict_geometry not in (None, False, True):
        raise ValueError(f"strict_geometry: expected true or false, got {metadata.strict_geometry!r}")
    extra = tuple(_text(name) for name in _list(entry["extra"]))
    return CohortScores(
        team=_name(entry["team"]), results=results, metadata=metadata, extra=extra, structures=structures
    )


def _structures_of(results: Sequence[Mapping[str, Any]]) -> tuple[Structure, ...]:
    """Tell what a file's cases are scored for; 2021's structures where it has no case."""
    keys = set(results[0]["structures"]) if results else set()
    return next((known for known in _KNOWN_STRUCTURES if {s.key for s in known} <= keys), CROSSMODA_2021.scored)


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > _MAX_NAME:
        raise ValueError(f"name: expected printable text of at most {_MAX_NAME} characters, got {_excerpt(value)}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected text, got {_excerpt(value)}")
    return shown(value)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"expected a list, got {_excerpt(value)}")
    return value


def _excerpt(value: Any) -> str:
    return shown(repr(value)[:60])


def _structure_from(entry: Mapping[str, Any]) -> StructureScores:
    values = {name: _value(name, value) for name, value in entry.items() if name != "status"}
    scores = StructureScores(status=Status(entry["status"]), **values)
    for name in ("dice", "assd_mm"):
        if (values.get(name) is None) != scores.status.unscored:
            raise ValueError(f"{name}: expected a value just where the status is one that has scores")
    return scores


def _value(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not _LIMITS[name][0] <= value <= _LIMITS[name][1]:
        low, high = _LIMITS[name]
        raise ValueError(f"{name}: expected a number from {low:g} to {high:g}, got {_excerpt(value)}")
    return float(value)


def write_csv(cohorts: Sequence[CohortScores], path: Path) -> None:
    """Write cohorts as CSV, a row per team and case; floats are written in full.

    Raises:
        OSError: the file cannot be written.
    """
    structures = cohorts[0].structures if cohorts else CROSSMODA_2021.scored
    with written_whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, csv_columns(structures), restval="", lineterminator="\n")
        writer.writeheader()
        for cohort in cohorts:
            for result in cohort.results:
                writer.writerow(_row_of(result, cohort.team, cohort.structures))


def _row_of(result: CaseScores, team: str, structures: Sequence[Structure]) -> dict[str, object]:
    row: dict[str, object] = {"Case": spreadsheet_cell(result.case), "Team": spreadsheet_cell(team)}
    for structure in structures:
        scores = result.structures[structure.key]
        for column, field in (_CHALLENGE_FIELDS | _OUR_FIELDS).items():
            value = getattr(scores, field)
            row[f"{structure.title}_{column}"] = "" if value is None else repr(float(value))
        row[f"{structure.title}_{_STATUS}"] = str(scores.status)
    row[_NOTE] = spreadsheet_cell("; ".join(filter(None, (result.problem, *result.warnings))))
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
    with _refused(path):
        reader = csv.DictReader(io.StringIO(_text_of(path), newline=""))
        structures = _structures_in(path.name, reader.fieldnames or ())
        teams = _teams_of(path.name, reader, structures)
    return [CohortScores(team, tuple(cases.values()), structures=structures) for team, cases in teams.items()]


def _structures_in(name: str, columns: Sequence[str]) -> tuple[Structure, ...]:
    """Tell by a CSV file's columns what its cases are scored for."""
    for known in _KNOWN_STRUCTURES:
        if set(challenge_columns(known)) <= set(columns):
            return known
    expected = challenge_columns(CROSSMODA_2021.scored)
    absent = [column for column in expected if column not in columns]
    raise ValueError(
        f"{name}: expected the columns {','.join(expected)}, got none named {', '.join(absent)}; rename or add them"
    )


def _teams_of(
    name: str, reader: "csv.DictReader[str]", structures: Sequence[Structure]
) -> dict[str, dict[str, CaseScores]]:
    """Read the rows of a CSV file: scores by team and case."""
    teams: dict[str, dict[str, CaseScores]] = {}
    for number, row in enumerate(reader, start=1):
        _check_rows(number)
        where = f"{name}, line {reader.line_num}"
        case, team = (text_of_cell((row[column] or "").strip()) for column in ("Case", "Team"))
        if not case or not team:
            raise ValueError(f"{where}: expected a case and a team, got {case!r} and {team!r}; fill the cells")
        for text in (case, team):
            try:
                _name(text)
            except ValueError as error:
                raise ValueError(f"{where}: {error}; fix the cell") from error
        cases = teams.setdefault(team, {})
        if case in cases:
            raise ValueError(
                f"{where}: expected each case once per team, got {case} of {team} again; remove one of the rows"
            )
        scores = {structure.key: _scores_from(row, structure, where) for structure in structures}
        cases[case] = CaseScores(case=case, structures=scores)
    if not teams:
        raise ValueError(f"{name}: expected at least one row of scores, got none; score a cohort first")
    return teams


def _scores_from(row: Mapping[str, str | None], structure: Structure, where: str) -> StructureScores:
    values = {
        field: _number(row.get(f"{structure.title}_{column}"), f"{where}: {structure.title}_{column}", field)
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


def _number(text: str | None, what: str, field: str) -> float | None:
    if text is None or not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{what}: expected a finite number, got {_excerpt(text)}; fix the cell")
    try:
        return _value(field, value)
    except ValueError as error:
        raise ValueError(f"{what}: {error}; fix the cell") from error
