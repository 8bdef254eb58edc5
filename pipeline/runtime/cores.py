"""The processor cores that this process may use: its affinity and its control groups' quotas, not the host's count.

More threads than cores make a network several times slower: OpenMP's threads wait for one another. A container that is
started with `--cpus` sees all of the host's cores, but gets a share of their time.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import SimpleITK as sitk
import torch


def available_cores(root: Path = Path("/")) -> int:
    """Return the number of cores that this process may keep busy, at least 1.

    A quota of 1.5 cores counts as 2. Where a file is missing or says nothing, it sets no limit.

    Args:
        root: the folder that holds `proc` and `sys`.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([affinity, *map(math.ceil, _quotas(root))]))


def use_available_cores() -> int:
    """Give torch and SimpleITK as many threads as there are cores for this process; return torch's number.

    torch's own number is only ever lowered, so `OMP_NUM_THREADS` stays a limit.
    """
    threads = min(torch.get_num_threads(), available_cores())
    torch.set_num_threads(threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    return threads


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quotas, in cores, of this process's control groups and of all groups around them; versions 1 and 2."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        # "hierarchy:controllers:path"; in version 2 the list of controllers is empty
        if line.count(":") < 2:
            continue
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        # Inside a container the path may be the host's, and then only the mount itself is this container's group.
        for group in (PurePosixPath(path), *PurePosixPath(path).parents):
            folder = mount / str(group).lstrip("/")
            quota = _version_1(folder) if controllers else _version_2(folder)
            if quota is not None:
                yield quota


def _version_1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text(encoding="utf-8"))
        period = int((folder / "cpu.cfs_period_us").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 and period > 0 else None


def _version_2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None  # no such file, or "max"
