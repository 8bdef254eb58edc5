"""What weights know: the scans and the labels that they were trained on, as their card holds it under `seen`.

How unlike those scans another one is, is told by three ratios; the largest is the scan's `unlikeness`:

- spacing: how many times finer than the finest, or coarser than the coarsest, of the three axes in order of size;
- field of view: the same of the three sides, in mm;
- intensities: the Wasserstein distance of the scan's voxels (mean 0, sd 1) from the training scans' mean histogram,
  over the largest such distance of a training scan.

So 1 is the rim of what the weights have seen: no scan of the training gives more. The ratios are of the scan's own
voxels, before it is resampled, and need no network.

::

    "seen": {"label_volumes_mm3": {"cases": 24, "smallest": 20.1, "largest": 4200.0},
             "scans": {"part": "target_training", "cases": 24,
                       "spacing_mm": {"smallest": [0.6, 0.6, 1.0], "largest": [0.7, 0.7, 1.5]},
                       "field_of_view_mm": {"smallest": [...], "largest": [...]},
                       "quantiles": [...], "farthest": 0.08}}
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from challenge.contract import Structure
from challenge.quantities import counted
from pipeline.config import SOURCE_TRAINING, TARGET_TRAINING
from pipeline.data.cases import array_from, read_mask, read_scan
from pipeline.data.intensities import intensities_of
from pipeline.data.preprocessing import normalise

# A card's key.
SEEN = "seen"
# The middles of forty equal shares of a scan's voxels.
_LEVELS = (np.arange(40) + 0.5) / 40
_DIGITS = 4

Sides = tuple[float, float, float]


@dataclass(frozen=True)
class ScanProfile:
    """What a scan is compared by: three spacings and three sides in mm, each by size; quantiles of its z-scores."""

    spacing_mm: Sides
    field_of_view_mm: Sides
    quantiles: tuple[float, ...]


def profile_of(image: sitk.Image) -> ScanProfile:
    """Sum up a scan, a 3-D image of any grid and orientation.

    Raises:
        CaseError: the scan is constant, or not finite.
    """
    spacing = np.array(image.GetSpacing())
    sample = intensities_of(normalise(array_from(image), in_place=True)).sample
    return ScanProfile(
        spacing_mm=_by_size(spacing),
        field_of_view_mm=_by_size(spacing * image.GetSize()),
        quantiles=tuple(np.quantile(sample, _LEVELS).tolist()),
    )


@dataclass(frozen=True)
class Range:
    """The smallest and the largest value along each axis."""

    smallest: Sides
    largest: Sides

    def beyond(self, sides: Sides) -> float:
        """Return how many times outside the range the farthest side is; at most 1 inside it."""
        return max(max(low / s, s / high) for low, s, high in zip(self.smallest, sides, self.largest, strict=True))

    def __str__(self) -> str:
        """Write each axis' range: "0.6-0.7 x 0.6-0.7 x 1-1.5"."""
        pairs = ((f"{a:.3g}", f"{b:.3g}") for a, b in zip(self.smallest, self.largest, strict=True))
        return " x ".join(a if a == b else f"{a}-{b}" for a, b in pairs)


@dataclass(frozen=True)
class KnownScans:
    """What weights have seen of scans: how many, ranges, the mean quantiles, and the farthest scan's distance."""

    part: str
    cases: int
    spacing_mm: Range
    field_of_view_mm: Range
    quantiles: tuple[float, ...]
    farthest: float

    def distance(self, profile: ScanProfile) -> float:
        """Return a scan's Wasserstein distance from the training scans' mean histogram, in standard deviations."""
        return _distance(profile.quantiles, self.quantiles)

    def unlikeness(self, profile: ScanProfile) -> dict[str, float]:
        """Return the three ratios of the module's docstring, by name."""
        return {
            "spacing": self.spacing_mm.beyond(profile.spacing_mm),
            "field of view": self.field_of_view_mm.beyond(profile.field_of_view_mm),
            "intensities": self.distance(profile) / self.farthest,
        }


@dataclass(frozen=True)
class KnownVolumes:
    """The volumes of one structure's training labels in mm3, and how many labels there are."""

    cases: int
    smallest: float
    largest: float


@dataclass(frozen=True)
class Known:
    """What one structure's weights know; None where their card does not say."""

    volumes: KnownVolumes | None = None
    scans: KnownScans | None = None


