"""The records of a run: its settings, what each container did, what became of each case."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from challenge.files import written_whole
from evaluation.runner.errors import RunnerError

_RECORD_VERSION = 2
RECORD_FILE = "run.json"
# Everything made on the engine carries this label. If the runner itself is killed, the next run removes what it left
# behind (`evaluation.runner.leftovers`), and this shows it:
#   docker ps --all --filter label=crossmoda-grl.run
CONTAINER_LABEL = "crossmoda-grl.run"


def caller() -> str:
    """Return the calling user's `uid:gid`."""
    return f"{os.getuid()}:{os.getgid()}"


@dataclass(frozen=True)
class Settings:
    """The image to run, and how to run it.

    `gpus` is what `docker run --gpus` takes, without options: `all`, a number, or `device=0,1`. `user` is `uid:gid`, by
    default the caller's. The container's file system is read-only, except for `/tmp`, unless `writable` is set. It may
    write `max_output_bytes` in `max_output_files` files and folders; what it keeps in `/tmp` counts as memory.
    """

    image: str
    memory_bytes: int = 16 * 2**30
    timeout_s: float = 30 * 60.0
    gpus: str | None = None
    cpus: float | None = None
    pids: int = 1024
    shm_bytes: int = 2**30
    user: str = field(default_factory=caller)
    writable: bool = False
    max_output_bytes: int = 2 * 2**30
    max_output_files: int = 10_000


@dataclass(frozen=True)
class ContainerRun:
    """What one container did.

    `seconds` runs from start to end by the engine's clock. `peak_memory_bytes` is the largest of the engine's samples,
    about one a second, without file cache, as in `docker stats`. `kernel_peak_memory_bytes` is the kernel's own
    high-water mark, with file cache; None where neither the engine nor this machine's cgroups give it. `output_capped`
    says that the kernel held the limit of its output; otherwise it was measured four times a second.
    """

    cases: tuple[str, ...]
    seconds: float = 0.0
    exit_code: int | None = None
    peak_memory_bytes: int | None = None
    kernel_peak_memory_bytes: int | None = None
    failure: RunnerError | None = None
    log_tail: tuple[str, ...] = ()
    log_bytes: int = 0
    output_capped: bool = False


@dataclass(frozen=True)
class CaseOutcome:
    """What became of one case. `problems` break the contract, `warnings` do not.

    `seconds` is the time since the previous label map appeared, or since the container started; None where no label map
    appeared.
    """

    case: str
    seconds: float | None
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunRecord:
    """A submission's whole run: what was run and how, what each container did, what came back.

    `extra` names the first unexpected files that the containers wrote, escaped; `extra_count` counts all of them. They
    were not kept.
    """

    settings: Settings
    image_id: str
    engine: str
    input_folder: str
    output_folder: str
    per_case: bool
    started: str
    seconds: float
    containers: tuple[ContainerRun, ...]
    cases: tuple[CaseOutcome, ...]
    extra: tuple[str, ...] = ()
    extra_count: int = 0

    @property
    def failures(self) -> list[RunnerError]:
        """The failures of the containers that failed."""
        return [run.failure for run in self.containers if run.failure]

    @property
    def succeeded(self) -> bool:
        """Whether every container ended with exit code 0 and every label map keeps the contract."""
        return not self.failures and not any(case.problems for case in self.cases)

    def to_json(self) -> str:
        """Return the record as JSON, sizes in bytes, times in seconds."""
        document = {"format": "crossmoda-grl run", "version": _RECORD_VERSION, "succeeded": self.succeeded}
        return json.dumps(document | asdict(self), indent=2, ensure_ascii=False, default=RunnerError.as_dict) + "\n"


def write_record(record: RunRecord, path: Path) -> None:
    """Write a run's record as JSON. Names that are not UTF-8 are escaped.

    Raises:
        OSError: the file cannot be written.
    """
    with written_whole(path) as partial:
        partial.write_text(record.to_json(), encoding="utf-8", errors="backslashreplace")
