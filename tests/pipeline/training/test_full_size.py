"""A dry run on phantoms as wide as the challenge's scans: its names and ids, the paper's windows, every phase a step.

Only whole scans are not predicted, because that takes minutes: validation and teachers find the same in every scan.
"""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner

from challenge.contract import STRUCTURES, VS
from crossmoda_grl.__main__ import main
from pipeline.model.weights import load_segmenter
from pipeline.phantom.cohort import Preset, ScanProtocol, make_case
from pipeline.phantom.contrast import CET1, HARDNESS, HRT2
from pipeline.training import epoch_end, self_training
from pipeline.training.named_recipes import RECIPES
from tests.segmenters import CPU, found_somewhere

# The preset `full` with thin stacks: its 120 slices of ceT1 would be three times the work.
WIDE = Preset(
    {
        CET1: (ScanProtocol(1.0, 512, 0.4, ((40, (1.2, 1.5)),)),),
        HRT2: (ScanProtocol(1.0, 448, 0.46875, ((20, (1.5, 1.5)),)),),
    }
)
CONFIG = """
epochs = 1
channels = [4, 8, 16]
smallest_volume = 0.0
largest_volume = 1e3
"""


def write(path: Path, voxels: np.ndarray, spacing_mm: tuple[float, float, float]) -> None:
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(spacing_mm)
    path.parent.mkdir(exist_ok=True)
    sitk.WriteImage(image, str(path))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first case of each of the paper's ranges; the one that validates shows the first one's head."""
    root = tmp_path_factory.mktemp("data")
    scan, labels, grid, _ = make_case(1, CET1, WIDE, HARDNESS["standard"], 1)
    assert scan.shape == (40, 512, 512)
    for case in ("crossmoda_1", "crossmoda_96"):
        write(root / "source_training" / f"{case}_ceT1.nii.gz", scan, grid.spacing_mm)
        write(root / "source_training" / f"{case}_Label.nii.gz", labels, grid.spacing_mm)
    scan, _, grid, _ = make_case(106, HRT2, WIDE, HARDNESS["standard"], 1)
    assert scan.shape == (20, 448, 448)
    write(root / "target_training" / "crossmoda_106_hrT2.nii.gz", scan, grid.spacing_mm)
    return root


def test_the_recipe_best_takes_a_step_of_every_phase(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    for module in (epoch_end, self_training):
        monkeypatch.setattr(module, "predict_structure", found_somewhere)
    (tmp_path / "dry.toml").write_text(CONFIG)
    runs = tmp_path / "runs"
    options = ["--recipe", "best", "--config", tmp_path / "dry.toml", "--data", data, "--runs", runs, "--device", "cpu"]
    result = CliRunner().invoke(main, ["train", *map(str, options)])
    assert result.exit_code == 0, result.output
    assert "split: the paper's, by ids: source 1-95 train, 96-105 validate; target 106-210" in result.stderr
    for structure, window, batch_size in zip(STRUCTURES, (128, 64), (4, 16), strict=True):
        phases = RECIPES["best"][structure]
        for phase in phases:
            folder = runs / structure.key / phase.key
            content = json.loads((folder / "settings.json").read_text())
            settings, departures = content["settings"], content["record"]["departures"]
            assert (settings["recipe"]["window"], settings["recipe"]["batch_size"]) == (window, batch_size)
            assert settings["spacing_mm"] == 0.5
            assert settings["source_training"] == ["crossmoda_1"]
            assert settings["source_validation"] == ["crossmoda_96"]
            assert settings.get("target_training", ["crossmoda_106"]) == ["crossmoda_106"]
            assert not {"window", "batch_size", "split"} & departures.keys()
            with (folder / "history.csv").open() as stream:
                (epoch,) = csv.DictReader(stream)
            assert np.isfinite(float(epoch["loss"]))
        exported = CliRunner().invoke(main, ["export", str(runs / structure.key), "--out", str(tmp_path / "weights")])
        assert exported.exit_code == 0, exported.output
        card = load_segmenter(tmp_path / "weights", structure, CPU).card
        assert card["window"] == window
        assert len(card["departures_from_paper"]) == len(phases) + 1  # and the post-processing
    assert len(RECIPES["best"][VS]) == 2
