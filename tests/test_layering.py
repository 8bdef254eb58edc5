"""The plan of the code, held: which room may import from which."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the ground up. A module imports only from rooms below its own; rooms on one line do not know each other.
EVALUATION = [
    ["contract"],
    ["images", "interruptions", "metrics"],
    ["outlines"],
    ["scoring"],
    ["ranking", "figures"],
    ["report", "runner"],
    ["cli"],
]
PIPELINE = [
    ["config", "allocator", "devices", "ranks"],
    ["cases", "preprocessing", "training_data", "execution"],
    ["patches"],
    ["phantom"],
    ["enet", "domain", "losses"],
    ["sampling", "sliding_window"],
    ["cache"],
    ["checkpoints"],
    ["inference", "picture", "batch_statistics"],
    ["submission", "training"],
    ["training_report"],
    ["runs"],
    ["recipes", "export", "training_display", "training_events"],
    ["search"],
    ["tuning"],
    ["tuning_display", "tuning_report"],
    ["cli", "training_cli"],
    ["tuning_cli"],
]
# Inside the phantom's room.
PHANTOM = [["shapes"], ["anatomy"], ["contrast"], ["scanner"], ["cohort"], ["__init__"]]

# What the participant's side may use of the organiser's.
SHARED = {"contract", "images", "interruptions", "metrics", "outlines"}

ONE_FILE_EACH = {"docker": "evaluation/runner.py", "optuna": "pipeline/tuning.py"}


def modules(package):
    return sorted((ROOT / package).rglob("*.py"))


def imports(path):
    """Every module that a file imports, at its top or inside its functions, but not only for the type checker."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_of(imported, package):
    """The rooms of a package that an import enters."""
    prefix = package + "."
    return {name.removeprefix(prefix).split(".")[0] for name in imported if name.startswith(prefix)}


def floor(plan, room):
    return next(number for number, rooms in enumerate(plan) if room in rooms)


@pytest.mark.parametrize(
    ("package", "plan"), [("evaluation", EVALUATION), ("pipeline", PIPELINE), ("pipeline/phantom", PHANTOM)]
)
def test_a_module_imports_only_from_rooms_below_it(package, plan):
    known = {room for rooms in plan for room in rooms}
    dotted = package.replace("/", ".")
    for path in modules(package):
        room = path.relative_to(ROOT / package).parts[0].removesuffix(".py")
        if room == "__init__" and room not in known:
            continue
        assert room in known, f"{path.name}: give it a floor in the plan above"
        for entered in rooms_of(imports(path), dotted) & known - {room}:
            assert floor(plan, entered) < floor(plan, room), (
                f"{package}/{path.name} imports {entered}, which is not below it"
            )


def test_the_plan_names_no_room_that_is_not_there():
    for package, plan in (("evaluation", EVALUATION), ("pipeline", PIPELINE), ("pipeline/phantom", PHANTOM)):
        for room in (room for rooms in plan for room in rooms):
            path = ROOT / package / room
            assert path.is_dir() or path.with_suffix(".py").is_file(), path


def test_the_organiser_s_side_knows_neither_the_pipeline_nor_torch():
    for path in modules("evaluation"):
        tops = {name.split(".")[0] for name in imports(path)}
        assert not tops & {"pipeline", "torch", "monai", "safetensors"}, path


def test_the_participant_s_side_uses_only_what_is_shared():
    known = {room for rooms in EVALUATION for room in rooms}
    for path in modules("pipeline"):
        used = rooms_of(imports(path), "evaluation") & known
        assert used <= SHARED, f"{path.name} imports evaluation.{used - SHARED}"


def test_docker_and_optuna_are_imported_in_one_file_each():
    for package in ("evaluation", "pipeline"):
        for path in modules(package):
            tops = {name.split(".")[0] for name in imports(path)}
            for library, only in ONE_FILE_EACH.items():
                assert library not in tops or path == ROOT / only, f"{path.name} imports {library}"


def test_test_only_libraries_stay_in_tests_and_benchmarks():
    for package in ("evaluation", "pipeline"):
        for path in modules(package):
            assert not {name.split(".")[0] for name in imports(path)} & {"monai", "medpy", "pytest", "playwright"}


def test_what_joins_both_sides_stands_above_them():
    joining = {path.stem for path in ROOT.glob("*.py")}
    assert joining == {"crossmoda_grl", "reproduction"}
    for package in ("evaluation", "pipeline"):
        for path in modules(package):
            assert not {name.split(".")[0] for name in imports(path)} & joining, path


@pytest.mark.parametrize("package", ["evaluation", "pipeline"])
def test_there_is_no_room_for_odds_and_ends(package):
    assert not [p.name for p in modules(package) if p.stem in {"utils", "helpers", "misc", "common"}]
