"""The record of a run."""

import json

from evaluation.runner.record import RunRecord, Settings, write_record


def test_a_record_replaces_a_link(tmp_path):
    record = RunRecord(Settings("i"), "", "", "", "", False, "", 0.0, (), (), ())
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    for name in ("run.json", ".partial-run.json"):
        (tmp_path / name).symlink_to(victim)
    write_record(record, tmp_path / "run.json")
    assert victim.read_text() == "untouched"
    assert json.loads((tmp_path / "run.json").read_text())["succeeded"] is True
