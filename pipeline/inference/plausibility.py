"""Whether a label map can be right: what is checked of every case, without a reference, and told as warnings.

- a volume outside the range of the labels that the weights were trained on;
- no tumour or several, and not one cochlea on each side;
- a structure that touches the scan's border, and so may be cut off;
- a scan unlike those that the weights know, by more than `UNLIKE` times (`pipeline.data.known` says how that is
  measured).

A warning says where to look. No warning does not mean that the label map is right.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from challenge.contract import COCHLEA, STRUCTURES, VS, Structure
from challenge.quantities import counted
from evaluation.metrics import bounding_box
from pipeline.data.cases import volumes_mm3
from pipeline.data.components import SIDES_APART_MM, Mask, labelled_components
from pipeline.data.known import Known, KnownScans, KnownVolumes, ScanProfile, profile_of

# Our choice. 1 is the rim of the training scans; a new scan of the same kind can lie a little outside.
UNLIKE = 1.5


@dataclass(frozen=True)
class Findings:
    """What is found in a label map: volumes in mm3 and components by structure, unlikeness if known, warnings."""

    volumes_mm3: dict[Structure, float]
    components: dict[Structure, int]
    unlikeness: float | None
    warnings: tuple[str, ...]


def examine(labels: NDArray[np.uint8], image: sitk.Image, known: Mapping[Structure, Known]) -> Findings:
    """Examine a label map `(D, H, W)` uint8, and the scan that it lies on, by what the weights know.

    Raises:
        ValueError: the labels' shape differs from the scan's.
    """
    if labels.shape != image.GetSize()[::-1]:
        raise ValueError(f"labels: expected the scan's shape {image.GetSize()[::-1]}, got {labels.shape}")
    volumes, spacing_zyx = volumes_mm3(labels, image, STRUCTURES), image.GetSpacing()[::-1]
    centres, warnings = {}, []
    for structure in STRUCTURES:
        mask = labels == structure.label
        centres[structure] = _centres_mm(mask, spacing_zyx)
        told = [
            *_count_warnings(structure, centres[structure]),
            *_volume_warnings(volumes[structure], known.get(structure, Known()).volumes),
            *_border_warnings(mask),
        ]
        warnings += [f"{structure.title}: {text}" for text in told]
    all_scans = dict.fromkeys(k.scans for k in known.values() if k.scans is not None)
    profile = profile_of(image) if all_scans else None
    unlikeness = None
    for scans in all_scans:
        assert profile is not None
        ratios = scans.unlikeness(profile)
        unlikeness = max([*ratios.values(), unlikeness or 0.0])
        warnings += _scan_warnings(ratios, profile, scans)
    return Findings(volumes, {s: len(c) for s, c in centres.items()}, unlikeness, tuple(dict.fromkeys(warnings)))


def _centres_mm(mask: Mask, spacing_zyx: tuple[float, ...]) -> NDArray[np.float64]:
    """Return the centres of a mask's components in mm, `(N, 3)`."""
    box = bounding_box(mask)
    if box is None:
        return np.zeros((0, 3))
    components, count = labelled_components(mask[box])
    centres = ndimage.center_of_mass(mask[box], components, np.arange(1, count + 1))
    return np.array(centres, dtype=np.float64) * np.array(spacing_zyx)


def _count_warnings(structure: Structure, centres: NDArray[np.float64]) -> Iterator[str]:
    expected = {VS: "expected one tumour", COCHLEA: "expected one on each side"}[structure]
    if len(centres) != {VS: 1, COCHLEA: 2}[structure]:
        yield f"{expected}, got {counted(len(centres), 'component') if len(centres) else 'none'}"
    elif structure == COCHLEA and (apart := float(np.linalg.norm(centres[0] - centres[1]))) < SIDES_APART_MM:
        yield f"{expected}, got two that are {apart:.0f} mm apart"


def _volume_warnings(volume: float, known: KnownVolumes | None) -> Iterator[str]:
    if known is not None and volume > 0 and not known.smallest <= volume <= known.largest:
        labels = counted(known.cases, "training label")
        yield f"expected {known.smallest:,.0f} to {known.largest:,.0f} mm3, as in {labels}, got {volume:,.0f} mm3"


def _border_warnings(mask: Mask) -> Iterator[str]:
    faces = [mask.take(index, axis) for axis in range(mask.ndim) for index in (0, -1)]
    if any(face.any() for face in faces):
        yield "touches the border of the scan and may be cut off"


def _scan_warnings(ratios: Mapping[str, float], profile: ScanProfile, known: KnownScans) -> Iterator[str]:
    told = {
        "spacing": f"spacing {_sides(profile.spacing_mm)} mm, known {known.spacing_mm} mm",
        "field of view": f"field of view {_sides(profile.field_of_view_mm)} mm, known {known.field_of_view_mm} mm",
        "intensities": f"histogram {known.distance(profile):.2f} sd from the known ones, of which none is farther than "
        f"{known.farthest:.2f} sd",
    }
    for name, ratio in ratios.items():
        if ratio > UNLIKE:
            yield f"scan unlike those that the weights know, {ratio:.1f} times outside: {told[name]}"


def _sides(sides: tuple[float, ...]) -> str:
    return " x ".join(f"{side:.3g}" for side in sides)
