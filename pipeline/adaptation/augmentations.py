"""Named augmentations: what may happen to a training patch beyond the paper. Records alone; needs no torch.

`pipeline.adaptation.randomisation` applies them. A recipe names one, or `NO_AUGMENTATION`, which is the paper's.
"""

from collections.abc import Mapping
from dataclasses import dataclass

Range = tuple[float, float]

NO_AUGMENTATION = "none"


@dataclass(frozen=True)
class Randomisation:
    """What may happen to a patch: probabilities in [0, 1], and ranges to draw from evenly.

    Intensities are z-scores of the whole volume, lengths are voxels (0.5 mm).
    """

    # The patch as it is, so that the source domain stays one of those known.
    untouched: float = 0.1
    # Small turns (degrees, about the axis from foot to head) and zooms, the same for the mask.
    affine: float = 0.0
    turn_degrees: Range = (-10.0, 10.0)
    zoom: Range = (0.9, 1.1)
    # Blurred before the map: a steep map makes contrast of noise.
    smoothed_first: float = 0.3
    smoothed_first_sigma: Range = (0.4, 0.9)
    # An intensity map, which is a convolutional one or else piecewise linear, and then monotone or not.
    intensity_map: float = 1.0
    convolutional: float = 0.0
    knots: tuple[int, int] = (3, 7)
    monotone: float = 0.2
    # The structure gets a map of its own: same voxels, other contrast (SLAug).
    own_map: float = 0.0
    # The structure is filled anew: a level, a texture of some correlation length, and in some a rim round it, and a
    # part with another level (a cyst, a necrosis): a ball of so much of the structure's own radius.
    filled: float = 0.0
    level: Range = (-0.8, 3.0)
    texture: Range = (0.05, 0.5)
    texture_sigma: Range = (1.0, 4.0)
    rim: float = 0.5
    rim_voxels: tuple[int, int] = (1, 3)
    part: float = 0.25
    part_radius: Range = (0.4, 0.9)
    # A smooth factor on the distance from the volume's dark end: exp of -strength to strength.
    bias: float = 0.3
    bias_strength: Range = (0.05, 0.3)
    blur: float = 0.2
    blur_sigma: Range = (0.3, 1.0)
    # Slices as if so many voxels thick.
    thick: float = 0.3
    thick_voxels: Range = (1.5, 4.0)
    noise: float = 0.6
    noise_sd: Range = (0.02, 0.15)


# Source patches for a structure whose contrast may turn round: the tumour.
#   contrast       piecewise maps, the tumour filled anew
#   convolution    the same with GIN maps in place of piecewise ones
#   mixed          half of each, and in some patches the tumour gets a map of its own instead of a filling
#   structure      the tumour alone is filled anew (jwc-rad)
# and for one whose contrast carries the information, or for target patches:
#   mild           monotone maps, noise, blur, bias; nothing is filled
#   light          noise, bias and small turns alone
AUGMENTATIONS: Mapping[str, Randomisation] = {
    "contrast": Randomisation(filled=0.8, own_map=0.5, affine=0.3),
    "convolution": Randomisation(filled=0.8, convolutional=1.0),
    "mixed": Randomisation(filled=0.7, convolutional=0.4, own_map=0.5, affine=0.3),
    "structure": Randomisation(filled=0.8, intensity_map=0.0, smoothed_first=0.0, noise=0.3, blur=0.0, thick=0.0),
    "mild": Randomisation(monotone=1.0, intensity_map=0.7, affine=0.3, smoothed_first=0.0),
    "light": Randomisation(untouched=0.3, intensity_map=0.0, smoothed_first=0.0, thick=0.0, blur=0.0, affine=0.5),
}
