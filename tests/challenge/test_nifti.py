import errno
import os
import subprocess

import numpy as np
import pytest
import SimpleITK as sitk

from challenge.nifti import CaseError, Geometry, geometry_of, read_geometry, read_image, write_image
from tests.images import (
    DATATYPE,
    DIM,
    FLIPPED,
    OBLIQUE,
    PERMUTED,
    PIXDIM,
    SCL_SLOPE,
    edit_header,
    make_image,
    noise,
    pack,
    set_sform,
    write_scan,
)

BAD_HEADERS = {
    "4-D": (pack("5h", DIM, 4, 16, 20, 6, 2), "expected a 3-D scan, got 4-D (16 x 20 x 6 x 2); split the series first"),
    "2-D": (pack("5h", DIM, 2, 16, 20, 1, 1), "expected a 3-D scan, got 2-D (16 x 20); stack the slices"),
    "no dimension": (pack("h", DIM, 0), "expected 3 positive dimensions"),
    "negative dimension": (pack("4h", DIM, 3, -16, 20, 12), "expected 3 positive dimensions"),
    "a million million voxels": (pack("4h", DIM, 3, 10000, 10000, 10000), "claims 1,000,000,000,000"),
    "more voxels than bytes": (
        pack("4h", DIM, 3, 16, 20, 100),
        "expected 64,000 bytes of voxels by its header, got 7,680",
    ),
    "zero spacing": (pack("f", PIXDIM + 4, 0), "expected three spacings above 0 mm, got [0.0, 0.5, 1.5]"),
    "negative spacing": (pack("f", PIXDIM + 8, -0.5), "expected three spacings above 0 mm, got [0.5, -0.5, 1.5]"),
    "spacing not a number": (pack("f", PIXDIM + 12, float("nan")), "expected three spacings above 0 mm"),
    "an axis of length 0": (set_sform(1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0), "singular direction"),
    "two equal axes": (set_sform(0.5, 0.5, 0, 0, 0, 0, 0, 0, 0, 0, 1.5, 0), "singular direction"),
    "a sheared direction": (set_sform(0.5, 0.2, 0, 0, 0, 0.5, 0, 0, 0, 0, 1.5, 0), "sheared direction"),
    "complex voxels": (pack("hh", DATATYPE, 32, 64), "expected integer or real voxels"),
    "colour voxels": (pack("hh", DATATYPE, 128, 24), "expected integer or real voxels"),
    "voxels of no type": (pack("hh", DATATYPE, 999, 16), "expected integer or real voxels"),
}


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_bad_header_is_refused_with_what_was_expected_and_found(tmp_path, name):
    edit, message = BAD_HEADERS[name]
    path = edit_header(write_scan(tmp_path / "crossmoda_211_hrT2.nii.gz"), edit)
    with pytest.raises(CaseError) as refused:
        read_image(path)
    assert message in str(refused.value)
    assert str(refused.value).startswith("crossmoda_211_hrT2.nii.gz: expected")


@pytest.mark.parametrize("kept", [0.5, 0.9, 0.999])
def test_truncated_gzip_is_refused_though_itk_reads_it_as_zeros(tmp_path, kept):
    path = write_scan(tmp_path / "scan.nii.gz")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    assert sitk.ReadImage(str(path)).GetSize() == (16, 20, 12)
    with pytest.raises(CaseError, match="expected a whole gzip stream, got one cut short; copy the file again"):
        read_image(path)


