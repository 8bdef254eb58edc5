"""A hostile submission for tests, in plain Python: its first argument names the attack. Runs inside a container."""

import contextlib
import gzip
import os
import socket
import struct
import sys
import time
from pathlib import Path

INPUT, OUTPUT = Path("/input"), Path("/output")
SCAN, LABEL = "_hrT2.nii.gz", "_Label.nii.gz"
BLOCK = b"x" * 2**20


def label_map(scan: Path, edits=(), voxels: bytes | None = None) -> bytes:
    """A map of background alone on the scan's grid; `edits` are struct format, offset and values in the header."""
    header = bytearray(gzip.decompress(scan.read_bytes())[:352])
    size = struct.unpack_from("<3h", header, 42)
    struct.pack_into("<hh", header, 70, 2, 8)
    struct.pack_into("<3f", header, 108, 352, 1, 0)
    for form, offset, *values in edits:
        struct.pack_into(form, header, offset, *values)
    return gzip.compress(bytes(header) + (bytes(size[0] * size[1] * size[2]) if voxels is None else voxels))


def sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


# What may stand where a label map belongs, by the case that gets it.
PLACED = {
    1: lambda path, scan: path.symlink_to("/reference/" + path.name),
    2: lambda path, scan: path.symlink_to("../../../../etc/passwd"),
    3: lambda path, scan: (path.mkdir(), (path / "inside").touch()),
    4: lambda path, scan: os.mkfifo(path),
    5: lambda path, scan: socket.socket(socket.AF_UNIX).bind(str(path)),
    6: lambda path, scan: sparse(path, 2**40),
    7: lambda path, scan: sparse(path, 6 * 2**20),  # each within the limit, together not
    8: lambda path, scan: sparse(path, 6 * 2**20),
    9: lambda path, scan: (path.write_bytes(b""), path.chmod(0)),
    10: lambda path, scan: path.write_bytes(label_map(scan, [("<3h", 42, 32767, 32767, 32767)])),
    11: lambda path, scan: path.write_bytes(label_map(scan, [("<f", 108, float("inf"))])),
    12: lambda path, scan: path.write_bytes(label_map(scan, voxels=b"")),
    13: lambda path, scan: path.write_bytes(gzip.compress(bytes(2**26))),
    14: lambda path, scan: (path.write_bytes(label_map(scan)), path.chmod(0o6777)),  # sound, but for its mode
    15: lambda path, scan: os.link(scan, path),
    16: lambda path, scan: os.mknod(path, 0o20666, os.makedev(1, 5)),  # /dev/zero
}


def write_sound(scans) -> None:
    for scan in scans:
        (OUTPUT / scan.name.replace(SCAN, LABEL)).write_bytes(label_map(scan))


def place(scans) -> None:
    for scan in scans:
        number = int(scan.name.removesuffix(SCAN).rpartition("_")[2])
        with contextlib.suppress(OSError):
            PLACED[number](OUTPUT / scan.name.replace(SCAN, LABEL), scan)


def take_names(scans) -> None:
    """Take the names that the runner might write to, and others that hurt who shows or records them."""
    write_sound(scans)
    for name in ("run.json", "scores.json", scans[0].name.replace(SCAN, LABEL) + ".refused"):
        (OUTPUT / name).mkdir()
    for name in (".partial-run.json", ".partial-" + scans[0].name.replace(SCAN, LABEL)):
        (OUTPUT / name).symlink_to("/victim")
    for name in (b"\xff\xfe_Label.nii.gz", b"\x1b[2J\x07", b"a\nb", "\u202egpj".encode(), b"=cmd|' !A0"):
        Path(os.fsdecode(b"/output/" + name)).touch()


def fill(folder: Path) -> None:
    with (folder / "large").open("wb", buffering=0) as file:
        while True:
            file.write(BLOCK)


def fill_unlinked(folder: Path) -> None:
    descriptor = os.open(folder / "large", os.O_WRONLY | os.O_CREAT)  # stays open
    (folder / "large").unlink()
    while True:
        os.write(descriptor, BLOCK)


def make_many(folder: Path) -> None:
    number = 0
    while True:
        (folder / str(number)).touch()
        number += 1


def nest(folder: Path) -> None:
    os.chdir(folder)
    while True:
        os.mkdir("d")
        os.chdir("d")


def swap(scans) -> None:
    """Exchange a map for a link and back for ever, in a process that outlives its parent."""
    write_sound(scans)
    if os.fork():
        time.sleep(0.5)
        return
    path = OUTPUT / scans[0].name.replace(SCAN, LABEL)
    held, other = OUTPUT / "held", OUTPUT / "other"
    other.symlink_to("/etc/passwd")
    while True:
        for one, two in ((path, held), (other, path), (path, other), (held, path)):
            one.rename(two)


def lock(scans) -> None:
    write_sound(scans)
    for path in OUTPUT.iterdir():
        path.chmod(0)
    with contextlib.suppress(OSError):
        OUTPUT.chmod(0)


def print_lines(size: int) -> None:
    line = b"\x1b[2J" + b"y" * 1019 + b"\n"
    for _ in range(size // len(line) // 64):
        os.write(1, line * 64)


def print_one_line(size: int) -> None:
    for _ in range(size // len(BLOCK)):
        os.write(1, BLOCK)


def write_everywhere() -> None:
    # Not /dev, which Docker makes a tmpfs of 64 MB that counts as the container's memory.
    for folder in ("/", "/usr", "/var/tmp", "/home", "/etc", "/data", "/input", "/proc/sys/kernel"):
        try:
            (Path(folder) / "written").write_bytes(BLOCK)
            print("wrote", folder, flush=True)
        except OSError:
            pass


def fork_for_ever() -> None:
    while True:
        with contextlib.suppress(OSError):
            os.fork()


def main(attack: str) -> int:
    scans = sorted(INPUT.glob(f"*{SCAN}"))
    attacks = {
        "labels": lambda: place(scans),
        "names": lambda: take_names(scans),
        "bytes": lambda: fill(OUTPUT),
        "unlinked": lambda: fill_unlinked(OUTPUT),
        "files": lambda: make_many(OUTPUT),
        "nest": lambda: nest(OUTPUT),
        "swap": lambda: swap(scans),
        "lock": lambda: lock(scans),
        "lines": lambda: (write_sound(scans), print_lines(2**26)),
        "line": lambda: (write_sound(scans), print_one_line(2**26)),
        "everywhere": lambda: (write_sound(scans), write_everywhere()),
        "tmp": lambda: fill(Path("/tmp")),
        "shm": lambda: fill(Path("/dev/shm")),
        "forks": fork_for_ever,
    }
    try:
        attacks[attack]()
    except OSError as error:
        print("stopped by", error.strerror, flush=True)
        time.sleep(600)  # hold what it has
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
