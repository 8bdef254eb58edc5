"""The folders of a run."""

import pytest

from evaluation.runner.folders import find_mountable_scans, prepare_output
from tests.images import write_scan


class TestFolders:
    def test_no_scans(self, tmp_path):
        with pytest.raises(ValueError, match=r"expected scans named \{case\}_hrT2.nii.gz, got none"):
            find_mountable_scans(tmp_path)

    def test_a_link_out_of_the_input(self, folders, tmp_path):
        outside = write_scan(tmp_path / "crossmoda_3_hrT2.nii.gz")
        (folders[0] / "crossmoda_3_hrT2.nii.gz").symlink_to(outside)
        with pytest.raises(ValueError, match="got a link out of the folder"):
            find_mountable_scans(folders[0])

    def test_label_maps_from_before(self, folders):
        folders[1].mkdir()
        (folders[1] / "crossmoda_2_Label.nii.gz").touch()
        with pytest.raises(ValueError, match=r"got 1 from before, crossmoda_2_Label.nii.gz the first"):
            prepare_output(folders[1], find_mountable_scans(folders[0]))
