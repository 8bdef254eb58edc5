"""What a container writes: a folder with a limit, and the label maps that are copied out of it.

Nothing in this folder is trusted. It is reached by descriptor, no link in it is followed, and only regular files with
the expected names leave it, without their modes, for a folder that no container ever sees.
"""

import errno
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import docker
from docker.types import Mount

from challenge.contract import label_file
from challenge.files import written_whole
from challenge.names import shown_briefly
from evaluation.runner.keeper import NoCappedVolumeError, capped_volume
from evaluation.runner.record import Settings

OUTPUT = "/output"
_GB = 2**30


@dataclass
class OutputFolder:
    """A container's output folder: how to mount it, and a descriptor of it.

    `capped` says that the kernel holds the limit; otherwise `excess` measures, and the caller must stop the container.
    `copied_bytes` counts what has been copied, since a file with holes is larger than what it takes of the limit.
    """

    mount: Mount
    descriptor: int
    max_bytes: int
    max_files: int
    capped: bool
    copied_bytes: int = 0

    def has(self, name: str) -> bool:
        """Tell whether there is anything under this name."""
        try:
            os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except OSError:
            return False
        return True

    def names(self) -> list[str]:
        """List what the folder holds, up to its limit of files; empty where the submission has locked its folder."""
        try:
            with os.scandir(self.descriptor) as entries:
                return [entry.name for entry in islice(entries, self.max_files)]
        except OSError:
            return []

    def excess(self) -> str | None:
        """Say how the folder exceeds its limits; None where it does not."""
        if self.capped:
            usage = os.fstatvfs(self.descriptor)
            if usage.f_bavail == 0:
                return f"{self.max_bytes / _GB:.3g} GB, all that it may write"
            return f"{self.max_files} files, all that it may make" if usage.f_favail == 0 else None
        try:
            size, files = self._measure()
        except (RecursionError, OSError):
            return "folders that cannot be measured: locked, or nested too deeply"
        if size > self.max_bytes:
            return f"{size / _GB:.3g} GB"
        return f"more than {self.max_files} files" if files > self.max_files else None

    def _measure(self) -> tuple[int, int]:
        size = files = 0
        for _, folders, names, descriptor in os.fwalk(".", dir_fd=self.descriptor, onerror=_raise):
            for name in (*folders, *names):
                with suppress(FileNotFoundError):
                    size += os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_blocks * 512
                files += 1
            if files > self.max_files:
                break
        return size, files

    def copy_label_map(self, case: str, folder: Path) -> str | None:
        """Copy a case's label map to a folder; return what is wrong where there is no regular file of that name."""
        name = label_file(case)
        try:
            mode = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False).st_mode
            if not stat.S_ISREG(mode):
                kind = "a link" if stat.S_ISLNK(mode) else "a folder" if stat.S_ISDIR(mode) else "a special file"
                return f"{name}: expected a file, got {kind}; write the file itself"
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.descriptor)
            with os.fdopen(descriptor, "rb") as source:
                size, left = os.fstat(descriptor).st_size, self.max_bytes - self.copied_bytes
                if size > left:
                    return f"{name}: expected at most {left} bytes, got {size}; write a compressed label map"
                self.copied_bytes += size
                _copy(source, size, folder / name)
        except FileNotFoundError:
            return f"{name}: expected a label map, got none{self._similar(case)}"
        except OSError as error:
            return f"{name}: expected a file that can be read and copied, got: {error.strerror}"
        return None

    def _similar(self, case: str) -> str:
        near = [name for name in self.names() if case in name and not name.partition(case)[2][:1].isdigit()]
        shown = ", ".join(shown_briefly(name) for name in sorted(near)[:3])
        return f" but {shown}; name it {label_file(case)}" if near else "; see the log"


@contextmanager
def output_folder(engine: docker.DockerClient, settings: Settings) -> Iterator[OutputFolder]:
    """Yield an empty output folder for one container; it is gone after the block.

    It is a capped volume where the engine gives one, otherwise a folder on this machine's disk whose limit is polled.
    """
    limits = (settings.max_output_bytes, settings.max_output_files)
    with ExitStack() as held:
        try:
            name, descriptor = held.enter_context(capped_volume(engine, settings))
            yield OutputFolder(Mount(OUTPUT, name, type="volume", no_copy=True), descriptor, *limits, capped=True)
            return
        except NoCappedVolumeError:
            pass
        folder = held.enter_context(_private_folder())
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        held.callback(os.close, descriptor)
        yield OutputFolder(Mount(OUTPUT, str(folder), type="bind"), descriptor, *limits, capped=False)


@contextmanager
def _private_folder() -> Iterator[Path]:
    """Yield a folder that any container may write to, inside one that no other user of this machine can enter."""
    private = Path(tempfile.mkdtemp(prefix="crossmoda-grl-"))  # mode 0700
    try:
        folder = private / "output"
        folder.mkdir()
        folder.chmod(0o777)
        yield folder
    finally:
        # Programs, because a submission can nest folders deeper than Python's recursion goes.
        for command in (["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
            subprocess.run([*command, "--", str(private)], check=False, stderr=subprocess.DEVNULL)


def extra_names(output: OutputFolder, cases: Sequence[str]) -> list[str]:
    """Name what the folder holds besides the label maps of these cases."""
    return sorted(set(output.names()) - {label_file(case) for case in cases})


def _copy(source: BinaryIO, size: int, path: Path) -> None:
    with written_whole(path) as partial, partial.open("wb") as target:
        shutil.copyfileobj(source, target)
        if target.tell() != size:
            raise OSError(errno.EIO, f"{target.tell()} of {size} bytes")


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
