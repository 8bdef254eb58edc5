"""Named recipes and changes to them from a file: which phases a run has, and each one's recipe. Needs no torch.

Every way in which `cpu` departs from the paper stands in the table below. `Recipe.departures` names them in a run's
settings, in its summary and on a card of weights.
"""

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from challenge.contract import COCHLEA, STRUCTURES, VS, Structure
from pipeline.config import BEST, FINE_MIND_INPUT, PAPER, VOLUME_INPUT
from pipeline.training.phases import ADAPTATION, MEAN_TEACHER, PHASES, SELF_TRAINING, SUPERVISED, Phase
from pipeline.training.recipes import (
    BOTH,
    STATISTICS,
    AdaptationRecipe,
    MeanTeacherRecipe,
    Recipe,
    SelfTrainingRecipe,
    SupervisedRecipe,
)

Recipes = Mapping[Phase, Recipe]

# For about 24 phantoms a domain of the preset `small`: minutes a phase, where the paper's counts take weeks.
#   window          64 and 48 instead of 128 and 64: a step takes seconds, and both still hold the structure
#   batch_size      4 (cochlea's phase 2: 8) instead of 4 and 16
#   epochs          fewer, of more patches a volume, because an epoch of a few volumes is short
#   mirror          heads are nearly symmetric, and 24 of them are few
#   validate_every  predicting whole volumes takes as long as an epoch
_CPU: Mapping[Structure, Recipes] = {
    VS: {
        SUPERVISED: SupervisedRecipe(64, 4, epochs=30, patches_per_volume=4, mirror=True, validate_every=6),
        ADAPTATION: AdaptationRecipe(64, 4, epochs=16, patches_per_volume=2, mirror=True, validate_every=4),
    },
    COCHLEA: {
        SUPERVISED: SupervisedRecipe(48, 4, epochs=40, patches_per_volume=8, mirror=True, validate_every=4),
        ADAPTATION: AdaptationRecipe(48, 8, epochs=12, patches_per_volume=4, mirror=True, validate_every=4),
    },
}
# Beyond the paper, without target labels: what found the structures on phantoms (docs/results.md has what each step is
# worth). `best` has the paper's windows and batches, for the challenge's data; `best-cpu` is its reduction.
#   VS        its contrast turns round between the domains, so the network sees none, but MIND descriptors: which of a
#             voxel's surroundings are alike. The fine ones, because its part in the ear canal is a few voxels thick.
#             The round is labelled by that network with the source's and with the target's statistics: they err
#             differently (too small, too large), and where they disagree a case is refused. Noise, bias, small turns.
#             One round: two more added nothing. Small tumours are found too small, so the least volume is low.
#             80 epochs of phase 1: with 40, which seed finds the small ones depends on rounding.
#   cochlea   descriptors find it in either domain but blur its outline; voxels show the outline, but find it in one
#             domain only. So descriptors label the target, and a new network learns on voxels from the labels of both.
#             Nothing is randomised: its contrast carries information. Batch norm's statistics of both domains together
#             fit neither, so each domain has its own. Round 1 draws too small with those of training patches, which lie
#             around the cochlea, and too large with those of patches from anywhere. The latter label round 2, which
#             ends between them.
#   rounds    each starts from the last network of the one before: source Dice would choose the least adapted.
_FIRST, _SECOND, _THIRD = SELF_TRAINING


def _vs_rounds(window: int, batch_size: int, **counts: int) -> Recipes:
    drawn: dict[str, Any] = {"mirror": True, "augmentation": "light", "target_augmentation": "light", **counts}
    drawn["agreement"] = 0.6  # at 0.4, a round took labels of a mean true Dice of 0.08, and the next found no tumour
    drawn["smallest_volume"] = 0.2
    return {
        _FIRST: SelfTrainingRecipe(window, batch_size, teacher=BOTH, flipped_view=False, **drawn),
        _SECOND: SelfTrainingRecipe(window, batch_size, starts_from=_FIRST.key, **drawn),
        _THIRD: SelfTrainingRecipe(window, batch_size, starts_from=_SECOND.key, **drawn),
    }


def _cochlea_rounds(window: int, batch_size: int, *, new: Mapping[str, int], further: Mapping[str, int]) -> Recipes:
    drawn: dict[str, Any] = {"mirror": True, "separate_statistics": True}
    of_new: dict[str, Any] = {"input": VOLUME_INPUT, "learning_rate": PAPER.supervised_rate, "start_epoch": BEST, **new}
    of_further: dict[str, Any] = {"teacher": STATISTICS, "starts_from": _FIRST.key, **further}
    return {
        _FIRST: SelfTrainingRecipe(window, batch_size, **drawn, **of_new),
        _SECOND: SelfTrainingRecipe(window, batch_size, **drawn, **of_further),
    }


