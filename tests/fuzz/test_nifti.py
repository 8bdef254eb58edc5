"""NIfTI files that are damaged, or made to mislead: refused in one line, or read as nibabel reads them."""

import gzip
import math
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import example, given
from hypothesis import strategies as st

from challenge.nifti import CaseError, geometry_of, read_geometry, read_image
from tests.fuzz.examples import few
from tests.images import DATATYPE, DIM, OBLIQUE, PIXDIM, QFORM_CODE, SCL_SLOPE, SROW, make_image, noise

INTENT_CODE, VOX_OFFSET, UNITS, QUATERN, MAGIC = 68, 108, 123, 256, 344
SHAPE = (4, 5, 6)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a sound scan, uncompressed: both forms, oblique, in the place that a scanner would give it."""
    path = tmp_path_factory.mktemp("sound") / "scan.nii"
    image = make_image(noise(SHAPE), (0.46875, 0.5, 1.5), (-103.25, 88.5, -41.75), OBLIQUE)
    sitk.WriteImage(image, str(path))
    return path.read_bytes()


def edited(content: bytes, *edits: tuple[str, int, float]) -> bytes:
    changed = bytearray(content)
    for form, offset, value in edits:
        struct.pack_into("<" + form, changed, offset, value)
    return bytes(changed)


def put(folder: Path, content: bytes, *, compressed: bool = False) -> Path:
    path = folder / ("scan.nii.gz" if compressed else "scan.nii")
    path.write_bytes(gzip.compress(content, 1) if compressed else content)
    return path


def read_or_refused(path: Path) -> sitk.Image | None:
    """Read a file; None where it is refused, in one printable line that names it."""
    try:
        return read_image(path)
    except CaseError as error:
        problem = str(error)
    assert problem.startswith(f"{path.name}: expected ")
    assert problem.isprintable()
    return None


def assert_as_nibabel(path: Path, image: sitk.Image) -> None:
    """Voxels and geometry are what nibabel reads, to the rounding of float32."""
    theirs = nibabel.load(path)
    values = np.asanyarray(theirs.dataobj).reshape(image.GetSize(), order="F").T
    np.testing.assert_allclose(sitk.GetArrayFromImage(image), values, rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(image.GetSpacing(), theirs.header.get_zooms()[:3], rtol=1e-6)
    if theirs.header["sform_code"] > 0 or theirs.header["qform_code"] > 0:
        to_ras = np.diag([-1.0, -1.0, 1.0])
        directions = to_ras @ np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
        np.testing.assert_allclose(directions, theirs.affine[:3, :3], rtol=0, atol=2e-4 * max(image.GetSpacing()))
        np.testing.assert_allclose(to_ras @ image.GetOrigin(), theirs.affine[:3, 3], rtol=1e-5, atol=1e-5)
    assert geometry_of(image) == read_geometry(path)


@few(25)
@given(
    flips=st.lists(st.tuples(st.integers(0, 351), st.integers(0, 7)), min_size=1, max_size=4), compressed=st.booleans()
)
def test_any_flipped_bits_of_a_header(tmp_path, sound, flips, compressed):
    content = bytearray(sound)
    for byte, bit in flips:
        content[byte] ^= 1 << bit
    path = put(tmp_path, bytes(content), compressed=compressed)
    if (image := read_or_refused(path)) is not None:
        assert_as_nibabel(path, image)


FLOATS = st.floats(width=32) | st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1.0, -1.0, 3e38, -3e38])
FIELDS = st.one_of(
    st.tuples(st.just("h"), st.integers(0, 7).map(lambda n: DIM + 2 * n), st.integers(-32768, 32767)),
    st.tuples(st.just("h"), st.sampled_from([INTENT_CODE, DATATYPE, QFORM_CODE, QFORM_CODE + 2]), st.integers(0, 2100)),
    st.tuples(st.just("f"), st.integers(0, 7).map(lambda n: PIXDIM + 4 * n), FLOATS),
    st.tuples(st.just("f"), st.sampled_from([VOX_OFFSET, SCL_SLOPE, SCL_SLOPE + 4]), FLOATS),
    st.tuples(st.just("f"), st.integers(0, 5).map(lambda n: QUATERN + 4 * n), FLOATS),
    st.tuples(st.just("f"), st.integers(0, 11).map(lambda n: SROW + 4 * n), FLOATS),
    st.tuples(st.just("B"), st.just(UNITS), st.integers(0, 255)),
)


@few(25)
@given(edits=st.lists(FIELDS, min_size=1, max_size=3))
def test_any_values_in_a_header(tmp_path, sound, edits):
    path = put(tmp_path, edited(sound, *edits))
    if (image := read_or_refused(path)) is not None:
        assert_as_nibabel(path, image)


@few(25)
@given(offset=st.floats(width=32).filter(lambda value: value != 352))
@example(math.nan)
@example(math.inf)
@example(-1.0)
@example(0.0)
@example(348.0)
@example(8e9)
def test_any_other_offset_is_refused_or_leads_to_what_is_there(tmp_path, sound, offset):
    path = put(tmp_path, edited(sound, ("f", VOX_OFFSET, offset)), compressed=True)
    with pytest.raises(CaseError, match=r"expected the voxels to begin at|bytes of voxels by its header"):
        read_image(path)


@few(25)
@given(axis=st.integers(0, 2), factor=st.floats(1.001, 100) | st.floats(0.01, 0.999))
def test_a_spacing_that_contradicts_the_forms_is_refused_with_both(tmp_path, sound, axis, factor):
    (spacing,) = struct.unpack_from("<f", sound, PIXDIM + 4 + 4 * axis)
    path = put(tmp_path, edited(sound, ("f", PIXDIM + 4 + 4 * axis, spacing * factor)))
    with pytest.raises(CaseError, match=r"expected one spacing, got \(.*\) mm in pixdim and \(.*\) mm in the sform"):
        read_image(path)


@few(25)
@given(row=st.integers(0, 2), value=st.floats(allow_nan=True, width=32).filter(lambda v: not abs(v) <= 1e5))
def test_an_origin_that_is_no_place_is_refused(tmp_path, sound, row, value):
    with pytest.raises(CaseError, match="expected an origin within"):
        read_image(put(tmp_path, edited(sound, ("f", SROW + 16 * row + 12, value))))


@pytest.mark.parametrize("intent", [1004, 1005, 1006, 1007, 1008, 1009, 1010, 2003, 2004])
def test_what_itk_reads_as_vectors_is_refused(tmp_path, sound, intent):
    with pytest.raises(CaseError, match=f"got the intent code {intent}"):
        read_image(put(tmp_path, edited(sound, ("h", INTENT_CODE, intent))))


@few(25)
@given(data=st.data())
def test_any_damage_to_a_compressed_file_is_refused_or_without_effect(tmp_path, sound, data):
    content = bytearray(gzip.compress(sound, 1, mtime=0))
    where = data.draw(st.integers(0, len(content) - 1))
    match data.draw(st.sampled_from(["flip", "cut", "insert", "append"])):
        case "flip":
            content[where] ^= 1 << data.draw(st.integers(0, 7))
        case "cut":
            del content[where:]
        case "insert":
            content[where:where] = data.draw(st.binary(min_size=1, max_size=20))
        case "append":
            content += data.draw(st.binary(min_size=1, max_size=20))
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(content)
    if (image := read_or_refused(path)) is not None:
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), noise(SHAPE))


@few(25)
@given(kept=st.integers(0, 2000), compressed=st.booleans())
def test_a_file_cut_short_anywhere_is_refused(tmp_path, sound, kept, compressed):
    content = sound[: kept % len(sound)]
    assert read_or_refused(put(tmp_path, content, compressed=compressed)) is None


TYPES = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]


@few(25)
@given(
    dtype=st.sampled_from(TYPES),
    order=st.sampled_from("<>"),
    slope=st.sampled_from([1.0, 2.5, -0.001]),
    inter=st.sampled_from([0.0, 7.25]),
    seed=st.integers(0, 99),
    version=st.sampled_from([nibabel.Nifti1Image, nibabel.Nifti2Image]),
)
def test_sound_files_of_any_type_are_read_as_nibabel_and_itk_read_them(
    tmp_path, dtype, order, slope, inter, seed, version
):
    values = np.random.default_rng(seed).integers(0, 100, SHAPE).astype(np.dtype(dtype).newbyteorder(order))
    affine = np.diag([-0.5, 0.5, 1.5, 1.0])
    affine[:3, 3] = (12.5, -7.25, 3)
    header = version.header_class(endianness=order)
    image = version(np.asarray(values), affine, header)
    image.header.set_data_dtype(values.dtype)
    path = tmp_path / "scan.nii"
    nibabel.save(image, path)
    place, form = (112, "f") if version is nibabel.Nifti1Image else (176, "d")
    content = bytearray(path.read_bytes())
    struct.pack_into(f"{order}2{form}", content, place, slope, inter)
    path.write_bytes(content)
    mine = read_image(path)
    assert_as_nibabel(path, mine)
    if version is nibabel.Nifti1Image:
        theirs = sitk.ReadImage(str(path))
        assert mine.GetPixelID() == theirs.GetPixelID()
        np.testing.assert_array_equal(sitk.GetArrayFromImage(mine), sitk.GetArrayFromImage(theirs))
        assert geometry_of(mine) == geometry_of(theirs)


@few(25)
@given(
    quaternion=st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: np.linalg.norm(q) > 0.1),
    spacing=st.tuples(*[st.floats(0.25, 3.0, width=32)] * 3),
    codes=st.sampled_from([(0, 1), (1, 0), (1, 1), (2, 1), (0, 2)]),
)
@example(quaternion=(0.0003, 0.0, 0.0, 0.5), spacing=(1.0, 1.0, 1.0), codes=(1, 1))
@example(quaternion=(0.0003, 0.0, 0.0, 1.0), spacing=(1.0, 1.0, 1.0), codes=(1, 0))
def test_any_oblique_grid_is_that_of_nibabel_and_itk(tmp_path, quaternion, spacing, codes):
    rotation = nibabel.quaternions.quat2mat(np.array(quaternion))
    affine = np.eye(4)
    affine[:3, :3] = rotation * spacing
    affine[:3, 3] = (-81.5, 40.25, 7)
    image = nibabel.Nifti1Image(np.zeros(SHAPE[::-1], np.uint8), None)
    image.header.set_zooms(spacing)
    image.set_qform(affine, codes[0])
    image.set_sform(affine, codes[1])
    nibabel.save(image, tmp_path / "scan.nii")
    mine, theirs = read_image(tmp_path / "scan.nii"), sitk.ReadImage(str(tmp_path / "scan.nii"))
    assert_as_nibabel(tmp_path / "scan.nii", mine)
    assert mine.GetSpacing() == theirs.GetSpacing()
    assert mine.GetOrigin() == theirs.GetOrigin()
    # Near half a turn, nibabel and ITK make different rotations of a quaternion in float32.
    near_half_a_turn = abs(quaternion[0]) < 0.01 * np.linalg.norm(quaternion)
    tolerance = 1.3e-3 if near_half_a_turn else 1e-7
    np.testing.assert_allclose(mine.GetDirection(), theirs.GetDirection(), rtol=0, atol=tolerance)
