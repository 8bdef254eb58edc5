"""The commands that make weights: `train` and `export`. Results go to stdout, progress and messages to stderr.

torch is imported when a command runs, so that `--help` answers at once.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from challenge.contract import STRUCTURES
from challenge.signals import Interrupted, interruptible

if TYPE_CHECKING:
    from pipeline.training.run import Display, RunPlan

_PATH = click.Path(path_type=Path)
_STRUCTURES = [s.key for s in STRUCTURES]
_BY_KEY = {s.key: s for s in STRUCTURES}
_PHASES = ["supervised", "adaptation"]
_CONTROL = "control"

_messages = Console(stderr=True, soft_wrap=True, highlight=False)

# What decides a run beside its seed and epochs, and where its scans are kept: `tune`'s trials take the same.
_SETTINGS_OPTIONS = (
    click.option("--recipe", type=click.Choice(["paper", "cpu"]), default="paper", help="cpu: reduced, for two cores."),
    click.option("--config", type=_PATH, help="TOML file with changes to the recipe."),
    click.option("--split", "split_file", type=_PATH, help="JSON file that names the cases of each part."),
    click.option(
        "--validation-cases",
        type=click.IntRange(min=1),
        help="Validate on the last N source cases, not on the paper's ids.",
    ),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to train."),
    click.option("--cache", type=_PATH, help="Folder for preprocessed scans.  [default: RUNS/cache]"),
)


def settings_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say what a run is made of."""
    for option in reversed(_SETTINGS_OPTIONS):
        command = option(command)
    return command


