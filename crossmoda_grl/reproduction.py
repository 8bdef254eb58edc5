"""`crossmoda-grl reproduce`: from the challenge's data to the paper's table, as a recipe of the other commands.

It joins both sides: it trains and predicts as a participant does, and then scores as an organiser does. Every step is
shown as the command that a person would type.

::

    OUT/runs/       train
    OUT/weights/    export
    OUT/labels/     predict
    OUT/scores.json  scores.csv  report.md  report.html      evaluate score, evaluate report
"""

import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from importlib import metadata
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from challenge.contract import (
    LABEL_SUFFIX,
    STRUCTURES,
    TARGET_VALIDATION_FOLDERS,
    TARGET_VALIDATION_REFERENCE_FOLDER,
    files_by_case,
)
from challenge.files import write_text
from challenge.quantities import counted
from challenge.signals import Interrupted, interruptible
from evaluation.cli import evaluate
from evaluation.console import one_line_errors
from pipeline.inference.cli import predict
from pipeline.training.cli import export, train

TEAM = "crossmoda-grl"
# In the labels folder: which weights made them.
RECORD_FILE = "made_by.json"

# Options that `reproduce` takes and passes on: all of `train` but those that it sets itself.
_TRAIN_OPTIONS = [p for p in train.params if p.name not in ("data", "runs", "structure", "phase")]
_EXPORT_OPTIONS = [p for p in export.params if p.name == "target_statistics"]


@click.command(context_settings={"show_default": True})
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder with the challenge's folders.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder for all that is made."
)
@click.option(
    "--reference",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help=f"Folder of label maps to score against.  [default: DATA/{TARGET_VALIDATION_REFERENCE_FOLDER}, if there]",
)
@click.pass_context
def reproduce(context: click.Context, data: Path, out: Path, reference: Path | None, **passed_on: Any) -> None:
    """Reproduce the paper: train both phases, predict the validation scans, score, and print its Table 1 beside ours.

    The paper's settings are the default; departures from them are printed below the table. For phantoms the paper's
    rows are left out. Without references the command ends with the label maps. If it is killed or interrupted, the same
    command resumes it.

    Exit code: 0 when every case was predicted and scored, 1 when not, 130 or 143 when interrupted.
    """
    from pipeline.training.export import phantom_record

    runs, weights, labels = out / "runs", out / "weights", out / "labels"
    scores, table = out / "scores.json", out / "report.md"
    scans = validation_scans(data)
    phantom = ["--phantom"] if phantom_record(data) else []
    if phantom:
        click.echo(f"{data}: phantoms, not patients", err=True)
    try:
        with interruptible(), one_line_errors():
            _run(train, "--data", data, "--runs", runs, *_as_typed(context, _TRAIN_OPTIONS))
            _run(export, runs, "--out", weights, *_as_typed(context, _EXPORT_OPTIONS))
            keep_own_labels(labels, weights)
            where = ["--input", scans, "--output", labels, "--weights", weights, "--device", passed_on["device"]]
            succeeded = _run(predict, *where, "--skip-existing")

            # The references are not opened before this line.
            reference = reference or data / TARGET_VALIDATION_REFERENCE_FOLDER
            if not reference.is_dir():
                click.echo(f"no references, so nothing is scored: the same command with --reference scores {labels}")
                sys.exit(0 if succeeded else 1)
            both = ["--reference", reference, "--prediction", labels]
            succeeded &= _run(
                evaluate, "score", *both, "--team", TEAM, "--json", scores, "--csv", scores.with_suffix(".csv")
            )
            pages = ["--out", out / "report.html", "--markdown", table]
            _run(evaluate, "report", scores, *both, "--scans", scans, *phantom, *pages)
            text = table.read_text(encoding="utf-8") + "\n".join(_provenance(weights)) + "\n"
            write_text(table, text)
    except Interrupted as interrupted:
        click.echo(f"interrupted by {interrupted}; the same command resumes from there", err=True)
        sys.exit(interrupted.exit_code)
    click.echo(text, nl=False)
    sys.exit(0 if succeeded else 1)


