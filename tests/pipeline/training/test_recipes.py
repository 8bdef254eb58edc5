"""The paper's recipe is the default, departures are named, and a file's mistakes are refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from challenge.contract import COCHLEA, STRUCTURES, VS, Structure
from pipeline.training.named_recipes import RECIPES, ConfigError, chosen_recipes
from pipeline.training.phases import ADAPTATION, CONTROL, MEAN_TEACHER, PHASES, SELF_TRAINING, SUPERVISED
from pipeline.training.recipes import BOTH, NETWORK, STATISTICS, Recipe, SelfTrainingRecipe


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


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda structure: structure.key)
def test_every_named_recipe_can_be_run(name: str, structure: Structure) -> None:
    recipes = chosen_recipes(name, structure)
    earlier: list[str] = []
    for phase, recipe in recipes.items():
        assert isinstance(recipe, phase.recipe_type)
        assert list(recipe.problems()) == []
        start = phase.start(recipe)
        assert start in earlier if earlier else start is None  # else the run would stop before this phase
        assert PHASES[phase.key] is phase
        earlier.append(phase.key)


@pytest.mark.parametrize("name", ["best", "best-cpu"])
def test_the_best_ones_go_from_phase_1_through_rounds_of_self_training(name: str) -> None:
    first, second, _ = SELF_TRAINING
    vs, cochlea = (chosen_recipes(name, structure) for structure in (VS, COCHLEA))
    assert list(vs) == [SUPERVISED, first]
    assert list(cochlea) == [SUPERVISED, first, second]
    for recipes in (vs, cochlea):
        rounds = list(recipes)[1:]
        assert [phase.start(recipes[phase]) for phase in rounds] == [phase.key for phase in list(recipes)[:-1]]
        assert all(recipes[phase].mirror for phase in recipes)
        windows = {(recipe.window, recipe.batch_size) for phase, recipe in recipes.items() if phase in rounds}
        assert windows == {(recipes[SUPERVISED].window, recipes[SUPERVISED].batch_size)}
    # Descriptors find both structures; the cochlea's outline is left to a new network that sees voxels.
    assert [vs[SUPERVISED].input, cochlea[SUPERVISED].input] == ["mind-fine", "mind-fine"]
    assert [vs[first].input, cochlea[first].input, cochlea[second].input] == ["teacher", "volume", "teacher"]
    assert [recipes.separate_statistics for recipes in (vs[first], cochlea[first], cochlea[second])] == [
        False,
        True,
        True,
    ]
    assert [recipe.augmentation for recipe in vs.values()] == ["none", "light"]
    assert vs[first].target_augmentation == "light"
    assert {cochlea[phase].target_augmentation for phase in (first, second)} == {"none"}
    assert [recipe.augmentation for recipe in cochlea.values()] == ["none", "none", "none"]
    assert vs[first].teacher == BOTH
    assert [cochlea[phase].teacher for phase in (first, second)] == [NETWORK, STATISTICS]
    assert [first.start_epoch(vs[first]), first.start_epoch(cochlea[first])] == ["last", "best"]
    assert second.start_epoch(cochlea[second]) == "last"


@pytest.mark.parametrize("name", ["best", "best-cpu"])
def test_further_rounds_for_the_tumour_are_trained_by_name(name: str) -> None:
    first, second, third = SELF_TRAINING
    round_1, round_2, round_3 = chosen_recipes(name, VS, phases=SELF_TRAINING).values()
    assert round_2 == replace(round_1, teacher=NETWORK, flipped_view=True, starts_from=first.key)
    assert round_3 == replace(round_2, starts_from=second.key)
    assert {second.start_epoch(round_2), third.start_epoch(round_3)} == {"last"}


def test_the_best_one_has_the_paper_s_windows_and_batches_and_the_cpu_s_smaller_ones() -> None:
    for structure in STRUCTURES:
        paper = chosen_recipes("paper", structure)[SUPERVISED]
        for recipe in chosen_recipes("best", structure).values():
            assert (recipe.window, recipe.batch_size) == (paper.window, paper.batch_size)
            assert not {"window", "batch_size", "dice_weight"} & recipe.departures(structure).keys()
            is_new = getattr(recipe, "input", "teacher") != "teacher"
            assert recipe.learning_rate == (paper.learning_rate if is_new else 3e-4)
        assert chosen_recipes("best", structure)[SUPERVISED].epochs == 60
    for structure, window in ((VS, 64), (COCHLEA, 48)):
        assert {r.window for r in chosen_recipes("best-cpu", structure).values()} == {window}
        assert {r.batch_size for r in chosen_recipes("best-cpu", structure).values()} == {4}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"batch_size": 5}, "batch_size: expected an even number, half of it for each domain, got 5"),
        ({"start_epoch": "first"}, "start_epoch: expected best or last, got first"),
        ({"teacher": "nobody"}, "teacher: expected network or statistics or both, got nobody"),
        ({"input": "both eyes"}, "input: expected teacher or volume or mind or mind-fine or both, got both eyes"),
        ({"agreement": 1.5}, "agreement: expected 0 to 1, got 1.5"),
        ({"kept_share": -0.1}, "kept_share: expected 0 to 1, got -0.1"),
        ({"uncertain_band": 0.5}, "uncertain_band: expected 0 to less than 0.5, got 0.5"),
        ({"smallest_volume": -1.0}, "smallest_volume: expected 0 or more, got -1.0"),
        ({"largest_volume": float("inf")}, "largest_volume: expected 0 or more, got inf"),
    ],
)
def test_what_a_round_cannot_do_is_named(change: dict[str, object], problem: str) -> None:
    assert list(replace(SelfTrainingRecipe(64, 4), **change).problems()) == [problem]


@pytest.mark.parametrize("field", ["augmentation", "contrast_view", "target_augmentation"])
def test_an_unknown_augmentation_is_named(field: str) -> None:
    (problem,) = replace(SelfTrainingRecipe(64, 4), **{field: "wild"}).problems()
    assert problem == (
        f"{field}: expected none or contrast or convolution or mixed or structure or mild or light, got wild"
    )


def test_a_file_changes_one_round(tmp_path: Path) -> None:
    first, second, _ = SELF_TRAINING
    before = chosen_recipes("best", COCHLEA)
    config = written(tmp_path, "[self_training_1]\nagreement = 1\n[cochlea.self_training_2]\nteacher = 'both'")
    after = chosen_recipes("best", COCHLEA, config=config)
    changed: dict[object, Recipe] = {
        first: replace(before[first], agreement=1.0),
        second: replace(before[second], teacher="both"),
    }
    assert after == {**before, **changed}
    with pytest.raises(ConfigError, match="teacher: expected network or statistics or both, got all"):
        chosen_recipes("best", VS, config=written(tmp_path, "[self_training_1]\nteacher = 'all'"))
    with pytest.raises(ConfigError, match="recipe paper: expected one of its phases for vs, supervised, adaptation"):
        chosen_recipes("paper", VS, phases=[first])


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
        ("[adaptation]\nchannels = [4, 8, 16]", r"\[adaptation\] expected augmentation, batch_size, .*, got channels"),
    ],
)
def test_old_keys_and_keys_of_another_phase_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        chosen_recipes("paper", VS, config=written(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", "expected agreement, augmentation, batch_size, .* or a table of a structure or phase, got epoch"),
        ("[tumour]\nepochs = 3", "got tumour"),
        ("[supervised.vs]\nepochs = 3", r"\[supervised\] expected .* got vs"),
        ("epochs = 3.5", "epochs: expected a value like 60, got 3.5"),
        ("epochs = true", "epochs: expected a value like 60, got True"),
        ('window = "64"', "window: expected a value like 128, got '64'"),
        ("window = 60", "supervised: window: expected a multiple of 8, got 60"),
        ("batch_size = 3", "adaptation: batch_size: expected an even number, half of it for each domain, got 3"),
        ("channels = [16, 64]", "channels: expected three multiples of 4, not falling"),
        ("input = 'voxels'", "supervised: input: expected volume or mind or mind-fine or both, got voxels"),
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


def test_the_adversary_and_the_mean_teacher_are_trained_by_name_from_the_randomised_phase_1() -> None:
    for name in ("best", "best-cpu"):
        first = chosen_recipes(name, VS)[SUPERVISED]
        assert not {ADAPTATION, MEAN_TEACHER} & chosen_recipes(name, VS).keys()
        recipes = chosen_recipes(name, VS, phases=[ADAPTATION, MEAN_TEACHER, CONTROL])
        for phase, recipe in recipes.items():
            assert phase.start(recipe) == SUPERVISED.key
            assert (recipe.window, recipe.augmentation, recipe.mirror) == (first.window, "contrast", True)
            assert list(recipe.problems()) == []
        assert recipes[CONTROL].batch_size == recipes[ADAPTATION].domain_batch
        assert recipes[ADAPTATION].departures(VS)["augmentation"] == "contrast instead of none"
        for phase, recipe in chosen_recipes(name, COCHLEA, phases=[ADAPTATION, MEAN_TEACHER]).items():
            assert isinstance(recipe, phase.recipe_type)
            assert recipe.augmentation == "mild"


def test_a_round_may_start_from_the_adversary(tmp_path: Path) -> None:
    config = written(tmp_path, "[vs.self_training_1]\nstarts_from = 'adaptation'")
    first, *_ = SELF_TRAINING
    recipe = chosen_recipes("best-cpu", VS, phases=[first], config=config)[first]
    assert first.start(recipe) == "adaptation"
