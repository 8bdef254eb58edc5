"""Reading ahead and writing behind, with stages that tell when they ran and in which thread."""

import threading

import pytest

from pipeline.inference import overlapped as module
from pipeline.inference.overlapped import overlapped

MAIN = threading.main_thread()


def test_results_come_in_order_and_the_work_stays_in_the_main_thread():
    threads = {}

    def stage(name):
        def run(item, _=None):
            threads.setdefault(name, set()).add(threading.current_thread())
            return f"{name} {item}"

        return run

    assert list(overlapped("abc", stage("read"), stage("work"), stage("write"))) == ["write a", "write b", "write c"]
    assert threads["work"] == {MAIN}
    assert MAIN not in threads["read"] | threads["write"]
    assert list(overlapped("", stage("read"), stage("work"), stage("write"))) == []


def test_next_is_read_and_last_is_written_during_the_work(monkeypatch):
    """The work on b waits until c is read and a is being written; both would hang if they ran in turn."""
    monkeypatch.setattr(module, "_PROMPT_SECONDS", 0.0)
    c_is_read, b_is_worked = threading.Event(), threading.Event()

    def read(item):
        if item == "c":
            c_is_read.set()
        return item

    def work(item, _):
        if item == "b":
            assert c_is_read.wait(30)
            b_is_worked.set()
        return item

    def write(item, _):
        if item == "a":
            assert b_is_worked.wait(30)
        return item

    assert list(overlapped("abc", read, work, write)) == ["a", "b", "c"]


def test_outcome_is_told_before_the_next_work_begins():
    told = []
    for item in overlapped("ab", lambda i: i, lambda i, _: told.append(f"work {i}"), lambda i, _: i):
        told.append(f"told {item}")
    assert told == ["work a", "told a", "work b", "told b"]


def test_no_more_than_one_is_read_ahead():
    read = []

    def work(item, _):
        assert len(read) <= item + 2
        return item

    assert list(overlapped(range(9), read.append, work, lambda item, _: item)) == list(range(9))


def test_interruption_ends_it_and_what_is_written_is_whole(monkeypatch):
    monkeypatch.setattr(module, "_PROMPT_SECONDS", 0.0)
    interrupted, written, read = threading.Event(), [], []

    def work(item, _):
        if item == 1:
            interrupted.set()
            raise KeyboardInterrupt
        return item

    def write(item, _):
        assert interrupted.wait(30)
        written.append(item)
        return item

    with pytest.raises(KeyboardInterrupt):
        list(overlapped(range(9), read.append, work, write))
    assert written == [0]
    assert len(read) <= 3
