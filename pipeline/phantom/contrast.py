"""The brightness of each tissue on ceT1 and hrT2, and the levels of difficulty.

Brightness is relative: 1 is an enhancing vein on ceT1, and cerebrospinal fluid on hrT2.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from pipeline.phantom.shapes import RandomField, random_field


@dataclass(frozen=True)
class Look:
    """A tissue's mean brightness, and the standard deviations of its coarse and fine texture."""

    level: float
    coarse: float = 0.0
    fine: float = 0.0


@dataclass(frozen=True)
class Hardness:
    """How hard the phantoms are. Textures, spreads, noise and shading are standard deviations.

    Attributes:
        version: raise it whenever the same seed gives other voxels at this hardness.
        vs_hrt2: the tumour's mean brightness on hrT2.
        vs_hrt2_spread: the tumour's texture on hrT2, relative to `vs_hrt2`.
        cystic: fraction of tumours with cysts.
        dark: fraction of tumours that are dark on hrT2.
        camouflaged: fraction of tumours that look like the cerebellum on hrT2; none of them is dark.
        labyrinth_cet1: brightness of the inner ear's fluid on ceT1; petrous bone has 0.24.
        petrous_texture: texture of the petrous bone.
        vessels_cet1: brightness of enhancing veins on ceT1.
        tissue_jitter: relative spread of each tissue's brightness between scans.
        noise: Rician noise.
        bias: relative coil shading.
        shifts_hrt2: factors on the brightness of tissues on hrT2, as another sequence has them.
        thickness: factor on the slices' thickness, of either contrast.
        field_of_view: factor on the field of view, of either contrast.
        oblique_degrees: the greatest angles of the slices about the scanner's x, y and z, of either contrast.
    """

    version: int = 2
    vs_hrt2: float = 0.525
    vs_hrt2_spread: float = 0.15
    cystic: float = 0.2
    dark: float = 0.1
    camouflaged: float = 0.0
    labyrinth_cet1: float = 0.36
    petrous_texture: float = 0.05
    vessels_cet1: float = 1.0
    tissue_jitter: float = 0.06
    noise: float = 0.035
    bias: float = 0.10
    shifts_hrt2: Mapping[str, float] = field(default_factory=dict)
    thickness: float = 1.0
    field_of_view: float = 1.0
    oblique_degrees: tuple[float, float, float] = (0.0, 0.0, 0.0)


_STANDARD = Hardness()
# As on a turbo spin echo instead of CISS: fat and marrow bright, flowing blood dark, white matter and cortex closer,
# the labyrinth's fluid duller than that of the cisterns.
_ANOTHER_SEQUENCE = MappingProxyType(
    {
        "fat": 1.6, "marrow": 1.7, "petrous marrow": 1.6, "mucosa": 1.4, "muscle": 1.3, "dura": 1.3, "cortex": 0.9,
        "white": 1.15, "brainstem": 1.1, "folia": 0.85, "vein": 0.45, "plexus": 0.8, "labyrinth": 0.78,
        "modiolus": 0.85, "cyst": 1.1,
    }
)  # fmt: skip
HARDNESS: Mapping[str, Hardness] = MappingProxyType(
    {
        "easy": replace(
            _STANDARD, vs_hrt2=0.60, vs_hrt2_spread=0.08, cystic=0.1, dark=0.0, labyrinth_cet1=0.45,
            petrous_texture=0.025, vessels_cet1=0.85, tissue_jitter=0.03, noise=0.02, bias=0.05,
        ),
        "standard": _STANDARD,
        "hard": replace(
            _STANDARD, version=3, vs_hrt2=0.45, vs_hrt2_spread=0.20, cystic=0.25, dark=0.25, camouflaged=0.25,
            labyrinth_cet1=0.30, petrous_texture=0.08, vessels_cet1=1.1, tissue_jitter=0.10, noise=0.07, bias=0.20,
            shifts_hrt2=_ANOTHER_SEQUENCE, thickness=1.8, field_of_view=1.25, oblique_degrees=(15.0, 5.0, 5.0),
        ),
    }
)  # fmt: skip

CET1, HRT2 = "ceT1", "hrT2"
CONTRASTS = (CET1, HRT2)

# A dark tumour's brightness on hrT2, relative to the usual one; it is darker than the brain.
_DARK = 0.62


