"""Image files, NIfTI above all: read once, checked before they become an image, and written whole.

The format goes by the file's name: `.mha` is a MetaImage, `.nrrd` a NRRD, and everything else NIfTI.

ITK reads truncated files and NaN voxels as zeros without an error, and opens a file again that was checked before. A
label map made from such a scan looks like any other. So ITK only writes files. Here a file is opened once; its header
is checked (`challenge.headers`, `challenge.text_headers`) before a voxel is read, and the image is made of the very
bytes that were checked.
"""

import gzip
import io
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from challenge.files import NotAFileError, open_regular, written_whole
from challenge.headers import LONGEST, MAX_VOXELS, CaseError, Geometry, Layout, parse_header
from challenge.text_headers import parse_metaimage, parse_nrrd

__all__ = [
    "ENDINGS",
    "MAX_VOXELS",
    "CaseError",
    "Geometry",
    "geometry_of",
    "opened",
    "read_geometry",
    "read_image",
    "write_image",
]

# Of the files that are read and written; the longest that fits is a file's.
ENDINGS = (".nii.gz", ".nii", ".mha", ".nrrd")
_TEXT_HEADERS = {".mha": parse_metaimage, ".nrrd": parse_nrrd}

_CHUNK_BYTES = 2**20
# After the voxels: padding of some writers. More is a file whose header claims less than it holds.
_MAX_REST_BYTES = 4096


def geometry_of(image: sitk.Image) -> Geometry:
    """Return the geometry of a 3-D image."""
    return Geometry(
        size_xyz=tuple(image.GetSize()),
        spacing_mm=tuple(image.GetSpacing()),
        origin_mm=tuple(image.GetOrigin()),
        direction=tuple(image.GetDirection()),
    )


def read_image(
    path: Path, *, accept: Callable[[Geometry], None] = lambda _: None, within: Path | None = None
) -> sitk.Image:
    """Read a 3-D scalar image, of NIfTI with `scl_slope` and `scl_inter` applied.

    A NIfTI file's fourth or later dimension is dropped if its length is 1. Scaled voxels are float32 or, if stored as
    float64, float64.

    Args:
        path: of the file, or of a link to it.
        accept: is called with the image's grid before a voxel is read; raises `CaseError` for one that does not fit.
        within: the folder that a link must not leave, for files that somebody else has put there.

    Raises:
        CaseError: whatever is wrong with the file: it is missing, is no regular file or no image, is damaged, cut short
            or changed while it is read, is not 3-D, not scalar or too large, contradicts itself, has an impossible
            spacing, direction or origin, or has NaN or infinite voxels.
    """
    with opened(path, within) as raw, _header_read(path.name, raw) as (stream, head, layout, geometry):
        accept(geometry)
        image = sitk.GetImageFromArray(_read_voxels(path.name, stream, head, layout))
    image.SetSpacing(geometry.spacing_mm)
    image.SetOrigin(geometry.origin_mm)
    image.SetDirection(geometry.direction)
    return image


def read_geometry(path: Path, *, within: Path | None = None) -> Geometry:
    """Read an image's grid, from its header alone.

    Raises:
        CaseError: as `read_image`, but the voxels are not checked.
    """
    with opened(path, within) as raw, _header_read(path.name, raw) as (_, _, _, geometry):
        return geometry


def write_image(image: sitk.Image, path: Path) -> None:
    """Write an image file that is whole or absent, compressed unless it is a `.nii`; the name tells the format.

    Raises:
        OSError: the file cannot be written, for example because the disk is full. The folder is left as it was.
    """
    with written_whole(path) as partial:
        try:
            str(partial).encode()  # ITK ends the process at a name that is no UTF-8
            sitk.WriteImage(image, str(partial), useCompression=True)
            _check_written(partial, image)
        except (RuntimeError, CaseError, UnicodeEncodeError) as error:
            free_mb = shutil.disk_usage(path.parent).free / 2**20
            raise OSError(
                f"{path}: could not be written whole, {free_mb:.1f} MB are free there; "
                f"free some space or choose another folder ({str(error).splitlines()[-1]})"
            ) from error


def _check_written(path: Path, image: sitk.Image) -> None:
    """Read back what was written: ITK does not report a full disk."""
    written = read_image(path)
    if not np.array_equal(sitk.GetArrayViewFromImage(written), sitk.GetArrayViewFromImage(image)):
        raise CaseError(f"{path.name}: expected the voxels that were written, got others")


