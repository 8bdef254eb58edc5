"""The sliding window side by side with MONAI's, same network, windows, overlap and weighting, both structures.

    python benchmarks/sliding_window.py                  a volume of 160 x 256 x 256 voxels, three pairs of runs
    python benchmarks/sliding_window.py --shape 240 420 420 --overlap 0.5 --pairs 1

Every run is a process of its own, ours and the peers' in turn, so that each has its own allocator and its own peak of
memory, and the machine's drift meets all alike. Ratios are taken run by run: quote those, not the seconds.
"""

import json
import resource
import statistics
import subprocess
import sys
import time

import click
import numpy as np
import torch

from challenge.contract import STRUCTURES
from pipeline.config import OURS, PAPER
from pipeline.inference.sliding_window import predict_volume
from pipeline.model.enet import ENet3d
from pipeline.runtime.allocator import keep_large_blocks

PEERS = {
    "ours": "this pipeline: windows of OURS.windows_per_pass, glibc keeps large blocks",
    "monai": "MONAI sliding_window_inference, sw_batch_size 1, glibc's default allocator",
    "monai-batched": "MONAI sliding_window_inference, our number of windows a pass, glibc's default allocator",
}


def probability(network: torch.nn.Module, windows: torch.Tensor) -> torch.Tensor:
    return torch.softmax(network(windows), dim=1)[:, 1:]


def predict(
    who: str, volume: np.ndarray, network: torch.nn.Module, window: int, batch: int, overlap: float
) -> np.ndarray:
    if who == "ours":
        return predict_volume(
            volume, lambda x: probability(network, x)[:, 0], window, overlap=overlap, windows_per_pass=batch
        )
    from monai.inferers import sliding_window_inference

    with torch.inference_mode():
        return sliding_window_inference(
            torch.from_numpy(volume)[None, None],
            (window,) * 3,
            batch if who == "monai-batched" else 1,
            lambda x: probability(network, x),
            overlap=overlap,
            mode=OURS.weighting,
        )[0, 0].numpy()


def run_once(who: str, shape: tuple[int, int, int], overlap: float) -> dict[str, float]:
    """Predict one random volume with both structures' networks, random weights; seconds, peak memory, a fingerprint."""
    if who == "ours":
        keep_large_blocks()
    volume = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    result: dict[str, float] = {"seconds": 0.0}
    for structure in STRUCTURES:
        torch.manual_seed(0)
        network = ENet3d().eval()
        started = time.perf_counter()
        values = predict(who, volume, network, PAPER.plans[structure].window, OURS.windows_per_pass[structure], overlap)
        result[structure.key] = time.perf_counter() - started
        result["seconds"] += result[structure.key]
        result[f"{structure.key}_mean"] = float(values.mean(dtype=np.float64))
    result["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return result


@click.command()
@click.option("--shape", type=int, nargs=3, default=(160, 256, 256), show_default=True, help="D, H, W at 0.5 mm.")
@click.option("--overlap", type=float, default=OURS.overlap, show_default=True)
@click.option("--pairs", type=int, default=3, show_default=True, help="How often each is run, in turn.")
@click.option("--child", type=click.Choice(list(PEERS)), hidden=True)
def main(shape: tuple[int, int, int], overlap: float, pairs: int, child: str | None) -> None:
    """Time the sliding window beside MONAI's."""
    if child:
        click.echo(json.dumps(run_once(child, shape, overlap)))
        return
    click.echo(f"{' x '.join(map(str, shape))} voxels, overlap {overlap}, {torch.get_num_threads()} threads")
    runs: dict[str, list[dict[str, float]]] = {who: [] for who in PEERS}
    for _ in range(pairs):
        for who in PEERS:
            command = [sys.executable, __file__, "--child", who, "--overlap", str(overlap), "--shape", *map(str, shape)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            runs[who].append(json.loads(done.stdout))
    for who, meaning in PEERS.items():
        seconds = statistics.median(r["seconds"] for r in runs[who])
        parts = ", ".join(f"{s.title} {statistics.median(r[s.key] for r in runs[who]):.1f}" for s in STRUCTURES)
        ratios = [theirs["seconds"] / ours["seconds"] for ours, theirs in zip(runs["ours"], runs[who], strict=True)]
        peak = max(r["peak_gb"] for r in runs[who])
        click.echo(
            f"{who:14} {seconds:7.1f} s ({parts})  {statistics.median(ratios):5.2f} x ours "
            f"({min(ratios):.2f} to {max(ratios):.2f})  peak {peak:.2f} GB   {meaning}"
        )
    for structure in STRUCTURES:
        means = [f"{runs[who][0][f'{structure.key}_mean']:.7f}" for who in PEERS]
        click.echo(f"mean probability, {structure.title}: {', '.join(means)}")


if __name__ == "__main__":
    main()
