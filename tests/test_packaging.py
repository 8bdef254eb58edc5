"""The wheel: every package and the shipped weights are in it, and are found wherever it is installed."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipeline.model.shipped import DEFAULT_WEIGHTS, shipped_sets

ROOT = Path(__file__).parent.parent
SOURCES = ["challenge", "crossmoda_grl", "evaluation", "pipeline", "weights"]
FILES = ["LICENSE", "README.md", "pyproject.toml", "setup.py"]

LOAD = """
import pipeline
from challenge.contract import STRUCTURES
from crossmoda_grl.__main__ import main
from pipeline.model.shipped import shipped_sets, weights_folder
from pipeline.model.weights import load_segmenter
print(pipeline.__file__, weights_folder(), *shipped_sets(), sep="\\n")
import torch
for structure in STRUCTURES:
    assert load_segmenter(weights_folder(), structure, torch.device("cpu")).structure == structure
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Install a copy of the sources with `pip install --target`, offline; building leaves files beside the sources."""
    copy, target = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("target")
    for name in SOURCES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, copy)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index"]
    options = ["--no-deps", "--no-build-isolation", "--target", str(target), str(copy)]
    # Without npm's registry it must work too: NiiVue is installed if the sources hold it already.
    environment = os.environ | {"NPM_CONFIG_REGISTRY": "http://127.0.0.1:9"}
    done = subprocess.run([*pip, *options], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def test_everything_that_the_sources_hold_is_installed(installed):
    for name in SOURCES:
        at = installed / ("pipeline/weights" if name == "weights" else name)
        expected = {p.relative_to(ROOT / name) for p in (ROOT / name).rglob("*") if p.is_file()}
        missing = {p for p in expected if "__pycache__" not in p.parts and not (at / p).exists()}
        assert not missing, f"not installed: {missing}"


def test_an_installation_in_any_folder_finds_its_weights(installed, tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "CROSSMODA_GRL_WEIGHTS"}
    environment["PYTHONPATH"] = str(installed)
    done = subprocess.run(
        [sys.executable, "-c", LOAD], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    package, folder, *sets = done.stdout.splitlines()
    assert Path(package).is_relative_to(installed)
    assert Path(folder) == installed / "pipeline" / "weights" / DEFAULT_WEIGHTS
    assert sets == sorted(p.name for p in (ROOT / "weights").iterdir())


def test_every_package_that_is_imported_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: needs for name, needs in project["optional-dependencies"].items() if name != "dev"}
    needs = [*project["dependencies"], *(need for extra in extras.values() for need in extra)]
    declared = {re.match(r"[\w-]+", need).group().lower() for need in needs}
    modules = packages_distributions()
    for path in (p for name in SOURCES if name != "weights" for p in (ROOT / name).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for top in {name.split(".")[0] for name in names} - {*SOURCES, *sys.stdlib_module_names}:
                owners = {owner.lower() for owner in modules.get(top, [top])}
                assert owners & declared, (
                    f"{path.relative_to(ROOT)} imports {top}, which pyproject.toml does not declare"
                )


def test_the_locked_versions_lie_in_the_declared_ranges():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    locked = {canonicalize_name(n): v for n, _, v in (line.partition("==") for line in lines if "==" in line)}
    needs = [Requirement(n) for group in project["optional-dependencies"].values() for n in group]
    needs += [Requirement(need) for need in project["dependencies"]]
    for need in needs:
        if need.name != project["name"]:
            assert need.specifier.contains(locked[canonicalize_name(need.name)]), need
    assert all(Requirement(need).specifier for need in project["dependencies"]), "without a floor"


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_the_demo_shows_shipped_sets_side_by_side():
    def demo(*settings):
        return subprocess.run(["make", "-n", "demo", *settings], cwd=ROOT, capture_output=True, text=True, check=True)

    for sets in (["paper"], ["paper", "best"]):
        done = demo(f"SETS={' '.join(sets)}").stdout
        assert f"for set in {' '.join(sets)};" in done
        assert " ".join(f"--labels demo/labels/{name}" for name in sets) + " \\\n" in done
    shown = demo().stdout.split("for set in ")[1].split(";")[0].split()
    assert set(shown) <= set(shipped_sets())
    assert DEFAULT_WEIGHTS in shown
