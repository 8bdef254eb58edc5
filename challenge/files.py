"""Files written whole: a reader sees the old file or the new one, never a partial one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a hidden path beside `path` to write to. On success the file replaces `path`, otherwise it is removed.

    A path always gets the same hidden name, so the next run overwrites what a killed process left.

    Raises:
        OSError: the folder is missing or cannot be written.
    """
    # Keep the file's ending: ITK chooses the format by it.
    partial = path.with_name(f".partial-{path.name}")
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file that is whole or absent.

    Raises:
        OSError: the file cannot be written.
    """
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")
