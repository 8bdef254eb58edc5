"""The commands of the search: `tune` runs trials, `study` shows what they found. Results go to stdout.

torch and Optuna are imported when a command runs, so that `--help` answers at once.
"""

import re
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from challenge.contract import STRUCTURES
from challenge.quantities import parse_duration_s
from challenge.signals import interruptible
from pipeline.config import TARGET_TRAINING
from pipeline.training.cli import reported_errors, settings_options
from pipeline.training.phases import PHASES
from pipeline.tuning.options import CRITERIA, HEARTBEAT_S, MEDIAN, PRUNERS, SOURCE_DICE, SearchOptions
from pipeline.tuning.spaces import SPACES, space_of

_PATH = click.Path(path_type=Path)
_PLAIN_WIDTH = 160
STORAGE_VARIABLE = "CROSSMODA_GRL_STORAGE"

_messages = Console(stderr=True, soft_wrap=True, highlight=False)


def _duration_s(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else parse_duration_s(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _study_name(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"\w[\w.-]*", value):
        raise click.BadParameter(f"expected letters, digits, dots, dashes, as in a folder's name, got {value}")
    return value


_storage_option = click.option(
    "--storage",
    envvar=STORAGE_VARIABLE,
    help=f"sqlite:///FILE or postgresql://USER@HOST/NAME; or set {STORAGE_VARIABLE}, which hides a password.  "
    "[default: a file in the run folder]",
)


@click.command(context_settings={"show_default": True})
@click.option("--data", type=_PATH, required=True, help="Folder with the challenge's folders, 2021's or 2022's names.")
@click.option("--runs", type=_PATH, required=True, help="Folder for the study; the same command resumes it.")
@click.option("--structure", type=click.Choice([s.key for s in STRUCTURES]), required=True, help="Which network.")
@click.option("--phase", type=click.Choice(list(SPACES)), required=True, help="Phase 1 or 2.")
@click.option("--trials", type=click.IntRange(min=1), required=True, help="Trials in all, of all processes together.")
@_storage_option
@click.option("--study", "name", callback=_study_name, help="Its name.  [default: STRUCTURE-PHASE]")
@click.option("--timeout", "timeout_s", callback=_duration_s, help="Start no trial after this time, such as 90s or 8h.")
@click.option(
    "--criterion",
    type=click.Choice(list(CRITERIA)),
    default=SOURCE_DICE.key,
    help="target-volume: for phase 2, not the paper's; see docs/tuning.md.",
)
@click.option("--pruner", type=click.Choice(PRUNERS), default=MEDIAN, help="What ends a trial early.")
@click.option("--from", "start", type=_PATH, help="Run whose finished phase 1 phase 2 starts from, as train --runs.")
@click.option("--epochs", type=click.IntRange(min=1), help="Epochs of a trial.  [default: the recipe's]")
@settings_options
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of every trial's training, and of the search.")
@click.option(
    "--heartbeat",
    "heartbeat_s",
    type=click.IntRange(min=1),
    default=HEARTBEAT_S,
    help="Seconds; after three missed ones a process counts as dead.",
)
def tune(**options: Any) -> None:
    """Search the paper's hyper-parameters of one phase with Optuna, starting with the paper's own values.

    The same command again resumes the search, up to N trials in all; several processes share them. No label of the
    target domain is ever opened.

    Exit code: 0 when all trials are done, 1 when something is wrong, 130 or 143 when interrupted.
    """
    search = _checked(SearchOptions(**options))
    with reported_errors(search.runs), interruptible():
        from pipeline.tuning.worker import run_search

        for path in run_search(search, _messages):
            click.echo(path)


def _checked(options: SearchOptions) -> SearchOptions:
    """Refuse options that do not fit the phase."""
    starting = [key for key in SPACES if PHASES[key].starts_from]
    if (options.phase in starting) != (options.start is not None):
        raise click.UsageError(
            f"--from: expected with --phase {' or '.join(starting)}, and only there; name phase 1's train --runs"
        )
    seeing = [key for key in SPACES if TARGET_TRAINING in PHASES[key].reads]
    if CRITERIA[options.criterion].uses_target and options.phase not in seeing:
        raise click.UsageError(
            f"--criterion {options.criterion}: expected --phase {' or '.join(seeing)}, which reads the target"
        )
    return options


@click.command(context_settings={"show_default": True})
@click.option("--runs", type=_PATH, required=True, help="Folder that tune --runs was given; the report goes there.")
@click.option("--study", "name", required=True, callback=_study_name, help="Its name, such as vs-supervised.")
@_storage_option
def study(runs: Path, name: str, storage: str | None) -> None:
    """Show the trials of a study, during the search or after it: a table, and the files that tune writes."""
    with reported_errors(runs):
        from pipeline.tuning.display import trials_table
        from pipeline.tuning.report import write_study
        from pipeline.tuning.storage import DEFAULT_URL, storage_at
        from pipeline.tuning.study import load_study, rows_of, settings_of

        folder = runs / name
        loaded = load_study(storage_at(storage or DEFAULT_URL.format(folder=folder)), name)
        folder.mkdir(parents=True, exist_ok=True)
        written = write_study(folder, loaded)
        table = trials_table(rows_of(loaded), space_of(settings_of(loaded)))
        Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH).print(table)
        for path in written:
            _messages.print(str(path), markup=False)
