"""Preprocessing: resample to 0.5 mm, with the way back beside it, and normalise.

Source: Kondo 2021, Section 3: "an input volume is resampled at 0.5 mm sampling pitch for all dimensions and normalized
with mean and standard deviation values of each volume".
"""

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from challenge.nifti import MAX_VOXELS, CaseError

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
    old_spacing = np.array(image.GetSpacing())
    extent_mm = old_spacing * image.GetSize()
    size = np.maximum(1, np.ceil(extent_mm / spacing_mm - _SIZE_TOLERANCE_VOXELS)).astype(np.int64)
    if np.prod(size.astype(object)) > MAX_VOXELS:
        raise CaseError(
            f"grid of {spacing_mm:g} mm: expected at most {MAX_VOXELS:,} voxels, got {' x '.join(map(str, size))} "
            f"for a field of view of {' x '.join(f'{e:.0f}' for e in extent_mm)} mm; check the spacing or crop the scan"
        )
    direction = np.reshape(image.GetDirection(), (3, 3))
    origin = np.array(image.GetOrigin()) + direction @ ((spacing_mm - old_spacing) / 2)
    return sitk.Resample(
        image,
        size=size.tolist(),
        transform=sitk.Transform(),
        interpolator=sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear,
        outputOrigin=origin.tolist(),
        outputSpacing=[spacing_mm] * 3,
        outputDirection=image.GetDirection(),
        useNearestNeighborExtrapolator=True,
    )


def resample_like(image: sitk.Image, native: sitk.Image) -> sitk.Image:
    """Resample an image to the grid of `native`: the inverse of `resample_to_spacing`.

    Linear, and exact where the grids are equal. Resample probabilities, not label maps: those lose thin structures.
    """
    return sitk.Resample(image, native, sitk.Transform(), sitk.sitkLinear, useNearestNeighborExtrapolator=True)


def normalise(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    """Subtract a volume's mean and divide by its standard deviation, both over all voxels `(D, H, W)`, air included.

    Raises:
        CaseError: the volume is constant, or not finite.

    Source: Section 3.
    """
    # In float64: a float32 sum over 40 million voxels would lose digits.
    mean = float(volume.mean(dtype=np.float64))
    deviation = float(volume.std(dtype=np.float64, mean=np.float64(mean)))
    if not np.isfinite([mean, deviation]).all() or deviation == 0:
        raise CaseError(
            f"volume of shape {volume.shape}: expected finite voxels with contrast, got mean {mean:g} and "
            f"standard deviation {deviation:g}; check the scan"
        )
    return ((volume - np.float32(mean)) / np.float32(deviation)).astype(np.float32, copy=False)
