"""`crossmoda-grl evaluate run`: somebody else's image on a folder of scans."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from challenge.names import shown
from challenge.quantities import parse_bytes, parse_duration_s
from challenge.signals import Interrupted, interruptible
from evaluation.console import FOLDER, NEW_FILE, NEW_FOLDER, one_line_errors, score_and_show
from evaluation.runner.errors import RunnerError


def _parsed_by(parse: Callable[[str], float]) -> Callable[[click.Context, click.Parameter, str], float]:
    """Make the callback of an option whose text `parse` reads."""

    def callback(context: click.Context, parameter: click.Parameter, text: str) -> float:
        with one_line_errors():
            return parse(text)

    return callback


@click.command()
@click.argument("image")
@click.option("--input", "input_folder", type=FOLDER, required=True, help="Folder of {case}_hrT2.nii.gz.")
@click.option("--output", "output_folder", type=NEW_FOLDER, required=True, help="Folder for label maps and run.json.")
@click.option("--reference", type=FOLDER, help="Score against the label maps of this folder.")
@click.option("--gpus", help="GPUs as docker run takes them: all, a number, or device=0,1.  [default: none]")
@click.option(
    "--memory",
    "memory_bytes",
    default="16g",
    callback=_parsed_by(parse_bytes),
    help="Memory limit of a container, swap included.",
)
@click.option(
    "--timeout",
    "timeout_s",
    default="30m",
    callback=_parsed_by(parse_duration_s),
    help="Time limit of a container, a number followed by s, m or h.",
)
@click.option("--cpus", type=click.FloatRange(min=0, min_open=True), help="CPUs of a container.  [default: all]")
@click.option("--per-case", is_flag=True, help="One container per case, each with the whole time limit.")
@click.option(
    "--max-output",
    "max_output_bytes",
    default="2g",
    callback=_parsed_by(parse_bytes),
    help="What a container may write, in at most 10,000 files.",
)
@click.option("--writable", is_flag=True, help="Let the container change its own files, not only /tmp.")
@click.option("--user", help="Run as uid:gid.  [default: the caller's]")
@click.option("--csv", "csv_file", type=NEW_FILE, help="Write the scores per case as CSV.")
@click.option("--json", "json_file", type=NEW_FILE, help="Write the scores per case and their aggregates as JSON.")
def run(
    image: str,
    input_folder: Path,
    output_folder: Path,
    reference: Path | None,
    per_case: bool,
    user: str | None,
    csv_file: Path | None,
    json_file: Path | None,
    **limits: Any,
) -> None:
    """Run a submission's IMAGE on a folder of scans, check the label maps that it writes, and score them.

    A container sees the scans read-only, has no network and no capabilities, and runs as the caller. It is always
    removed. Its label maps are copied to OUTPUT, which it does not see. Exit code 1: it failed, or a label map breaks
    the contract; OUTPUT/run.json says which.
    """
    from evaluation.tables import run_table

    with _run_errors():
        from evaluation.runner.folders import check_reference_hidden
        from evaluation.runner.observers import ConsoleObserver
        from evaluation.runner.record import Settings, caller
        from evaluation.runner.run import run_submission

        if reference is not None:
            check_reference_hidden(reference, input_folder, output_folder)
        settings = Settings(image, user=user or caller(), **limits)
        with ConsoleObserver() as observer:
            record = run_submission(settings, input_folder, output_folder, per_case=per_case, observer=observer)
    click.echo(run_table(record))
    cohorts = score_and_show(reference, {image: output_folder}, csv_file, json_file) if reference else []
    for failure in record.failures:
        click.echo(f"failed ({failure.kind}): {shown(str(failure))}", err=True)
    sys.exit(0 if record.succeeded and not any(cohort.failed for cohort in cohorts) else 1)


@contextmanager
def _run_errors() -> Iterator[None]:
    """Turn what stops a run, a missing package included, into one line and an exit code."""
    if not hasattr(os, "fwalk"):  # stands for all that Windows lacks
        raise click.ClickException(
            "evaluate run: expected Linux, whose files it reaches by descriptor, got another system; "
            "run it in WSL 2 or on another machine"
        )
    try:
        with one_line_errors(), interruptible():
            yield
    except ModuleNotFoundError as missing:
        raise click.ClickException(
            f"evaluate run: needs the package {missing.name}, which is not installed; "
            "install it with: pip install 'crossmoda-grl[runner]'"
        ) from missing
    except RunnerError as error:
        raise click.ClickException(str(error)) from error
    except Interrupted as interrupted:
        click.echo(f"interrupted by {interrupted}; the container is removed", err=True)
        sys.exit(interrupted.exit_code)
