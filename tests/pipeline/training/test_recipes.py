"""The paper's recipe is the default, departures are named, and a file's mistakes are refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from challenge.contract import COCHLEA, STRUCTURES, VS
from pipeline.training.recipes import RECIPES, ConfigError, chosen_recipes
from pipeline.training.run import PHASES


def test_the_paper_s_departs_in_nothing() -> None:
    for structure, window, batch_size in ((VS, 128, 4), (COCHLEA, 64, 16)):
        for phase, recipe in chosen_recipes("paper", structure).items():
            assert phase in PHASES
            assert (recipe.window, recipe.batch_size, recipe.epochs) == (window, batch_size, 60)
            assert recipe.departures(structure) == {}


def test_the_reduced_one_names_its_departures() -> None:
    assert set(RECIPES["cpu"]) == {(structure, phase) for structure in STRUCTURES for phase in PHASES}
    assert chosen_recipes("cpu", VS)["supervised"].departures(VS) == {
        "window": "64 instead of 128",
        "epochs": "30 instead of 60",
        "patches_per_volume": "4 instead of 1",
        "mirror": "True instead of False",
        "validate_every": "6 instead of 1",
    }
    # What the paper states of losses and rates it keeps.
    for recipe in RECIPES["cpu"].values():
        assert (recipe.supervised_rate, recipe.adaptation_rate, recipe.dice_weight) == (1.0e-3, 6.7e-5, 3.4)


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
        supervised_rate = 1
        [vs.adaptation]
        window = 64
        """,
    )
    vs, cochlea = (chosen_recipes("paper", structure, config=config) for structure in (VS, COCHLEA))
    paper = chosen_recipes("paper", VS)["supervised"]
    both = replace(paper, mirror=True, channels=(8, 16, 32), supervised_rate=1.0)
    assert vs["supervised"] == replace(both, epochs=30, window=96)
    assert vs["adaptation"] == replace(both, epochs=20, window=64)
    assert (cochlea["supervised"].window, cochlea["supervised"].epochs, cochlea["adaptation"].epochs) == (64, 30, 20)
    assert chosen_recipes("paper", VS, config=config, epochs=2)["adaptation"].epochs == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", "expected adaptation_rate, .* or a table of a structure or phase, got epoch"),
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
        ("supervised_rate = nan", "supervised_rate: expected above 0, got nan"),
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
