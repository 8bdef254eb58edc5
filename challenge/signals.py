"""Being told to stop: signals become an exception, so that what is in work is cleaned up on the way out."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Ctrl-C, `docker stop` and `kill`, and a terminal that is closed.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """The process was told to stop; `exit_code` is 128 plus the signal's number, as a shell says it."""

    def __init__(self, signal_number: int) -> None:
        """Keep the signal."""
        super().__init__(signal.Signals(signal_number).name)
        self.exit_code = 128 + signal_number


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn `SIGNALS` into `Interrupted` inside the block, in the main thread.

    A handler is needed even for signals that end a process by default: as a container's first process it would not
    get them at all.
    """

    def interrupt(signal_number: int, _: FrameType | None) -> None:
        raise Interrupted(signal_number)

    before = {number: signal.signal(number, interrupt) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
