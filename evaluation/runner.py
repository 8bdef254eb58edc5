"""Runs a submission's image the organisers' way, locked down, and checks what came back.

The organisers' line is `docker run --rm -v IN:/input/:ro -v OUT:/output IMAGE`. A container here gets besides: no
network, the caller's user id, no capabilities, and limits of time, memory and processes. The image is somebody else's,
so nothing it prints or writes is trusted: control characters do not reach the terminal, links are not followed.

Source: the organisers' `docker_submission` repository.
"""

import codecs
import contextlib
import json
import os
import re
import shutil
import signal
import stat
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

import docker
import numpy as np
import requests
import SimpleITK as sitk
from docker.types import DeviceRequest, LogConfig, Mount
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from challenge.contract import BACKGROUND, STRUCTURES, TARGET_SUFFIX, files_by_case, label_file
from challenge.files import written_whole
from challenge.nifti import CaseError, read_geometry, read_image
from challenge.signals import SIGNALS

if TYPE_CHECKING:
    from docker.models.containers import Container
    from docker.models.images import Image

INPUT = "/input"
OUTPUT = "/output"
# Containers carry this label, so that one whose runner was killed outright can be found:
#   docker ps --all --filter label=crossmoda-grl.run
CONTAINER_LABEL = "crossmoda-grl.run"

_POLL_S = 0.25
_TAIL_LINES = 40
_MAX_LINE_CHARACTERS = 2000
_RECORD_VERSION = 1
_KILLED = 137  # 128 + SIGKILL


class SubmissionError(Exception):
    """A submission that could not be run to its end; `kind` tells the kinds apart, the message ends with the log."""

    kind: ClassVar[str] = "submission"

    def __init__(self, message: str, log_tail: Sequence[str] = ()) -> None:
        """Append the last lines of the container's log to the message."""
        self.reason = message
        self.log_tail = tuple(log_tail)
        log = "\n  ".join(("\nthe log's last lines:", *self.log_tail)) if self.log_tail else ""
        super().__init__(message + log)

    def as_dict(self) -> dict[str, str]:
        """Return kind and message, the log left out."""
        return {"kind": self.kind, "message": self.reason}


class EngineUnreachableError(SubmissionError):
    """No Docker engine answers."""

    kind = "engine"


class ImageMissingError(SubmissionError):
    """The engine has no such image."""

    kind = "image"


class StartError(SubmissionError):
    """The container could not be made or started: no such command in it, no GPU on this machine."""

    kind = "start"


class ExitError(SubmissionError):
    """The container ended with an exit code other than 0."""

    kind = "exit"


class OutOfMemoryError(SubmissionError):
    """The kernel killed the container at its memory limit."""

    kind = "memory"


class TimeLimitError(SubmissionError):
    """The container was still running at its time limit and was killed."""

    kind = "timeout"


def caller() -> str:
    """Return the calling user's `uid:gid`."""
    return f"{os.getuid()}:{os.getgid()}"


@dataclass(frozen=True)
class Settings:
    """How containers are run.

    `gpus` as `docker run --gpus` takes it, without its options: `all`, a number, or `device=0,1`. `user` is `uid:gid`,
    the caller's by default. `strict` makes the container's own files read-only, `/tmp` apart.
    """

    image: str
    memory_bytes: int = 16 * 2**30
    timeout_s: float = 30 * 60.0
    gpus: str | None = None
    cpus: float | None = None
    pids: int = 1024
    shm_bytes: int = 2**30
    user: str = field(default_factory=caller)
    strict: bool = False


@dataclass(frozen=True)
class ContainerRun:
    """What one container did.

    `peak_memory_bytes` is the largest of the engine's samples, about one a second, without file cache, as in `docker
    stats`; `kernel_peak_memory_bytes` is the kernel's own high-water mark, file cache included, None where neither
    the engine nor this machine's cgroups tell it. `seconds` is the engine's clock from start to end.
    """

    cases: tuple[str, ...]
    seconds: float = 0.0
    exit_code: int | None = None
    peak_memory_bytes: int | None = None
    kernel_peak_memory_bytes: int | None = None
    failure: SubmissionError | None = None
    log_tail: tuple[str, ...] = ()


