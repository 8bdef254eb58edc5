"""The cache of training volumes: scans are preprocessed once, and then mapped from disk.

A cached file's name holds a digest of everything that decides its voxels: the source file's path, size and modification
time, the settings, the structure, and the code that computes them. So a file that exists is current, and a stale one is
never read. Files are complete or absent, and end in a checksum: a damaged one is made again. The paper's 210 scans need
about 50 GB (an estimate).
"""

import functools
import glob
import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from challenge import headers, nifti
from challenge.contract import Structure
from challenge.files import written_whole
from challenge.nifti import CaseError
from pipeline.config import PAPER
from pipeline.data import cases, preprocessing, resampling
from pipeline.data.cases import array_from, read_mask, read_scan
from pipeline.data.dataset import TrainingCase
from pipeline.data.preprocessing import array_at_spacing, normalise, resample_to_spacing
from pipeline.data.sampling import TrainingVolume
from pipeline.runtime.checksums import DamagedFileError, check_seal, seal


def normalised_volume(scan: Path, spacing_mm: float = PAPER.spacing_mm) -> NDArray[np.float32]:
    """Read a scan, and resample and normalise it as `predict` does: float32 `(D, H, W)`.

    Raises:
        CaseError: as `pipeline.data.cases.read_scan`.
    """
    return normalise(array_at_spacing(read_scan(scan), spacing_mm), in_place=True)


def structure_mask(labels: Path, structure: Structure, spacing_mm: float = PAPER.spacing_mm) -> NDArray[np.bool_]:
    """Read one structure of a label map on the grid of `normalised_volume`: bool `(D, H, W)`.

    The mask is resampled linearly and thresholded at one half (our choice: nearest-neighbour interpolation would turn
    thick slices into stairs).

    Raises:
        CaseError: as `pipeline.data.cases.read_mask`.
    """
    mask = resample_to_spacing(sitk.Cast(read_mask(labels, structure), sitk.sitkFloat32), spacing_mm)
    return array_from(mask) >= 0.5


def cached_volumes(
    folder: Path,
    wanted: Sequence[TrainingCase],
    structure: Structure,
    *,
    spacing_mm: float = PAPER.spacing_mm,
    report: Callable[[str], None] = lambda _case: None,
) -> list[TrainingVolume]:
    """Return cases ready for training, mapped from the cache `folder`; volumes that it lacks are computed first.

    Args:
        folder: is made if it is missing; several processes may share it.
        wanted: the cases; a case without a label map gets no mask.
        structure: what the masks show.
        spacing_mm: side of the cubic voxels.
        report: is called with each case's name when the case is ready.

    Raises:
        CaseError: bad scans or label maps, or label maps without a voxel of the structure; the message names all.
        OSError: the cache cannot be written, for example because the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    volumes, problems = [], []
    with _one_process_at_a_time(folder):
        for case in wanted:
            try:
                volumes.append(_cached_volume(folder, case, structure, spacing_mm))
            except CaseError as error:
                problems.append(f"{case.case}: {error}")
            report(case.case)
    if problems:
        raise CaseError("\n".join(problems))
    return volumes


def _cached_volume(folder: Path, case: TrainingCase, structure: Structure, spacing_mm: float) -> TrainingVolume:
    volume = _cached(
        folder, f"{case.case}.scan", case.scan, [spacing_mm], lambda: normalised_volume(case.scan, spacing_mm)
    )
    if case.labels is None:
        return TrainingVolume(case.case, volume)
    labels = case.labels
    mask = _cached(
        folder,
        f"{case.case}.{structure.key}",
        labels,
        [spacing_mm, structure.label],
        lambda: structure_mask(labels, structure, spacing_mm),
    )
    if not mask.any():
        raise CaseError(
            f"{labels.name}: expected voxels of {structure.title} (label {structure.label}) at {spacing_mm:g} mm, "
            "got none; check the labels, or remove the case from the split"
        )
    return TrainingVolume(case.case, volume, mask)


def _cached(folder: Path, name: str, source: Path, settings: list[Any], make: Callable[[], NDArray[Any]]) -> Any:
    """Map an array from its file; if there is no current one, make it first and remove the stale ones."""
    try:
        stat = source.stat()
    except OSError as error:
        raise CaseError(f"{source.name}: expected a file in {source.parent}, got {error.strerror}") from error
    made_from = [str(source.resolve()), stat.st_size, stat.st_mtime_ns, *settings, _code()]
    digest = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]
    path = folder / f"{name}.{digest}.npy"
    if (array := _mapped(path)) is not None:
        return array
    with written_whole(path) as partial:
        with partial.open("wb") as file:  # numpy would append its own ending to the name
            np.save(file, make())
        seal(partial)
    for old in folder.glob(f"{glob.escape(name)}.*.npy"):
        if old != path:
            old.unlink(missing_ok=True)
    return _mapped(path)


def _mapped(path: Path) -> NDArray[Any] | None:
    """Map an array, or return None if the file is missing or damaged: then it is made again."""
    try:
        check_seal(path)
        # As a plain array: the callers need not know that the voxels are on disk.
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError, DamagedFileError):
        return None


@functools.cache
def _code() -> str:
    """Return a digest of the code that computes voxels, so that no one has to remember to raise a version number."""
    made_by: list[Any] = [headers, nifti, cases, preprocessing, resampling, normalised_volume, structure_mask]
    sources = [inspect.getsource(part) for part in made_by]
    return hashlib.sha256("".join([*sources, sitk.Version_VersionString()]).encode()).hexdigest()


@contextmanager
def _one_process_at_a_time(folder: Path) -> Iterator[None]:
    """Hold the cache's lock: one process fills the cache, while the others wait for it."""
    import fcntl  # predict uses this module too, and runs where there are no locks

    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
