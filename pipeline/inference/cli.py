"""The commands `predict` and `picture`. Results go to stdout, progress and messages to stderr.

torch is imported inside the commands, because importing it takes seconds.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from challenge.contract import STRUCTURES, label_file
from challenge.layouts import LAYOUTS, FolderLayout
from challenge.signals import Interrupted, interruptible
from pipeline.config import COMPONENTS, OURS
from pipeline.inference.window_side import SIDE
from pipeline.model.shipped import DEFAULT_WEIGHTS, WEIGHTS_VARIABLE

if TYPE_CHECKING:
    from pipeline.inference.results import CaseResult
    from pipeline.inference.submission import Submission

_FOLDER = click.Path(path_type=Path)
_PLAIN_WIDTH = 120  # of a table that does not go to a terminal

# Post-processing that is switched on or off for all structures: field of `PostProcessing` -> (flags, help).
_SWITCHES = {
    "fill_holes": ("--fill-holes/--no-fill-holes", "Fill the cavities of a structure."),
    "flip_average": (
        "--flip-average/--no-flip-average",
        "Average the prediction with that of the scan mirrored left to right; takes twice the time.",
    ),
    "never_empty": (
        "--never-empty/--no-never-empty",
        "Lower the threshold until something appears, where every case has both structures.",
    ),
    "keeps_contested": (
        "--contested-to-smaller/--contested-to-likelier",
        "Which structure gets a voxel that both claim: that of the smaller body, or the likelier one.",
    ),
}
_CARD = "the card's"  # the default of all post-processing

_Command = TypeVar("_Command", bound=Callable[..., Any])

_progress = Console(stderr=True, soft_wrap=True, highlight=False)


def _postprocessing_options(command: _Command) -> _Command:
    """Add the options for post-processing to a command; those that are not given are None."""
    for name, (flags, text) in reversed(_SWITCHES.items()):
        command = click.option(flags, name, default=None, show_default=_CARD, help=text)(command)
    for structure in reversed(STRUCTURES):
        command = click.option(
            f"--{structure.key}-components",
            type=click.Choice(COMPONENTS),
            show_default=_CARD,
            help=f"Components of {structure.title} to keep; one-a-side keeps the largest, and another far from it.",
        )(command)
    return command


def _with_rules(options: dict[str, Any]) -> dict[str, Any]:
    """Gather what was said of post-processing under `rules`, by structure; the other options stay as they are."""
    switches = {name: options.pop(name) for name in _SWITCHES}
    said = {s: {"components": options.pop(f"{s.key}_components"), **switches} for s in STRUCTURES}
    rules = {s: {name: value for name, value in of_s.items() if value is not None} for s, of_s in said.items()}
    return {**options, "rules": rules}


@click.command(context_settings={"show_default": True})
@click.option(
    "-i",
    "--input",
    "input_folder",
    type=_FOLDER,
    default=Path("/input"),
    help="Folder of {case}_hrT2.nii.gz, or as --layout has it; or one scan, .nii, .nii.gz, .mha or .nrrd.",
)
@click.option(
    "-o",
    "--output",
    "output_folder",
    type=_FOLDER,
    default=Path("/output"),
    help="Folder for {case}_Label.nii.gz, or as --layout has it.",
)
@click.option(
    "--layout",
    type=click.Choice(list(LAYOUTS)),
    show_default="grand-challenge if the input has its folder images, else crossmoda2021",
    help="How scans and label maps are named; docs/layouts.md describes them.",
)
@click.option(
    "--output-socket",
    metavar="SLUG",
    envvar="CROSSMODA_GRL_OUTPUT_SOCKET",
    show_default="the input's",
    help="With --layout grand-challenge: label maps go to images/SLUG.",
)
@click.option(
    "--series",
    metavar="TEXT",
    show_default="a case must have one",
    help="With --layout dicom: of a case's series, take the one with this in its description, or with this UID.",
)
@click.option(
    "--weights",
    metavar="FOLDER|NAME",
    help=f"Folder of weights and cards, or a shipped set's name.  [default: ${WEIGHTS_VARIABLE}, or {DEFAULT_WEIGHTS}]",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where the networks run.")
@click.option(
    "--overlap",
    type=click.FloatRange(0, 1, max_open=True),
    default=OURS.overlap,
    help="Overlap of neighbouring windows, as a fraction.",
)
@click.option(
    "--window",
    type=SIDE,
    metavar="VOXELS",
    show_default="the cards'",
    help="Side of both networks' windows; another result than with the cards' windows.",
)
@click.option("--save-probabilities", is_flag=True, help="Also write probabilities/{case}_{structure}.nii.gz.")
@click.option("--colours", is_flag=True, help="Also write the labels' names and colours, for ITK-SNAP and 3D Slicer.")
@click.option("--skip-existing", is_flag=True, help="Skip cases that have a label map on the scan's grid.")
@click.option(
    "--target-statistics",
    is_flag=True,
    help="First re-estimate batch norm's statistics on the scans of --input, without labels; beyond the paper.",
)
@click.option(
    "--cluster",
    metavar="ADDRESS",
    help="Segment the cases on the workers of this Dask scheduler; or the --scheduler-file that it wrote.",
)
@_postprocessing_options
@click.option("--strict", is_flag=True, help="Exit with 1 if a case has a warning.")
def predict(strict: bool, **options: Any) -> None:
    """Segment a folder of hrT2 scans: label maps (1 VS, 2 cochlea) on the scans' own grids.

    Label maps that cannot be right, and scans unlike those of the training, are told as warnings.
    OUTPUT/predictions.json and .csv keep what is known of each case. Image files that have almost a scan's name count
    as failed cases.

    Exit code: 0 when every case succeeded, 1 when one failed or nothing could start, 130 or 143 when interrupted.
    """
    from pipeline.inference.cluster.fitness import ClusterError
    from pipeline.inference.folder import segment_folder
    from pipeline.inference.results import PredictionsError
    from pipeline.inference.submission import (
        PredictOptions,
        SubmissionError,
        adapted_to_cohort,
        prepare_submission,
        with_fastest_networks,
    )
    from pipeline.model.weights import WeightsError
    from pipeline.runtime.devices import DeviceError

    try:
        with interruptible():
            submission = prepare_submission(PredictOptions(**_with_rules(options)))
            tell = partial(_progress.print, markup=False)
            tell(str(submission))
            submission = adapted_to_cohort(submission, tell)
            report_bug = partial(click.echo, err=True)
            if submission.options.cluster:
                from pipeline.inference.cluster.client import segment_on_cluster

                outcomes = segment_folder(submission, report_bug, segment_on_cluster)
            else:
                outcomes = segment_folder(with_fastest_networks(submission, tell), report_bug)
            results = list(_shown(outcomes, submission))
    except (SubmissionError, WeightsError, DeviceError, PredictionsError, ClusterError) as error:
        raise click.ClickException(str(error)) from error
    except Interrupted as interrupted:
        _progress.print(f"interrupted by {interrupted}; finished label maps are complete, --skip-existing resumes")
        sys.exit(interrupted.exit_code)
    order = {case: number for number, case in enumerate(submission.scans)}
    results.sort(key=lambda result: order.get(result.case, -1))  # near misses first; a cluster has another order
    _print_results(results)
    warned = _print_warnings(results)
    if _print_failures(results) or (strict and warned):
        sys.exit(1)


def _shown(outcomes: "Iterator[CaseResult]", submission: "Submission") -> "Iterator[CaseResult]":
    """Print a line `k/N case seconds` for each outcome as it comes, above a progress bar on a terminal."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=_progress,
        disable=not _progress.is_terminal,
    )
    total = len(submission.scans) + len(submission.near_misses)
    with bar:
        task = bar.add_task("segmenting", total=total)
        for number, outcome in enumerate(outcomes, 1):
            _progress.print(_line(number, total, outcome, submission.layout), markup=False)
            for warning in outcome.warnings:
                _progress.print(f"  warning: {warning}", markup=False)
            bar.advance(task)
            yield outcome


