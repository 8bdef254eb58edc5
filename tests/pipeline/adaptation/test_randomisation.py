"""Random contrast and structure: each augmentation against what it promises."""

from dataclasses import fields, replace

import numpy as np
import pytest

from pipeline.adaptation.augmentations import AUGMENTATIONS, NO_AUGMENTATION, Randomisation
from pipeline.adaptation.randomisation import (
    augment_by,
    biased,
    convolved_contrast,
    filled,
    piecewise_contrast,
    randomise,
    turned_and_zoomed,
)
from pipeline.data.intensities import Intensities, intensities_of
from pipeline.data.sampling import PatchBatch, TrainingVolume, cut_batches, epoch_draws

SHAPE = (24, 28, 32)
# Nothing happens: each test turns on what it looks at.
NEVER = Randomisation(
    **{
        f.name: 0.0
        for f in fields(Randomisation)
        if isinstance(f.default, float) and f.name not in ("monotone", "rim", "part")
    }
)


def ball(centre: tuple[int, int, int], radius: float) -> np.ndarray:
    grids = np.ogrid[tuple(slice(0, n) for n in SHAPE)]
    return sum((g - c) ** 2 for g, c in zip(grids, centre, strict=True)) < radius**2


@pytest.fixture
def case() -> TrainingVolume:
    """A bright ball of radius 5 in noise."""
    mask = ball((12, 14, 16), 5)
    noise = np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32)
    return TrainingVolume("crossmoda_1", noise + 2 * mask.astype(np.float32), mask)


def randomised(case: TrainingVolume, settings: Randomisation, seed: int, certain: np.ndarray | None = None):
    certain = np.ones(SHAPE, dtype=np.bool_) if certain is None else certain
    rng = np.random.default_rng(seed)
    return randomise(case.volume, case.mask, intensities_of(case.volume), settings, rng, certain=certain)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_patch_is_finite_depends_on_its_seed_alone_and_the_volume_is_left_alone(
    case: TrainingVolume, name: str
) -> None:
    before = case.volume.copy(), case.mask.copy()
    augment, ones = augment_by(name), np.ones(SHAPE, dtype=np.bool_)
    results = []
    for seed in range(10):
        one, two = (augment(case.volume, case.mask, ones, case, np.random.default_rng(seed)) for _ in range(2))
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a, b)
        patch, mask, certain = one
        assert (patch.dtype, mask.dtype, certain.dtype) == (np.float32, np.bool_, np.bool_)
        assert patch.shape == mask.shape == certain.shape == SHAPE
        assert np.isfinite(patch).all()
        assert mask.any()
        assert certain.all()
        results.append(patch)
    assert any(not np.array_equal(results[0], other) for other in results[1:])
    np.testing.assert_array_equal(case.volume, before[0])
    np.testing.assert_array_equal(case.mask, before[1])
    assert ones.all()


def test_a_patch_without_the_structure_is_not_filled_and_keeps_its_empty_mask(case: TrainingVolume) -> None:
    nothing = np.zeros(SHAPE, dtype=np.bool_)
    for name in AUGMENTATIONS:
        for seed in range(5):
            patch, mask, certain = augment_by(name)(case.volume, nothing, nothing, case, np.random.default_rng(seed))
            assert np.isfinite(patch).all()
            assert not mask.any()
            assert not certain.any()
    only_filled = replace(NEVER, filled=1.0)
    patch, _, _ = randomise(
        case.volume, nothing, case.intensities, only_filled, np.random.default_rng(0), certain=nothing
    )
    np.testing.assert_array_equal(patch, case.volume)


def test_none_is_none_and_an_unknown_name_is_an_error() -> None:
    assert augment_by("none") is None
    assert augment_by(NO_AUGMENTATION) is None
    with pytest.raises(KeyError):
        augment_by("nothing of the kind")


def batches(case: TrainingVolume, workers: int, rng: np.random.Generator, name: str) -> list[PatchBatch]:
    draws = epoch_draws(
        [case] * 2, window=16, batch_size=2, rng=rng, patches_per_volume=3, mirror=True, augment=augment_by(name)
    )
    return list(cut_batches(draws, workers))


