"""Scans and headers for tests: small NIfTI files, sound ones and ones with a header that is not."""

import gzip
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

# Byte offsets in a NIfTI-1 header.
DIM, DATATYPE, PIXDIM, SCL_SLOPE, QFORM_CODE, SROW = 40, 70, 76, 112, 252, 280


def make_image(
    array: np.ndarray,
    spacing_mm: Sequence[float] = (0.5, 0.5, 1.5),
    origin_mm: Sequence[float] = (0.0, 0.0, 0.0),
    direction: Sequence[float] = (1, 0, 0, 0, 1, 0, 0, 0, 1),
) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing_mm)
    image.SetOrigin(origin_mm)
    image.SetDirection([float(d) for d in direction])
    return image


def noise(shape: tuple[int, ...], seed: int = 0, dtype: str = "int16") -> np.ndarray:
    return np.random.default_rng(seed).normal(60, 10, shape).astype(dtype)


def write_scan(path: Path, array: np.ndarray | None = None, **geometry: Sequence[float]) -> Path:
    sitk.WriteImage(make_image(noise((12, 20, 16)) if array is None else array, **geometry), str(path))
    return path


def edit_header(path: Path, edit: Callable[[bytearray], None]) -> Path:
    content = bytearray(gzip.decompress(path.read_bytes()))
    edit(content)
    path.write_bytes(gzip.compress(bytes(content)))
    return path


def pack(form: str, offset: int, *values: float) -> Callable[[bytearray], None]:
    return lambda content: struct.pack_into("<" + form, content, offset, *values)


def set_sform(*rows: float) -> Callable[[bytearray], None]:
    def edit(content: bytearray) -> None:
        struct.pack_into("<hh", content, QFORM_CODE, 0, 1)
        struct.pack_into("<12f", content, SROW, *rows)

    return edit


OBLIQUE = (0.9362934, -0.2750958, 0.2183507, 0.2896295, 0.9564251, -0.0369570, -0.1986693, 0.0978434, 0.9751703)
FLIPPED = (1, 0, 0, 0, -1, 0, 0, 0, 1)
PERMUTED = (0, 0, 1, 1, 0, 0, 0, 1, 0)
