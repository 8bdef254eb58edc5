"""Source patches as if other scanners had made them: random contrast, structure, sharpness and noise.

Beyond the paper, and off unless a recipe names an augmentation. A network that has seen every contrast must go by shape
and surroundings; the target's contrast is then one more.

The intensity map is ours (piecewise linear, monotone or not), or a random shallow convolution network's (GIN: Ouyang et
al. 2022, arXiv 2111.12525); a map of its own inside the label follows SLAug (arXiv 2211.14805), tumours of random
intensity the winner's "jwc-rad" of crossMoDA 2021.
"""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional

from pipeline.adaptation.augmentations import AUGMENTATIONS, NO_AUGMENTATION, Randomisation
from pipeline.data.intensities import Intensities
from pipeline.data.sampling import Augment, TrainingVolume

Patch = NDArray[np.float32]


def augment_by(name: str, *, geometry: bool = True) -> Augment | None:
    """Return the augmentation of this name as the sampler applies it; None for `NO_AUGMENTATION`.

    Without `geometry` it neither turns nor zooms, so that every voxel stays in its place.

    Raises:
        KeyError: no augmentation has this name.
    """
    if name == NO_AUGMENTATION:
        return None
    settings = AUGMENTATIONS[name] if geometry else replace(AUGMENTATIONS[name], affine=0.0)

    def augment(
        patch: Patch,
        mask: NDArray[np.bool_],
        certain: NDArray[np.bool_],
        volume: TrainingVolume,
        rng: np.random.Generator,
    ) -> tuple[Patch, NDArray[np.bool_], NDArray[np.bool_]]:
        return randomise(patch, mask, volume.intensities, settings, rng, certain=certain)

    return augment


def randomise(
    patch: Patch,
    mask: NDArray[np.bool_],
    volume: Intensities,
    settings: Randomisation,
    rng: np.random.Generator,
    *,
    certain: NDArray[np.bool_],
) -> tuple[Patch, NDArray[np.bool_], NDArray[np.bool_]]:
    """Return a patch as another scanner, and another tumour, might have given it, and its mask.

    Geometry first, then the contrast, then the structure on top of it, then what a scanner adds. Every draw comes from
    `rng`.

    Args:
        patch: z-scores `(D, H, W)` float32, left alone.
        mask: the structure, bool `(D, H, W)`; changed with the geometry alone.
        volume: of the volume that the patch is cut from.
        settings: what may happen.
        rng: where every random draw comes from.
        certain: the voxels that count in the loss, bool `(D, H, W)`; changed with the geometry alone.

    Returns:
        The patch, float32, still in z-scores as the whole volume would have them after the map; mask and `certain`.
    """
    if rng.random() < settings.untouched:
        return patch, mask, certain
    if rng.random() < settings.affine:
        patch, mask, certain = turned_and_zoomed(patch, mask, certain, settings, rng)
    original = patch
    if rng.random() < settings.smoothed_first:
        patch = smoothed(patch, rng.uniform(*settings.smoothed_first_sigma))
    if rng.random() < settings.intensity_map:
        patch = mapped(patch, volume, settings, rng)
    if mask.any():
        if rng.random() < settings.filled:
            patch = filled(patch, mask, settings, rng)
        elif rng.random() < settings.own_map:
            inside = smoothed(mask.astype(np.float32), 0.7)
            patch = patch + inside * (mapped(original, volume, settings, rng) - patch)
    if rng.random() < settings.bias:
        patch = biased(patch, volume.low, rng.uniform(*settings.bias_strength), rng)
    if rng.random() < settings.blur:
        patch = smoothed(patch, rng.uniform(*settings.blur_sigma))
    if rng.random() < settings.thick:
        patch = ndimage.uniform_filter1d(patch, round(rng.uniform(*settings.thick_voxels)), axis=0, mode="nearest")
    if rng.random() < settings.noise:
        sd = np.float32(rng.uniform(*settings.noise_sd))
        patch = patch + sd * rng.standard_normal(patch.shape, dtype=np.float32)
    return patch, mask, certain


