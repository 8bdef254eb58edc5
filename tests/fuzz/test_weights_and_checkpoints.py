"""Cards, weights, checkpoints and cached volumes that are damaged: refused in one line, or without effect."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from challenge.contract import VS
from pipeline.data.cache import _mapped
from pipeline.model.enet import ENet3d
from pipeline.model.weights import WeightsError, load_segmenter, save_weights
from pipeline.runtime.checksums import DamagedFileError, check_seal, seal, unsealed
from pipeline.training.checkpoint import read_checkpoint
from pipeline.training.settings import RUN_FORMAT, RunError
from tests.fuzz.examples import few

CPU = torch.device("cpu")
ODD = st.sampled_from([0, -1, 7, 100, 2**40, 0.5, 1e300, float("nan"), "x", "", None, True, [], {}, [4, 4], [16] * 3])


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    network = ENet3d(channels=(4, 4, 4))
    save_weights(folder, VS, network, {"spacing_mm": 0.5, "postprocessing": {"fill_holes": True}}, window=16)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "checkpoint.pt"
    torch.save({"format": RUN_FORMAT, "epochs": 3, "state": {"weights": torch.arange(500.0)}}, path)
    seal(path)
    return path.read_bytes()


@few(25)
@given(data=st.data())
def test_any_odd_value_on_a_card_is_refused_or_without_effect(tmp_path, weights, data):
    card = json.loads((weights / "vs.json").read_text())
    owner = data.draw(st.sampled_from([card, card["network"], card["network"]["config"], card["postprocessing"]]))
    owner[data.draw(st.sampled_from(sorted(owner)))] = data.draw(ODD)
    (tmp_path / "vs.json").write_text(json.dumps(card))
    (tmp_path / "vs.safetensors").write_bytes((weights / "vs.safetensors").read_bytes())
    problem = ""
    try:
        loaded = load_segmenter(tmp_path, VS, CPU)
    except WeightsError as error:
        problem = str(error)
    if problem:
        assert f"{tmp_path}/vs." in problem  # names the file
        return
    assert loaded.window % 8 == 0
    assert loaded.card["spacing_mm"] == 0.5


@pytest.mark.parametrize(("key", "value"), [("spacing_mm", 0), ("spacing_mm", "x"), ("spacing_mm", 100), ("window", 0)])
def test_a_value_that_predict_cannot_follow_is_refused_by_its_name(tmp_path, weights, key, value):
    card = json.loads((weights / "vs.json").read_text()) | {key: value}
    (tmp_path / "vs.json").write_text(json.dumps(card))
    (tmp_path / "vs.safetensors").write_bytes((weights / "vs.safetensors").read_bytes())
    with pytest.raises(WeightsError, match=f"{key}: expected"):
        load_segmenter(tmp_path, VS, CPU)


@few(25)
@given(data=st.data())
def test_any_damage_to_a_checkpoint_is_refused_or_without_effect(tmp_path, checkpoint, data):
    content = bytearray(checkpoint)
    where = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[where] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[where:]
    (tmp_path / "checkpoint.pt").write_bytes(content)
    problem = ""
    try:
        read = read_checkpoint(tmp_path / "checkpoint.pt")
    except RunError as error:
        problem = str(error)
    if problem:
        assert "expected a checkpoint, got a damaged file" in problem
        return
    assert torch.equal(read["state"]["weights"], torch.arange(500.0))


def test_a_checkpoint_of_an_older_version_is_read_without_its_checksum(tmp_path, checkpoint):
    (tmp_path / "checkpoint.pt").write_bytes(unsealed(checkpoint))
    assert read_checkpoint(tmp_path / "checkpoint.pt")["epochs"] == 3


@few(25)
@given(data=st.data())
def test_any_damage_to_a_cached_volume_makes_it_missing(tmp_path, data):
    path = tmp_path / "a.npy"
    np.save(path, np.arange(64.0))
    seal(path)
    check_seal(path)
    np.testing.assert_array_equal(_mapped(path), np.arange(64.0))
    content = bytearray(path.read_bytes())
    where = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[where] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[where:]
    path.write_bytes(content)
    with pytest.raises(DamagedFileError):
        check_seal(path)
    assert _mapped(path) is None
