"""Patches: where they are cut, how often the structure is in the middle, and the same seed."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pipeline.data.sampling import (
    PatchBatch,
    TrainingVolume,
    cut_batches,
    cut_patch,
    epoch_draws,
    half_and_half,
    head_centre,
    structure_centre,
)


def epoch_batches(volumes: list[TrainingVolume], **settings: Any) -> Iterator[PatchBatch]:
    return cut_batches(epoch_draws(volumes, **settings))


def numbered(*shape: int) -> np.ndarray:
    return np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)


def labelled(case: str = "case_1", seed: int = 0) -> TrainingVolume:
    volume = np.random.default_rng(seed).standard_normal((24, 30, 36), dtype=np.float32)
    mask = np.zeros(volume.shape, dtype=np.bool_)
    mask[10:12, 20:23, 8:12] = True
    volume[mask] += 10  # so that a patch tells whether its mask was cut in the same place
    return TrainingVolume(case, volume, mask)


@pytest.mark.parametrize(
    ("centre", "expected"), [(5, [4, 5, 6, 7]), (9, [7, 8, 9, 10]), (0, [1, 2, 3, 4]), (-3, [1, 2, 3, 4])]
)
def test_a_patch_stays_inside_the_volume(centre: int, expected: list[int]) -> None:
    line = np.arange(1, 11, dtype=np.float32).reshape(1, 1, 10)
    assert cut_patch(line, (0, 0, centre), 4)[1, 1].tolist() == expected


def test_a_patch_of_a_smaller_volume_is_padded_with_zeros_on_both_sides() -> None:
    patch = cut_patch(numbered(2, 4, 3), (0, 0, 0), 4)
    assert patch.shape == (4, 4, 4)
    assert np.array_equal(patch[1:3, :, :3], numbered(2, 4, 3))  # 1 before and 1 behind; none; 0 before, 1 behind
    assert patch.sum() == numbered(2, 4, 3).sum()


def test_cut_patches_are_copies_of_the_same_dtype() -> None:
    mask = np.ones((8, 8, 8), dtype=np.bool_)
    patch = cut_patch(mask, (4, 4, 4), 4)
    assert patch.dtype == np.bool_
    patch[:] = False
    assert mask.all()


def test_structure_centres_stay_within_a_quarter_of_the_window() -> None:
    volume, rng = labelled(), np.random.default_rng(1)
    centres = np.array([structure_centre(volume, 16, rng) for _ in range(400)])
    assert centres.min(axis=0).tolist() == [10 - 4, 20 - 4, 8 - 4]
    assert centres.max(axis=0).tolist() == [11 + 4, 22 + 4, 11 + 4]


def test_head_centres_lie_above_the_mean() -> None:
    volume, rng = labelled(), np.random.default_rng(2)
    centres = [head_centre(volume, rng) for _ in range(200)]
    assert all(volume.volume[c] > volume.volume.mean() for c in centres)
    assert len(set(centres)) > 150


def test_a_head_of_one_voxel_is_found() -> None:
    array = np.zeros((40, 40, 40), dtype=np.float32)
    array[3, 5, 7] = 1
    volume = TrainingVolume("case_1", array)
    assert [head_centre(volume, np.random.default_rng(s)) for s in range(3)] == [(3, 5, 7)] * 3


def test_an_epoch_takes_every_volume_the_same_number_of_times() -> None:
    volumes = [labelled(f"case_{i}", i) for i in range(5)]
    batches = list(epoch_batches(volumes, window=8, batch_size=4, patches_per_volume=3, rng=np.random.default_rng(3)))
    assert [len(b.cases) for b in batches] == [4, 4, 4, 3]
    cases = [case for b in batches for case in b.cases]
    assert sorted(cases) == sorted([f"case_{i}" for i in range(5)] * 3)
    assert cases != sorted(cases)
    for batch in batches:
        n = len(batch.cases)
        assert (batch.patches.shape, batch.patches.dtype) == ((n, 1, 8, 8, 8), np.float32)
        assert (batch.masks.shape, batch.masks.dtype) == ((n, 8, 8, 8), np.bool_)


def test_masks_are_cut_and_mirrored_with_their_patches() -> None:
    for mirror in (False, True):
        for batch in epoch_batches(
            [labelled()], window=16, batch_size=4, patches_per_volume=16, rng=np.random.default_rng(4), mirror=mirror
        ):
            assert np.array_equal(batch.patches[:, 0] > 5.5, batch.masks)


def test_certain_voxels_are_cut_and_mirrored_with_their_patches() -> None:
    volume = labelled()
    certain = volume.volume > 0.0
    volume = TrainingVolume("case_106", volume.volume, volume.mask, certain)
    for mirror in (False, True):
        rng = np.random.default_rng(4)
        for batch in epoch_batches([volume], window=16, batch_size=4, patches_per_volume=16, rng=rng, mirror=mirror):
            assert batch.certain is not None
            assert batch.certain.dtype == np.bool_
            assert np.array_equal(batch.certain, batch.patches[:, 0] > 0)
            assert np.array_equal(batch.masks, batch.patches[:, 0] > 5.5)


def test_all_voxels_of_a_case_that_names_none_are_certain() -> None:
    plain, rng = labelled("case_1"), np.random.default_rng(5)
    doubtful = TrainingVolume("case_106", plain.volume, plain.mask, np.zeros(plain.volume.shape, dtype=np.bool_))
    (batch,) = epoch_batches([plain, doubtful], window=8, batch_size=8, patches_per_volume=4, rng=rng)
    assert batch.certain is not None
    for case, certain in zip(batch.cases, batch.certain, strict=True):
        assert certain.all() if case == "case_1" else not certain.any()
    (batch,) = epoch_batches([plain], window=8, batch_size=8, patches_per_volume=4, rng=rng)
    assert batch.certain is None


def test_an_augmentation_is_given_what_is_cut_and_gives_what_is_in_the_batch() -> None:
    volume = labelled()
    volume = TrainingVolume("case_1", volume.volume, volume.mask, volume.volume > 0)
    seen: list[float] = []

    def augment(patch: Any, mask: Any, certain: Any, whole: TrainingVolume, rng: np.random.Generator) -> Any:
        assert whole is volume
        assert np.array_equal(mask, patch > 5.5)
        assert np.array_equal(certain, patch > 0)
        seen.append(float(rng.random()))
        return patch + 100, ~mask, ~certain

    rng = np.random.default_rng(6)
    (batch,) = epoch_batches(
        [volume], window=16, batch_size=4, patches_per_volume=4, rng=rng, mirror=True, augment=augment
    )
    assert np.array_equal(batch.masks, batch.patches[:, 0] <= 105.5)
    assert batch.certain is not None
    assert np.array_equal(batch.certain, batch.patches[:, 0] <= 100)
    assert len(set(seen)) == 4  # a seed for each patch


@pytest.mark.parametrize(("fraction", "expected"), [(0.0, 0), (0.25, 10), (0.5, 20), (1.0, 40)])
def test_the_fraction_of_patches_centred_in_the_structure(fraction: float, expected: int) -> None:
    # The head of this volume is one voxel far from the structure, so a patch holds either the one or the other.
    array = np.zeros((64, 16, 16), dtype=np.float32)
    array[60, 8, 8] = 1
    mask = np.zeros(array.shape, dtype=np.bool_)
    mask[8, 8, 8] = True
    batches = epoch_batches(
        [TrainingVolume("case_1", array, mask)],
        window=8,
        batch_size=8,
        patches_per_volume=40,
        structure_fraction=fraction,
        rng=np.random.default_rng(5),
    )
    in_structure = [batch.masks.any(axis=(1, 2, 3)) for batch in batches]
    assert np.concatenate(in_structure).sum() == expected
    assert {int(flags.sum()) for flags in in_structure} == {expected // 5}  # spread evenly over the batches


def test_volumes_without_a_mask_give_empty_masks() -> None:
    target = TrainingVolume("case_106", labelled().volume)
    (batch,) = epoch_batches([target], window=8, batch_size=4, patches_per_volume=4, rng=np.random.default_rng(6))
    assert not batch.masks.any()
    assert batch.patches.any()


def test_mirroring_flips_left_and_right_and_is_off_by_default() -> None:
    volume = TrainingVolume("case_1", numbered(8, 8, 8))
    flipped = []
    for mirror in (False, True):
        rng = np.random.default_rng(7)
        (batch,) = epoch_batches([volume], window=8, batch_size=40, patches_per_volume=40, rng=rng, mirror=mirror)
        for patch in batch.patches[:, 0]:
            assert np.array_equal(patch, volume.volume) or np.array_equal(patch, volume.volume[..., ::-1])
        flipped.append(sum(int(patch[0, 0, 0] == 8) for patch in batch.patches[:, 0]))
    assert flipped[0] == 0
    assert 10 <= flipped[1] <= 30


def test_the_same_seed_gives_the_same_patches() -> None:
    def draw(seed: int) -> list[np.ndarray]:
        volumes = [labelled(f"case_{i}", i) for i in range(3)]
        rng = np.random.default_rng(seed)
        drawing = epoch_batches(volumes, window=8, batch_size=2, patches_per_volume=2, rng=rng, mirror=True)
        return [batch.patches for batch in drawing]

    assert all(np.array_equal(a, b) for a, b in zip(draw(8), draw(8), strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(draw(8), draw(9), strict=True))


def test_misfits_are_refused() -> None:
    array, rng = numbered(8, 8, 8), np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"case_1: expected a mask of bool \(8, 8, 8\), got bool \(8, 8, 4\)"):
        TrainingVolume("case_1", array, np.zeros((8, 8, 4), dtype=np.bool_))
    with pytest.raises(ValueError, match=r"case_1: expected a mask of bool \(8, 8, 8\), got uint8"):
        TrainingVolume("case_1", array, np.zeros((8, 8, 8), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"case_1: expected certain voxels of bool \(8, 8, 8\), got float32"):
        TrainingVolume("case_1", array, None, np.zeros((8, 8, 8), dtype=np.float32))
    with pytest.raises(ValueError, match=r"case_1: expected a volume .* of float32, got 3 axes of float64"):
        TrainingVolume("case_1", array.astype(np.float64))
    with pytest.raises(ValueError, match="case_1: expected a mask with voxels to centre a patch in"):
        structure_centre(TrainingVolume("case_1", array, np.zeros(array.shape, dtype=np.bool_)), 8, rng)
    with pytest.raises(ValueError, match="expected at least one volume"):
        next(epoch_batches([], window=8, batch_size=2, rng=rng))
    with pytest.raises(ValueError, match=r"structure_fraction: expected 0 to 1, got 1\.5"):
        next(epoch_batches([labelled()], window=8, batch_size=2, rng=rng, structure_fraction=1.5))


def test_half_and_half_until_either_domain_ends() -> None:
    rng = np.random.default_rng(0)
    source = epoch_draws([labelled(f"case_{i}", i) for i in range(5)], window=8, batch_size=2, rng=rng)
    target = epoch_draws([labelled(f"case_{i}", i) for i in (106, 107, 108)], window=8, batch_size=2, rng=rng)
    batches = [[draw.volume.case for draw in draws] for draws in half_and_half(source, target)]
    assert [len(cases) for cases in batches] == [4, 2]  # the target's last batch holds one patch
    assert all(len(case) == len("case_1") for cases in batches for case in cases[: len(cases) // 2])
    assert all(len(case) == len("case_106") for cases in batches for case in cases[len(cases) // 2 :])


def patch_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("patches")]


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_cut_the_same_patches_in_the_same_order(workers: int) -> None:
    volumes = [labelled(f"case_{i}", i) for i in range(5)]
    ends = []
    for threads in (0, workers):
        rng = np.random.default_rng(10)
        draws = epoch_draws(volumes, window=8, batch_size=2, patches_per_volume=3, rng=rng, mirror=True)
        ends.append((list(cut_batches(draws, threads)), rng.bit_generator.state))
    (plain, state), (ahead, state_ahead) = ends
    assert [batch.cases for batch in plain] == [batch.cases for batch in ahead]
    for one, other in zip(plain, ahead, strict=True):
        assert np.array_equal(one.patches, other.patches)
        assert np.array_equal(one.masks, other.masks)
    assert state == state_ahead  # what is drawn ahead is the epoch's, not the next one's
    assert patch_threads() == []


def test_workers_end_when_the_loop_is_left() -> None:
    draws = epoch_draws([labelled()], window=8, batch_size=1, patches_per_volume=50, rng=np.random.default_rng(11))
    batches = cut_batches(draws, 2)
    next(batches)
    assert patch_threads()
    batches.close()  # what `break` and an exception do
    assert patch_threads() == []


class Vanished(np.ndarray):
    """Voxels on a disk that is gone."""

    def __getitem__(self, _: Any) -> Any:
        raise OSError(5, "Input/output error")


def test_what_goes_wrong_in_a_worker_is_raised_in_the_loop() -> None:
    volume = labelled()
    gone = TrainingVolume("case_2", volume.volume.view(Vanished), volume.mask)
    draws = epoch_draws([volume, gone], window=8, batch_size=1, structure_fraction=1, rng=np.random.default_rng(0))
    with pytest.raises(OSError, match="Input/output error"):
        list(cut_batches(draws, 2))
    assert patch_threads() == []
