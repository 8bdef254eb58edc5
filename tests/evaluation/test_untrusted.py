"""Label maps of somebody else: none takes the others with it, and none leads to the reference."""

import os
import tracemalloc

import numpy as np
import pytest

from evaluation import scoring
from evaluation.cohort import score_cohorts
from evaluation.scoring import Status, score_case
from tests.evaluation.cohorts import Folders
from tests.images import DIM, edit_header, pack, write_scan


@pytest.fixture
def folders(tmp_path):
    return Folders(tmp_path)


def statuses(folders):
    [cohort] = score_cohorts(folders.reference, {"a": folders.prediction})
    return [{s.status for s in result.structures.values()} for result in cohort.results], cohort


@pytest.mark.timeout(60)
@pytest.mark.parametrize("trap", ["link to the reference", "pipe", "device"])
def test_what_is_no_file_of_the_team_is_refused_and_the_rest_scored(folders, trap):
    path = folders.predicted("crossmoda_9")
    path.unlink()
    match trap:
        case "link to the reference":
            path.symlink_to(folders.reference / path.name)
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
    (first, second), cohort = statuses(folders)
    assert Status.REFUSED in first
    assert Status.SCORED in second
    assert "expected a file, got" in cohort.results[0].problem


def test_a_map_of_another_size_is_refused_before_its_voxels_are_read(tmp_path):
    reference = write_scan(tmp_path / "reference.nii.gz", np.ones((4, 5, 6), np.uint8))
    huge = write_scan(tmp_path / "huge.nii.gz", np.zeros((4, 5, 6), np.uint8))
    edit_header(huge, pack("4h", DIM, 3, 400, 400, 400))
    tracemalloc.start()
    [scores] = score_case("x", reference, [huge])
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
    assert "expected the reference's size 6 x 5 x 4, got 400 x 400 x 400" in scores.problem


@pytest.mark.parametrize("error", [RuntimeError("odd"), MemoryError(), KeyError("x"), ZeroDivisionError()])
def test_any_exception_is_that_file_s_refusal(folders, monkeypatch, error):
    sound = scoring.score_masks
    calls = []

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise error
        return sound(*arguments)

    monkeypatch.setattr(scoring, "score_masks", failing)
    (first, second), cohort = statuses(folders)
    assert Status.REFUSED in first
    assert Status.SCORED in second
    assert "expected a label map that can be scored" in cohort.results[0].problem
