"""A cohort of phantoms in the challenge's folders, names and ids."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from challenge import contract
from challenge.files import written_whole
from challenge.nifti import write_image
from pipeline.phantom.anatomy import Head, make_head
from pipeline.phantom.contrast import CET1, HARDNESS, HRT2, Hardness, is_camouflaged, is_cystic, is_dark
from pipeline.phantom.scanner import Grid, centred_grid, paint
from pipeline.phantom.shapes import rotation_about_axes

_Named = TypeVar("_Named")
RECORD_FILE = "phantom.json"


@dataclass(frozen=True)
class ScanProtocol:
    """One way to scan: in-plane voxels and spacing, and the slice counts and thicknesses that occur with them.

    `share` is the fraction of scans with this protocol. With `field_mm`, the field of view has these millimetres
    (x, y, z), and the numbers of voxels follow from it.
    """

    share: float
    in_plane: int
    spacing_mm: float
    slices: tuple[tuple[int, tuple[float, float]], ...]  # (count, range of thickness in mm)
    field_mm: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Preset:
    """The protocols of each contrast."""

    protocols: Mapping[str, tuple[ScanProtocol, ...]]


_CET1_FIELD_MM = (110.0, 68.0, 40.0)
_HRT2_FIELD_MM = (104.0, 62.0, 36.0)
PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "small": Preset(
            {
                CET1: (ScanProtocol(1.0, 0, 0.6, ((0, (1.0, 1.5)),), _CET1_FIELD_MM),),
                HRT2: (
                    ScanProtocol(0.8, 0, 0.6, ((0, (1.0, 1.5)),), _HRT2_FIELD_MM),
                    ScanProtocol(0.2, 0, 0.7, ((0, (1.0, 1.5)),), _HRT2_FIELD_MM),
                ),
            }
        ),
        "full": Preset(
            {
                CET1: (ScanProtocol(1.0, 512, 0.4, ((120, (1.0, 1.5)),)),),
                HRT2: (
                    # 20 slices cover both ears and most tumours only if they are thick.
                    ScanProtocol(0.8, 448, 0.46875, ((20, (1.5, 1.5)), (40, (1.0, 1.5)), (80, (1.0, 1.5)))),
                    ScanProtocol(0.2, 384, 0.546875, ((20, (1.5, 1.5)), (40, (1.0, 1.5)), (80, (1.0, 1.5)))),
                ),
            }
        ),
    }
)


def draw_grid(
    rng: np.random.Generator, preset: Preset, contrast: str, hardness: Hardness = HARDNESS["standard"]
) -> Grid:
    """Draw a scan's grid: its protocol, its thickness, the position of its field of view, and its angles."""
    grid = _draw_axial_grid(rng, preset, contrast, hardness)
    if not any(hardness.oblique_degrees):
        return grid
    turned = rotation_about_axes(np.radians(rng.uniform(-1.0, 1.0, size=3) * hardness.oblique_degrees))
    return replace(grid, direction=tuple(turned.ravel().tolist()))


def _draw_axial_grid(rng: np.random.Generator, preset: Preset, contrast: str, hardness: Hardness) -> Grid:
    protocols = preset.protocols[contrast]
    protocol = protocols[int(rng.choice(len(protocols), p=[p.share for p in protocols]))]
    count, thicknesses = protocol.slices[int(rng.integers(len(protocol.slices)))]
    thickness = round(float(rng.uniform(*thicknesses)) * hardness.thickness, 2)
    spacing = (protocol.spacing_mm, protocol.spacing_mm, thickness)
    nudge = rng.uniform(-1.5, 1.5, size=3)
    if protocol.field_mm is not None:
        x, y, z = (
            round(extent * hardness.field_of_view / step)
            for extent, step in zip(protocol.field_mm, spacing, strict=True)
        )
        centre = (float(nudge[0]), 3.0 + float(nudge[1]), float(nudge[2]))
        return centred_grid((x, y, z), spacing, centre)
    # A whole head extends further back and up than its ears, so a thick stack is centred higher than a thin one.
    up = max(0.0, (count * thickness - 60.0) * 0.25)
    centre = (float(nudge[0]), 10.0 + 2 * float(nudge[1]), up + float(nudge[2]))
    in_plane = round(protocol.in_plane * hardness.field_of_view)
    return centred_grid((in_plane, in_plane, count), spacing, centre)


