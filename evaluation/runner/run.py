"""A submission's run, from the folder of scans to the record of what came back."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from challenge.contract import label_file
from challenge.names import shown_briefly
from challenge.signals import signals_deferred
from evaluation.runner.checks import check_label_map
from evaluation.runner.container import connected_engine, find_image, run_container
from evaluation.runner.errors import UnfinishedError
from evaluation.runner.folders import find_mountable_scans, input_for, prepare_output
from evaluation.runner.leftovers import remove_leftovers
from evaluation.runner.monitors import OutputWatcher
from evaluation.runner.observers import Observer
from evaluation.runner.output import OutputFolder, extra_names, output_folder
from evaluation.runner.record import RECORD_FILE, CaseOutcome, ContainerRun, RunRecord, Settings, write_record

_EXTRA_NAMES = 20


def run_submission(
    settings: Settings,
    input_folder: Path,
    results_folder: Path,
    *,
    per_case: bool = False,
    observer: Observer,
) -> RunRecord:
    """Run a submission's image on a folder of scans, and check the label maps that it writes.

    One container sees the whole folder, as at the challenge. With `per_case` each case gets a container of its own and
    the whole time limit. A container that fails does not stop the others; the record's `failures` list it. Containers
    are always removed, also after an interruption; those of a runner that was killed, by the next run. Their label maps
    are copied to `results_folder`, which no container sees, and `run.json` is written there, however the run ends.

    Args:
        settings: the image and its limits.
        input_folder: holds `{case}_hrT2.nii.gz`.
        results_folder: created if missing; must hold no label map of these cases.
        per_case: run one container per case.
        observer: hears of log lines, finished cases and failures.

    Raises:
        ValueError: no scans, or the folders cannot be used as they are.
        EngineUnreachableError: no Docker engine answers, or it stopped answering.
        ImageMissingError: the engine has no such image.
        OSError: the record cannot be written.
    """
    scans = find_mountable_scans(input_folder)
    prepare_output(results_folder, scans)
    with connected_engine() as engine:
        remove_leftovers(engine)
        image = find_image(engine, settings.image)
        observer.begin(len(scans))
        watcher = OutputWatcher(scans, observer)
        results = _Results(scans, results_folder, watcher)
        blank = RunRecord(
            settings=settings,
            image_id=str(image.id),
            engine=f"Docker {engine.version()['Version']}",
            input_folder=str(input_folder),
            output_folder=str(results_folder),
            per_case=per_case,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=0.0,
            containers=(),
            cases=(),
        )
        with _recorded(results, blank):
            for share in [(case,) for case in scans] if per_case else [tuple(scans)]:
                results.running = share
                own = {case: scans[case] for case in share}
                with input_for(input_folder, own, per_case) as shown, output_folder(engine, settings) as output:
                    run = run_container(engine, image, settings, str(shown), output, share, watcher)
                    results.take(run, output)
    return results.record(blank)


@dataclass
class _Results:
    """What has come back so far. `running` are the cases of the container that runs."""

    scans: dict[str, Path]
    folder: Path
    watcher: OutputWatcher
    running: tuple[str, ...] = ()
    containers: list[ContainerRun] = field(default_factory=list)
    outcomes: dict[str, CaseOutcome] = field(default_factory=dict)
    extra: list[str] = field(default_factory=list)

    def take(self, run: ContainerRun, output: OutputFolder) -> None:
        """Copy and check the label maps of a container that has ended and is removed."""
        self.containers.append(run)
        self.extra += extra_names(output, run.cases)
        for case in run.cases:
            missing = output.copy_label_map(case, self.folder)
            outcome = (
                CaseOutcome(case, None, problems=(missing,))
                if missing
                else check_label_map(case, self.scans[case], self.folder)
            )
            self.outcomes[case] = replace(outcome, seconds=self.watcher.seconds.get(case))

    def record(self, blank: RunRecord) -> RunRecord:
        """Fill in a record."""
        names = sorted(set(self.extra))
        return replace(
            blank,
            seconds=sum(run.seconds for run in self.containers),
            containers=tuple(self.containers),
            cases=tuple(self.outcomes.get(case) or _not_reached(case) for case in self.scans),
            extra=tuple(shown_briefly(name) for name in names[:_EXTRA_NAMES]),
            extra_count=len(names),
        )


@contextmanager
def _recorded(results: _Results, blank: RunRecord) -> Iterator[None]:
    """Write the record when the block ends, whatever ends it."""
    try:
        yield
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        failure = UnfinishedError(
            f"{blank.settings.image}: expected the run to go to its end, got {shown_briefly(reason)}"
        )
        if not any(run.cases == results.running for run in results.containers):
            results.containers.append(ContainerRun(results.running, failure=failure))
        raise
    finally:
        with signals_deferred():
            write_record(results.record(blank), results.folder / RECORD_FILE)


def _not_reached(case: str) -> CaseOutcome:
    problem = f"{label_file(case)}: expected a label map, got none: the run ended before this case was checked"
    return CaseOutcome(case, seconds=None, problems=(problem,))
