"""Where the target's cochleas are: from the cochlea's own run, once, and compared with the source's label maps."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from challenge.contract import COCHLEA, VS
from pipeline.data.dataset import TrainingCase
from pipeline.data.sampling import TrainingVolume
from pipeline.training import cochleas, report, session
from pipeline.training.checkpoint import best_network
from pipeline.training.cochleas import cochlea_factor, cochlea_network, find_nearness, source_distances
from pipeline.training.options import RunOptions
from pipeline.training.phases import SELF_TRAINING, SUPERVISED
from pipeline.training.recipes import SelfTrainingRecipe
from pipeline.training.run import check_run, train_run
from pipeline.training.settings import RunError, weights_digest
from tests.images import write_scan
from tests.segmenters import narrow_network
from tests.tiny_run import GEOMETRY, RECIPE, VOLUMES, tiny_plan

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
FIRST = SELF_TRAINING[0]
NEAR = SelfTrainingRecipe(16, 2, cochlea_factor=1.25)


def labelled(folder: Path, case: str, tumour_x: int | None, cochleas_x: tuple[int, ...] = (10, 90)) -> TrainingCase:
    """A label map `(12, 20, 100)` of voxels of 0.5 x 0.5 x 1.5 mm, a block of 3 voxels a side for each structure."""
    labels = np.zeros((12, 20, 100), dtype=np.uint8)
    for x in cochleas_x:
        labels[4:7, 8:11, x : x + 3] = COCHLEA.label
    if tumour_x is not None:
        labels[4:7, 8:11, tumour_x : tumour_x + 3] = VS.label
    path = write_scan(folder / f"{case}_Label.nii.gz", labels)
    return TrainingCase(case, path, path, GEOMETRY)


@pytest.fixture
def source(tmp_path: Path) -> list[TrainingCase]:
    # 20 and 30 voxels of 0.5 mm from the nearer cochlea; the two last do not count.
    both = [labelled(tmp_path, "a", 30), labelled(tmp_path, "b", 60)]
    return [*both, labelled(tmp_path, "c", None), labelled(tmp_path, "d", 12, cochleas_x=())]


def test_the_sources_range(source: list[TrainingCase]) -> None:
    assert source_distances(source) == pytest.approx((10.0, 15.0))
    with pytest.raises(RunError, match="expected source label maps with VS and Cochlea, got none of 2; leave"):
        source_distances(source[2:])


@pytest.fixture
def a_cochlea_that_is_known(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every prediction finds what is bright; the list has a name for each prediction."""
    predicted: list[str] = []

    def predict(volume: np.ndarray, *_: Any, **__: Any) -> np.ndarray:
        predicted.append("once")
        return (volume > 0.5).astype(np.float32)

    monkeypatch.setattr(cochleas, "predict_structure", predict)
    monkeypatch.setattr(cochleas, "cochlea_network", lambda _: (narrow_network(), {"window": 16, "overlap": 0.0}))
    return predicted


def target(*places: int) -> list[TrainingVolume]:
    volumes = []
    for number, x in enumerate(places):
        volume = np.zeros((12, 20, 100), dtype=np.float32)
        volume[4:7, 8:11, x : x + 3] = 1.0
        volumes.append(TrainingVolume(f"crossmoda_{106 + number}", volume))
    return volumes


def test_each_scan_is_predicted_once(
    tmp_path: Path, source: list[TrainingCase], a_cochlea_that_is_known: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "runs" / "vs" / FIRST.key
    folder.mkdir(parents=True)

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_nearness(folder, 1.25, source, target(20, 60), device=CPU, after_each=interrupted)
    found = find_nearness(folder, 1.25, source, target(20, 60), device=CPU)
    assert a_cochlea_that_is_known == ["once", "once"]
    np.testing.assert_allclose(found.cochleas_mm["crossmoda_107"], [[2.5, 4.5, 30.5]])
    assert found.source == pytest.approx((10.0, 15.0))
    assert found.factor == 1.25
    with monkeypatch.context() as patch:  # a round that is resumed needs neither the run nor the label maps
        patch.setattr(cochleas, "cochlea_network", lambda _: pytest.fail("opened again"))
        again = find_nearness(folder, 1.25, [], target(20, 60), device=CPU)
    np.testing.assert_array_equal(again.cochleas_mm["crossmoda_106"], found.cochleas_mm["crossmoda_106"])
    # A round that was cut short, and another network since: all of it is predicted anew.
    known = json.loads((folder / "cochleas.json").read_text())
    assert known["sha256"] == weights_digest(narrow_network())
    del known["cochleas_mm"]["crossmoda_107"]
    (folder / "cochleas.json").write_text(json.dumps({**known, "sha256": "another"}))
    find_nearness(folder, 1.25, source, target(20, 60), device=CPU)
    assert a_cochlea_that_is_known == ["once"] * 4


def test_the_network_is_that_of_the_cochleas_last_phase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("draw_curves", "draw_slices"):
        monkeypatch.setattr(report, name, lambda *_, **__: None)
    vs = dataclasses.replace(tiny_plan(), recipes={SUPERVISED: RECIPE, FIRST: NEAR})
    message = r"cochlea: expected the cochlea's finished run, .*; train it first, with --structure cochlea and the same"
    with pytest.raises(RunError, match=message):
        check_run(vs, tmp_path / "vs")
    check_run(vs, tmp_path / "vs", planned=[COCHLEA])
    plan = dataclasses.replace(tiny_plan(("supervised",), epochs=1), structure=COCHLEA)
    train_run(plan, VOLUMES, tmp_path / "cochlea", device=CPU)
    network, recipe = cochlea_network(tmp_path)
    assert weights_digest(network) == weights_digest(best_network(tmp_path / "cochlea" / "supervised"))
    assert (recipe["window"], recipe["overlap"]) == (16, 0.25)
    check_run(vs, tmp_path / "vs")


def test_it_is_for_the_tumour_alone_and_off_by_default() -> None:
    assert cochlea_factor(NEAR, VS) == 1.25
    assert cochlea_factor(SelfTrainingRecipe(16, 2), COCHLEA) == cochlea_factor(RECIPE, VS) == 0
    with pytest.raises(
        ValueError, match=r"cochlea_factor: expected it for vs alone, got it for cochlea; write it under"
    ):
        cochlea_factor(NEAR, COCHLEA)
    (problem,) = dataclasses.replace(NEAR, cochlea_factor=0.8).problems()
    assert problem == "cochlea_factor: expected 0 or at least 1, got 0.8"


def test_the_cochlea_is_trained_first_if_the_tumour_needs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "find_training_data", lambda *_, **__: tiny_plan().data)
    options = RunOptions(tmp_path, tmp_path, "all", "all", None, "best-cpu", None, None, None, "cpu", None, 0)
    assert [plan.structure for plan in session.plan_runs(options)] == [VS, COCHLEA]
    config = tmp_path / "config.toml"
    config.write_text("[vs]\ncochlea_factor = 1.25")
    plans = session.plan_runs(dataclasses.replace(options, config=config))
    assert [plan.structure for plan in plans] == [COCHLEA, VS]