def mapped(patch: Patch, volume: Intensities, settings: Randomisation, rng: np.random.Generator) -> Patch:
    """Give a patch `(D, H, W)` another contrast by one random map, of either kind, still in z-scores."""
    if rng.random() < settings.convolutional:
        return convolved_contrast(patch, rng)
    return piecewise_contrast(patch, volume, settings, rng)


def piecewise_contrast(patch: Patch, volume: Intensities, settings: Randomisation, rng: np.random.Generator) -> Patch:
    """Map intensities by a random piecewise linear function, and normalise as the whole mapped volume would be.

    ::

        1 |      /\\      knots at random places between the volume's ends, random values in [0, 1],
          |     /  \\__   sorted where the map is monotone; the lowest stays dark, since air is dark in
        0 |____/         every contrast
           low     high
    """
    n = int(rng.integers(*settings.knots, endpoint=True))
    places = np.concatenate(([volume.low], np.sort(rng.uniform(volume.low, volume.high, n - 2)), [volume.high]))
    values = np.concatenate((rng.uniform(0.0, 0.1, 1), rng.uniform(0.0, 1.0, n - 1)))
    if rng.random() < settings.monotone:
        values.sort()
    if np.ptp(values) < 0.2:  # next to no contrast would be noise alone once normalised
        values[rng.integers(1, n)] = 1.0
    sample = np.interp(volume.sample, places, values)
    mean, deviation = sample.mean(), max(sample.std(), 1e-3)
    table_places = np.linspace(volume.low, volume.high, 1024)
    table = ((np.interp(table_places, places, values) - mean) / deviation).astype(np.float32)
    position = (patch - np.float32(volume.low)) * np.float32(1023 / (volume.high - volume.low))
    return table.take(position.astype(np.int32), mode="clip")


