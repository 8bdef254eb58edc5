"""What it costs to randomise a patch: ours beside MONAI's and TorchIO's equivalents, step by step and as a whole.

    python benchmarks/randomisation.py                  20 patches of 64^3, 5 rounds
    python benchmarks/randomisation.py --side 48

One thread, one patch at a time, as the sampler cuts them. Each step is forced to happen, with our mean settings; where
a library has no such transform, its column is empty. `map` is a random intensity map: ours is piecewise linear,
monotone or not; MONAI's RandHistogramShift is monotone, TorchIO's RandomGamma a power. Every round runs ours and the
others in turn, and ratios are taken round by round: quote those, not the milliseconds. TorchIO is not in the extra
`dev`: `pip install torchio` adds its column.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec

import click
import numpy as np
import torch

from pipeline.adaptation.augmentations import AUGMENTATIONS
from pipeline.adaptation.randomisation import (
    Patch,
    biased,
    convolved_contrast,
    filled,
    piecewise_contrast,
    randomise,
    smoothed,
    turned_and_zoomed,
)
from pipeline.data.intensities import intensities_of

Steps = Mapping[str, Callable[[], object]]
_SETTINGS = AUGMENTATIONS["contrast"]
# Everything happens to every patch, but for what is an alternative of another step.
_ALL = replace(
    _SETTINGS, untouched=0.0, affine=1.0, smoothed_first=1.0, filled=1.0, bias=1.0, blur=1.0, thick=0.0, noise=1.0
)


def ours(patch: Patch, mask: np.ndarray) -> Steps:
    """Return our steps."""
    rng, volume = np.random.default_rng(0), intensities_of(patch)
    certain = np.ones(patch.shape, dtype=np.bool_)
    noise_sd = np.float32(_mean(_SETTINGS.noise_sd))
    return {
        "map": lambda: piecewise_contrast(patch, volume, _SETTINGS, rng),
        "map, GIN": lambda: convolved_contrast(patch, rng),
        "bias field": lambda: biased(patch, volume.low, _mean(_SETTINGS.bias_strength), rng),
        "blur": lambda: smoothed(patch, _mean(_SETTINGS.blur_sigma)),
        "noise": lambda: patch + noise_sd * rng.standard_normal(patch.shape, dtype=np.float32),
        "turn and zoom": lambda: turned_and_zoomed(patch, mask, certain, _SETTINGS, rng),
        "tumour filled": lambda: filled(patch, mask, _SETTINGS, rng),
        "all": lambda: randomise(patch, mask, volume, _ALL, rng, certain=certain),
    }


def monai(patch: Patch, mask: np.ndarray) -> Steps:
    """Return MONAI's equivalents."""
    from monai import transforms as mt

    image, label = torch.from_numpy(patch)[None], torch.from_numpy(mask)[None]
    sigma = (_mean(_SETTINGS.blur_sigma),) * 2
    angle = float(np.deg2rad(_SETTINGS.turn_degrees[1]))
    affine = mt.RandAffined(
        ["image", "label"], prob=1.0, rotate_range=(angle, 0.0, 0.0), scale_range=0.1,
        mode=("bilinear", "nearest"), padding_mode="border",
    )  # fmt: skip
    steps: dict[str, Callable[[], object]] = {
        "map": _applied(mt.RandHistogramShift(_SETTINGS.knots, prob=1.0), image),
        "bias field": _applied(mt.RandBiasField(coeff_range=(0.0, 0.1), prob=1.0), image),
        "blur": _applied(mt.RandGaussianSmooth(sigma, sigma, sigma, prob=1.0), image),
        "noise": _applied(mt.RandGaussianNoise(prob=1.0, std=_mean(_SETTINGS.noise_sd)), image),
        "turn and zoom": lambda: affine({"image": image, "label": label}),
    }
    return {**steps, "all": lambda: [step() for step in steps.values()]}


def torchio(patch: Patch, mask: np.ndarray) -> Steps:
    """Return TorchIO's equivalents."""
    import torchio as tio

    image = tio.ScalarImage(tensor=torch.from_numpy(patch)[None])
    subject = tio.Subject(image=image, label=tio.LabelMap(tensor=torch.from_numpy(mask.astype(np.uint8))[None]))
    degrees, sigma = _SETTINGS.turn_degrees[1], _mean(_SETTINGS.blur_sigma)
    steps: dict[str, Callable[[], object]] = {
        "map": _applied(tio.RandomGamma(), image),
        "bias field": _applied(tio.RandomBiasField(), image),
        "blur": _applied(tio.RandomBlur((sigma, sigma)), image),
        "noise": _applied(tio.RandomNoise(std=(0.0, 2 * _mean(_SETTINGS.noise_sd))), image),
        "turn and zoom": _applied(tio.RandomAffine(scales=0.1, degrees=(0, 0, degrees)), subject),
    }
    return {**steps, "all": lambda: [step() for step in steps.values()]}


PEERS = {"monai": monai, "torchio": torchio}


def _applied(transform: Callable[[object], object], to: object) -> Callable[[], object]:
    return lambda: transform(to)


def _mean(ends: tuple[float, float]) -> float:
    return sum(ends) / 2


def milliseconds(step: Callable[[], object], patches: int) -> float:
    """Return the mean time of a step, after one that does not count."""
    step()
    started = time.perf_counter()
    for _ in range(patches):
        step()
    return (time.perf_counter() - started) / patches * 1000


def example(side: int) -> tuple[Patch, np.ndarray]:
    """Make a patch of smooth noise with a ball of the structure in it, `(D, H, W)`."""
    rng = np.random.default_rng(0)
    patch = smoothed(rng.standard_normal((side,) * 3, dtype=np.float32), 1.5)
    z, y, x = np.ogrid[(slice(0, side),) * 3]
    middle, radius = side / 2, side / 5
    return patch / patch.std(), (z - middle) ** 2 + (y - middle) ** 2 + (x - middle) ** 2 < radius**2


@click.command(context_settings={"show_default": True})
@click.option("--side", type=click.IntRange(min=16), default=64, help="Side of the cubic patch in voxels.")
@click.option("--patches", type=click.IntRange(min=1), default=20, help="Patches a step and round.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, help="How often everything is timed.")
def main(side: int, patches: int, rounds: int) -> None:
    """Time our randomisation of a patch beside MONAI's and TorchIO's."""
    torch.set_num_threads(1)
    patch, mask = example(side)
    mine = ours(patch, mask)
    peers = {name: make(patch, mask) for name, make in PEERS.items() if find_spec(name)}
    absent = [name for name in PEERS if name not in peers]
    click.echo(f"{side}^3 voxels, {patches} patches a step, {rounds} rounds, one thread; settings: contrast")
    if absent:
        click.echo(f"not installed: {', '.join(absent)}")
    click.echo(f"| step | ours, ms | {' | '.join(f'{name} / ours' for name in peers)} |")
    click.echo("|---|---|" + "---|" * len(peers))
    for name, step in mine.items():
        there = {peer: steps[name] for peer, steps in peers.items() if name in steps}
        times: dict[str, list[float]] = {who: [] for who in ("ours", *there)}
        for _ in range(rounds):
            for who, timed in {"ours": step, **there}.items():
                times[who].append(milliseconds(timed, patches))
        cells = [_ratio(times, peer) if peer in there else "-" for peer in peers]
        click.echo(f"| {name} | {statistics.median(times['ours']):.2f} | {' | '.join(cells)} |")


def _ratio(times: Mapping[str, list[float]], peer: str) -> str:
    ratios = [theirs / own for own, theirs in zip(times["ours"], times[peer], strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    main()
