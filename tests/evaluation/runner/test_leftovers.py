"""Whose is what lies on the engine: a process that lives, one that is gone, or one that cannot be asked."""

import io
import os
import subprocess
import sys
import tarfile

import docker
import pytest

from evaluation.runner.leftovers import OWNER_LABEL, is_gone, labels_of, remove_leftovers

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


@pytest.mark.engine
def test_an_image_that_another_run_removes_meanwhile_stops_nothing(engine, monkeypatch):
    name = f"crossmoda-grl-test-{os.getpid()}:left"
    fields = OURS.split()
    fields[3] = "1"  # a process that is gone
    engine.api.import_image_from_data(
        _empty_archive(), repository=name, changes=[f'LABEL {OWNER_LABEL}="{" ".join(fields)}"']
    )

    def removed_meanwhile(self, image):
        raise docker.errors.ImageNotFound(image)

    with monkeypatch.context() as patch:
        patch.setattr(docker.models.images.ImageCollection, "get", removed_meanwhile)
        remove_leftovers(engine)
    with pytest.raises(docker.errors.ImageNotFound):
        engine.images.get(name)


def _empty_archive():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w"):
        pass
    return buffer.getvalue()
