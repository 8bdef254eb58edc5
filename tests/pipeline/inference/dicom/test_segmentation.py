"""DICOM segmentations: read back by dcmqi, which shares no code with the library that wrote them, and by pydicom."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from challenge.nifti import CaseError
from pipeline.inference.dicom.segmentation import write_segmentation
from pipeline.inference.dicom.series import find_series, read_series
from tests.dicom_files import in_slice, set_to, voxels, without, write_series

MADE_BY = {"version": "1.2.3", "weights": {"name": "best", "sha256": {"vs": "ab" * 32, "cochlea": "cd" * 32}}}
DCMQI = Path(sys.executable).parent / "segimage2itkimage"


def labels():
    array = np.zeros(voxels().shape, np.uint8)
    array[2:4, 3:9, 4:8], array[3, 12:15, 2:9], array[5, 0, 0] = 1, 2, 2
    return array


def by_dcmqi(segmentation, folder):
    """The segments' labels and images as dcmqi reads them, and what it says about each."""
    folder.mkdir()
    arguments = ["--inputDICOM", segmentation, "--outputDirectory", folder, "-t", "nrrd", "-p", "s"]
    subprocess.run([DCMQI, *arguments], check=True, capture_output=True)
    told = json.loads((folder / "s-meta.json").read_text())["segmentAttributes"]
    images = {}
    for (segment,) in told:
        path = folder / f"s-{segment['labelID']}.nrrd"
        images[segment["SegmentLabel"]] = sitk.ReadImage(str(path))
    return {segment["SegmentLabel"]: segment for (segment,) in told}, images


@pytest.mark.skipif(not DCMQI.exists() and not shutil.which("segimage2itkimage"), reason="needs dcmqi")
@pytest.mark.parametrize("anonymous", [False, True])
def test_another_library_reads_the_same_voxels_on_the_scans_grid(tmp_path, anonymous):
    write_series(tmp_path / "in", edit=without("PatientID", "PatientName") if anonymous else set_to())
    series = find_series(tmp_path / "in")
    write_segmentation(labels(), series, tmp_path / "seg.dcm", MADE_BY)
    told, images = by_dcmqi(tmp_path / "seg.dcm", tmp_path / "out")
    assert list(images) == ["Vestibular schwannoma", "Cochlea"]
    scan = read_series(series)
    for value, (title, image) in enumerate(images.items(), 1):
        # dcmqi leaves out slices without the segment. Its axes may run another way; places are what counts.
        found = sitk.Resample(image, scan, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(found) > 0, labels() == value)
        assert np.count_nonzero(sitk.GetArrayFromImage(image)) == np.count_nonzero(labels() == value)
        np.testing.assert_allclose(sorted(image.GetSpacing()), sorted(scan.GetSpacing()), rtol=1e-6)
        assert told[title]["SegmentAlgorithmName"] == "crossmoda-grl"
    kind = told["Vestibular schwannoma"]["SegmentedPropertyTypeCodeSequence"]
    assert (kind["CodeValue"], kind["CodingSchemeDesignator"]) == ("126949007", "SCT")
    assert told["Cochlea"]["SegmentedPropertyTypeCodeSequence"]["CodeValue"] == "80169004"


def test_frames_and_references_as_the_file_has_them(tmp_path):
    series = find_series(write_series(tmp_path / "in"))
    write_segmentation(labels(), series, tmp_path / "seg.dcm", MADE_BY)
    ds = pydicom.dcmread(tmp_path / "seg.dcm")
    found = np.zeros_like(labels())
    places = np.array([file.header.ImagePositionPatient for file in series.slices])
    for pixels, frame in zip(ds.pixel_array, ds.PerFrameFunctionalGroupsSequence, strict=True):
        place = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        number = int(np.argmin(np.abs(places - place).sum(axis=1)))
        np.testing.assert_allclose(places[number], place, atol=1e-6)
        source = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert source == series.slices[number].header.SOPInstanceUID
        found[number][pixels > 0] = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
    np.testing.assert_array_equal(found, labels())
    scan = pydicom.dcmread(series.slices[0].path)
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert ds[keyword].value == scan[keyword].value
    assert ds.ReferencedSeriesSequence[0].SeriesInstanceUID == scan.SeriesInstanceUID != ds.SeriesInstanceUID
    assert ds.SoftwareVersions == "1.2.3"
    for segment, sha256 in zip(ds.SegmentSequence, ("ab" * 32, "cd" * 32), strict=True):
        algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("crossmoda-grl", "1.2.3")
        assert sha256 in algorithm.AlgorithmParameters
        assert segment.SegmentAlgorithmType == "AUTOMATIC"


@pytest.mark.parametrize("present", [0, 1, 2])
def test_both_segments_are_described_even_if_one_or_both_are_empty(tmp_path, present):
    series = find_series(write_series(tmp_path / "in"))
    array = np.where(labels() == present, labels(), 0).astype(np.uint8)
    write_segmentation(array, series, tmp_path / "seg.dcm", MADE_BY)
    ds = pydicom.dcmread(tmp_path / "seg.dcm")
    assert [segment.SegmentLabel for segment in ds.SegmentSequence] == ["Vestibular schwannoma", "Cochlea"]
    assert np.count_nonzero(ds.pixel_array) == np.count_nonzero(array)


def test_headers_that_change_before_the_segmentation_is_written(tmp_path):
    series = find_series(write_series(tmp_path / "in"))
    write_series(tmp_path / "in")
    with pytest.raises(CaseError, match="one that changes"):
        write_segmentation(labels(), series, tmp_path / "seg.dcm", MADE_BY)
    assert not list(tmp_path.glob("*seg.dcm"))


def test_headers_that_no_segmentation_can_refer_to(tmp_path):
    series = find_series(write_series(tmp_path / "in", edit=in_slice(0, PatientSex="not a code string of sixteen")))
    with pytest.raises(CaseError, match="in: expected headers that a DICOM segmentation can refer to"):
        write_segmentation(labels(), series, tmp_path / "seg.dcm", MADE_BY)
    assert not list(tmp_path.glob("*seg.dcm"))
