"""Hostile images on a real engine: whatever one does, the same few things hold."""

import json
import os
import stat

import nibabel
import numpy as np
import pytest

from evaluation.runner import output as output_module
from evaluation.runner.keeper import NoCappedVolumeError
from tests.evaluation.runner.submissions import left_on, run
from tests.images import write_scan

MB = 2**20
LIMIT_BYTES, LIMIT_FILES = 8 * MB, 200
CASES = range(1, 17)

# What is said of an attack: the kind of failure, or None where the container ends with exit code 0; and how many of the
# label maps are accepted, where that does not depend on the moment.
ATTACKS = {
    "labels": (None, 1),
    "names": (None, 16),
    "bytes": ("output", 0),
    "unlinked": ("output", 0),
    "files": ("output", 0),
    "nest": ("output", 0),
    "swap": (None, None),
    "lock": (None, None),
    "lines": (None, 16),
    "line": (None, 16),
    "everywhere": (None, 16),
    "tmp": ("memory", 0),
    "shm": ("memory", 0),
    "forks": ("timeout", 0),
}
# Where the limit is polled: whatever touches the output.
POLLED = ("labels", "names", "bytes", "files", "nest", "swap", "lock")


@pytest.fixture
def place(tmp_path):
    """Scans, an output folder, and a victim beside them."""
    (tmp_path / "in").mkdir()
    for number in CASES:
        write_scan(tmp_path / "in" / f"crossmoda_{number}_hrT2.nii.gz")
    (tmp_path / "victim").write_text("untouched")
    return tmp_path / "in", tmp_path / "out"


def contents(folder):
    return {
        path.relative_to(folder): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in folder.rglob("*")
        if "out" not in path.relative_to(folder).parts
    }


@pytest.mark.engine
@pytest.mark.parametrize(
    ("attack", "capped"), [*((attack, True) for attack in ATTACKS), *((attack, False) for attack in POLLED)]
)
def test_what_holds_whatever_an_image_does(engine, submission, place, monkeypatch, attack, capped):
    if not capped:

        def refuse(*_):
            raise NoCappedVolumeError

        monkeypatch.setattr(output_module, "capped_volume", refuse)
    kind, accepted = ATTACKS[attack]
    image = submission(attack, script="hostile.py", further=["RUN mkdir /data", 'VOLUME ["/data"]'])
    before = contents(place[0].parent)
    limits = {"max_output_bytes": LIMIT_BYTES, "max_output_files": LIMIT_FILES, "pids": 64}
    record, watcher = run(image, place, timeout_s=5.0 if kind == "timeout" else 25.0, **limits)
    assert [failure.kind for failure in record.failures] == ([kind] if kind else [])
    assert record.containers[0].output_capped is capped
    assert record.seconds < 30
    # Nothing outside the output, nothing left running.
    assert contents(place[0].parent) == before
    assert left_on(engine, image) == []
    # The record is there, whatever was tried.
    document = json.loads((place[1] / "run.json").read_text(encoding="utf-8"))
    assert len(document["cases"]) == len(CASES)
    assert len(document["extra"]) <= 20
    # Nothing but the expected names came out, as plain files, within the limit.
    written = {path.name: path.lstat() for path in place[1].iterdir()}
    assert written.keys() - {"run.json"} <= {f"crossmoda_{number}_Label.nii.gz" for number in CASES}
    assert all(stat.S_ISREG(entry.st_mode) and not entry.st_mode & 0o7111 for entry in written.values())
    assert all(entry.st_uid == os.getuid() for entry in written.values())
    assert sum(entry.st_size for name, entry in written.items() if name != "run.json") <= LIMIT_BYTES
    # What is shown is printable.
    assert all(line.isprintable() for line in watcher.lines)
    problems = [problem for case in record.cases for problem in case.problems]
    assert all(text.isprintable() for text in (*problems, *record.extra))
    # What was accepted is on the scan's grid and holds the contract's labels, as another reader has it.
    sound = [case.case for case in record.cases if not case.problems]
    assert accepted in (None, len(sound)), problems
    for case in sound:
        labels = nibabel.load(place[1] / f"{case}_Label.nii.gz")
        scan = nibabel.load(place[0] / f"{case}_hrT2.nii.gz")
        np.testing.assert_allclose(labels.affine, scan.affine, atol=1e-3)
        assert labels.shape == scan.shape
        assert not np.asanyarray(labels.dataobj).any()  # all that hostile.py writes
    if attack == "names":
        assert record.extra_count == 10
    if attack == "everywhere":
        assert not [line for line in watcher.lines if line.startswith("wrote")]
    if attack in ("lines", "line"):
        assert record.containers[0].log_bytes >= 2**26 - 2**17
        assert sum(map(len, watcher.lines)) < 2**25
