"""The record of a run."""

import json

import pytest

from challenge.names import shown_briefly
from evaluation.runner.record import RunRecord, Settings, write_record


def test_a_record_replaces_a_link(tmp_path):
    record = RunRecord(Settings("i"), "", "", "", "", False, "", 0.0, (), ())
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / "run.json").symlink_to(victim)
    write_record(record, tmp_path / "run.json")
    assert victim.read_text() == "untouched"
    assert json.loads((tmp_path / "run.json").read_text())["succeeded"] is True


@pytest.mark.parametrize(
    "name", [b"\xff", b"a\x1b[2Jb", "\u202egpj.exe".encode(), b"\n", b"x" * 5000, "läuft".encode()]
)
def test_names_of_any_bytes_are_shown_and_recorded(tmp_path, name):
    text = name.decode("utf-8", "surrogateescape")
    assert shown_briefly(text).isprintable()
    assert len(shown_briefly(text)) <= 103
    write_record(RunRecord(Settings(text), "", "", text, "", False, "", 0.0, (), ()), tmp_path / "run.json")
    assert json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["settings"]["image"] == text
