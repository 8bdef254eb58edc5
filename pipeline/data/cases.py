"""Cases: find scans in a folder, read and check them, write label maps.

This module and `preprocessing` handle SimpleITK images; all other code works on NumPy arrays `(D, H, W)`.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from challenge.contract import TARGET_SUFFIX, Structure, case_of, files_by_case
from challenge.nifti import CaseError, geometry_of, read_image, write_image


def find_scans(folder: Path, suffix: str = TARGET_SUFFIX) -> tuple[dict[str, Path], list[str]]:
    """Find a folder's scans, `{case}_hrT2.nii.gz` or with another suffix, and the names of its other entries.

    Returns:
        The scans by case, with numbers in order, and the sorted names of everything else. Any entry with a scan's name
        counts as a scan, even a folder or a dangling link: reading it reports what is wrong.

    Raises:
        OSError: the folder cannot be listed.
    """
    ignored = sorted(entry.name for entry in folder.iterdir() if case_of(entry.name, suffix) is None)
    return files_by_case(folder, suffix), ignored


def read_scan(path: Path) -> sitk.Image:
    """Read a scan as a 3-D float32 image on its own grid, intensities as the header scales them.

    Raises:
        CaseError: as `challenge.nifti.read_image`; also for voxels beyond float32's range, and for a constant volume.
    """
    return as_scan(read_image(path), path.name)


def as_scan(image: sitk.Image, name: str) -> sitk.Image:
    """Return an image as a 3-D float32 scan, checked; `name` is how a message calls it.

    Raises:
        CaseError: not 3-D, not scalar, constant, or voxels that are not finite or beyond float32's range.
    """
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise CaseError(f"{name}: expected a 3-D scan of one value a voxel, got {image.GetDimension()}-D; split it")
    image = sitk.Cast(image, sitk.sitkFloat32)
    voxels = sitk.GetArrayViewFromImage(image)
    lowest, highest = float(voxels.min()), float(voxels.max())
    if not np.isfinite([lowest, highest]).all():
        raise CaseError(f"{name}: expected voxels in float32's range, got others; rescale the scan")
    if lowest == highest:
        raise CaseError(f"{name}: expected a scan with contrast, got {lowest:g} in every voxel; check the export")
    return image


def read_mask(path: Path, structure: Structure) -> sitk.Image:
    """Read one structure of a label map as a 3-D uint8 image of 0 and 1; the file may hold floating-point labels.

    Raises:
        CaseError: as `challenge.nifti.read_image`.
    """
    return sitk.Cast(sitk.Equal(read_image(path), structure.label), sitk.sitkUInt8)


def array_from(image: sitk.Image) -> NDArray[np.float32]:
    """Return an image's voxels as a float32 array `(D, H, W)`: the axes are ITK's x, y, z in reverse."""
    return sitk.GetArrayFromImage(image).astype(np.float32, copy=False)


def left_right_axis(image: sitk.Image) -> int:
    """Return the axis of an image's array `(D, H, W)` that runs nearest to the patient's left-right direction."""
    across = np.reshape(image.GetDirection(), (3, 3))[0]  # how far each of the axes x, y, z goes to the left
    return 2 - int(np.argmax(np.abs(across)))


def image_from(array: NDArray[np.generic], like: sitk.Image) -> sitk.Image:
    """Return an array `(D, H, W)` as an image on the grid of `like`, with the array's dtype.

    Raises:
        ValueError: the array's shape differs from the grid's.
    """
    shape = like.GetSize()[::-1]
    if array.shape != shape:
        raise ValueError(f"array for a grid: expected shape {shape}, got {array.shape}; resample it to the grid first")
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(like)
    return image


def write_labels(labels: NDArray[np.uint8], native: sitk.Image, path: Path, note: str = "") -> None:
    """Write a label map `(D, H, W)` uint8 on the grid of the scan `native`. The file is complete or absent.

    `note`, of at most 79 characters, becomes the header's `descrip`.

    Raises:
        ValueError: the labels' shape differs from the scan's.
        OSError: the file cannot be written.
    """
    image = image_from(labels, native)
    if note:
        image.SetMetaData("ITK_FileNotes", note)
    write_image(image, path)


def volumes_mm3(
    labels: NDArray[np.uint8], native: sitk.Image, structures: Iterable[Structure]
) -> dict[Structure, float]:
    """Return each structure's volume in mm3 in a label map `(D, H, W)` on the grid of `native`."""
    voxel_mm3 = float(np.prod(geometry_of(native).spacing_mm))
    return {s: float(np.count_nonzero(labels == s.label)) * voxel_mm3 for s in structures}
