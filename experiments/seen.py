"""Put on cards of shipped weights what they have seen: the ranges and the profile that `predict` warns by.

    crossmoda-grl phantom --out DIR --source 24 --target 24 --preset small --hardness standard --seed 1
    python -m experiments.seen --data DIR weights/paper weights/best

`export` does the same with the data of a run. This is for weights whose runs are gone; it reads the training cohort
again, and leaves the weights and everything else on the cards as they are.
"""

import json
from pathlib import Path
from typing import Any

import click

from challenge.contract import (
    LABEL_SUFFIX,
    SOURCE_TRAINING_FOLDERS,
    STRUCTURES,
    TARGET_SUFFIX,
    TARGET_TRAINING_FOLDERS,
    files_by_case,
)
from challenge.files import write_text
from pipeline.config import SOURCE_TRAINING, TARGET_TRAINING
from pipeline.data.known import SEEN, measure_labels, measure_scans
from pipeline.training.export import phantom_record


@click.command()
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.argument("folders", type=click.Path(exists=True, file_okay=False, path_type=Path), nargs=-1, required=True)
def main(data: Path, folders: tuple[Path, ...]) -> None:
    """Measure the cohort in --data, and write what it shows to the cards in FOLDERS."""
    labels = list(files_by_case(data / SOURCE_TRAINING_FOLDERS[0], LABEL_SUFFIX).values())
    scans = list(files_by_case(data / TARGET_TRAINING_FOLDERS[0], TARGET_SUFFIX).values())
    of_scans = measure_scans(scans, TARGET_TRAINING)
    for structure in STRUCTURES:
        seen = {"label_volumes_mm3": measure_labels(labels, structure), "scans": of_scans}
        for folder in folders:
            path = folder / f"{structure.key}.json"
            card = json.loads(path.read_text(encoding="utf-8"))
            _refuse_another_cohort(card, phantom_record(data), len(labels), len(scans), path)
            write_text(path, json.dumps({**card, SEEN: seen}, indent=2) + "\n")
            click.echo(f"{path}: {len(labels)} label maps, {len(scans)} scans")


def _refuse_another_cohort(card: dict[str, Any], cohort: dict[str, Any], labels: int, scans: int, path: Path) -> None:
    cases, phantoms = card["data"]["cases"], card["data"]["phantoms"]
    named = (phantoms.get(SOURCE_TRAINING), cases.get(SOURCE_TRAINING), cases.get(TARGET_TRAINING) or scans)
    if named != (cohort, labels, scans):
        raise click.ClickException(
            f"{path}: expected the cohort on the card, {named[0]} with {named[1]} label maps and {named[2]} scans, "
            f"got {cohort} with {labels} and {scans}; make it with crossmoda-grl phantom"
        )


if __name__ == "__main__":
    main()
