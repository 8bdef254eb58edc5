"""Print requirements.lock with the sha256 of every file that pip may take for the image: Linux, Python 3.11.

    python image/hashes.py FOLDER >requirements.hashed

The hashes are PyPI's. Wheels in FOLDER whose version PyPI does not have, such as torch's CPU build, are hashed where
they lie. `make lock` calls it.
"""

import hashlib
import json
import re
import sys
import urllib.request
from pathlib import Path

INDEX = "https://pypi.org/simple/{}/"
HEAD = """\
# The versions of requirements.lock with the sha256 of their files: wheels for Linux and Python 3.11, and the source
# where there is none. `make wheelhouse` and the image install with --require-hashes from it. Renew with: make lock
"""
_WHEEL = re.compile(r"-(py3|py2\.py3|cp311|cp3\d+)-(none|cp311|abi3)-(any|(many)?linux[^-]*(x86_64|aarch64))\.whl$")


def files_of(name: str, version: str) -> dict[str, str]:
    """Return the sha256 of each file of a version on PyPI, by the file's name."""
    request = urllib.request.Request(
        INDEX.format(normalised(name)), headers={"Accept": "application/vnd.pypi.simple.v1+json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        files = json.load(answer)["files"]
    return {f["filename"]: f["hashes"]["sha256"] for f in files if version_in(f["filename"], name) == version}


def normalised(name: str) -> str:
    """Return a package's name as indexes spell it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def version_in(filename: str, name: str) -> str | None:
    """Return the version in a file's name; None if the file is no wheel or source of the package."""
    stem = filename.removesuffix(".tar.gz").removesuffix(".zip")
    for start in re.finditer("-", stem):
        if normalised(stem[: start.start()]) == normalised(name):
            rest = stem[start.end() :]
            return rest.split("-")[0] if filename.endswith(".whl") else rest
    return None


def main(folder: Path) -> None:
    """Print the file."""
    print(HEAD, end="")
    for line in Path("requirements.lock").read_text(encoding="utf-8").splitlines():
        if line.startswith("#") or not line.strip():
            continue
        name, version = line.strip().split("==")
        files = files_of(name, version)
        taken = {file: digest for file, digest in files.items() if _WHEEL.search(file)} or files
        for wheel in folder.glob("*.whl"):
            local = version_in(wheel.name, name)
            if local is not None and local.split("+")[0] == version and wheel.name not in files:
                taken[wheel.name] = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if not taken:
            raise SystemExit(f"{name}: expected files of version {version} at {INDEX.format(name)}, got none")
        print(name + "==" + version, *(f"--hash=sha256:{digest}" for digest in sorted(taken.values())), sep=" \\\n    ")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
