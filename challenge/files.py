"""Files: read only where they are regular files, and written whole.

A reader sees the old file or the new one, never a partial one, and never what a link or a pipe of that name leads to.
Where the system has no locks (Windows), nothing is held, and what a killed process left stays there.
"""

import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def _flags(*names: str) -> int:
    """Join flags of `os.open`. Those that the system does not have count for nothing; Windows needs `O_BINARY`."""
    return sum(getattr(os, name, 0) for name in {*names, "O_CLOEXEC", "O_BINARY"})


_READ = _flags("O_RDONLY", "O_NOFOLLOW", "O_NONBLOCK")
_READ_FOLDER = _flags("O_RDONLY", "O_DIRECTORY")
_WRITE_NEW = _flags("O_RDWR", "O_CREAT", "O_EXCL", "O_NOFOLLOW")


class NotAFileError(OSError):
    """There is something, but no regular file: a folder, a pipe, a device, or a link that leads away."""


def open_regular(path: Path, *, within: Path | None = None) -> BinaryIO:
    """Open a regular file to read it. Nothing else is opened, so that a pipe cannot make the caller wait.

    Args:
        path: of the file, or of a link to it.
        within: the folder that a link must not leave, for files that somebody else has put there.

    Raises:
        NotAFileError: the path leads to something else, or out of `within`.
        OSError: the file is missing or cannot be read.
    """
    try:
        place = path.resolve()
    except RuntimeError as error:  # Python 3.11 has no OSError for it
        raise NotAFileError("a link to itself") from error
    if within is not None and not place.is_relative_to(within.resolve()):
        raise NotAFileError("a link that leaves its folder")
    # A pipe does not block with O_NONBLOCK, and a link that takes the file's place meanwhile is not followed.
    descriptor = os.open(place, _READ)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise NotAFileError(_KINDS.get(stat.S_IFMT(mode), "a special file"))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path, at_most_bytes: int) -> bytes:
    """Read a regular file of at most so many bytes.

    Raises:
        OSError: as `open_regular`; also for a larger file.
    """
    with open_regular(path) as file:
        content = file.read(at_most_bytes + 1)
    if len(content) > at_most_bytes:
        raise OSError(f"more than {at_most_bytes / 2**20:g} MB")
    return content


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a new hidden path beside `path` to write to. On success the file replaces `path`, otherwise it is removed.

    Nobody can have put anything there before, and two writers of one path do not meet: the last one's file remains.
    What a killed process left is removed by the next writer of the same path.

    Raises:
        OSError: the folder is missing or cannot be written.
    """
    partial, descriptor = _new_partial(path)
    held: int | None = descriptor
    try:
        yield partial
        if not _is_at(partial, descriptor):
            raise OSError(f"{path}: expected no other writer, got another file in its place; try again")
        os.fsync(descriptor)
        if fcntl is None:  # Windows does not rename an open file
            os.close(descriptor)
            held = None
        partial.replace(path)
    finally:
        if held is not None:
            os.close(held)
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file that is whole or absent.

    Raises:
        OSError: the file cannot be written.
    """
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes that hold it too, without leaving a file in it.

    Where the system or the file system has no locks, nothing is held.

    Raises:
        OSError: another process holds the folder, or there is none.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, _READ_FOLDER)
    try:
        if not _locked(descriptor):
            raise OSError("another process that writes to it")
        yield
    finally:
        os.close(descriptor)


def _new_partial(path: Path) -> tuple[Path, int]:
    """Make an empty hidden file with a new name; return its path and a descriptor that holds its lock."""
    _remove_abandoned(path)
    while True:
        # Keep the file's ending: ITK chooses the format by it.
        partial = path.with_name(f".partial-{secrets.token_hex(8)}-{path.name}")
        descriptor = os.open(partial, _WRITE_NEW, 0o666)
        if _locked(descriptor) and _is_at(partial, descriptor):
            return partial, descriptor
        os.close(descriptor)  # another writer took it for abandoned, before it was locked


def _remove_abandoned(path: Path) -> None:
    """Remove what killed writers of `path` left: hidden files that no process holds."""
    if fcntl is None:
        return
    named = re.compile(r"\.partial-[0-9a-f]{16}-" + re.escape(path.name))
    for entry in os.scandir(path.parent):
        if named.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
            with suppress(OSError):
                descriptor = os.open(entry.path, _READ)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(entry.path)
                finally:
                    os.close(descriptor)


def _locked(descriptor: int) -> bool:
    """Lock a file or folder; False if another process holds it. Without locks it counts as free."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    """Tell whether a path is, itself and not through a link, the file that is open."""
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(descriptor))