@dataclass(frozen=True)
class CaseOutcome:
    """One case: `problems` break the contract, `warnings` do not; `seconds` is None where no label map appeared.

    Where one container works on all cases, `seconds` is the time since the label map before, the start included in the
    first.
    """

    case: str
    seconds: float | None
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunRecord:
    """A submission's run, all of it: what was run and how, what each container did, what came back."""

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
    extra: tuple[str, ...]

    @property
    def failures(self) -> list[SubmissionError]:
        """Why containers did not end well."""
        return [run.failure for run in self.containers if run.failure]

    @property
    def succeeded(self) -> bool:
        """Whether every container ended well and every label map keeps the contract."""
        return not self.failures and not any(case.problems for case in self.cases)

    def to_json(self) -> str:
        """Write the record as JSON, sizes in bytes, times in seconds."""
        document = {"format": "crossmoda-grl run", "version": _RECORD_VERSION, "succeeded": self.succeeded}
        return json.dumps(document | asdict(self), indent=2, ensure_ascii=False, default=SubmissionError.as_dict) + "\n"


class Observer(Protocol):
    """Is told what happens while containers run."""

    def begin(self, total: int) -> None:
        """Expect so many label maps."""

    def log(self, line: str) -> None:
        """Take a line of a container's log, printable characters only; comes from another thread."""

    def case_done(self, number: int, total: int, case: str, seconds: float) -> None:
        """Take note of a label map that appeared, the `number`-th of `total`."""

    def failed(self, message: str) -> None:
        """Take note of a container that failed."""


class ConsoleObserver:
    """Shows log lines, finished cases and failures on a console, under a progress bar where it is a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        """Make the bar, on stderr by default; it is shown within `with observer:`."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._console = console or Console(stderr=True)
        self._bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("label maps", total=None)

    def __enter__(self) -> "ConsoleObserver":
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the bar as it is."""
        self._bar.stop()

    def begin(self, total: int) -> None:
        """Let the bar know its length."""
        self._bar.update(self._task, total=total)

    def log(self, line: str) -> None:
        """Print a log line, marked as the container's."""
        self._print(f"| {line}")

    def case_done(self, number: int, total: int, case: str, seconds: float) -> None:
        """Print `k/N case seconds` and move the bar."""
        self._bar.update(self._task, completed=number)
        self._print(f"{number}/{total} {case} {seconds:.1f} s")

    def failed(self, message: str) -> None:
        """Print why a container failed."""
        self._print(message)

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def run_submission(
    settings: Settings,
    input_folder: Path,
    output_folder: Path,
    *,
    per_case: bool = False,
    observer: Observer,
) -> RunRecord:
    """Run a submission's image on a folder of scans, and check the label maps that it leaves.

    One container sees the whole folder, as at the challenge; with `per_case` one container a case, each with the whole
    time limit, and one that fails does not stop the others: the record's `failures` tell of it. Containers are removed
    whatever happens, an interruption included.

    Args:
        settings: the image and its limits.
        input_folder: holds `{case}_hrT2.nii.gz`.
        output_folder: made where it is missing; must hold no label map of these cases.
        per_case: one container a case.
        observer: is told of log lines, finished cases and failures.

    Raises:
        ValueError: no scans, or the folders cannot be used as they are.
        EngineUnreachableError: no Docker engine answers, or it stopped answering.
        ImageMissingError: the engine has no such image.
    """
    scans = find_scans(input_folder)
    prepare_output(output_folder, scans)
    started = datetime.now(UTC)
    with _engine() as engine:
        image = _find_image(engine, settings.image)
        observer.begin(len(scans))
        appearance = _Appearance(output_folder, scans, observer)
        containers = []
        output = Mount(OUTPUT, str(output_folder.resolve()), "bind")
        for share in _shares(scans, per_case):
            with _input_of(input_folder, share, per_case) as shown:
                mounts = [Mount(INPUT, str(shown), "bind", read_only=True), output]
                containers.append(_run_container(engine, image, settings, mounts, tuple(share), appearance))
        version = engine.version()["Version"]
    outcomes = tuple(
        replace(check_label_map(case, scan, output_folder), seconds=appearance.seconds.get(case))
        for case, scan in scans.items()
    )
    _set_links_aside(output_folder, scans)
    return RunRecord(
        settings=settings,
        image_id=str(image.id),
        engine=f"Docker {version}",
        input_folder=str(input_folder),
        output_folder=str(output_folder),
        per_case=per_case,
        started=started.isoformat(timespec="seconds"),
        seconds=sum(run.seconds for run in containers),
        containers=tuple(containers),
        cases=outcomes,
        extra=tuple(sorted({entry.name for entry in output_folder.iterdir()} - {label_file(case) for case in scans})),
    )


