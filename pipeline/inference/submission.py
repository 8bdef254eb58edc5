"""A folder of hrT2 scans, segmented into a folder of label maps. A bad case does not stop the others.

Source: the challenge's contract (`challenge.contract`).
"""

import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from challenge.contract import BACKGROUND, STRUCTURES, TARGET_SUFFIX, Structure, label_file, near_misses
from challenge.files import only_writer
from challenge.names import shown
from challenge.nifti import CaseError, geometry_of, read_geometry, read_image, write_image
from challenge.quantities import counted
from pipeline.config import OURS
from pipeline.data.cases import find_scans, image_from, read_scan, write_labels
from pipeline.data.known import Known, known_by, trained_on
from pipeline.inference.plausibility import examine
from pipeline.inference.results import CaseResult, Predictions, sha256_of, skipped
from pipeline.inference.segment import Segmentation, segment_case
from pipeline.inference.target_statistics import with_cohort_statistics
from pipeline.model.rules import PostProcessing, rules_of
from pipeline.model.shipped import weights_folder, weights_name
from pipeline.model.weights import Segmenter, WeightsError, load_segmenter
from pipeline.runtime.allocator import keep_large_blocks
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
    """All that is needed to segment a folder.

    Attributes:
        options: what was asked for.
        scans: the folder's, by case.
        near_misses: files that were probably meant to be scans, and what to do with each.
        ignored: the names of other entries.
        weights: their folder.
        device: where the networks are.
        segmenters: the loaded networks.
        rules: for post-processing.
        known: what the weights know, by their cards.
        predictions: the results of this run and earlier ones, in the output folder.
    """

    options: PredictOptions
    scans: dict[str, Path]
    near_misses: dict[str, str]
    ignored: list[str]
    weights: Path
    device: torch.device
    segmenters: list[Segmenter]
    rules: dict[Structure, PostProcessing]
    known: dict[Structure, Known]
    predictions: Predictions

    def __str__(self) -> str:
        """Say how many scans there are, and which weights segment them, trained on what; then rules, other entries."""
        folder, scans = self.options.input_folder, counted(len(self.scans), "scan")
        text = f"{scans} in {folder}, weights from {weights_name(self.weights)}, on {self.device}"
        lines = weights_lines(self.segmenters)
        lines += [f"post-processing of {s.title}: {rules}" for s, rules in self.rules.items() if rules.change_anything]
        lines += [f"ignored in {folder}: {', '.join(self.ignored)}"] if self.ignored else []
        return "\n".join(map(shown, [text, *lines]))

    @property
    def made_by(self) -> dict[str, Any]:
        """Return by what label maps are made, in the types that JSON has: version, weights, options."""
        options = self.options
        return {
            "version": metadata.version("crossmoda-grl"),
            "weights": {
                "name": weights_name(self.weights),
                "sha256": {s.structure.key: s.card["sha256"] for s in self.segmenters},
            },
            "options": {
                "device": str(self.device),
                "overlap": options.overlap,
                "target_statistics": options.target_statistics,
                "postprocessing": {s.key: rules.as_card() for s, rules in self.rules.items()},
            },
        }


def prepare_submission(options: PredictOptions) -> Submission:
    """Check the folders, pick the device and load the networks, before any case is segmented.

    Raises:
        SubmissionError: no scans, or an output folder that cannot be written.
        WeightsError: as `pipeline.model.weights.load_segmenter`.
        DeviceError: as `pipeline.runtime.devices.pick_device`.
        PredictionsError: the output folder's record is not ours.
    """
    keep_large_blocks()
    scans, others = find_submission_scans(options.input_folder)
    meant = near_misses(others, scans)
    ignored = [name for name in others if name not in meant]
    check_writable(options.output_folder)
    device, weights = pick_device(options.device), weights_folder(options.weights)
    segmenters = [load_segmenter(weights, structure, device) for structure in STRUCTURES]
    rules = {s.structure: replace(rules_of(s.card), **options.rules.get(s.structure, {})) for s in segmenters}
    known = known_by_cards(segmenters)
    predictions = Predictions(options.output_folder)
    return Submission(options, scans, meant, ignored, weights, device, segmenters, rules, known, predictions)


def known_by_cards(segmenters: Iterable[Segmenter]) -> dict[Structure, Known]:
    """Return what the networks' cards say that they know.

    Raises:
        WeightsError: a card says it in another form.
    """
    known = {}
    for segmenter in segmenters:
        try:
            known[segmenter.structure] = known_by(segmenter.card)
        except ValueError as error:
            raise WeightsError(f"weights of {segmenter.structure.title}: {error}; export them again") from error
    return known


def weights_lines(segmenters: Iterable[Segmenter]) -> list[str]:
    """Say what networks were trained on: one line, or one for each that differs; and if they know no scans."""
    told = {s.structure.title: trained_on(s.card) for s in segmenters}
    lines = [f"weights of {title}: {text}" for title, text in told.items()]
    if len(set(told.values())) == 1:
        lines = [f"weights: {text}" for text in set(told.values())]
    blind = [s.structure.title for s in segmenters if known_by(s.card) == Known()]
    if blind:
        lines.append(
            f"the cards of {' and '.join(blind)} do not say what is usual: no volume or scan is told as unusual"
        )
    return lines


