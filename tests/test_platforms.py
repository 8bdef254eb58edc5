"""Where Linux's own calls are missing, as on Windows: `evaluate` and `predict` run, and what cannot run says so."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.images import noise, write_scan
from tests.segmenters import write_narrow_weights

ROOT = Path(__file__).parent.parent

# Python imports this module by itself, before any other, also in processes that a process spawns.
HIDE = """
import os, signal, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in {"fcntl", "resource", "grp", "pwd", "termios"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
os.supports_dir_fd.clear()
for name in (
    "O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK chown fchmod fchown fstatvfs fwalk getegid geteuid getgid getloadavg "
    "getuid killpg lchown mkfifo sched_getaffinity setsid statvfs"
).split():
    delattr(os, name)
for name in "SIGALRM SIGHUP SIGKILL SIGUSR1 SIG_BLOCK SIG_SETMASK alarm pthread_sigmask setitimer".split():
    delattr(signal, name)

import shutil, types
shutil.disk_usage = lambda path: types.SimpleNamespace(free=2**20)  # Windows has it, by other means
"""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """Run Python with these arguments on such a system."""
    folder = tmp_path_factory.mktemp("hidden")
    (folder / "sitecustomize.py").write_text(HIDE)
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "USER": "somebody"}

    def python(*arguments):
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return python


@pytest.fixture(scope="module")
def command(elsewhere):
    return lambda *arguments: elsewhere("-m", "crossmoda_grl", *arguments)


def test_the_calls_are_hidden(elsewhere):
    code = "import os, signal; print(hasattr(signal, 'SIGHUP'), hasattr(os, 'statvfs')); import fcntl"
    done = elsewhere("-c", code)
    assert done.stdout == "False False\n"
    assert "No module named 'fcntl'" in done.stderr


def test_evaluate_scores_in_several_processes_ranks_and_reports(command, tmp_path):
    labels = np.zeros((6, 12, 14), np.uint8)
    labels[2:4, 3:8, 3:7], labels[2:4, 3:8, 9:12] = 1, 2
    for folder in ("reference", "teams/a", "teams/b"):
        (tmp_path / folder).mkdir(parents=True)
        for case in (1, 2):
            moved = np.roll(labels, 1, axis=1) if folder.endswith("b") else labels
            write_scan(tmp_path / folder / f"crossmoda_{case}_Label.nii.gz", moved)
    scores, ranking, page = tmp_path / "scores.json", tmp_path / "ranking.json", tmp_path / "report.html"
    folders = ("--reference", tmp_path / "reference", "--prediction", tmp_path / "teams")
    done = command("evaluate", "score", *folders, "--jobs", 2, "--json", scores)
    assert done.returncode == 0, done.stderr
    done = command("evaluate", "rank", scores, "--samples", 20, "--json", ranking)
    assert done.returncode == 0, done.stderr
    assert json.loads(ranking.read_text())["ranks"] == {"a": 1, "b": 2}
    done = command("evaluate", "report", scores, *folders, "--samples", 20, "--out", page)
    assert done.returncode == 0, done.stderr
    assert page.read_text().rstrip().endswith("</html>")


def test_predict_segments(command, tmp_path):
    (tmp_path / "in").mkdir()
    write_scan(tmp_path / "in" / "crossmoda_1_hrT2.nii.gz", noise((12, 20, 16)))
    weights = write_narrow_weights(tmp_path / "weights")
    folders = ("--input", tmp_path / "in", "--output", tmp_path / "out", "--weights", weights, "--device", "cpu")
    done = command("predict", *folders)
    assert done.returncode == 0, done.stderr
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["crossmoda_1_Label.nii.gz", "predictions.csv", "predictions.json"]


def test_training_says_that_it_needs_linux(command):
    done = command("train", "--data", ".", "--runs", "runs")
    assert done.returncode == 1
    assert "Error: train: expected Linux, whose file locks keep runs whole" in done.stderr
    assert "Traceback" not in done.stderr


def test_running_a_submission_says_so_too(command, tmp_path):
    done = command("evaluate", "run", "image", "--input", tmp_path, "--output", tmp_path / "out")
    assert done.returncode == 1
    assert "Error: evaluate run: expected Linux" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_file_is_written_whole_or_refused(elsewhere, tmp_path):
    code = """
import sys
from pathlib import Path
import SimpleITK as sitk
from challenge.files import only_writer, write_text
from challenge.nifti import write_image
folder = Path(sys.argv[1])
with only_writer(folder), only_writer(folder):
    write_text(folder / "text", "old")
    write_text(folder / "text", "new")
try:
    write_image(sitk.Image(2, 2, 2, sitk.sitkUInt8), folder / b"\\xff.nii.gz".decode(errors="surrogateescape"))
except OSError as error:
    print("could not be written whole, 1.0 MB are free there" in str(error))
"""
    done = elsewhere("-c", code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True\n"
    assert [path.name for path in tmp_path.iterdir()] == ["text"]
    assert (tmp_path / "text").read_text() == "new"
