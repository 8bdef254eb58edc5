"""NIfTI files: checked before they are read, written whole.

ITK reads truncated files and NaN voxels as zeros, a zero spacing as 1 mm, and a negative spacing as its absolute value,
all without an error. A label map made from such a scan looks like any other. Headers and voxels are therefore checked
before ITK reads the file.
"""

import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel
import numpy as np
import SimpleITK as sitk

from challenge.files import written_whole

# 512 x 512 x 160 is the largest real scan of the challenge; this is twelve times as many voxels.
MAX_VOXELS = 2**29
_CHUNK_BYTES = 2**20
_ORTHONORMAL_TOLERANCE = 1e-3


class CaseError(Exception):
    """A bad scan or label map. The message says what was expected and found, and what to do. Other cases continue."""


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


def geometry_of(image: sitk.Image) -> Geometry:
    """Return the geometry of a 3-D image or of a reader that has read an image's header."""
    return Geometry(
        size_xyz=tuple(image.GetSize()),
        spacing_mm=tuple(image.GetSpacing()),
        origin_mm=tuple(image.GetOrigin()),
        direction=tuple(image.GetDirection()),
    )


def read_image(path: Path) -> sitk.Image:
    """Read a 3-D scalar NIfTI image, `scl_slope` and `scl_inter` applied.

    A fourth or later dimension is dropped if its length is 1.

    Raises:
        CaseError: the file is missing, is no file or no NIfTI, is damaged or truncated, is not 3-D, not scalar or too
            large, has an impossible spacing or direction, or has NaN or infinite voxels.
    """
    _check_file(path)
    try:
        return sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise _itk_error(path, error) from error


def read_geometry(path: Path) -> Geometry:
    """Read an image's grid, from its header alone.

    Raises:
        CaseError: as `read_image`, but the voxels are not checked.
    """
    with _opened(path) as stream:
        _check_header(path, _first_bytes(path, stream))
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _itk_error(path, error) from error
    # ITK counts a fourth dimension of length 1 in the header, but drops it from the image.
    dimension = reader.GetDimension()
    direction = np.reshape(reader.GetDirection(), (dimension, dimension))[:3, :3]
    return Geometry(
        size_xyz=tuple(reader.GetSize()[:3]),
        spacing_mm=tuple(reader.GetSpacing()[:3]),
        origin_mm=tuple(reader.GetOrigin()[:3]),
        direction=tuple(direction.ravel().tolist()),
    )


def write_image(image: sitk.Image, path: Path) -> None:
    """Write a compressed NIfTI file that is whole or absent.

    Raises:
        OSError: the file cannot be written, for example because the disk is full. The folder is left as it was.
    """
    with written_whole(path) as partial:
        try:
            sitk.WriteImage(image, str(partial), useCompression=True)
            # ITK does not report a full disk, so read back what was written.
            _check_file(partial)
        except (RuntimeError, CaseError) as error:
            free = os.statvfs(path.parent)
            raise OSError(
                f"{path}: could not be written whole, {free.f_bavail * free.f_frsize / 2**20:.1f} MB are free there; "
                f"free some space or choose another folder ({str(error).splitlines()[-1]})"
            ) from error


@dataclass(frozen=True)
class _Layout:
    """How the voxels are stored in the uncompressed file: their offset, number and type."""

    offset: int
    voxels: int
    dtype: np.dtype[Any]

    @property
    def voxel_bytes(self) -> int:
        return self.voxels * self.dtype.itemsize


