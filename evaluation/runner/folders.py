"""The folders of a run: scans in, label maps out, references out of sight."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from challenge.contract import TARGET_SUFFIX, files_by_case, label_file
from evaluation.runner.record import RECORD_FILE


def find_mountable_scans(input_folder: Path) -> dict[str, Path]:
    """Find the scans of a folder by case, those that a container can read.

    Raises:
        ValueError: no such folder, no scan in it, or a scan is a link out of the folder, which no container can follow.
    """
    if not input_folder.is_dir():
        raise ValueError(f"{input_folder}: expected a folder of scans, got none; name it with --input")
    scans = files_by_case(input_folder, TARGET_SUFFIX)
    if not scans:
        raise ValueError(
            f"{input_folder}: expected scans named {{case}}{TARGET_SUFFIX}, got none; "
            "rename the scans: evaluate run has 2021's names alone, no other layout"
        )
    root = input_folder.resolve()
    for scan in scans.values():
        if scan.is_symlink() and not scan.resolve().is_relative_to(root):
            raise ValueError(
                f"{scan}: expected a file, got a link out of the folder, which no container can follow; copy the file"
            )
    return scans


def prepare_output(output_folder: Path, scans: Mapping[str, Path]) -> None:
    """Make the output folder, and check that nothing in it is in the way of label maps and record.

    Raises:
        ValueError: the folder cannot be made or written, holds label maps of these cases, or a folder where the record
            goes.
    """
    try:
        output_folder.mkdir(parents=True, exist_ok=True)
        found = {entry.name for entry in output_folder.iterdir()}
    except OSError as error:
        raise ValueError(f"{output_folder}: expected an output folder, got: {error.strerror}; name another") from error
    if not os.access(output_folder, os.W_OK):
        raise ValueError(f"{output_folder}: expected a folder that you can write to, got a protected one; name another")
    if (output_folder / RECORD_FILE).is_dir():
        raise ValueError(f"{output_folder / RECORD_FILE}: expected a file or nothing, got a folder; remove it")
    old = [label_file(case) for case in scans if label_file(case) in found]
    if old:
        raise ValueError(
            f"{output_folder}: expected no label map of these cases, got {len(old)} from before, {old[0]} the first; "
            "empty the folder or name another"
        )


def check_reference_hidden(reference: Path, input_folder: Path, output_folder: Path) -> None:
    """Check that no container can see the reference label maps.

    Raises:
        ValueError: the references lie in a folder that is mounted.
    """
    for shown in (input_folder, output_folder):
        if reference.resolve().is_relative_to(shown.resolve()):
            raise ValueError(
                f"{reference}: expected references that the submission cannot see, got them within {shown}; "
                "move them out of it"
            )


@contextmanager
def input_for(input_folder: Path, scans: Mapping[str, Path], per_case: bool) -> Iterator[Path]:
    """Yield the folder to mount: the input folder itself, or with `per_case` copies of these scans alone."""
    if not per_case:
        yield input_folder.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="crossmoda-grl-") as folder:
        alone = Path(folder)
        alone.chmod(0o755)  # --user may name another user
        for scan in scans.values():
            shutil.copy(scan, alone / scan.name)
        yield alone
