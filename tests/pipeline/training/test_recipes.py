"""The paper's recipe is the default, departures are named, and a file's mistakes are refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from challenge.contract import COCHLEA, STRUCTURES, VS
from pipeline.training.named_recipes import RECIPES, ConfigError, chosen_recipes
from pipeline.training.phases import ADAPTATION, CONTROL, SUPERVISED


def test_the_paper_s_departs_in_nothing() -> None:
    for structure, window, batch_size in ((VS, 128, 4), (COCHLEA, 64, 16)):
        for phase, recipe in chosen_recipes("paper", structure).items():
            assert phase in (SUPERVISED, ADAPTATION)
            assert (recipe.window, recipe.batch_size, recipe.epochs) == (window, batch_size, 60)
            assert recipe.departures(structure) == {}


def test_the_reduced_one_names_its_departures() -> None:
    assert {s: list(recipes) for s, recipes in RECIPES["cpu"].items()} == {
        structure: [SUPERVISED, ADAPTATION] for structure in STRUCTURES
    }
    assert chosen_recipes("cpu", VS)[SUPERVISED].departures(VS) == {
        "window": "64 instead of 128",
        "epochs": "30 instead of 60",
        "patches_per_volume": "4 instead of 1",
        "mirror": "True instead of False",
        "validate_every": "6 instead of 1",
    }
    # What the paper states of losses and rates it keeps.
    for recipes in RECIPES["cpu"].values():
        assert [recipe.learning_rate for recipe in recipes.values()] == [1.0e-3, 6.7e-5]
        assert [recipe.dice_weight for recipe in recipes.values()] == [3.4, 3.4]


def written(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    return path


def test_a_file_changes_what_it_names_the_narrower_table_counting(tmp_path: Path) -> None:
    config = written(
        tmp_path,
        """
        epochs = 30
        mirror = true
        [adaptation]
        epochs = 20
        [vs]
        window = 96
        channels = [8, 16, 32]
        [vs.supervised]
        learning_rate = 1
        [vs.adaptation]
        window = 64
        """,
    )
    vs, cochlea = (chosen_recipes("paper", structure, config=config) for structure in (VS, COCHLEA))
    first, second = chosen_recipes("paper", VS).values()
    changed = {"mirror": True, "epochs": 30, "window": 96, "channels": (8, 16, 32), "learning_rate": 1.0}
    assert vs[SUPERVISED] == replace(first, **changed)
    assert vs[ADAPTATION] == replace(second, mirror=True, epochs=20, window=64)
    assert (cochlea[SUPERVISED].window, cochlea[SUPERVISED].epochs, cochlea[ADAPTATION].epochs) == (64, 30, 20)
    assert chosen_recipes("paper", VS, config=config, epochs=2)[ADAPTATION].epochs == 2


def test_the_control_s_recipe_follows_from_phase_2_s(tmp_path: Path) -> None:
    config = written(tmp_path, "batch_size = 8\n[adaptation]\nlearning_rate = 1e-4\n[vs.control]\nepochs = 3")
    control = chosen_recipes("paper", VS, phases=[CONTROL], config=config)[CONTROL]
    assert (control.batch_size, control.learning_rate, control.epochs, control.window) == (4, 1e-4, 3, 128)
    assert chosen_recipes("paper", VS, phases=[CONTROL])[CONTROL].departures(VS) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("supervised_rate = 1", "supervised_rate: this key has a new name; write learning_rate under .supervised."),
        ("[vs]\nadaptation_rate = 1", r"\[vs\] adaptation_rate: .* write learning_rate under .adaptation."),
        ("reversal_maximum = 1.0", "reversal_maximum: this key has a new name; write grl_weight_max"),
        ("[vs.adaptation]\ndomain_tap = 'early'", r"\[vs.adaptation\] domain_tap: .* write feature_layer"),
        ("[adaptation]\nchannels = [4, 8, 16]", r"\[adaptation\] expected batch_size, .*, got channels"),
    ],
)
def test_old_keys_and_keys_of_another_phase_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        chosen_recipes("paper", VS, config=written(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", "expected batch_size, .* or a table of a structure or phase, got epoch"),
        ("[tumour]\nepochs = 3", "got tumour"),
        ("[supervised.vs]\nepochs = 3", r"\[supervised\] expected .* got vs"),
        ("epochs = 3.5", "epochs: expected a value like 60, got 3.5"),
        ("epochs = true", "epochs: expected a value like 60, got True"),
        ('window = "64"', "window: expected a value like 128, got '64'"),
        ("window = 60", "supervised: window: expected a multiple of 8, got 60"),
        ("batch_size = 3", "adaptation: batch_size: expected an even number, half of it for each domain, got 3"),
        ("channels = [16, 64]", "channels: expected three multiples of 4, not falling"),
        ("channels = 16", "channels: expected a list of whole numbers, got 16"),
        ("overlap = 1.0", "overlap: expected 0 to less than 1, got 1.0"),
        ("learning_rate = nan", "learning_rate: expected above 0, got nan"),
        ("feature_layer = 'late'", "feature_layer: expected encoder or early, got late"),
        ("domain_grid = 0", "domain_grid: expected at least 1, got 0"),
        ("epochs = 0", "epochs: expected at least 1, got 0"),
        ("epochs = ", "expected TOML, got damaged text"),
    ],
)
def test_mistakes_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        chosen_recipes("paper", VS, config=written(tmp_path, text))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.toml: expected a configuration file, got No such file"):
        chosen_recipes("paper", VS, config=tmp_path / "none.toml")
