"""Whose is what lies on the engine: a process that lives, one that is gone, or one that cannot be asked."""

import os
import subprocess
import sys

import pytest

from evaluation.runner.leftovers import OWNER_LABEL, is_gone, labels_of

OURS = labels_of("image")[OWNER_LABEL]


def test_this_process_is_not_gone():
    assert OURS.split()[2] == str(os.getpid())
    assert not is_gone(OURS)


def test_a_process_that_has_ended_is_gone():
    code = "from evaluation.runner.leftovers import *; print(labels_of('image')[OWNER_LABEL])"
    owner = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert is_gone(owner)


@pytest.mark.parametrize(("place", "value"), [(1, "another-boot"), (3, "1")])
def test_another_boot_and_another_process_of_the_number_are_gone(place, value):
    fields = OURS.split()
    fields[place] = value
    assert is_gone(" ".join(fields))


@pytest.mark.parametrize(
    "owner",
    ["", "host", f"elsewhere {' '.join(OURS.split()[1:])}", f"{OURS.split()[0]} - 1 -"],
    ids=["nobody", "no process", "another host", "no Linux"],
)
def test_what_another_host_made_is_never_taken_for_gone(owner):
    assert not is_gone(owner)
