"""Where `predict` finds its scans: a file, or a folder in one of the layouts of `challenge.layouts`."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from challenge.contract import near_misses
from challenge.files import read_regular
from challenge.layouts import CROSSMODA_2021, GRAND_CHALLENGE, LAYOUTS, NNUNET, FolderLayout
from challenge.names import is_plain, shown
from challenge.nifti import ENDINGS
from challenge.nnunet import DATASET_FILE, read_dataset
from pipeline.data.cases import find_scans

# What the platform puts beside the images; older versions of it do not.
INPUTS_FILE = "inputs.json"
_MAX_INPUTS_BYTES = 2**24
# A socket's folder, below the input's and the output's.
_SOCKET_FOLDER = re.compile(r"images/[a-z0-9]+(-[a-z0-9]+)*")


class SubmissionError(Exception):
    """A submission that cannot start: subject, expected, got, next step."""


@dataclass(frozen=True)
class Inputs:
    """The scans by case, and the layout, with the folders and endings found here.

    Of the other entries, `near_misses` were probably meant to be scans, each with what to do, and `ignored` were not.
    """

    layout: FolderLayout
    scans: dict[str, Path]
    near_misses: dict[str, str]
    ignored: list[str]


def find_inputs(path: Path, layout_name: str | None = None, output_socket: str | None = None) -> Inputs:
    """Find the scans to segment.

    Without a name, the layout is grand-challenge's where the input has a folder `images` and no scan of crossMoDA 2021,
    and crossMoDA 2021's elsewhere.

    Args:
        path: a folder, or a scan.
        layout_name: in `LAYOUTS`.
        output_socket: of grand-challenge; by default the one of the input.

    Raises:
        SubmissionError: there is no scan, more of them than the layout has, or the folder is not in the layout.
    """
    layout = LAYOUTS[layout_name] if layout_name else _detected(path)
    if path.is_file():
        return Inputs(layout, {_case_of_file(path, layout): path}, {}, [])
    if layout.dicom:
        return _case_folders(path, layout)
    if layout is GRAND_CHALLENGE:
        folder = _socket_folder(path)
        label_folder = f"images/{output_socket}" if output_socket else folder
        if not _SOCKET_FOLDER.fullmatch(label_folder):
            raise SubmissionError(f"--output-socket: expected a slug, as in vs-segmentation, got {output_socket}")
        layout = replace(layout, scan_folder=folder, label_folder=label_folder)
    elif layout is NNUNET:
        layout = _of_dataset(path)
    scans, others = find_submission_scans(path / layout.scan_folder, layout)
    if layout.one_case and len(scans) > 1:
        raise SubmissionError(
            f"{path / layout.scan_folder}: expected one scan a run, got {len(scans)}: {shown(', '.join(scans))}; "
            "run predict once for each"
        )
    meant = near_misses(others, scans, layout.scan_suffix, layout.label_suffix)
    return Inputs(layout, scans, meant, [name for name in others if name not in meant])


def find_submission_scans(
    input_folder: Path, layout: FolderLayout = CROSSMODA_2021
) -> tuple[dict[str, Path], list[str]]:
    """Find the scans of `input_folder` by case, and the names of its other entries.

    Raises:
        SubmissionError: the folder is missing, cannot be read, or holds no scan.
    """
    try:
        scans, ignored = find_scans(input_folder, layout.scan_suffix)
    except OSError as error:
        raise SubmissionError(
            f"{input_folder}: expected a folder of scans, got: {error.strerror}; name it with --input"
        ) from error
    if not scans:
        names = ", ".join([*ignored[:3], "..."] if len(ignored) > 3 else ignored)
        raise SubmissionError(
            f"{input_folder}: expected scans named {{case}}{layout.scan_suffix}, "
            f"got {f'only {shown(names)}' if ignored else 'an empty folder'}; "
            "rename the scans or name another folder with --input"
        )
    return scans, ignored


def _case_folders(path: Path, layout: FolderLayout) -> Inputs:
    """Find cases of DICOM files, a folder each; without any folder, the input is itself the only case."""
    from pipeline.inference.dicom.files import is_dicom

    try:
        entries = sorted(path.iterdir())
    except OSError as error:
        raise SubmissionError(
            f"{path}: expected a folder of DICOM files, got: {error.strerror}; name it with --input"
        ) from error
    plain = {entry.name: entry for entry in entries if is_plain(entry.name)}
    cases = {name: entry for name, entry in plain.items() if entry.is_dir()}
    if not plain:
        raise SubmissionError(
            f"{path}: expected a folder of DICOM files for each case, got none; name another folder with --input"
        )
    if not cases:
        return Inputs(layout, {path.resolve().name or "case": path.resolve()}, {}, [])
    advice = "put all files of a scan into a folder of their own"
    meant = {name: advice for name, entry in plain.items() if name not in cases and is_dicom(entry)}
    return Inputs(layout, cases, meant, [entry.name for entry in entries if entry.name not in {*cases, *meant}])


def _detected(path: Path) -> FolderLayout:
    if not (path / "images").is_dir():
        return CROSSMODA_2021
    try:
        scans, _ = find_scans(path)
    except OSError:  # told by whoever looks for the scans
        scans = {}
    return CROSSMODA_2021 if scans else GRAND_CHALLENGE


def _case_of_file(path: Path, layout: FolderLayout) -> str:
    name = path.name
    if layout.dicom:
        raise SubmissionError(f"{shown(name)}: expected a folder of DICOM files, got a file; name its folder")
    suffix = next((end for end in (layout.scan_suffix, *ENDINGS) if name.endswith(end)), None)
    case = name.removesuffix(suffix or "")
    if suffix is None or not case or not is_plain(name):
        raise SubmissionError(
            f"{shown(name)}: expected a scan that ends in {', '.join(ENDINGS)}, got another name; convert the scan, "
            "or name a folder with --input"
        )
    return case


def _socket_folder(path: Path) -> str:
    """Return the folder of the platform's only image socket, as in `images/t2-brain-mri`."""
    if (path / INPUTS_FILE).exists():
        folders = sorted(set(_image_folders(path / INPUTS_FILE)))
        said = INPUTS_FILE
    else:
        try:
            folders = sorted(f"images/{entry.name}" for entry in (path / "images").iterdir() if entry.is_dir())
        except OSError as error:
            raise SubmissionError(
                f"{path}: expected a folder images, as grand-challenge has it, got: {error.strerror}; "
                "name another folder with --input, or another --layout"
            ) from error
        said = "images"
    if len(folders) != 1 or not _SOCKET_FOLDER.fullmatch(folders[0]):
        raise SubmissionError(
            f"{path / said}: expected one image socket, got {shown(', '.join(folders)) or 'none'}; "
            "give the algorithm one input image"
        )
    return folders[0]


def _image_folders(path: Path) -> list[str]:
    """Return the folders of the image sockets that `inputs.json` tells of."""
    try:
        entries = json.loads(read_regular(path, _MAX_INPUTS_BYTES))
        sockets: list[Mapping[str, Any]] = [entry.get("socket") or entry["interface"] for entry in entries]
        folders = [str(socket["relative_path"]) for socket in sockets]
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise SubmissionError(
            f"{path}: expected a list of objects with a socket and its relative_path, got {type(error).__name__} "
            f"({error}); see the platform's documentation"
        ) from error
    return [folder for folder in folders if folder.startswith("images/")]


def _of_dataset(path: Path) -> FolderLayout:
    """Return nnU-Net's layout with a dataset's file ending; the input may also be a folder of scans alone."""
    layout = NNUNET if (path / NNUNET.scan_folder).is_dir() else replace(NNUNET, scan_folder="")
    if not (path / DATASET_FILE).exists():
        return layout
    try:
        dataset = read_dataset(path)
        dataset.check_labels()
        return layout.in_format(dataset.file_ending)
    except (OSError, ValueError) as error:
        raise SubmissionError(f"{path}: {error}") from error
