"""Cores by affinity and quota, in pictures of `/proc` and `/sys` as both versions of control groups draw them."""

import os

import pytest

from pipeline.runtime.cores import available_cores

HOST = 16


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(HOST)))

    def draw(groups, **files):
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(groups)
        for name, text in files.items():
            path = tmp_path / "sys/fs/cgroup" / name.replace("__", "/").replace("cpu_", "cpu.", 1)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return draw


@pytest.mark.parametrize(("quota", "cores"), [("200000 100000", 2), ("150000 100000", 2), ("50000 100000", 1)])
def test_version_2_as_docker_shows_it_inside(root, quota, cores):
    assert available_cores(root("0::/\n", cpu_max=quota)) == cores


def test_version_2_without_a_quota(root):
    assert available_cores(root("0::/\n", cpu_max="max 100000")) == HOST


def test_version_2_counts_the_groups_around(root):
    drawn = root("0::/slice/unit\n", slice__cpu_max="300000 100000", slice__unit__cpu_max="800000 100000")
    assert available_cores(drawn) == 3


@pytest.mark.parametrize(("quota", "cores"), [("400000", 4), ("-1", HOST)])
def test_version_1_inside_a_container_whose_path_is_the_host_s(root, quota, cores):
    drawn = root("5:memory:/docker/ab\n4:cpu,cpuacct:/docker/ab\n", cpu__cpu_cfs_quota_us=quota)
    (drawn / "sys/fs/cgroup/cpu/cpu.cfs_period_us").write_text("100000")
    assert available_cores(drawn) == cores


def test_affinity_is_a_limit_too(root, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert available_cores(root("0::/\n", cpu_max="200000 100000")) == 1


def test_no_control_groups_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(HOST)))
    assert available_cores(tmp_path) == HOST
