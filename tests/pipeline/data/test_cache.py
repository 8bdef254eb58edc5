"""Voxels are made once, found again, and made anew whenever what they depend on has changed."""

import multiprocessing
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from challenge.contract import COCHLEA, VS
from challenge.nifti import CaseError, read_geometry
from pipeline.data import cache
from pipeline.data.cache import cached_volumes, normalised_volume, structure_mask
from pipeline.data.dataset import TrainingCase
from tests.images import noise, write_scan


def case(folder: Path, name: str = "crossmoda_1", seed: int = 0) -> TrainingCase:
    labels = np.zeros((12, 20, 16), dtype=np.float64)
    labels[2:6, 4:9, 4:9] = 1
    labels[8:10, 10:14, 3:6] = 2
    scan = write_scan(folder / f"{name}_ceT1.nii.gz", noise((12, 20, 16), seed))
    return TrainingCase(name, scan, write_scan(folder / f"{name}_Label.nii.gz", labels), read_geometry(scan))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read to make voxels."""
    names: list[str] = []
    for function in (cache.read_scan, cache.read_mask):

        def counted(path, *more, _function=function):
            names.append(path.name)
            return _function(path, *more)

        monkeypatch.setattr(cache, function.__name__, counted)
    return names


def test_voxels_are_those_without_a_cache_and_made_once(tmp_path: Path, made: list[str]) -> None:
    one = case(tmp_path)
    assert one.labels is not None
    for structure in (VS, COCHLEA):
        [volume] = cached_volumes(tmp_path / "cache", [one], structure)
        assert volume.volume.shape == (36, 20, 16)  # 12 slices of 1.5 mm at 0.5 mm
        assert np.array_equal(volume.volume, normalised_volume(one.scan))
        assert volume.mask is not None
        assert np.array_equal(volume.mask, structure_mask(one.labels, structure))
    made.clear()
    for structure in (VS, COCHLEA):
        cached_volumes(tmp_path / "cache", [one], structure)
    assert made == []
    # The scan once, and a mask for each structure.
    names = sorted(p.name.rsplit(".", 2)[0] for p in (tmp_path / "cache").glob("*.npy"))
    assert names == ["crossmoda_1.cochlea", "crossmoda_1.scan", "crossmoda_1.vs"]


def test_the_voxels_stay_on_disk_and_cannot_be_changed(tmp_path: Path) -> None:
    [volume] = cached_volumes(tmp_path / "cache", [case(tmp_path)], VS)
    assert isinstance(volume.volume.base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        volume.volume[0, 0, 0] = 1


def test_a_changed_scan_setting_or_code_makes_voxels_anew(
    tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, folder = case(tmp_path), tmp_path / "cache"
    [before] = cached_volumes(folder, [one], VS)
    made.clear()
    case(tmp_path, seed=1)  # other voxels under the same name
    [after] = cached_volumes(folder, [one], VS)
    assert made == ["crossmoda_1_ceT1.nii.gz", "crossmoda_1_Label.nii.gz"]
    assert not np.array_equal(before.volume, after.volume)
    assert len(list(folder.glob("crossmoda_1.scan.*"))) == 1  # the stale one is gone

    made.clear()
    stat = one.scan.stat()
    os.utime(one.scan, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    cached_volumes(folder, [one], VS)
    assert made == ["crossmoda_1_ceT1.nii.gz"]

    made.clear()
    [coarse] = cached_volumes(folder, [one], VS, spacing_mm=1.0)
    assert coarse.volume.shape == (18, 10, 8)
    assert len(made) == 2

    made.clear()
    monkeypatch.setattr(cache, "_code", lambda: "another version")
    cached_volumes(folder, [one], VS, spacing_mm=1.0)
    assert len(made) == 2


def test_a_file_cut_short_is_made_again(tmp_path: Path, made: list[str]) -> None:
    one, folder = case(tmp_path), tmp_path / "cache"
    [before] = cached_volumes(folder, [one], VS)
    expected = before.volume.copy()
    [path] = folder.glob("crossmoda_1.scan.*")
    path.write_bytes(path.read_bytes()[:1000])
    made.clear()
    [after] = cached_volumes(folder, [one], VS)
    assert made == ["crossmoda_1_ceT1.nii.gz"]
    assert np.array_equal(after.volume, expected)


def test_a_full_disk_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: BinaryIO, array: np.ndarray) -> None:
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space left"):
        cached_volumes(tmp_path / "cache", [case(tmp_path)], VS)
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [".lock"]


def test_bad_cases_are_all_named(tmp_path: Path) -> None:
    good, gone, empty = case(tmp_path), case(tmp_path, "crossmoda_2"), case(tmp_path, "crossmoda_3")
    gone.scan.unlink()
    assert empty.labels is not None
    write_scan(empty.labels, np.zeros((12, 20, 16), dtype=np.uint8))
    seen: list[str] = []
    with pytest.raises(CaseError) as error:
        cached_volumes(tmp_path / "cache", [good, gone, empty], COCHLEA, report=seen.append)
    first, second = str(error.value).splitlines()
    assert first.startswith("crossmoda_2: crossmoda_2_ceT1.nii.gz: expected a file in")
    assert second.startswith(
        "crossmoda_3: crossmoda_3_Label.nii.gz: expected voxels of Cochlea (label 2) at 0.5 mm, got"
    )
    assert seen == ["crossmoda_1", "crossmoda_2", "crossmoda_3"]


def test_scans_without_labels_have_no_mask(tmp_path: Path) -> None:
    one = case(tmp_path)
    [volume] = cached_volumes(tmp_path / "cache", [TrainingCase(one.case, one.scan, None, one.geometry)], VS)
    assert volume.mask is None


def _fill(folder: Path, one: TrainingCase) -> None:
    cached_volumes(folder, [one], VS)


def test_two_processes_may_fill_one_cache(tmp_path: Path) -> None:
    one = case(tmp_path)
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=_fill, args=(tmp_path / "cache", one)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2


def test_scan_is_resampled_and_normalised_and_the_mask_cut_at_one_half(tmp_path):
    labels = np.zeros((4, 6, 8), dtype=np.float64)  # on disk as in the challenge
    labels[1:3, 2:4, 2:6] = 2.0
    labels[0, 0, 0] = 1.0
    scan = np.random.default_rng(0).normal(100, 20, labels.shape).astype(np.float32)
    scan_path = write_scan(tmp_path / "crossmoda_7_ceT1.nii.gz", scan, spacing_mm=(0.5, 0.5, 1.0))
    labels_path = write_scan(tmp_path / "crossmoda_7_Label.nii.gz", labels, spacing_mm=(0.5, 0.5, 1.0))
    volume = normalised_volume(scan_path)
    assert volume.shape == (8, 6, 8)
    assert volume.mean() == pytest.approx(0, abs=1e-5)
    assert volume.std() == pytest.approx(1, abs=1e-5)
    expected = np.zeros((8, 6, 8), dtype=np.bool_)
    expected[2:6, 2:4, 2:6] = True  # each slice of 1 mm became two of 0.5 mm
    assert np.array_equal(structure_mask(labels_path, COCHLEA), expected)
    assert np.argwhere(structure_mask(labels_path, VS)).tolist() == [[0, 0, 0], [1, 0, 0]]
