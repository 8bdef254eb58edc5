"""The command `export-dataset`. Needs no torch."""

from pathlib import Path

import click

_FOLDER = click.Path(path_type=Path)


@click.command()
@click.option(
    "--data", type=_FOLDER, required=True, help="Folder with the challenge's folders, 2021's or 2022's names."
)
@click.option("--out", type=_FOLDER, required=True, help="New folder, with a name such as Dataset001_crossMoDA.")
def export_dataset(data: Path, out: Path) -> None:
    """Copy the challenge's folders, or phantoms, to a dataset of nnU-Net.

    Source scans and their labels become imagesTr and labelsTr, target scans imagesTs.
    """
    from pipeline.data.case_files import DataError
    from pipeline.data.nnunet import export_dataset

    try:
        files = export_dataset(data, out)
    except (DataError, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{len(files)} files and dataset.json in {out}")
