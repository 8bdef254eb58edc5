"""Checks of the label maps that come back."""

import numpy as np
import pytest
import SimpleITK as sitk

from evaluation.runner.checks import check_label_map
from tests.images import make_image


class TestCheckLabelMap:
    def test_another_size(self, folders, tmp_path):
        labels = np.zeros((12, 20, 15), np.uint8)
        sitk.WriteImage(make_image(labels), str(tmp_path / "crossmoda_1_Label.nii.gz"))
        outcome = check_label_map("crossmoda_1", folders[0] / "crossmoda_1_hrT2.nii.gz", tmp_path)
        assert "got 15 x 20 x 12 voxels" in outcome.problems[0]

    def test_damage(self, folders, tmp_path):
        (tmp_path / "crossmoda_1_Label.nii.gz").write_bytes(b"no gzip")
        outcome = check_label_map("crossmoda_1", folders[0] / "crossmoda_1_hrT2.nii.gz", tmp_path)
        assert "crossmoda_1_Label.nii.gz: expected" in outcome.problems[0]

    @pytest.mark.parametrize("error", [ValueError("a\nb"), MemoryError(), RuntimeError("\x1b[31m"), RecursionError()])
    def test_whatever_goes_wrong_is_the_case_s_problem(self, folders, tmp_path, monkeypatch, error):
        def fail(_):
            raise error

        monkeypatch.setattr("evaluation.runner.checks.read_geometry", fail)
        (problem,) = check_label_map("crossmoda_1", folders[0] / "crossmoda_1_hrT2.nii.gz", tmp_path).problems
        assert f"expected a label map that can be checked, got {type(error).__name__}" in problem
        assert problem.isprintable()
