"""The command `view`."""

import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner

from crossmoda_grl.__main__ import main
from pipeline.inference.viewer import niivue
from tests.images import write_scan
from tests.pipeline.inference.viewer.volumes import prediction, write_case

# A command that must not need torch.
COMMAND = "import sys; sys.modules['torch'] = None; from crossmoda_grl.__main__ import main; main()"
NEEDS_NIIVUE = pytest.mark.skipif(not niivue.BUNDLE.is_file(), reason="NiiVue was not fetched; see docs/view.md")


@pytest.fixture
def folder(tmp_path):
    for case in ("crossmoda_2", "crossmoda_10"):
        write_case(tmp_path, case)
    return tmp_path


def view(*options):
    result = CliRunner().invoke(main, ["view", "--no-browser", *map(str, options)])
    return result.exit_code, result.output


@NEEDS_NIIVUE
def test_it_serves_a_folder_until_ctrl_c(folder):
    references = folder / "references"
    references.mkdir()
    shutil.copy(folder / "crossmoda_2_Reference.nii.gz", references / "crossmoda_2_Label.nii.gz")
    (folder / "crossmoda_10_Label.nii.gz").write_bytes(b"no label map")
    write_scan(folder / "crossmoda_11_hrT2.nii.gz")
    options = ["view", "--no-browser", "--folder", folder, "--reference", references]
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with urllib.request.urlopen(f"{url}cases/0/case.json", timeout=20) as answer:
            assert b'"reference"' in answer.read()
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=20)
    assert process.returncode == 0, told
    assert "without a label map, not shown: crossmoda_11\n" in told
    assert "crossmoda_10 is not shown: crossmoda_10_Label.nii.gz: expected" in told
    assert told.endswith("stop with Ctrl-C\nstopped\n")


@pytest.mark.parametrize("options", [[], ["--labels", "x"], ["--scan", "x"], ["--scan", "x", "--folder", "y"]])
def test_a_scan_or_a_folder_must_be_named(options):
    code, told = view(*options)
    assert code == 2
    assert "expected --scan FILE with --labels FILE, or --folder DIR" in told


def test_folders_with_nothing_to_show(folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    code, told = view("--folder", empty)
    assert (code, "name another folder with --folder" in told) == (1, True), told
    code, told = view("--folder", folder, "--labels", empty)
    assert (code, f"{empty}: expected label maps of the scans in" in told) == (1, True), told
    for path in folder.glob("*_Label.nii.gz"):
        write_scan(path, prediction()[:-1])
    code, told = view("--folder", folder)
    assert code == 1
    assert "crossmoda_10 is not shown: crossmoda_10_Label.nii.gz: expected the scan's grid" in told
    assert "expected a case that can be shown, got none" in told


def test_without_niivue_the_command_says_how_to_get_it(folder, monkeypatch):
    monkeypatch.setattr(niivue, "BUNDLE", Path("nowhere") / "niivue.js")
    code, told = view("--folder", folder)
    assert code == 1
    assert "fetch it with: python -m pipeline.inference.viewer.niivue" in told


@NEEDS_NIIVUE
def test_a_bad_scan_ends_the_command(folder):
    files = write_case(folder, "crossmoda_3")
    files.scan.write_bytes(files.scan.read_bytes()[:-40])
    code, told = view("--scan", files.scan, "--labels", files.labels)
    assert code == 1
    assert "Error: crossmoda_3_hrT2.nii.gz: expected" in told
