"""A folder of hrT2 scans, segmented into a folder of label maps. A bad case does not stop the others.

Each case has three stages: it is read, segmented and written. While one case is segmented, the next one is read.

Source: the challenge's contract (`challenge.contract`).
"""

import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from challenge.contract import BACKGROUND
from challenge.files import only_writer
from challenge.label_tables import write_label_tables
from challenge.names import shown
from challenge.nifti import CaseError, geometry_of, read_geometry, read_image, write_image
from pipeline.data.cases import image_from, write_labels
from pipeline.inference.overlapped import overlapped
from pipeline.inference.plausibility import examine
from pipeline.inference.results import CaseResult, skipped
from pipeline.inference.scans import Scan
from pipeline.inference.segment import Segmentation, segment_case
from pipeline.inference.submission import Submission, SubmissionError
from pipeline.runtime.devices import is_out_of_memory

PROBABILITIES_FOLDER = "probabilities"


@dataclass
class _Case:
    """A case on its way from scan to files; `result` is set as soon as nothing is left to do for it.

    Its label map ends at `labels_path`. Its files are written below `output` first, which may be another folder.
    """

    case: str
    path: Path
    labels_path: Path
    output: Path
    scan: Scan | None = None
    segmentation: Segmentation | None = None
    result: CaseResult | None = None
    seconds: float = 0.0


_Stage = Callable[[Submission, _Case], CaseResult | None]
# Segments a submission's scans and yields each one's outcome; a function takes the tracebacks of unexpected errors.
SegmentsCases = Callable[[Submission, Callable[[str], None]], Iterator[CaseResult]]


def segment_folder(
    submission: Submission, report_bug: Callable[[str], None] = print, segment_cases: SegmentsCases | None = None
) -> Iterator[CaseResult]:
    """Segment a submission's scans; yield each case's outcome, in order unless `segment_cases` has another.

    A failed case leaves no label map, and the next case follows. An interruption (`BaseException`) leaves the complete
    files of the finished cases. `report_bug` receives the traceback of an unexpected error. Near misses come first, as
    failed cases: a patient who is silently left out is the worst outcome.

    Raises:
        SubmissionError: another process is writing to the output folder, or the labels' colours cannot be written.
    """
    with _held(submission.options.output_folder):
        _write_colours(submission)
        for name, advice in submission.near_misses.items():
            wanted = f"{{case}}{submission.layout.scan_suffix}"
            error = f"{name}: expected a scan named {wanted}, got this name, so it was not segmented; {advice}"
            yield _recorded(submission, CaseResult(case=shown(name), error=shown(error)))
        for result in (segment_cases or _segment_in_turn)(submission, report_bug):
            yield _recorded(submission, result)


def _write_colours(submission: Submission) -> None:
    folder = submission.options.output_folder
    try:
        if submission.options.colours:
            write_label_tables(folder, submission.layout)
    except OSError as error:
        raise SubmissionError(
            f"{folder}: expected to write the labels' colours, got: {error}; check space and permissions"
        ) from error


def segment_one(submission: Submission, case: str, report_bug: Callable[[str], None] = print) -> CaseResult:
    """Segment one of a submission's scans and write its files; return its outcome, which `segment_folder` records."""
    done = _case(submission, case)
    for stage in (_read, _segment, _write):
        _run(stage, submission, done, report_bug)
    return _result(done)


def _segment_in_turn(submission: Submission, report_bug: Callable[[str], None]) -> Iterator[CaseResult]:
    """Segment the scans here, one after the other."""

    def stage(stage: _Stage) -> Callable[..., _Case]:
        return lambda case, _=None: _run(stage, submission, case, report_bug)

    cases = (_case(submission, case) for case in submission.scans)
    yield from map(_result, overlapped(cases, stage(_read), stage(_segment), stage(_write)))


def _case(submission: Submission, case: str) -> _Case:
    output, file = submission.options.output_folder, submission.layout.label_file(case)
    return _Case(case, submission.scans[case], output / file, submission.written_first or output)


def _run(stage: _Stage, submission: Submission, case: _Case, report_bug: Callable[[str], None]) -> _Case:
    """Run a stage of a case that has no result yet, and add the time that it took."""
    started = time.monotonic()
    if case.result is None:
        case.result = _outcome(stage, submission, case, report_bug)
    case.seconds += time.monotonic() - started
    return case


def _result(done: _Case) -> CaseResult:
    return replace(done.result or CaseResult(), case=done.case, seconds=done.seconds)


@contextmanager
def _held(output_folder: Path) -> Iterator[None]:
    """Hold the output folder: the label maps of two processes with different weights would mix."""
    with ExitStack() as stack:
        try:
            stack.enter_context(only_writer(output_folder))
        except OSError as error:
            raise SubmissionError(
                f"{output_folder}: expected a folder for this process alone, got {error.strerror or error}; "
                "wait for it, or choose another folder"
            ) from error
        yield


