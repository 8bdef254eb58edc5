"""One container: created and locked down, started, watched to its end, removed."""

import contextlib
import os
import posixpath
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

import docker
import requests
from docker.types import DeviceRequest, LogConfig, Mount

from challenge.signals import signals_deferred
from evaluation.runner.errors import (
    EngineUnreachableError,
    ExitError,
    ImageMissingError,
    OutOfMemoryError,
    OutputLimitError,
    RunnerError,
    StartError,
    TimeLimitError,
)
from evaluation.runner.leftovers import labels_of
from evaluation.runner.logs import LogFollower
from evaluation.runner.monitors import MemoryMonitor, OutputWatcher
from evaluation.runner.output import OUTPUT, OutputFolder
from evaluation.runner.record import ContainerRun, Settings

if TYPE_CHECKING:
    from docker.models.containers import Container
    from docker.models.images import Image

INPUT, TMP = "/input", "/tmp"
_POLL_S = 0.25
_KILLED = 137  # 128 + SIGKILL


@contextlib.contextmanager
def connected_engine() -> Iterator[docker.DockerClient]:
    """Connect to the engine that the environment names (`DOCKER_HOST`).

    Raises:
        EngineUnreachableError: no engine answers, or it stops answering inside the block.
    """
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


def find_image(engine: docker.DockerClient, name: str) -> "Image":
    """Find an image on the engine.

    Raises:
        ImageMissingError: the engine does not have it.
    """
    try:
        return engine.images.get(name)
    except docker.errors.ImageNotFound as error:
        raise ImageMissingError(
            f"{name}: expected an image that this Docker engine has, got none; "
            f"fetch it (docker pull {name}) or load it (docker load --input FILE.tar) first"
        ) from error


def run_container(
    engine: docker.DockerClient,
    image: "Image",
    settings: Settings,
    input_folder: str,
    output: OutputFolder,
    cases: tuple[str, ...],
    watcher: OutputWatcher,
) -> ContainerRun:
    """Run one container: create it, follow its log, start it, watch it to its end, and remove it.

    Returns:
        What the container did, its failure included.

    Raises:
        ValueError: the settings' GPUs are not what `docker run --gpus` takes.
    """
    name = f"crossmoda-grl-{uuid.uuid4().hex[:12]}"
    devices = _device_requests(settings.gpus)
    own = _own_volumes(image, settings, name)
    mounts = [Mount(INPUT, input_folder, "bind", read_only=True), output.mount, *own]
    if not settings.writable:
        mounts.append(Mount(TMP, None, "tmpfs"))
    log = LogFollower(watcher.observer)
    memory = MemoryMonitor(engine)
    run = ContainerRun(cases, output_capped=output.capped)
    failure: RunnerError | None
    with _removed(engine, name, [str(mount["Source"]) for mount in own]):
        try:
            # No auto-removal: a container that removes itself can be gone before its exit code is read.
            container = engine.containers.create(
                image,
                name=name,
                labels=labels_of(settings.image),
                mounts=mounts,
                user=settings.user,
                device_requests=devices,
                network_mode="none",
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                mem_limit=settings.memory_bytes,
                memswap_limit=settings.memory_bytes,  # memory and swap together, so no swap
                nano_cpus=int(settings.cpus * 1e9) if settings.cpus else None,
                pids_limit=settings.pids,
                shm_size=settings.shm_bytes,
                read_only=not settings.writable,
                log_config=LogConfig(type="none"),  # an endless log must not fill the engine's disk
            )
            log.follow(container)  # before the start, so that no line is missed
            container.start()
            memory.follow(container)
        except docker.errors.APIError as error:
            failure = StartError(_start_message(settings, error), log.tail)
        else:
            watcher.begin(output)
            run, failure = _watch(container, settings, run, watcher, log, memory)
    if failure is None:
        return run
    watcher.observer.failed(failure.reason)
    return replace(run, failure=failure)


