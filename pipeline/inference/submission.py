"""A folder of hrT2 scans, segmented into a folder of label maps. A bad case does not stop the others.

Source: the challenge's contract (`challenge.contract`).
"""

import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import SimpleITK as sitk
import torch

from challenge.contract import STRUCTURES, TARGET_SUFFIX, Structure, label_file
from challenge.files import written_whole
from challenge.nifti import CaseError, Geometry, geometry_of, read_geometry, write_image
from challenge.quantities import counted
from pipeline.config import OURS
from pipeline.data.cases import find_scans, image_from, read_scan, volumes_mm3, write_labels
from pipeline.inference.compiled import fastest_form
from pipeline.inference.overlapped import overlapped
from pipeline.inference.segment import Segmentation, segment_case
from pipeline.inference.target_statistics import with_cohort_statistics
from pipeline.model.rules import PostProcessing, rules_of
from pipeline.model.shipped import weights_folder, weights_name
from pipeline.model.weights import Segmenter, load_segmenter
from pipeline.runtime.allocator import keep_large_blocks
from pipeline.runtime.cores import use_available_cores
from pipeline.runtime.devices import is_out_of_memory, pick_device

PROBABILITIES_FOLDER = "probabilities"


class SubmissionError(Exception):
    """A submission that cannot start: subject, expected, got, next step."""


