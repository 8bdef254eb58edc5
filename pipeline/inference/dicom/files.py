"""One DICOM file: what it is, what its header says, and its voxels. Everything about a file that can be wrong is here.

A header's texts and numbers come from anyone. Only what is needed is read, long values are never loaded, and voxels are
read when their number is known.

Source: DICOM PS3.3 (attributes), PS3.5 (transfer syntaxes), PS3.10 (files).
"""

import io
import os
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.filereader import read_dataset
from pydicom.pixels import get_decoder
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MediaStorageDirectoryStorage,
    MRImageStorage,
)

from challenge.nifti import CaseError, opened

# Images of MR. Others, such as secondary captures and CT, are no scans, and stay beside the series.
MR_IMAGES = (MRImageStorage, EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage)

_PREAMBLE_BYTES, _MAGIC = 128, b"DICM"
_LONG = 2**16  # bytes of a value that is left on disk
# Beside the voxels: headers of a few kilobytes are usual, private data of a megabyte occur.
_MAX_HEADER_BYTES = 2**23


class NotDicomError(CaseError):
    """A file without DICOM's signature."""


@dataclass(frozen=True)
class Header:
    """What a file's header says, as it says it; None for what is not there. Names are DICOM's."""

    SOPClassUID: str
    SOPInstanceUID: str
    StudyInstanceUID: str
    SeriesInstanceUID: str
    FrameOfReferenceUID: str
    SeriesDescription: str
    Rows: int
    Columns: int
    SamplesPerPixel: int
    PhotometricInterpretation: str
    BitsAllocated: int
    BitsStored: int
    PixelRepresentation: int
    NumberOfFrames: int | None
    ImagesInAcquisition: int | None
    RescaleSlope: float | None
    RescaleIntercept: float | None
    ImagePositionPatient: tuple[float, ...]
    ImageOrientationPatient: tuple[float, ...]
    PixelSpacing: tuple[float, ...]


@dataclass(frozen=True)
class DicomFile:
    """A file, its header, and the transfer syntax, which says how the voxels are stored."""

    path: Path
    header: Header
    syntax: UID

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name


def read_header(path: Path) -> DicomFile:
    """Read a file's header.

    Raises:
        NotDicomError: the file has no DICOM signature.
        CaseError: it cannot be read, or is damaged.
    """
    with opened(path) as file:
        dataset, syntax = _dataset(path.name, file, tags=[field.name for field in fields(Header)])
        header = _header(path.name, dataset)
    if header.SOPClassUID != MediaStorageDirectoryStorage:
        for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
            if not getattr(header, keyword):
                raise CaseError(f"{path.name}: expected a {keyword}, got none; copy the file again")
    return DicomFile(path, header, syntax)


def is_dicom(path: Path) -> bool:
    """Tell whether a file is a DICOM object, by its content or name, other than a disc's table of contents."""
    try:
        return read_header(path).header.SOPClassUID != MediaStorageDirectoryStorage
    except CaseError:
        return path.suffix.lower() in (".dcm", ".ima")


def read_dataset_of(file: DicomFile, tags: Iterable[str] | None = None) -> Dataset:
    """Read a file's header as pydicom has it, with these attributes or all.

    Raises:
        CaseError: it cannot be read, or is no longer the file that it was.
    """
    with opened(file.path) as stream:
        wanted = None if tags is None else [*tags, *(field.name for field in fields(Header))]
        dataset, _ = _dataset(file.name, stream, tags=wanted)
        _expect_unchanged(file, dataset)
        return dataset


def check_image(file: DicomFile) -> None:
    """Refuse an image that is no slice of gray values, or that cannot be decoded here.

    Raises:
        CaseError: several frames, colours, an inverted scale, an unknown pixel type, or an unsupported compression.
    """
    name, header, syntax = file.name, file.header, file.syntax
    if header.SOPClassUID != MRImageStorage or (header.NumberOfFrames or 1) > 1:
        frames = header.NumberOfFrames or "an unknown number of"
        raise CaseError(
            f"{name}: expected a file for each slice, got a multi-frame object of {frames} frames; export the series "
            "as classic MR images, or convert it to NIfTI"
        )
    if header.SamplesPerPixel != 1 or header.PhotometricInterpretation != "MONOCHROME2":
        raise CaseError(
            f"{name}: expected gray values, MONOCHROME2, got {header.SamplesPerPixel} x "
            f"{header.PhotometricInterpretation or 'nothing'}; take the original series, not a capture or a colour map"
        )
    if not (header.BitsAllocated in (8, 16, 32) and 1 <= header.BitsStored <= header.BitsAllocated):
        raise CaseError(
            f"{name}: expected pixels of 8, 16 or 32 bits, got {header.BitsStored} of {header.BitsAllocated}; "
            "export the series again"
        )
    if (
        header.PixelRepresentation not in (0, 1)
        or header.RescaleSlope == 0
        or not all(np.isfinite(value) for value in _rescale(header))
    ):
        slope, intercept = _rescale(header)
        raise CaseError(
            f"{name}: expected signed or unsigned pixels and a slope, got PixelRepresentation = "
            f"{header.PixelRepresentation}, slope {slope:g}, intercept {intercept:g}; export the series again"
        )
    try:
        readable = get_decoder(syntax).is_available
    except NotImplementedError:
        readable = False
    if not readable:
        raise CaseError(
            f"{name}: expected voxels that can be decoded here, got the transfer syntax {syntax.name} ({syntax}); "
            "decompress the files, for example with dcmdjpeg or gdcmconv --raw"
        )