def write_record(record: RunRecord, path: Path) -> None:
    """Write a run's record as JSON; a link that a container left under this name is replaced, not followed.

    Raises:
        OSError: the file cannot be written.
    """
    with written_whole(path) as partial:
        partial.unlink(missing_ok=True)
        partial.write_text(record.to_json(), encoding="utf-8")


def parse_duration_s(text: str) -> float:
    """Read a duration: `90s`, `30m`, `1.5h`, or plain seconds.

    Raises:
        ValueError: not a duration above 0.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip().lower())
    seconds = float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]] if match else 0.0
    if not seconds:
        raise ValueError(f"duration: expected a number above 0 with s, m or h behind it, got {text!r}; e.g. 30m")
    return seconds


def parse_bytes(text: str) -> int:
    """Read a size as Docker does, in powers of 1024: `512m`, `16g`.

    Raises:
        ValueError: not a size of at least 6 MB, Docker's least.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([bkmgt]?)b?", text.strip().lower())
    size = int(float(match[1]) * 1024 ** "bkmgt".index(match[2] or "b")) if match else 0
    if size < 6 * 2**20:
        raise ValueError(f"size: expected at least 6m, with k, m or g behind the number, got {text!r}; e.g. 16g")
    return size


# --- the folders ------------------------------------------------------------------------------------------------------


def find_scans(input_folder: Path) -> dict[str, Path]:
    """Find the scans of a folder by case.

    Raises:
        ValueError: no such folder, no scan in it, or a scan is a link that leads out of the folder, where no container
            could follow it.
    """
    if not input_folder.is_dir():
        raise ValueError(f"{input_folder}: expected a folder of scans, got none; name it with --input")
    scans = files_by_case(input_folder, TARGET_SUFFIX)
    if not scans:
        raise ValueError(f"{input_folder}: expected scans named {{case}}{TARGET_SUFFIX}, got none; rename the scans")
    root = input_folder.resolve()
    for scan in scans.values():
        if scan.is_symlink() and not scan.resolve().is_relative_to(root):
            raise ValueError(
                f"{scan}: expected a file, got a link out of the folder, which no container can follow; copy the file"
            )
    return scans


def prepare_output(output_folder: Path, scans: Mapping[str, Path]) -> None:
    """Make the output folder, and see that it is empty of what the submission is to write.

    Raises:
        ValueError: the folder cannot be made or written, or holds label maps of these cases.
    """
    try:
        output_folder.mkdir(parents=True, exist_ok=True)
        found = {entry.name for entry in output_folder.iterdir()}
    except OSError as error:
        raise ValueError(f"{output_folder}: expected an output folder, got: {error.strerror}; name another") from error
    if not os.access(output_folder, os.W_OK):
        raise ValueError(f"{output_folder}: expected a folder that you can write to, got a protected one; name another")
    old = [label_file(case) for case in scans if label_file(case) in found]
    if old:
        raise ValueError(
            f"{output_folder}: expected no label map of these cases, got {len(old)} from before, {old[0]} the first; "
            "empty the folder or name another"
        )


def check_reference_hidden(reference: Path, input_folder: Path, output_folder: Path) -> None:
    """See that no container is shown the reference label maps.

    Raises:
        ValueError: the reference lies in a folder that is mounted.
    """
    for shown in (input_folder, output_folder):
        if reference.resolve().is_relative_to(shown.resolve()):
            raise ValueError(
                f"{reference}: expected references that the submission cannot see, got them within {shown}; "
                "move them out of it"
            )


def _shares(scans: Mapping[str, Path], per_case: bool) -> list[dict[str, Path]]:
    """Share the scans out to containers: all to one, or one to each."""
    return [{case: scan} for case, scan in scans.items()] if per_case else [dict(scans)]


@contextlib.contextmanager
def _input_of(input_folder: Path, share: Mapping[str, Path], per_case: bool) -> Iterator[Path]:
    """Yield the folder that a container is shown: the input itself, or a copy of one case alone."""
    if not per_case:
        yield input_folder.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="crossmoda-grl-") as folder:
        alone = Path(folder)
        alone.chmod(0o755)  # --user may name somebody else
        for scan in share.values():
            shutil.copy(scan, alone / scan.name)
        yield alone


