"""What is followed while a container runs: its memory, and the label maps that appear."""

import contextlib
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import docker
import requests

from challenge.contract import label_file
from evaluation.runner.observers import Observer
from evaluation.runner.output import OutputFolder

if TYPE_CHECKING:
    from docker.models.containers import Container


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
    """Watches the output of one container after another for label maps, and measures when each appears."""

    def __init__(self, cases: Iterable[str], observer: Observer) -> None:
        """Await a label map for each case, and tell `observer` of it."""
        self.observer = observer
        self.seconds: dict[str, float] = {}
        self._awaited = {case: label_file(case) for case in cases}
        self._output: OutputFolder | None = None
        self._last = time.monotonic()

    def begin(self, output: OutputFolder) -> None:
        """Measure from now: a container with this output has started."""
        self._output = output
        self._last = time.monotonic()

    def look(self) -> str | None:
        """Take note of new label maps; say how the output exceeds its limits, or None."""
        if self._output is None:
            return None
        now = time.monotonic()
        for case, name in self._awaited.items():
            if case not in self.seconds and self._output.has(name):
                self.seconds[case] = now - self._last
                self._last = now
                self.observer.case_done(len(self.seconds), len(self._awaited), case, self.seconds[case])
        return self._output.excess()
