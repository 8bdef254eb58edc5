"""One window through the VS network: compiled and uncompiled, beside eager torch, OpenVINO and ONNX Runtime.

    python benchmarks/window.py [--window 128] [--pairs 5]

Every run is a process of its own; its figure is a window's share of the median pass after two that warm up. The
difference is from eager torch, on a phantom's window. ONNX Runtime and OpenVINO get the network as `export --onnx`
writes it. OpenVINO is only needed here: `pip install openvino`.
"""

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch
from side_by_side import (
    child,
    compile_once,
    describe,
    in_turn,
    machine,
    median,
    paper_sized_weights,
    ratio,
    say,
    write_json,
    write_phantom,
)
from torch.nn import functional

from challenge.contract import COCHLEA, VS
from pipeline.data.cases import read_scan
from pipeline.data.preprocessing import array_at_spacing, normalise
from pipeline.inference.compiled import CompiledNetwork, fastest_form
from pipeline.model.inference_form import InferenceForm
from pipeline.model.weights import Segmenter, load_segmenter
from pipeline.runtime.allocator import keep_large_blocks
from pipeline.runtime.cores import use_available_cores

EAGER = "eager"
PEERS = {
    EAGER: "the network as it was trained, torch eager, batch 1, glibc's default allocator",
    "kept": "the same, glibc keeps large blocks",
    "form": "the inference form, glibc keeps large blocks",
    "compiled": "the inference form, compiled, glibc keeps large blocks",
    "onnxruntime": "ONNX Runtime, the file of export --onnx",
    "openvino": "OpenVINO, likewise",
}
NEEDS = {"onnxruntime": ("onnxruntime",), "openvino": ("openvino",)}
Predict = Callable[[torch.Tensor], torch.Tensor]


def by_openvino(segmenter: Segmenter) -> Predict:
    import openvino

    from pipeline.model.onnx_export import onnx_model

    core = openvino.Core()
    model = core.compile_model(
        core.read_model(onnx_model(segmenter).SerializeToString()),
        "CPU",
        {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()},
    )
    return lambda x: torch.from_numpy(np.asarray(model(x.numpy())[0]))


def by_onnxruntime(segmenter: Segmenter) -> Predict:
    import onnxruntime

    from pipeline.model.onnx_export import INPUT, onnx_model

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        onnx_model(segmenter).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda x: torch.from_numpy(session.run(None, {INPUT: x.numpy()})[0])


def predictor(who: str, segmenter: Segmenter) -> Predict:
    network = segmenter.network
    if who in (EAGER, "kept"):
        return lambda x: (logits := network(x))[:, 1] - logits[:, 0]
    if who == "compiled":
        compiled = fastest_form(segmenter, lambda line: None).network
        if not isinstance(compiled, CompiledNetwork):
            raise SystemExit("the network was not compiled")
        return compiled
    if who == "form":
        return InferenceForm(network)  # type: ignore[arg-type]
    return {"openvino": by_openvino, "onnxruntime": by_onnxruntime}[who](segmenter)


def phantom_window(scan: Path, side: int) -> torch.Tensor:
    """Return the middle of a phantom, `(1, 1, side, side, side)`, padded with zeros if it is smaller."""
    volume = torch.from_numpy(normalise(array_at_spacing(read_scan(scan), 0.5)))
    for axis in range(3):
        start = max(0, (volume.shape[axis] - side) // 2)
        volume = volume.narrow(axis, start, min(side, volume.shape[axis]))
    missing = [side - n for n in reversed(volume.shape)]
    return functional.pad(volume, [0, missing[0], 0, missing[1], 0, missing[2]])[None, None].contiguous()


@torch.inference_mode()
def run_once(who: str, work: Path, side: int, passes: int) -> None:
    if who not in (EAGER, "onnxruntime", "openvino"):
        keep_large_blocks()
    use_available_cores()
    segmenter = load_segmenter(work / "window_weights", VS, torch.device("cpu"))
    window = phantom_window(work / "scans" / "window.nii.gz", side)
    logits = segmenter.network(window)
    expected = logits[:, 1] - logits[:, 0]
    with torch.inference_mode(mode=False):
        predict = predictor(who, segmenter)
    # A compiled network has a batch of its own; all others get one window.
    together = predict.shape[0] if isinstance(predict, CompiledNetwork) else 1
    windows = window.repeat(together, 1, 1, 1, 1)
    seconds = []
    for _ in range(passes + 2):
        started = time.perf_counter()
        got = predict(windows)[:1]
        seconds.append((time.perf_counter() - started) / together)
    relative = (got - expected).abs() / expected.abs().max()
    difference, beyond = float(relative.max()), float((relative > 1e-4).float().mean())
    flips = int(((got > 0) != (expected > 0)).sum())
    say(float(np.median(seconds[2:])), difference=difference, beyond=beyond, flips=flips)


@click.command(context_settings={"show_default": True})
@click.option("--window", "side", type=int, default=128, help="Side of the window in voxels.")
@click.option("--pairs", type=click.IntRange(min=1), default=5)
@click.option("--passes", type=int, default=5, help="Timed passes of a run.")
@click.option("--work", type=click.Path(path_type=Path), default=Path(".bench"))
@click.option("--json", "json_file", type=click.Path(path_type=Path), default=Path(".bench/figures.json"))
@click.option("--child", "who", type=click.Choice(list(PEERS)), hidden=True)
def main(side: int, pairs: int, passes: int, work: Path, json_file: Path, who: str | None) -> None:
    """Time one window beside other ways to run the network."""
    if who:
        run_once(who, work, side, passes)
        return
    click.echo(describe(machine()))
    weights = paper_sized_weights(work / "window_weights", {VS: side, COCHLEA: 64})
    compile_once(weights, work.absolute() / "compiled", [VS])
    # A window's field of view and a little more.
    write_phantom(work / "scans" / "window.nii.gz", side // 3 + 3, side * 16 // 15 + 3)
    there = [n for n in PEERS if all(importlib.util.find_spec(package) for package in NEEDS.get(n, ()))]
    for name in PEERS.keys() - there:
        click.echo(f"{name}: not installed ({', '.join(NEEDS[name])}), left out")
    commands = {
        name: child("window.py", "--child", name, "--window", side, "--passes", passes, "--work", work)
        for name in there
    }
    runs = in_turn(commands, pairs)
    for name in there:
        worst = {what: max(r[what] for r in runs[name]) for what in ("difference", "beyond", "flips")}
        click.echo(
            f"{name:12} {median(runs[name], 'seconds') * 1e3:7.1f} ms; eager/{name} "
            f"{ratio(runs[EAGER], runs[name])}; {name}/compiled {ratio(runs[name], runs['compiled'])}; differs by "
            f"{worst['difference']:.1e} of the largest logit, by over 1e-4 in {worst['beyond']:.4%} of voxels, "
            f"{worst['flips']:.0f} decided otherwise; {PEERS[name]}"
        )
    write_json(json_file, f"window {side}", runs)


if __name__ == "__main__":
    main()
