"""The command `phantom`. Needs no torch."""

import sys
from pathlib import Path

import click
from rich.console import Console

from challenge.signals import Interrupted, interruptible

_FOLDER = click.Path(path_type=Path)

_progress = Console(stderr=True, soft_wrap=True, highlight=False)


@click.command(context_settings={"show_default": True})
@click.option("--out", type=_FOLDER, required=True, help="Folder to make the cohort in.")
@click.option("--source", type=click.IntRange(min=0), default=24, help="Number of ceT1 cases with labels.")
@click.option("--target", type=click.IntRange(min=0), default=24, help="Number of hrT2 cases to adapt to.")
@click.option(
    "--validation",
    type=click.IntRange(min=0),
    default=8,
    help="Number of hrT2 cases with reference labels.",
)
@click.option("--preset", default="small", help="small: around both ears, for two cores; full: the real scans' grids.")
@click.option("--hardness", default="standard", help="How hard the task is: easy, standard or hard.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="The same seed gives the same voxels.")
def phantom(out: Path, source: int, target: int, validation: int, preset: str, hardness: str, seed: int) -> None:
    """Make phantom scans with labels in the challenge's folders, names and ids.

    They are phantoms, not patients: they show that the pipeline works, not how well it works on real scans.
    """
    from pipeline.phantom import make_cohort

    try:
        with interruptible():
            files = make_cohort(
                out,
                source=source,
                target=target,
                validation=validation,
                preset=preset,
                seed=seed,
                hardness=hardness,
                progress=_progress.print,
            )
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    except Interrupted as interrupted:
        sys.exit(interrupted.exit_code)
    click.echo(f"{len(files)} files in {out}: phantoms, not patients")
