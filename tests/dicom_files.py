"""DICOM files for tests: a series of MR slices, and ways to spoil it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from tests.images import noise

ROW, COLUMN = (0.8, 0.6, 0.0), (0.0, 0.0, -1.0)  # oblique, coronal by half
ORIENTATION = (*ROW, *COLUMN)
NORMAL = np.cross(ROW, COLUMN)
ORIGIN_MM, SPACING_MM, STEP_MM = np.array([-10.5, 20.25, 30.0]), (0.625, 0.5), 1.5  # along y, x; and between slices

Edit = Callable[[Dataset, int], None]


def voxels(slices: int = 6) -> np.ndarray:
    return noise((slices, 20, 16))


def image_slice(pixels: np.ndarray, number: int, series_uid: str, study_uid: str, frame_uid: str) -> Dataset:
    """One slice `(H, W)` of 16 bits, the attributes of an MR image without the optional ones."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = MRImageStorage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study_uid, series_uid, frame_uid
    ds.PatientID, ds.PatientName, ds.Modality = "7", "Doe^Jane", "MR"
    ds.SeriesDescription, ds.SeriesNumber, ds.InstanceNumber = "T2 CISS 3D", 4, number + 1
    ds.Rows, ds.Columns = pixels.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    ds.PixelSpacing, ds.SliceThickness = list(SPACING_MM), STEP_MM
    ds.ImageOrientationPatient = list(ORIENTATION)
    ds.ImagePositionPatient = [float(f"{p:.6f}") for p in ORIGIN_MM + number * STEP_MM * NORMAL]
    ds.PixelData = pixels.tobytes()
    return ds


def write_series(
    folder: Path,
    array: np.ndarray | None = None,
    *,
    edit: Edit = lambda ds, number: None,
    leave_out: Sequence[int] = (),
    name: Callable[[int], str] = lambda number: f"IM{number}",
) -> Path:
    """Write a volume `(D, H, W)` as a series; `edit` changes each dataset. File names run against the slices."""
    array = voxels() if array is None else array
    series_uid, study_uid, frame_uid = generate_uid(), generate_uid(), generate_uid()
    folder.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(array):
        if number in leave_out:
            continue
        ds = image_slice(pixels, number, series_uid, study_uid, frame_uid)
        edit(ds, number)
        ds.save_as(folder / name(len(array) - number), enforce_file_format=True)
    return folder


def set_to(**values: object) -> Edit:
    """Give attributes these values, in all slices."""

    def edit(ds: Dataset, number: int) -> None:
        for keyword, value in values.items():
            setattr(ds, keyword, value)

    return edit


def in_slice(wanted: int, **values: object) -> Edit:
    """Give attributes these values, in one slice."""
    return lambda ds, number: set_to(**values)(ds, number) if number == wanted else None


def without(*keywords: str) -> Edit:
    """Remove attributes from all slices."""

    def edit(ds: Dataset, number: int) -> None:
        for keyword in keywords:
            delattr(ds, keyword)

    return edit


def claims_syntax(uid: str) -> Edit:
    """Let the header claim a transfer syntax that the voxels do not have."""

    def edit(ds: Dataset, number: int) -> None:
        ds.file_meta.TransferSyntaxUID = UID(uid)
        if uid != DeflatedExplicitVRLittleEndian:
            ds.PixelData = b"\xfe\xff\x00\xe0\x00\x00\x00\x00\xfe\xff\x00\xe0\x04\x00\x00\x00\x00\x00\x00\x00"
            ds["PixelData"].VR = "OB"

    return edit
