"""MIND-SSC descriptors: how alike the patches round a voxel are, whatever the contrast.

Source: Heinrich et al., "Towards Realtime Multimodal Fusion for Image-Guided Interventions Using Self-Similarities",
MICCAI 2013; as a network's input for this challenge: GapMIND, docs/results.md.
"""

import torch
from torch.nn import functional

# The six neighbours of a voxel, (z, y, x), and the twelve pairs of them that lie sqrt(2) steps apart.
_NEIGHBOURS = ((-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, -1), (0, 0, 1))
PAIRS = tuple(
    (first, second)
    for i, first in enumerate(_NEIGHBOURS)
    for second in _NEIGHBOURS[i + 1 :]
    if sum((a - b) ** 2 for a, b in zip(first, second, strict=True)) == 2
)
CHANNELS = len(PAIRS)
# A voxel's variance is kept within these factors of the patch's mean, as in the authors' code.
_VARIANCE_RANGE = (1e-3, 1e3)


def mind_ssc(patches: torch.Tensor, *, radius: int = 1, dilation: int = 2) -> torch.Tensor:
    """Describe every voxel by its self-similarity context.

    For each of twelve pairs of neighbours, `dilation` voxels from the voxel, the mean squared difference of the cubes
    of side `2 radius + 1` round them; less the smallest of the twelve, over their mean, through exp(-x). An
    intensity map that is linear changes nothing.

    Args:
        patches: `(N, 1, D, H, W)` float32.
        radius: of the cubes that are compared, in voxels.
        dilation: from the voxel to its neighbours, in voxels.

    Returns:
        `(N, 12, D, H, W)` float32 in (0, 1]; borders repeat their outermost voxel.

    Raises:
        ValueError: patches of another shape.
    """
    if patches.ndim != 5 or patches.shape[1] != 1:
        raise ValueError(f"patches: expected (N, 1, D, H, W), got {tuple(patches.shape)}; add the channel's axis")
    padded = functional.pad(patches, (dilation,) * 6, mode="replicate")
    differences = [(_shifted(padded, a, dilation) - _shifted(padded, b, dilation)).square_() for a, b in PAIRS]
    distances = torch.cat([_cube_means(difference, radius) for difference in differences], dim=1)
    distances -= distances.min(dim=1, keepdim=True).values
    variance = distances.mean(dim=1, keepdim=True)
    mean = variance.mean(dim=(1, 2, 3, 4), keepdim=True)
    low, high = _VARIANCE_RANGE
    # Constant patches (air beyond the field of view) have no variance at all: every descriptor is 1 there.
    variance = torch.minimum(torch.maximum(variance, mean * low), mean * high).clamp_min(
        torch.finfo(variance.dtype).tiny
    )
    return distances.div_(variance).neg_().exp_()


def _cube_means(volumes: torch.Tensor, radius: int) -> torch.Tensor:
    """Return the mean over the cube round each voxel: a sum along each axis takes a third of `avg_pool3d`'s time."""
    sums = functional.pad(volumes, (radius,) * 6, mode="replicate")
    side = 2 * radius + 1
    for axis in (2, 3, 4):
        length = sums.shape[axis] - 2 * radius
        along = sums.narrow(axis, 0, length).clone()
        for step in range(1, side):
            along += sums.narrow(axis, step, length)
        sums = along
    return sums.div_(side**3)


def _shifted(padded: torch.Tensor, neighbour: tuple[int, int, int], dilation: int) -> torch.Tensor:
    """View the volume that lies `dilation` voxels towards a neighbour."""
    d, h, w = (side - 2 * dilation for side in padded.shape[2:])
    z, y, x = (dilation * (step + 1) for step in neighbour)
    return padded[:, :, z : z + d, y : y + h, x : x + w]
