"""Requests to stop: a signal is noted, and the run ends at the next moment at which everything can be saved."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from challenge.signals import SIGNALS, Interrupted


class StopRequest:
    """Whether a signal has asked the run to stop."""

    signal_number: int | None = None

    def check(self) -> None:
        """Raise `Interrupted` if one has.

        Raises:
            Interrupted: with the signal's exit code.
        """
        if self.signal_number is not None:
            raise Interrupted(self.signal_number)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Note `SIGNALS` inside the block, instead of ending in the middle of a step; a second signal ends at once.

    Raises:
        Interrupted: at the second signal.
    """
    request = StopRequest()

    def note(signal_number: int, _: FrameType | None) -> None:
        request.check()
        request.signal_number = signal_number

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
