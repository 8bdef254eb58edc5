"""MetaImage (`.mha`) and NRRD (`.nrrd`) headers: checked, and read to the same two records as a NIfTI header.

Both begin with lines of text. A header that names another file for its voxels is refused: a scan from anyone could name
any file. What such headers may say beyond a 3-D scalar image in millimetres is refused too, not guessed.

Sources: ITK's MetaIO and NrrdIO, which write these files; "Definition of NRRD File Format", teem.sourceforge.net.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from challenge.headers import MAX_VOXELS, CaseError, Geometry, Layout, checked_grid

_MAX_HEADER_BYTES = 2**16

_META_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_NRRD_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
# The first two axes of NRRD's spaces, as signs from left and posterior, which ITK has.
_SPACES = {
    "left-posterior-superior": (1, 1),
    "lps": (1, 1),
    "right-anterior-superior": (-1, -1),
    "ras": (-1, -1),
    "left-anterior-superior": (1, -1),
    "las": (1, -1),
}
_VECTORS = re.compile(r"[ \t]*(\([^()]*\)[ \t]*)*")
_VECTOR = re.compile(r"\(([^()]*)\)")


@dataclass(frozen=True)
class TextHeader:
    """What a header says: how the voxels are stored, their grid, and whether they are compressed."""

    layout: Layout
    geometry: Geometry
    compressed: bool


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# All that other readers take for blank; Python's strip would also remove a no-break space.
_BLANK = " \t"
# Of the format's definition, without blanks. A misspelt one would silently leave its default in place.
# fmt: off
_NRRD_FIELDS = {
    "dimension", "type", "blocksize", "encoding", "endian", "content", "min", "max", "oldmin", "oldmax",
    "datafile", "lineskip", "byteskip", "number", "sampleunits", "space", "spacedimension", "spaceunits",
    "spaceorigin", "spacedirections", "measurementframe", "sizes", "spacings", "thicknesses", "axismins",
    "axismaxs", "centers", "centerings", "labels", "units", "kinds",
}
# fmt: on


def _set_once(name: str, fields: dict[str, str], key: str, value: str) -> None:
    """Take a header's field; of a repeated one readers would take different values."""
    if key in fields:
        raise CaseError(f"{name}: expected each field once, got {key[:60]!r} twice; export the file again")
    fields[key] = value.strip(_BLANK)


def _stated(name: str, fields: dict[str, str], *names: str) -> str:
    """Return a field by any of its names. Other readers take a default where it is missing, or misspelt."""
    found = [field for field in names if field in fields]
    if len(found) != 1:
        got = " and ".join(found) or "none"
        raise CaseError(f"{name}: expected a MetaImage header with one {names[0]}, got {got}; export the file again")
    return fields[found[0]]


def _is_true(name: str, fields: dict[str, str], *names: str) -> bool:
    """Return a MetaImage flag by any of its names, false by default. Of other words readers take the first letter."""
    if not any(field in fields for field in names):
        return False
    return _expect(name, _stated(name, fields, *names).lower(), names[0], ("true", "false"), _EXPORT) == "true"


