"""predict --cluster on a real scheduler and real worker processes: the same as on one machine, and what goes wrong."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner

from crossmoda_grl.__main__ import main
from pipeline.inference.results import PREDICTIONS_CSV, PREDICTIONS_JSON
from tests.images import noise, write_scan
from tests.segmenters import write_narrow_weights

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[3]
RECORD = {PREDICTIONS_JSON, PREDICTIONS_CSV}


class Cluster:
    """A scheduler and workers, each a process of its own, in a folder that is their working directory."""

    def __init__(self, folder, **settings):
        self.folder, self.scheduler_file, self.processes = folder, folder / "scheduler.json", []
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), **settings}
        self.scheduler = self.start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")

    def start(self, role, *options):
        command = [sys.executable, "-m", "dask", role, "--scheduler-file", str(self.scheduler_file), *options]
        with (self.folder / f"{role}-{len(self.processes)}.log").open("w") as log:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        self.processes.append(process)
        return process

    def start_worker(self, *options):
        return self.start("worker", "--nthreads", "1", "--no-dashboard", *options)

    def wait_for(self, workers):
        from distributed import Client

        wait_until(self.scheduler_file.is_file)
        with Client(scheduler_file=str(self.scheduler_file)) as client:
            client.wait_for_workers(workers, timeout=120)

    def stop(self):
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # with what it started
            process.wait(60)


def wait_until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{condition} did not happen"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    started = Cluster(tmp_path_factory.mktemp("cluster"))
    started.start_worker("--no-nanny")
    started.wait_for(1)
    yield started
    started.stop()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_narrow_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def scans(tmp_path):
    """Cases of about a second each."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(1, 5):
        write_scan(folder / f"crossmoda_{number}_hrT2.nii.gz", noise((12, 24, 24), seed=number))
    return folder


def predict(scans, output, weights, *more):
    options = ["--input", scans, "--output", output, "--weights", weights, "--device", "cpu", *more]
    return CliRunner().invoke(main, ["predict", *map(str, options)])


def on(cluster):
    return "--cluster", cluster.scheduler_file


def cases_told(result):
    return sorted(re.findall(r"^\d/\d (crossmoda_\d) [\d.]+ s$", result.stderr, re.MULTILINE))


def left_in(output):
    """What a run leaves, but for the record of its results."""
    return sorted(name for name in os.listdir(output) if name not in RECORD)


def same_voxels(one, other):
    return np.array_equal(*(sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in (one, other)))


def kill_when(condition, process, killed):
    wait_until(condition)
    process.send_signal(signal.SIGKILL)
    killed.append(process.wait(60))


def kill_in_a_case(cluster, worker, output, killed):
    """Freeze a cluster's only worker while it is at a case, kill it, and start another one."""
    while not killed:
        wait_until(lambda: busy(output))
        worker.send_signal(signal.SIGSTOP)
        if not busy(output):  # it has just ended
            worker.send_signal(signal.SIGCONT)
            continue
        worker.send_signal(signal.SIGKILL)
        cluster.start_worker("--no-nanny")
        killed.append(worker.wait(60))


def busy(output):
    """The cases that workers are at: each has a folder of its own in the run's."""
    return list(output.glob(".cluster-*/crossmoda_*"))


@pytest.fixture
def own_cluster(tmp_path):
    """A cluster whose only worker may be killed."""
    (tmp_path / "cluster").mkdir()
    started = Cluster(tmp_path / "cluster")
    yield started
    started.stop()


def test_a_worker_killed_in_the_middle_of_a_case_loses_nothing_and_repeats_nothing(
    own_cluster, scans, weights, tmp_path
):
    output, killed = tmp_path / "out", []
    doomed = own_cluster.start_worker("--no-nanny")
    own_cluster.wait_for(1)
    killer = threading.Thread(target=kill_in_a_case, args=(own_cluster, doomed, output, killed))
    killer.start()
    result = predict(scans, output, weights, "--overlap", "0.5", *on(own_cluster))
    killer.join()
    assert killed == [-signal.SIGKILL]
    assert result.exit_code == 0, result.output
    assert cases_told(result) == [f"crossmoda_{number}" for number in range(1, 5)]
    assert result.stderr.startswith(f"4 scans in {scans}, weights from {weights}, on the cluster ")
    assert re.findall(r"crossmoda_\d", result.stdout) == [f"crossmoda_{number}" for number in range(1, 5)]
    labels = [f"crossmoda_{number}_Label.nii.gz" for number in range(1, 5)]
    assert left_in(output) == labels
    recorded = json.loads((output / PREDICTIONS_JSON).read_text())["cases"]
    assert {case: entry["error"] for case, entry in recorded.items()} == dict.fromkeys(cases_told(result))
    here = predict(scans, tmp_path / "here", weights, "--overlap", "0.5")
    assert here.exit_code == 0, here.output
    assert all(same_voxels(output / name, tmp_path / "here" / name) for name in labels)


