"""Where a run is made: the machine, and the commit of the code."""

import os
import platform
import subprocess
from pathlib import Path

import torch


def machine(device: torch.device) -> str:
    """Describe the machine: processor, cores, GPU, torch."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():  # Linux, where platform knows only the architecture
        models = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = f", {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    return f"{name}, {cores} cores, threads: {torch.get_num_threads()}{gpu}, torch {torch.__version__}"


def commit() -> str | None:
    """Return the commit of the code, with `+` if the code has changed since; None if there is none."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None  # an installed package, perhaps inside another project's repository
    try:
        head, changed = (
            subprocess.run(
                ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True, timeout=10
            ).stdout.strip()
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no", "pipeline"])
        )
    except (OSError, subprocess.SubprocessError):
        return None  # git is missing
    return head + ("+" if changed else "")
