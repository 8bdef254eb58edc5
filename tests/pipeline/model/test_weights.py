import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from challenge.contract import COCHLEA, STRUCTURES, VS
from pipeline.model.enet import ENet3d
from pipeline.model.shipped import DEFAULT_WEIGHTS, shipped_sets, weights_folder, weights_name
from pipeline.model.weights import WeightsError, load_segmenter, save_weights
from tests.segmenters import WINDOW, narrow_network, write_narrow_weights

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    return write_narrow_weights(tmp_path / "weights")


def edit_card(folder, **changes):
    path = folder / "vs.json"
    card = json.loads(path.read_text())
    card.update(changes)
    path.write_text(json.dumps({key: value for key, value in card.items() if value is not None}))


def test_network_comes_back_as_it_was(folder):
    segmenter = load_segmenter(folder, VS, CPU)
    assert segmenter.window == WINDOW
    assert segmenter.card["data"] == "none"
    assert not segmenter.network.training
    windows = torch.randn(2, 1, 16, 16, 16)
    with torch.inference_mode():
        expected = torch.softmax(narrow_network(0)(windows), dim=1)[:, 1]
        torch.testing.assert_close(segmenter(windows), expected, atol=1e-6, rtol=0)


def test_missing_weights_say_path_and_what_to_do(folder):
    (folder / "vs.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"vs\.safetensors: expected the weights for VS, .*--weights"):
        load_segmenter(folder, VS, CPU)
    (folder / "cochlea.json").unlink()
    with pytest.raises(WeightsError, match=r"cochlea\.json: expected the card of the weights for Cochlea"):
        load_segmenter(folder, COCHLEA, CPU)


def test_one_flipped_byte_is_found(folder):
    path = folder / "vs.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"vs\.safetensors: expected sha256 .* the file is damaged"):
        load_segmenter(folder, VS, CPU)


def test_card_that_is_no_json_is_refused(folder):
    (folder / "vs.json").write_text("{")
    with pytest.raises(WeightsError, match=r"vs\.json: expected JSON"):
        load_segmenter(folder, VS, CPU)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": None}, "expected a card with sha256, got none"),
        ({"format": 99}, "expected a card of format 1, got 99; update crossmoda-grl"),
        (
            {"postprocessing": {"smooth": True}},
            "vs.json: card: expected post-processing by .* got smooth = True; correct",
        ),
        ({"network": {"name": "UNet", "config": {}}}, "expected the network ENet3d"),
        ({"structure": "cochlea", "label": 2}, "expected weights for vs .* the files were renamed"),
        ({"network": {"name": "ENet3d", "config": {"channels": [8, 8, 16]}}}, "expected the weights of"),
        ({"network": {"name": "ENet3d", "config": {"depth": 9}}}, "network: expected a configuration"),
    ],
)
def test_card_that_does_not_fit_is_refused(folder, changes, message):
    edit_card(folder, **changes)
    with pytest.raises(WeightsError, match=message):
        load_segmenter(folder, VS, CPU)


def test_tensor_too_many_is_refused_though_its_checksum_fits(folder, tmp_path):
    import hashlib

    tensors = load_file(folder / "vs.safetensors")
    save_file({**tensors, "more": torch.zeros(1)}, folder / "vs.safetensors")
    edit_card(folder, sha256=hashlib.sha256((folder / "vs.safetensors").read_bytes()).hexdigest())
    with pytest.raises(WeightsError, match="Unexpected key"):
        load_segmenter(folder, VS, CPU)


def test_card_needs_the_grid(tmp_path):
    with pytest.raises(ValueError, match="expected the key spacing_mm"):
        save_weights(tmp_path, VS, narrow_network(), {}, window=16)


def test_environment_names_the_folder_or_the_shipped_set(monkeypatch, tmp_path):
    monkeypatch.setenv("CROSSMODA_GRL_WEIGHTS", str(tmp_path))
    assert weights_folder() == tmp_path
    assert weights_folder("paper") == shipped_sets()["paper"]
    monkeypatch.setenv("CROSSMODA_GRL_WEIGHTS", "paper")
    assert weights_folder() == shipped_sets()["paper"]
    monkeypatch.setenv("CROSSMODA_GRL_WEIGHTS", "")  # as compose sets it
    assert weights_folder() == shipped_sets()[DEFAULT_WEIGHTS]
    monkeypatch.delenv("CROSSMODA_GRL_WEIGHTS")
    assert weights_folder() == shipped_sets()[DEFAULT_WEIGHTS]
    assert weights_folder().parent.name == "weights"


def test_a_path_is_a_folder_even_with_the_name_of_a_shipped_set(tmp_path):
    assert weights_folder("./paper") == Path("paper")
    assert weights_name(weights_folder("paper")) == "paper"
    assert weights_name(tmp_path / "paper") == str(tmp_path / "paper")


def test_missing_weights_name_the_shipped_sets(tmp_path):
    with pytest.raises(WeightsError, match=r"bets/vs\.json: .*name a folder of weights or a shipped set \(.*paper.*\)"):
        load_segmenter(weights_folder("bets"), VS, CPU)


@pytest.mark.parametrize("name", shipped_sets())
@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda s: s.key)
def test_shipped_weights_fit_their_cards_and_say_what_they_are(structure, name):
    card = load_segmenter(weights_folder(name), structure, CPU).card
    for key in ("data", "schedule", "scores", "departures_from_paper"):
        assert card[key], f"the shipped card lacks {key}"


@pytest.mark.parametrize("name", ["mind", "mind-fine", "both"])
def test_the_card_says_what_the_network_sees(tmp_path, name):
    torch.manual_seed(3)
    network = ENet3d(channels=(4, 8, 16), input=name).eval()
    card = json.loads(save_weights(tmp_path, VS, network, {"spacing_mm": 0.5}, window=WINDOW).read_text())
    assert card["network"]["config"]["input"] == name
    segmenter = load_segmenter(tmp_path, VS, CPU)
    windows = torch.randn(2, 1, 16, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(segmenter(windows), torch.softmax(network(windows), dim=1)[:, 1])
    edit_card(tmp_path, network={**card["network"], "config": {**card["network"]["config"], "input": "volume"}})
    with pytest.raises(WeightsError, match="expected the weights of"):
        load_segmenter(tmp_path, VS, CPU)


def test_cards_of_the_papers_input_do_not_name_it(folder):
    assert set(json.loads((folder / "vs.json").read_text())["network"]["config"]) == {
        "in_channels",
        "classes",
        "channels",
    }
