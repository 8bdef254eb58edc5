"""Scans as training sees them, preprocessed once and then mapped from disk.

A file's name holds a digest of all that its voxels depend on: the source file's place, size and time of change, the
settings, the structure, and the code that makes them. A file that is there is therefore current, and a stale one is
never found; nothing has to be kept beside it. Files are whole or absent. The paper's 210 scans will need some 50 GB
(reckoned).
"""

import fcntl
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

from challenge import nifti
from challenge.contract import Structure
from challenge.files import written_whole
from challenge.nifti import CaseError
from pipeline.config import PAPER
from pipeline.data import cases, preprocessing
from pipeline.data.cases import array_from, read_mask, read_scan
from pipeline.data.dataset import TrainingCase
from pipeline.data.preprocessing import normalise, resample_to_spacing
from pipeline.data.sampling import TrainingVolume


def normalised_volume(scan: Path, spacing_mm: float = PAPER.spacing_mm) -> NDArray[np.float32]:
    """Read a scan, resampled and normalised as `predict` does it: float32 `(D, H, W)`.

    Raises:
        CaseError: a file that cannot be used, as `pipeline.data.cases.read_scan`.
    """
    return normalise(array_from(resample_to_spacing(read_scan(scan), spacing_mm)))


def structure_mask(labels: Path, structure: Structure, spacing_mm: float = PAPER.spacing_mm) -> NDArray[np.bool_]:
    """Read one structure of a label map on the grid of `normalised_volume`: bool `(D, H, W)`.

    Resampled linearly and cut at one half (our choice: nearest would repeat a thick slice as a stair).

    Raises:
        CaseError: a file that cannot be used, as `pipeline.data.cases.read_mask`.
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
    """Return cases ready for training, voxels mapped from the cache `folder`, which is filled where it lacks them.

    Args:
        folder: made where it is missing; several processes may share it.
        wanted: cases, with label maps where masks are wanted.
        structure: what the masks show.
        spacing_mm: side of the cubic voxels.
        report: called with each case's name when it is ready.

    Raises:
        CaseError: scans or label maps that cannot be used, or label maps without a voxel of the structure; all of them
            are named.
        OSError: the cache cannot be written, a full disk included.
    """
    folder.mkdir(parents=True, exist_ok=True)
    volumes, problems = [], []
    with _locked(folder):
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
            "got none; check the labels, or take the case out of the split"
        )
    return TrainingVolume(case.case, volume, mask)


def _cached(folder: Path, name: str, source: Path, settings: list[Any], make: Callable[[], NDArray[Any]]) -> Any:
    """Map an array from its file, made first where no current and sound one is there; stale ones are removed."""
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
        np.save(partial, make())
    for old in folder.glob(f"{glob.escape(name)}.*.npy"):
        if old != path:
            old.unlink(missing_ok=True)
    return _mapped(path)


def _mapped(path: Path) -> NDArray[Any] | None:
    """Map an array, or return None where the file is not there or not whole."""
    try:
        # A plain view: nothing after this needs to know that the voxels lie on disk.
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (FileNotFoundError, ValueError):
        return None


@functools.cache
def _code() -> str:
    """Return a digest of the code that makes voxels: an edited comment costs time, a forgotten version number trust."""
    made_by: list[Any] = [nifti, cases, preprocessing, normalised_volume, structure_mask]
    sources = [inspect.getsource(part) for part in made_by]
    return hashlib.sha256("".join([*sources, sitk.Version_VersionString()]).encode()).hexdigest()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time fill the cache; the others wait, and then find it full."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
