"""What `predict` needs before it begins: scans, an output folder that can be written, weights and what they know.

Source: the challenge's contract (`challenge.contract`).
"""

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from challenge.contract import STRUCTURES, Structure
from challenge.layouts import CROSSMODA_2021, FolderLayout
from challenge.names import shown
from challenge.quantities import counted
from pipeline.config import OURS
from pipeline.data.known import Known, known_by, trained_on
from pipeline.inference.compiled import fastest_form
from pipeline.inference.inputs import SubmissionError, find_inputs
from pipeline.inference.results import Predictions
from pipeline.inference.scans import ScanReader
from pipeline.inference.target_statistics import with_cohort_statistics
from pipeline.model.rules import PostProcessing, rules_of
from pipeline.model.shipped import weights_folder, weights_name
from pipeline.model.weights import Segmenter, WeightsError, load_segmenter
from pipeline.runtime.allocator import keep_large_blocks
from pipeline.runtime.cores import use_available_cores
from pipeline.runtime.devices import pick_device


@dataclass(frozen=True)
class PredictOptions:
    """The options of `predict`.

    `weights` is a folder, or the name of a shipped set; None stands for the default. `rules` holds, by structure, the
    values for post-processing that take the place of the card's, and so does `window`, in voxels.
    `target_statistics` estimates batch norm's statistics on all scans of the folder first, also on those that
    `skip_existing` skips: a resumed run gives the same label maps. `input_folder` may be one scan. `layout` is one of
    `challenge.layouts`, None for the one that the folder is in; `output_socket` is grand-challenge's, None for the
    input's. `series` says which DICOM series to take where a case has several: a part of its description, or its UID.
    `colours` writes the labels' names and colours beside the label maps. `cluster` is the address of a Dask scheduler
    whose workers segment the cases, each on its own `device`.
    """

    input_folder: Path
    output_folder: Path
    weights: str | None = None
    device: str = "auto"
    overlap: float = OURS.overlap
    window: int | None = None
    save_probabilities: bool = False
    skip_existing: bool = False
    target_statistics: bool = False
    rules: Mapping[Structure, Mapping[str, Any]] = field(default_factory=dict)
    cluster: str | None = None
    layout: str | None = None
    output_socket: str | None = None
    series: str | None = None
    colours: bool = False


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
        layout: of scans and label maps.
        written_first: where a case's files are written, if not in the output folder: who says so moves them there.
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
    layout: FolderLayout = CROSSMODA_2021
    written_first: Path | None = None

    def __str__(self) -> str:
        """Say how many scans there are, and which weights segment them, trained on what; then rules, other entries."""
        folder, scans = self.options.input_folder, counted(len(self.scans), "scan")
        text = f"{scans} in {folder}, weights from {weights_name(self.weights)}, on "
        text += f"the cluster {self.options.cluster}" if self.options.cluster else str(self.device)
        lines = weights_lines(self.segmenters)
        lines += [f"layout {self.layout.name}"] if self.layout.name != CROSSMODA_2021.name else []
        lines += [self.layout.note] if self.layout.note else []
        lines += [f"post-processing of {s.title}: {rules}" for s, rules in self.rules.items() if rules.change_anything]
        lines += [f"ignored in {folder}: {', '.join(self.ignored)}"] if self.ignored else []
        return "\n".join(map(shown, [text, *lines]))

    @property
    def reader(self) -> ScanReader:
        """Return what reads the scans."""
        return ScanReader(self.layout, self.options.series)

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
                "layout": self.layout.name,
                **({"series": options.series} if self.layout.dicom else {}),
                "device": str(self.device),
                "overlap": options.overlap,
                "window": {s.structure.key: s.window for s in self.segmenters},
                "target_statistics": options.target_statistics,
                "postprocessing": {s.key: rules.as_card() for s, rules in self.rules.items()},
            },
        }


def prepare_submission(options: PredictOptions, *, keeps_record: bool = True) -> Submission:
    """Check the folders, pick the device and load the networks, before any case is segmented.

    Without `keeps_record`, another process keeps the output folder's, and here it is only read.

    Raises:
        SubmissionError: no scans, or an output folder that cannot be written.
        WeightsError: as `pipeline.model.weights.load_segmenter`.
        DeviceError: as `pipeline.runtime.devices.pick_device`.
        PredictionsError: the output folder's record is not ours.
    """
    keep_large_blocks()
    use_available_cores()
    found = find_inputs(options.input_folder, options.layout, options.output_socket)
    check_writable(options.output_folder)
    # A cluster's networks are only checked here: its workers pick their devices themselves.
    device, weights = pick_device("cpu" if options.cluster else options.device), weights_folder(options.weights)
    segmenters = [load_segmenter(weights, structure, device) for structure in STRUCTURES]
    if options.window is not None:
        segmenters = [replace(segmenter, window=options.window) for segmenter in segmenters]
    rules = {s.structure: replace(rules_of(s.card), **options.rules.get(s.structure, {})) for s in segmenters}
    known = known_by_cards(segmenters)
    predictions = Predictions(options.output_folder, keep=keeps_record)
    return Submission(
        options,
        found.scans,
        found.near_misses,
        found.ignored,
        weights,
        device,
        segmenters,
        rules,
        known,
        predictions,
        found.layout,
    )


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
    read = submission.reader.read
    segmenters = with_cohort_statistics(
        submission.segmenters, submission.scans, tell, read=lambda path: read(path).image
    )
    return replace(submission, segmenters=segmenters)


def with_fastest_networks(submission: Submission, tell: Callable[[str], None]) -> Submission:
    """Return the submission with its networks compiled where that is possible; the last step before it is segmented.

    `tell` takes a line for every network that runs uncompiled.
    """
    return replace(submission, segmenters=[fastest_form(s, tell) for s in submission.segmenters])


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
