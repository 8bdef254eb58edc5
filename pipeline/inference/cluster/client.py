"""The client's side: cases are handed to a Dask cluster's workers, and their results come back as they are finished."""

import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from dask.utils import format_bytes
from distributed import CancelledError, Client, Future, KilledWorker, TimeoutError, wait

from challenge.quantities import counted
from pipeline.inference.cluster.fitness import ClusterError, Fitness, UnfitWorker, card_digests, check_fitness, versions
from pipeline.inference.cluster.one_case import OneCaseAtATime
from pipeline.inference.cluster.worker import Run, segment_on_worker, statistics_of
from pipeline.inference.results import CaseResult
from pipeline.inference.submission import Submission
from pipeline.model.shipped import weights_name

PATIENCE_S = 120.0  # how long to wait for a cluster's first worker, and for another after the last one
_CONNECT_S = 30.0
_LOOK_S = 2.0  # how often to look at the workers while no case ends


def segment_on_cluster(submission: Submission, report_bug: Callable[[str], None]) -> Iterator[CaseResult]:
    """Segment a submission's scans on the workers of its cluster; yield each case's outcome as it is finished.

    For `pipeline.inference.folder.segment_folder`. A case whose worker ends is given to another.

    Raises:
        ClusterError: no scheduler or worker answers, or a worker cannot do what this machine would. Finished cases are
            complete.
    """
    address = str(submission.options.cluster)
    with _run_folder(submission.options.output_folder) as folder, _connected(address) as client:
        run = _run(submission, folder)
        _check_workers(client, run.fitness, address)
        done = 0
        try:
            client.register_plugin(OneCaseAtATime())
            for result, bugs in _results(client, run, list(submission.scans), address):
                for bug in bugs:
                    report_bug(bug)
                yield result
                done += 1
        except (CancelledError, OSError) as error:
            raise ClusterError(
                f"{address}: expected the scheduler to answer until the last case, got no answer after "
                f"{done} of {counted(len(submission.scans), 'case')}; start it and its workers again, and repeat the "
                "command with --skip-existing"
            ) from error


@contextmanager
def _run_folder(output: Path) -> Iterator[Path]:
    """Make a hidden folder for this run, where workers write first; it goes when the run ends."""
    folder = Path(tempfile.mkdtemp(dir=output.absolute(), prefix=".cluster-"))
    folder.chmod(0o777)  # workers may be other users
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _connected(address: str) -> Iterator[Client]:
    """Connect to a scheduler, by its address or the file that it wrote it to.

    Raises:
        ClusterError: none answers.
    """
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters is said in one line of ours
    named = {"scheduler_file": address} if Path(address).is_file() else {"address": address}
    try:
        client = Client(**named, timeout=_CONNECT_S)
    except (OSError, ValueError, TimeoutError) as error:
        raise ClusterError(
            f"--cluster {address}: expected a Dask scheduler to answer, got: {error}; start one with `dask scheduler`, "
            "and name its address, such as tcp://host:8786, or its --scheduler-file"
        ) from error
    try:
        yield client
    finally:
        with suppress(OSError, TimeoutError):
            client.close(timeout=_LOOK_S)


def _run(submission: Submission, folder: Path) -> Run:
    options, weights = submission.options, submission.weights
    name = weights_name(weights)
    if name == str(weights):
        name = str(weights.absolute())
    absolute = replace(
        options,
        input_folder=options.input_folder.absolute(),
        output_folder=options.output_folder.absolute(),
        weights=name,
        cluster=None,
    )
    fitness = Fitness(versions(), name, card_digests(name), absolute.input_folder, folder)
    statistics = statistics_of(submission.segmenters) if options.target_statistics else {}
    return Run(folder.name, absolute, fitness, statistics)


def _check_workers(client: Client, fitness: Fitness, address: str) -> None:
    """Wait for a worker, and ask all that are there whether they are fit.

    Raises:
        ClusterError: there is none, or one is unfit.
    """
    try:
        client.wait_for_workers(1, timeout=PATIENCE_S)
    except TimeoutError as error:
        raise ClusterError(_no_worker(address)) from error
    for worker, answer in client.run(check_fitness, fitness, on_error="return").items():
        if isinstance(answer, ImportError):
            answer = f"expected crossmoda-grl[cluster] {fitness.versions['crossmoda-grl']}, got: {answer}; install it"
        elif isinstance(answer, Exception):
            answer = f"expected an answer, got: {answer or type(answer).__name__}; look at its log"
        if answer:
            raise ClusterError(f"worker {worker}: {answer}")


def _results(client: Client, run: Run, cases: list[str], address: str) -> Iterator[tuple[CaseResult, list[str]]]:
    """Yield what `segment_on_worker` returns for the cases, as it comes.

    No more cases than workers are handed out at a time, so that few are suspected when a worker ends, and workers may
    come and go.

    Raises:
        ClusterError: a worker is unfit, or none is left.
        CancelledError, OSError: the scheduler is gone.
    """
    left, running = iter(cases), dict[Future, str]()
    last_seen = time.monotonic()
    while True:
        workers = len(client.nthreads())
        while len(running) < max(workers, 1) and (case := next(left, None)) is not None:
            future = client.submit(segment_on_worker, run, case, key=f"{run.name}-{case}", pure=False)
            running[future] = case
        if not running:
            return
        with suppress(TimeoutError):
            wait(list(running), timeout=_LOOK_S, return_when="FIRST_COMPLETED")
        for future in [future for future in running if future.done()]:
            yield _result(future, running.pop(future))
            future.release()
        if workers:
            last_seen = time.monotonic()
        elif time.monotonic() - last_seen > PATIENCE_S:
            raise ClusterError(_no_worker(address))


def _result(future: Future, case: str) -> tuple[CaseResult, list[str]]:
    try:
        result: tuple[CaseResult, list[str]] = future.result()
    except UnfitWorker as error:
        raise ClusterError(str(error)) from error
    except ImportError as error:
        raise ClusterError(f"a worker: expected crossmoda-grl[cluster], got: {error}; install it there") from error
    except KilledWorker as error:
        worker = error.last_worker
        text = (
            f"{case}: expected a worker to finish it, got {error.allowed_failures + 1} that ended while they were at "
            f"it, the last with a memory limit of {format_bytes(worker.memory_limit)}; give workers more memory "
            f"(dask worker --memory-limit) or crop the scan; the log of {worker.address} says why it ended"
        )
        return CaseResult(case, error=text), []
    return result


def _no_worker(address: str) -> str:
    return (
        f"{address}: expected workers, got none for {PATIENCE_S:.0f} s; start some with `dask worker {address}`, "
        "and repeat the command with --skip-existing"
    )
