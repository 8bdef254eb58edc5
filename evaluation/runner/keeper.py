"""A capped volume for a container's output, and the keeper, a container of our own that holds it.

A tmpfs volume is limited in bytes and files, but it lives only as long as a container that has it mounted. The keeper
has it mounted from before the submission starts until its files are copied. It runs as the caller, so the caller
reaches the volume through the keeper's `/proc/PID/root` without any rights of root.
"""

import io
import json
import os
import struct
import tarfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import docker
from docker.models.containers import Container
from docker.types import LogConfig, Mount

from challenge.signals import signals_deferred
from evaluation.runner.leftovers import labels_of
from evaluation.runner.record import Settings, caller

_ARCHITECTURE = "amd64"
# The keeper's whole program, for the kernel directly, so that it needs no libraries and hence no base image:
# pause: mov eax, 34 (pause); syscall; jmp pause
_PROGRAM = bytes.fromhex("b822000000 0f05 ebf7")
_BASE, _HEADERS = 0x400000, 64 + 56
_WAIT_S = 5.0


class NoCappedVolumeError(Exception):
    """This engine gives no capped volume that this process can reach."""


def keeper_program() -> bytes:
    """Return an ELF executable for Linux on x86-64 that waits until it is killed."""
    size = _HEADERS + len(_PROGRAM)
    identity = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack("<16sHHIQQQIHHHHHH", identity, 2, 62, 1, _BASE + _HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + _PROGRAM


@contextmanager
def capped_volume(engine: docker.DockerClient, settings: Settings) -> Iterator[tuple[str, int]]:
    """Yield the name of an empty volume and a descriptor of its folder; both are gone after the block.

    The volume holds `settings.max_output_bytes` and `settings.max_output_files`, and honours neither setuid bits nor
    devices nor programs.

    Raises:
        NoCappedVolumeError: the engine runs elsewhere or without the caller's user ids (rootless, remote, in a virtual
            machine), or on another architecture.
    """
    version = engine.version()
    if (version.get("Os"), version.get("Arch")) != ("linux", _ARCHITECTURE):
        raise NoCappedVolumeError
    with ExitStack() as made:
        try:
            name, descriptor = _make(engine, settings, made)
        except (docker.errors.APIError, OSError) as error:
            raise NoCappedVolumeError from error
        yield name, descriptor


def _make(engine: docker.DockerClient, settings: Settings, made: ExitStack) -> tuple[str, int]:
    name = f"crossmoda-grl-{uuid.uuid4().hex}"
    labels = labels_of(settings.image)

    def remove() -> None:
        """Remove what there is of container, volume and image."""
        with signals_deferred():
            for collection in (engine.containers, engine.volumes, engine.images):
                with suppress(docker.errors.NotFound):
                    found = collection.get(name)
                    engine.images.remove(name, force=True) if collection is engine.images else found.remove(force=True)

    made.callback(remove)
    # Without a tag of its own the image could not be found again after a kill between here and there.
    changes = ['ENTRYPOINT ["/keeper"]', *(f"LABEL {label}={json.dumps(value)}" for label, value in labels.items())]
    engine.api.import_image_from_data(_image(), repository=name, changes=changes)
    limits = f"size={settings.max_output_bytes},nr_inodes={settings.max_output_files + 1},mode=0777"
    options = {"type": "tmpfs", "device": "tmpfs", "o": f"{limits},nosuid,nodev,noexec"}
    engine.volumes.create(name, driver="local", driver_opts=options, labels=labels)
    keeper = engine.containers.run(
        name,
        detach=True,
        name=name,
        labels=labels,
        # A path that nobody guesses: what is found there is this volume, not another machine's process of the same id.
        mounts=[Mount(f"/{name}", name, type="volume", no_copy=True)],
        user=caller(),
        network_mode="none",
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        log_config=LogConfig(type="none"),
    )
    descriptor = _open_folder(keeper, name)
    made.callback(os.close, descriptor)
    return name, descriptor


def _open_folder(keeper: Container, name: str) -> int:
    deadline = time.monotonic() + _WAIT_S
    while True:
        keeper.reload()
        try:
            return os.open(f"/proc/{keeper.attrs['State']['Pid']}/root/{name}", os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _image() -> bytes:
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        program = keeper_program()
        entry = tarfile.TarInfo("keeper")
        entry.size, entry.mode = len(program), 0o755
        tar.addfile(entry, io.BytesIO(program))
    return layer.getvalue()
