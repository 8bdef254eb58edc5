"""What a plain threshold scores on the phantoms: the score that a network has to beat.

For each domain and structure the best single band of intensities is searched on tuning cases and scored on others:
raw, and with the connected components that have the structure's size kept (for a tumour the largest, for cochleas two).
Intensities are z-scored by volume, as the pipeline does it. Run as `python benchmarks/phantom_baseline.py`.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import click
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from challenge.contract import COCHLEA, STRUCTURES, VS, Structure
from evaluation.metrics import count_overlap, dice
from pipeline.phantom import CET1, HARDNESS, HRT2, PRESETS, make_case

Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]

# How many bodies to keep, and between what volumes (mm3) a body may lie.
BODIES = {VS: (1, 60.0, 15_000.0), COCHLEA: (2, 15.0, 120.0)}
LEVELS = np.arange(-1.6, 6.01, 0.2)


class Case(NamedTuple):
    volume: Volume
    labels: NDArray[np.uint8]
    voxel_mm3: float


def main_bodies(mask: Mask, voxel_mm3: float, structure: Structure) -> Mask:
    """Keep the largest connected bodies whose volume a structure may have."""
    count, smallest, largest = BODIES[structure]
    bodies, found = ndimage.label(mask)
    if not found:
        return mask
    volumes = np.bincount(bodies.ravel())[1:] * voxel_mm3
    fitting = [i for i in np.argsort(-volumes) if smallest <= volumes[i] <= largest][:count]
    return np.isin(bodies, np.array(fitting) + 1)


def raw(mask: Mask, voxel_mm3: float, structure: Structure) -> Mask:
    """Leave the mask as it is."""
    return mask


FILTERS: dict[str, Callable[[Mask, float, Structure], Mask]] = {"band": raw, "band + bodies of its size": main_bodies}


def bands() -> Iterator[tuple[float, float]]:
    """Yield every band between two levels, and those open at the top."""
    for i, low in enumerate(LEVELS):
        yield low, np.inf
        yield from ((low, high) for high in LEVELS[i + 2 :: 2])


def scores(cases: list[Case], structure: Structure, band: tuple[float, float], rule: str) -> list[float]:
    """Return each case's Dice for one band and filter."""
    low, high = band
    found = []
    for case in cases:
        mask = FILTERS[rule]((case.volume >= low) & (case.volume < high), case.voxel_mm3, structure)
        found.append(dice(count_overlap(case.labels == structure.label, mask)))
    return found


def overlaps(cases: list[Case], structure: Structure) -> dict[tuple[float, float], float]:
    """Return the mean Dice of every band, unfiltered, from histograms: one pass instead of one for each band."""
    edges = np.append(LEVELS, np.inf)
    tables = []
    for case in cases:
        inside = case.labels == structure.label
        everything = np.histogram(case.volume, edges)[0]
        hits = np.histogram(case.volume[inside], edges)[0]
        tables.append((everything, hits, int(inside.sum())))
    found = {}
    for low, high in bands():
        part = slice(int(np.searchsorted(LEVELS, low - 0.01)), int(np.searchsorted(LEVELS, high - 0.01)))
        found[low, high] = float(np.mean([2 * h[part].sum() / (e[part].sum() + n) for e, h, n in tables]))
    return found


@click.command()
@click.option("--preset", type=click.Choice(list(PRESETS)), default="small", show_default=True)
@click.option("--hardness", type=click.Choice(list(HARDNESS)), default="standard", show_default=True)
@click.option("--tuning", default=8, show_default=True, help="Cases on which the band is chosen.")
@click.option("--cases", "scored", default=16, show_default=True, help="Other cases, on which it is scored.")
@click.option("--seed", default=0, show_default=True)
def main(preset: str, hardness: str, tuning: int, scored: int, seed: int) -> None:
    """Print the Dice of the best plain threshold, per domain and structure."""
    click.echo(
        f"preset {preset}, hardness {hardness}, seed {seed}; band chosen on {tuning} cases, scored on {scored} others"
    )
    click.echo("| scan | structure | rule | band (z-score) | tuning Dice | Dice, mean +- sd | median |")
    click.echo("|---|---|---|---|---|---|---|")
    for contrast, first_id in ((CET1, 1), (HRT2, 106)):
        made = []
        for case_id in range(first_id, first_id + tuning + scored):
            scan, labels, grid, _ = make_case(case_id, contrast, PRESETS[preset], HARDNESS[hardness], seed)
            volume = scan.astype(np.float32)
            volume = (volume - volume.mean()) / volume.std()
            made.append(Case(volume, labels, float(np.prod(grid.spacing_mm))))
        for structure in STRUCTURES:
            ranked = overlaps(made[:tuning], structure)
            for rule in FILTERS:
                # A filter repairs spill, so it is given every third band, and the best of those without it.
                candidates = [*list(ranked)[::3], max(ranked, key=lambda b: ranked[b])]
                tuned = ranked if rule == "band" else {
                    b: float(np.mean(scores(made[:tuning], structure, b, rule))) for b in candidates
                }  # fmt: skip
                band = max(tuned, key=lambda b: tuned[b])
                got = scores(made[tuning:], structure, band, rule)
                click.echo(
                    f"| {contrast} | {structure.title} | {rule} | {band[0]:.1f} to {band[1]:.1f} | {tuned[band]:.2f} "
                    f"| {np.mean(got):.2f} +- {np.std(got):.2f} | {np.median(got):.2f} |"
                )


if __name__ == "__main__":
    main()