def _line(number: int, total: int, outcome: "CaseResult", layout: FolderLayout) -> str:
    line = f"{number}/{total} {outcome.case} {outcome.seconds:.1f} s"
    if outcome.error:
        return f"{line} FAILED: {outcome.error}"
    if outcome.skipped:
        return f"{line} skipped, {layout.label_file(outcome.case)} is there"
    return line


def _print_results(results: "Sequence[CaseResult]") -> None:
    """Print the segmented cases as a table on stdout."""
    table = Table("case", "size", "spacing mm", "seconds", *(f"{s.title} mm3" for s in STRUCTURES))
    for column in table.columns[3:]:
        column.justify = "right"
    for result in results:
        if result.volumes_mm3 and not result.skipped:
            size = " x ".join(map(str, result.size_xyz))
            spacing = " x ".join(f"{s:.3g}" for s in result.spacing_mm)
            volumes = (f"{result.volumes_mm3[s]:.0f}" for s in STRUCTURES)
            table.add_row(result.case, size, spacing, f"{result.seconds:.1f}", *volumes)
    if table.row_count:
        Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH).print(table)


def _print_warnings(results: "Sequence[CaseResult]") -> bool:
    """Name the cases that have warnings; return whether there are any."""
    from challenge.quantities import counted

    warned = [result for result in results if result.warnings]
    if warned:
        _progress.print(f"{len(warned)} of {counted(len(results), 'case')} with warnings, to be looked at before use:")
    for result in warned:
        _progress.print(f"  {result.case}: {'; '.join(result.warnings)}", markup=False)
    return bool(warned)