@contextmanager
def opened(path: Path, within: Path | None = None) -> Iterator[BinaryIO]:
    """Open an image file of any format. Whatever goes wrong while it is read becomes its refusal, a `CaseError`.

    `within` is the folder that a link must not leave.
    """
    name = path.name
    try:
        with open_regular(path, within=within) as raw:
            before = os.fstat(raw.fileno())
            yield raw
            after = os.fstat(raw.fileno())
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                raise CaseError(f"{name}: expected a finished file, got one that is being written; wait, and try again")
    except CaseError:
        raise
    except EOFError as error:
        raise CaseError(f"{name}: expected a whole gzip stream, got one cut short; copy the file again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise CaseError(
            f"{name}: expected a sound gzip stream, got a damaged one ({error}); copy the file again"
        ) from error
    except NotAFileError as error:
        raise CaseError(f"{name}: expected a file, got {error}; put the file itself there") from error
    except FileNotFoundError as error:
        if path.is_symlink():
            link = path.readlink()
            raise CaseError(
                f"{name}: expected a file, got a link to {link}, which does not exist; fix the link"
            ) from error
        raise CaseError(f"{name}: expected a file in {path.parent}, got none; check the path") from error
    except OSError as error:
        raise CaseError(
            f"{name}: expected a readable file, got {error.strerror or error}; check its permissions"
        ) from error
    except MemoryError as error:
        raise CaseError(f"{name}: expected a file that fits into memory, got a larger one; crop the scan") from error
    except Exception as error:  # no file, however odd, may end the run of the others
        raise CaseError(
            f"{name}: expected an image file, got one that cannot be read ({type(error).__name__}: {error}); "
            "export it again"
        ) from error


@contextmanager
def _header_read(name: str, raw: BinaryIO) -> Iterator[tuple[BinaryIO, bytes, Layout, Geometry]]:
    """Read and check a file's header. Yield the open stream, the bytes that were read of it, and what they say."""
    if (parse := _TEXT_HEADERS.get(Path(name).suffix.lower())) is not None:
        header = parse(name, raw)
        stream = cast(BinaryIO, io.BufferedReader(_Inflated(raw), _CHUNK_BYTES)) if header.compressed else raw
        yield stream, b"", header.layout, header.geometry
        return
    compressed = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    with gzip.open(raw) if compressed else nullcontext(raw) as opened:
        head = opened.read(LONGEST)
        layout, geometry = parse_header(name, head)
        yield cast(BinaryIO, opened), head, layout, geometry


class _Inflated(io.RawIOBase):
    """What a zlib or gzip stream holds, from where a file stands; its end is checked, and a bomb fills no memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._inflate, self._left = file, zlib.decompressobj(zlib.MAX_WBITS | 32), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._inflate.eof:
            given = self._left or self._file.read(_CHUNK_BYTES)
            if not given:
                raise EOFError
            data = self._inflate.decompress(given, len(buffer))
            self._left = self._inflate.unconsumed_tail
            if data:
                buffer[: len(data)] = data
                return len(data)
        return 0


def _read_voxels(name: str, stream: BinaryIO, head: bytes, layout: Layout) -> NDArray[Any]:
    """Read the rest of a file; return its voxels `(D, H, W)`, scaled. At the end gzip compares its checksum."""
    buffer = bytearray(layout.voxel_bytes)
    gap = head[layout.offset :]  # of the longer header of NIfTI-2, voxels may have been read already
    read = min(len(gap), len(buffer))
    buffer[:read] = gap[:read]
    rest = len(gap) - read
    _skip(stream, layout.offset - len(head))
    with memoryview(buffer) as view:
        while read < len(view) and (count := stream.readinto(view[read : read + _CHUNK_BYTES])):  # type: ignore[attr-defined]
            read += count
    if read < len(buffer):
        raise CaseError(
            f"{name}: expected {len(buffer):,} bytes of voxels by its header, got {read:,}; "
            "the file is cut short, copy it again"
        )
    if rest + len(stream.read(_MAX_REST_BYTES + 1)) > _MAX_REST_BYTES:
        raise CaseError(
            f"{name}: expected {len(buffer):,} bytes of voxels by its header, got more; "
            "the header is wrong, export the scan again"
        )
    voxels = np.frombuffer(buffer, layout.dtype).reshape(layout.size_xyz[::-1])
    _check_finite(name, voxels)
    if layout.slope is not None:
        voxels = _scaled(voxels, layout.slope, layout.inter)
        _check_finite(name, voxels)
    return voxels.astype(voxels.dtype.newbyteorder("="), copy=False)


def _skip(stream: BinaryIO, count: int) -> None:
    while count > 0 and (chunk := stream.read(min(count, _CHUNK_BYTES))):
        count -= len(chunk)


def _check_finite(name: str, voxels: NDArray[Any]) -> None:
    if voxels.dtype.kind == "f" and (bad := sum(int(np.count_nonzero(~np.isfinite(plane))) for plane in voxels)):
        raise CaseError(
            f"{name}: expected finite voxels, got {bad:,} of {voxels.size:,} NaN or infinite; "
            "replace them, or find out which step made them"
        )


def _scaled(voxels: NDArray[Any], slope: float, inter: float) -> NDArray[Any]:
    """Scale voxels as ITK does: computed in float64 from float32, plane by plane, which needs little memory."""
    kept = np.float64 if voxels.dtype.itemsize == 8 and voxels.dtype.kind == "f" else np.float32
    scaled = np.empty(voxels.shape, kept)
    with np.errstate(over="ignore"):
        for index, plane in enumerate(voxels):
            scaled[index] = plane.astype(kept).astype(np.float64) * slope + inter
    return scaled