# --- the engine -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _engine() -> Iterator[docker.DockerClient]:
    """Connect to the engine that the environment names (`DOCKER_HOST`), and say so where it does not answer."""
    try:
        client = docker.from_env()
        try:
            client.ping()
            yield client
        finally:
            client.close()
    except (docker.errors.DockerException, requests.RequestException) as error:
        where = os.environ.get("DOCKER_HOST", "its default socket")
        raise EngineUnreachableError(
            f"Docker engine: expected an answer at {where}, got: {error}; "
            "start the engine (docker info shows whether it answers) and see that you may use it"
        ) from error


def _find_image(engine: docker.DockerClient, name: str) -> "Image":
    try:
        return engine.images.get(name)
    except docker.errors.ImageNotFound as error:
        raise ImageMissingError(
            f"{name}: expected an image that this Docker engine has, got none; "
            f"fetch it (docker pull {name}) or load it (docker load --input FILE.tar) first"
        ) from error


def _device_requests(gpus: str | None) -> list[DeviceRequest]:
    if gpus is None:
        return []
    if gpus.startswith("device="):
        return [DeviceRequest(device_ids=gpus.removeprefix("device=").split(","), capabilities=[["gpu"]])]
    if gpus != "all" and not (gpus.isdecimal() and int(gpus)):
        raise ValueError(f"GPUs: expected all, a number or device=0,1, got {gpus!r}; e.g. all")
    return [DeviceRequest(count=-1 if gpus == "all" else int(gpus), capabilities=[["gpu"]])]


# --- one container ----------------------------------------------------------------------------------------------------


def _run_container(
    engine: docker.DockerClient,
    image: "Image",
    settings: Settings,
    mounts: list[Mount],
    cases: tuple[str, ...],
    appearance: "_Appearance",
) -> ContainerRun:
    """Run one container to its end: make it, follow its log, start it, watch it, judge it, remove it."""
    name = f"crossmoda-grl-{uuid.uuid4().hex[:12]}"
    devices = _device_requests(settings.gpus)
    log = _Log(appearance.observer)
    memory = _Memory(engine)
    run = ContainerRun(cases)
    failure: SubmissionError | None
    with _removed(engine, name):
        try:
            # No auto-removal: a container that removes itself can be gone before its exit code is read.
            container = engine.containers.create(
                image,
                name=name,
                labels={CONTAINER_LABEL: settings.image},
                mounts=mounts,
                user=settings.user,
                device_requests=devices,
                network_mode="none",
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                mem_limit=settings.memory_bytes,
                memswap_limit=settings.memory_bytes,  # the sum of both: no swap
                nano_cpus=int(settings.cpus * 1e9) if settings.cpus else None,
                pids_limit=settings.pids,
                shm_size=settings.shm_bytes,
                read_only=settings.strict,
                tmpfs={"/tmp": ""} if settings.strict else None,
                log_config=LogConfig(type="none"),  # a log without end must not fill the engine's disk
            )
            log.follow(container)  # before the start, so that no line is missed
            container.start()
            memory.follow(container)
        except docker.errors.APIError as error:
            failure = StartError(_start_message(settings, error), log.tail)
        else:
            appearance.begin()
            run, failure = _watched(container, settings, run, appearance, log, memory)
    if failure is None:
        return run
    appearance.observer.failed(failure.reason)
    return replace(run, failure=failure)


def _watched(
    container: "Container",
    settings: Settings,
    run: ContainerRun,
    appearance: "_Appearance",
    log: "_Log",
    memory: "_Memory",
) -> tuple[ContainerRun, SubmissionError | None]:
    """Watch a started container to its end; return what it did, and why that is a failure if it is one."""
    try:
        timed_out = _reaches_limit(container, settings.timeout_s, appearance, memory)
        container.reload()
    except docker.errors.NotFound:
        log.finish()
        reason = f"{settings.image}: expected its container to stay, got it removed from outside; run it again"
        return run, ExitError(reason, log.tail)
    log.finish()
    state = container.attrs["State"]
    run = replace(
        run,
        seconds=_seconds_between(state["StartedAt"], state["FinishedAt"]),
        exit_code=state["ExitCode"],
        peak_memory_bytes=memory.peak_bytes or None,
        kernel_peak_memory_bytes=memory.kernel_peak_bytes or None,
        log_tail=log.tail,
    )
    return run, _judge(run, settings, timed_out=timed_out, oom_killed=state["OOMKilled"])


