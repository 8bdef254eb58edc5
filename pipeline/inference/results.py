"""What became of each case: a plain record, and the files that keep all of them beside the label maps.

`predictions.json`, of the output folder; a key a case::

    {"format": "crossmoda-grl predictions", "version": 1,
     "cases": {"crossmoda_211": {
       "error": null, "warnings": ["VS: touches the border of the scan and may be cut off"], "seconds": 3.2,
       "scan": {"sha256": "...", "size_xyz": [183, 113, 35], "spacing_mm": [0.6, 0.6, 1.15]},
       "structures": {"vs": {"volume_mm3": 396.6, "components": 1}, "cochlea": {...}}, "unlikeness": 0.71,
       "made_by": {"version": "0.1.0", "weights": {"name": "best", "sha256": {"vs": "...", "cochlea": "..."}},
                   "options": {...}}}}}

A failed case has its error, and null for what is not known. `made_by` is null for a label map of an unknown origin.
`predictions.csv` has the same, without the options, a row a case. Both are written after every case, whole; a resumed
run adds to them.
"""

import csv
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from challenge.contract import STRUCTURES, Structure, sorted_cases
from challenge.files import write_text, written_whole

PREDICTIONS_JSON = "predictions.json"
PREDICTIONS_CSV = "predictions.csv"
_FORMAT = "crossmoda-grl predictions"
_VERSION = 1

_Entry = dict[str, Any]


class PredictionsError(Exception):
    """A file of predictions that is not ours: subject, expected, got, next step."""


