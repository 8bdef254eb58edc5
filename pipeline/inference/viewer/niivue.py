"""NiiVue, the page's JavaScript library: fetched from the npm registry at build time, and checked.

The tarball is the pinned version's and must have its published checksum. Only the bundle is kept, beside the page.
`setup.py` runs this file by its path, before anything is installed: it needs the standard library alone.
"""

import base64
import hashlib
import io
import os
import sys
import tarfile
import urllib.request
from http.client import HTTPException
from pathlib import Path

VERSION = "0.69.0"
# `dist.integrity` of that version in the registry: of the whole tarball.
INTEGRITY = "sha512-YMjQvJgD1W2b7DuoxkwlC4VxbrgIePRJ5qyQzXKxi2v2MBVg285P/CIQyg46oDDGDIcaNlbd+MhtO/edMbXJkA=="
REGISTRY = "https://registry.npmjs.org"
STATIC = Path(__file__).resolve().parent / "static"
BUNDLE = STATIC / f"niivue-{VERSION}.umd.js"  # the licences beside it are in the repository

_MEMBER = "package/dist/niivue.umd.js"
_MAX_TARBALL_BYTES = 32 * 2**20
_TIMEOUT_S = 20.0


class NiiVueError(Exception):
    """NiiVue could not be fetched: subject, expected, got, next step."""


def fetch(registry: str | None = None) -> Path:
    """Return the bundle; fetch it if it is not there.

    Args:
        registry: its URL, by default npm's own setting, the variable `NPM_CONFIG_REGISTRY`, or npm's registry.

    Raises:
        NiiVueError: the registry does not answer, has something else than the pinned tarball, or there is no space.
    """
    if BUNDLE.is_file():
        return BUNDLE
    settings = {name.upper(): value for name, value in os.environ.items()}  # npm takes either case
    registry = registry or settings.get("NPM_CONFIG_REGISTRY") or REGISTRY
    url = f"{registry.rstrip('/')}/@niivue/niivue/-/niivue-{VERSION}.tgz"
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            tarball = answer.read(_MAX_TARBALL_BYTES)
        _check(url, tarball)
        _keep(_bundle_in(tarball))
    except (OSError, HTTPException, ValueError, KeyError, tarfile.TarError) as error:
        raise NiiVueError(
            f"{url}: expected NiiVue {VERSION}, got: {error}; name a registry that has it in NPM_CONFIG_REGISTRY"
        ) from error
    return BUNDLE


def require_bundle() -> None:
    """Check that the bundle is there.

    Raises:
        NiiVueError: it is not, since the registry could not be reached when the package was built.
    """
    if not BUNDLE.is_file():
        raise NiiVueError(
            f"{BUNDLE}: expected NiiVue {VERSION}, got no file, since npm's registry did not answer when this package "
            "was built; fetch it with: python -m pipeline.inference.viewer.niivue "
            "(NPM_CONFIG_REGISTRY names another registry)"
        )


def _check(url: str, tarball: bytes) -> None:
    got = "sha512-" + base64.b64encode(hashlib.sha512(tarball).digest()).decode()
    if got != INTEGRITY:
        raise NiiVueError(
            f"{url}: expected the tarball {INTEGRITY}, got {got}; do not use it, and name another registry in "
            "NPM_CONFIG_REGISTRY"
        )


def _bundle_in(tarball: bytes) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(tarball), mode="r:gz") as archive:
        member = archive.extractfile(_MEMBER)
        if member is None:
            raise KeyError(f"{_MEMBER} is no file")
        return member.read()


def _keep(bundle: bytes) -> None:
    """Write the bundle, whole or not at all, and remove those of other versions."""
    partial = BUNDLE.with_name(f".{os.getpid()}-{BUNDLE.name}")
    try:
        partial.write_bytes(bundle)
        partial.replace(BUNDLE)
    finally:
        partial.unlink(missing_ok=True)
    for other in STATIC.glob("niivue-*.umd.js"):
        if other != BUNDLE:
            other.unlink()


def main() -> int:
    """Fetch the bundle, and say where it is or what went wrong."""
    try:
        print(fetch())
    except NiiVueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
