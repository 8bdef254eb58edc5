"""The ways in which a submission's run can fail."""

from collections.abc import Sequence
from typing import ClassVar


class RunnerError(Exception):
    """A submission could not be run to its end. `kind` names the reason; the message ends with the log's last lines."""

    kind: ClassVar[str] = "submission"

    def __init__(self, message: str, log_tail: Sequence[str] = ()) -> None:
        """Append the last lines of the container's log to the message."""
        self.reason = message
        self.log_tail = tuple(log_tail)
        log = "\n  ".join(("\nthe log's last lines:", *self.log_tail)) if self.log_tail else ""
        super().__init__(message + log)

    def as_dict(self) -> dict[str, str]:
        """Return kind and message, without the log."""
        return {"kind": self.kind, "message": self.reason}


class EngineUnreachableError(RunnerError):
    """No Docker engine answers."""

    kind = "engine"


class ImageMissingError(RunnerError):
    """The engine does not have the image."""

    kind = "image"


class StartError(RunnerError):
    """The container could not be made or started: no such command in it, no GPU on this machine."""

    kind = "start"


class ExitError(RunnerError):
    """The container ended with an exit code other than 0."""

    kind = "exit"


class OutOfMemoryError(RunnerError):
    """The kernel killed the container at its memory limit."""

    kind = "memory"


class OutputLimitError(RunnerError):
    """The container wrote more than it may and was killed."""

    kind = "output"


class UnfinishedError(RunnerError):
    """The run itself ended before the container did: interrupted, or the engine was lost."""

    kind = "unfinished"


class TimeLimitError(RunnerError):
    """The container was still running at its time limit and was killed."""

    kind = "timeout"
