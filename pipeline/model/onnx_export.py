"""Networks as ONNX files, for whoever runs them without torch.

A file holds the network's inference form, which gives one logit a voxel: a structure's probability is its sigmoid. Max-
unpooling, for which runtimes have no fast operator or none, is written as a scatter of the maxima to their places. The
card is in the file's metadata; what `predict` does before and after the network is not in the file.

Source: ONNX's operators MaxPool, which gives the places, and ScatterElements.
"""

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import onnx
import torch
from torch.export import Dim

from challenge.files import written_whole
from pipeline.model.inference_form import InferenceForm, for_inference
from pipeline.model.weights import Segmenter

INPUT, OUTPUT = "windows", "logit"
CARD_KEY = "crossmoda-grl"
# The oldest that has all operators here, and that torch exports without a conversion.
OPSET = 18


class ExportError(Exception):
    """A network that has no ONNX form: subject, expected, got, next step."""


def onnx_model(segmenter: Segmenter) -> onnx.ModelProto:
    """Return a segmenter's network as an ONNX model, checked by ONNX's own checker.

    It takes `windows` `(N, 1, side, side, side)` float32, normalised, and returns `logit` `(N, side, side, side)`
    float32. N is free; the side is the card's window.

    Raises:
        ExportError: the network is no `ENet3d` of two classes.
    """
    form = for_inference(segmenter)
    if not isinstance(form.network, InferenceForm):
        raise ExportError(
            f"{segmenter.structure.title}: expected an ENet3d of two classes, got {type(segmenter.network).__name__}; "
            "export its own weights"
        )
    side = segmenter.window
    windows = torch.zeros(2, 1, side, side, side)  # two, because torch.export takes a single one for a fixed number
    with torch.no_grad(), _quiet():
        program = torch.export.export(form.network.cpu(), (windows,), dynamic_shapes=({0: Dim("N")},))
        program = program.run_decompositions({torch.ops.aten.max_unpool3d.default: _scattered})
        exported = torch.onnx.export(
            program, input_names=[INPUT], output_names=[OUTPUT], opset_version=OPSET, dynamo=True, verbose=False
        )
    assert exported is not None
    model: onnx.ModelProto = exported.model_proto
    model.producer_name, model.producer_version = "crossmoda-grl", metadata.version("crossmoda-grl")
    onnx.helper.set_model_props(model, {CARD_KEY: json.dumps(segmenter.card)})
    onnx.checker.check_model(model, full_check=True)
    return model


def export_onnx(segmenter: Segmenter, folder: Path) -> Path:
    """Write a segmenter's network to `folder` as `{structure}.onnx`; return its path. The file is whole or absent.

    Raises:
        ExportError: as `onnx_model`.
        OSError: the folder or the file cannot be written.
    """
    model = onnx_model(segmenter)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{segmenter.structure.key}.onnx"
    with written_whole(path) as partial:
        partial.write_bytes(model.SerializeToString())
    return path


def _scattered(x: torch.Tensor, indices: torch.Tensor, output_size: Sequence[int], *_: Sequence[int]) -> torch.Tensor:
    """Unpool `x` `(N, C, D, H, W)` to `output_size`: each value goes to its place of a flat volume of zeros."""
    n, c = x.shape[:2]
    depth, height, width = output_size
    empty = x.new_zeros(n, c, depth * height * width)
    return empty.scatter(2, indices.flatten(2), x.flatten(2)).reshape(n, c, depth, height, width)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter from telling, as warnings, of libraries that it does not need and of its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(before)
