"""One window through the network: eager as it was trained, its inference form, and compiled; the same allocator.

    python benchmarks/window.py                        the default weights at the paper's windows

The values and the decided voxels are compared as well. Runs alternate; ratios are taken run by run.
"""

import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from side_by_side import compile_once, describe, machine, paper_sized_weights, ratio, write_json

from challenge.contract import STRUCTURES
from pipeline.config import PAPER
from pipeline.inference.compiled import fastest_form
from pipeline.model.inference_form import InferenceSegmenter, for_inference
from pipeline.model.weights import load_segmenter
from pipeline.runtime.allocator import keep_large_blocks
from pipeline.runtime.cores import use_available_cores


@torch.inference_mode()
def seconds_a_window(forward: Callable[[torch.Tensor], torch.Tensor], windows: torch.Tensor) -> float:
    """Return the seconds that a pass takes for each of its windows."""
    started = time.perf_counter()
    forward(windows)
    return (time.perf_counter() - started) / len(windows)


@click.command(context_settings={"show_default": True})
@click.option("--pairs", type=click.IntRange(min=1), default=7)
@click.option("--work", type=click.Path(path_type=Path), default=Path(".bench"), help="Weights and compiled networks.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), default=Path(".bench/figures.json"))
def main(pairs: int, work: Path, json_file: Path) -> None:
    """Time a window of each structure in every form."""
    keep_large_blocks()
    use_available_cores()
    click.echo(describe(machine()))
    weights = paper_sized_weights(work / "weights", {s: PAPER.plans[s].window for s in STRUCTURES})
    compile_once(weights, (work / "compiled").absolute())
    figures = {}
    for structure in STRUCTURES:
        eager = load_segmenter(weights, structure, torch.device("cpu"))
        form, fastest = for_inference(eager), fastest_form(eager, click.echo)
        assert isinstance(fastest, InferenceSegmenter)
        side, together = eager.window, fastest.fixed_batch or 1
        windows = torch.randn(together, 1, side, side, side, generator=torch.Generator().manual_seed(0))
        forms = {
            "eager": (eager.network, windows[:1]),
            "form": (form.network, windows[:1]),
            "compiled": (fastest.network, windows),
        }
        with torch.inference_mode():
            logits = eager.network(windows)
            expected, got = logits[:, 1] - logits[:, 0], fastest.network(windows)
        beyond = ((got - expected).abs() > 1e-4 * expected.abs().max()).float().mean().item()
        decided = ((got > 0) != (expected > 0)).sum().item()
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in forms}
        for _ in range(pairs + 1):
            for name, (network, batch) in forms.items():
                runs[name].append({"seconds": seconds_a_window(network, batch)})
        runs = {name: timed[1:] for name, timed in runs.items()}  # the first pass warms up
        figures[structure.key] = runs
        click.echo(
            f"{structure.title}, {side}^3: eager, batch 1, takes {ratio(runs['eager'], runs['compiled'])} times as "
            f"long as compiled, batch {together}, and {ratio(runs['eager'], runs['form'])} as its inference form; "
            f"{beyond:.2%} of values differ by over 1e-4 of the largest, {decided} voxels are decided otherwise"
        )
    write_json(json_file, "window", figures)


if __name__ == "__main__":
    main()