def parse_metaimage(name: str, file: BinaryIO) -> TextHeader:
    """Read a MetaImage header from the start of a file, up to its voxels.

    Raises:
        CaseError: no such header, voxels in another file, or no 3-D scalar image in mm of at most `MAX_VOXELS` voxels.
    """
    fields: dict[str, str] = {}
    for line in _lines(name, file):
        key, sign, value = line.partition("=")
        if not sign:
            raise CaseError(f"{name}: expected a MetaImage header, got the line {line[:60]!r}; export the file again")
        _set_once(name, fields, key.strip(_BLANK), value)
        if key.strip(_BLANK) == "ElementDataFile":
            break
    _expect(name, fields.get("ElementDataFile", ""), "ElementDataFile", ("LOCAL", "local", "Local"), _ONE_FILE)
    _expect(name, fields.get("ObjectType", ""), "ObjectType", ("Image",))
    _expect(name, fields.get("BinaryData", "False").lower(), "BinaryData", ("true",))
    _expect(name, fields.get("ElementNumberOfChannels", "1"), "ElementNumberOfChannels", ("1",))
    _expect(name, fields.get("HeaderSize", "0"), "HeaderSize", ("0",))
    _expect(name, fields.get("NDims", ""), "NDims", ("3",))
    for field, neutral in (("ElementToIntensityFunctionSlope", 1.0), ("ElementToIntensityFunctionOffset", 0.0)):
        if _numbers(name, field, fields.get(field, str(neutral)), 1) != [neutral]:
            raise CaseError(f"{name}: expected unscaled voxels, got {field} = {fields[field]}; export the file again")
    swapped = _is_true(name, fields, "BinaryDataByteOrderMSB", "ElementByteOrderMSB")
    kind = fields.get("ElementType", "")
    if kind not in _META_TYPES:
        raise CaseError(f"{name}: expected integer or real voxels, got the type {kind or 'unknown'}; convert the file")
    matrix = _stated(name, fields, "TransformMatrix", "Rotation", "Orientation")
    origin = _stated(name, fields, "Offset", "Position", "Origin")
    spacing = _stated(name, fields, "ElementSpacing", "ElementSize")
    rows = np.reshape(_numbers(name, "TransformMatrix", matrix, 9), (3, 3))
    size_xyz = _size(name, _numbers(name, "DimSize", fields.get("DimSize", ""), 3))
    spacing_mm = _numbers(name, "ElementSpacing", spacing, 3)
    if not np.allclose((rows**2).sum(axis=1), 1, rtol=0, atol=1e-3):
        raise CaseError(f"{name}: expected axes of length 1, got TransformMatrix = {matrix}; export the file again")
    geometry = checked_grid(name, size_xyz, spacing_mm, rows.T, _numbers(name, "Offset", origin, 3))
    dtype = np.dtype(_META_TYPES[kind]).newbyteorder(">" if swapped else "<")
    compressed = _is_true(name, fields, "CompressedData")
    return TextHeader(Layout(0, size_xyz, dtype, None, 0.0), geometry, compressed)


def parse_nrrd(name: str, file: BinaryIO) -> TextHeader:
    """Read a NRRD header from the start of a file, up to its voxels.

    Raises:
        CaseError: no such header, voxels in another file, or no 3-D scalar image in mm of at most `MAX_VOXELS` voxels.
    """
    lines = _lines(name, file)
    if not re.fullmatch(r"NRRD000[1-5]", next(lines, "")):
        raise CaseError(f"{name}: expected a NRRD file, got something else; export it again")
    fields: dict[str, str] = {}
    for line in lines:
        if not line:
            break
        if line.startswith("#") or ":=" in line:
            continue
        key, sign, value = line.partition(": ")
        if not sign:
            raise CaseError(f"{name}: expected a NRRD header, got the line {line[:60]!r}; export the file again")
        field = key.strip(_BLANK).lower()
        if field.replace(" ", "") not in _NRRD_FIELDS:
            raise CaseError(f"{name}: expected NRRD's fields, got {field[:60]!r}; export the file again")
        _set_once(name, fields, field, value)
    for key in ("data file", "datafile"):
        if key in fields:
            _expect(name, fields[key], key, (), _ONE_FILE)
    for key in ("line skip", "lineskip", "byte skip", "byteskip"):
        _expect(name, fields.get(key, "0"), key, ("0",))
    for key in ("axis mins", "axismins", "axis maxs", "axismaxs"):
        if key in fields:
            _expect(name, fields[key], key, ())
    _expect(name, fields.get("dimension", ""), "dimension", ("3",))
    encoding = _expect(name, fields.get("encoding", "").lower(), "encoding", ("raw", "gzip", "gz"))
    for unit in re.findall(r'"([^"]*)"', fields.get("space units", "")):
        _expect(name, unit.lower(), "space units", ("mm", "millimeter", "millimetre", ""))
    kinds = {kind: code for code, names in _NRRD_TYPES.items() for kind in names}
    kind = fields.get("type", "").lower()
    if kind not in kinds:
        raise CaseError(f"{name}: expected integer or real voxels, got the type {kind or 'unknown'}; convert the file")
    dtype = np.dtype(kinds[kind])
    if dtype.itemsize > 1:
        endian = _expect(name, fields.get("endian", "").lower(), "endian", ("little", "big"))
        dtype = dtype.newbyteorder(">" if endian == "big" else "<")
    size_xyz = _size(name, _numbers(name, "sizes", fields.get("sizes", ""), 3))
    geometry = _nrrd_geometry(name, fields, size_xyz)
    return TextHeader(Layout(0, size_xyz, dtype, None, 0.0), geometry, encoding != "raw")