def make_cohort(
    out: Path,
    *,
    source: int,
    target: int,
    validation: int,
    preset: str,
    seed: int,
    hardness: str = "standard",
    progress: Callable[[str], None] | None = None,
) -> list[Path]:
    """Make a cohort: `source` ceT1 with labels, `target` and `validation` hrT2; validation labels get their own folder.

    Every case has its own random streams, from the seed and its id. So the same seed gives the same voxels, and a
    larger cohort begins with the smaller one. `phantom.json` records what was made; training never reads it.

    Returns:
        The files written, in order.

    Raises:
        ValueError: an unknown preset or hardness, a negative seed, or more cases than the challenge has ids.
        OSError: a file cannot be written.
    """
    chosen = _named(PRESETS, preset, "preset")
    level = _named(HARDNESS, hardness, "hardness")
    if seed < 0:
        raise ValueError(f"seed: expected 0 or more, got {seed}")
    plans = (
        (contract.SOURCE_TRAINING_FOLDERS[0], "source", source, contract.SOURCE_IDS, CET1, contract.SOURCE_SUFFIX),
        (
            contract.TARGET_TRAINING_FOLDERS[0], "target", target, contract.TARGET_TRAINING_IDS, HRT2,
            contract.TARGET_SUFFIX,
        ),
        (
            contract.TARGET_VALIDATION_FOLDERS[0], "validation", validation, contract.TARGET_VALIDATION_IDS, HRT2,
            contract.TARGET_SUFFIX,
        ),
    )  # fmt: skip
    for _, name, count, (first, last), _, _ in plans:
        if not 0 <= count <= last - first + 1:
            raise ValueError(
                f"{name}: expected 0 to {last - first + 1} cases (the challenge's ids {first} to {last}), got {count}"
            )
    label_folders = {"source": plans[0][0], "validation": contract.TARGET_VALIDATION_REFERENCE_FOLDER}

    written: list[Path] = []
    records = {}
    for folder, name, count, (first, _), contrast, suffix in plans:
        for case_id in range(first, first + count):
            case = contract.case_name(case_id)
            scan, labels, grid, head = make_case(case_id, contrast, chosen, level, seed)
            files: dict[Path, NDArray[np.int16] | NDArray[np.uint8]] = {out / folder / (case + suffix): scan}
            if name in label_folders:
                files[out / label_folders[name] / contract.label_file(case)] = labels
            for path, voxels in files.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_image(_image(voxels, grid), path)
                written.append(path)
            records[case] = {"domain": name, "contrast": contrast, **_facts(head, grid, labels, level)}
            if progress is not None:
                progress(f"{folder}/{case}{suffix}")
    out.mkdir(parents=True, exist_ok=True)
    record = {"version": level.version, "preset": preset, "seed": seed, "hardness": hardness, "cases": records}
    with written_whole(out / RECORD_FILE) as path:
        path.write_text(json.dumps(record, indent=2) + "\n")
    written.append(out / RECORD_FILE)
    return written


def make_case(
    case_id: int, contrast: str, preset: Preset, hardness: Hardness, seed: int
) -> tuple[NDArray[np.int16], NDArray[np.uint8], Grid, Head]:
    """Make one case: scan int16 `(D, H, W)`, labels uint8 `(D, H, W)`, grid and head.

    Geometry, grid and intensities have separate random streams. So the same seed and id give the same head in both
    contrasts and all presets.

    Raises:
        RuntimeError: a structure is missing from the labels; this is an error in this package, not in the call.
    """
    geometry, acquisition, intensity = (
        np.random.default_rng(stream) for stream in np.random.SeedSequence([seed, case_id]).spawn(3)
    )
    head = make_head(geometry)
    grid = draw_grid(acquisition, preset, contrast, hardness)
    scan, labels = paint(head, contrast, grid, intensity, hardness)
    for structure in contract.STRUCTURES:
        if not (labels == structure.label).any():
            raise RuntimeError(f"phantom {case_id} of seed {seed}: no voxel of {structure.title} in the field of view")
    return scan, labels, grid, head


def _named(choices: Mapping[str, _Named], name: str, what: str) -> _Named:
    if name not in choices:
        raise ValueError(f"{what}: expected one of {', '.join(choices)}, got {name!r}")
    return choices[name]


def _image(voxels: NDArray[np.int16] | NDArray[np.uint8], grid: Grid) -> sitk.Image:
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(grid.origin_mm)
    if grid.direction is not None:
        image.SetDirection(grid.direction)
        image.SetOrigin((np.reshape(grid.direction, (3, 3)) @ grid.origin_mm).tolist())
    return image


def _facts(head: Head, grid: Grid, labels: NDArray[np.uint8], hardness: Hardness) -> dict[str, object]:
    voxel_mm3 = float(np.prod(grid.spacing_mm))
    volumes = {s.key: round(int((labels == s.label).sum()) * voxel_mm3, 1) for s in contract.STRUCTURES}
    facts: dict[str, object] = {
        "size_xyz": grid.size_xyz,
        "spacing_mm": grid.spacing_mm,
        "volume_mm3": volumes,
        "vs_side": head.tumour.side,
        "vs_cystic": is_cystic(head.tumour.character, hardness),
        "vs_dark": is_dark(head.tumour.character, hardness),
    }
    if hardness.camouflaged:
        facts["vs_camouflaged"] = is_camouflaged(head.tumour.character, hardness)
    return facts
