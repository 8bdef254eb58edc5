"""NIfTI headers: checked as they are on disk, and read to one geometry.

A header says several things twice, and readers choose differently. ITK takes the spacing from `pixdim` and the axes
from the sform or the qform, by rules of its own; nibabel takes all from the sform, else the qform. Where they would
differ, the header is refused with both values. ITK also reads a zero spacing as 1 mm, a negative one as its absolute
value, and an origin that is no number as 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from challenge.names import shown

# 512 x 512 x 160 is the largest real scan of the challenge. By reckoning, every step of `predict` and of scoring needs
# less than 4 GB for so many voxels, which is why nothing larger is read or resampled.
MAX_VOXELS = 96 * 2**20
# Between header and voxels: a few kilobytes of extensions at most are usual.
_MAX_OFFSET = 2**24
_MAX_ORIGIN_MM = 1e5
_SPACINGS_MM = (1e-3, 1e3)

_SPACING_TOLERANCE = 1e-4  # float32 keeps 7 digits
_DIRECTION_TOLERANCE = 1e-3
# A quaternion in float32 loses half of its digits near a rotation by half a turn. nibabel takes one within 0.0012 rad
# of it for the half turn itself.
_FORMS_TOLERANCE = 1.3e-3
_ORIGIN_TOLERANCE_MM = 1e-3
_MILLIMETRES = (0, 2)  # not said, and said
# Intents for which ITK makes vectors or matrices of a volume: from GENMATRIX to QUATERNION, and the colours.
_VECTOR_INTENTS = {*range(1004, 1011), 2003, 2004}
# From right, anterior, superior, which NIfTI has, to left, posterior, superior, which ITK has.
_RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])


class CaseError(Exception):
    """A bad scan or label map. The message says what was expected and found, and what to do. Other cases continue."""

    def __init__(self, message: str) -> None:
        """Keep the message with the names in it made printable."""
        super().__init__("\n".join(map(shown, message.split("\n"))))


@dataclass(frozen=True)
class Geometry:
    """An image's grid in ITK's order x, y, z: size in voxels, spacing and origin in mm, direction cosines by rows."""

    size_xyz: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]
    direction: tuple[float, ...]

    def same_place(self, other: "Geometry", tolerance: float = 1e-3) -> bool:
        """Tell whether both grids have the same size and agree within `tolerance`, in mm and direction cosines."""
        return self.size_xyz == other.size_xyz and all(
            np.allclose(mine, theirs, rtol=0, atol=tolerance)
            for mine, theirs in (
                (self.spacing_mm, other.spacing_mm),
                (self.origin_mm, other.origin_mm),
                (self.direction, other.direction),
            )
        )

    def __str__(self) -> str:
        """Return size, spacing, origin and direction in one line."""
        size = " x ".join(map(str, self.size_xyz))
        spacing = " x ".join(f"{s:.4g}" for s in self.spacing_mm)
        origin = ", ".join(f"{o:.4g}" for o in self.origin_mm)
        direction = ", ".join(f"{d:.3g}" for d in self.direction)
        return f"{size} voxels, {spacing} mm, origin ({origin}), direction ({direction})"


@dataclass(frozen=True)
class Layout:
    """How the voxels are stored in the uncompressed file: their offset in bytes, `dtype`, and how they are scaled.

    A voxel's value is `slope` times what is stored, plus `inter`; a slope of None stands for no scaling.
    """

    offset: int
    size_xyz: tuple[int, int, int]
    dtype: np.dtype[Any]
    slope: float | None
    inter: float

    @property
    def voxels(self) -> int:
        """The number of voxels."""
        return math.prod(self.size_xyz)

    @property
    def voxel_bytes(self) -> int:
        """The number of bytes that they take."""
        return self.voxels * self.dtype.itemsize


# The length of the longest header, and of the shortest.
LONGEST, SHORTEST = nibabel.Nifti2Header.sizeof_hdr, nibabel.Nifti1Header.sizeof_hdr


def parse_header(name: str, head: bytes) -> tuple[Layout, Geometry]:
    """Check the first `LONGEST` bytes of a NIfTI file, or the whole file if it is shorter, and read what they say.

    Raises:
        CaseError: no NIfTI header; or one that is not of a 3-D scalar image of at most `MAX_VOXELS` voxels, that has an
            impossible offset, scaling, spacing, direction or origin, or that contradicts itself.
    """
    header = _header(name, head)
    size_xyz = _size(name, header)
    if (intent := int(header["intent_code"])) in _VECTOR_INTENTS:
        raise CaseError(f"{name}: expected an image of scalars, got the intent code {intent}, of vectors; set it to 0")
    layout = Layout(_offset(name, header), size_xyz, _dtype(name, header), *_scaling(name, header))
    return layout, _geometry(name, header, size_xyz)


def checked_grid(
    name: str,
    size_xyz: tuple[int, int, int],
    spacing_mm: Sequence[float],
    cosines: NDArray[np.float64],
    origin_mm: Sequence[float],
) -> Geometry:
    """Return the grid that another format's header tells, after the same checks as for NIfTI.

    Args:
        name: of the file.
        size_xyz: in voxels.
        spacing_mm: x, y, z.
        cosines: of shape `(3, 3)`, a column for each axis, in ITK's left, posterior, superior.
        origin_mm: in the same.

    Raises:
        CaseError: an impossible spacing, direction or origin.
    """
    low, high = _SPACINGS_MM
    if not all(low <= s <= high for s in spacing_mm):
        raise CaseError(f"{name}: expected spacings of {low:g} to {high:g} mm, got {list(spacing_mm)}; fix the header")
    affine = np.column_stack([cosines * np.array(spacing_mm), origin_mm])
    _, origin = _place(name, "header", affine, list(spacing_mm))
    x, y, z = spacing_mm
    left, posterior, superior = origin.tolist()
    return Geometry(size_xyz, (x, y, z), (left, posterior, superior), tuple(cosines.ravel().tolist()))


def _header(name: str, head: bytes) -> "nibabel.Nifti1Header":
    if len(head) < SHORTEST:
        raise CaseError(f"{name}: expected a NIfTI header, got {len(head)} bytes in all; copy the file again")
    for kind in (nibabel.Nifti1Header, nibabel.Nifti2Header):
        if len(head) >= kind.sizeof_hdr and kind.may_contain_header(head):
            header = kind(head[: kind.sizeof_hdr], check=False)
            if header["magic"].item() == kind.single_magic and int(header["sizeof_hdr"]) == kind.sizeof_hdr:
                return header
    raise CaseError(f"{name}: expected a NIfTI file, got something else; convert it to NIfTI (.nii.gz)")


def _size(name: str, header: "nibabel.Nifti1Header") -> tuple[int, int, int]:
    dim = [int(n) for n in header["dim"]]
    rank = dim[0]
    sizes = dim[1 : rank + 1]
    if not 1 <= rank <= 7 or any(n < 1 for n in sizes):
        raise CaseError(f"{name}: expected 3 positive dimensions, got dim = {dim}; export the scan again")
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    if len(sizes) != 3:
        advice = "split the series first" if len(sizes) > 3 else "stack the slices into a volume first"
        raise CaseError(f"{name}: expected a 3-D scan, got {len(sizes)}-D ({' x '.join(map(str, sizes))}); {advice}")
    if (voxels := math.prod(sizes)) > MAX_VOXELS:
        raise CaseError(
            f"{name}: expected at most {MAX_VOXELS:,} voxels, got a header that claims {voxels:,} "
            f"({' x '.join(map(str, sizes))}); check the header or crop the scan"
        )
    return sizes[0], sizes[1], sizes[2]


def _offset(name: str, header: "nibabel.Nifti1Header") -> int:
    offset, least = float(header["vox_offset"]), int(header.single_vox_offset)
    if not (math.isfinite(offset) and offset.is_integer() and least <= offset <= _MAX_OFFSET):
        raise CaseError(
            f"{name}: expected the voxels to begin at byte {least} to {_MAX_OFFSET:,}, got vox_offset = {offset:g}; "
            "export the file again"
        )
    return int(offset)


def _dtype(name: str, header: "nibabel.Nifti1Header") -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = header.get_data_dtype()
    except (nibabel.spatialimages.HeaderDataError, KeyError) as error:
        raise CaseError(
            f"{name}: expected integer or real voxels, got an unknown type ({error}); convert the file"
        ) from error
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise CaseError(f"{name}: expected integer or real voxels of at most 64 bits, got {dtype}; convert the file")
    return dtype


def _scaling(name: str, header: "nibabel.Nifti1Header") -> tuple[float | None, float]:
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    unscaled = slope == 0 or not math.isfinite(slope)  # by the standard, and for nibabel and ITK
    if unscaled and (inter == 0 or not math.isfinite(inter)):
        return None, 0.0
    if unscaled or not math.isfinite(inter):  # readers differ
        raise CaseError(
            f"{name}: expected a slope and an intercept, got scl_slope = {slope:g} and scl_inter = {inter:g}; "
            "fix them in the header"
        )
    return (None, 0.0) if (slope, inter) == (1, 0) else (slope, inter)


def _geometry(name: str, header: "nibabel.Nifti1Header", size_xyz: tuple[int, int, int]) -> Geometry:
    spacing = [float(s) for s in header["pixdim"][1:4]]
    if not all(np.isfinite(s) and s > 0 for s in spacing):
        raise CaseError(f"{name}: expected three spacings above 0 mm, got {spacing}; fix pixdim in the header")
    low, high = _SPACINGS_MM
    if not all(low <= s <= high for s in spacing):
        raise CaseError(f"{name}: expected spacings of {low:g} to {high:g} mm, got {spacing}; fix pixdim in the header")
    if (unit := int(header["xyzt_units"]) % 8) not in _MILLIMETRES:
        raise CaseError(f"{name}: expected millimetres, got the unit {unit} in xyzt_units; convert the header to mm")
    forms = _forms(name, header)
    if not forms:
        # Nothing is said about the patient. ITK's answer, because the scan's label map gets the same.
        return Geometry(size_xyz, (spacing[0], spacing[1], spacing[2]), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel()))
    places = {form: _place(name, form, affine, spacing) for form, affine in forms.items()}
    directions, origins = [d for d, _ in places.values()], [o for _, o in places.values()]
    if not (
        np.allclose(directions[0], directions[-1], rtol=0, atol=_FORMS_TOLERANCE)
        and np.allclose(origins[0], origins[-1], rtol=1e-6, atol=_ORIGIN_TOLERANCE_MM)
    ):
        raise CaseError(
            f"{name}: expected sform and qform to agree, got direction {_listed(directions[0])} and origin "
            f"{_listed(origins[0])} in the sform, {_listed(directions[-1])} and {_listed(origins[-1])} in the qform; "
            "keep one of them"
        )
    x, y, z = (origins[0] * _RAS_TO_LPS).tolist()
    direction = directions[0] * _RAS_TO_LPS[:, None]
    return Geometry(size_xyz, (spacing[0], spacing[1], spacing[2]), (x, y, z), tuple(direction.ravel().tolist()))


def _forms(name: str, header: "nibabel.Nifti1Header") -> dict[str, NDArray[np.float64]]:
    """Return the affines `(3, 4)` that a header holds, from voxels to mm, the one that counts first."""
    forms = {}
    if header["sform_code"] > 0:
        forms["sform"] = np.array([header["srow_x"], header["srow_y"], header["srow_z"]], dtype=np.float64)
    if header["qform_code"] > 0:
        try:
            affine = header.get_qform()[:3]
        except (ValueError, nibabel.spatialimages.HeaderDataError) as error:
            raise CaseError(f"{name}: expected a rotation in the header, got a bad quaternion; fix qform") from error
        forms["qform"] = affine.astype(np.float32).astype(np.float64)  # as ITK, which keeps it in float32
    return forms


def _place(
    name: str, form: str, affine: NDArray[np.float64], spacing: list[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return an affine's direction cosines `(3, 3)`, a column for each axis, and its origin, after checks."""
    columns, origin = affine[:, :3], affine[:, 3]
    if not (np.isfinite(origin).all() and (np.abs(origin) <= _MAX_ORIGIN_MM).all()):
        raise CaseError(
            f"{name}: expected an origin within {_MAX_ORIGIN_MM:g} mm, got {_listed(origin)}; fix the {form}"
        )
    lengths = np.sqrt((columns**2).sum(axis=0))
    singular = not np.isfinite(columns).all() or (lengths == 0).any()
    if singular or abs(np.linalg.det(columns / lengths)) < _DIRECTION_TOLERANCE:
        raise CaseError(
            f"{name}: expected three axes in the header, got a singular direction {_listed(columns)}; fix the {form}"
        )
    cosines: NDArray[np.float64] = columns / lengths
    if not np.allclose(cosines.T @ cosines, np.eye(3), atol=_DIRECTION_TOLERANCE):
        raise CaseError(
            f"{name}: expected perpendicular axes, got a sheared direction {_listed(columns)}; resample the scan first"
        )
    if not np.allclose(lengths, spacing, rtol=_SPACING_TOLERANCE, atol=0):
        raise CaseError(
            f"{name}: expected one spacing, got {_listed(np.array(spacing))} mm in pixdim and {_listed(lengths)} mm in "
            f"the {form}; correct the one that is wrong"
        )
    return cosines, origin


def _listed(values: NDArray[np.float64]) -> str:
    return f"({', '.join(f'{value:.6g}' for value in values.ravel())})"
