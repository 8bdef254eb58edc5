"""The plan of the code, held: which package may import from which, and which module inside each."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the ground up. A module imports only from lines below its own; those on one line do not know each other.
PACKAGES = [
    ["challenge"],
    ["evaluation", "pipeline.config", "pipeline.runtime"],
    ["pipeline.data", "pipeline.model", "pipeline.phantom"],
    ["pipeline.adaptation"],
    ["pipeline.inference"],
    ["pipeline.training"],
    ["pipeline.tuning", "crossmoda_grl"],
]
INSIDE = {
    "challenge": [
        ["files", "names", "quantities", "signals"],
        ["contract"],
        ["colours", "headers", "layouts"],
        ["label_tables", "text_headers"],
        ["nifti"],
        ["nnunet"],
    ],
    "evaluation": [
        ["nearest", "outlines", "grand_challenge"],
        ["metrics"],
        ["scoring"],
        ["cohort"],
        ["score_files", "ranking", "metrics_file"],
        ["ranking_file"],
        ["report", "runner"],
        ["tables"],
        ["console"],
        ["run_command"],
        ["cli"],
    ],
    "evaluation.report": [
        ["slice_stacks", "wording"],
        ["box_plots", "worst_cases", "ranking_view", "content"],
        ["markdown", "page"],
    ],
    "evaluation.runner": [
        ["errors", "observers"],
        ["record"],
        ["checks", "folders", "leftovers", "logs"],
        ["keeper"],
        ["output"],
        ["monitors"],
        ["container"],
        ["run"],
    ],
    "pipeline.runtime": [["allocator", "checksums", "cores", "devices", "distributed"]],
    "pipeline.data": [
        ["case_files", "cases", "components", "intensities", "patches"],
        ["dataset", "nnunet", "resampling", "sampling"],
        ["preprocessing"],
        ["cache", "known"],
        ["cli"],
    ],
    "pipeline.model": [
        ["layout", "prelu", "mind", "rules", "shipped"],
        ["convolutions", "domain", "losses"],
        ["enet"],
        ["weights"],
        ["inference_form"],
        ["onnx_export"],
    ],
    "pipeline.phantom": [["shapes"], ["anatomy"], ["contrast"], ["scanner"], ["cohort"], ["__init__"], ["cli"]],
    "pipeline.inference": [
        [
            "postprocessing",
            "sliding_window",
            "picture",
            "target_statistics",
            "plausibility",
            "results",
            "dicom",
            "compiled",
            "overlapped",
            "window_side",
        ],
        ["inputs", "scans", "segment"],
        ["submission", "compile_cli", "viewer"],
        ["folder"],
        ["cluster"],
        ["cli"],
    ],
    "pipeline.inference.dicom": [["files"], ["stack"], ["series"], ["segmentation"]],
    "pipeline.inference.viewer": [["niivue", "places"], ["cases"], ["folder", "server"], ["cli"]],
    "pipeline.inference.cluster": [["fitness", "one_case"], ["worker"], ["client"]],
    "pipeline.adaptation": [
        ["augmentations", "consistency", "nearness", "selection", "statistics"],
        ["pseudo_labels", "randomisation"],
    ],
    "pipeline.training": [
        ["recipes", "options", "history", "stopping", "provenance"],
        ["phases", "execution"],
        ["named_recipes", "state"],
        ["listeners", "settings"],
        ["epoch_end", "checkpoint", "report", "display"],
        ["supervised", "adaptation", "self_training", "mean_teacher", "summary", "tensorboard", "cochleas"],
        ["run", "export"],
        ["session"],
        ["cli"],
    ],
    "pipeline.tuning": [
        ["spaces", "options"],
        ["plan", "trials", "storage", "retries"],
        ["criterion", "study", "display"],
        ["plots"],
        ["report"],
        ["worker"],
        ["cli"],
    ],
    "crossmoda_grl": [["reproduction", "segmenting", "evaluating"], ["__init__", "__main__"]],
}
# What the participant's side may use of the organiser's.
SHARED = {"evaluation.metrics", "evaluation.outlines"}
# Libraries that one package alone may import.
ONE_PACKAGE_EACH = {
    "docker": "evaluation.runner",
    "optuna": "pipeline.tuning",
    "distributed": "pipeline.inference.cluster",
    "dask": "pipeline.inference.cluster",
    "pydicom": "pipeline.inference.dicom",
    "highdicom": "pipeline.inference.dicom",
}

TOP = ("challenge", "evaluation", "pipeline", "crossmoda_grl")
FILES = sorted(path for package in TOP for path in (ROOT / package).rglob("*.py"))


def dotted(path):
    """`pipeline/data/cases.py` -> `pipeline.data.cases`, `pipeline/data/__init__.py` -> `pipeline.data.__init__`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


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


