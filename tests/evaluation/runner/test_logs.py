"""A container's log: whoever reads it, the container never waits, and memory stays bounded."""

import threading
from collections.abc import Iterator

import pytest

from evaluation.runner.logs import LogFollower


class Stuck:
    """Stands for a terminal that takes no more lines until it is told to."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.moves = threading.Event()

    def log(self, line: str) -> None:
        self.moves.wait(30)
        self.lines.append(line)


@pytest.mark.parametrize("chunk", [b"x" * 99 + b"\n", b"y" * 32768, b"\xff\x1b[2J\r" * 500, b"\n" * 4096])
def test_a_log_is_taken_while_nobody_looks(chunk: bytes) -> None:
    taken = threading.Event()

    def chunks() -> Iterator[bytes]:
        for _ in range(3000):
            yield chunk
        yield b"\nthe end\n"
        taken.set()

    observer = Stuck()
    log = LogFollower(observer, limit_bytes=2**16)
    log.read(chunks())
    assert taken.wait(20)
    assert observer.lines == []
    observer.moves.set()
    log.finish()
    assert log.size_bytes == 3000 * len(chunk) + len(b"\nthe end\n")
    assert sum(map(len, observer.lines)) < 2**18
    assert log.tail[-1] == observer.lines[-1] == "the end"
    assert any("bytes of the log are left out" in line for line in observer.lines)
    assert all(line.isprintable() for line in observer.lines)
