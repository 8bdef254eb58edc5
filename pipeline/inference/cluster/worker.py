"""What a worker does: it loads the networks once, segments one case at a time, and moves whole files into place."""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from distributed import get_worker
from numpy.typing import NDArray

from pipeline.inference.cluster.fitness import Fitness, UnfitWorker, check_fitness
from pipeline.inference.cluster.one_case import threads_of
from pipeline.inference.folder import segment_one
from pipeline.inference.results import CaseResult, PredictionsError
from pipeline.inference.submission import (
    PredictOptions,
    Submission,
    SubmissionError,
    prepare_submission,
    with_fastest_networks,
)
from pipeline.model.weights import Segmenter, WeightsError
from pipeline.runtime.devices import DeviceError


@dataclass(frozen=True)
class Run:
    """What all of a run's cases have in common; plain, so that it can be sent.

    Args:
        name: no other run's.
        options: of `predict`, with absolute paths and no cluster.
        fitness: what the worker must share with the client.
        statistics: by structure, the buffers that the networks get in place of their own; empty to keep them.
    """

    name: str
    options: PredictOptions
    fitness: Fitness
    statistics: Mapping[str, Mapping[str, NDArray[np.generic]]]


def segment_on_worker(run: Run, case: str) -> tuple[CaseResult, list[str]]:
    """Segment a case of the run; its files appear whole in the output folder, the label map last.

    Should a worker that was given up still be at it, two may segment one case: each writes to a folder of its own, and
    the last to finish replaces the other's files.

    Returns:
        The outcome, and the tracebacks of unexpected errors.

    Raises:
        UnfitWorker: this worker would not give what the client would.
    """
    submission, bugs = _prepared(run), list[str]()
    own = run.fitness.run_folder / f"{case}-{uuid4().hex}"
    try:
        own.mkdir()
        result = segment_one(replace(submission, written_first=own), case, bugs.append)
        _move_files(own, submission.options.output_folder)
    except OSError as error:
        result = CaseResult(
            case, error=f"{case}: expected to write its files, got: {error}; check space and permissions"
        )
    finally:
        shutil.rmtree(own, ignore_errors=True)
    return result, bugs


def statistics_of(segmenters: list[Segmenter]) -> dict[str, dict[str, NDArray[np.generic]]]:
    """Return the networks' buffers, batch norm's statistics, by structure and name, as arrays."""
    return {s.structure.key: {name: b.cpu().numpy() for name, b in s.network.named_buffers()} for s in segmenters}


# The last run's name, and its submission with the networks loaded.
_last: tuple[str, Submission] | None = None


def _prepared(run: Run) -> Submission:
    """Return the run's submission as this worker sees it; the networks are loaded for the first of its cases."""
    global _last
    if _last is not None and _last[0] == run.name:
        return _last[1]
    worker = get_worker()
    if shortcoming := check_fitness(run.fitness):
        raise UnfitWorker(f"worker {worker.address}: {shortcoming}")
    torch.set_num_threads(threads_of(worker))  # Dask's nanny allows one
    try:
        submission = prepare_submission(run.options, keeps_record=False)
    except (SubmissionError, WeightsError, DeviceError, PredictionsError) as error:
        raise UnfitWorker(f"worker {worker.address}: {error}") from error
    for segmenter in submission.segmenters:
        for name, values in run.statistics.get(segmenter.structure.key, {}).items():
            segmenter.network.get_buffer(name).copy_(torch.from_numpy(values))
    submission = with_fastest_networks(submission, logging.getLogger(__name__).warning)
    _last = run.name, submission
    return submission


def _move_files(source: Path, target: Path) -> None:
    """Move a case's files, those in folders first, the label map last: its presence means that all are there."""
    files = [path for path in source.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: (-len(path.parts), path.name)):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        path.replace(place)
