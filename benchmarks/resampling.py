"""Resampling to 0.5 mm and back, beside SimpleITK's filter, on the grids of real scans.

    python benchmarks/resampling.py [--pairs 5]

Both in one process, in turn; the difference is told in standard deviations of the volume.
"""

import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import SimpleITK as sitk
from side_by_side import Run, describe, machine, median, ratio, write_json

from pipeline.data.preprocessing import array_at_spacing, array_back, resample_to_spacing
from pipeline.runtime.allocator import keep_large_blocks
from pipeline.runtime.cores import use_available_cores

# Voxels (x, y, z) and spacing in mm.
GRIDS = {
    "z changes": ((448, 448, 80), (0.5, 0.5, 1.5)),
    "all axes change": ((448, 448, 80), (0.46875, 0.46875, 1.5)),
    "all axes, 512": ((512, 512, 40), (0.4102, 0.4102, 1.5)),
}


def filtered(image: sitk.Image, grid: sitk.Image) -> sitk.Image:
    return sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear, useNearestNeighborExtrapolator=True)


def timed(work: Callable[[], object]) -> tuple[Run, object]:
    started = time.perf_counter()
    result = work()
    return {"seconds": time.perf_counter() - started}, result


@click.command(context_settings={"show_default": True})
@click.option("--pairs", type=click.IntRange(min=1), default=5)
@click.option("--quick", is_flag=True, help="A tenth of the voxels.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), default=Path(".bench/figures.json"))
def main(pairs: int, quick: bool, json_file: Path) -> None:
    """Time resampling beside SimpleITK's filter."""
    click.echo(describe(machine()))
    keep_large_blocks()
    use_available_cores()
    figures = {}
    for name, (size, spacing) in GRIDS.items():
        x, y, z = (s // 2 for s in size) if quick else size
        voxels = np.random.default_rng(0).normal(300, 70, (z, y, x)).astype(np.float32)
        image = sitk.GetImageFromArray(voxels)
        image.SetSpacing(spacing)
        grid = resample_to_spacing(image, 0.5)
        fine = sitk.GetArrayFromImage(grid)
        ways: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
            "to 0.5 mm": (
                lambda i=image: array_at_spacing(i, 0.5),
                lambda i=image, g=grid: sitk.GetArrayFromImage(filtered(i, g)),
            ),
            "back": (
                lambda i=image, f=fine: array_back(f, 0.5, i),
                lambda i=image, g=grid: sitk.GetArrayFromImage(filtered(g, i)),
            ),
        }
        for way, (ours, theirs) in ways.items():
            runs: dict[str, list[Run]] = {"ours": [], "SimpleITK": []}
            for _ in range(pairs + 1):  # the first pair touches memory and is not counted
                run, a = timed(ours)
                runs["ours"].append(run)
                run, b = timed(theirs)
                runs["SimpleITK"].append(run)
            counted = {who: each[1:] for who, each in runs.items()}
            difference = float(np.abs(np.asarray(a) - np.asarray(b)).max() / voxels.std())
            figures[f"{name}, {way}"] = {**counted, "largest difference in sd": difference}
            click.echo(
                f"{name:16} {way:10} ours {median(counted['ours'], 'seconds') * 1e3:6.0f} ms, SimpleITK "
                f"{median(counted['SimpleITK'], 'seconds') * 1e3:6.0f} ms, SimpleITK/ours "
                f"{ratio(counted['SimpleITK'], counted['ours'])}, largest difference {difference:.1e} sd"
            )
    write_json(json_file, "resampling", figures)


if __name__ == "__main__":
    main()
