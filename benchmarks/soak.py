"""Soak `predict`: many small cases in one process with flat memory, then a run that is killed again and again.

`make soak` takes 500 cases and 50 kills. Exit code 1 if memory grows by more than 5 %, a process ends otherwise than it
should, or the killed run's label maps differ from the undisturbed run's in one byte.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from challenge.contract import LABEL_SUFFIX, TARGET_SUFFIX, case_name

GROWTH_LIMIT = 1.05
_POLL_S = 0.05


def write_scans(folder: Path, count: int, side: int, seed: int) -> None:
    """Write noise of slightly different sizes, so that no two cases need the same memory."""
    folder.mkdir()
    generator = np.random.default_rng(seed)
    for number in range(1, count + 1):
        shape = (side // 3, *(side + generator.integers(0, 4, 2)))
        image = sitk.GetImageFromArray(generator.normal(300, 60, shape).astype(np.int16))
        image.SetSpacing((0.5, 0.5, 1.5))
        sitk.WriteImage(image, str(folder / f"{case_name(number)}{TARGET_SUFFIX}"), useCompression=True)


def start(scans: Path, labels: Path, *more: str) -> subprocess.Popen[bytes]:
    """Start a `predict` that logs to a file beside its output."""
    command = [sys.executable, "-m", "crossmoda_grl", "predict", "--device", "cpu", *more]
    command += ["--input", str(scans), "--output", str(labels)]
    with labels.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def label_maps(folder: Path) -> dict[str, bytes]:
    """Read every label map of a folder as bytes."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob(f"[!.]*{LABEL_SUFFIX}"))}


def count_maps(folder: Path) -> int:
    """Count the label maps of a folder."""
    return sum(1 for _ in folder.glob(f"[!.]*{LABEL_SUFFIX}"))


def memory_bytes(pid: int) -> int:
    """Read the resident memory of a process; 0 where it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS")), 0)


def undisturbed(scans: Path, labels: Path, cases: int) -> float:
    """Predict all cases in one process; return the peak memory of its second half over that of its second tenth on.

    The first tenth warms up.
    """
    process = start(scans, labels)
    early = late = 0
    while process.poll() is None:
        done, memory = count_maps(labels) if labels.exists() else 0, memory_bytes(process.pid)
        if done >= cases / 2:
            late = max(late, memory)
        elif done >= cases / 10:
            early = max(early, memory)
        time.sleep(_POLL_S)
    if process.returncode != 0 or count_maps(labels) != cases:
        raise SystemExit(f"predict: exit code {process.returncode}, {count_maps(labels)} of {cases} label maps")
    print(f"{cases} cases in one process: {early / 2**20:.0f} MB early, {late / 2**20:.0f} MB late")
    return late / max(early, 1)


def disturbed(scans: Path, labels: Path, cases: int, kills: int, chance: random.Random) -> int:
    """Kill and resume; return how many processes were killed while they predicted."""
    labels.mkdir()
    killed = 0
    for number in range(kills):
        process = start(scans, labels, "--skip-existing")
        before = count_maps(labels)
        share = (cases - before) // (kills - number)
        wanted = before + chance.randint(0, max(share, 0))
        # From the start of the process, while it still loads, to the middle of writing a map.
        delay = chance.random() * (3.0 if wanted == before else 0.3)
        while process.poll() is None and count_maps(labels) < wanted:
            time.sleep(_POLL_S)
        time.sleep(delay)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        elif process.returncode != 0:
            raise SystemExit(f"predict: exit code {process.returncode}; see {labels.with_suffix('.log')}")
        process.wait()
    process = start(scans, labels, "--skip-existing")
    if process.wait() != 0:
        raise SystemExit(f"predict, resumed: exit code {process.returncode}; see {labels.with_suffix('.log')}")
    return killed


def main() -> None:
    """Run both soaks and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--side", type=int, default=24, help="voxels in the plane; a third of it in depth")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        root = Path(folder)
        write_scans(root / "scans", options.cases, options.side, options.seed)
        growth = undisturbed(root / "scans", root / "whole", options.cases)
        killed = disturbed(root / "scans", root / "killed", options.cases, options.kills, random.Random(options.seed))
        whole, resumed = label_maps(root / "whole"), label_maps(root / "killed")
        differing = sum(whole.get(name) != resumed.get(name) for name in whole.keys() | resumed.keys())
        left = sorted(path.name for path in (root / "killed").glob(".*"))
    print(f"memory {growth:.3f} of its earlier peak; {killed} killed of {options.kills}; {differing} maps differ")
    print(f"left by killed processes: {', '.join(left) or 'nothing'}")
    if growth > GROWTH_LIMIT or differing:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
