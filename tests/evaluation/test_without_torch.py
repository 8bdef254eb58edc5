"""The organiser's commands on a machine without torch, and without the participant's side."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

ROOT = Path(__file__).resolve().parents[2]

# Runs the command in an interpreter where the packages named cannot be imported, as if they were not installed.
BLOCKED = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "pipeline", "safetensors", "monai", "medpy"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from crossmoda_grl.__main__ import main
main()
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCKED, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    values = np.zeros((6, 12, 14), dtype=np.uint8)
    values[2:4, 3:8, 3:7] = 1
    values[2:4, 3:8, 9:12] = 2
    for name, shift in (("reference", 0), ("teams/a", 0), ("teams/b", 1)):
        (tmp_path / name).mkdir(parents=True)
        for case in ("crossmoda_211", "crossmoda_212"):
            image = sitk.GetImageFromArray(np.roll(values, shift, axis=1))
            sitk.WriteImage(image, str(tmp_path / name / f"{case}_Label.nii.gz"))
    return tmp_path


def test_torch_is_blocked() -> None:
    blocked = subprocess.run(
        [sys.executable, "-c", BLOCKED.replace("from crossmoda_grl.__main__ import main\nmain()", "import torch")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "No module named 'torch'" in blocked.stderr


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_score_then_rank(folders: Path, jobs: str) -> None:
    scores = folders / "scores.csv"
    scored = run(
        *("evaluate", "score", "--reference", str(folders / "reference"), "--prediction", str(folders / "teams")),
        *("--csv", str(scores), "--json", str(folders / "scores.json"), "--jobs", jobs),
    )
    assert scored.returncode == 0, scored.stderr
    assert "a: 2 cases, ASSD of 2021" in scored.stdout
    assert json.loads((folders / "scores.json").read_text())["cohorts"][1]["team"] == "b"
    ranked = run("evaluate", "rank", str(scores), "--samples", "20", "--json", str(folders / "ranking.json"))
    assert ranked.returncode == 0, ranked.stderr
    assert json.loads((folders / "ranking.json").read_text())["ranks"] == {"a": 1, "b": 2}


def test_every_evaluate_command_has_its_help() -> None:
    shown = run("evaluate", "--help")
    assert shown.returncode == 0, shown.stderr
    for command in ("score", "rank"):
        assert command in shown.stdout
        assert run("evaluate", command, "--help").returncode == 0


def test_importing_every_module_needs_no_torch() -> None:
    files = [path for package in ("challenge", "evaluation") for path in (ROOT / package).rglob("*.py")]
    modules = sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files)
    assert {"challenge.nifti", "evaluation.metrics", "evaluation.cli", "evaluation.runner.run"} <= set(modules)
    code = BLOCKED.replace(
        "from crossmoda_grl.__main__ import main\nmain()",
        f"from importlib import import_module\nfor module in {modules!r}: import_module(module)",
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_participants_side_says_what_is_missing() -> None:
    refused = run("predict", "--help")
    assert refused.returncode == 1
    assert "needs the package pipeline, which is not installed" in refused.stderr
