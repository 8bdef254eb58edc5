"""Networks as ONNX files: ONNX Runtime gives the logits that torch gives."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner

from challenge.contract import COCHLEA, VS
from crossmoda_grl.__main__ import main
from pipeline.config import FINE_MIND_INPUT
from pipeline.model.enet import ENet3d
from pipeline.model.onnx_export import CARD_KEY, ExportError, export_onnx
from pipeline.model.shipped import weights_folder
from pipeline.model.weights import load_segmenter, save_weights
from tests.segmenters import CPU, WINDOW, write_narrow_weights

ROOT = Path(__file__).parents[3]


def assert_same_logits(path, segmenter):
    """In batches of one and three; rounding may decide otherwise between nearly equal maxima of a pooling."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    side = segmenter.window
    for count in (1, 3):
        windows = torch.randn(count, 1, side, side, side, generator=torch.Generator().manual_seed(count))
        with torch.no_grad():
            logits = segmenter.network(windows)
        expected = (logits[:, 1] - logits[:, 0]).numpy()
        (got,) = session.run(["logit"], {"windows": windows.numpy()})
        beyond = np.abs(got - expected) > 1e-4 * np.abs(expected).max()
        assert got.dtype == np.float32
        assert beyond.mean() < 1e-3


def test_a_shipped_network_gives_the_same_logits(tmp_path):
    segmenter = replace(load_segmenter(weights_folder("best"), VS, CPU), window=32)
    assert segmenter.network.input == FINE_MIND_INPUT
    assert_same_logits(export_onnx(segmenter, tmp_path), segmenter)


def test_a_network_that_sees_descriptors_gives_the_same_logits(tmp_path):
    torch.manual_seed(0)
    network = ENet3d(channels=(4, 8, 16), input="mind").eval()
    save_weights(tmp_path, COCHLEA, network, {"spacing_mm": 0.5, "data": "none"}, window=WINDOW)
    segmenter = load_segmenter(tmp_path, COCHLEA, CPU)
    assert_same_logits(export_onnx(segmenter, tmp_path), segmenter)


def test_a_network_of_another_kind_is_refused(tmp_path):
    segmenter = replace(load_segmenter(write_narrow_weights(tmp_path), VS, CPU), network=torch.nn.Identity())
    with pytest.raises(ExportError, match="VS: expected an ENet3d of two classes, got Identity"):
        export_onnx(segmenter, tmp_path)


def test_the_command_and_the_example_of_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_narrow_weights(tmp_path / "weights")
    result = CliRunner().invoke(main, ["export", "weights", "--onnx", "--out", "onnx"])
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == ["onnx/vs.onnx", "onnx/cochlea.onnx"]
    assert_same_logits("onnx/cochlea.onnx", load_segmenter(Path("weights"), COCHLEA, CPU))
    session = onnxruntime.InferenceSession("onnx/vs.onnx", providers=["CPUExecutionProvider"])
    card = json.loads(session.get_modelmeta().custom_metadata_map[CARD_KEY])
    assert card == json.loads((tmp_path / "weights" / "vs.json").read_text())
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    (example,) = [code for code in re.findall("```python\n(.*?)```", page, re.DOTALL) if "onnxruntime" in code]
    exec(example, {})
    assert capsys.readouterr().out == f"({WINDOW}, {WINDOW}, {WINDOW})\n"


def test_what_does_not_fit_together_is_told(tmp_path):
    result = CliRunner().invoke(main, ["export", "best", "--onnx", "--note", "x", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "got options for a training run; leave them out" in result.stderr
    result = CliRunner().invoke(main, ["export", str(tmp_path / "none"), "--onnx", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert "none" in result.stderr
