"""DICOM series: read as ITK's own reader has them, or refused with what is wrong."""

import os

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.uid import (
    HEVCMP51,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEGExtended12Bit,
    MediaStorageDirectoryStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from challenge.nifti import CaseError, geometry_of
from pipeline.inference.dicom.files import is_dicom
from pipeline.inference.dicom.series import find_series, read_series, sha256_of_series
from tests.dicom_files import NORMAL, ORIENTATION, ORIGIN_MM, STEP_MM, claims_syntax, in_slice, set_to, voxels, without
from tests.dicom_files import write_series as write


def read(folder, wanted=None):
    return sitk.GetArrayFromImage(read_series(find_series(folder, wanted)))


def refusal(folder, wanted=None):
    """What `find_series`, or then `read_series`, says of a folder."""
    with pytest.raises(CaseError) as caught:
        read(folder, wanted)
    return str(caught.value)


def moved(distance_mm, direction=NORMAL, *, of=lambda number: True):
    """Move some slices; the distance may depend on the slice's number."""

    def edit(ds, number):
        if of(number):
            mm = distance_mm(number) if callable(distance_mm) else distance_mm
            ds.ImagePositionPatient = list(np.array(ds.ImagePositionPatient, float) + mm * np.array(direction))

    return edit


def test_voxels_and_geometry_are_those_of_itk(tmp_path):
    write(tmp_path / "case" / "a" / "b")
    series = find_series(tmp_path / "case")
    assert series.notes == ()
    image = read_series(series)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), voxels())
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(file.path) for file in series.slices])
    theirs = reader.Execute()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(theirs), voxels())
    assert geometry_of(image).same_place(geometry_of(theirs), tolerance=1e-6)
    assert geometry_of(image) == series.geometry
    assert image.GetPixelID() == sitk.sitkFloat32


def test_slices_that_run_the_other_way(tmp_path):
    write(tmp_path, edit=lambda ds, n: setattr(ds, "ImagePositionPatient", list(ORIGIN_MM - n * STEP_MM * NORMAL)))
    np.testing.assert_array_equal(read(tmp_path), voxels()[::-1])


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
def test_transfer_syntaxes_that_need_no_other_library(tmp_path, syntax):
    def edit(ds, number):
        if syntax == RLELossless:
            ds.compress(RLELossless)
        ds.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            ds.PixelData = np.frombuffer(ds.PixelData, "<i2").astype(">i2").tobytes()

    write(tmp_path, edit=edit)
    np.testing.assert_array_equal(read(tmp_path), voxels())


def test_slope_and_intercept_of_each_slice(tmp_path):
    def edit(ds, number):
        ds.RescaleSlope, ds.RescaleIntercept = 0.5 + number, -3.25

    write(tmp_path, edit=edit)
    slopes = (0.5 + np.arange(6))[:, None, None]
    np.testing.assert_allclose(read(tmp_path), voxels() * slopes - 3.25, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["int16", "uint16"])
def test_bits_above_those_stored_are_no_voxels(tmp_path, dtype):
    values = (voxels() - (60 if dtype == "int16" else 0)).astype(dtype)
    dirty = (values & 0x0FFF) | 0x3000  # an overlay in the upper four
    write(tmp_path, dirty.astype(dtype), edit=set_to(BitsStored=12, HighBit=11))
    np.testing.assert_array_equal(read(tmp_path), values)


def test_eight_bits(tmp_path):
    write(tmp_path, voxels().astype("uint8"), edit=set_to(BitsAllocated=8, BitsStored=8, HighBit=7))
    np.testing.assert_array_equal(read(tmp_path), voxels())


def test_positions_of_two_decimals_are_even_enough(tmp_path):
    def edit(ds, number):
        ds.ImagePositionPatient = [f"{float(p):.2f}" for p in ds.ImagePositionPatient]

    write(tmp_path, edit=edit)
    np.testing.assert_allclose(find_series(tmp_path).geometry.spacing_mm, (0.5, 0.625, STEP_MM), atol=2e-3)


