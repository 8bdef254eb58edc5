"""MetaImage and NRRD files: read as ITK reads sound ones, and refused where they are damaged or lead elsewhere."""

import zlib

import numpy as np
import pytest
import SimpleITK as sitk

from challenge.headers import MAX_VOXELS
from challenge.nifti import CaseError, geometry_of, read_geometry, read_image, write_image
from tests.images import OBLIQUE, make_image, noise

TYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"]


def edited(path, *changes):
    """Change a header's text; each change is what stands there, and what takes its place."""
    content = path.read_bytes()
    for old, new in changes:
        assert old in content
        content = content.replace(old, new, 1)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("ending", [".mha", ".nrrd", ".nii"])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("compressed", [False, True])
def test_voxels_and_geometry_are_those_that_itk_reads(tmp_path, ending, dtype, compressed):
    image = make_image(noise((5, 7, 6), dtype=dtype), (0.4, 0.5, 1.5), (-3.25, 10.5, 7), OBLIQUE)
    path = tmp_path / f"a{ending}"
    sitk.WriteImage(image, str(path), useCompression=compressed)
    theirs, ours = sitk.ReadImage(str(path)), read_image(path)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(ours), sitk.GetArrayFromImage(theirs))
    assert ours.GetPixelID() == theirs.GetPixelID()
    assert geometry_of(ours).same_place(geometry_of(theirs), tolerance=1e-6)
    assert read_geometry(path) == geometry_of(ours)


@pytest.mark.parametrize("ending", [".mha", ".nrrd", ".nii", ".nii.gz"])
def test_what_is_written_is_read_back(tmp_path, ending):
    image = make_image(noise((5, 7, 6), dtype="uint8"), (0.4, 0.5, 1.5), direction=OBLIQUE)
    image.SetMetaData("ITK_FileNotes", "a note")
    write_image(image, tmp_path / f"a{ending}")
    assert geometry_of(read_image(tmp_path / f"a{ending}")).same_place(geometry_of(image), tolerance=1e-6)
    assert [entry.name for entry in tmp_path.iterdir()] == [f"a{ending}"]


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_big_endian(tmp_path, ending):
    voxels = noise((3, 4, 5))
    path = tmp_path / f"a{ending}"
    sitk.WriteImage(make_image(voxels), str(path))
    change = {".mha": (b"ByteOrderMSB = False", b"ByteOrderMSB = True"), ".nrrd": (b"endian: little", b"endian: big")}
    content = edited(path, change[ending]).read_bytes()
    path.write_bytes(content[: -voxels.nbytes] + voxels.astype(">i2").tobytes())
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_image(path)), voxels)


SPACE = b"space: left-posterior-superior"


@pytest.mark.parametrize("space", [b"RAS", b"right-anterior-superior", b"left-anterior-superior"])
def test_spaces_of_nrrd(tmp_path, space):
    path = tmp_path / "a.nrrd"
    sitk.WriteImage(make_image(noise((3, 4, 5)), origin_mm=(1, 2, 3), direction=OBLIQUE), str(path))
    edited(path, (SPACE, b"space: " + space))
    assert read_geometry(path).same_place(geometry_of(sitk.ReadImage(str(path))), tolerance=1e-6)


@pytest.mark.parametrize(
    ("ending", "change", "said"),
    [
        (".mha", (b"= LOCAL", b"= ../secret.raw"), "put header and voxels into one file"),
        (".mha", (b"= LOCAL", b"= LIST"), "put header and voxels into one file"),
        (".mha", (b"NDims = 3", b"NDims = 4"), "expected 3 for NDims"),
        (".mha", (b"DimSize = 6", b"DimSize = 999999999"), f"at most {MAX_VOXELS:,} voxels"),
        (".mha", (b"DimSize = 6", b"DimSize = -6"), "expected three sides"),
        (".mha", (b"ElementSpacing = 0.5", b"ElementSpacing = nan"), "finite numbers"),
        (".mha", (b"ElementSpacing = 0.5", b"ElementSpacing = 0"), "expected spacings"),
        (".mha", (b"TransformMatrix = 1 0", b"TransformMatrix = 1 1"), "axes of length 1"),
        (".mha", (b"Offset = 0", b"Offset = 1e9"), "expected an origin"),
        (".mha", (b"MET_SHORT", b"MET_SHORT_ARRAY"), "integer or real voxels"),
        (".mha", (b"ObjectType = Image", b"ObjectType = Tube"), "ObjectType"),
        (".mha", (b"CompressedData = False", b"CompressedData = True"), "sound gzip stream"),
        (".nrrd", (b"encoding: raw", b"encoding: raw\ndata file: /etc/passwd"), "one file"),
        (".nrrd", (b"encoding: raw", b"encoding: raw\ndatafile: LIST"), "one file"),
        (".nrrd", (b"encoding: raw", b"encoding: raw\nbyte skip: -1"), "byte skip"),
        (".nrrd", (b"encoding: raw", b"encoding: ascii"), "encoding"),
        (".nrrd", (b"encoding: raw", b"encoding: gzip"), "sound gzip stream"),
        (".nrrd", (b"dimension: 3", b"dimension: 4"), "dimension"),
        (".nrrd", (b"sizes: 6", b"sizes: 999999999"), f"at most {MAX_VOXELS:,} voxels"),
        (".nrrd", (SPACE, b"space: scanner-xyz"), "for space"),
        (".nrrd", (b"space directions: (0.5,0,0)", b"space directions: none"), "3 vectors for space directions"),
        (".nrrd", (b"type: short", b"type: block"), "integer or real voxels"),
    ],
)
def test_refused(tmp_path, ending, change, said):
    path = tmp_path / f"a{ending}"
    sitk.WriteImage(make_image(noise((5, 7, 6))), str(path))
    edited(path, change)
    with pytest.raises(CaseError, match=said):
        read_image(path)


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_cut_short_and_bombs(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    sitk.WriteImage(make_image(noise((5, 7, 6))), str(path), useCompression=True)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(CaseError, match="cut short"):
        read_image(path)
    mark = b"LOCAL\n" if ending == ".mha" else b"\n\n"
    path.write_bytes(whole[: whole.index(mark) + len(mark)] + zlib.compress(bytes(2**24)))
    with pytest.raises(CaseError, match="got more"):
        read_image(path)


def test_an_endless_header(tmp_path):
    (tmp_path / "a.mha").write_bytes(b"".join(b"Comment%d = x\n" % number for number in range(10_000)))
    with pytest.raises(CaseError, match="header of at most"):
        read_image(tmp_path / "a.mha")
