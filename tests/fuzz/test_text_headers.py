"""MetaImage and NRRD files that are damaged, or made to mislead: refused in one line, or read as ITK reads them."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from challenge.nifti import CaseError, geometry_of, read_geometry, read_image
from tests.fuzz.examples import few
from tests.images import OBLIQUE, make_image, noise

SHAPE = (4, 5, 6)
ENDINGS = (".mha", ".nrrd")
DECORATION = (b"CenterOfRotation", b"AnatomicalOrientation", b"kinds", b"space units", b"content", b"#")
VALUES = ["", "0", "-1", "1", "2", "1e30", "nan", "inf", "True", "False", "0 0 0", "1 1 1", "9999 9999 9999", "6 5 4"]
VALUES += ["(1,0,0) (0,1,0) (0,0,1)", "none", "raw", "gzip", "MET_UCHAR", "float", "LPS", "RAS", "LOCAL", "../a.raw"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of a sound scan in each format, uncompressed and oblique."""
    folder = tmp_path_factory.mktemp("sound")
    image = make_image(noise(SHAPE), (0.46875, 0.5, 1.5), (-103.25, 88.5, -41.75), OBLIQUE)
    for ending in ENDINGS:
        sitk.WriteImage(image, str(folder / f"scan{ending}"))
    return {ending: (folder / f"scan{ending}").read_bytes() for ending in ENDINGS}


def header_bytes(content: bytes) -> int:
    return len(content) - 2 * int(np.prod(SHAPE))  # int16


def without_decoration(content: bytes) -> bytes:
    """Return a file without the lines that tell nothing of its voxels and their place."""
    start = header_bytes(content)
    lines = content[:start].split(b"\n")
    return b"\n".join(line for line in lines if not line.startswith(DECORATION)) + content[start:]


def assert_refused_or_as_itk(folder: Path, ending: str, content: bytes) -> None:
    """Voxels and geometry are ITK's, or the file is refused in one printable line that names it."""
    path = folder / f"scan{ending}"
    path.write_bytes(content)
    try:
        image = read_image(path)
    except CaseError as error:
        problem = str(error)
        image = None
    if image is None:
        assert problem.startswith(f"{path.name}: expected ")
        assert problem.isprintable()
        return
    assert geometry_of(image).same_place(read_geometry(path))
    try:
        theirs = sitk.ReadImage(str(path), sitk.sitkFloat32)
    except RuntimeError:  # ITK also refuses fields that tell nothing of voxels and geometry
        path.write_bytes(without_decoration(content))
        theirs = sitk.ReadImage(str(path), sitk.sitkFloat32)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(theirs))
    np.testing.assert_allclose(image.GetSpacing(), theirs.GetSpacing(), rtol=1e-6)
    np.testing.assert_allclose(image.GetOrigin(), theirs.GetOrigin(), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(image.GetDirection(), theirs.GetDirection(), atol=1e-6)


@few(25)
@given(ending=st.sampled_from(ENDINGS), data=st.data())
def test_any_flipped_bits_of_a_header(tmp_path, sound, ending, data):
    content = bytearray(sound[ending])
    places = st.integers(0, 8 * header_bytes(content) - 1)
    for place in data.draw(st.lists(places, min_size=1, max_size=3)):
        content[place // 8] ^= 1 << (place % 8)
    assert_refused_or_as_itk(tmp_path, ending, bytes(content))


@few(25)
@given(ending=st.sampled_from(ENDINGS), data=st.data())
def test_any_value_of_any_line_and_any_length(tmp_path, sound, ending, data):
    content = sound[ending]
    lines = content[: header_bytes(content)].split(b"\n")
    place = data.draw(st.integers(0, len(lines) - 1))
    sign = b" = " if ending == ".mha" else b": "
    key, found, _ = lines[place].partition(sign)
    if found:
        lines[place] = key + sign + data.draw(st.sampled_from(VALUES) | st.text(max_size=20)).encode()
    if data.draw(st.booleans()):
        lines.insert(place, lines[place])
    cut = data.draw(st.sampled_from([0, 1, 4, 400]))
    changed = b"\n".join(lines) + content[header_bytes(content) :]
    assert_refused_or_as_itk(tmp_path, ending, changed[: len(changed) - cut])
