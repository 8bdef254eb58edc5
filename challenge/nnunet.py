"""nnU-Net's datasets: `dataset.json` read, checked and written, and the cases in the folders beside it.

Source: nnU-Net v2, `documentation/dataset_format.md`.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from challenge.contract import BACKGROUND, STRUCTURES, files_by_case
from challenge.files import read_regular, write_text
from challenge.nifti import ENDINGS

DATASET_FILE = "dataset.json"
TRAINING_SCANS, TRAINING_LABELS, TEST_SCANS = "imagesTr", "labelsTr", "imagesTs"
CHANNEL_SUFFIX = "_0000"

# Other names of our structures' labels, in lower case.
_ALSO_CALLED = {"vs": ("vestibular schwannoma", "vestibular_schwannoma", "tumour", "tumor"), "cochlea": ("cochleae",)}
_MAX_BYTES = 2**20


@dataclass(frozen=True)
class Dataset:
    """What a `dataset.json` says: channels by number, labels by name, the number of training cases, files' ending."""

    channel_names: Mapping[str, str]
    labels: Mapping[str, int]
    training_cases: int
    file_ending: str

    def write(self, folder: Path) -> None:
        """Write it to a folder.

        Raises:
            OSError: the file cannot be written.
        """
        document = {
            "channel_names": dict(self.channel_names),
            "labels": dict(self.labels),
            "numTraining": self.training_cases,
            "file_ending": self.file_ending,
        }
        write_text(folder / DATASET_FILE, json.dumps(document, indent=2) + "\n")

    def check_labels(self) -> None:
        """Check that VS and cochlea have our labels.

        Raises:
            ValueError: they have other labels, or there are further ones.
        """
        expected = {structure.key: structure.label for structure in STRUCTURES}
        names = {other: key for key, others in _ALSO_CALLED.items() for other in (key, *others)}
        found = {names.get(name.lower(), name): label for name, label in self.labels.items() if label != BACKGROUND}
        if found != expected:
            raise ValueError(
                f"{DATASET_FILE}: expected the labels {_told(expected)}, got {_told(self.labels)}; "
                "change labels and label maps"
            )


def read_dataset(folder: Path) -> Dataset:
    """Read and check a folder's `dataset.json`.

    Raises:
        ValueError: not in the format of nnU-Net v2, more than one channel, or a file ending that is not read here.
        OSError: it is missing or cannot be read.
    """
    advice = "see nnU-Net's dataset_format.md"
    try:
        document = json.loads(read_regular(folder / DATASET_FILE, _MAX_BYTES))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{DATASET_FILE}: expected JSON, got {error}; {advice}") from error
    keys = ("channel_names", "labels", "numTraining", "file_ending")
    if not isinstance(document, dict) or any(key not in document for key in keys):
        raise ValueError(f"{DATASET_FILE}: expected {', '.join(keys)}, as nnU-Net v2 has them; {advice}")
    channels, labels, number, ending = (document[key] for key in keys)
    if not isinstance(channels, dict) or list(channels) != ["0"]:
        raise ValueError(f"{DATASET_FILE}: expected one channel, 0, in channel_names, got {channels!r:.60}")
    if not isinstance(labels, dict) or any(type(label) is not int for label in labels.values()):
        raise ValueError(f"{DATASET_FILE}: expected labels as names with whole numbers, got {labels!r:.60}; {advice}")
    if type(number) is not int or number < 0:
        raise ValueError(f"{DATASET_FILE}: expected the number of training cases in numTraining, got {number!r:.60}")
    if ending not in ENDINGS:
        raise ValueError(f"{DATASET_FILE}: expected a file_ending of {', '.join(ENDINGS)}, got {ending!r:.60}")
    return Dataset({"0": str(channels["0"])}, labels, number, ending)


def cases_of(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Path]]:
    """Find the files of a dataset's folders, by folder and case.

    Raises:
        ValueError: as `read_dataset`; also for labels that are not ours, an empty folder, or another number of training
            cases than the dataset tells.
        OSError: a file or folder is missing or cannot be read.
    """
    dataset = read_dataset(folder)
    dataset.check_labels()
    found = {}
    for name in names:
        suffix = ("" if name == TRAINING_LABELS else CHANNEL_SUFFIX) + dataset.file_ending
        found[name] = files_by_case(folder / name, suffix)
        if not found[name]:
            raise ValueError(
                f"{name}: expected files named {{case}}{suffix}, got none; see nnU-Net's dataset_format.md"
            )
    training = found.get(TRAINING_SCANS, {})
    if TRAINING_SCANS in found and len(training) != dataset.training_cases:
        raise ValueError(
            f"{DATASET_FILE}: expected numTraining = {len(training)}, the scans in {TRAINING_SCANS}, "
            f"got {dataset.training_cases}; correct it, or add the missing scans"
        )
    return found


def _told(labels: Mapping[str, Any]) -> str:
    return ", ".join(f"{label} {name}" for name, label in labels.items())
