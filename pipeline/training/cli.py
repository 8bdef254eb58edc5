"""The commands that make weights: `train` and `export`. Results go to stdout, progress and messages to stderr.

torch is imported when a command runs, so that `--help` answers at once.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from challenge.contract import STRUCTURES
from challenge.layouts import DEFAULT_LAYOUT
from challenge.signals import Interrupted, interruptible
from pipeline.config import BEST, LAST
from pipeline.training.named_recipes import RECIPES
from pipeline.training.options import ALL, AUTO, DEVICES, PRECISIONS, TRAINING_LAYOUTS
from pipeline.training.phases import PHASES

_PATH = click.Path(path_type=Path)

_messages = Console(stderr=True, soft_wrap=True, highlight=False)

# What decides a run, apart from its seed and epochs, and where its scans are kept; `tune` has the same options.
_SETTINGS_OPTIONS = (
    click.option(
        "--recipe",
        type=click.Choice(list(RECIPES)),
        default="paper",
        help="best: beyond the paper, with self-training. cpu, best-cpu: reduced, for two cores.",
    ),
    click.option(
        "--layout",
        type=click.Choice(TRAINING_LAYOUTS),
        default=DEFAULT_LAYOUT,
        help="How --data is laid out; nnunet: source scans in imagesTr, target scans in imagesTs.",
    ),
    click.option("--config", type=_PATH, help="TOML file with changes to the recipe."),
    click.option("--split", "split_file", type=_PATH, help="JSON file that names the cases of each part."),
    click.option(
        "--validation-cases",
        type=click.IntRange(min=1),
        help="Validate on the last N source cases, not on the paper's ids.",
    ),
    click.option("--device", type=click.Choice(DEVICES), default=AUTO, help="Where to train."),
    click.option("--cache", type=_PATH, help="Folder for preprocessed scans.  [default: RUNS/cache]"),
)


def settings_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say what a run is made of."""
    for option in reversed(_SETTINGS_OPTIONS):
        command = option(command)
    return command


@click.command(context_settings={"show_default": True})
@click.option("--data", type=_PATH, required=True, help="Folder with the challenge's folders, 2021's or 2022's names.")
@click.option("--runs", type=_PATH, required=True, help="Folder for the run; the same command resumes it.")
@click.option(
    "--structure", type=click.Choice([*(s.key for s in STRUCTURES), ALL]), default=ALL, help="Which network to train."
)
@click.option(
    "--phase",
    type=click.Choice([*PHASES, ALL]),
    default=ALL,
    help="One phase, or all that the recipe lists; control: phase 2 without the adversary.",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Epochs of each phase.  [default: the recipe's]")
@settings_options
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default=AUTO,
    help="Precision of the forward pass; auto: bf16 on GPUs that compute in it, else fp32.",
)
@click.option("--channels-last", is_flag=True, help="Keep channels together in memory, as on a CPU anyway.")
@click.option("--compile", "compiled", is_flag=True, help="Compile the network; needs a C++ compiler.")
@click.option("--workers", type=click.IntRange(min=0), default=0, help="Threads that cut patches ahead.")
@click.option("--tensorboard/--no-tensorboard", default=False, help="Write events beside the records.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="The same seed gives the same weights on the CPU.")
def train(runs: Path, **options: Any) -> None:
    """Train a recipe's phases, from folders of scans to networks for `export`; by default the paper's two.

    If it is killed or interrupted, the same command resumes the run. No label of the target domain is ever opened.
    Started by torchrun, several processes share every batch.

    Exit code: 0 when everything is trained, 1 when something is wrong, 130 or 143 when interrupted.
    """
    with reported_errors(runs), interruptible():
        from pipeline.training.session import TrainOptions, train_structures

        for summary in train_structures(TrainOptions(runs=runs, **options), _messages):
            click.echo(summary)


@contextmanager
def reported_errors(runs: Path) -> Iterator[None]:
    """Turn what may go wrong in a run into a message and an exit code."""
    from challenge.nifti import CaseError
    from pipeline.data.dataset import DataError
    from pipeline.runtime.devices import DeviceError, is_out_of_memory
    from pipeline.training.named_recipes import ConfigError
    from pipeline.training.settings import RunError

    try:
        yield
    except (DataError, ConfigError, RunError, CaseError, DeviceError, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    except FloatingPointError as error:
        raise click.ClickException(f"{error}; the last good checkpoint is kept in {runs}") from error
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise click.ClickException(
            f"memory: expected enough for a step, got none left ({str(error).splitlines()[0]}); "
            "lower batch_size or window in a --config file"
        ) from error
    except Interrupted as interrupted:
        _messages.print(f"interrupted by {interrupted}; everything is saved in {runs}, the same command resumes it")
        sys.exit(interrupted.exit_code)


@click.command(context_settings={"show_default": True})
@click.argument("run")
@click.option("--out", type=_PATH, required=True, help="Folder for {structure}.safetensors and its card.")
@click.option(
    "--phase", type=click.Choice(list(PHASES)), help="Whose network.  [default: the run's last phase but for a control]"
)
@click.option(
    "--epoch", "which", type=click.Choice([BEST, LAST]), help="[default: phase 1's best, the last of later phases]"
)
@click.option(
    "--target-statistics",
    is_flag=True,
    help="Re-estimate batch norm's statistics on the run's unlabelled target scans. Beyond the paper.",
)
@click.option(
    "--anatomy/--no-anatomy",
    default=None,
    help="Put post-processing on the card: one tumour, a cochlea a side.  [default: for phases beyond the paper]",
)
@click.option("--note", default="", help="A line for the card.")
@click.option("--scores", "scores_file", type=_PATH, help="JSON object of scores to put on the card.")
@click.option("--onnx", is_flag=True, help="Write the networks of a set of weights as ONNX files instead.")
def export(run: str, out: Path, scores_file: Path | None, onnx: bool, **options: Any) -> None:
    """Write a RUN's networks in the form that `predict` loads, each with a card that tells where it comes from.

    RUN is the folder that `train --runs` was given, or one structure's folder in it. With --onnx it is a folder of
    weights, or the name of a shipped set, and the networks become {structure}.onnx, for ONNX Runtime.
    """
    if onnx:
        _export_onnx(run, out, given=[name for name, value in options.items() if value] or bool(scores_file))
        return
    _export_run(Path(run), out, scores_file, options)


def _export_onnx(weights: str, out: Path, *, given: object) -> None:
    if given:
        raise click.UsageError("--onnx: expected --out alone beside it, got options for a training run; leave them out")
    try:
        from pipeline.model.onnx_export import ExportError, export_onnx
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"--onnx: expected the package {error.name}, got none; pip install 'crossmoda-grl[onnx]'"
        ) from error
    import torch

    from pipeline.model.shipped import weights_folder
    from pipeline.model.weights import WeightsError, load_segmenter

    try:
        for structure in STRUCTURES:
            click.echo(export_onnx(load_segmenter(weights_folder(weights), structure, torch.device("cpu")), out))
    except (ExportError, WeightsError, OSError) as error:
        raise click.ClickException(str(error)) from error


def _export_run(run: Path, out: Path, scores_file: Path | None, options: dict[str, Any]) -> None:
    with reported_errors(run):
        from pipeline.training.export import ExportOptions, export_run, read_scores, structure_runs

        scores = read_scores(scores_file) if scores_file is not None else {}
        for structure, folder in structure_runs(run).items():
            click.echo(export_run(folder, structure, out, ExportOptions(**options, scores=scores)))