def _recorded(submission: Submission, result: CaseResult) -> CaseResult:
    """Write a result to the folder's record, and return it; with an error if that is not possible.

    A skipped case whose label map is on record stays there as it is.
    """
    if result.skipped and submission.predictions.get(result.case) is not None:
        return result
    try:
        submission.predictions.add(result)
    except OSError as error:
        told = result.error or f"{result.case}: expected to write its record, got: {error}; check space and permissions"
        return replace(result, error=told)
    return result


def _outcome(
    stage: _Stage, submission: Submission, case: _Case, report_bug: Callable[[str], None]
) -> CaseResult | None:
    """Run a stage of a case; return the case's result if that was its last one, or if it failed."""
    name = case.path.name
    try:
        return stage(submission, case)
    except CaseError as error:
        return CaseResult(error=str(error))
    except OSError as error:
        return CaseResult(error=f"{case.case}: expected to write its files, got: {error}; check space and permissions")
    except Exception as error:  # noqa: BLE001  whatever happens, the other cases follow; the traceback is shown
        if is_out_of_memory(error):
            advice = "crop the scan, or use a machine with more memory"
            return CaseResult(error=f"{name}: expected to fit into memory, got: {error}; {advice}")
        report_bug(traceback.format_exc())
        return CaseResult(error=f"{name}: unexpected error ({type(error).__name__}: {error}); please report it")


def _read(submission: Submission, case: _Case) -> CaseResult | None:
    if submission.options.skip_existing and (done := _done_before(submission, case)):
        return skipped(done, submission.made_by)
    case.scan = submission.reader.read(case.path)
    return None


def _segment(submission: Submission, case: _Case) -> None:
    assert case.scan is not None
    overlap, image = submission.options.overlap, case.scan.image
    try:
        case.segmentation = segment_case(image, submission.segmenters, rules=submission.rules, overlap=overlap)
    except CaseError as error:
        raise CaseError(f"{case.path.name}: {error}") from error


def _write(submission: Submission, case: _Case) -> CaseResult:
    scan, segmentation = case.scan, case.segmentation
    assert scan is not None
    assert segmentation is not None
    case.scan = case.segmentation = None  # another case may be in memory already
    _write_files(submission, case, scan, segmentation)
    return replace(_examined(submission, segmentation.labels, scan, case.path), made_by=submission.made_by)


def _examined(submission: Submission, labels: NDArray[np.uint8], scan: Scan, path: Path) -> CaseResult:
    findings, geometry = examine(labels, scan.image, submission.known), geometry_of(scan.image)
    return CaseResult(
        scan_sha256=submission.reader.sha256(path),
        size_xyz=geometry.size_xyz,
        spacing_mm=geometry.spacing_mm,
        volumes_mm3=findings.volumes_mm3,
        components=findings.components,
        unlikeness=findings.unlikeness,
        warnings=(*scan.notes, *findings.warnings),
    )


def _done_before(submission: Submission, case: _Case) -> CaseResult | None:
    """Return what is known of a case that has a whole label map of this scan; None if it has none.

    A label map that no record tells of, of an older version or a run that was killed, is examined here.
    """
    reader, layout = submission.reader, submission.layout
    if not case.labels_path.exists():
        return None
    if layout.dicom and not (submission.options.output_folder / layout.segmentation_file(case.case)).exists():
        return None
    try:
        if not read_geometry(case.labels_path).same_place(reader.geometry(case.path)):
            return None
        labels = sitk.GetArrayFromImage(read_image(case.labels_path))
        label_of = {value: label for label, value in layout.value_of.items()}
        if not {BACKGROUND, *label_of} >= set(np.unique(labels).tolist()):
            return None
        done = submission.predictions.get(case.case)
        if done is not None:
            return done if done.scan_sha256 == reader.sha256(case.path) else None
        return _examined(submission, _relabelled(labels.astype(np.uint8), label_of), reader.read(case.path), case.path)
    except CaseError:
        return None


def _relabelled(labels: NDArray[np.uint8], values: Mapping[int, int]) -> NDArray[np.uint8]:
    """Return labels `(D, H, W)` with other values in their places; the background keeps 0."""
    table = np.zeros(256, np.uint8)
    table[list(values)] = list(values.values())
    return table[labels]


def _write_files(submission: Submission, case: _Case, scan: Scan, segmentation: Segmentation) -> None:
    """Write a case's files; the label map comes last, so that its presence means that the case is complete."""
    image, layout, written = scan.image, submission.layout, list[Path]()
    labels_path = case.output / layout.label_file(case.case)
    try:
        if submission.options.save_probabilities:
            folder = case.output / PROBABILITIES_FOLDER
            folder.mkdir(exist_ok=True)
            for structure, probability in segmentation.probabilities.items():
                written.append(folder / f"{case.case}_{structure.key}.nii.gz")
                write_image(image_from(probability, image), written[-1])
        labels_path.parent.mkdir(parents=True, exist_ok=True)
        if scan.series is not None:
            from pipeline.inference.dicom.segmentation import write_segmentation

            written.append(case.output / layout.segmentation_file(case.case))
            write_segmentation(segmentation.labels, scan.series, written[-1], submission.made_by)
        labels = _relabelled(segmentation.labels, layout.value_of)
        write_labels(labels, image, labels_path, note=f"crossmoda-grl {metadata.version('crossmoda-grl')}")
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
