"""What a worker must share with the client: versions, weights, the folders. Needs no torch, so the check is quick."""

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from challenge.contract import STRUCTURES
from pipeline.model.shipped import weights_folder

# What label maps depend on, and what the two sides talk through.
_PACKAGES = ("crossmoda-grl", "torch", "numpy", "scipy", "SimpleITK", "distributed")


class ClusterError(Exception):
    """A cluster that cannot be used, or no longer: subject, expected, got, next step."""


class UnfitWorker(Exception):
    """A worker that would not give what this machine would; the message says why, and can be sent to the client."""


@dataclass(frozen=True)
class Fitness:
    """What the client has, and a worker must have too.

    Args:
        versions: of packages, by name.
        weights: a shipped set's name, or a folder's absolute path.
        cards: sha256 of each structure's card, by structure; the card holds that of the weights.
        input_folder: where the scans are.
        run_folder: a folder that the client made for this run, inside of the output folder.
    """

    versions: Mapping[str, str]
    weights: str
    cards: Mapping[str, str]
    input_folder: Path
    run_folder: Path


def versions() -> dict[str, str]:
    """Return the versions of the packages that count, as installed here."""
    return {package: _version(package) for package in _PACKAGES}


def card_digests(weights: str) -> dict[str, str]:
    """Return the sha256 of each structure's card in a folder or shipped set, by the structure's key; none is "none"."""
    cards = {s.key: weights_folder(weights) / f"{s.key}.json" for s in STRUCTURES}
    return {k: hashlib.sha256(card.read_bytes()).hexdigest() if card.is_file() else "none" for k, card in cards.items()}


def check_fitness(expected: Fitness) -> str:
    """Return the first reason why this process cannot work for the client: expected, got, next step. Else "".

    A reason is returned, not raised, because it is asked of all workers at once.
    """
    here = versions()
    for package, version in expected.versions.items():
        if here.get(package) != version:
            found = here.get(package)
            return f"expected {package} {version}, as on the client, got {found}; install the same versions on both"
    cards = card_digests(expected.weights)
    for structure, digest in expected.cards.items():
        if cards.get(structure) != digest:
            return (
                f"expected the client's weights {expected.weights}, got another {structure}.json "
                f"(sha256 {digest[:12]} there, {cards.get(structure, 'none')[:12]} here); "
                "name a shared folder with --weights, or install the same version on both"
            )
    if not expected.input_folder.exists():
        return f"expected to see the scans in {expected.input_folder}, got no such folder; {_MOUNT}"
    if not expected.run_folder.is_dir():
        output = expected.run_folder.parent
        return f"expected to see what the client writes to {output}, got {_kind_of(output)}; {_MOUNT}"
    try:
        with tempfile.TemporaryDirectory(dir=expected.run_folder):
            pass
    except OSError as error:
        return (
            f"expected to write to {expected.run_folder.parent}, got: {error.strerror}; "
            "run the worker as a user who may, or mount the folder for writing"
        )
    return ""


_MOUNT = "mount the client's folder at the same path on every worker"


def _kind_of(folder: Path) -> str:
    return "another folder of that name" if folder.is_dir() else "no such folder"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"