STACKS = {
    "a slice is missing": (
        {"leave_out": [2]},
        "expected slices 1.5 mm apart, got 3 mm between IM5 and IM3, so 1 is missing",
    ),
    "two are missing": ({"leave_out": [2, 3]}, "so 2 are missing"),
    "uneven": ({"edit": moved(lambda number: 0.3, of=lambda number: number > 2)}, "expected evenly spaced slices"),
    "one place twice": ({"edit": moved(-STEP_MM, of=lambda number: number == 3)}, "got two, IM"),
    "all at one place": ({"edit": set_to(ImagePositionPatient=[0, 0, 0])}, "expected one image a place"),
    "one image twice": ({"edit": set_to(SOPInstanceUID="1.2.3")}, "expected each image once"),
    "a tilted gantry": ({"edit": moved(lambda number: 0.1 * number, ORIENTATION[:3])}, "sideways over the stack"),
    "another size": ({"edit": in_slice(2, Rows=16, Columns=20)}, "expected one size in a series, got 16, 20"),
    "another spacing": ({"edit": in_slice(2, PixelSpacing=[0.6, 0.6])}, "expected one PixelSpacing"),
    "another orientation": (
        {"edit": in_slice(2, ImageOrientationPatient=[1, 0, 0, 0, 1, 0])},
        "expected one ImageOrientationPatient",
    ),
    "slanted axes": ({"edit": set_to(ImageOrientationPatient=[1, 0, 0, 0.6, 0.8, 0])}, "two perpendicular unit"),
    "a long axis": ({"edit": set_to(ImageOrientationPatient=[2, 0, 0, 0, 0.5, 0])}, "unit vectors"),
    "another frame of reference": ({"edit": in_slice(2, FrameOfReferenceUID="1.2")}, "FrameOfReferenceUID, got 1.2"),
    "no frame of reference": ({"edit": without("FrameOfReferenceUID")}, "FrameOfReferenceUID, got none"),
    "no position": ({"edit": without("ImagePositionPatient")}, "3 finite numbers for ImagePositionPatient, got none"),
    "no spacing": ({"edit": without("PixelSpacing")}, "for PixelSpacing, got none"),
    "a spacing of 0": ({"edit": set_to(PixelSpacing=[0, 0.5])}, "expected spacings of"),
    "a place far away": ({"edit": moved(1e6)}, "expected an origin within"),
    "one slice": ({"leave_out": [1, 2, 3, 4, 5]}, "expected a volume, got a single slice"),
    "no rows": ({"edit": set_to(Rows=0)}, "expected 1 to"),
    "a bomb": ({"edit": set_to(Rows=60000, Columns=60000)}, "got 6 slices of 60000 x 60000"),
}


@pytest.mark.parametrize("fault", STACKS)
def test_slices_that_do_not_stack(tmp_path, fault):
    changes, said = STACKS[fault]
    assert said in refusal(write(tmp_path / "case", **changes))


FILES = {
    "colours": (set_to(SamplesPerPixel=3, PhotometricInterpretation="RGB"), "expected gray values"),
    "a palette": (set_to(PhotometricInterpretation="PALETTE COLOR"), "got 1 x PALETTE COLOR"),
    "inverted": (set_to(PhotometricInterpretation="MONOCHROME1"), "got 1 x MONOCHROME1"),
    "many frames": (set_to(NumberOfFrames=30), "got a multi-frame object of 30 frames"),
    "an enhanced object": (set_to(SOPClassUID=EnhancedMRImageStorage, NumberOfFrames=1), "a multi-frame object"),
    "odd bits": (set_to(BitsAllocated=12), "expected pixels of 8, 16 or 32 bits, got 16 of 12"),
    "a slope of 0": (set_to(RescaleSlope=0, RescaleIntercept=1), "slope 0, intercept 1"),
    "a video": (claims_syntax(HEVCMP51), f"got the transfer syntax {HEVCMP51.name} ({HEVCMP51})"),
    "deflated": (claims_syntax(DeflatedExplicitVRLittleEndian), "inflate the files"),
    "short of voxels": (set_to(PixelData=b"\0" * 100), "expected 640 bytes of voxels, got 100"),
    "no voxels": (without("PixelData"), "expected voxels, got a header alone"),
    "much more than voxels": (set_to(PixelData=bytes(2**23 + 2000)), "bytes for 20 x 16 pixels, got"),
}


@pytest.mark.parametrize("fault", FILES)
def test_files_that_are_no_slices(tmp_path, fault):
    edit, said = FILES[fault]
    message = refusal(write(tmp_path / "case", voxels(2), edit=edit))
    assert said in message
    assert message.startswith("IM")


def test_a_compression_that_nothing_here_decodes_is_named(tmp_path, monkeypatch):
    write(tmp_path, edit=claims_syntax(JPEGExtended12Bit))
    monkeypatch.setattr("pydicom.pixels.decoders.base.Decoder.is_available", False)
    assert f"got the transfer syntax {JPEGExtended12Bit.name}" in refusal(tmp_path)


def test_an_unknown_syntax_is_named(tmp_path):
    for path in write(tmp_path).iterdir():
        path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.999.10008.1.2.1\0"))
    assert "got the transfer syntax 1.2.999.10008.1.2.1" in refusal(tmp_path)


def test_damaged_compressed_voxels_are_a_refusal(tmp_path):
    write(tmp_path, edit=claims_syntax(RLELossless))
    assert "IM" in refusal(tmp_path)


