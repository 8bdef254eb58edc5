"""A container's log, followed without ever making the container wait, and capped in bytes."""

import codecs
import re
import threading
from collections import deque
from collections.abc import Iterator
from queue import SimpleQueue
from typing import TYPE_CHECKING

from evaluation.runner.observers import Observer

if TYPE_CHECKING:
    from docker.models.containers import Container

# So much of a log is shown line by line; of the rest, the end is kept.
MAX_LOG_BYTES = 2**24
_END_BYTES = 2**16
_TAIL_LINES = 40
_MAX_LINE_CHARACTERS = 2000


class LogFollower:
    """Passes each line of a container's log on in printable characters, up to a limit, and keeps the last ones.

    One thread takes the log from the engine as fast as it comes and does nothing else, because a container that prints
    waits for its reader. Another one cuts lines and passes them on. `size_bytes` counts the whole log.
    """

    _ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")

    def __init__(self, observer: Observer, limit_bytes: int = MAX_LOG_BYTES) -> None:
        """Pass lines to `observer`, until the log has more than `limit_bytes`."""
        self.size_bytes = 0
        self._observer = observer
        self._limit_bytes = limit_bytes
        self._shown: SimpleQueue[bytes | None] = SimpleQueue()
        self._end = b""
        self._left_out_bytes = 0
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._thread: threading.Thread | None = None

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines."""
        return tuple(self._tail)

    def follow(self, container: "Container") -> None:
        """Follow the log from now on."""
        self.read(container.attach(stream=True, logs=False))

    def read(self, chunks: Iterator[bytes]) -> None:
        """Read a log that comes in chunks, in two threads."""
        threading.Thread(target=self._drain, args=(chunks,), daemon=True).start()
        self._thread = threading.Thread(target=self._pass_on, daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait for the last lines after the container has ended."""
        if self._thread:
            self._thread.join(timeout=10)

    def _drain(self, chunks: Iterator[bytes]) -> None:
        try:
            for chunk in chunks:
                if self.size_bytes < self._limit_bytes:
                    self._shown.put(chunk)
                else:
                    kept = (self._end + chunk)[-_END_BYTES:]
                    self._left_out_bytes += len(self._end) + len(chunk) - len(kept)
                    self._end = kept
                self.size_bytes += len(chunk)
        finally:
            self._shown.put(None)

    def _pass_on(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        rest = ""
        while (chunk := self._shown.get()) is not None:
            rest = self._cut(rest + decoder.decode(chunk))
        if self._left_out_bytes:
            self._take(rest)
            self._observer.log(f"... {self._left_out_bytes} bytes of the log are left out ...")
            rest = ""
        self._take(self._cut(rest + decoder.decode(self._end, final=True)))

    def _cut(self, text: str) -> str:
        """Take the lines of a text; return what follows the last one."""
        # A progress bar redraws its line after a carriage return. Each drawing counts as a line.
        *lines, rest = re.split(r"\r\n|\r(?!$)|\n", text)
        if len(rest) > _MAX_LINE_CHARACTERS:
            lines.append(rest)
            rest = ""
        for line in lines:
            self._take(line)
        return rest

    def _take(self, line: str) -> None:
        printable = self._ESCAPES.sub("", line[: 2 * _MAX_LINE_CHARACTERS]).rstrip()[:_MAX_LINE_CHARACTERS]
        if printable:
            self._tail.append(printable)
            self._observer.log(printable)
