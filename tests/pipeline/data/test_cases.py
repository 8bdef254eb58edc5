import numpy as np
import pytest
import SimpleITK as sitk

from challenge.contract import COCHLEA, STRUCTURES, VS
from challenge.nifti import CaseError
from pipeline.data.cases import array_from, find_scans, image_from, read_mask, read_scan, volumes_mm3, write_labels
from tests.images import make_image, noise, write_scan


def test_scans_are_found_in_a_person_s_order_and_the_rest_is_named(tmp_path):
    for name in (
        "crossmoda_10_hrT2",
        "crossmoda_9_hrT2",
        "crossmoda2022_etz_3_hrT2",
        "crossmoda_9_ceT1",
        "Müller x_hrT2",
    ):
        (tmp_path / f"{name}.nii.gz").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "_hrT2.nii.gz").touch()
    (tmp_path / "crossmoda_11_hrT2.nii.gz").mkdir()
    scans, ignored = find_scans(tmp_path)
    assert list(scans) == ["Müller x", "crossmoda2022_etz_3", "crossmoda_9", "crossmoda_10", "crossmoda_11"]
    assert scans["crossmoda_9"] == tmp_path / "crossmoda_9_hrT2.nii.gz"
    assert ignored == ["_hrT2.nii.gz", "crossmoda_9_ceT1.nii.gz", "notes.txt"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_number_are_refused_and_counted(tmp_path, bad):
    array = noise((12, 20, 16), dtype="float32")
    array[3, 4, 5] = array[0, 0, 0] = bad
    with pytest.raises(
        CaseError, match=r"crossmoda_1_hrT2.nii.gz: expected finite voxels, got 2 of 3,840 NaN or infinite"
    ):
        read_scan(write_scan(tmp_path / "crossmoda_1_hrT2.nii.gz", array))


def test_float64_past_float32_is_refused(tmp_path):
    array = noise((12, 20, 16), dtype="float64")
    array[0, 0, 0] = 1e300
    with pytest.raises(CaseError, match="expected voxels in float32's range"):
        read_scan(write_scan(tmp_path / "scan.nii.gz", array))


def test_constant_volume_is_refused(tmp_path):
    path = write_scan(tmp_path / "scan.nii.gz", np.full((12, 20, 16), 7, dtype=np.int16))
    with pytest.raises(CaseError, match="expected a scan with contrast, got 7 in every voxel"):
        read_scan(path)


def test_scan_is_float32_and_its_array_is_z_y_x(tmp_path):
    array = noise((12, 20, 16))
    image = read_scan(write_scan(tmp_path / "scan.nii.gz", array))
    assert image.GetPixelID() == sitk.sitkFloat32
    assert image.GetSize() == (16, 20, 12)
    np.testing.assert_array_equal(array_from(image), array)
    np.testing.assert_array_equal(array_from(image_from(array_from(image), image)), array)


def test_array_of_another_shape_than_the_grid_is_refused():
    grid = make_image(np.zeros((4, 5, 6), dtype=np.float32))
    with pytest.raises(ValueError, match=r"expected shape \(4, 5, 6\), got \(6, 5, 4\)"):
        image_from(np.zeros((6, 5, 4), dtype=np.uint8), grid)


def test_mask_of_a_float64_label_file(tmp_path):
    labels = np.zeros((4, 5, 6))
    labels[1, 2, 3], labels[2, 2, 2] = 1.0, 2.0
    path = write_scan(tmp_path / "case_Label.nii.gz", labels)
    for structure in STRUCTURES:
        mask = read_mask(path, structure)
        assert mask.GetPixelID() == sitk.sitkUInt8
        np.testing.assert_array_equal(sitk.GetArrayFromImage(mask), labels == structure.label)


def test_labels_are_written_as_uint8_on_the_scan_s_grid_and_measured(tmp_path):
    native = make_image(np.zeros((4, 5, 6), dtype=np.float32), (0.5, 0.5, 1.5), (-7, 8, 9))
    labels = np.zeros((4, 5, 6), dtype=np.uint8)
    labels[1, 2, :4] = VS.label
    labels[2, 2, 2] = COCHLEA.label
    write_labels(labels, native, tmp_path / "case_Label.nii.gz")
    written = sitk.ReadImage(str(tmp_path / "case_Label.nii.gz"))
    assert written.GetPixelID() == sitk.sitkUInt8
    assert (written.GetSpacing(), written.GetOrigin()) == (native.GetSpacing(), native.GetOrigin())
    np.testing.assert_array_equal(sitk.GetArrayFromImage(written), labels)
    assert volumes_mm3(labels, native, STRUCTURES) == {VS: 4 * 0.375, COCHLEA: 0.375}
