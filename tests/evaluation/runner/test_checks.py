"""Checks of the label maps that come back."""

import os

import numpy as np
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

    def test_a_folder_and_a_pipe(self, folders, tmp_path):
        (tmp_path / "crossmoda_1_Label.nii.gz").mkdir()
        os.mkfifo(tmp_path / "crossmoda_2_Label.nii.gz")
        for number, kind in ((1, "a folder"), (2, "a special file")):
            scan = folders[0] / f"crossmoda_{number}_hrT2.nii.gz"
            assert f"got {kind}" in check_label_map(f"crossmoda_{number}", scan, tmp_path).problems[0]