def adapted_to_cohort(submission: Submission, tell: Callable[[str], None]) -> Submission:
    """Return the submission with networks that have its scans' statistics, if its options ask for that.

    `tell` takes a line for every scan that is left out, and one for the outcome.
    """
    if not submission.options.target_statistics:
        return submission
    return replace(submission, segmenters=with_cohort_statistics(submission.segmenters, submission.scans, tell))


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
            f"got {f'only {shown(names)}' if ignored else 'an empty folder'}; "
            "rename the scans or name another folder with --input"
        )
    return scans, ignored


def check_writable(output_folder: Path) -> None:
    """Make the output folder if it is missing, and write a file in it that disappears.

    Raises:
        SubmissionError: the folder cannot be made or written.
    """
    try:
        output_folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_folder) as probe:
            probe.write(b"1")
    except OSError as error:
        raise SubmissionError(
            f"{output_folder}: expected a folder that this user can write to, got: {error.strerror or error}; "
            "change its owner, or run as another user"
        ) from error


def segment_folder(submission: Submission, report_bug: Callable[[str], None] = print) -> Iterator[CaseResult]:
    """Segment a submission's scans one after the other; yield each case's outcome.

    A failed case leaves no label map, and the next case follows. An interruption (`BaseException`) leaves the complete
    files of the finished cases. `report_bug` receives the traceback of an unexpected error. Near misses come first, as
    failed cases: a patient who is silently left out is the worst outcome.

    Raises:
        SubmissionError: another process is writing to the output folder.
    """
    with _held(submission.options.output_folder):
        for name, advice in submission.near_misses.items():
            wanted = f"{{case}}{TARGET_SUFFIX}"
            error = f"{name}: expected a scan named {wanted}, got this name, so it was not segmented; {advice}"
            yield recorded(submission, CaseResult(case=shown(name), error=shown(error)))
        for case, path in submission.scans.items():
            yield recorded(submission, predict_case(submission, case, path, report_bug))


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


def recorded(submission: Submission, result: CaseResult) -> CaseResult:
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


def predict_case(
    submission: Submission, case: str, path: Path, report_bug: Callable[[str], None] = print
) -> CaseResult:
    """Segment one scan, write its label map, and return the outcome, whatever it is.

    The record of the folder is only read: `recorded` writes it.
    """
    started = time.monotonic()
    result = _outcome(submission, case, path, report_bug)
    return replace(result, case=case, seconds=time.monotonic() - started)


def _outcome(submission: Submission, case: str, path: Path, report_bug: Callable[[str], None]) -> CaseResult:
    try:
        return _segment(submission, case, path, submission.options.output_folder / label_file(case))
    except CaseError as error:
        return CaseResult(error=str(error))
    except OSError as error:
        return CaseResult(error=f"{case}: expected to write its files, got: {error}; check space and permissions")
    except Exception as error:  # noqa: BLE001  whatever happens, the other cases follow; the traceback is shown
        if is_out_of_memory(error):
            advice = "crop the scan, or use a machine with more memory"
            return CaseResult(error=f"{path.name}: expected to fit into memory, got: {error}; {advice}")
        report_bug(traceback.format_exc())
        return CaseResult(error=f"{path.name}: unexpected error ({type(error).__name__}: {error}); please report it")


def _segment(submission: Submission, case: str, path: Path, labels_path: Path) -> CaseResult:
    options = submission.options
    if options.skip_existing and (done := _done_before(submission, case, path, labels_path)):
        return skipped(done, submission.made_by)
    image = read_scan(path)
    try:
        segmentation = segment_case(image, submission.segmenters, rules=submission.rules, overlap=options.overlap)
    except CaseError as error:
        raise CaseError(f"{path.name}: {error}") from error
    _write(segmentation, image, labels_path, save_probabilities=options.save_probabilities)
    return replace(_examined(submission, segmentation.labels, image, path), made_by=submission.made_by)


def _examined(submission: Submission, labels: NDArray[np.uint8], image: sitk.Image, path: Path) -> CaseResult:
    findings, geometry = examine(labels, image, submission.known), geometry_of(image)
    return CaseResult(
        scan_sha256=sha256_of(path),
        size_xyz=geometry.size_xyz,
        spacing_mm=geometry.spacing_mm,
        volumes_mm3=findings.volumes_mm3,
        components=findings.components,
        unlikeness=findings.unlikeness,
        warnings=findings.warnings,
    )


def _done_before(submission: Submission, case: str, path: Path, labels_path: Path) -> CaseResult | None:
    """Return what is known of a case that has a whole label map of this scan; None if it has none.

    A label map that no record tells of, of an older version or a run that was killed, is examined here.
    """
    if not labels_path.exists():
        return None
    try:
        if not read_geometry(labels_path).same_place(read_geometry(path)):
            return None
        labels = sitk.GetArrayFromImage(read_image(labels_path))
        if not {BACKGROUND, *(s.label for s in STRUCTURES)} >= set(np.unique(labels).tolist()):
            return None
        done = submission.predictions.get(case)
        if done is not None:
            return done if done.scan_sha256 == sha256_of(path) else None
        return _examined(submission, labels.astype(np.uint8), read_scan(path), path)
    except CaseError:
        return None


def _write(segmentation: Segmentation, image: sitk.Image, labels_path: Path, *, save_probabilities: bool) -> None:
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
        write_labels(segmentation.labels, image, labels_path, note=f"crossmoda-grl {metadata.version('crossmoda-grl')}")
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
