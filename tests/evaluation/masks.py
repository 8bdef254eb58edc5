"""Pairs of masks for the tests of metrics: compact, scattered, far apart, touching the edge."""

import numpy as np
import pytest


def box(shape: tuple[int, ...], *sides: slice) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[sides] = True
    return mask


def mask_pairs() -> dict[str, tuple[np.ndarray, np.ndarray, tuple[float, float, float]]]:
    rng = np.random.default_rng(20211)
    shape = (12, 20, 17)
    solid = box(shape, slice(3, 9), slice(4, 14), slice(4, 12))
    hollow = solid & ~box(shape, slice(5, 7), slice(7, 11), slice(6, 10))
    wide = (30, 90, 80)
    tumour = box(wide, slice(12, 18), slice(30, 42), slice(30, 41))
    stray = tumour | box(wide, slice(0, 2), slice(85, 88), slice(76, 80))
    return {
        "random": (rng.random(shape) < 0.3, rng.random(shape) < 0.3, (1.0, 1.0, 1.0)),
        "random dense": (rng.random(shape) < 0.9, rng.random(shape) < 0.8, (1.5, 0.41, 0.41)),
        "random sparse": (rng.random(shape) < 0.004, rng.random(shape) < 0.004, (3.0, 0.7, 0.2)),
        "touching the edge": (
            box(shape, slice(0, 5), slice(0, 20), slice(9, 17)),
            box(shape, slice(7, 12), slice(15, 20), slice(0, 17)),
            (1.5, 0.5, 0.5),
        ),
        "whole volume": (np.ones(shape, dtype=bool), solid, (1.5, 0.5, 0.5)),
        "one voxel each": (
            box(shape, slice(0, 1), slice(0, 1), slice(0, 1)),
            box(shape, slice(11, 12), slice(19, 20), slice(16, 17)),
            (1.5, 0.469, 0.469),
        ),
        "one voxel and a body": (box(shape, slice(6, 7), slice(8, 9), slice(8, 9)), solid, (1.0, 0.469, 0.469)),
        "hollow": (hollow, solid, (1.0, 1.0, 1.0)),
        "hollow inside": (hollow, box(shape, slice(5, 7), slice(7, 11), slice(6, 10)), (1.5, 0.6, 0.4)),
        "far apart": (tumour, box(wide, slice(27, 30), slice(80, 90), slice(0, 4)), (1.5, 0.41, 0.41)),
        "far false positive": (tumour, stray, (1.5, 0.41, 0.41)),
        "stray in both": (tumour | box(wide, slice(28, 29), slice(2, 3), slice(3, 4)), stray, (1.5, 0.41, 0.41)),
        "noise everywhere": (tumour, tumour | (rng.random(wide) < 0.05), (1.5, 0.41, 0.41)),
        "very anisotropic": (rng.random(shape) < 0.1, rng.random(shape) < 0.1, (0.01, 7.0, 0.5)),
        "one slice": (rng.random((1, 30, 30)) < 0.2, rng.random((1, 30, 30)) < 0.2, (5.0, 0.5, 0.5)),
        "equal": (hollow, hollow, (1.5, 0.5, 0.5)),
    }


PAIRS = mask_pairs()
pairs = pytest.mark.parametrize(("reference", "prediction", "spacing"), PAIRS.values(), ids=PAIRS.keys())
