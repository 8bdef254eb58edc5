"""DICOM segmentations: a label map as an object that a PACS keeps beside the scan.

Two binary segments, VS and cochlea, with SNOMED CT's codes, on the scan's own slices, which the object refers to.

Sources: DICOM PS3.3, A.51 "Segmentation IOD"; PS3.16, CID 7150, 7151 and 7162. The codes of the two structures that are
not in those: SNOMED CT, 126949007 "Acoustic neuroma", synonym vestibular schwannoma, and 80169004 "Cochlear structure".
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from highdicom import UID, AlgorithmIdentificationSequence, PixelMeasuresSequence
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.codedict import Code, codes

from challenge.contract import COCHLEA, VS, Structure
from challenge.files import written_whole
from challenge.nifti import CaseError
from pipeline.inference.dicom.files import read_dataset_of
from pipeline.inference.dicom.series import Series

_MAKER = "crossmoda-grl"
_SERIES_NUMBER = 1000  # above those of scanners, as far as there is a custom

# Label, category, type, and the region of what is no anatomical structure itself.
_CODED: dict[Structure, tuple[str, Code, Code, Code | None]] = {
    VS: (
        "Vestibular schwannoma",
        codes.SCT.MorphologicallyAbnormalStructure,
        Code("126949007", "SCT", "Vestibular schwannoma"),
        codes.SCT.VestibulocochlearNerve,
    ),
    COCHLEA: ("Cochlea", codes.SCT.AnatomicalStructure, Code("80169004", "SCT", "Cochlea"), None),
}
# Attributes that an image must have, with or without a value, and that anonymisation removes.
_MAY_BE_EMPTY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
)


def write_segmentation(labels: NDArray[np.uint8], series: Series, path: Path, made_by: Mapping[str, Any]) -> None:
    """Write a label map `(D, H, W)` on a series' grid as a DICOM segmentation. The file is complete or absent.

    Args:
        labels: of the structures; the two do not overlap.
        series: the scan's.
        path: of the file.
        made_by: version and weights, as in `predictions.json`.

    Raises:
        CaseError: the series' headers changed, or lack what a segmentation must refer to.
        OSError: the file cannot be written.
    """
    # The first header gives the patient and the study, the others only what frames refer to.
    first, *others = series.slices
    sources = [read_dataset_of(first), *(read_dataset_of(file, tags=_MAY_BE_EMPTY) for file in others)]
    for source in sources:
        for keyword in _MAY_BE_EMPTY:
            if keyword not in source:
                setattr(source, keyword, None)
    try:
        segmentation = _segmentation(labels, series, sources, made_by)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CaseError(
            f"{first.path.parent.name}: expected headers that a DICOM segmentation can refer to, got: {error}; "
            "export the series again"
        ) from error
    with written_whole(path) as partial:
        segmentation.save_as(partial)


def _segmentation(
    labels: NDArray[np.uint8], series: Series, sources: list[Dataset], made_by: Mapping[str, Any]
) -> Segmentation:
    version, sha256 = str(made_by["version"]), made_by["weights"]["sha256"]
    x_mm, y_mm, z_mm = series.geometry.spacing_mm
    return Segmentation(
        source_images=sources,
        # An axis of segments: one that is empty everywhere is described all the same.
        pixel_array=np.stack([labels == structure.label for structure in _CODED], axis=-1).astype(np.uint8),
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _description(number, structure, version, sha256[structure.key])
            for number, structure in enumerate(_CODED, 1)
        ],
        series_instance_uid=UID(),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=UID(),
        instance_number=1,
        manufacturer=_MAKER,
        manufacturer_model_name=_MAKER,
        software_versions=version,
        device_serial_number=sha256[VS.key][:16],  # the standard wants one: what was used are these weights
        pixel_measures=PixelMeasuresSequence((y_mm, x_mm), z_mm, z_mm),
        content_label="VS_COCHLEA",
        content_description="VS and cochlea, by neural networks",
        series_description=f"{_MAKER}: VS and cochlea",
    )


def _description(number: int, structure: Structure, version: str, weights_sha256: str) -> SegmentDescription:
    label, category, kind, region = _CODED[structure]
    return SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=category,
        segmented_property_type=kind,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=_MAKER,
            family=codes.DCM.ArtificialIntelligence,
            version=version,
            parameters={"weights_sha256": weights_sha256},
        ),
        anatomic_regions=[region] if region is not None else None,
    )
