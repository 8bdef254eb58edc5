"""A folder of scans, and the images of submissions with a fault."""

import io
import os
import tarfile
from pathlib import Path

import docker
import pytest

from tests.evaluation.runner.submissions import BASE
from tests.images import write_scan


@pytest.fixture
def folders(tmp_path):
    (tmp_path / "in").mkdir()
    for number in (1, 2, 10):
        write_scan(tmp_path / "in" / f"crossmoda_{number}_hrT2.nii.gz")
    return tmp_path / "in", tmp_path / "out"


@pytest.fixture(scope="session")
def submission(engine):
    """Make the image of a submission with a fault; return its name."""
    try:
        engine.images.get(BASE)
    except docker.errors.ImageNotFound:
        pytest.skip(f"the engine does not have {BASE}, which the tests build on")
    made = set()

    def make(fault, command="python3", script="submission.py", further=()):
        content = (Path(__file__).parents[2] / script).read_bytes()
        lines = [f"FROM {BASE}", "COPY submission.py /submission.py", *further]
        lines.append(f'CMD ["{command}", "/submission.py", "{fault}"]')
        context = io.BytesIO()
        with tarfile.open(fileobj=context, mode="w") as tar:
            for name, data in (("Dockerfile", "\n".join(lines).encode()), ("submission.py", content)):
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
        context.seek(0)
        tag = f"crossmoda-grl-test-{os.getpid()}:{fault}"  # several processes test at the same time
        engine.images.build(fileobj=context, custom_context=True, tag=tag, rm=True)
        made.add(tag)
        return tag

    yield make
    for tag in made:
        engine.images.remove(tag, force=True)
