"""Scans as a layout has them: image files, or folders with a DICOM series each."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import SimpleITK as sitk

from challenge.layouts import CROSSMODA_2021, FolderLayout
from challenge.nifti import CaseError, Geometry, read_geometry
from pipeline.data.cases import as_scan, read_scan
from pipeline.inference.results import sha256_of

if TYPE_CHECKING:
    from pipeline.inference.dicom.series import Series


@dataclass(frozen=True)
class Scan:
    """A scan that was read: a float32 image, what its user should know of it, and the DICOM series that it is of."""

    image: sitk.Image
    notes: tuple[str, ...] = ()
    series: "Series | None" = None


@contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """Put the case's name before what is wrong with one of its files."""
    try:
        yield
    except CaseError as error:
        raise CaseError(f"{folder.name}: {error}") from error


@dataclass(frozen=True)
class ScanReader:
    """Reads the scans of a layout; `series` says which DICOM series to take where a case has several."""

    layout: FolderLayout = CROSSMODA_2021
    series: str | None = None

    def read(self, path: Path) -> Scan:
        """Read a scan.

        Raises:
            CaseError: it cannot be read, or is no scan.
        """
        if not self.layout.dicom:
            return Scan(read_scan(path))
        from pipeline.inference.dicom.series import read_series

        series = self._series(path)
        with _naming(path):
            return Scan(as_scan(read_series(series), "the series"), series.notes, series)

    def geometry(self, path: Path) -> Geometry:
        """Return a scan's grid, without reading its voxels.

        Raises:
            CaseError: as `read`.
        """
        return self._series(path).geometry if self.layout.dicom else read_geometry(path)

    def sha256(self, path: Path) -> str:
        """Return a scan's sha256; of a series, that of its files in the volume's order.

        Raises:
            CaseError: as `read`, for a series.
            OSError: a file cannot be read.
        """
        if not self.layout.dicom:
            return sha256_of(path)
        from pipeline.inference.dicom.series import sha256_of_series

        return sha256_of_series(self._series(path))

    def _series(self, path: Path) -> "Series":
        from pipeline.inference.dicom.series import find_series

        with _naming(path):
            return find_series(path, self.series)
