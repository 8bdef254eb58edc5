"""A submission's run: a folder of hrT2 scans in, a folder of label maps out, one bad case never losing the others.

Source: the challenge's contract (`challenge.contract`).
"""

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import SimpleITK as sitk

from challenge.contract import STRUCTURES, TARGET_SUFFIX, Structure, label_file
from challenge.files import written_whole
from challenge.nifti import CaseError, Geometry, geometry_of, read_geometry, write_image
from pipeline.config import OURS
from pipeline.data.cases import find_scans, image_from, read_scan, volumes_mm3, write_labels
from pipeline.inference.segment import Segmentation, segment_case
from pipeline.model.weights import Segmenter
from pipeline.runtime.devices import is_out_of_memory

PROBABILITIES_FOLDER = "probabilities"


class SubmissionError(Exception):
    """A run that cannot start: subject, expected, got, next step."""


@dataclass(frozen=True)
class CaseResult:
    """What became of one case: `error` is empty unless it failed; the rest is there when it was segmented."""

    case: str = ""
    seconds: float = 0.0
    skipped: bool = False
    error: str = ""
    geometry: Geometry | None = None
    volumes_mm3: dict[Structure, float] = field(default_factory=dict)


def find_submission_scans(input_folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Find the scans of `input_folder` by case, and the names that are ignored.

    Raises:
        SubmissionError: no such folder, not readable, or no scan in it.
    """
    try:
        scans, ignored = find_scans(input_folder)
    except OSError as error:
        raise SubmissionError(
            f"{input_folder}: expected a folder of scans, got: {error.strerror}; name it with --input"
        ) from error
    if not scans:
        names = f"{len(ignored)} other entries ({', '.join(ignored[:3])}{', ...' if len(ignored) > 3 else ''})"
        raise SubmissionError(
            f"{input_folder}: expected scans named {{case}}{TARGET_SUFFIX}, "
            f"got {names if ignored else 'an empty folder'}; rename the scans or name another folder with --input"
        )
    return scans, ignored


def check_writable(output_folder: Path) -> None:
    """Make the output folder where it is missing, and write a byte there before any case is worked on.

    Raises:
        SubmissionError: the folder cannot be made or written.
    """
    try:
        output_folder.mkdir(parents=True, exist_ok=True)
        with written_whole(output_folder / ".writable") as partial:
            partial.write_bytes(b"1")
        (output_folder / ".writable").unlink()
    except OSError as error:
        raise SubmissionError(
            f"{output_folder}: expected a folder that this user can write to, got: {error.strerror or error}; "
            "change its owner or run as a user who may"
        ) from error


def segment_folder(
    scans: dict[str, Path],
    output_folder: Path,
    segmenters: Sequence[Segmenter],
    *,
    overlap: float = OURS.overlap,
    save_probabilities: bool = False,
    skip_existing: bool = False,
    report_bug: Callable[[str], None] = print,
) -> Iterator[CaseResult]:
    """Segment the scans one after the other, and yield what became of each.

    A case that fails is yielded with its error and leaves no file; the next one follows. Whatever interrupts the run
    (`BaseException`) leaves the files of the finished cases, each whole.

    Args:
        scans: scans by case.
        output_folder: a label map a case, `{case}_Label.nii.gz`, goes here.
        segmenters: one a structure.
        overlap: of neighbouring windows, in [0, 1).
        save_probabilities: also write `probabilities/{case}_{structure}.nii.gz`, float32 on the scan's grid.
        skip_existing: leave a case alone whose label map is there, on the scan's grid.
        report_bug: takes the traceback of an error that nobody foresaw.
    """
    for case, path in scans.items():
        started = time.monotonic()
        try:
            result = _segment(
                path, output_folder / label_file(case), segmenters, overlap, save_probabilities, skip_existing
            )
        except CaseError as error:
            result = CaseResult(error=str(error))
        except OSError as error:
            result = CaseResult(error=f"{case}: expected to write its files, got: {error}; check space and permissions")
        except Exception as error:  # noqa: BLE001  the other cases go on whatever happens; the traceback is shown
            if is_out_of_memory(error):
                advice = "crop the scan or take a machine with more memory"
                result = CaseResult(error=f"{path.name}: expected to fit into memory, got: {error}; {advice}")
            else:
                report_bug(traceback.format_exc())
                what = f"{type(error).__name__}: {error}"
                result = CaseResult(
                    error=f"{path.name}: failed in a way that nobody foresaw ({what}); please report it"
                )
        yield replace(result, case=case, seconds=time.monotonic() - started)


def _segment(
    path: Path, labels_path: Path, segmenters: Sequence[Segmenter], overlap: float, save_probabilities: bool, skip: bool
) -> CaseResult:
    if skip and _is_done(path, labels_path):
        return CaseResult(skipped=True)
    image = read_scan(path)
    try:
        segmentation = segment_case(image, segmenters, overlap=overlap)
    except CaseError as error:
        raise CaseError(f"{path.name}: {error}") from error
    _write(segmentation, image, labels_path, save_probabilities=save_probabilities)
    return CaseResult(geometry=geometry_of(image), volumes_mm3=volumes_mm3(segmentation.labels, image, STRUCTURES))


def _is_done(scan: Path, labels: Path) -> bool:
    if not labels.exists():
        return False
    try:
        return read_geometry(labels).same_place(read_geometry(scan))
    except CaseError:
        return False


def _write(segmentation: Segmentation, image: sitk.Image, labels_path: Path, *, save_probabilities: bool) -> None:
    """Write the label map last: where it stands, the case is complete."""
    written: list[Path] = []
    try:
        if save_probabilities:
            folder = labels_path.parent / PROBABILITIES_FOLDER
            folder.mkdir(exist_ok=True)
            case = labels_path.name.removesuffix(label_file(""))
            for structure, probability in segmentation.probabilities.items():
                written.append(folder / f"{case}_{structure.key}.nii.gz")
                write_image(image_from(probability, image), written[-1])
        write_labels(segmentation.labels, image, labels_path)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