def measure_scans(scans: Sequence[Path], part: str) -> dict[str, Any] | None:
    """Measure training scans, of a part of the data, for the card; None if they do not differ, as of a single one.

    Raises:
        CaseError: a scan cannot be used.
    """
    profiles = [profile_of(read_scan(scan)) for scan in scans]
    mean = np.mean([p.quantiles for p in profiles], axis=0).round(_DIGITS)
    farthest = max(_distance(p.quantiles, mean) for p in profiles)
    if farthest < 10**-_DIGITS:
        return None
    return {
        "part": part,
        "cases": len(profiles),
        "spacing_mm": _range_of(p.spacing_mm for p in profiles),
        "field_of_view_mm": _range_of(p.field_of_view_mm for p in profiles),
        "quantiles": mean.tolist(),
        # Rounded up, so that the farthest scan itself is not beyond it.
        "farthest": float(np.ceil(farthest * 10**_DIGITS) / 10**_DIGITS),
    }


def measure_labels(labels: Sequence[Path], structure: Structure) -> dict[str, Any]:
    """Measure a structure's volumes in training label maps, on their own grids, for the card.

    Raises:
        CaseError: a label map cannot be used.
    """
    volumes = []
    for path in labels:
        mask = read_mask(path, structure)
        volumes.append(float(array_from(mask).sum() * np.prod(mask.GetSpacing())))
    return {"cases": len(volumes), "smallest": round(min(volumes), 1), "largest": round(max(volumes), 1)}


def known_by(card: Mapping[str, Any]) -> Known:
    """Return what a card says that its weights know.

    Raises:
        ValueError: the card says it in another form.
    """
    seen = card.get(SEEN) or {}
    try:
        volumes, scans = seen.get("label_volumes_mm3"), seen.get("scans")
        return Known(
            volumes=None if volumes is None else KnownVolumes(**volumes),
            scans=None if scans is None else _scans_from(scans),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"card: expected {SEEN!r} as export writes it, got a fault at {error}") from error


def trained_on(card: Mapping[str, Any]) -> str:
    """Say in one line what a card's weights were trained on."""
    data = card.get("data")
    if not isinstance(data, Mapping) or not isinstance(data.get("cases"), Mapping):
        return "their card does not say what they were trained on"
    cases, phantoms = data["cases"], data.get("phantoms") or {}
    counts = f"{counted(cases.get(SOURCE_TRAINING, 0), 'labelled source scan')}"
    if cases.get(TARGET_TRAINING):
        counts += f", {counted(cases[TARGET_TRAINING], 'unlabelled target scan')}"
    if data.get("kind") != "phantom":
        return f"trained on {counts}"
    cohorts = {f"preset {p['preset']}, hardness {p['hardness']}" for p in phantoms.values()}
    return f"trained on phantoms alone ({'; '.join([counts, *sorted(cohorts)])}), so nothing here is about patients"


def _scans_from(scans: Mapping[str, Any]) -> KnownScans:
    ranges = {name: Range(**{end: _sides(v) for end, v in scans[name].items()}) for name in _RANGES}
    quantiles = tuple(float(q) for q in scans["quantiles"])
    farthest = float(scans["farthest"])
    if len(quantiles) != len(_LEVELS) or not farthest > 0:
        raise ValueError(f"{len(quantiles)} quantiles, farthest {farthest:g}")
    return KnownScans(
        part=str(scans["part"]), cases=int(scans["cases"]), **ranges, quantiles=quantiles, farthest=farthest
    )


_RANGES = ("spacing_mm", "field_of_view_mm")


def _sides(values: Sequence[float]) -> Sides:
    x, y, z = (float(value) for value in values)
    if not min(x, y, z) > 0:
        raise ValueError(f"a side of {min(x, y, z):g} mm")
    return x, y, z


def _by_size(values: Iterable[float]) -> Sides:
    x, y, z = sorted(round(float(value), _DIGITS) for value in values)
    return x, y, z


def _range_of(sides: Iterable[Sides]) -> dict[str, list[float]]:
    table = np.array(list(sides))
    return {"smallest": table.min(axis=0).tolist(), "largest": table.max(axis=0).tolist()}


def _distance(quantiles: Sequence[float], others: Sequence[float]) -> float:
    return float(np.mean(np.abs(np.subtract(quantiles, others))))
