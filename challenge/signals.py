"""Signals that stop a command: raised as an exception, so that cleanup runs, or deferred while cleanup runs."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Ctrl-C, `docker stop` and `kill`, and a terminal that is closed; Windows does not have the last.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupted(KeyboardInterrupt):
    """A signal told the process to stop. `exit_code` is 128 plus the signal's number, as in a shell."""

    def __init__(self, signal_number: int) -> None:
        """Name the signal."""
        super().__init__(signal.Signals(signal_number).name)
        self.exit_code = 128 + signal_number


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn `SIGNALS` into `Interrupted` inside the block, in the main thread.

    Signals that end a process by default need a handler too: the first process of a container does not get them
    otherwise.
    """

    def interrupt(signal_number: int, _: FrameType | None) -> None:
        raise Interrupted(signal_number)

    before = {number: signal.signal(number, interrupt) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Let signals that arrive inside the block take effect after it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread handles signals
        return
    pending: list[int] = []
    before = {n: signal.signal(n, lambda number, _: pending.append(number)) for n in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in pending:
            signal.raise_signal(late)