@click.command(context_settings={"show_default": True})
@click.option("--data", type=_PATH, required=True, help="Folder with the challenge's folders, 2021's or 2022's names.")
@click.option("--runs", type=_PATH, required=True, help="Folder for the run; the same command goes on with it.")
@click.option("--structure", type=click.Choice([*_STRUCTURES, "all"]), default="all", help="Which network.")
@click.option(
    "--phase",
    type=click.Choice([*_PHASES, _CONTROL, "all"]),
    default="all",
    help="Phase 1, phase 2, or both (all); control: phase 2 without the adversary.",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Epochs of each phase.  [default: the recipe's]")
@settings_options
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    default="auto",
    help="Of the forward; auto: bf16 on GPUs that compute in it, else fp32.",
)
@click.option("--channels-last", is_flag=True, help="Keep channels together in memory.")
@click.option("--compile", "compiled", is_flag=True, help="Compile the network; needs a C++ compiler.")
@click.option("--workers", type=click.IntRange(min=0), default=0, help="Threads that cut patches ahead.")
@click.option("--tensorboard/--no-tensorboard", default=False, help="Write events beside the records.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="The same seed gives the same weights on the CPU.")
def train(
    data: Path,
    runs: Path,
    structure: str,
    phase: str,
    recipe: str,
    config: Path | None,
    epochs: int | None,
    split_file: Path | None,
    validation_cases: int | None,
    device: str,
    precision: str,
    channels_last: bool,
    compiled: bool,
    workers: int,
    tensorboard: bool,
    seed: int,
    cache: Path | None,
) -> None:
    """Train the paper's two phases, from folders of scans to networks for `export`.

    Killed or interrupted, the same command goes on where it was. No label of the target domain is ever opened. Started
    by torchrun, its processes share every batch.

    Exit code: 0 when all is trained, 1 when something is wrong, 130 or 143 when interrupted.
    """
    from challenge.nifti import CaseError
    from pipeline.data.cache import cached_volumes
    from pipeline.data.dataset import DataError, find_training_data
    from pipeline.runtime.allocator import keep_large_blocks
    from pipeline.runtime.devices import DeviceError, is_out_of_memory, pick_device
    from pipeline.runtime.distributed import joined_ranks
    from pipeline.training.execution import COMPILER, Execution, pick_precision
    from pipeline.training.recipes import ConfigError, chosen_recipes
    from pipeline.training.run import SUPERVISED, RunError, RunPlan, check_run, train_run

    if tensorboard:
        import_module("pipeline.training.tensorboard")  # a missing package is said now, not hours later
    keep_large_blocks()
    phases = _PHASES if phase == "all" else [phase]
    structures = STRUCTURES if structure == "all" else (_BY_KEY[structure],)
    try:
        with interruptible(), joined_ranks(pick_device(device)) as (ranks, where):
            _messages.quiet = not ranks.is_first
            picked = pick_precision(precision, where)
            execution = Execution(picked, channels_last, COMPILER if compiled else "", workers, ranks)
            recipes = {s: chosen_recipes(recipe, s, phases=phases, config=config, epochs=epochs) for s in structures}
            found = find_training_data(
                data, split_file=split_file, validation_cases=validation_cases, with_target=phases != [SUPERVISED]
            )
            plans = [RunPlan(s, recipes[s], recipe, found, seed) for s in structures]
            _messages.print(f"{data}, on {where}, {execution}\n{found}", markup=False)
            for plan in plans:
                _print_departures(plan)
                check_run(plan, runs / plan.structure.key, execution)
            for plan in plans:
                volumes = {
                    part: cached_volumes(
                        cache or runs / "cache", cases, plan.structure, report=_Counter(part, len(cases))
                    )
                    for part, cases in found.parts.items()
                }
                folder = runs / plan.structure.key
                with _displays(runs, tensorboard and ranks.is_first) as display:
                    summary = train_run(plan, volumes, folder, device=where, execution=execution, display=display)
                if ranks.is_first:
                    click.echo(summary)
    except (DataError, ConfigError, RunError, CaseError, DeviceError, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    except FloatingPointError as error:
        raise click.ClickException(f"{error}; the last good checkpoint is kept in {runs}") from error
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise click.ClickException(
            f"memory: expected room for a step, got none left ({str(error).splitlines()[0]}); "
            "lower batch_size or window in a --config file"
        ) from error
    except Interrupted as interrupted:
        _messages.print(f"interrupted by {interrupted}; all is saved in {runs}, the same command goes on from there")
        sys.exit(interrupted.exit_code)


@contextmanager
def _displays(runs: Path, tensorboard: bool) -> Iterator["Display"]:
    from pipeline.training.display import Displays, ProgressDisplay

    with ExitStack() as shown:
        displays: list[Display] = [shown.enter_context(ProgressDisplay(_messages))]
        if tensorboard:
            from pipeline.training.tensorboard import TrainingEvents

            displays.append(shown.enter_context(TrainingEvents(runs)))
        yield Displays(*displays)


class _Counter:
    """Says on a terminal how many of a part's scans are preprocessed, in one line that is written over."""

    def __init__(self, part: str, total: int) -> None:
        self._part, self._total, self._done = part.replace("_", " "), total, 0

    def __call__(self, case: str) -> None:
        self._done += 1
        if _messages.is_terminal:
            end = "\n" if self._done == self._total else "\r"
            _messages.print(f"{self._part}: {self._done}/{self._total} ready ({case})   ", end=end, markup=False)
        elif self._done == self._total:
            _messages.print(f"{self._part}: {self._total} ready", markup=False)


def _print_departures(plan: "RunPlan") -> None:
    for phase in plan.phases:
        named = plan.departures(phase)
        line = "; ".join(f"{name} {what}" for name, what in named.items()) or "none"
        _messages.print(f"{plan.structure.title} {phase}, departures from the paper: {line}", markup=False)


@click.command(context_settings={"show_default": True})
@click.argument("run", type=_PATH)
@click.option("--out", type=_PATH, required=True, help="Folder for {structure}.safetensors and its card.")
@click.option(
    "--phase",
    type=click.Choice([*_PHASES, _CONTROL]),
    help="Whose network.  [default: the last of the paper's phases in the run]",
)
@click.option("--epoch", "which", type=click.Choice(["best", "last"]), help="[default: phase 1's best, phase 2's last]")
@click.option(
    "--target-statistics",
    is_flag=True,
    help="Re-estimate batch norm's statistics on the run's unlabelled target scans. Beyond the paper.",
)
@click.option("--note", default="", help="A line for the card.")
@click.option("--scores", "scores_file", type=_PATH, help="JSON object of scores to put on the card.")
def export(
    run: Path,
    out: Path,
    phase: str | None,
    which: str | None,
    target_statistics: bool,
    note: str,
    scores_file: Path | None,
) -> None:
    """Write a RUN's networks in the form that `predict` loads, each with a card that tells where it comes from.

    RUN is the folder that `train --runs` was given, or one structure's folder in it.
    """
    from challenge.nifti import CaseError
    from pipeline.training.export import export_run, read_scores, structure_runs
    from pipeline.training.run import RunError

    try:
        scores = read_scores(scores_file) if scores_file is not None else None
        for structure, folder in structure_runs(run).items():
            card = export_run(
                folder,
                structure,
                out,
                phase=phase,
                which=which,
                target_statistics=target_statistics,
                note=note,
                scores=scores,
            )
            click.echo(card)
    except (RunError, CaseError, OSError) as error:
        raise click.ClickException(str(error)) from error
