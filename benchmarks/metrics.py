"""Time our metrics beside MedPy and MONAI in one run: Dice and ASSD of two masks on a real scan's grid.

Run: python benchmarks/metrics.py [--slices 120] [--repeats 3]. Times are minima; only ratios of one run mean anything.
MedPy takes about half a minute per case at 120 slices, everything together about five minutes.
"""

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from medpy.metric import binary as medpy
from monai.metrics import compute_average_surface_distance

from evaluation.metrics import assd_mm, count_overlap, dice, surface_distances

SPACING_MM = (1.5, 0.4102, 0.4102)
SIDE = 512


def ball(shape: tuple[int, int, int], centre: tuple[int, int, int], radius_mm: float) -> np.ndarray:
    grids = np.ogrid[tuple(slice(0, size) for size in shape)]
    squared = sum(((grid - middle) * step) ** 2 for grid, middle, step in zip(grids, centre, SPACING_MM, strict=True))
    return squared <= radius_mm**2


def mask_pairs(slices: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Reference and prediction by name, bool (D, H, W)."""
    rng = np.random.default_rng(1)
    shape = (slices, SIDE, SIDE)
    middle = slices // 2
    tumour, nearby = ball(shape, (middle, 250, 200), 8.3), ball(shape, (middle + 1, 252, 203), 8.0)
    cochleas = ball(shape, (middle - 9, 240, 160), 2.2) | ball(shape, (middle - 9, 240, 343), 2.2)
    near_cochleas = ball(shape, (middle - 9, 241, 161), 2.2) | ball(shape, (middle - 8, 240, 343), 2.1)
    return {
        "tumour": (tumour, nearby),
        "both cochleas": (cochleas, near_cochleas),
        "one far false positive": (tumour, nearby | ball(shape, (5, 20, 490), 2.0)),
        "5 % noise everywhere": (tumour, nearby | (rng.random(shape) < 0.05)),
        "a shell round the head": (
            tumour,
            ball(shape, (middle, 256, 256), 80.0) & ~ball(shape, (middle, 256, 256), 78.0),
        ),
        "everything": (tumour, np.ones(shape, dtype=bool)),
    }


def ours(reference: np.ndarray, prediction: np.ndarray) -> float:
    dice(count_overlap(reference, prediction))
    return assd_mm(surface_distances(reference, prediction, SPACING_MM), "pooled")


def by_medpy(reference: np.ndarray, prediction: np.ndarray) -> float:
    medpy.dc(prediction, reference)
    return float(medpy.assd(prediction, reference, voxelspacing=SPACING_MM))


def by_monai(reference: np.ndarray, prediction: np.ndarray) -> float:
    """Dice and the symmetric average surface distance; MONAI's surfaces and means are its own."""
    masks = [torch.from_numpy(mask)[None, None] for mask in (prediction, reference)]
    2 * (masks[0] & masks[1]).sum() / (masks[0].sum() + masks[1].sum())
    result = compute_average_surface_distance(
        masks[0].float(), masks[1].float(), include_background=True, symmetric=True, spacing=list(SPACING_MM)
    )
    return float(result[0, 0])


def timed(measure: Callable[[], float], repeats: int) -> tuple[float, float]:
    """Return the shortest time in seconds and the last value."""
    best, value = float("inf"), float("nan")
    for _ in range(repeats):
        start = time.perf_counter()
        value = measure()
        best = min(best, time.perf_counter() - start)
    return best, value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=120, help="slices of 512 x 512 voxels")
    parser.add_argument("--repeats", type=int, default=3, help="repeats of ours and MONAI; MedPy runs once")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    print(f"Dice and ASSD, one core, {SIDE} x {SIDE} x {arguments.slices} at {SPACING_MM[::-1]} mm")
    print(f"{'masks':<24}{'ours':>10}{'MONAI':>10}{'MedPy':>10}{'MONAI/ours':>12}{'MedPy/ours':>12}  |ours - MedPy|")
    usual = 0.0
    for name, (reference, prediction) in mask_pairs(arguments.slices).items():
        mine, value = timed(lambda a=reference, b=prediction: ours(a, b), arguments.repeats)  # type: ignore[misc]
        monai, _ = timed(lambda a=reference, b=prediction: by_monai(a, b), 1)  # type: ignore[misc]
        theirs, expected = timed(lambda a=reference, b=prediction: by_medpy(a, b), 1)  # type: ignore[misc]
        if name in ("tumour", "both cochleas"):
            usual += mine
        print(
            f"{name:<24}{mine * 1e3:>7.1f} ms{monai:>8.2f} s{theirs:>8.2f} s{monai / mine:>12.1f}{theirs / mine:>12.1f}"
            f"  {abs(value - expected):.1e} mm",
            flush=True,
        )
    print(f"both structures of a usual case: {usual * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
