"""What is followed while a container runs: its log, its memory, the label maps that appear."""

import codecs
import contextlib
import os
import re
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import docker
import requests

from challenge.contract import label_file
from evaluation.runner.observers import Observer

if TYPE_CHECKING:
    from docker.models.containers import Container

_TAIL_LINES = 40
_MAX_LINE_CHARACTERS = 2000


class LogFollower:
    """Follows a container's log in a thread: passes each line on in printable characters, and keeps the last ones."""

    _ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")

    def __init__(self, observer: Observer) -> None:
        """Pass lines to `observer`."""
        self._observer = observer
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._thread: threading.Thread | None = None

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines."""
        return tuple(self._tail)

    def follow(self, container: "Container") -> None:
        """Follow the log from now on."""
        chunks = container.attach(stream=True, logs=False)
        self._thread = threading.Thread(target=self._read, args=(chunks,), daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait for the last lines after the container has ended."""
        if self._thread:
            self._thread.join(timeout=10)

    def _read(self, chunks: Iterator[bytes]) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        rest = ""
        for chunk in chunks:
            # A progress bar redraws its line after a carriage return. Each drawing counts as a line.
            *lines, rest = re.split(r"\r\n|\r(?!$)|\n", rest + decoder.decode(chunk))
            if len(rest) > _MAX_LINE_CHARACTERS:
                lines.append(rest)
                rest = ""
            for line in lines:
                self._take(line)
        self._take(rest)

    def _take(self, line: str) -> None:
        printable = self._ESCAPES.sub("", line).rstrip()[:_MAX_LINE_CHARACTERS]
        if printable:
            self._tail.append(printable)
            self._observer.log(printable)


class MemoryMonitor:
    """Measures a container's peak memory: the engine's samples, read in a thread, and the kernel's high-water mark."""

    # cgroup v2 under systemd, v2 without, v1.
    _KERNEL_PEAKS = (
        "/sys/fs/cgroup/system.slice/docker-{id}.scope/memory.peak",
        "/sys/fs/cgroup/docker/{id}/memory.peak",
        "/sys/fs/cgroup/memory/docker/{id}/memory.max_usage_in_bytes",
    )

    def __init__(self, engine: docker.DockerClient) -> None:
        """Ask `engine` for samples."""
        self._engine = engine
        self._kernel_files: list[Path] = []
        self.peak_bytes = 0
        self.kernel_peak_bytes = 0

    def follow(self, container: "Container") -> None:
        """Measure from now on, until the container ends."""
        identity = str(container.id)
        self._kernel_files = [Path(path.format(id=identity)) for path in self._KERNEL_PEAKS]
        threading.Thread(target=self._read, args=(identity,), daemon=True).start()

    def look(self) -> None:
        """Read the kernel's mark, if the engine runs on this machine."""
        for path in self._kernel_files:
            with contextlib.suppress(OSError, ValueError):  # another cgroup layout, or the container has just ended
                self.kernel_peak_bytes = max(self.kernel_peak_bytes, int(path.read_text()))

    def _read(self, identity: str) -> None:
        # The samples end with the container. The main thread reports why it ended, so errors need no report here.
        with contextlib.suppress(docker.errors.DockerException, requests.RequestException):
            for sample in self._engine.api.stats(identity, stream=True, decode=True):
                memory = sample.get("memory_stats", {})
                if not memory.get("usage"):  # not yet, or no longer
                    continue
                details = memory.get("stats", {})
                cache = details.get("total_inactive_file", details.get("inactive_file", 0))
                self.peak_bytes = max(self.peak_bytes, memory["usage"] - cache)
                self.kernel_peak_bytes = max(self.kernel_peak_bytes, memory.get("max_usage", 0))


class OutputWatcher:
    """Watches the output folder for label maps, and measures when each appears."""

    def __init__(self, output_folder: Path, scans: Mapping[str, Path], observer: Observer) -> None:
        """Await a label map for each scan, and tell `observer` of it."""
        self.observer = observer
        self.seconds: dict[str, float] = {}
        self._awaited = {case: output_folder / label_file(case) for case in scans}
        self._last = time.monotonic()

    def begin(self) -> None:
        """Measure from now: a container has started."""
        self._last = time.monotonic()

    def look(self) -> None:
        """Take note of new label maps."""
        now = time.monotonic()
        for case, path in self._awaited.items():
            if case not in self.seconds and os.path.lexists(path):
                self.seconds[case] = now - self._last
                self._last = now
                self.observer.case_done(len(self.seconds), len(self._awaited), case, self.seconds[case])