@pytest.mark.parametrize("length", [0, 100, 140, 300, 900])
def test_a_file_that_is_cut_short(tmp_path, length):
    write(tmp_path)
    content = (tmp_path / "IM3").read_bytes()
    assert len(content) > 900
    (tmp_path / "IM3").write_bytes(content[:length])
    assert "IM3" in refusal(tmp_path)


def test_several_series_are_listed_and_one_can_be_chosen(tmp_path):
    write(tmp_path, name=lambda number: f"a{number}")
    other = generate_uid()
    edit = set_to(SeriesInstanceUID=other, SeriesDescription="T1\x1b[31m gd")
    write(tmp_path, voxels(3) + 1, edit=edit, name=lambda number: f"b{number}")
    message = refusal(tmp_path)
    assert "expected one MR series, got 2 of 2: 'T2 CISS 3D' (6 images, " in message
    assert f"(3 images, {other}); choose one with --series" in message
    assert "\x1b" not in message
    np.testing.assert_array_equal(read(tmp_path, "ciss"), voxels())
    np.testing.assert_array_equal(read(tmp_path, other), voxels(3) + 1)
    assert "that --series 'flair' names, got none of 2: 'T2 CISS 3D'" in refusal(tmp_path, "flair")
    assert "got 2 of 2" in refusal(tmp_path, "t")


@pytest.mark.parametrize(
    ("kind", "name"),
    [(CTImageStorage, "CT Image Storage"), (SecondaryCaptureImageStorage, "Secondary Capture Image Storage")],
)
def test_other_objects_are_told_and_left_out(tmp_path, kind, name):
    write(tmp_path / "others", voxels(2), edit=set_to(SOPClassUID=kind))
    assert f"expected a series of MR images, got 2 x {name}" in refusal(tmp_path)
    write(tmp_path / "scan")
    (tmp_path / "readme.TXT").write_text("x")
    assert find_series(tmp_path).notes == (f"left out beside the series: 2 x {name}, readme.TXT",)
    np.testing.assert_array_equal(read(tmp_path), voxels())


def test_a_disc_s_table_of_contents_and_hidden_files_are_no_matter(tmp_path):
    def edit(ds, number):
        del ds.SOPClassUID, ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID
        ds.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage

    write(tmp_path / "contents", voxels(1), edit=edit)
    write(tmp_path / "scan")
    for hidden in ("._IM1", ".DS_Store", ".cache/IM1"):
        (tmp_path / "scan" / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / "scan" / hidden).write_bytes(b"x")
    assert find_series(tmp_path).notes == ()
    assert not is_dicom(tmp_path / "contents" / "IM1")
    assert is_dicom(tmp_path / "scan" / "IM1")


@pytest.mark.parametrize("name", ["IM7", "a.dcm", "1.2.840.113"])
def test_a_file_that_is_no_dicom_may_be_a_slice(tmp_path, name):
    write(tmp_path)
    (tmp_path / name).write_bytes(b"x" * 1000)
    assert f"{name}: expected a DICOM file, got something else" in refusal(tmp_path)


def test_folders_without_a_scan(tmp_path):
    assert "got no DICOM file" in refusal(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    assert "got notes.txt; put" in refusal(tmp_path)


def test_links_and_pipes(tmp_path):
    write(tmp_path / "elsewhere")
    (tmp_path / "case").mkdir()
    for name in os.listdir(tmp_path / "elsewhere"):
        (tmp_path / "case" / name).symlink_to(tmp_path / "elsewhere" / name)
    np.testing.assert_array_equal(read(tmp_path / "case"), voxels())
    (tmp_path / "case" / "more").symlink_to(tmp_path / "elsewhere")
    assert "more: expected a folder, got a link to one" in refusal(tmp_path / "case")
    (tmp_path / "case" / "more").unlink()
    (tmp_path / "case" / "dangling").symlink_to(tmp_path / "nothing")
    assert "got a link to" in refusal(tmp_path / "case")
    (tmp_path / "case" / "dangling").unlink()
    os.mkfifo(tmp_path / "case" / "pipe")
    assert "got a pipe" in refusal(tmp_path / "case")


def test_the_number_of_files_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.inference.dicom.series._MOST_FILES", 5)
    assert "expected at most 5 files" in refusal(write(tmp_path))


def test_slices_that_are_missing_at_an_end_are_told_where_the_header_knows(tmp_path):
    write(tmp_path, edit=set_to(ImagesInAcquisition=8))
    assert find_series(tmp_path).notes == ("the header tells of 8 images, got 6: slices may be missing at an end",)


def test_a_series_that_changes_between_header_and_voxels(tmp_path):
    series = find_series(write(tmp_path))
    before = sha256_of_series(series)
    write(tmp_path)
    assert sha256_of_series(series) != before
    with pytest.raises(CaseError, match="one that changes"):
        read_series(series)