reproduce.params += _TRAIN_OPTIONS + _EXPORT_OPTIONS


def validation_scans(data: Path) -> Path:
    """Find the folder of validation scans, by 2021's or 2022's name, before hours are spent on training.

    Raises:
        click.ClickException: there is none, or no scan in it.
    """
    from pipeline.inference.inputs import SubmissionError, find_submission_scans

    there = [data / name for name in TARGET_VALIDATION_FOLDERS if (data / name).is_dir()]
    if len(there) != 1:
        names, got = " or ".join(TARGET_VALIDATION_FOLDERS), "both" if there else "none"
        raise click.ClickException(f"{data}: expected a folder {names} of scans to predict, got {got}; check --data")
    try:
        find_submission_scans(there[0])
    except SubmissionError as error:
        raise click.ClickException(str(error)) from error
    return there[0]


def keep_own_labels(labels: Path, weights: Path) -> None:
    """Keep only label maps in the folder `labels` that the weights in `weights` made: `predict` may skip those.

    Raises:
        ValueError: the folder holds label maps that this command has not made.
        OSError: a file cannot be read, removed or written.
    """
    cards = [json.loads((weights / f"{s.key}.json").read_text(encoding="utf-8")) for s in STRUCTURES]
    now = {"version": metadata.version("crossmoda-grl"), "sha256": {c["structure"]: c["sha256"] for c in cards}}
    labels.mkdir(parents=True, exist_ok=True)
    record, there = labels / RECORD_FILE, files_by_case(labels, LABEL_SUFFIX)
    if record.exists():
        if json.loads(record.read_text(encoding="utf-8")) == now:
            return
    elif there:
        raise ValueError(
            f"{labels}: expected label maps made by this command, got {counted(len(there), 'other')}; "
            "choose another --out"
        )
    if there:
        click.echo(f"{labels}: {counted(len(there), 'label map')} of other weights removed", err=True)
    for path in there.values():
        path.unlink()
    write_text(record, json.dumps(now, indent=2) + "\n")


def _run(command: click.Command, *arguments: object) -> bool:
    """Run a command as if it were typed; return whether it succeeded, or raise what must end `reproduce`.

    What it prints goes to stderr, because only the table is a result here.
    """
    words = [str(argument) for argument in arguments]
    click.echo(f"\n$ {shlex.join(['crossmoda-grl', str(command.name), *words])}", err=True)
    try:
        with redirect_stdout(sys.stderr), command.make_context(command.name, words) as context:
            command.invoke(context)
    except SystemExit as ended:
        if ended.code not in (None, 0, 1):
            raise  # interrupted
        return not ended.code
    return True


def _as_typed(context: click.Context, options: Sequence[click.Parameter]) -> Iterator[str]:
    """Yield the options that were given, as they are typed."""
    for option in options:
        name, value = str(option.name), context.params[str(option.name)]
        if context.get_parameter_source(name) == ParameterSource.DEFAULT:
            continue
        if isinstance(value, bool):
            yield option.opts[0] if value else option.secondary_opts[0]
        else:
            yield from (option.opts[0], str(value))


def _provenance(weights: Path) -> Iterator[str]:
    """Yield a line for each structure: which network it was, and every departure from the paper."""
    from evaluation.report.markdown import escape_markdown

    for structure in STRUCTURES:
        card = json.loads((weights / f"{structure.key}.json").read_text(encoding="utf-8"))
        phases = [named for named in card["departures_from_paper"].values() if isinstance(named, dict)]
        departures = dict.fromkeys(f"{name} {what}" for named in phases for name, what in named.items())
        text = f"{card['summary']}. Departures from the paper: {'; '.join(departures) or 'none'}"
        yield f"- {structure.title}: {escape_markdown(text)}"
