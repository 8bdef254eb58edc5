"""A case's folder of DICOM files: which series is the scan, and the volume that it makes.

A case has one MR series. Of several, one is chosen by name, or none: a guess could segment another contrast, and the
label map would look like any other.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom.uid import UID, MediaStorageDirectoryStorage

from challenge.names import shown
from challenge.nifti import CaseError, Geometry
from challenge.quantities import counted
from pipeline.inference.dicom.files import MR_IMAGES, DicomFile, NotDicomError, check_image, read_header, read_pixels
from pipeline.inference.dicom.stack import stacked

_MOST_FILES = 20_000
_MOST_LISTED = 8
# Endings of files that lie beside images on exported discs. Whatever else is no DICOM may be a damaged slice.
_BYSTANDERS = {".txt", ".xml", ".json", ".html", ".htm", ".pdf", ".jpg", ".png", ".exe", ".inf", ".ini", ".csv", ".db"}


@dataclass(frozen=True)
class Series:
    """A series that makes a volume: its slices in the volume's order, its grid, and what lies beside it."""

    slices: tuple[DicomFile, ...]
    geometry: Geometry
    notes: tuple[str, ...]


def find_series(folder: Path, wanted: str | None = None) -> Series:
    """Find a case's series below its folder, without reading a voxel.

    Args:
        folder: of DICOM files, in folders of their own or not.
        wanted: which series to take of several: its SeriesInstanceUID, or a part of its SeriesDescription in any case.

    Raises:
        CaseError: no MR series or several, or one that makes no volume.
    """
    images: dict[str, list[DicomFile]] = {}
    beside: Counter[str] = Counter()
    for path in _files_below(folder):
        try:
            file = read_header(path)
        except NotDicomError:
            if path.suffix.lower() not in _BYSTANDERS:
                raise
            beside[path.name] += 1
            continue
        if file.header.SOPClassUID in MR_IMAGES:
            images.setdefault(file.header.SeriesInstanceUID, []).append(file)
        elif file.header.SOPClassUID != MediaStorageDirectoryStorage:  # a table of contents
            beside[UID(file.header.SOPClassUID).name or "a file without SOPClassUID"] += 1
    found = _chosen(list(images.values()), wanted, beside)
    _expect_once(found)
    for file in found:
        check_image(file)
    slices, geometry = stacked(found)
    return Series(slices, geometry, _notes(slices, beside))


def read_series(series: Series) -> sitk.Image:
    """Read a series' voxels, rescaled, as a float32 image on its grid.

    Raises:
        CaseError: a file cannot be read, or changed.
    """
    grid = series.geometry
    voxels = np.empty(grid.size_xyz[::-1], np.float32)
    for number, file in enumerate(series.slices):
        voxels[number] = read_pixels(file)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(grid.origin_mm)
    image.SetDirection(grid.direction)
    return image


def sha256_of_series(series: Series) -> str:
    """Return the sha256 of a series' files, one after the other in the volume's order.

    Raises:
        OSError: one cannot be read.
    """
    digest = hashlib.sha256()
    for file in series.slices:
        digest.update(file.path.read_bytes())
    return digest.hexdigest()


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, in order, without the hidden ones."""
    count = 0

    def fail(error: OSError) -> None:
        raise CaseError(f"expected a folder that can be read, got: {error.strerror}; check its permissions") from error

    for at, folders, names in os.walk(folder, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            if (Path(at) / name).is_symlink():
                raise CaseError(f"{name}: expected a folder, got a link to one; put the folder itself there")
        for name in sorted(name for name in names if not name.startswith(".")):
            count += 1
            if count > _MOST_FILES:
                raise CaseError(f"expected at most {_MOST_FILES:,} files, got more; give each case a folder of its own")
            yield Path(at) / name


def _chosen(series: Sequence[list[DicomFile]], wanted: str | None, beside: Counter[str]) -> list[DicomFile]:
    if not series:
        raise CaseError(
            f"expected a series of MR images, got {_counted(beside) or 'no DICOM file'}; "
            "put the files of one scan into the folder"
        )
    fits = [files for files in series if wanted is None or _is_wanted(files[0], wanted)]
    if len(fits) == 1:
        return fits[0]
    which = "one MR series" if wanted is None else f"one MR series that --series {wanted!r} names"
    raise CaseError(
        f"expected {which}, got {len(fits) or 'none'} of {len(series)}: {_described(fits or series)}; choose one with "
        "--series and a part of its description, or its UID, or keep its files alone"
    )


def _is_wanted(file: DicomFile, wanted: str) -> bool:
    return wanted == file.header.SeriesInstanceUID or wanted.lower() in file.header.SeriesDescription.lower()


def _described(series: Sequence[list[DicomFile]]) -> str:
    told = [
        f"{files[0].header.SeriesDescription[:64] or 'no description'!r} "
        f"({counted(len(files), 'image')}, {files[0].header.SeriesInstanceUID[:64]})"
        for files in series[:_MOST_LISTED]
    ]
    return "; ".join([*told, "..."] if len(series) > _MOST_LISTED else told)


def _expect_once(files: Sequence[DicomFile]) -> None:
    seen: dict[str, DicomFile] = {}
    for file in files:
        other = seen.setdefault(file.header.SOPInstanceUID, file)
        if other is not file:
            raise CaseError(
                f"{file.name}: expected each image once, got the one of {other.name} again; remove one of the two"
            )


def _notes(slices: Sequence[DicomFile], beside: Counter[str]) -> tuple[str, ...]:
    notes = [f"left out beside the series: {_counted(beside)}"] if beside else []
    told = max((file.header.ImagesInAcquisition or 0) for file in slices)
    if told > len(slices):
        notes.append(f"the header tells of {told} images, got {len(slices)}: slices may be missing at an end")
    return tuple(notes)


def _counted(beside: Counter[str]) -> str:
    told = [f"{count} x {name}" if count > 1 else name for name, count in sorted(beside.items())[:_MOST_LISTED]]
    return shown(", ".join([*told, "..."] if len(beside) > _MOST_LISTED else told))
