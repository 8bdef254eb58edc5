"""Where weights are: a shipped set, by its name, or any folder. Needs no torch."""

import os
from pathlib import Path

# The shipped set that counts when nothing else is named.
DEFAULT_WEIGHTS = "best"
WEIGHTS_VARIABLE = "CROSSMODA_GRL_WEIGHTS"


def shipped_sets() -> dict[str, Path]:
    """Return the shipped sets of weights, folders by name.

    They are package data: an installation holds them inside of `pipeline`, the repository in its folder `weights/`.
    """
    package = Path(__file__).resolve().parents[1]
    installed = package / "weights"
    sets = installed if installed.is_dir() else package.parent / "weights"
    return {folder.name: folder for folder in sorted(sets.glob("*/"))}


def weights_folder(named: str | None = None) -> Path:
    """Return the folder of weights that `named` stands for: a shipped set's, or else the path itself.

    Without `named`, the environment variable `CROSSMODA_GRL_WEIGHTS` counts, then `DEFAULT_WEIGHTS`. A folder of your
    own that has the name of a shipped set needs a slash: `./paper`.
    """
    named = named or os.environ.get(WEIGHTS_VARIABLE) or DEFAULT_WEIGHTS
    return shipped_sets().get(named, Path(named))


def weights_name(folder: Path) -> str:
    """Return a shipped set's name for its folder, and any other folder's path."""
    return folder.name if folder in shipped_sets().values() else str(folder)
