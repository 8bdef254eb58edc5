"""What a runner that was killed leaves on the engine: containers, volumes and images. The next run removes them.

Everything that is made on the engine names its maker: the host, its boot, the process and when that started. It is left
over if the host is this one and the process is gone. What other hosts made on the same engine stays.
"""

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import docker

from challenge.signals import signals_deferred
from evaluation.runner.record import CONTAINER_LABEL

OWNER_LABEL = "crossmoda-grl.owner"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def labels_of(image: str) -> dict[str, str]:
    """Return the labels of what this process makes on the engine to run a submission's image."""
    return {CONTAINER_LABEL: image, OWNER_LABEL: _owner(os.getpid())}


def is_gone(owner: str) -> bool:
    """Tell whether a label names a process of this host that has ended; False for what cannot be told from here."""
    host, boot, process, _ = (owner.split() + [""] * 4)[:4]
    if host != platform.node() or not process.isdecimal() or boot == "-":
        return False
    return owner != _owner(int(process))


def _owner(process: int) -> str:
    """Name a process for good: a number alone comes again."""
    try:
        boot = _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        boot = "-"  # no Linux
    try:
        # The fields after the program's name, which is in parentheses and may hold anything; starttime is the 22nd.
        started = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
        return f"{platform.node()} {boot} {process} {started.split()[19]}"
    except OSError:
        return f"{platform.node()} {boot} {process} -"


def remove_leftovers(engine: docker.DockerClient) -> int:
    """Remove what runners of this host that are gone have left on the engine; return how many things."""
    removed = 0
    for remove in _leftovers(engine):
        with suppress(docker.errors.APIError), signals_deferred():  # another run may be removing it too
            remove()
            removed += 1
    return removed


def _leftovers(engine: docker.DockerClient) -> Iterator[Callable[[], None]]:
    """Yield what removes each thing that is left over: containers first, because they hold the volumes and images."""
    mine: dict[str, Any] = {"label": OWNER_LABEL}
    for container in engine.containers.list(all=True, filters=mine, ignore_removed=True):
        if is_gone(container.labels.get(OWNER_LABEL, "")):
            yield partial(container.remove, force=True, v=True)
    for volume in engine.volumes.list(filters=mine):
        if is_gone((volume.attrs.get("Labels") or {}).get(OWNER_LABEL, "")):
            yield partial(volume.remove, force=True)
    # Not engine.images.list, which asks for each image again, and fails if another run removes one meanwhile.
    for image in engine.api.images(filters=mine):
        if is_gone((image.get("Labels") or {}).get(OWNER_LABEL, "")):
            yield partial(engine.images.remove, image["Id"], force=True)