@pytest.mark.parametrize("workers", [1, 3])
def test_the_same_patches_come_with_any_number_of_workers(case: TrainingVolume, workers: int) -> None:
    one = batches(case, 0, np.random.default_rng(1), "contrast")
    other = batches(case, workers, np.random.default_rng(1), "contrast")
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.patches, b.patches)
        np.testing.assert_array_equal(a.masks, b.masks)
    plain = batches(case, 0, np.random.default_rng(1), "none")
    assert not np.array_equal(one[0].patches, plain[0].patches)


def test_without_an_augmentation_nothing_is_drawn(case: TrainingVolume) -> None:
    def state(**settings: object) -> dict[str, object]:
        rng = np.random.default_rng(2)
        list(epoch_draws([case], window=8, batch_size=2, rng=rng, patches_per_volume=5, mirror=True, **settings))
        return rng.bit_generator.state

    assert state(augment=None) == state()
    assert state(augment=augment_by("light")) != state()
    # An epoch of before, by hand: the order, then for each patch a centre and a coin.
    rng, by_hand = np.random.default_rng(3), np.random.default_rng(3)
    (draws,) = epoch_draws([case], window=8, batch_size=1, rng=rng, structure_fraction=1.0, mirror=True)
    by_hand.permutation(1)
    centre = np.array(np.unravel_index(by_hand.choice(np.flatnonzero(case.mask)), SHAPE))
    centre += by_hand.integers(-2, 2, size=3, endpoint=True)
    assert draws[0].centre == tuple(centre.tolist())
    assert draws[0].mirrored == (by_hand.random() < 0.5)
    assert rng.bit_generator.state == by_hand.bit_generator.state


def test_an_untouched_patch_is_the_patch(case: TrainingVolume) -> None:
    patch, mask, _ = randomised(case, replace(AUGMENTATIONS["contrast"], untouched=1.0), 0)
    np.testing.assert_array_equal(patch, case.volume)
    np.testing.assert_array_equal(mask, case.mask)
    patch, _, _ = randomised(case, NEVER, 0)
    np.testing.assert_array_equal(patch, case.volume)


def test_the_filling_changes_the_structure_and_a_rim_round_it(case: TrainingVolume) -> None:
    # A border of a voxel reaches two voxels out, whatever its width: the Gaussian is cut at two deviations. A rim of up
    # to three voxels reaches as far again.
    distance = np.linalg.norm(np.moveaxis(np.indices(SHAPE), 0, -1) - (12, 14, 16), axis=-1)
    for settings, reach in (
        (replace(NEVER, filled=1.0, rim=0.0), 2),
        (replace(NEVER, filled=1.0, rim=1.0), 5),
    ):
        for seed in range(8):
            patch, mask, _ = randomised(case, settings, seed)
            np.testing.assert_array_equal(mask, case.mask)
            changed = patch != case.volume
            assert changed[distance < 4].all()
            # Dilation goes along the axes, blurring along all three.
            assert not changed[distance > 5 + np.sqrt(3) * reach].any()


def test_the_filling_has_the_level_drawn(case: TrainingVolume) -> None:
    settings = Randomisation(level=(2.0, 2.0), texture=(0.0, 0.0), rim=0.0, part=0.0)
    dark = np.full(SHAPE, -1.0, dtype=np.float32)
    patch = filled(dark, case.mask, settings, np.random.default_rng(0))
    assert patch[12, 14, 16] == pytest.approx(2.0, abs=1e-5)
    np.testing.assert_allclose(patch[ball((12, 14, 16), 2.5)], 2.0, atol=0.03)  # the border's blur reaches in, too
    assert (patch >= -1 - 1e-5).all()
    assert (patch <= 2 + 1e-5).all()
    assert (dark == -1).all()


def test_a_filling_at_the_border_stays_in_the_patch() -> None:
    corner = np.zeros((8, 8, 8), dtype=np.bool_)
    corner[0, 0, 0] = True
    for seed in range(5):
        patch = filled(np.zeros(corner.shape, dtype=np.float32), corner, Randomisation(), np.random.default_rng(seed))
        assert np.isfinite(patch).all()
        assert patch.shape == corner.shape