def _reaches_limit(container: "Container", timeout_s: float, appearance: "_Appearance", memory: "_Memory") -> bool:
    """Wait for a container's end; return whether it had to be killed at the time limit."""
    deadline = time.monotonic() + timeout_s
    while True:
        container.reload()
        appearance.look()
        if container.status != "running":
            return False
        if time.monotonic() > deadline:
            with contextlib.suppress(docker.errors.APIError):  # it may have ended just now
                container.kill()
            container.wait()
            return True
        memory.look()
        time.sleep(min(_POLL_S, max(0.0, deadline - time.monotonic())))


def _judge(run: ContainerRun, settings: Settings, *, timed_out: bool, oom_killed: bool) -> SubmissionError | None:
    subject = f"{settings.image} ({run.cases[0]})" if len(run.cases) == 1 else settings.image
    if timed_out:
        return TimeLimitError(
            f"{subject}: expected an end within {settings.timeout_s:g} s, got none and killed it; "
            "raise --timeout or speed the submission up",
            run.log_tail,
        )
    if run.exit_code == 0:
        return None
    limit = f"{settings.memory_bytes / 2**30:.3g} GB"
    if oom_killed:
        return OutOfMemoryError(
            f"{subject}: expected to stay within {limit} of memory, got killed by the kernel there "
            f"(exit code {run.exit_code}); raise --memory or make the submission smaller",
            run.log_tail,
        )
    hint = ", which is SIGKILL, by whom is not known" if run.exit_code == _KILLED else ""
    return ExitError(f"{subject}: expected exit code 0, got {run.exit_code}{hint}; see what its log says", run.log_tail)


def _start_message(settings: Settings, error: docker.errors.APIError) -> str:
    reason = str(error.explanation or error)
    gpu = settings.gpus and ("device driver" in reason or "nvidia" in reason.lower())
    advice = "this machine has no NVIDIA container toolkit: leave --gpus out" if gpu else "see the image's entry point"
    return f"{settings.image}: expected a container that starts, got: {reason}; {advice}"


@contextlib.contextmanager
def _removed(engine: docker.DockerClient, name: str) -> Iterator[None]:
    """Remove the container of this name on the way out, running or not; signals wait until it is gone."""
    try:
        yield
    finally:
        # It may never have been made.
        with _signals_deferred(), contextlib.suppress(docker.errors.NotFound):
            engine.containers.get(name).remove(force=True, v=True)


