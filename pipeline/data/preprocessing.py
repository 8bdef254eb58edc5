"""Preprocessing: resample to 0.5 mm, with the way back beside it, and normalise.

Source: Kondo 2021, Section 3: "an input volume is resampled at 0.5 mm sampling pitch for all dimensions and normalized
with mean and standard deviation values of each volume".
"""

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from challenge.nifti import MAX_VOXELS, CaseError
from pipeline.data.patches import Shape
from pipeline.data.resampling import resample_linear

# A field of view that exceeds whole voxels by less than this, by the header's float32 rounding, gets no further voxel.
_SIZE_TOLERANCE_VOXELS = 1e-3


def resample_to_spacing(image: sitk.Image, spacing_mm: float, *, nearest: bool = False) -> sitk.Image:
    """Resample an image to cubic voxels of `spacing_mm`; the field of view keeps its corner and its direction.

    The new grid covers the field of view to its last voxel::

        before  |   o   |   o   |   o   |      spacing 4, the corner is half a voxel before the first centre
        after   | o | o | o | o | o | o |      spacing 2, same corner, so the origin moves by (2 - 4) / 2 = -1

    Interpolation is linear (our choice: the paper names none), because it does not overshoot at the bright CSF. Beyond
    the outermost voxel centres, the nearest voxel's value is taken. `nearest` is for label maps.

    Raises:
        CaseError: the new grid would have more than `challenge.nifti.MAX_VOXELS` voxels.
    """
    depth, height, width = shape_at_spacing(image, spacing_mm)
    direction = np.reshape(image.GetDirection(), (3, 3))
    origin = np.array(image.GetOrigin()) + direction @ ((spacing_mm - np.array(image.GetSpacing())) / 2)
    if nearest:
        return sitk.Resample(
            image,
            size=[width, height, depth],  # type: ignore[arg-type]  # its stub says int
            transform=sitk.Transform(),
            interpolator=sitk.sitkNearestNeighbor,
            outputOrigin=origin.tolist(),
            outputSpacing=[spacing_mm] * 3,
            outputDirection=image.GetDirection(),
            useNearestNeighborExtrapolator=True,
        )
    resampled = sitk.GetImageFromArray(array_at_spacing(image, spacing_mm))
    resampled.SetOrigin(origin.tolist())
    resampled.SetSpacing([spacing_mm] * 3)
    resampled.SetDirection(image.GetDirection())
    return resampled


def shape_at_spacing(image: sitk.Image, spacing_mm: float) -> Shape:
    """Return the shape `(D, H, W)` that `resample_to_spacing` gives an image.

    Raises:
        CaseError: as there.
    """
    extent_mm = np.array(image.GetSpacing()) * image.GetSize()
    size = np.maximum(1, np.ceil(extent_mm / spacing_mm - _SIZE_TOLERANCE_VOXELS)).astype(np.int64)
    if np.prod(size.astype(object)) > MAX_VOXELS:
        raise CaseError(
            f"grid of {spacing_mm:g} mm: expected at most {MAX_VOXELS:,} voxels, got {' x '.join(map(str, size))} "
            f"for a field of view of {' x '.join(f'{e:.0f}' for e in extent_mm)} mm; check the spacing or crop the scan"
        )
    width, height, depth = size.tolist()
    return depth, height, width


def array_at_spacing(image: sitk.Image, spacing_mm: float) -> NDArray[np.float32]:
    """Return the voxels `(D, H, W)` float32 of an image as `resample_to_spacing` resamples it.

    Raises:
        CaseError: as there.
    """
    shape = shape_at_spacing(image, spacing_mm)
    x_mm, y_mm, z_mm = image.GetSpacing()
    step = (spacing_mm / z_mm, spacing_mm / y_mm, spacing_mm / x_mm)
    return resample_linear(sitk.GetArrayViewFromImage(image), shape, step)


def array_back(array: NDArray[np.float32], spacing_mm: float, native: sitk.Image) -> NDArray[np.float32]:
    """Resample an array `(D, H, W)` float32 of `array_at_spacing` to the grid of `native`, the image it came from.

    Linear, and exact where the grids are equal. Resample probabilities, not label maps: those lose thin structures.
    """
    width, height, depth = native.GetSize()
    x_mm, y_mm, z_mm = native.GetSpacing()
    return resample_linear(array, (depth, height, width), (z_mm / spacing_mm, y_mm / spacing_mm, x_mm / spacing_mm))


def normalise(volume: NDArray[np.float32], *, in_place: bool = False) -> NDArray[np.float32]:
    """Subtract a volume's mean and divide by its standard deviation, both over all voxels `(D, H, W)`, air included.

    `in_place` overwrites the volume and returns it.

    Raises:
        CaseError: the volume is constant, or not finite.

    Source: Section 3.
    """
    # In float64: a float32 sum over 40 million voxels would lose digits. Slice by slice: a float64 copy would be large.
    mean = float(volume.mean(dtype=np.float64))
    squares = sum(float(np.square(plane.astype(np.float64) - mean).sum()) for plane in volume)
    deviation = float(np.sqrt(squares / volume.size))
    if not np.isfinite([mean, deviation]).all() or deviation == 0:
        raise CaseError(
            f"volume of shape {volume.shape}: expected finite voxels with contrast, got mean {mean:g} and "
            f"standard deviation {deviation:g}; check the scan"
        )
    normalised = np.subtract(volume, np.float32(mean), out=volume if in_place else None)
    normalised /= np.float32(deviation)
    return normalised