def _watch(
    container: "Container",
    settings: Settings,
    run: ContainerRun,
    watcher: OutputWatcher,
    log: LogFollower,
    memory: MemoryMonitor,
) -> tuple[ContainerRun, RunnerError | None]:
    """Watch a started container to its end. Return what it did, and its failure or None."""
    try:
        killed_for = _watch_limits(container, settings, watcher, memory)
        container.reload()
    except docker.errors.NotFound:
        log.finish()
        reason = f"{settings.image}: expected its container to run to its end, got it removed from outside; rerun it"
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
        log_bytes=log.size_bytes,
    )
    return run, _failure_of(run, settings, killed_for, oom_killed=state["OOMKilled"])


def _own_volumes(image: "Image", settings: Settings, name: str) -> list[Mount]:
    """Mount the volumes that an image declares read-only, with what the image holds there.

    They lie on the engine's disk, without a limit, and are writable although the root is not. Only volumes with names
    can be made read-only.
    """
    if settings.writable:
        return []
    declared = {posixpath.normpath(path) for path in image.attrs["Config"].get("Volumes") or {}}
    labels = labels_of(settings.image)
    return [
        Mount(path, f"{name}-{number}", "volume", read_only=True, labels=labels)
        for number, path in enumerate(sorted(declared - {INPUT, OUTPUT, TMP}))
    ]


def _watch_limits(
    container: "Container", settings: Settings, watcher: OutputWatcher, memory: MemoryMonitor
) -> type[RunnerError] | str | None:
    """Wait for a container to end. Return `TimeLimitError` where that limit ended it, or how its output was too large.

    What it wrote before it ended by itself counts too.
    """
    deadline = time.monotonic() + settings.timeout_s
    while True:
        container.reload()
        excess = watcher.look()
        if container.status != "running":
            return excess
        if excess is not None or time.monotonic() > deadline:
            with contextlib.suppress(docker.errors.APIError):  # it may just have ended
                container.kill()
            container.wait()
            return excess or TimeLimitError
        memory.look()
        time.sleep(min(_POLL_S, max(0.0, deadline - time.monotonic())))


def _failure_of(
    run: ContainerRun, settings: Settings, killed_for: type[RunnerError] | str | None, *, oom_killed: bool
) -> RunnerError | None:
    subject = f"{settings.image} ({run.cases[0]})" if len(run.cases) == 1 else settings.image
    if isinstance(killed_for, str):
        return OutputLimitError(
            f"{subject}: expected at most {settings.max_output_bytes / 2**30:.3g} GB in {settings.max_output_files} "
            f"files, got {killed_for}; raise --max-output or write label maps alone",
            run.log_tail,
        )
    if killed_for is TimeLimitError:
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
    hint = ", which is SIGKILL from an unknown sender" if run.exit_code == _KILLED else ""
    return ExitError(f"{subject}: expected exit code 0, got {run.exit_code}{hint}; see what its log says", run.log_tail)


def _start_message(settings: Settings, error: docker.errors.APIError) -> str:
    reason = str(error.explanation or error)
    gpu = settings.gpus and ("device driver" in reason or "nvidia" in reason.lower())
    advice = "this machine has no NVIDIA container toolkit: leave --gpus out" if gpu else "see the image's entry point"
    return f"{settings.image}: expected a container that starts, got: {reason}; {advice}"


@contextlib.contextmanager
def _removed(engine: docker.DockerClient, name: str, volumes: list[str]) -> Iterator[None]:
    """Remove a container when the block ends, running or not, and then volumes. Signals wait until it is done."""
    try:
        yield
    finally:
        with signals_deferred():
            # They may never have been created.
            with contextlib.suppress(docker.errors.NotFound):
                engine.containers.get(name).remove(force=True, v=True)
            for volume in volumes:
                with contextlib.suppress(docker.errors.NotFound):
                    engine.volumes.get(volume).remove(force=True)


def _device_requests(gpus: str | None) -> list[DeviceRequest]:
    if gpus is None:
        return []
    if gpus.startswith("device="):
        return [DeviceRequest(device_ids=gpus.removeprefix("device=").split(","), capabilities=[["gpu"]])]
    if gpus != "all" and not (gpus.isdecimal() and int(gpus)):
        raise ValueError(f"GPUs: expected all, a number or device=0,1, got {gpus!r}; e.g. all")
    return [DeviceRequest(count=-1 if gpus == "all" else int(gpus), capabilities=[["gpu"]])]


def _seconds_between(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
