"""Files that carry their own checksum: a seal at their end, of everything before it.

A reader of the content alone, such as `numpy.load`, does not see the seal.
"""

import hashlib
import os
from pathlib import Path

from challenge.files import open_regular

_MARK = b"\nsha256:"
_SEAL_BYTES = len(_MARK) + 64
_CHUNK_BYTES = 2**22


class DamagedFileError(Exception):
    """The file's content is not what was sealed; the message says what was expected and what was found."""


def seal(path: Path) -> None:
    """Append to a file the checksum of what it holds.

    Raises:
        OSError: it cannot be read or written.
    """
    digest = _digest(path, path.stat().st_size)
    with path.open("ab") as file:
        file.write(_MARK + digest.encode())


def check_seal(path: Path) -> None:
    """Read a sealed file once, and compare it with its checksum.

    Raises:
        DamagedFileError: the checksum is missing or another.
        OSError: the file cannot be read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size - _SEAL_BYTES
        file.seek(max(size, 0))
        found = file.read()
    if size < 0 or not found.startswith(_MARK):
        raise DamagedFileError(f"expected a checksum at the end, got {max(size + _SEAL_BYTES, 0):,} bytes without one")
    if (digest := _digest(path, size)).encode() != found[len(_MARK) :]:
        raise DamagedFileError(f"expected the content that was written, got another (sha256 {digest[:12]}...)")


def unsealed(content: bytes) -> bytes:
    """Return the content of a sealed file without its seal; one that never had a seal comes back as it is.

    Raises:
        DamagedFileError: the file is empty, or the checksum is another.
    """
    if not content:
        raise DamagedFileError("expected content, got an empty file")
    body, found = content[:-_SEAL_BYTES], content[-_SEAL_BYTES:]
    if not found.startswith(_MARK):
        return content
    if (digest := hashlib.sha256(body).hexdigest()).encode() != found[len(_MARK) :]:
        raise DamagedFileError(f"expected the content that was written, got another (sha256 {digest[:12]}...)")
    return body


def _digest(path: Path, size: int) -> str:
    """Return the sha256 of a file's first `size` bytes."""
    digest, left = hashlib.sha256(), size
    with open_regular(path) as file:
        while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
            digest.update(chunk)
            left -= len(chunk)
    return digest.hexdigest()
