"""Several processes at one study on a real PostgreSQL server: no work twice, none lost, N trials in all."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sql

from pipeline.tuning.storage import StudyError, storage_at
from pipeline.tuning.study import load_study, open_study, rows_of
from tests.postgres import postgres_server
from tests.tiny_search import search_plan

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
ROOT = Path(__file__).parents[3]
TRIALS = 5


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres_server() as url:
        yield url


def process(url: str, folder: Path, *fate: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.tiny_search", url, str(folder), str(TRIALS), *fate]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def test_two_processes_share_the_trials_and_one_is_killed_amid_its_own(server: str, tmp_path: Path) -> None:
    doomed, other = process(server, tmp_path / "runs", "die"), process(server, tmp_path / "runs")
    ends = [(p.communicate(timeout=500)[1], p.returncode) for p in (doomed, other)]
    assert [code for _, code in ends] == [-9, 0], ends
    study = load_study(storage_at(server), "tiny")
    rows = rows_of(study)
    (killed,) = [row for row in rows if row.state == "retried"]
    (again,) = [row for row in rows if row.note == f"retry of trial {killed.number}"]
    assert killed.note == f"its process died; retried as trial {again.number}"
    assert again.values == killed.values
    # It resumed from the checkpoint of the first epoch: its score is known, and it was not trained again.
    trials = study.get_trials()
    assert trials[killed.number].intermediate_values.items() <= trials[again.number].intermediate_values.items()
    # N in all, each at a point of its own, the paper's once.
    complete = [row for row in rows if row.state == "complete"]
    assert len(complete) == len(rows) - 1 == TRIALS
    assert len({tuple(row.values.values()) for row in complete}) == TRIALS
    assert [row.values for row in rows if row.number == 0] == [{"learning_rate": 1e-3, "dice_weight": 3.4}]
    # The folder of the trial is one, whoever was at it, and small.
    folders = sorted((tmp_path / "runs" / "trials").iterdir())
    assert len(folders) == TRIALS
    assert not list((tmp_path / "runs").rglob("checkpoint.pt"))
    # Both were at work, of whom one ended amid its first trial.
    processes = {trial.user_attrs["process"] for trial in trials}
    assert len(processes) == 2


def test_processes_that_begin_at_once_make_one_study(server: str, tmp_path: Path) -> None:
    """Its tables, its settings and the paper's point: whoever comes second finds them."""
    # The server was set up without a locale, as `initdb` does where none is set: it must be told how to encode.
    told = {"client_encoding": "utf8"}
    engine = sql.create_engine(storage_at(server).url, isolation_level="AUTOCOMMIT", connect_args=told)
    with engine.connect() as connection:
        connection.execute(sql.text("CREATE DATABASE fresh"))
    url = server.removesuffix("postgres") + "fresh"
    code = (
        "import sys; from pipeline.tuning.storage import storage_at; from pipeline.tuning.study import open_study; "
        "from tests.tiny_search import search_plan; "
        "open_study(search_plan(), storage_at(sys.argv[1]), 'tiny')"
    )
    at_once = [
        subprocess.Popen([sys.executable, "-c", code, url], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [(p.communicate(timeout=500)[1], p.returncode) for p in at_once] == [("", 0)] * 2
    study = open_study(search_plan(), storage_at(url), "tiny")
    assert [row.state for row in rows_of(study)] == ["waiting"]


def test_a_server_that_is_not_there_is_said_without_the_password() -> None:
    with pytest.raises(StudyError) as refused:
        load_study(storage_at("postgresql://grl:secret@127.0.0.1:1/postgres"), "tiny")
    assert "Connection refused" in str(refused.value)
    assert "grl:***@127.0.0.1:1/postgres: expected it to answer" in str(refused.value)
    assert "secret" not in str(refused.value)