def test_flipped_bit_in_gzip_is_refused(tmp_path):
    path = write_scan(tmp_path / "scan.nii.gz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(CaseError, match="copy the file again"):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"hello world", b"hello world" * 100])
def test_file_that_is_no_nifti_is_refused(tmp_path, content):
    (tmp_path / "scan.nii.gz").write_bytes(content)
    with pytest.raises(CaseError, match="expected a NIfTI"):
        read_image(tmp_path / "scan.nii.gz")


def test_missing_file_folder_and_dangling_link_are_told_apart(tmp_path):
    (tmp_path / "folder.nii.gz").mkdir()
    (tmp_path / "link.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")
    for name, message in (
        ("none", "expected a file in .*, got none"),
        ("folder", "expected a file, got a folder"),
        ("link", "expected a file, got a link to .*nowhere.nii.gz, which does not exist; fix the link"),
    ):
        with pytest.raises(CaseError, match=message):
            read_image(tmp_path / f"{name}.nii.gz")


@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]
)
def test_every_scalar_type_is_read(tmp_path, dtype):
    array = noise((12, 20, 16), dtype=dtype)
    read = read_image(write_scan(tmp_path / "scan.nii.gz", array))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read), array)


def test_slope_and_intercept_are_applied(tmp_path):
    array = noise((12, 20, 16))
    path = edit_header(write_scan(tmp_path / "scan.nii.gz", array), pack("2f", SCL_SLOPE, 2.0, 5.0))
    np.testing.assert_allclose(sitk.GetArrayFromImage(read_image(path)), array * 2.0 + 5.0)


def test_fourth_dimension_of_length_1_is_dropped(tmp_path):
    path = edit_header(write_scan(tmp_path / "scan.nii.gz"), pack("5h", DIM, 4, 16, 20, 12, 1))
    assert read_image(path).GetSize() == (16, 20, 12)
    assert read_geometry(path).size_xyz == (16, 20, 12)


def test_uncompressed_content_under_a_gz_name_is_read(tmp_path):
    sitk.WriteImage(make_image(noise((12, 20, 16))), str(tmp_path / "scan.nii"))
    (tmp_path / "scan.nii").rename(tmp_path / "scan.nii.gz")
    assert read_image(tmp_path / "scan.nii.gz").GetSize() == (16, 20, 12)


@pytest.mark.parametrize("direction", [OBLIQUE, FLIPPED, PERMUTED])
def test_geometry_comes_back_from_a_file_to_1e_6(tmp_path, direction):
    image = make_image(noise((12, 20, 16)), (0.46875, 0.46875, 1.5), (-103.25, 88.5, -41.75), direction)
    write_image(image, tmp_path / "a.nii.gz")
    first = read_geometry(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(first.direction, direction, atol=1e-6)
    np.testing.assert_allclose(first.spacing_mm, (0.46875, 0.46875, 1.5), atol=1e-6)
    np.testing.assert_allclose(first.origin_mm, (-103.25, 88.5, -41.75), atol=1e-5)
    assert first == geometry_of(read_image(tmp_path / "a.nii.gz"))


def test_same_place_compares_size_spacing_origin_and_direction():
    here = Geometry((4, 5, 6), (0.5, 0.5, 1.5), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    assert here.same_place(Geometry((4, 5, 6), (0.5, 0.5, 1.5 + 1e-5), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    assert not here.same_place(Geometry((4, 5, 7), (0.5, 0.5, 1.5), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    assert not here.same_place(Geometry((4, 5, 6), (0.5, 0.5, 1.0), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    assert not here.same_place(Geometry((4, 5, 6), (0.5, 0.5, 1.5), (0, 1, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    assert not here.same_place(Geometry((4, 5, 6), (0.5, 0.5, 1.5), (0, 0, 0), (-1, 0, 0, 0, 1, 0, 0, 0, 1)))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 kB, mounted for the test."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.decode().strip()}")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def test_full_disk_is_an_error_and_leaves_nothing(small_disk):
    image = make_image(np.random.default_rng(0).integers(0, 255, (40, 64, 64), dtype=np.uint8))
    with pytest.raises(OSError, match=r"could not be written whole, .* MB are free|No space left") as full:
        write_image(image, small_disk / "labels.nii.gz")
    assert full.value.errno in (None, errno.ENOSPC)
    assert os.listdir(small_disk) == []
