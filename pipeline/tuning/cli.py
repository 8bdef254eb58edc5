"""The commands of the search: `tune` runs trials, `study` shows what they found. Results go to stdout.

torch and Optuna are imported when a command runs, so that `--help` answers at once.
"""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from challenge.contract import STRUCTURES
from challenge.signals import Interrupted, interruptible
from pipeline.training.cli import settings_options

if TYPE_CHECKING:
    from pipeline.tuning.study import Storage

_PATH = click.Path(path_type=Path)
_STRUCTURES = {s.key: s for s in STRUCTURES}
_PLAIN_WIDTH = 160
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}
STORAGE_VARIABLE = "CROSSMODA_GRL_STORAGE"

_messages = Console(stderr=True, soft_wrap=True, highlight=False)


def _duration_s(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", value)
    if match is None or float(match[1]) == 0:
        raise click.BadParameter(f"expected a time such as 90s, 30m or 8h, got {value}")
    return float(match[1]) * _SECONDS[match[2]]


def _study_name(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"\w[\w.-]*", value):
        raise click.BadParameter(f"expected letters, digits, dots, dashes, as in a folder's name, got {value}")
    return value


_storage_option = click.option(
    "--storage",
    envvar=STORAGE_VARIABLE,
    help=f"sqlite:///FILE or postgresql://USER@HOST/NAME; or the variable {STORAGE_VARIABLE}, which hides a password.  "
    "[default: a file in the run folder]",
)


@click.command(context_settings={"show_default": True})
@click.option("--data", type=_PATH, required=True, help="Folder with the challenge's folders, 2021's or 2022's names.")
@click.option("--runs", type=_PATH, required=True, help="Folder for the study; the same command goes on with it.")
@click.option("--structure", type=click.Choice(list(_STRUCTURES)), required=True, help="Which network.")
@click.option("--phase", type=click.Choice(["supervised", "adaptation"]), required=True, help="Phase 1 or 2.")
@click.option("--trials", type=click.IntRange(min=1), required=True, help="Trials in all, of all processes together.")
@_storage_option
@click.option("--study", "name", callback=_study_name, help="Its name.  [default: STRUCTURE-PHASE]")
@click.option("--timeout", callback=_duration_s, help="Begin no trial after this time; s, m or h behind the number.")
@click.option(
    "--criterion",
    type=click.Choice(["source-dice", "target-volume"]),
    default="source-dice",
    help="target-volume: for phase 2, not the paper's; see docs/tuning.md.",
)
@click.option(
    "--pruner", type=click.Choice(["median", "halving", "none"]), default="median", help="What ends a trial early."
)
@click.option("--from", "start", type=_PATH, help="Run whose finished phase 1 phase 2 starts from, as train --runs.")
@click.option("--epochs", type=click.IntRange(min=1), help="Epochs of a trial.  [default: the recipe's]")
@settings_options
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of every trial's training, and of the search.")
@click.option(
    "--heartbeat", type=click.IntRange(min=1), default=20, help="Seconds; silent for three, a process is dead."
)
def tune(
    data: Path,
    runs: Path,
    structure: str,
    phase: str,
    trials: int,
    storage: str | None,
    name: str | None,
    timeout: float | None,
    criterion: str,
    pruner: str,
    start: Path | None,
    recipe: str,
    config: Path | None,
    epochs: int | None,
    split_file: Path | None,
    validation_cases: int | None,
    device: str,
    seed: int,
    cache: Path | None,
    heartbeat: int,
) -> None:
    """Search the paper's hyper-parameters of one phase with Optuna, its own point first.

    The same command again goes on, up to N trials in all; several at once share them. No label of the target domain is
    ever opened.

    Exit code: 0 when all trials are done, 1 when something is wrong, 130 or 143 when interrupted.
    """
    from challenge.nifti import CaseError
    from pipeline.data.cache import cached_volumes
    from pipeline.data.dataset import DataError, find_training_data
    from pipeline.runtime.allocator import keep_large_blocks
    from pipeline.runtime.devices import DeviceError, pick_device
    from pipeline.training.export import structure_runs
    from pipeline.training.named_recipes import ConfigError, chosen_recipes
    from pipeline.training.phases import ADAPTATION, PHASES
    from pipeline.training.settings import RunError, RunPlan
    from pipeline.tuning.display import TrialsDisplay
    from pipeline.tuning.report import write_study
    from pipeline.tuning.search import TARGET_VOLUME, SearchPlan
    from pipeline.tuning.study import StudyError, open_study, plots_of, rows_of, settings_of
    from pipeline.tuning.study import tune as run_trials

    if (phase == ADAPTATION.key) != (start is not None):
        raise click.UsageError("--from: expected with --phase adaptation, and only there; name phase 1's train --runs")
    if criterion == TARGET_VOLUME and phase != ADAPTATION.key:
        raise click.UsageError("--criterion target-volume: expected --phase adaptation, which alone sees the target")
    keep_large_blocks()
    chosen = _STRUCTURES[structure]
    name = name or f"{structure}-{phase}"
    folder = runs / name
    try:
        with interruptible():
            recipes = chosen_recipes(recipe, chosen, phases=[PHASES[phase]], config=config, epochs=epochs)
            where = pick_device(device)
            found = find_training_data(
                data, split_file=split_file, validation_cases=validation_cases, with_target=phase == ADAPTATION.key
            )
            starts_from = None if start is None else structure_runs(start).get(chosen, start / structure) / "supervised"
            plan = SearchPlan(RunPlan(chosen, recipes, recipe, found, seed), criterion, pruner, starts_from)
            plan.settings()  # refused before the folder is made, where phase 1 has not ended
            kept_in = _storage(storage, folder, heartbeat)
            folder.mkdir(parents=True, exist_ok=True)
            study = open_study(plan, kept_in, name)
            _messages.print(f"study {name} in {kept_in.shown}\n{data}, on {where}\n{found}", markup=False)
            volumes = {
                part: cached_volumes(cache or runs / "cache", cases, chosen) for part, cases in found.parts.items()
            }
            with TrialsDisplay(_messages, plan.space) as display:
                try:
                    run_trials(
                        plan,
                        study,
                        kept_in,
                        volumes,
                        folder,
                        trials=trials,
                        timeout_s=timeout,
                        device=where,
                        display=display,
                    )
                finally:
                    written = write_study(folder, name, settings_of(study), rows_of(study), plots_of(study))
            for path in written:
                click.echo(path)
    except (DataError, ConfigError, RunError, CaseError, DeviceError, StudyError, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    except Interrupted as interrupted:
        _messages.print(f"interrupted by {interrupted}; the same command goes on from there")
        sys.exit(interrupted.exit_code)


@click.command(context_settings={"show_default": True})
@click.option("--runs", type=_PATH, required=True, help="Folder that tune --runs was given; the report goes there.")
@click.option("--study", "name", required=True, callback=_study_name, help="Its name, such as vs-supervised.")
@_storage_option
def study(runs: Path, name: str, storage: str | None) -> None:
    """Show a study's trials, while it runs or after: a table, and the pages and pictures that tune writes."""
    from pipeline.tuning.display import trials_table
    from pipeline.tuning.report import write_study
    from pipeline.tuning.search import space_of
    from pipeline.tuning.study import StudyError, load_study, plots_of, rows_of, settings_of

    folder = runs / name
    try:
        there = load_study(_storage(storage, folder), name)
        rows = rows_of(there)
        folder.mkdir(parents=True, exist_ok=True)
        written = write_study(folder, name, settings_of(there), rows, plots_of(there))
    except (StudyError, OSError) as error:
        raise click.ClickException(str(error)) from error
    table = trials_table(rows, space_of(settings_of(there)))
    Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH).print(table)
    for path in written:
        _messages.print(str(path), markup=False)


def _storage(url: str | None, folder: Path, heartbeat: int | None = None) -> "Storage":
    from pipeline.tuning.study import HEARTBEAT_S, storage_at

    return storage_at(url or f"sqlite:///{folder / 'study.db'}", heartbeat or HEARTBEAT_S)