def test_options_and_bad_scans_are_as_on_one_machine(cluster, weights, tmp_path):
    scans = tmp_path / "in"
    scans.mkdir()
    for case in ("crossmoda_1", "crossmoda_2", "crossmoda_3"):
        write_scan(scans / f"{case}_hrT2.nii.gz")
    (scans / "crossmoda_2_hrT2.nii.gz").write_bytes(b"hello" * 999)
    options = ["--save-probabilities", "--target-statistics", "--vs-components", "largest"]
    there = predict(scans, tmp_path / "there", weights, *options, *on(cluster))
    here = predict(scans, tmp_path / "here", weights, *options)
    assert there.exit_code == here.exit_code == 1
    assert there.stderr.splitlines()[-1] == here.stderr.splitlines()[-1]
    assert "expected a NIfTI file, got something else" in there.stderr
    made = [path.relative_to(tmp_path / "here") for path in (tmp_path / "here").rglob("*.nii.gz")]
    assert len(made) == 2 + 4
    assert all(same_voxels(tmp_path / "there" / path, tmp_path / "here" / path) for path in made)
    again = predict(scans, tmp_path / "there", weights, "--skip-existing", *on(cluster))
    assert again.stderr.count("skipped, ") == 2


@pytest.fixture
def own_view(tmp_path, monkeypatch):
    """A folder that client and workers see at one path, each as it is in its own working directory."""
    monkeypatch.chdir(tmp_path)
    return Path("/proc/self/cwd")


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="needs a path that each process sees in its own way")
def test_a_worker_that_does_not_see_the_folders_is_told(cluster, scans, weights, own_view, tmp_path):
    result = predict(own_view / "in", tmp_path / "out", weights, *on(cluster))
    assert result.exit_code == 1
    assert re.search(
        r"worker tcp://\S+: expected to see the scans in \S+/in, got no such folder; mount ", result.output
    )
    result = predict(scans, own_view / "out", weights, *on(cluster))
    assert result.exit_code == 1
    assert "expected to see what the client writes to /proc/self/cwd/out, got no such folder; mount" in result.output
    assert left_in(tmp_path / "out") == []


def test_other_weights_or_versions_on_a_worker_are_told(cluster, scans, weights, own_view, tmp_path, monkeypatch):
    shutil.copytree(weights, tmp_path / "weights")
    shutil.copytree(weights, cluster.folder / "weights")
    card = cluster.folder / "weights" / "vs.json"
    card.write_text(card.read_text().replace("none", "others"))
    told = "expected the client's weights /proc/self/cwd/weights, got another vs.json (sha256 "
    result = predict(scans, tmp_path / "out", own_view / "weights", *on(cluster))
    assert result.exit_code == 1
    assert told in result.output
    with monkeypatch.context() as late:  # as if the worker had joined after all were asked
        late.setattr("pipeline.inference.cluster.client._check_workers", lambda *_: None)
        result = predict(scans, tmp_path / "out", own_view / "weights", *on(cluster))
        assert result.exit_code == 1
        assert told in result.output
    monkeypatch.setattr("pipeline.inference.cluster.client.versions", lambda: {"torch": "1.0"})
    result = predict(scans, tmp_path / "out", weights, *on(cluster))
    assert result.exit_code == 1
    assert re.search(r"worker \S+: expected torch 1\.0, as on the client, got 2\.\S+; install the same", result.output)


def test_no_scheduler_no_worker_and_a_worker_without_enough_memory_are_told(weights, tmp_path, monkeypatch):
    scans = tmp_path / "in"
    scans.mkdir()
    write_scan(scans / "crossmoda_1_hrT2.nii.gz")
    monkeypatch.setattr("pipeline.inference.cluster.client._CONNECT_S", 0.5)
    result = predict(scans, tmp_path / "out", weights, "--cluster", "tcp://127.0.0.1:1")
    assert result.exit_code == 1
    assert "--cluster tcp://127.0.0.1:1: expected a Dask scheduler to answer, got" in result.output

    monkeypatch.undo()
    small = Cluster(tmp_path, DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="0")
    try:
        wait_until(small.scheduler_file.is_file)
        with monkeypatch.context() as impatient:
            impatient.setattr("pipeline.inference.cluster.client.PATIENCE_S", 0.5)
            result = predict(scans, tmp_path / "out", weights, *on(small))
        assert result.exit_code == 1
        assert "expected workers, got none" in result.output

        small.start_worker("--memory-limit", "160MB")  # enough to start, too little for torch
        result = predict(scans, tmp_path / "out", weights, *on(small))
        assert result.exit_code == 1
        assert "crossmoda_1: expected a worker to finish it, got 1 that ended while they were at it" in result.output
        assert "with a memory limit of 152.59 MiB; give workers more memory" in result.output
        assert left_in(tmp_path / "out") == []
    finally:
        small.stop()


def test_a_scheduler_that_vanishes_is_told(cluster, scans, weights, tmp_path):
    """The last test, because it ends the scheduler."""
    output, killed = tmp_path / "out", []
    is_second = lambda: busy(output) and list(output.glob("*_Label.nii.gz"))  # noqa: E731
    killer = threading.Thread(target=kill_when, args=(is_second, cluster.scheduler, killed))
    killer.start()
    result = predict(scans, output, weights, "--overlap", "0.5", *on(cluster))
    killer.join()
    assert killed == [-signal.SIGKILL]
    assert result.exit_code == 1
    assert re.search(
        r"expected the scheduler to answer until the last case, got no answer after \d of 4 cases; .* --skip-existing",
        result.output,
    )
    assert [name for name in left_in(output) if not re.fullmatch(r"crossmoda_\d_Label.nii.gz", name)] == []
