"""Named recipes: the paper's to the letter, a reduced one for two cores, and changes from a file.

Every way in which `cpu` departs from the paper stands in the one table below; `Recipe.departures` names them on the
screen, in a run's settings and on a card of weights.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from challenge.contract import COCHLEA, STRUCTURES, VS, Structure
from pipeline.model.enet import SIDE_MULTIPLE
from pipeline.training.loops import FEATURE_LAYERS, Recipe, paper_recipe
from pipeline.training.run import ADAPTATION, CONTROL, PHASES, SUPERVISED

# For some 24 phantoms a domain of the preset `small`: minutes a phase, where the paper's counts take weeks.
#   window          64 and 48 instead of 128 and 64: a step in seconds; both still hold the structure
#   batch_size      4 (cochlea's phase 2: 8) instead of 4 and 16
#   epochs          fewer, of more patches a volume, because a few volumes are soon gone through
#   mirror          heads are nearly symmetric, and 24 of them are few
#   validate_every  whole volumes take as long as an epoch
_CPU: Mapping[tuple[Structure, str], Recipe] = {
    (VS, SUPERVISED): Recipe(64, 4, epochs=30, patches_per_volume=4, mirror=True, validate_every=6),
    (VS, ADAPTATION): Recipe(64, 4, epochs=16, patches_per_volume=2, mirror=True, validate_every=4),
    (COCHLEA, SUPERVISED): Recipe(48, 4, epochs=40, patches_per_volume=8, mirror=True, validate_every=4),
    (COCHLEA, ADAPTATION): Recipe(48, 8, epochs=12, patches_per_volume=4, mirror=True, validate_every=4),
}
RECIPES: Mapping[str, Mapping[tuple[Structure, str], Recipe]] = {
    "paper": {(structure, phase): paper_recipe(structure) for structure in STRUCTURES for phase in PHASES},
    "cpu": _CPU,
}


class ConfigError(Exception):
    """A configuration file that cannot be used: path, expected, got, next step."""


def chosen_recipes(
    name: str,
    structure: Structure,
    *,
    phases: Sequence[str] = PHASES,
    config: Path | None = None,
    epochs: int | None = None,
) -> dict[str, Recipe]:
    """Return a structure's recipe for each phase: the named one, then the file's changes, then the epochs given.

    The control's follows from phase 2's (`control_recipe`), the file's changes to that included.

    A configuration file is TOML. Its keys are those of `Recipe`; keys at the top hold for everything, those under
    `[supervised]`, `[vs]` or `[vs.supervised]` for what they name, the narrower table counting::

        epochs = 30
        [vs.adaptation]
        window = 96

    Raises:
        ConfigError: the file is missing or damaged, or holds an unknown key or a value that cannot be meant.
    """
    changes = _read(config) if config is not None else {}
    recipes = {}
    for asked in phases:
        phase = ADAPTATION if asked == CONTROL else asked
        recipe = RECIPES[name][structure, phase]
        of_structure = changes.get(structure.key, {})
        for table in (changes, changes.get(phase, {}), of_structure, of_structure.get(phase, {})):
            recipe = _changed(recipe, table, config)
        if epochs is not None:
            recipe = replace(recipe, epochs=epochs)
        _check(recipe, phase, config)
        recipes[asked] = control_recipe(recipe) if asked == CONTROL else recipe
    return recipes


def control_recipe(adaptation: Recipe) -> Recipe:
    """Return the recipe of the control: phase 2's epochs, rate and source patches a step, and no adversary."""
    return replace(adaptation, batch_size=adaptation.batch_size // 2, supervised_rate=adaptation.adaptation_rate)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: expected a configuration file, got {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected TOML, got damaged text ({error})") from error
    structures = [structure.key for structure in STRUCTURES]
    allowed = {"": {*structures, *PHASES}, **{key: {*PHASES} for key in structures}, **{key: set() for key in PHASES}}
    _check_names(path, content, "", allowed)
    return content


def _check_names(path: Path, table: dict[str, Any], where: str, allowed: dict[str, set[str]]) -> None:
    known = {f.name for f in fields(Recipe)}
    for name, value in table.items():
        is_table = isinstance(value, dict)
        if name not in (allowed.get(where, set()) if is_table else known):
            place = f"[{where}] " if where else ""
            raise ConfigError(
                f"{path}: {place}expected {', '.join(sorted(known))}, or a table of a structure or phase, got {name}"
            )
        if is_table:
            _check_names(path, value, name, allowed)


def _changed(recipe: Recipe, table: Mapping[str, Any], path: Path | None) -> Recipe:
    """Return a recipe with a table's own values, each of the type that it replaces."""
    changes: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, dict):
            continue
        old = getattr(recipe, name)
        if isinstance(old, tuple) and isinstance(value, list) and all(type(v) is int for v in value):
            changes[name] = tuple(value)
        elif type(old) is float and type(value) in (int, float):
            changes[name] = float(value)
        elif type(old) is type(value):
            changes[name] = value
        else:
            expected = "a list of whole numbers" if isinstance(old, tuple) else f"a value like {old}"
            raise ConfigError(f"{path}: {name}: expected {expected}, got {value!r}")
    return replace(recipe, **changes)


def _check(recipe: Recipe, phase: str, path: Path | None) -> None:
    """Refuse values that would fail, or mean nothing, hours later."""
    rules = {
        "window": (recipe.window >= SIDE_MULTIPLE and recipe.window % SIDE_MULTIPLE == 0, "a multiple of 8"),
        "batch_size": (recipe.batch_size > 0, "at least 1"),
        "epochs": (recipe.epochs > 0, "at least 1"),
        "patches_per_volume": (recipe.patches_per_volume > 0, "at least 1"),
        "validate_every": (recipe.validate_every > 0, "at least 1"),
        "structure_fraction": (0 <= recipe.structure_fraction <= 1, "0 to 1"),
        "overlap": (0 <= recipe.overlap < 1, "0 to less than 1"),
        "supervised_rate": (0 < recipe.supervised_rate < float("inf"), "above 0"),
        "adaptation_rate": (0 < recipe.adaptation_rate < float("inf"), "above 0"),
        "dice_weight": (0 <= recipe.dice_weight < float("inf"), "0 or more"),
        "grl_weight_max": (0 <= recipe.grl_weight_max < float("inf"), "0 or more"),
        "domain_grid": (recipe.domain_grid > 0, "at least 1"),
        "feature_layer": (recipe.feature_layer in FEATURE_LAYERS, " or ".join(FEATURE_LAYERS)),
        "channels": (
            len(recipe.channels) == 3
            and all(c >= 4 and c % 4 == 0 for c in recipe.channels)
            and list(recipe.channels) == sorted(recipe.channels),
            "three multiples of 4, not falling",
        ),
    }
    if phase == ADAPTATION:
        even = recipe.batch_size > 0 and recipe.batch_size % 2 == 0
        rules["batch_size"] = (even, "an even number, half of it for each domain")
    for name, (holds, expected) in rules.items():
        if not holds:
            where = f"{path}: " if path is not None else ""
            raise ConfigError(f"{where}{phase}: {name}: expected {expected}, got {getattr(recipe, name)}")
