"""A whole case, a cohort, and how cost grows: `predict` beside the MONAI way, reading and writing included.

    python benchmarks/whole_case.py                                     a case, and the plots of how cost grows
    python benchmarks/whole_case.py --part overlap-0.5 --part cohort    a case at 50 % overlap, and a cohort of 8
    python benchmarks/whole_case.py --set best --part overlap-0.25      a case with another shipped set
    python benchmarks/whole_case.py --quick                             small scans, to see that it runs

The scans are phantoms at 0.469 x 0.469 x 1.5 mm, the networks a shipped set's with the paper's windows, compiled once
into `--work`. Seconds are without imports. Every run is a process of its own; `benchmarks/monai_way.py` is the peer.
"""

import contextlib
import io
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from side_by_side import (
    Run,
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

from challenge.contract import COCHLEA, STRUCTURES, VS
from pipeline.config import PAPER
from pipeline.model.shipped import shipped_sets
from pipeline.runtime.cores import available_cores

COHORT = 8
PARTS = ("overlap-0.25", "growth", "overlap-0.5", "cohort")


def scans_folder(work: Path, slices: int, in_plane: int, cases: int = 1) -> Path:
    """Return a folder with so many copies of a phantom scan; it is made once."""
    scan = work / "scans" / f"{in_plane}x{in_plane}x{slices}.nii.gz"
    if not scan.exists():
        write_phantom(scan, slices, in_plane)
    folder = work / "scans" / f"{in_plane}x{in_plane}x{slices}_{cases}"
    folder.mkdir(exist_ok=True)
    for number in range(cases):
        shutil.copy(scan, folder / f"crossmoda_{number + 211}_hrT2.nii.gz")
    return folder


def commands(work: Path, scans: Path, overlap: float) -> dict[str, Sequence[str]]:
    arguments = ("--weights", work / "weights", "--input", scans, "--overlap", overlap)
    return {
        "ours": child("whole_case.py", "--child", *arguments, "--output", work / "ours"),
        "monai": child("monai_way.py", *arguments, "--output", work / "monai"),
    }


def predict_here(arguments: Sequence[str]) -> None:
    """Run `predict` in this process, and say its seconds without torch's import."""
    import torch  # noqa: F401

    from pipeline.inference import folder, submission  # noqa: F401
    from pipeline.inference.cli import predict

    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        predict.main(list(arguments), standalone_mode=False)
    say(time.perf_counter() - started)


def told(name: str, runs: dict[str, list[Run]]) -> str:
    ours, monai = runs["ours"], runs["monai"]
    return (
        f"{name:34} ours {median(ours, 'seconds'):6.1f} s {median(ours, 'peak_gb'):.2f} GB, "
        f"MONAI {median(monai, 'seconds'):6.1f} s {median(monai, 'peak_gb'):.2f} GB; "
        f"MONAI/ours {ratio(monai, ours)}, memory ours/MONAI {ratio(ours, monai, 'peak_gb')}"
    )


def growth(work: Path, slices: int, in_plane: int, *, quick: bool) -> dict[str, dict[str, dict[str, Run]]]:
    """Measure one run of each size: figures by what grows, by its value, by who."""
    quarter, half = max(1, slices // 4), max(1, slices // 2)
    threads = sorted({1, available_cores()})
    plan = {
        "slices": [(n, (n, in_plane, 1, 0.25, None)) for n in (quarter, half, slices)],
        "in-plane voxels": [(n, (quarter, n, 1, 0.25, None)) for n in (in_plane * 6 // 7, in_plane, in_plane * 8 // 7)],
        "overlap": [(o, (quarter, in_plane, 1, o, None)) for o in (0.0, 0.25, 0.5)],
        "cases": [(n, (quarter, in_plane, n, 0.25, None)) for n in (1, 2, 4)],
        "threads": [(n, (quarter, in_plane, 1, 0.25, n)) for n in threads],
    }
    if quick:
        plan = {what: plan[what][:2] for what in ("slices", "overlap")}
    found: dict[str, dict[str, dict[str, Run]]] = {}
    seen: dict[Any, dict[str, Run]] = {}
    for what, points in plan.items():
        found[what] = {}
        for value, size in points:
            if size not in seen:
                depth, side, cases, overlap, limit = size
                pair = in_turn(commands(work, scans_folder(work, depth, side, cases), overlap), 1, limit)
                seen[size] = {who: runs[0] for who, runs in pair.items()}
            found[what][str(value)] = seen[size]
    return found


def draw(found: dict[str, dict[str, dict[str, Run]]], folder: Path) -> None:
    """Draw two plots, seconds and memory, with a panel for everything that grows."""
    from matplotlib import pyplot

    for figure, unit, name in (("seconds", "s", "growth_seconds.png"), ("peak_gb", "GB", "growth_memory.png")):
        drawing, panels = pyplot.subplots(1, len(found), figsize=(3 * len(found), 3), layout="constrained")
        for panel, (what, points) in zip(panels, found.items(), strict=True):
            at = [float(value) for value in points]
            for who, title, colour in (("monai", "the MONAI way", "tab:gray"), ("ours", "ours", "tab:blue")):
                panel.plot(at, [each[who][figure] for each in points.values()], "o-", color=colour, label=title)
            panel.set(xlabel=what, xticks=at, ylim=(0, 1.05 * panel.get_ylim()[1]))
        panels[0].set_ylabel(unit)
        panels[0].legend()
        folder.mkdir(parents=True, exist_ok=True)
        drawing.savefig(folder / name, dpi=110)
        pyplot.close(drawing)


@click.command(context_settings={"ignore_unknown_options": True, "show_default": True})
@click.option("--pairs", type=click.IntRange(min=1), default=5)
@click.option("--part", "parts", type=click.Choice(PARTS), multiple=True, default=PARTS[:2], help="What to measure.")
@click.option("--set", "named", type=click.Choice(sorted(shipped_sets())), default="paper", help="Whose networks.")
@click.option("--quick", is_flag=True, help="Small scans and windows, one run of each.")
@click.option("--work", type=click.Path(path_type=Path), default=Path(".bench"), help="Scans and compiled networks.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), default=Path(".bench/figures.json"))
@click.option("--images", type=click.Path(path_type=Path), default=Path(".bench"), help="Folder for the plots.")
@click.option("--child", "is_child", is_flag=True, hidden=True)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def main(
    pairs: int,
    parts: Sequence[str],
    named: str,
    quick: bool,
    work: Path,
    json_file: Path,
    images: Path,
    is_child: bool,
    arguments: tuple[str, ...],
) -> None:
    """Time whole cases beside the MONAI way."""
    if is_child:
        predict_here(arguments)
        return
    found_machine = machine()
    click.echo(describe(found_machine))
    windows = {VS: 32, COCHLEA: 32} if quick else {s: PAPER.plans[s].window for s in STRUCTURES}
    slices, in_plane = (12, 96) if quick else (80, 448)
    pairs = 1 if quick else pairs
    weights = paper_sized_weights(work / "weights", windows, named)
    # A quick run leaves one network uncompiled, because that takes longer than all the rest.
    compile_once(weights, (work / "compiled").absolute(), [VS] if quick else STRUCTURES)
    case = {"set": named, "windows": {s.key: w for s, w in windows.items()}, "scan": [in_plane, in_plane, slices]}
    one = scans_folder(work, slices, in_plane)
    for part in parts:
        figures: dict[str, Any]
        if part == "growth":
            figures = found = growth(work, slices, in_plane, quick=quick)
            draw(found, images)
        elif part == "cohort":
            many = scans_folder(work, slices, in_plane, COHORT)
            folders = {"cohort": many, "single": one}
            figures = runs = in_turn({name: commands(work, f, 0.25)["ours"] for name, f in folders.items()}, pairs)
            share = ratio([{"seconds": r["seconds"] / COHORT} for r in runs["cohort"]], runs["single"])
            click.echo(f"{COHORT} cases, seconds a case, to a single case: {share}")
        else:
            figures = runs = in_turn(commands(work, one, float(part.removeprefix("overlap-"))), pairs)
            click.echo(told(f"a case, {part}", runs))
        write_json(json_file, f"whole case, {part}", {**case, **figures})
    click.echo(f"figures in {json_file}, plots in {images}")


if __name__ == "__main__":
    main()
