"""A submission's run, from the folder of scans to the record of what came back."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from docker.types import Mount

from challenge.contract import label_file
from evaluation.runner.checks import check_label_map
from evaluation.runner.container import connected_engine, find_image, run_container
from evaluation.runner.folders import find_mountable_scans, input_for, prepare_output, set_links_aside
from evaluation.runner.monitors import OutputWatcher
from evaluation.runner.observers import Observer
from evaluation.runner.record import RunRecord, Settings

INPUT = "/input"
OUTPUT = "/output"


def run_submission(
    settings: Settings,
    input_folder: Path,
    output_folder: Path,
    *,
    per_case: bool = False,
    observer: Observer,
) -> RunRecord:
    """Run a submission's image on a folder of scans, and check the label maps that it writes.

    One container sees the whole folder, as at the challenge. With `per_case` each case gets a container of its own and
    the whole time limit. A container that fails does not stop the others; the record's `failures` list it. Containers
    are always removed, also after an interruption.

    Args:
        settings: the image and its limits.
        input_folder: holds `{case}_hrT2.nii.gz`.
        output_folder: created if missing; must hold no label map of these cases.
        per_case: run one container per case.
        observer: hears of log lines, finished cases and failures.

    Raises:
        ValueError: no scans, or the folders cannot be used as they are.
        EngineUnreachableError: no Docker engine answers, or it stopped answering.
        ImageMissingError: the engine has no such image.
    """
    scans = find_mountable_scans(input_folder)
    prepare_output(output_folder, scans)
    started = datetime.now(UTC)
    with connected_engine() as engine:
        image = find_image(engine, settings.image)
        observer.begin(len(scans))
        watcher = OutputWatcher(output_folder, scans, observer)
        containers = []
        shares = [{case: scan} for case, scan in scans.items()] if per_case else [scans]
        output = Mount(OUTPUT, str(output_folder.resolve()), "bind")
        for share in shares:
            with input_for(input_folder, share, per_case) as shown:
                mounts = [Mount(INPUT, str(shown), "bind", read_only=True), output]
                containers.append(run_container(engine, image, settings, mounts, tuple(share), watcher))
        version = engine.version()["Version"]
    outcomes = tuple(
        replace(check_label_map(case, scan, output_folder), seconds=watcher.seconds.get(case))
        for case, scan in scans.items()
    )
    set_links_aside(output_folder, scans)
    return RunRecord(
        settings=settings,
        image_id=str(image.id),
        engine=f"Docker {version}",
        input_folder=str(input_folder),
        output_folder=str(output_folder),
        per_case=per_case,
        started=started.isoformat(timespec="seconds"),
        seconds=sum(run.seconds for run in containers),
        containers=tuple(containers),
        cases=outcomes,
        extra=tuple(sorted({entry.name for entry in output_folder.iterdir()} - {label_file(case) for case in scans})),
    )