_VS_ROUNDS = _vs_rounds(128, 4, epochs=20, validate_every=20)
_VS_ROUNDS_CPU = _vs_rounds(64, 4, epochs=12, patches_per_volume=2, validate_every=12)
_BEST_CPU: Mapping[Structure, Recipes] = {
    VS: {
        SUPERVISED: SupervisedRecipe(
            64, 4, epochs=80, patches_per_volume=4, mirror=True, input=FINE_MIND_INPUT, validate_every=20
        ),
        _FIRST: _VS_ROUNDS_CPU[_FIRST],
    },
    COCHLEA: {
        SUPERVISED: SupervisedRecipe(
            48, 4, epochs=40, patches_per_volume=8, mirror=True, input=FINE_MIND_INPUT, validate_every=4
        ),
        **_cochlea_rounds(
            48,
            4,
            new={"epochs": 40, "patches_per_volume": 4, "validate_every": 40},
            further={"epochs": 12, "patches_per_volume": 4, "validate_every": 12},
        ),
    },
}
_BEST: Mapping[Structure, Recipes] = {
    VS: {
        SUPERVISED: SupervisedRecipe(128, 4, mirror=True, input=FINE_MIND_INPUT, validate_every=20),
        _FIRST: _VS_ROUNDS[_FIRST],
    },
    COCHLEA: {
        SUPERVISED: SupervisedRecipe(64, 16, mirror=True, input=FINE_MIND_INPUT, validate_every=6),
        **_cochlea_rounds(64, 16, new={"validate_every": 20}, further={"epochs": 20, "validate_every": 20}),
    },
}
# name -> structure -> the phases of a run, in order -> their recipes
RECIPES: dict[str, Mapping[Structure, Recipes]] = {
    "paper": {s: {phase: phase.recipe_type.paper(s) for phase in (SUPERVISED, ADAPTATION)} for s in STRUCTURES},
    "cpu": _CPU,
    "best": _BEST,
    "best-cpu": _BEST_CPU,
}
# Arms beside those recipes, trained only by name (`--phase`): from the recipe's phase 1, the adversary of the paper's
# phase 2 on randomised source patches, and a mean teacher with as many steps as two rounds that train a network
# further; further rounds for the VS.
_VIEWS: dict[str, Any] = {"mirror": True, "augmentation": "contrast", "target_augmentation": "contrast"}
_STATISTICS: dict[str, Any] = {"mirror": True, "augmentation": "mild", "start_epoch": BEST, "target_statistics": True}
BY_NAME: dict[str, Mapping[Structure, Recipes]] = {
    "best": {
        VS: {
            ADAPTATION: AdaptationRecipe(128, 4, mirror=True, augmentation="contrast", validate_every=20),
            _SECOND: _VS_ROUNDS[_SECOND],
            _THIRD: _VS_ROUNDS[_THIRD],
            MEAN_TEACHER: MeanTeacherRecipe(128, 4, epochs=40, validate_every=20, **_VIEWS),
        },
        COCHLEA: {
            ADAPTATION: AdaptationRecipe(64, 16, mirror=True, augmentation="mild", validate_every=20),
            MEAN_TEACHER: MeanTeacherRecipe(64, 16, epochs=40, validate_every=20, **_STATISTICS),
        },
    },
    "best-cpu": {
        VS: {
            ADAPTATION: replace(_CPU[VS][ADAPTATION], augmentation="contrast"),
            _SECOND: _VS_ROUNDS_CPU[_SECOND],
            _THIRD: _VS_ROUNDS_CPU[_THIRD],
            MEAN_TEACHER: MeanTeacherRecipe(64, 4, epochs=24, patches_per_volume=2, validate_every=12, **_VIEWS),
        },
        COCHLEA: {
            ADAPTATION: replace(_CPU[COCHLEA][ADAPTATION], augmentation="mild"),
            MEAN_TEACHER: MeanTeacherRecipe(48, 4, epochs=24, patches_per_volume=4, validate_every=12, **_STATISTICS),
        },
    },
}
# Keys of configuration files of before, and what to write instead.
_RENAMED = {
    "supervised_rate": "learning_rate under [supervised]",
    "adaptation_rate": "learning_rate under [adaptation]",
    "reversal_maximum": "grl_weight_max",
    "domain_tap": "feature_layer",
}


class ConfigError(Exception):
    """A configuration that cannot be used: path, expected, got, next step."""


