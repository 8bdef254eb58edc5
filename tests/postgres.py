"""A PostgreSQL server of a test's own: a new cluster in a folder, on a free port of this machine alone."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def binaries() -> Path | None:
    """The folder of the newest server's programs: on the path, or where Debian keeps them; None where there is none."""
    if found := shutil.which("pg_ctl"):
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), key=lambda path: int(path.parts[-3]))
    return versions[-1].parent if versions else None


def as_server(*command: object) -> None:
    """Run a program of the server's; it refuses root, who takes the package's own account, or nobody's."""
    prefix: list[str] = []
    if os.geteuid() == 0:
        prefix = ["runuser", "-u", _account().pw_name, "--"]
    done = subprocess.run(
        [*prefix, *map(str, command)], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, cwd="/"
    )
    assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"


def _account() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


@contextlib.contextmanager
def postgres_server() -> Iterator[str]:
    """Start a server, yield its URL, end it."""
    programs = binaries()
    if programs is None:
        pytest.skip("no PostgreSQL server is installed (Debian: apt-get install postgresql)")
    with tempfile.TemporaryDirectory(prefix="grl-pg-", dir="/tmp") as name:
        folder = Path(name)
        if os.geteuid() == 0:
            os.chown(folder, _account().pw_uid, _account().pw_gid)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        cluster = folder / "cluster"
        as_server(programs / "initdb", "-D", cluster, "-U", "grl", "-A", "trust", "--no-sync", "--locale", "C")
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder} -c fsync=off"
        as_server(programs / "pg_ctl", "-D", cluster, "-w", "-l", folder / "log", "-o", options, "start")
        try:
            yield f"postgresql://grl@127.0.0.1:{port}/postgres"
        finally:
            as_server(programs / "pg_ctl", "-D", cluster, "-m", "immediate", "-w", "stop")