def _looks(contrast: str, hardness: Hardness) -> dict[str, Look]:
    """Return the mean look of every tissue in one contrast; the table has pairs (ceT1, hrT2)."""
    rough = hardness.petrous_texture
    vs = hardness.vs_hrt2
    pairs = {
        "air": (Look(0.01), Look(0.01)),
        "fat": (Look(0.95, 0.06, 0.02), Look(0.42, 0.04, 0.02)),
        "muscle": (Look(0.42, 0.06, 0.03), Look(0.22, 0.04, 0.03)),
        "mucosa": (Look(0.85, 0.08, 0.04), Look(0.55, 0.08, 0.04)),
        "bone": (Look(0.10, 0.02, 0.01), Look(0.06, 0.02, 0.01)),
        "marrow": (Look(0.72, 0.10, 0.05), Look(0.28, 0.05, 0.03)),
        "petrous": (Look(0.24, rough, rough), Look(0.12, rough * 0.7, rough * 0.7)),
        "petrous marrow": (Look(0.50, 2 * rough, rough), Look(0.24, rough, rough)),
        "otic capsule": (Look(0.08, 0.01, 0.01), Look(0.06, 0.01, 0.01)),
        "dura": (Look(0.86, 0.10, 0.03), Look(0.16, 0.02, 0.01)),
        "csf": (Look(0.17, 0.01, 0.005), Look(1.00, 0.04, 0.01)),
        "cortex": (Look(0.50, 0.02, 0.015), Look(0.42, 0.02, 0.015)),
        "white": (Look(0.60, 0.02, 0.015), Look(0.33, 0.02, 0.015)),
        "cerebellum": (Look(0.54, 0.03, 0.02), Look(0.38, 0.03, 0.02)),
        "folia": (Look(0.42, 0.03, 0.01), Look(0.58, 0.06, 0.02)),
        "brainstem": (Look(0.58, 0.02, 0.02), Look(0.34, 0.02, 0.02)),
        "nerve": (Look(0.46), Look(0.40)),
        "plexus": (Look(0.90, 0.10, 0.05), Look(0.60, 0.10, 0.05)),
        "vein": (Look(hardness.vessels_cet1, 0.06, 0.02), Look(0.46, 0.10, 0.03)),
        "artery": (Look(0.9 * hardness.vessels_cet1, 0.05, 0.02), Look(0.12, 0.03, 0.02)),
        "labyrinth": (Look(hardness.labyrinth_cet1, 0.01, 0.01), Look(0.95, 0.03, 0.01)),
        "modiolus": (Look(0.8 * hardness.labyrinth_cet1, 0.01, 0.01), Look(0.66, 0.03, 0.01)),
        "vs": (
            Look(0.90, 0.07, 0.04),
            Look(vs, 0.8 * vs * hardness.vs_hrt2_spread, 0.6 * vs * hardness.vs_hrt2_spread),
        ),
        "cyst": (Look(0.42, 0.05, 0.02), Look(0.88, 0.05, 0.02)),
    }
    return {tissue: pair[CONTRASTS.index(contrast)] for tissue, pair in pairs.items()}


@dataclass(frozen=True)
class Appearance:
    """How one scan shows the tissues: their looks, the fields of both textures, and the scanner's gain in raw units."""

    looks: dict[str, Look]
    coarse: RandomField
    fine: RandomField
    gain: float


def draw_appearance(rng: np.random.Generator, contrast: str, hardness: Hardness, *, character: float) -> Appearance:
    """Draw one scan's appearance: each tissue's brightness varies a little, as it does between patients and coils.

    `character` is the tumour's, uniform in [0, 1).

    Raises:
        ValueError: `contrast` is neither "ceT1" nor "hrT2".
    """
    if contrast not in CONTRASTS:
        raise ValueError(f"contrast: expected one of {', '.join(CONTRASTS)}, got {contrast!r}")
    looks = {}
    for tissue, look in _looks(contrast, hardness).items():
        factor = float(np.exp(np.clip(rng.normal(), -2.5, 2.5) * hardness.tissue_jitter))
        factor *= hardness.shifts_hrt2.get(tissue, 1.0) if contrast == HRT2 else 1.0
        looks[tissue] = replace(look, level=look.level * factor, coarse=look.coarse * factor, fine=look.fine * factor)
    if contrast == HRT2 and is_dark(character, hardness):
        looks["vs"] = replace(looks["vs"], level=looks["vs"].level * _DARK)
    if contrast == HRT2 and is_camouflaged(character, hardness):
        looks["vs"] = looks["cerebellum"]
    return Appearance(
        looks=looks,
        coarse=random_field(rng, (6.0, 18.0), waves=32),
        fine=random_field(rng, (1.8, 4.5), waves=40),
        gain=float(rng.uniform(350, 900)),
    )


def is_cystic(character: float, hardness: Hardness) -> bool:
    """Tell whether a tumour with this character, uniform in [0, 1), has cysts."""
    return character < hardness.cystic


def is_dark(character: float, hardness: Hardness) -> bool:
    """Tell whether a tumour with this character is dark on hrT2."""
    return character >= 1 - hardness.dark


def is_camouflaged(character: float, hardness: Hardness) -> bool:
    """Tell whether a tumour with this character looks like the cerebellum on hrT2."""
    return 1 - hardness.dark - hardness.camouflaged <= character < 1 - hardness.dark
