"""The cases of a folder that the page can show: scans that have a label map on their grid."""

from collections.abc import Callable, Iterable
from pathlib import Path

from challenge.layouts import FolderLayout
from challenge.nifti import CaseError
from pipeline.inference.inputs import SubmissionError, find_inputs
from pipeline.inference.viewer.cases import CaseFiles, check_grids


def cases_of_folder(
    folder: Path, labels: Path, reference: Path | None, layout_name: str, tell: Callable[[str], None]
) -> list[CaseFiles]:
    """Find a folder's scans with their label maps and, where there is one, their reference; check the headers.

    Args:
        folder: of scans, in a layout.
        labels: the folder of label maps.
        reference: the folder of reference label maps.
        layout_name: in `challenge.layouts.LAYOUTS`.
        tell: is called with what is not shown, and why.

    Raises:
        SubmissionError: there is no case to show.
    """
    try:
        inputs = find_inputs(folder, layout_name)
    except SubmissionError as error:  # whose messages are of `predict`
        raise SubmissionError(str(error).replace("--input", "--folder")) from error
    found = [
        CaseFiles(case, scan, _map_of(case, labels, inputs.layout), _if_there(case, reference, inputs.layout))
        for case, scan in inputs.scans.items()
    ]
    with_map = [files for files in found if _is_there(files.labels)]
    if not with_map:
        raise SubmissionError(
            f"{labels}: expected label maps of the scans in {folder}, such as {found[0].labels}, got none; "
            "name their folder with --labels"
        )
    if len(with_map) < len(found):
        tell(f"without a label map, not shown: {', '.join(f.case for f in found if f not in with_map)}")
    usable = list(_usable(with_map, tell))
    if not usable:
        raise SubmissionError(f"{folder}: expected a case that can be shown, got none; see the messages above")
    return usable


def _usable(cases: Iterable[CaseFiles], tell: Callable[[str], None]) -> Iterable[CaseFiles]:
    for files in cases:
        try:
            check_grids(files)
        except CaseError as error:
            tell(f"{files.case} is not shown: {error}")
        else:
            yield files


def _map_of(case: str, folder: Path, layout: FolderLayout) -> Path:
    """Return where a case's label map is; a folder of references may lack the folders in which `predict` writes."""
    written, plain = folder / layout.label_file(case), folder / (case + layout.label_suffix)
    return plain if _is_there(plain) and not _is_there(written) else written


def _if_there(case: str, folder: Path | None, layout: FolderLayout) -> Path | None:
    path = _map_of(case, folder, layout) if folder else None
    return path if path is not None and _is_there(path) else None


def _is_there(path: Path) -> bool:
    return path.is_symlink() or path.exists()  # reading a dangling link says what is wrong