def test_a_monotone_map_keeps_the_order_of_intensities(case: TrainingVolume) -> None:
    settings = replace(NEVER, intensity_map=1.0, monotone=1.0)
    order = np.argsort(case.volume, axis=None)
    for seed in range(10):
        patch, _, _ = randomised(case, settings, seed)
        assert (np.diff(patch.reshape(-1)[order]) >= 0).all()
        assert np.ptp(patch) > 0.5
    # Without it, some maps turn intensities round.
    free = [randomised(case, replace(settings, monotone=0.0), seed)[0].reshape(-1)[order] for seed in range(10)]
    assert any((np.diff(values) < 0).any() for values in free)


def test_a_map_is_normalised_as_the_whole_volume_would_be(case: TrainingVolume) -> None:
    # The sample is the volume itself, so the mapped volume has mean 0 and deviation 1, but for the clipped ends.
    whole = Intensities(*intensities_of(case.volume)[:2], case.volume.reshape(-1))
    for seed in range(5):
        patch = piecewise_contrast(case.volume, whole, Randomisation(), np.random.default_rng(seed))
        assert patch.mean() == pytest.approx(0, abs=0.02)
        assert patch.std() == pytest.approx(1, abs=0.02)
        # A part of the volume is mapped as the same part of the whole.
        part = piecewise_contrast(case.volume[:8], whole, Randomisation(), np.random.default_rng(seed))
        np.testing.assert_array_equal(part, patch[:8])


def test_a_convolutional_map_keeps_mean_and_deviation(case: TrainingVolume) -> None:
    for seed in range(5):
        patch = convolved_contrast(case.volume, np.random.default_rng(seed))
        assert patch.dtype == np.float32
        assert patch.mean() == pytest.approx(float(case.volume.mean()), abs=1e-3)
        assert patch.std() == pytest.approx(float(case.volume.std()), abs=1e-3)
    flat = convolved_contrast(np.full(SHAPE, 2.0, dtype=np.float32), np.random.default_rng(0))
    assert np.isfinite(flat).all()


def test_the_bias_leaves_the_dark_end_and_stays_within_its_strength() -> None:
    patch = np.full(SHAPE, 1.0, dtype=np.float32)
    patch[0] = -1.0
    result = biased(patch, -1.0, 0.3, np.random.default_rng(0))
    np.testing.assert_array_equal(result[0], -1.0)
    factor = (result[1:] + 1) / 2
    assert np.exp(-0.3) - 1e-5 <= factor.min() < factor.max() <= np.exp(0.3) + 1e-5
    assert np.abs(np.diff(factor, axis=2)).max() < 0.05  # smooth


def test_turning_moves_patch_mask_and_certain_voxels_together(case: TrainingVolume) -> None:
    scan = case.mask.astype(np.float32)
    settings = Randomisation()
    for seed in range(5):
        patch, mask, certain = turned_and_zoomed(scan, case.mask, ~case.mask, settings, np.random.default_rng(seed))
        np.testing.assert_array_equal(mask, patch >= 0.5)
        assert (certain == ~mask).mean() > 0.999  # but for voxels at exactly one half
        assert 0.9**3 * 0.9 < mask.sum() / case.mask.sum() < 1.1**3 * 1.1
    still = replace(settings, turn_degrees=(0.0, 0.0), zoom=(1.0, 1.0))
    patch, mask, _ = turned_and_zoomed(case.volume, case.mask, ~case.mask, still, np.random.default_rng(0))
    np.testing.assert_allclose(patch, case.volume, atol=1e-6)
    np.testing.assert_array_equal(mask, case.mask)
    # Twice the size: the middle stays, and what lay two voxels from it lies four away.
    line = np.zeros((9, 9, 9), dtype=np.float32)
    line[4, 4, 6] = 1.0
    twice = replace(still, zoom=(2.0, 2.0))
    patch, _, _ = turned_and_zoomed(line, line > 0, line > 0, twice, np.random.default_rng(0))
    assert np.unravel_index(np.argmax(patch), patch.shape) == (4, 4, 8)


def test_without_geometry_every_voxel_stays_in_its_place(case: TrainingVolume) -> None:
    moved = []
    for geometry in (True, False):
        augment = augment_by("light", geometry=geometry)
        assert augment is not None
        masks = [augment(case.volume, case.mask, case.mask, case, np.random.default_rng(seed))[1] for seed in range(8)]
        moved.append(any(not np.array_equal(mask, case.mask) for mask in masks))
    assert moved == [True, False]