@dataclass(frozen=True)
class PredictOptions:
    """The options of `predict`.

    `weights` is a folder, or the name of a shipped set; None stands for the default. `rules` holds, by structure, the
    values for post-processing that take the place of the card's. `target_statistics` estimates batch norm's statistics
    on all scans of the folder first, also on those that `skip_existing` skips: a resumed run gives the same label maps.
    """

    input_folder: Path
    output_folder: Path
    weights: str | None = None
    device: str = "auto"
    overlap: float = OURS.overlap
    save_probabilities: bool = False
    skip_existing: bool = False
    target_statistics: bool = False
    rules: Mapping[Structure, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Submission:
    """All that is needed to segment a folder: its scans by case, the names of other entries, the loaded networks."""

    options: PredictOptions
    scans: dict[str, Path]
    ignored: list[str]
    weights: Path
    device: torch.device
    segmenters: list[Segmenter]
    rules: dict[Structure, PostProcessing]

    def __str__(self) -> str:
        """Say how many scans there are, which weights segment them and where; then rules, and entries ignored."""
        folder, scans = self.options.input_folder, counted(len(self.scans), "scan")
        text = f"{scans} in {folder}, weights from {weights_name(self.weights)}, on {self.device}"
        lines = [f"post-processing of {s.title}: {rules}" for s, rules in self.rules.items() if rules.change_anything]
        lines += [f"ignored in {folder}: {', '.join(self.ignored)}"] if self.ignored else []
        return "\n".join([text, *lines])


@dataclass(frozen=True)
class CaseResult:
    """The outcome of one case: `error` is empty unless it failed; geometry and volumes are set if it succeeded."""

    case: str = ""
    seconds: float = 0.0
    skipped: bool = False
    error: str = ""
    geometry: Geometry | None = None
    volumes_mm3: dict[Structure, float] = field(default_factory=dict)


def prepare_submission(options: PredictOptions) -> Submission:
    """Check the folders, pick the device and load the networks, before any case is segmented.

    Raises:
        SubmissionError: no scans, or an output folder that cannot be written.
        WeightsError: as `pipeline.model.weights.load_segmenter`.
        DeviceError: as `pipeline.runtime.devices.pick_device`.
    """
    keep_large_blocks()
    use_available_cores()
    scans, ignored = find_submission_scans(options.input_folder)
    check_writable(options.output_folder)
    device, weights = pick_device(options.device), weights_folder(options.weights)
    segmenters = [load_segmenter(weights, structure, device) for structure in STRUCTURES]
    rules = {s.structure: replace(rules_of(s.card), **options.rules.get(s.structure, {})) for s in segmenters}
    return Submission(options, scans, ignored, weights, device, segmenters, rules)


def adapted_to_cohort(submission: Submission, tell: Callable[[str], None]) -> Submission:
    """Return the submission with networks that have its scans' statistics, if its options ask for that.

    `tell` takes a line for every scan that is left out, and one for the outcome.
    """
    if not submission.options.target_statistics:
        return submission
    return replace(submission, segmenters=with_cohort_statistics(submission.segmenters, submission.scans, tell))


def with_fastest_networks(submission: Submission, tell: Callable[[str], None]) -> Submission:
    """Return the submission with its networks compiled where that is possible; the last step before it is segmented.

    `tell` takes a line for every network that runs uncompiled.
    """
    return replace(submission, segmenters=[fastest_form(s, tell) for s in submission.segmenters])


def find_submission_scans(input_folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Find the scans of `input_folder` by case, and the names of its other entries.

    Raises:
        SubmissionError: the folder is missing, cannot be read, or holds no scan.
    """
    try:
        scans, ignored = find_scans(input_folder)
    except OSError as error:
        raise SubmissionError(
            f"{input_folder}: expected a folder of scans, got: {error.strerror}; name it with --input"
        ) from error
    if not scans:
        names = ", ".join([*ignored[:3], "..."] if len(ignored) > 3 else ignored)
        raise SubmissionError(
            f"{input_folder}: expected scans named {{case}}{TARGET_SUFFIX}, "
            f"got {f'only {names}' if ignored else 'an empty folder'}; "
            "rename the scans or name another folder with --input"
        )
    return scans, ignored


def check_writable(output_folder: Path) -> None:
    """Make the output folder if it is missing, and write and remove a file in it.

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
            "change its owner, or run as another user"
        ) from error


@dataclass
class _Case:
    """A case on its way from scan to files; `result` is set as soon as nothing is left to do for it."""

    case: str
    path: Path
    labels_path: Path
    image: sitk.Image | None = None
    segmentation: Segmentation | None = None
    result: CaseResult | None = None
    seconds: float = 0.0


_Stage = Callable[[Submission, _Case], CaseResult | None]


def segment_folder(submission: Submission, report_bug: Callable[[str], None] = print) -> Iterator[CaseResult]:
    """Segment a submission's scans in order; yield each case's outcome.

    While one scan is segmented, the next one is read, and the last one's files are written if that takes long.

    A failed case leaves no file, and the next case follows. An interruption (`BaseException`) leaves the complete files
    of the finished cases. `report_bug` receives the traceback of an unexpected error.
    """

    def timed(stage: _Stage) -> Callable[..., _Case]:
        def run(case: _Case, _: _Case | None = None) -> _Case:
            started = time.monotonic()
            if case.result is None:
                case.result = _outcome(stage, submission, case, report_bug)
            case.seconds += time.monotonic() - started
            return case

        return run

    output = submission.options.output_folder
    cases = (_Case(case, path, output / label_file(case)) for case, path in submission.scans.items())
    for done in overlapped(cases, timed(_read), timed(_segment), timed(_write)):
        yield replace(done.result or CaseResult(), case=done.case, seconds=done.seconds)


def _outcome(
    stage: _Stage, submission: Submission, case: _Case, report_bug: Callable[[str], None]
) -> CaseResult | None:
    """Run a stage of a case; return the case's result if that was its last one, or if it failed."""
    path = case.path
    try:
        return stage(submission, case)
    except CaseError as error:
        return CaseResult(error=str(error))
    except OSError as error:
        return CaseResult(error=f"{case.case}: expected to write its files, got: {error}; check space and permissions")
    except Exception as error:  # noqa: BLE001  whatever happens, the other cases follow; the traceback is shown
        if is_out_of_memory(error):
            advice = "crop the scan, or use a machine with more memory"
            return CaseResult(error=f"{path.name}: expected to fit into memory, got: {error}; {advice}")
        report_bug(traceback.format_exc())
        return CaseResult(error=f"{path.name}: unexpected error ({type(error).__name__}: {error}); please report it")


def _read(submission: Submission, case: _Case) -> CaseResult | None:
    if submission.options.skip_existing and _is_done(case.path, case.labels_path):
        return CaseResult(skipped=True)
    case.image = read_scan(case.path)
    return None


def _segment(submission: Submission, case: _Case) -> None:
    assert case.image is not None
    overlap = submission.options.overlap
    try:
        case.segmentation = segment_case(case.image, submission.segmenters, rules=submission.rules, overlap=overlap)
    except CaseError as error:
        raise CaseError(f"{case.path.name}: {error}") from error


def _write(submission: Submission, case: _Case) -> CaseResult:
    image, segmentation = case.image, case.segmentation
    assert image is not None
    assert segmentation is not None
    case.image = case.segmentation = None  # another case may be in memory already
    _write_files(segmentation, image, case.labels_path, save_probabilities=submission.options.save_probabilities)
    return CaseResult(geometry=geometry_of(image), volumes_mm3=volumes_mm3(segmentation.labels, image, STRUCTURES))


def _is_done(scan: Path, labels: Path) -> bool:
    """Tell whether a label map is there and lies on its scan's grid."""
    if not labels.exists():
        return False
    try:
        return read_geometry(labels).same_place(read_geometry(scan))
    except CaseError:
        return False


def _write_files(segmentation: Segmentation, image: sitk.Image, labels_path: Path, *, save_probabilities: bool) -> None:
    """Write a case's files; the label map comes last, so that its presence means that the case is complete."""
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