def convolved_contrast(patch: Patch, rng: np.random.Generator, *, layers: int = 4, channels: int = 2) -> Patch:
    """Map a patch by a random shallow convolution network, mixed with the patch, with the patch's mean and deviation.

    Kernels of one voxel or of three, drawn anew in every layer, leaky ReLU between.

    Source: GIN, Ouyang et al. 2022, Section III-A; its norm is a 2-D slice's, ours the patch's mean and deviation.
    """
    mixed = float(rng.uniform(0.0, 1.0))
    # The same patch twice: for a batch of one, torch takes kernels that are six times slower.
    x = torch.from_numpy(np.stack((patch, patch))[:, None])
    with torch.inference_mode():
        for layer in range(layers):
            inputs, outputs = x.shape[1], 1 if layer == layers - 1 else channels
            side = int(rng.choice((1, 3)))
            weights = rng.standard_normal((outputs, inputs, side, side, side), dtype=np.float32) / side**1.5
            shifts = rng.standard_normal(outputs, dtype=np.float32)
            x = functional.conv3d(x, torch.from_numpy(weights), torch.from_numpy(shifts), padding=side // 2)
            if layer < layers - 1:
                x = functional.leaky_relu(x)
    of_network = x[0, 0].numpy()
    of_network = (of_network - of_network.mean()) / max(float(of_network.std()), 1e-3)
    mean, deviation = patch.mean(), max(float(patch.std()), 1e-3)
    result = np.float32(mixed) * of_network + np.float32(1 - mixed) * (patch - mean) / np.float32(deviation)
    result = (result - result.mean()) / np.float32(max(float(result.std()), 1e-3))
    return (result * np.float32(deviation) + mean).astype(np.float32, copy=False)


def filled(patch: Patch, mask: NDArray[np.bool_], settings: Randomisation, rng: np.random.Generator) -> Patch:
    """Fill the structure in a patch, both `(D, H, W)`, with a random level and texture.

    Its border is a voxel wide. Some patches also get a rim round it, or a part of it another level.
    """
    box = _box(mask, margin=6)
    inside, around = mask[box], patch[box].copy()
    grain = smoothed(rng.standard_normal(inside.shape, dtype=np.float32), rng.uniform(*settings.texture_sigma))
    grain *= np.float32(rng.uniform(*settings.texture) / max(float(grain.std()), 1e-6))
    if rng.random() < settings.rim:
        width = int(rng.integers(*settings.rim_voxels, endpoint=True))
        round_it = smoothed(ndimage.binary_dilation(inside, iterations=width).astype(np.float32), 0.7)
        around += round_it * (np.float32(rng.uniform(*settings.level)) - around)
    level = np.full(inside.shape, rng.uniform(*settings.level), dtype=np.float32)
    if rng.random() < settings.part:
        voxels = np.argwhere(inside)
        centre = voxels[rng.integers(len(voxels))]
        radius = rng.uniform(*settings.part_radius) * np.cbrt(len(voxels) * 3 / (4 * np.pi))
        z, y, x = np.ogrid[tuple(slice(0, n) for n in inside.shape)]
        ball = (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 < radius**2
        level += smoothed(ball.astype(np.float32), 0.7) * (np.float32(rng.uniform(*settings.level)) - level)
    share = smoothed(inside.astype(np.float32), rng.uniform(0.5, 1.0))
    around += share * (level + grain - around)
    patch = patch.copy()
    patch[box] = around
    return patch


def biased(patch: Patch, dark: float, strength: float, rng: np.random.Generator) -> Patch:
    """Multiply a patch's distance `(D, H, W)` from `dark` by a smooth field: exp of values within +- `strength`."""
    knots = rng.uniform(-strength, strength, (3, 3, 3)).astype(np.float32)
    for axis, length in enumerate(patch.shape):
        weights = _linear_weights(length, 3)
        knots = np.moveaxis(np.tensordot(weights, knots, axes=(1, axis)), 0, axis)
    return (patch - np.float32(dark)) * np.exp(knots) + np.float32(dark)


def turned_and_zoomed(
    patch: Patch,
    mask: NDArray[np.bool_],
    certain: NDArray[np.bool_],
    settings: Randomisation,
    rng: np.random.Generator,
) -> tuple[Patch, NDArray[np.bool_], NDArray[np.bool_]]:
    """Turn a patch `(D, H, W)` about the axis from foot to head, and zoom it.

    Interpolation is linear; outside of the patch its border is repeated.
    """
    angle, zoom = np.deg2rad(rng.uniform(*settings.turn_degrees)), rng.uniform(*settings.zoom)
    c, s = np.cos(angle), np.sin(angle)
    matrix = np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]]) / zoom
    middle = (np.array(patch.shape) - 1) / 2
    offset = middle - matrix @ middle

    def moved(array: Patch) -> Patch:
        result: Patch = ndimage.affine_transform(array, matrix, offset, order=1, mode="nearest")
        return result

    new_mask, new_certain = (
        moved(m.astype(np.float32)) >= 0.5 if not m.all() and m.any() else m for m in (mask, certain)
    )
    return moved(patch), new_mask, new_certain


def smoothed(array: Patch, sigma: float) -> Patch:
    """Smooth an array `(D, H, W)` float32 with a Gaussian of `sigma` voxels, cut off at two of them."""
    result: Patch = ndimage.gaussian_filter(array, sigma, mode="nearest", truncate=2.0)
    return result


def _linear_weights(length: int, knots: int) -> NDArray[np.float32]:
    """Return the weights `(length, knots)` with which evenly spaced knots make each of `length` places."""
    places = np.linspace(0, knots - 1, length, dtype=np.float32)
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(knots, dtype=np.float32)))


def _box(mask: NDArray[np.bool_], margin: int) -> tuple[slice, slice, slice]:
    """Return the slices that hold a mask `(D, H, W)` with a margin, within its array."""
    found = ndimage.find_objects(mask.astype(np.int8))[0]
    z, y, x = (slice(max(s.start - margin, 0), min(s.stop + margin, n)) for s, n in zip(found, mask.shape, strict=True))
    return z, y, x