def _nrrd_geometry(name: str, fields: dict[str, str], size_xyz: tuple[int, int, int]) -> Geometry:
    if "space directions" not in fields:
        for key in ("space", "space dimension", "space origin"):
            if key in fields:
                raise CaseError(f"{name}: expected space directions, got none beside {key!r}; export the file again")
        spacing = _numbers(name, "spacings", fields.get("spacings", "1 1 1"), 3)
        return checked_grid(name, size_xyz, spacing, np.eye(3), [0.0, 0.0, 0.0])
    space = _expect(name, fields.get("space", "").lower(), "space", tuple(_SPACES))
    signs = np.array([*_SPACES[space], 1.0])
    columns = np.array(_vectors(name, "space directions", fields["space directions"], 3)).T * signs[:, None]
    origin = np.array(_vectors(name, "space origin", fields.get("space origin", "(0,0,0)"), 1)[0]) * signs
    lengths = np.sqrt((columns**2).sum(axis=0))
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise CaseError(f"{name}: expected three axes, got {fields['space directions']!r}; export the file again")
    return checked_grid(name, size_xyz, lengths.tolist(), columns / lengths, origin.tolist())


_EXPORT = "export the file again"
_ONE_FILE = "put header and voxels into one file"


def _expect(
    name: str, got: str, field: str, expected: tuple[str, ...], advice: str = "convert the file to NIfTI (.nii.gz)"
) -> str:
    if got not in expected:
        wanted = " or ".join(expected) or "nothing"
        raise CaseError(f"{name}: expected {wanted} for {field}, got {got[:60] or 'nothing'!r}; {advice}")
    return got


def _lines(name: str, file: BinaryIO) -> Iterator[str]:
    """Yield a header's lines, without their ends; what follows the last line that is taken is not read."""
    left = _MAX_HEADER_BYTES
    while line := file.readline(left):
        left -= len(line)
        if left <= 0:
            raise CaseError(
                f"{name}: expected a header of at most {_MAX_HEADER_BYTES:,} bytes, got more; export the file again"
            )
        text = line.decode("latin-1").rstrip("\r\n")
        if _CONTROL.search(text):  # at a zero byte other readers end the line
            raise CaseError(f"{name}: expected a header of text, got the line {text[:60]!r}; export the file again")
        yield text


def _numbers(name: str, field: str, text: str, count: int) -> list[float]:
    try:
        values = [_number(part) for part in re.split(r"[ \t,]+", text) if part]
    except ValueError:
        values = []
    if len(values) != count or not all(map(math.isfinite, values)):
        raise CaseError(f"{name}: expected {count} finite numbers for {field}, got {text[:60]!r}; export it again")
    return values


def _vectors(name: str, field: str, text: str, count: int) -> list[list[float]]:
    vectors = _VECTOR.findall(text)
    if len(vectors) != count or not _VECTORS.fullmatch(text):
        raise CaseError(f"{name}: expected {count} vectors for {field}, got {text[:60]!r}; export the file again")
    return [_numbers(name, field, vector, 3) for vector in vectors]


def _number(text: str) -> float:
    if not _NUMBER.fullmatch(text):  # Python also takes 1_0 and digits of other scripts
        raise ValueError(text)
    return float(text)


def _size(name: str, sizes: list[float]) -> tuple[int, int, int]:
    x, y, z = (int(side) for side in sizes)
    if any(side != int(side) or side < 1 for side in sizes) or x * y * z > MAX_VOXELS:
        shape = " x ".join(f"{side:g}" for side in sizes)
        raise CaseError(
            f"{name}: expected three sides and at most {MAX_VOXELS:,} voxels, got a header that claims {shape}; "
            "check the header or crop the scan"
        )
    return x, y, z
