"""A submission for tests, in plain Python: its first argument names what it does wrong. Runs inside a container."""

import gzip
import os
import socket
import struct
import sys
import time
from pathlib import Path

INPUT, OUTPUT = Path("/input"), Path("/output")
SCAN, LABEL = "_hrT2.nii.gz", "_Label.nii.gz"
INT8, FLOAT32 = (2, 8, "B"), (16, 32, "f")


def write_labels(scan: Path, name: str = "", form: tuple[int, int, str] = INT8, step: float = 1, values=(1, 2)) -> None:
    """Write a map that begins with `values`, on the scan's grid, or on one with `step` times the spacing."""
    header = bytearray(gzip.decompress(scan.read_bytes())[:352])
    size = struct.unpack_from("<3h", header, 42)
    struct.pack_into("<hh", header, 70, form[0], form[1])
    struct.pack_into("<3f", header, 80, *(side * step for side in struct.unpack_from("<3f", header, 80)))
    struct.pack_into("<12f", header, 280, *(value * step for value in struct.unpack_from("<12f", header, 280)))
    struct.pack_into("<3f", header, 108, 352, 1, 0)
    count = size[0] * size[1] * size[2]
    voxels = struct.pack(f"<{count}{form[2]}", *values, *[0] * (count - len(values)))
    target = OUTPUT / (name or scan.name.replace(SCAN, LABEL))
    partial = target.with_name("partial")
    partial.write_bytes(gzip.compress(bytes(header) + voxels))
    partial.rename(target)
    print(f"wrote {target.name}", flush=True)


def refusal(action) -> str:
    try:
        action()
    except OSError as error:
        return type(error).__name__
    return "allowed"


def tell_surroundings() -> None:
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print("user", os.getuid(), os.getgid())
    print("capabilities", status["CapEff"], "no new privileges", status["NoNewPrivs"])
    print("write input", refusal(lambda: (INPUT / "x").write_text("x")))
    print("write root", refusal(lambda: Path("/tmp/x").write_text("x") and Path("/var/tmp/x").write_text("x")))
    print("network", refusal(lambda: socket.create_connection(("192.0.2.1", 80), timeout=2)))
    print("sees", *sorted(entry.name for entry in INPUT.iterdir()))


def main(fault: str) -> int:
    scans = sorted(INPUT.glob(f"*{SCAN}"))
    if fault == "surroundings":
        tell_surroundings()
    if fault == "exit":
        print("loading weights", flush=True)
        time.sleep(0.3)  # the two streams keep no order between them
        print("\x1b[31mno weights for fold 2\x1b[0m\x07", file=sys.stderr)
        return 3
    if fault == "sleep":
        write_labels(scans[0])
        time.sleep(600)
    if fault == "memory":
        blocks = []
        while True:
            blocks.append(b"x" * 2**24)
    if fault == "flood":
        for number in range(100_000):
            print(number, "x" * 100)
    for scan in scans:
        if fault == "grid":
            write_labels(scan, form=FLOAT32, step=2, values=(1.0, 0.5, 3.0))
        elif fault == "name":
            write_labels(scan, name=scan.name.replace(SCAN, ".nii.gz"))
        elif fault == "empty":
            write_labels(scan, values=())
        elif fault == "link":
            (OUTPUT / scan.name.replace(SCAN, LABEL)).symlink_to(OUTPUT / "elsewhere")
        elif fault == "second" and scan != scans[0]:
            return 4
        elif fault == "case" and "_2_" in scan.name:
            return 5
        else:
            write_labels(scan)
            time.sleep(0.6)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
