"""The participant's commands. Results go to stdout, progress and messages to stderr.

torch is imported by the commands that need it: it takes seconds, and `phantom` works without it.
"""

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from challenge.contract import STRUCTURES, label_file
from challenge.signals import Interrupted, interruptible
from pipeline.config import OURS

if TYPE_CHECKING:
    from pipeline.inference.submission import CaseResult

_FOLDER = click.Path(path_type=Path)
_PLAIN_WIDTH = 120  # of a table that is not shown on a terminal

_progress = Console(stderr=True, soft_wrap=True, highlight=False)


@click.command(context_settings={"show_default": True})
@click.option("--input", "input_folder", type=_FOLDER, default=Path("/input"), help="Folder of {case}_hrT2.nii.gz.")
@click.option(
    "--output", "output_folder", type=_FOLDER, default=Path("/output"), help="Folder for {case}_Label.nii.gz."
)
@click.option(
    "--weights", "weights_folder", type=_FOLDER, help="Folder of weights and cards.  [default: the shipped ones]"
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where the networks run.")
@click.option(
    "--overlap",
    type=click.FloatRange(0, 1, max_open=True),
    default=OURS.overlap,
    help="Overlap of neighbouring windows, as a fraction.",
)
@click.option("--save-probabilities", is_flag=True, help="Also write probabilities/{case}_{structure}.nii.gz.")
@click.option("--skip-existing", is_flag=True, help="Leave cases alone whose label map is there.")
def predict(
    input_folder: Path,
    output_folder: Path,
    weights_folder: Path | None,
    device: str,
    overlap: float,
    save_probabilities: bool,
    skip_existing: bool,
) -> None:
    """Segment a folder of hrT2 scans: label maps (1 VS, 2 cochlea) on the scans' own grids.

    Exit code: 0 when every case succeeded, 1 when one failed or nothing could start, 130 or 143 when interrupted.
    """
    from pipeline.inference.submission import SubmissionError, check_writable, find_submission_scans, segment_folder
    from pipeline.model.weights import WeightsError, default_weights_folder, load_segmenter
    from pipeline.runtime.allocator import keep_large_blocks
    from pipeline.runtime.devices import DeviceError, pick_device

    keep_large_blocks()
    results: list[CaseResult] = []
    try:
        with interruptible():
            scans, ignored = find_submission_scans(input_folder)
            check_writable(output_folder)
            where = pick_device(device)
            folder = weights_folder or default_weights_folder()
            segmenters = [load_segmenter(folder, structure, where) for structure in STRUCTURES]
            if ignored:
                _progress.print(f"ignored in {input_folder}: {', '.join(ignored)}", markup=False)
            _progress.print(f"{len(scans)} scans in {input_folder}, weights from {folder}, on {where}", markup=False)
            outcomes = segment_folder(
                scans,
                output_folder,
                segmenters,
                overlap=overlap,
                save_probabilities=save_probabilities,
                skip_existing=skip_existing,
                report_bug=partial(click.echo, err=True),
            )
            results.extend(_shown(outcomes, total=len(scans)))
    except (SubmissionError, WeightsError, DeviceError) as error:
        raise click.ClickException(str(error)) from error
    except Interrupted as interrupted:
        _progress.print(
            f"interrupted by {interrupted}; finished label maps are whole, --skip-existing goes on from there"
        )
        sys.exit(interrupted.exit_code)
    _print_results(results)
    failed = [result for result in results if result.error]
    if failed:
        _progress.print(f"{len(failed)} of {len(results)} cases failed:")
        for result in failed:
            _progress.print(f"  {result.error}", markup=False)
        sys.exit(1)


def _shown(outcomes: "Iterator[CaseResult]", total: int) -> "Iterator[CaseResult]":
    """Show each outcome as it comes: a bar on a terminal, a line `k/N case seconds` elsewhere."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=_progress,
        disable=not _progress.is_terminal,
    )
    with bar:
        task = bar.add_task("segmenting", total=total)
        for number, outcome in enumerate(outcomes, 1):
            _progress.print(_line(number, total, outcome), markup=False)
            bar.advance(task)
            yield outcome


def _line(number: int, total: int, outcome: "CaseResult") -> str:
    line = f"{number}/{total} {outcome.case} {outcome.seconds:.1f} s"
    if outcome.error:
        return f"{line} FAILED: {outcome.error}"
    if outcome.skipped:
        return f"{line} skipped, {label_file(outcome.case)} is there"
    empty = [structure.title for structure, volume in outcome.volumes_mm3.items() if volume == 0]
    return f"{line} (no voxel of {' and '.join(empty)})" if empty else line


def _print_results(results: "Sequence[CaseResult]") -> None:
    """Print the segmented cases as a table on stdout."""
    table = Table("case", "size", "spacing mm", "seconds", *(f"{s.title} mm3" for s in STRUCTURES))
    for column in table.columns[3:]:
        column.justify = "right"
    for result in results:
        if result.geometry is not None:
            size = " x ".join(map(str, result.geometry.size_xyz))
            spacing = " x ".join(f"{s:.3g}" for s in result.geometry.spacing_mm)
            volumes = (f"{result.volumes_mm3[s]:.0f}" for s in STRUCTURES)
            table.add_row(result.case, size, spacing, f"{result.seconds:.1f}", *volumes)
    if table.row_count:
        Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH).print(table)


@click.command(context_settings={"show_default": True})
@click.option("--scans", type=_FOLDER, required=True, help="Folder of {case}_hrT2.nii.gz.")
@click.option("--labels", type=_FOLDER, required=True, help="Folder of {case}_Label.nii.gz to outline.")
@click.option("--reference", type=_FOLDER, help="Folder of reference label maps, outlined beside them.")
@click.option("--out", type=_FOLDER, required=True, help="PNG file to write.")
@click.option("--most", type=click.IntRange(min=1), default=6, help="Number of cases shown, the first ones.")
@click.option("--note", default="", help="A line for the picture's foot.")
def picture(scans: Path, labels: Path, reference: Path | None, out: Path, most: int, note: str) -> None:
    """Draw label maps as outlines on their scans: one PNG, a row a case."""
    from challenge.nifti import CaseError
    from pipeline.inference.picture import draw_picture, read_pictured_case
    from pipeline.inference.submission import SubmissionError, find_submission_scans

    try:
        found, _ = find_submission_scans(scans)
        labelled = [case for case in found if (labels / label_file(case)).exists()]
        shown = [read_pictured_case(case, found[case], labels, reference) for case in labelled[:most]]
        draw_picture(shown, out, note=note)
    except (SubmissionError, CaseError, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{out}: {len(shown)} of {len(found)} cases")
