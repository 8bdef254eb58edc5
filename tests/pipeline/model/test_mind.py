import numpy as np
import pytest
import torch

from pipeline.model.mind import CHANNELS, PAIRS, mind_ssc


def plain_mind(volume, radius, dilation):
    """The definition, voxel by voxel, on an array `(D, H, W)`: slow, and hard to get wrong."""
    shape = volume.shape

    def at(z, y, x):
        return volume[tuple(min(max(i, 0), n - 1) for i, n in zip((z, y, x), shape, strict=True))]

    difference = np.zeros((CHANNELS, *shape))
    for channel, (first, second) in enumerate(PAIRS):
        for z, y, x in np.ndindex(shape):
            here = np.array([z, y, x])
            difference[channel, z, y, x] = (
                at(*(here + dilation * np.array(first))) - at(*(here + dilation * np.array(second)))
            ) ** 2
    distances = np.zeros_like(difference)
    steps = range(-radius, radius + 1)
    for z, y, x in np.ndindex(shape):
        corners = np.array([z, y, x]) + np.array([(a, b, c) for a in steps for b in steps for c in steps])
        cube = [difference[:, i, j, k] for i, j, k in np.clip(corners, 0, np.array(shape) - 1)]
        distances[:, z, y, x] = np.mean(cube, axis=0)
    distances -= distances.min(axis=0)
    variance = distances.mean(axis=0)
    variance = np.clip(variance, variance.mean() * 1e-3, variance.mean() * 1e3)
    return np.exp(-distances / variance)


@pytest.mark.parametrize(("radius", "dilation"), [(1, 2), (1, 1), (2, 2)])
def test_as_the_plain_definition(radius, dilation):
    volume = np.random.default_rng(3).normal(size=(7, 8, 6)).astype(np.float32)
    described = mind_ssc(torch.from_numpy(volume)[None, None], radius=radius, dilation=dilation)[0].numpy()
    np.testing.assert_allclose(described, plain_mind(volume.astype(np.float64), radius, dilation), atol=1e-5)


def test_twelve_pairs_of_neighbours_none_opposite():
    assert CHANNELS == 12
    assert all(any(a + b for a, b in zip(first, second, strict=True)) for first, second in PAIRS)


@pytest.mark.parametrize(("gain", "offset"), [(2.0, 1.0), (-0.5, 3.0)])
def test_a_linear_map_of_the_contrast_changes_nothing(gain, offset):
    patches = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 1, 9, 8, 7)).astype(np.float32))
    torch.testing.assert_close(mind_ssc(patches), mind_ssc(gain * patches + offset), atol=1e-4, rtol=0)


def test_constant_air_has_no_nan():
    described = mind_ssc(torch.zeros(1, 1, 6, 6, 6))
    assert torch.equal(described, torch.ones(1, 12, 6, 6, 6))


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"expected \(N, 1, D, H, W\), got \(1, 2, 4, 4, 4\)"):
        mind_ssc(torch.zeros(1, 2, 4, 4, 4))