def chosen_recipes(
    name: str,
    structure: Structure,
    *,
    phases: Sequence[Phase] | None = None,
    config: Path | None = None,
    epochs: int | None = None,
) -> dict[Phase, Recipe]:
    """Return a structure's recipe for each phase, in the phases' order: the named one, with changes.

    A configuration file is TOML. Its keys are the fields of recipes. Keys at the top change every phase that has the
    field; keys under `[supervised]`, `[vs]` or `[vs.supervised]` change what the table names, and the narrower table
    wins::

        epochs = 30
        [vs.adaptation]
        window = 96

    Args:
        name: of the recipe.
        structure: what is segmented.
        phases: which ones, of the named recipe or of `BY_NAME`; those of the named recipe by default.
        config: file of changes.
        epochs: of each phase, whatever recipe and file say.

    Raises:
        ConfigError: the file is missing or damaged, or holds an unknown key or a value that makes no sense; or the
            named recipe has no such phase.
    """
    changes = _read(config) if config is not None else {}
    where = f"{config}: " if config is not None else ""
    recipes = {}
    for phase in RECIPES[name][structure] if phases is None else phases:
        recipe = _recipe(name, structure, phase, changes, where)
        if epochs is not None:
            recipe = replace(recipe, epochs=epochs)
        for problem in recipe.problems():
            raise ConfigError(f"{where}{phase.key}: {problem}")
        recipes[phase] = recipe
    return recipes


def _recipe(name: str, structure: Structure, phase: Phase, changes: Mapping[str, Any], where: str) -> Recipe:
    """Return a phase's recipe with the file's changes; one that follows another's takes that one's changes too."""
    named = {**RECIPES[name][structure], **BY_NAME.get(name, {}).get(structure, {})}
    of_structure = changes.get(structure.key, {})
    tables = [changes, changes.get(phase.key, {}), of_structure, of_structure.get(phase.key, {})]
    if phase in named:
        recipe = named[phase]
    elif phase.recipe_follows is not None:
        followed = _recipe(name, structure, PHASES[phase.recipe_follows], changes, where)
        recipe = phase.recipe_type.following(followed)  # type: ignore[attr-defined]  # such a type has it
        tables = tables[1::2]
    else:
        keys = ", ".join(p.key for p in named)
        raise ConfigError(f"recipe {name}: expected one of its phases for {structure.key}, {keys}, got {phase.key}")
    for table in tables:
        recipe = _changed(recipe, table, where)
    return recipe


def _read(path: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: expected a configuration file, got {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected TOML, got damaged text ({error})") from error
    everywhere = _field_names(PHASES.values())
    for where, table, phases in _tables(content):
        known = _field_names([PHASES[where[-1]]]) if where and where[-1] in PHASES else everywhere
        for key, value in table.items():
            if key in (phases if isinstance(value, dict) else known):
                continue
            place = f"[{'.'.join(where)}] " if where else ""
            if key in _RENAMED:
                raise ConfigError(f"{path}: {place}{key}: this key has a new name; write {_RENAMED[key]}")
            raise ConfigError(
                f"{path}: {place}expected {', '.join(sorted(known))}, or a table of a structure or phase, got {key}"
            )
    return content


def _tables(content: dict[str, Any]) -> Iterator[tuple[list[str], dict[str, Any], set[str]]]:
    """Yield the tables of a file: where each stands, its content, and which tables it may hold."""
    structures = {structure.key for structure in STRUCTURES}
    yield [], content, structures | set(PHASES)
    for key, table in content.items():
        if isinstance(table, dict):
            yield [key], table, set(PHASES) if key in structures else set()
            for inner, narrower in table.items():
                if isinstance(narrower, dict):
                    yield [key, inner], narrower, set()


def _field_names(phases: Iterable[Phase]) -> set[str]:
    return {f.name for phase in phases for f in fields(phase.recipe_type)}


def _changed(recipe: Recipe, table: Mapping[str, Any], where: str) -> Recipe:
    """Return a recipe with those of a table's values that it has a field for, each of the type that it replaces."""
    changes: dict[str, Any] = {}
    for name in {f.name for f in fields(recipe)} & set(table):
        old, value = getattr(recipe, name), table[name]
        if isinstance(old, tuple) and isinstance(value, list) and all(type(v) is int for v in value):
            changes[name] = tuple(value)
        elif type(old) is float and type(value) in (int, float):
            changes[name] = float(value)
        elif type(old) is type(value):
            changes[name] = value
        else:
            expected = "a list of whole numbers" if isinstance(old, tuple) else f"a value like {old}"
            raise ConfigError(f"{where}{name}: expected {expected}, got {value!r}")
    return replace(recipe, **changes)