def _print_failures(results: "Sequence[CaseResult]") -> bool:
    """Print the failed cases' errors; return whether there are any."""
    from challenge.quantities import counted

    errors = [result.error for result in results if result.error]
    if errors:
        _progress.print(f"{len(errors)} of {counted(len(results), 'case')} failed:")
    for error in errors:
        _progress.print(f"  {error}", markup=False)
    return bool(errors)


class _NamedFolder(click.ParamType):
    """A folder with the name to show it by: `NAME=DIR`, or `DIR`, which is shown by its own name."""

    name = "[NAME=]DIR"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Path]:
        """Return the name and the folder."""
        name, sign, folder = str(value).partition("=")
        if name and sign and folder and not Path(value).is_dir():
            return name, Path(folder)
        return Path(value).resolve().name, Path(value)


def _by_name(folders: Sequence[tuple[str, Path]]) -> dict[str, Path]:
    """Return folders by name.

    Raises:
        ValueError: two folders have one name.
    """
    if len({name for name, _ in folders}) < len(folders):
        names = ", ".join(name for name, _ in folders)
        raise ValueError(f"--labels: expected a different name for each folder, got {names}; write NAME=DIR")
    return dict(folders)


@click.command(context_settings={"show_default": True})
@click.option("--scans", type=_FOLDER, required=True, help="Folder of {case}_hrT2.nii.gz.")
@click.option(
    "--labels",
    type=_NamedFolder(),
    multiple=True,
    required=True,
    help="Folder of {case}_Label.nii.gz to outline, a column each; repeatable. The title is NAME, or the folder's.",
)
@click.option("--reference", type=_FOLDER, help="Folder of reference label maps: a column, and Dice in the others.")
@click.option("--out", type=_FOLDER, required=True, help="PNG file to write.")
@click.option("--most", type=click.IntRange(min=1), default=6, help="How many cases to show, from the first on.")
@click.option("--note", default="", help="A line of text below the picture.")
def picture(
    scans: Path, labels: tuple[tuple[str, Path], ...], reference: Path | None, out: Path, most: int, note: str
) -> None:
    """Draw label maps as outlines on their scans: one PNG, a row for each case that has a map in every folder."""
    from challenge.nifti import CaseError
    from pipeline.inference.inputs import SubmissionError, find_submission_scans
    from pipeline.inference.picture import draw_picture, read_pictured_case

    try:
        found, _ = find_submission_scans(scans)
        folders = _by_name(labels)
        labelled = [case for case in found if all((f / label_file(case)).exists() for f in folders.values())]
        shown = [read_pictured_case(case, found[case], folders, reference) for case in labelled[:most]]
        draw_picture(shown, out, note=note)
    except (SubmissionError, CaseError, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{out}: {len(shown)} of {len(found)} cases")
