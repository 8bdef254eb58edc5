"""Batch norm's statistics of the scans at hand: same scans, same statistics; bad scans are left out."""

import dataclasses

import numpy as np
import pytest
import torch

from challenge.contract import STRUCTURES, VS
from pipeline.inference.target_statistics import with_cohort_statistics
from pipeline.model.weights import load_segmenter
from tests.images import noise, write_scan
from tests.segmenters import write_narrow_weights


@pytest.fixture(scope="module")
def segmenters(tmp_path_factory):
    folder = write_narrow_weights(tmp_path_factory.mktemp("weights"))
    return [load_segmenter(folder, structure, torch.device("cpu")) for structure in STRUCTURES]


@pytest.fixture
def scans(tmp_path):
    return {f"case_{n}": write_scan(tmp_path / f"case_{n}_hrT2.nii.gz", noise((12, 20, 16), seed=n)) for n in range(3)}


def statistics(segmenter):
    return {name: value for name, value in segmenter.network.state_dict().items() if "running" in name}


def same(first, second):
    return all(torch.equal(value, statistics(second)[name]) for name, value in statistics(first).items())


@pytest.mark.parametrize("count", [1, 3])
def test_statistics_change_the_same_way_every_time_and_the_networks_given_are_left_alone(segmenters, scans, count):
    cohort, told = dict(list(scans.items())[:count]), []
    before = [{name: value.clone() for name, value in s.network.state_dict().items()} for s in segmenters]
    first, second = (with_cohort_statistics(segmenters, cohort, told.append) for _ in range(2))
    for given, kept, one, two in zip(segmenters, before, first, second, strict=True):
        assert one == dataclasses.replace(given, network=one.network)
        assert not same(given, one)
        assert same(one, two)
        assert not one.network.training
        assert all(torch.equal(value, kept[name]) for name, value in given.network.state_dict().items())
    assert told[0] == f"statistics: re-estimated on {count} scan{'s' * (count > 1)}, 4 patches of each"


def test_a_bad_scan_is_left_out_and_told_once(segmenters, scans):
    told = []
    expected = with_cohort_statistics(segmenters, {c: p for c, p in scans.items() if c != "case_1"}, told.append)
    told.clear()
    scans["case_1"].write_bytes(b"hello" * 999)
    adapted = with_cohort_statistics(segmenters, scans, told.append)
    assert all(same(one, two) for one, two in zip(expected, adapted, strict=True))
    assert len(told) == 2
    assert told[0].startswith("statistics: case_1 is left out: case_1_hrT2.nii.gz: expected a NIfTI file")
    assert told[1].startswith("statistics: re-estimated on 2 scans")


def test_without_a_usable_scan_the_networks_stay_as_they_are(segmenters, tmp_path):
    told = []
    flat = write_scan(tmp_path / "a_hrT2.nii.gz", np.full((4, 4, 4), 9, dtype="int16"))
    assert with_cohort_statistics(segmenters, {"a": flat}, told.append) == segmenters
    assert told[-1] == "statistics: no scan can be used; the networks keep their own"
    assert segmenters[0].structure == VS