def _check_file(path: Path) -> None:
    with _opened(path) as stream:
        layout = _check_header(path, _first_bytes(path, stream))
    _check_stream(path, layout)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a NIfTI file, compressed or not. Errors while it is read become a `CaseError`."""
    if path.is_symlink() and not path.exists():
        raise CaseError(
            f"{path.name}: expected a file, got a link to {path.readlink()}, which does not exist; fix the link"
        )
    if path.is_dir():
        raise CaseError(
            f"{path.name}: expected a file, got a folder; move it away or convert the series in it to NIfTI"
        )
    try:
        with path.open("rb") as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if compressed:
                with gzip.open(raw) as stream:
                    yield cast(BinaryIO, stream)
            else:
                yield raw
    except EOFError as error:
        raise CaseError(f"{path.name}: expected a whole gzip stream, got one cut short; copy the file again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise CaseError(
            f"{path.name}: expected a sound gzip stream, got a damaged one ({error}); copy the file again"
        ) from error
    except FileNotFoundError as error:
        raise CaseError(f"{path.name}: expected a file in {path.parent}, got none; check the path") from error
    except OSError as error:
        raise CaseError(
            f"{path.name}: expected a readable file, got {error.strerror or error}; check its permissions"
        ) from error


def _first_bytes(path: Path, stream: BinaryIO) -> bytes:
    head = stream.read(nibabel.Nifti2Header.sizeof_hdr)
    if len(head) < nibabel.Nifti1Header.sizeof_hdr:
        raise CaseError(f"{path.name}: expected a NIfTI header, got {len(head)} bytes in all; copy the file again")
    return head


def _check_header(path: Path, head: bytes) -> _Layout:
    """Check a header as it is on disk; return how the voxels are stored."""
    header = _parsed_header(path, head)
    dim = [int(n) for n in header["dim"]]
    rank = dim[0]
    sizes = dim[1 : rank + 1]
    if not 1 <= rank <= 7 or any(n < 1 for n in sizes):
        raise CaseError(f"{path.name}: expected 3 positive dimensions, got dim = {dim}; export the scan again")
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    if len(sizes) != 3:
        advice = "split the series first" if len(sizes) > 3 else "stack the slices into a volume first"
        raise CaseError(
            f"{path.name}: expected a 3-D scan, got {len(sizes)}-D ({' x '.join(map(str, sizes))}); {advice}"
        )
    voxels = int(np.prod(sizes, dtype=object))
    if voxels > MAX_VOXELS:
        raise CaseError(
            f"{path.name}: expected at most {MAX_VOXELS:,} voxels, got a header that claims {voxels:,} "
            f"({' x '.join(map(str, sizes))}); check the header or crop the scan"
        )
    try:
        dtype = header.get_data_dtype()
    except (nibabel.spatialimages.HeaderDataError, KeyError) as error:
        raise CaseError(
            f"{path.name}: expected integer or real voxels, got an unknown type ({error}); convert the file"
        ) from error
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise CaseError(
            f"{path.name}: expected integer or real voxels of at most 64 bits, got {dtype}; convert the file"
        )
    spacing = [float(s) for s in header["pixdim"][1:4]]
    if not all(np.isfinite(s) and s > 0 for s in spacing):
        raise CaseError(f"{path.name}: expected three spacings above 0 mm, got {spacing}; fix pixdim in the header")
    _check_direction(path, header)
    return _Layout(int(header["vox_offset"]), voxels, dtype)


def _parsed_header(path: Path, head: bytes) -> "nibabel.Nifti1Header":
    for kind in (nibabel.Nifti1Header, nibabel.Nifti2Header):
        if kind.may_contain_header(head):
            header = kind(head[: kind.sizeof_hdr], check=False)
            if bytes(header["magic"]).rstrip(b"\0")[:3] in (b"n+1", b"n+2"):
                return header
    raise CaseError(f"{path.name}: expected a NIfTI file, got something else; convert it to NIfTI (.nii.gz)")


def _check_direction(path: Path, header: "nibabel.Nifti1Header") -> None:
    """Refuse a singular or sheared direction, from the sform or the qform."""
    if header["sform_code"] > 0:
        columns = np.array([header["srow_x"], header["srow_y"], header["srow_z"]], dtype=np.float64)[:, :3]
    elif header["qform_code"] > 0:
        try:
            columns = np.asarray(header.get_qform(), dtype=np.float64)[:, :3][:3]
        except (ValueError, nibabel.spatialimages.HeaderDataError) as error:
            raise CaseError(
                f"{path.name}: expected a rotation in the header, got a bad quaternion; fix qform"
            ) from error
    else:
        return
    lengths = np.linalg.norm(columns, axis=0)
    if not np.isfinite(columns).all() or (lengths == 0).any():
        raise CaseError(
            f"{path.name}: expected three axes in the header, got a singular direction {columns.tolist()}; fix sform"
        )
    cosines = columns / lengths
    if abs(np.linalg.det(cosines)) < _ORTHONORMAL_TOLERANCE:
        raise CaseError(
            f"{path.name}: expected three axes in the header, got a singular direction {columns.tolist()}; fix sform"
        )
    if not np.allclose(cosines.T @ cosines, np.eye(3), atol=_ORTHONORMAL_TOLERANCE):
        raise CaseError(
            f"{path.name}: expected perpendicular axes, got a sheared direction {columns.tolist()}; "
            "resample the scan first"
        )


def _check_stream(path: Path, layout: _Layout) -> None:
    """Read the whole file: check gzip's checksum, and that all voxels are present and finite."""
    read_bytes = bad_voxels = 0
    with _opened(path) as stream:
        stream.read(layout.offset)
        while chunk := stream.read(min(_CHUNK_BYTES, layout.voxel_bytes - read_bytes)):
            read_bytes += len(chunk)
            if layout.dtype.kind == "f":
                whole = len(chunk) - len(chunk) % layout.dtype.itemsize
                bad_voxels += int(np.count_nonzero(~np.isfinite(np.frombuffer(chunk[:whole], layout.dtype))))
        stream.read(1)  # gzip compares its checksum at the stream's end
    if read_bytes < layout.voxel_bytes:
        raise CaseError(
            f"{path.name}: expected {layout.voxel_bytes:,} bytes of voxels by its header, got {read_bytes:,}; "
            "the file is cut short, copy it again"
        )
    if bad_voxels:
        raise CaseError(
            f"{path.name}: expected finite voxels, got {bad_voxels:,} of {layout.voxels:,} NaN or infinite; "
            "replace them, or find out which step made them"
        )


def _itk_error(path: Path, error: RuntimeError) -> CaseError:
    reason = str(error).strip().splitlines()[-1]
    return CaseError(f"{path.name}: expected a NIfTI scan that ITK can read, got: {reason}; export the scan again")