@dataclass(frozen=True)
class CaseResult:
    """The outcome of one case, of plain values that can be sent to another process.

    `error` is empty unless the case failed. Sizes, volumes, components and `scan_sha256` are set if it succeeded, and
    `unlikeness` if the weights' cards say what they know. `seconds` is the time of this run. `made_by` says by what
    the label map was made, {} where nobody knows.
    """

    case: str = ""
    seconds: float = 0.0
    skipped: bool = False
    error: str = ""
    scan_sha256: str = ""
    size_xyz: tuple[int, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    volumes_mm3: dict[Structure, float] = field(default_factory=dict)
    components: dict[Structure, int] = field(default_factory=dict)
    unlikeness: float | None = None
    warnings: tuple[str, ...] = ()
    made_by: Mapping[str, Any] = field(default_factory=dict)

    def as_entry(self) -> _Entry:
        """Return the case as `predictions.json` holds it."""
        structures = {
            s.key: {"volume_mm3": round(self.volumes_mm3[s], 3), "components": self.components[s]}
            for s in self.volumes_mm3
        }
        known = bool(self.scan_sha256)
        return {
            "error": self.error or None,
            "warnings": list(self.warnings),
            "seconds": round(self.seconds, 2),
            "scan": {
                "sha256": self.scan_sha256 or None,
                "size_xyz": list(self.size_xyz) if known else None,
                "spacing_mm": list(self.spacing_mm) if known else None,
            },
            "structures": structures or None,
            "unlikeness": None if self.unlikeness is None else round(self.unlikeness, 3),
            "made_by": dict(self.made_by) or None,
        }

    @classmethod
    def from_entry(cls, case: str, entry: Mapping[str, Any]) -> "CaseResult":
        """Return the case of an entry; the errors are those of a wrong type."""
        scan, structures = entry["scan"], entry["structures"] or {}
        of = {s: structures[s.key] for s in STRUCTURES if s.key in structures}
        return cls(
            case=case,
            seconds=float(entry["seconds"]),
            error=entry["error"] or "",
            scan_sha256=scan["sha256"] or "",
            size_xyz=tuple(scan["size_xyz"] or ()),
            spacing_mm=tuple(scan["spacing_mm"] or ()),
            volumes_mm3={s: float(values["volume_mm3"]) for s, values in of.items()},
            components={s: int(values["components"]) for s, values in of.items()},
            unlikeness=entry["unlikeness"],
            warnings=tuple(entry["warnings"]),
            made_by=entry["made_by"] or {},
        )


class Predictions:
    """The results of a folder of label maps, in memory and on disk."""

    def __init__(self, folder: Path, *, keep: bool = True) -> None:
        """Read what earlier runs left in `folder`, but for failed cases: they are tried again, or are gone.

        Without `keep`, nothing is written here.

        Raises:
            PredictionsError: the file there is damaged, or not ours.
            OSError: it has failed cases, and cannot be written without them.
        """
        self._folder = folder
        results = _read(folder / PREDICTIONS_JSON)
        self._results = {case: result for case, result in results.items() if not result.error}
        if keep and len(self._results) < len(results):
            self._write()

    def get(self, case: str) -> CaseResult | None:
        """Return what is known of a case's label map."""
        return self._results.get(case)

    def add(self, result: CaseResult) -> None:
        """Keep a result in the place of the case's earlier one, and write both files.

        Raises:
            OSError: they cannot be written.
        """
        self._results[result.case] = result
        self._write()

    def _write(self) -> None:
        results = [self._results[case] for case in sorted_cases(self._results)]
        document = {"format": _FORMAT, "version": _VERSION, "cases": {r.case: r.as_entry() for r in results}}
        write_text(self._folder / PREDICTIONS_JSON, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
        with (
            written_whole(self._folder / PREDICTIONS_CSV) as partial,
            partial.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, list(_row_of(CaseResult())), lineterminator="\n")
            writer.writeheader()
            writer.writerows(_row_of(result) for result in results)


def sha256_of(path: Path) -> str:
    """Return a file's sha256.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> dict[str, CaseResult]:
    if not path.exists():
        return {}
    advice = "choose another --output, or remove the file"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PredictionsError(f"{path}: expected a record that predict wrote, got: {error}; {advice}") from error
    kind = (document.get("format"), document.get("version")) if isinstance(document, dict) else None
    if kind != (_FORMAT, _VERSION):
        raise PredictionsError(f"{path}: expected the format {_FORMAT!r}, version {_VERSION}, got {kind}; {advice}")
    try:
        return {case: CaseResult.from_entry(case, entry) for case, entry in document["cases"].items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise PredictionsError(f"{path}: expected the fields of version {_VERSION}, got {error}; {advice}") from error


def _row_of(result: CaseResult) -> dict[str, object]:
    entry = result.as_entry()
    made_by = entry["made_by"] or {}
    weights = made_by.get("weights", {})
    row: dict[str, object] = {"case": result.case, "error": result.error, "seconds": entry["seconds"]}
    for structure in STRUCTURES:
        values = (entry["structures"] or {}).get(structure.key, {})
        row[f"{structure.key}_mm3"] = values.get("volume_mm3", "")
        row[f"{structure.key}_components"] = values.get("components", "")
    row |= {
        "unlikeness": "" if result.unlikeness is None else entry["unlikeness"],
        "warnings": "; ".join(result.warnings),
        "size": " x ".join(map(str, result.size_xyz)),
        "spacing_mm": " x ".join(f"{s:.4g}" for s in result.spacing_mm),
        "scan_sha256": result.scan_sha256,
        "weights": weights.get("name", ""),
    }
    row |= {f"{s.key}_weights_sha256": weights.get("sha256", {}).get(s.key, "") for s in STRUCTURES}
    return {**row, "version": made_by.get("version", "")}


def skipped(result: CaseResult, made_by: Mapping[str, Any]) -> CaseResult:
    """Return an earlier result as this run's, which skips the case; one by other weights gets a warning about that."""
    theirs, ours = (who.get("weights", {}) for who in (result.made_by, made_by))
    if result.made_by and theirs.get("sha256") != ours.get("sha256"):
        text = f"label map of an earlier run with other weights, {theirs.get('name')}; remove it to have it made anew"
        result = replace(result, warnings=tuple(dict.fromkeys([*result.warnings, text])))
    return replace(result, skipped=True)
