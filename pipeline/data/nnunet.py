"""The challenge's folders as a dataset of nnU-Net: labelled source scans to train on, target scans to predict.

Source: nnU-Net v2, `documentation/dataset_format.md`.
"""

import re
import shutil
from pathlib import Path

from challenge.contract import STRUCTURES, TARGET_TRAINING_FOLDERS
from challenge.files import open_regular, written_whole
from challenge.nnunet import CHANNEL_SUFFIX, TEST_SCANS, TRAINING_LABELS, TRAINING_SCANS, Dataset
from pipeline.data.case_files import find_case_files

_NAME = re.compile(r"Dataset\d{3}_[A-Za-z0-9_-]+")
_ENDING = ".nii.gz"
_PHANTOM_RECORD = "phantom.json"


def export_dataset(data: Path, out: Path) -> list[Path]:
    """Copy the challenge's folders to a new dataset: the files as they are, under nnU-Net's names, and `dataset.json`.

    Source scans go to `imagesTr` and `labelsTr`, target scans, if there are any, to `imagesTs`.

    Returns:
        The files written.

    Raises:
        ValueError: `out` is no name that nnU-Net takes, or holds something.
        DataError: as `pipeline.data.case_files.find_case_files`.
        OSError: a file cannot be read or written.
    """
    if not _NAME.fullmatch(out.name):
        raise ValueError(f"{out.name}: expected a name as nnU-Net takes it, such as Dataset001_crossMoDA; rename --out")
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out}: expected a new or empty folder, got one with files in it; name another with --out")
    with_target = any((data / name).is_dir() for name in TARGET_TRAINING_FOLDERS)
    source, target, _ = find_case_files(data, with_target)
    copies: dict[Path, Path] = {}
    for case in source:
        copies[out / TRAINING_SCANS / f"{case.case}{CHANNEL_SUFFIX}{_ENDING}"] = case.scan
        assert case.labels is not None
        copies[out / TRAINING_LABELS / f"{case.case}{_ENDING}"] = case.labels
    for case in target:
        copies[out / TEST_SCANS / f"{case.case}{CHANNEL_SUFFIX}{_ENDING}"] = case.scan
    if (data / _PHANTOM_RECORD).exists():  # so that nobody takes phantoms for patients
        copies[out / _PHANTOM_RECORD] = data / _PHANTOM_RECORD
    for path, original in copies.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as partial, open_regular(original) as read, partial.open("wb") as written:
            shutil.copyfileobj(read, written)
    labels = {"background": 0} | {structure.title: structure.label for structure in STRUCTURES}
    # nnU-Net normalises every channel that is not named CT by its mean and standard deviation.
    Dataset({"0": "MRI"}, labels, len(source), _ENDING).write(out)
    return list(copies)
