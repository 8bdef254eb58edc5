"""What the benchmarks share: runs in turn, each a process of its own; the machine; ratios; a JSON file.

Runs alternate, so that the machine's drift meets all alike, and each process has its own allocator and its own peak of
memory. Ratios are taken run by run. Fewer than three pairs give none.
"""

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import SimpleITK as sitk
import torch

from challenge.contract import STRUCTURES, Structure
from pipeline.inference.compiled import FOLDER_VARIABLE, compile_network, instruction_sets_here, key_of
from pipeline.model.shipped import weights_folder
from pipeline.model.weights import load_segmenter
from pipeline.phantom import HARDNESS, HRT2, make_case
from pipeline.phantom.cohort import Preset, ScanProtocol
from pipeline.runtime.cores import available_cores

LEAST_PAIRS = 3
SPACING_MM = (0.46875, 0.46875, 1.5)
Run = dict[str, float]


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    model = platform.processor() or platform.machine()
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return {
        "processor": model,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": available_cores(),
        "memory_gb": round(memory_gb, 1),
        "busy": round(busy_share(), 2),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def busy_share(seconds: float = 1.0) -> float:
    """Return the share of the machine's processor time that goes into other work, as seen for a moment.

    Not the load average: it remembers the benchmark before.
    """

    def ticks() -> list[int]:
        return [int(ticks) for ticks in Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]]

    before = ticks()
    time.sleep(seconds)
    spent = [now - then for now, then in zip(ticks(), before, strict=True)]
    idle = spent[3] + spent[4]  # idle, and waiting for a disk
    return 1 - idle / sum(spent)


def describe(found: Mapping[str, Any]) -> str:
    """Return a machine in one line, with a warning if something else runs on it."""
    busy = "; BUSY: other work disturbs every figure below" if found["busy"] > 0.1 else ""
    return ", ".join(f"{name} {value}" for name, value in found.items()) + busy


def run(command: Sequence[str], threads: int | None = None) -> Run:
    """Run a command under glibc's default allocator; return the figures that it `say`s in its last line.

    Raises:
        RuntimeError: it failed; the message ends with what it said.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    said: Run = json.loads(done.stdout.strip().splitlines()[-1])
    return said


def say(seconds: float, **more: float) -> None:
    """Print a child's figures as `run` reads them: seconds, and this process's peak of resident memory in GB."""
    # Not getrusage's ru_maxrss: it begins with what the parent had when it started this process.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak_gb = int(status.split("VmHWM:", 1)[1].split()[0]) / 2**20
    print(json.dumps({"seconds": seconds, "peak_gb": peak_gb, **more}))


def child(module: str, *arguments: object) -> list[str]:
    """Return the command that runs a script of this folder."""
    return [sys.executable, str(Path(__file__).with_name(module)), *map(str, arguments)]


def in_turn(commands: Mapping[str, Sequence[str]], times: int, threads: int | None = None) -> dict[str, list[Run]]:
    """Run every command `times` times, in turn; return the runs by the commands' names."""
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for _ in range(times):
        for name, command in commands.items():
            runs[name].append(run(command, threads))
    return runs


def median(runs: Sequence[Run], what: str) -> float:
    """Return the median of a figure over runs."""
    return statistics.median(each[what] for each in runs)


def ratio(theirs: Sequence[Run], ours: Sequence[Run], what: str = "seconds") -> str:
    """Return how many times as much theirs takes: median, least and most of the pairs; of too few pairs, a dash."""
    if min(len(theirs), len(ours)) < LEAST_PAIRS:
        return f"- (no ratio from fewer than {LEAST_PAIRS} pairs)"
    ratios = [a[what] / b[what] for a, b in zip(theirs, ours, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def write_json(path: Path, name: str, figures: Mapping[str, Any]) -> None:
    """Put a benchmark's figures into a JSON file of several benchmarks, under its name, with the machine."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    found[name] = {"machine": machine(), **figures}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def paper_sized_weights(folder: Path, windows: Mapping[Structure, int], named: str = "paper") -> Path:
    """Copy a shipped set with cards that name other windows, such as the paper's, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    shipped = weights_folder(named)
    for structure, window in windows.items():
        card = json.loads((shipped / f"{structure.key}.json").read_text(encoding="utf-8"))
        (folder / f"{structure.key}.json").write_text(json.dumps({**card, "window": window}), encoding="utf-8")
        shutil.copy(shipped / f"{structure.key}.safetensors", folder)
    return folder


def compile_once(weights: Path, compiled: Path, structures: Sequence[Structure] = STRUCTURES) -> None:
    """Compile a folder's networks, unless that is done, and let this process's children use them and no others."""
    os.environ[FOLDER_VARIABLE] = str(compiled)
    os.environ["XDG_CACHE_HOME"] = str(compiled / "cache")
    for structure in structures:
        segmenter = load_segmenter(weights, structure, torch.device("cpu"))
        key = key_of(segmenter, instruction_sets_here()[0])
        if not (compiled / f"{key.name}.json").exists():
            started = time.perf_counter()
            compile_network(segmenter, compiled)
            print(f"compiled {structure.title}, window {key.window}: {time.perf_counter() - started:.0f} s", flush=True)


def write_phantom(path: Path, slices: int, in_plane: int) -> Path:
    """Write the middle of a phantom hrT2 scan of 0.469 x 0.469 x 1.5 mm, and return its path.

    It has `in_plane` x `in_plane` x `slices` voxels, at most 512 x 512 x 80. The whole phantom is made once, beside it.
    """
    small = slices <= 24 and in_plane <= 128
    whole = path.with_name("small.nii.gz" if small else "whole.nii.gz")
    if not whole.exists():
        field_mm = (104.0, 62.0, 36.0) if small else None
        protocol = ScanProtocol(1.0, 512, SPACING_MM[0], ((80, (1.5, 1.5)),), field_mm)
        scan, _, _, _ = make_case(150, HRT2, Preset({HRT2: (protocol,)}), HARDNESS["standard"], 7)
        whole.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray(scan), str(whole))
    voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(whole)))
    for axis, size in enumerate((slices, in_plane, in_plane)):
        start = (voxels.shape[axis] - size) // 2
        voxels = voxels.take(range(start, start + size), axis=axis)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(SPACING_MM)
    sitk.WriteImage(image, str(path))
    return path