@contextlib.contextmanager
def _signals_deferred() -> Iterator[None]:
    """Let signals that come inside the block take effect behind it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
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


def _seconds_between(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


class _Log:
    """A container's log: followed in a thread, line by line, made printable, its tail kept."""

    _ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._thread: threading.Thread | None = None

    @property
    def tail(self) -> tuple[str, ...]:
        return tuple(self._tail)

    def follow(self, container: "Container") -> None:
        chunks = container.attach(stream=True, logs=False)
        self._thread = threading.Thread(target=self._read, args=(chunks,), daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait for the last lines of a container that has ended."""
        if self._thread:
            self._thread.join(timeout=10)

    def _read(self, chunks: Iterator[bytes]) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        rest = ""
        for chunk in chunks:
            # A progress bar redraws its line after a carriage return: each drawing is a line here.
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


class _Memory:
    """A container's memory: the engine's samples, followed in a thread, and the kernel's high-water mark."""

    # cgroup v2 under systemd, v2 without, v1.
    _KERNEL_PEAKS = (
        "/sys/fs/cgroup/system.slice/docker-{id}.scope/memory.peak",
        "/sys/fs/cgroup/docker/{id}/memory.peak",
        "/sys/fs/cgroup/memory/docker/{id}/memory.max_usage_in_bytes",
    )

    def __init__(self, engine: docker.DockerClient) -> None:
        self._engine = engine
        self._kernel_files: list[Path] = []
        self.peak_bytes = 0
        self.kernel_peak_bytes = 0

    def follow(self, container: "Container") -> None:
        identity = str(container.id)
        self._kernel_files = [Path(path.format(id=identity)) for path in self._KERNEL_PEAKS]
        threading.Thread(target=self._read, args=(identity,), daemon=True).start()

    def look(self) -> None:
        """Read the kernel's mark, where this machine is the engine's."""
        for path in self._kernel_files:
            with contextlib.suppress(OSError, ValueError):  # another engine's layout, or the container has just ended
                self.kernel_peak_bytes = max(self.kernel_peak_bytes, int(path.read_text()))

    def _read(self, identity: str) -> None:
        # The container's end, its removal included, ends the samples; what the watch finds out it need not.
        with contextlib.suppress(docker.errors.DockerException, requests.RequestException):
            for sample in self._engine.api.stats(identity, stream=True, decode=True):
                memory = sample.get("memory_stats", {})
                if not memory.get("usage"):  # not yet, or no longer
                    continue
                details = memory.get("stats", {})
                cache = details.get("total_inactive_file", details.get("inactive_file", 0))
                self.peak_bytes = max(self.peak_bytes, memory["usage"] - cache)
                self.kernel_peak_bytes = max(self.kernel_peak_bytes, memory.get("max_usage", 0))


class _Appearance:
    """Watches the output folder for label maps, and takes the time when each appears."""

    def __init__(self, output_folder: Path, scans: Mapping[str, Path], observer: Observer) -> None:
        self.observer = observer
        self.seconds: dict[str, float] = {}
        self._awaited = {case: output_folder / label_file(case) for case in scans}
        self._last = time.monotonic()

    def begin(self) -> None:
        """Count from now: a container has started."""
        self._last = time.monotonic()

    def look(self) -> None:
        """Take note of what has appeared."""
        now = time.monotonic()
        for case, path in self._awaited.items():
            if case not in self.seconds and os.path.lexists(path):
                self.seconds[case] = now - self._last
                self._last = now
                self.observer.case_done(len(self.seconds), len(self._awaited), case, self.seconds[case])


# --- what came back ---------------------------------------------------------------------------------------------------


def check_label_map(case: str, scan: Path, output_folder: Path) -> CaseOutcome:
    """Check a case's label map against the contract: there, a file, on the scan's grid, whole labels of the contract.

    A float type, an empty map and a missing structure are warnings: the challenge scores such maps.
    """
    name = label_file(case)
    path = output_folder / name
    outcome = CaseOutcome(case, seconds=None)
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return replace(outcome, problems=(f"{name}: expected a label map, got none{_similar(case, output_folder)}",))
    if not stat.S_ISREG(mode):
        # A link could lead to the reference.
        kind = "a link" if stat.S_ISLNK(mode) else "a folder" if stat.S_ISDIR(mode) else "a special file"
        return replace(outcome, problems=(f"{name}: expected a file, got {kind}; write the file itself",))
    problems: list[str] = []
    warnings: list[str] = []
    try:
        here, there = read_geometry(path), read_geometry(scan)
        if here.size_xyz != there.size_xyz or not here.same_place(there):
            problems.append(f"{name}: expected the scan's grid ({there}), got {here}; bring the labels back to it")
        # The header may claim anything: a map far larger than its scan is not worth the memory.
        if np.prod(here.size_xyz) <= 4 * np.prod(there.size_xyz):
            wrong, odd = _check_voxels(name, read_image(path))
            problems += wrong
            warnings += odd
    except CaseError as error:
        problems.append(str(error))
    return replace(outcome, problems=tuple(problems), warnings=tuple(warnings))


def _check_voxels(name: str, image: sitk.Image) -> tuple[list[str], list[str]]:
    values = sitk.GetArrayViewFromImage(image)
    allowed = (BACKGROUND, *(structure.label for structure in STRUCTURES))
    problems, warnings = [], []
    odd = values[~np.isin(values, allowed)]
    if odd.size:
        examples = ", ".join(f"{value:g}" for value in np.unique(odd)[:5])
        problems.append(
            f"{name}: expected the labels {', '.join(map(str, allowed))} alone, got {examples} "
            f"in {odd.size} voxels; write whole labels"
        )
    if values.dtype.kind == "f":
        warnings.append(f"{name}: expected an integer type, got {values.dtype}")
    absent = [structure.title for structure in STRUCTURES if not (values == structure.label).any()]
    if len(absent) == len(STRUCTURES):
        warnings.append(f"{name}: expected {' and '.join(absent)}, got neither: the map is background alone")
    elif absent:
        warnings.append(f"{name}: expected every structure, got no voxel of {' and '.join(absent)}")
    return problems, warnings


def _similar(case: str, output_folder: Path) -> str:
    of_case = re.compile(re.escape(case) + r"(?!\d)")
    similar = sorted(entry.name for entry in output_folder.iterdir() if of_case.search(entry.name))
    return f" but {', '.join(similar[:3])}; name it {label_file(case)}" if similar else "; see the log"


def _set_links_aside(output_folder: Path, scans: Mapping[str, Path]) -> None:
    """Rename label maps that are no files to `*.refused`: whoever scores the folder would follow a link."""
    for case in scans:
        path = output_folder / label_file(case)
        if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
            path.rename(path.with_name(path.name + ".refused"))
