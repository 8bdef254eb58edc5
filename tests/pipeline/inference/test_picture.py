import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.image import imread

from challenge.contract import label_file
from challenge.nifti import CaseError
from crossmoda_grl.__main__ import main
from pipeline.inference.picture import PicturedCase, draw_picture, read_pictured_case
from tests.images import FLIPPED, noise, write_scan


@pytest.fixture
def folders(tmp_path):
    for name in ("scans", "labels", "reference"):
        (tmp_path / name).mkdir()
    return tmp_path


def labels():
    array = np.zeros((12, 20, 16), dtype="uint8")
    array[4:7, 8:14, 9:13] = 1
    array[5:7, 3:5, 2:4] = array[5:7, 3:5, 12:14] = 2
    return array


def coloured(picture):
    """How many pixels are neither grey nor nearly so."""
    return int((np.ptp(imread(picture)[..., :3], axis=-1) > 0.3).sum())


def test_picture_of_two_cases_shows_outlines_and_grows_by_a_row_a_case(folders):
    for case in ("crossmoda_1", "crossmoda_2", "crossmoda_3"):
        write_scan(folders / "scans" / f"{case}_hrT2.nii.gz")
    for case in ("crossmoda_1", "crossmoda_2"):
        write_scan(folders / "labels" / label_file(case), labels())
        write_scan(folders / "reference" / label_file(case), np.roll(labels(), 1, axis=1))
    arguments = ["picture", "--scans", folders / "scans", "--labels", folders / "labels", "--out", folders / "two.png"]
    result = CliRunner().invoke(main, [str(a) for a in [*arguments, "--reference", folders / "reference"]])
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{folders}/two.png: 2 of 3 cases\n"
    one = [*arguments[:-1], folders / "one.png", "--most", "1"]
    assert CliRunner().invoke(main, [str(a) for a in one]).exit_code == 0
    assert imread(folders / "two.png").shape[0] > 1.7 * imread(folders / "one.png").shape[0]
    assert coloured(folders / "two.png") > 2 * coloured(folders / "one.png") > 200


def test_flipped_scan_is_turned_so_that_the_patient_s_right_is_on_the_reader_s_left(folders):
    """FLIPPED has its second axis from posterior to anterior: its rows come in reverse order."""
    array = noise((12, 20, 16))
    scan = write_scan(folders / "scans" / "a_hrT2.nii.gz", array, direction=FLIPPED)
    write_scan(folders / "labels" / label_file("a"), labels(), direction=FLIPPED)
    case = read_pictured_case("a", scan, folders / "labels", None)
    np.testing.assert_array_equal(case.scan, array[:, ::-1])
    np.testing.assert_array_equal(case.prediction, labels()[:, ::-1])
    assert case.reference is None
    assert case.spacing_mm == (1.5, 0.5, 0.5)


def test_label_map_on_another_grid_is_refused(folders):
    scan = write_scan(folders / "scans" / "a_hrT2.nii.gz")
    write_scan(folders / "labels" / label_file("a"), labels(), spacing_mm=(0.6, 0.5, 1.5))
    with pytest.raises(CaseError, match=r"a_Label.nii.gz: expected the scan's grid .* got 16 x 20 x 12 voxels, 0.6"):
        read_pictured_case("a", scan, folders / "labels", None)


def test_empty_prediction_is_said_in_words_and_no_case_is_an_error(tmp_path):
    empty = np.zeros((12, 20, 16), dtype="uint8")
    draw_picture(
        [PicturedCase("a", noise((12, 20, 16), dtype="float32"), empty, None, (1.5, 0.5, 0.5))], tmp_path / "a.png"
    )
    assert imread(tmp_path / "a.png").shape[1] > 900
    with pytest.raises(ValueError, match="expected at least one case, got none"):
        draw_picture([], tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()