def read_pixels(file: DicomFile) -> NDArray[np.float32]:
    """Read a slice's voxels `(H, W)`, rescaled.

    Raises:
        CaseError: they cannot be read or decoded, or the file is no longer the one that it was.
    """
    header, name = file.header, file.name
    pixel_bytes = header.Rows * header.Columns * header.BitsAllocated // 8
    with opened(file.path) as stream:
        most = pixel_bytes + _MAX_HEADER_BYTES
        if (size := os.fstat(stream.fileno()).st_size) > most:
            raise CaseError(
                f"{name}: expected at most {most:,} bytes for {header.Rows} x {header.Columns} pixels, got {size:,}; "
                "export the series again"
            )
        dataset = dcmread(io.BytesIO(stream.read()))
        _expect_unchanged(file, dataset)
        if "PixelData" not in dataset:
            raise CaseError(f"{name}: expected voxels, got a header alone; copy the file again")
        if not file.syntax.is_compressed and (got := len(dataset.PixelData)) < pixel_bytes:
            raise CaseError(f"{name}: expected {pixel_bytes:,} bytes of voxels, got {got:,}; copy the file again")
        pixels = dataset.pixel_array
    if pixels.shape != (header.Rows, header.Columns):
        raise CaseError(
            f"{name}: expected {header.Rows} x {header.Columns} pixels, got {' x '.join(map(str, pixels.shape))}; "
            "copy the file again"
        )
    slope, intercept = _rescale(header)
    return (_meant(pixels, header).astype(np.float64) * slope + intercept).astype(np.float32)


def _dataset(name: str, file: BinaryIO, tags: list[str] | None) -> tuple[Dataset, UID]:
    """Read a header up to its voxels, with these attributes or all, and the transfer syntax."""
    if file.read(_PREAMBLE_BYTES + len(_MAGIC))[_PREAMBLE_BYTES:] != _MAGIC:
        raise NotDicomError(f"{name}: expected a DICOM file, got something else; remove it, or copy it again")
    meta = read_dataset(file, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, *_: tag.group != 2)
    syntax = UID(str(meta.get("TransferSyntaxUID", "")))
    if not syntax:
        raise CaseError(f"{name}: expected a transfer syntax, got none; export the file again")
    if syntax == DeflatedExplicitVRLittleEndian:  # a small file of this kind may fill the memory
        raise CaseError(f"{name}: expected a plain header, got the transfer syntax {syntax.name}; inflate the files")
    file.seek(0)
    dataset = dcmread(file, stop_before_pixels=True, specific_tags=tags, defer_size=_LONG)
    if meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        dataset.SOPClassUID = MediaStorageDirectoryStorage  # it has none of its own
    return dataset, syntax


def _expect_unchanged(file: DicomFile, dataset: Dataset) -> None:
    if _header(file.name, dataset) != file.header:
        raise CaseError(f"{file.name}: expected a finished file, got one that changes; wait, and try again")


_INTEGERS, _NUMBERS, _VECTORS = (int, int | None), (float | None,), (tuple[float, ...],)


def _header(name: str, dataset: Dataset) -> Header:
    values: dict[str, Any] = {}
    for field in fields(Header):
        value = dataset.get(field.name)
        try:
            if field.type in _VECTORS:
                values[field.name] = tuple(map(float, value or ()))
            elif field.type is str:
                values[field.name] = str("" if value is None else value)
            elif value is None or value == "":
                values[field.name] = 0 if field.type is int else None
            else:
                values[field.name] = (int if field.type in _INTEGERS else float)(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise CaseError(
                f"{name}: expected a number for {field.name}, got {str(value)[:60]!r}; export the file again"
            ) from error
    return Header(**values)


def _rescale(header: Header) -> tuple[float, float]:
    slope, intercept = header.RescaleSlope, header.RescaleIntercept
    return (1.0 if slope is None else slope), (intercept or 0.0)


def _meant(pixels: NDArray[Any], header: Header) -> NDArray[Any]:
    """Return pixels without the bits above those stored, in which old files keep overlays."""
    spare = pixels.dtype.itemsize * 8 - header.BitsStored
    if not spare or pixels.dtype.kind not in "iu":
        return pixels
    return np.right_shift(np.left_shift(pixels, spare), spare)