def lies_in(module, package):
    return f"{module}.".startswith(f"{package}.")


def package_of(module):
    """The package of the plan that a module lies in; None for other projects' modules."""
    named = [package for line in PACKAGES for package in line if lies_in(module, package)]
    return named[0] if named else None


def layer(plan, name):
    return next(number for number, names in enumerate(plan) if name in names)


def module_inside(module, package):
    """`pipeline.data.cases.read_scan` in `pipeline.data` -> `cases`; the package itself is its `__init__`."""
    return module.removeprefix(package).removeprefix(".").split(".")[0] or "__init__"


@pytest.mark.parametrize("path", FILES, ids=dotted)
def test_a_module_imports_only_from_below_it(path):
    own = package_of(dotted(path))
    if own is None:
        assert dotted(path) == "pipeline.__init__", "give it a line in the plan above"
        return
    for imported in imports(path):
        package = package_of(imported)
        if package is not None and package != own:
            assert layer(PACKAGES, package) < layer(PACKAGES, own), f"{path.name} imports {imported}, not below it"


@pytest.mark.parametrize("package", INSIDE)
def test_inside_a_package_too(package):
    plan = INSIDE[package]
    known = {module for line in plan for module in line}
    for path in FILES:
        if not lies_in(dotted(path), package):
            continue
        module = module_inside(dotted(path), package)
        if module == "__init__" and module not in known:
            continue
        assert module in known, f"{package}.{module}: give it a line in the plan above"
        entered = {module_inside(name, package) for name in imports(path) if lies_in(name, package)}
        for name in entered & known - {module}:
            assert layer(plan, name) < layer(plan, module), f"{package}.{module} imports {name}, which is not below it"


def test_the_plan_names_nothing_that_is_not_there():
    planned = [f"{package}.{module}" for package, plan in INSIDE.items() for line in plan for module in line]
    planned += [package for line in PACKAGES for package in line]
    for name in planned:
        path = ROOT / name.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").is_file(), name


def test_a_drawing_of_the_packages_has_at_most_seven_layers():
    assert len(PACKAGES) <= 7


def test_the_organiser_s_side_knows_neither_the_pipeline_nor_torch():
    for path in FILES:
        if dotted(path).startswith(("challenge.", "evaluation.")):
            tops = {name.split(".")[0] for name in imports(path)}
            assert not tops & {"pipeline", "torch", "monai", "safetensors", "crossmoda_grl"}, path


def test_the_participant_s_side_uses_only_what_is_shared():
    for path in FILES:
        if dotted(path).startswith("pipeline."):
            used = {".".join(name.split(".")[:2]) for name in imports(path) if name.startswith("evaluation.")}
            assert used <= SHARED, f"{path.name} imports {used - SHARED}"


def test_some_libraries_are_imported_in_one_package_each():
    for path in FILES:
        tops = {name.split(".")[0] for name in imports(path)}
        for library, only in ONE_PACKAGE_EACH.items():
            assert library not in tops or lies_in(dotted(path), only), f"{dotted(path)} imports {library}"


def test_test_only_libraries_stay_in_tests_and_benchmarks():
    of_tests = {"hypothesis", "medpy", "monai", "playwright", "pytest"}
    for path in FILES:
        assert not {name.split(".")[0] for name in imports(path)} & of_tests, path


def test_there_is_no_module_for_odds_and_ends():
    assert not [dotted(path) for path in FILES if path.stem in {"utils", "helpers", "misc", "common"}]
