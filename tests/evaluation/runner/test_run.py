"""Submissions run on a real engine: a sound one, and one for each thing that can go wrong."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner

from crossmoda_grl.__main__ import main
from evaluation.runner.errors import (
    EngineUnreachableError,
    ExitError,
    ImageMissingError,
    OutOfMemoryError,
    StartError,
    TimeLimitError,
)
from evaluation.runner.record import Settings
from evaluation.runner.run import run_submission
from tests.evaluation.runner.submissions import MEMORY, Recorder, command, containers_of, left_on, run
from tests.images import make_image


@pytest.mark.engine
class TestRun:
    def test_a_sound_submission(self, engine, submission, folders):
        image = submission("none")
        record, watcher = run(image, folders)
        assert record.succeeded
        assert [c.case for c in record.cases] == ["crossmoda_1", "crossmoda_2", "crossmoda_10"]
        assert all(c.problems == () and c.warnings == () for c in record.cases)
        # The submission begins with crossmoda_10 and sleeps 0.6 s after each map.
        assert all(0.3 < c.seconds < 5 for c in record.cases[:2])
        assert watcher.total == 3
        assert [number for number, _, _ in watcher.done] == [1, 2, 3]
        assert watcher.lines == [f"wrote crossmoda_{n}_Label.nii.gz" for n in (10, 1, 2)]
        (container,) = record.containers
        assert container.exit_code == 0
        assert 1.8 < container.seconds < 20
        assert 2**20 < container.peak_memory_bytes <= container.kernel_peak_memory_bytes < MEMORY
        assert record.extra == ()
        assert left_on(engine, image) == []
        written = folders[1] / "crossmoda_1_Label.nii.gz"
        assert (written.stat().st_uid, written.stat().st_gid) == (os.getuid(), os.getgid())

    def test_a_record_can_be_read_again(self, submission, folders):
        record, _ = run(submission("exit"), folders)
        assert record.failures
        document = json.loads((folders[1] / "run.json").read_text())
        assert document["succeeded"] is False
        assert document["containers"][0]["failure"]["kind"] == "exit"
        assert document["containers"][0]["exit_code"] == 3
        assert document["settings"]["memory_bytes"] == MEMORY
        assert document["image_id"].startswith("sha256:")

    @pytest.mark.parametrize("writable", [False, True])
    def test_the_container_is_locked_down(self, submission, folders, writable):
        record, watcher = run(submission("surroundings"), folders, writable=writable, user="12345:54321")
        said = dict(line.split(" ", 1) for line in watcher.lines if not line.startswith("wr"))
        assert said["user"] == "12345 54321"
        assert said["capabilities"] == "0000000000000000 no new privileges 1"
        assert said["network"] == "OSError"
        assert said["sees"] == "crossmoda_10_hrT2.nii.gz crossmoda_1_hrT2.nii.gz crossmoda_2_hrT2.nii.gz"
        assert "write input OSError" in watcher.lines
        assert ("write root allowed" if writable else "write root OSError") in watcher.lines
        # Another user's label maps become the caller's.
        assert record.succeeded
        assert (folders[1] / "crossmoda_1_Label.nii.gz").stat().st_uid == os.getuid()

    def test_one_container_a_case(self, engine, submission, folders):
        image = submission("case")
        record, _ = run(image, folders, per_case=True)
        assert [c.cases for c in record.containers] == [("crossmoda_1",), ("crossmoda_2",), ("crossmoda_10",)]
        assert [c.exit_code for c in record.containers] == [0, 5, 0]
        assert [bool(c.problems) for c in record.cases] == [False, True, False]
        assert "(crossmoda_2): expected exit code 0, got 5" in str(record.failures[0])
        assert left_on(engine, image) == []

    def test_a_case_alone_sees_no_other(self, submission, folders):
        _, watcher = run(submission("surroundings"), folders, per_case=True)
        assert [line for line in watcher.lines if line.startswith("sees")] == [
            "sees crossmoda_1_hrT2.nii.gz",
            "sees crossmoda_2_hrT2.nii.gz",
            "sees crossmoda_10_hrT2.nii.gz",
        ]

    def test_a_log_without_end_keeps_its_tail(self, submission, folders):
        record, watcher = run(submission("flood"), folders)
        assert record.succeeded
        assert len(watcher.lines) == 100_003
        assert record.containers[0].log_tail[-4].startswith("99999 x")


@pytest.mark.engine
class TestFailures:
    def test_an_exit_code(self, engine, submission, folders):
        image = submission("exit")
        record, watcher = run(image, folders)
        (failure,) = record.failures
        assert isinstance(failure, ExitError)
        assert "expected exit code 0, got 3" in str(failure)
        # Both streams, without the escapes that would reach the reader's terminal.
        assert failure.log_tail == ("loading weights", "no weights for fold 2")
        assert str(failure).endswith("no weights for fold 2")
        assert watcher.failures == [failure.reason]
        assert not record.succeeded
        assert left_on(engine, image) == []

    def test_the_time_limit(self, engine, submission, folders):
        image = submission("sleep")
        before = time.monotonic()
        record, _ = run(image, folders, timeout_s=3.0)
        assert time.monotonic() - before < 20
        (failure,) = record.failures
        assert isinstance(failure, TimeLimitError)
        assert "expected an end within 3 s" in str(failure)
        assert failure.log_tail == ("wrote crossmoda_10_Label.nii.gz",)
        assert [bool(c.problems) for c in record.cases] == [True, True, False]
        assert left_on(engine, image) == []

    def test_the_memory_limit(self, submission, folders):
        record, _ = run(submission("memory"), folders, memory_bytes=64 * 2**20)
        (failure,) = record.failures
        assert isinstance(failure, OutOfMemoryError)
        assert "expected to stay within 0.0625 GB" in str(failure)

    def test_no_such_image(self, engine, folders):
        with pytest.raises(ImageMissingError, match=r"no-such:image: expected an image that this Docker engine has"):
            run("no-such:image", folders)

    def test_no_such_command(self, engine, submission, folders):
        image = submission("command", command="no-such-command")
        record, _ = run(image, folders)
        (failure,) = record.failures
        assert isinstance(failure, StartError)
        assert "no-such-command" in str(failure)
        assert left_on(engine, image) == []

    def test_no_gpu(self, engine, submission, folders):
        if "nvidia" in engine.info().get("Runtimes", {}):
            pytest.skip("this engine has GPUs to give")
        record, _ = run(submission("none"), folders, gpus="all")
        assert isinstance(record.failures[0], StartError)
        assert "leave --gpus out" in str(record.failures[0])

    def test_a_container_that_somebody_removes(self, engine, submission, folders):
        image = submission("sleep")

        class Remover(Recorder):
            def case_done(self, number, total, case, seconds):
                (own,) = [c for c in containers_of(engine, image) if c.attrs["Config"]["Entrypoint"] != ["/keeper"]]
                own.remove(force=True)

        record = run_submission(Settings(image, memory_bytes=MEMORY), *folders, observer=Remover())
        assert "removed from outside" in str(record.failures[0])


def test_no_engine(folders, monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    with pytest.raises(EngineUnreachableError, match=r"Docker engine: expected an answer at unix://.*no.sock"):
        run("any", folders)


@pytest.mark.engine
class TestWhatCameBack:
    def test_float_labels_on_another_grid(self, submission, folders):
        record, _ = run(submission("grid"), folders)
        assert not record.succeeded
        assert record.failures == []
        grid, labels = record.cases[0].problems
        assert "expected the scan's grid (16 x 20 x 12 voxels, 0.5 x 0.5 x 1.5 mm" in grid
        assert "got 16 x 20 x 12 voxels, 1 x 1 x 3 mm" in grid
        assert "expected the labels 0, 1, 2 alone, got 0.5, 3 in 2 voxels" in labels
        assert record.cases[0].warnings == (
            "crossmoda_1_Label.nii.gz: expected an integer type, got float32",
            "crossmoda_1_Label.nii.gz: expected every structure, got no voxel of Cochlea",
        )

    def test_another_name(self, submission, folders):
        record, _ = run(submission("name"), folders)
        assert record.cases[0].problems == (
            "crossmoda_1_Label.nii.gz: expected a label map, got none but crossmoda_1.nii.gz; "
            "name it crossmoda_1_Label.nii.gz",
        )
        assert record.extra == ("crossmoda_1.nii.gz", "crossmoda_10.nii.gz", "crossmoda_2.nii.gz")

    def test_background_alone(self, submission, folders):
        record, _ = run(submission("empty"), folders)
        assert record.succeeded
        assert record.cases[0].warnings == (
            "crossmoda_1_Label.nii.gz: expected VS and Cochlea, got neither: the map is background alone",
        )

    def test_a_link_is_not_followed(self, submission, folders):
        record, _ = run(submission("link"), folders)
        assert record.cases[0].problems == (
            "crossmoda_1_Label.nii.gz: expected a file, got a link; write the file itself",
        )
        assert [entry.name for entry in folders[1].iterdir()] == ["run.json"]


@pytest.mark.engine
class TestCommand:
    def test_a_sound_submission_is_scored(self, submission, folders, tmp_path):
        image = submission("none")
        (tmp_path / "reference").mkdir()
        for number in (1, 2, 10):
            labels = np.zeros((12, 20, 16), np.uint8)
            labels[0, 0, :2] = (1, 2)  # what the submission writes
            sitk.WriteImage(make_image(labels), str(tmp_path / "reference" / f"crossmoda_{number}_Label.nii.gz"))
        more = ("--reference", tmp_path / "reference", "--csv", tmp_path / "scores.csv", "--memory", "256m")
        result = CliRunner().invoke(main, command(image, folders, *more))
        assert result.exit_code == 0, result.output
        assert "1/3 " in result.stderr
        assert "| wrote crossmoda_10_Label.nii.gz" in result.stderr
        assert "1 container" in result.stdout
        assert "VS Dice" in result.stdout
        header, *rows = (tmp_path / "scores.csv").read_text().splitlines()
        assert header.startswith("Case,VS_Dice,VS_ASSD,Cochlea_Dice,Cochlea_ASSD,Team")
        assert len(rows) == 3
        assert rows[2].startswith(f"crossmoda_10,1.0,0.0,1.0,0.0,{image}")
        assert json.loads((folders[1] / "run.json").read_text())["succeeded"] is True

    def test_a_failing_submission(self, submission, folders):
        image = submission("exit")
        result = CliRunner().invoke(main, command(image, folders))
        assert result.exit_code == 1
        assert f"failed (exit): {image}: expected exit code 0, got 3" in result.stderr
        assert result.stderr.endswith("  no weights for fold 2\n")
        assert "crossmoda_1_Label.nii.gz: expected a label map, got none; see the log" in result.stdout

    def test_no_such_image(self, engine, folders):
        result = CliRunner().invoke(main, command("no-such:image", folders))
        assert result.exit_code == 1
        assert result.stderr.startswith("Error: no-such:image: expected an image that this Docker engine has, got none")

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_an_interrupted_run_leaves_no_container(self, engine, submission, folders, number):
        image = submission("sleep")
        arguments = [sys.executable, "-m", "crossmoda_grl", *command(image, folders)]
        process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
        for line in process.stderr:
            if line.startswith("1/3 "):
                break
        assert len(containers_of(engine, image)) == 2  # its own and the keeper
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 128 + number
        assert f"interrupted by {number.name}" in errors
        assert left_on(engine, image) == []
        document = json.loads((folders[1] / "run.json").read_text())
        assert document["containers"][0]["failure"]["kind"] == "unfinished"
        assert all("the run ended before" in case["problems"][0] for case in document["cases"])

    def test_the_next_run_removes_what_a_killed_runner_left(self, engine, submission, folders, tmp_path):
        image = submission("sleep")
        arguments = [sys.executable, "-m", "crossmoda_grl", *command(image, folders)]
        process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
        for line in process.stderr:
            if line.startswith("1/3 "):
                break
        beside, _ = run(submission("exit"), (folders[0], tmp_path / "beside"))
        assert beside.cases
        assert len(containers_of(engine, image)) == 2  # the first run lives, so it keeps what is its own
        process.kill()
        process.communicate(timeout=30)
        assert len(left_on(engine, image)) == 4  # with the keeper's volume and image
        run(submission("exit"), (folders[0], tmp_path / "next"))
        assert left_on(engine, image) == []


def test_references_in_sight_of_the_submission(folders):
    (folders[0] / "reference").mkdir()
    result = CliRunner().invoke(main, command("any", folders, "--reference", folders[0] / "reference"))
    assert result.exit_code == 1
    assert "expected references that the submission cannot see" in result.stderr


def test_the_engine_is_named_when_it_does_not_answer(folders, monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    result = CliRunner().invoke(main, command("any", folders))
    assert result.exit_code == 1
    assert "Error: Docker engine: expected an answer at unix://" in result.stderr
