"""A small case for tests of the page: a scan, its label map, and a reference that disagrees in known places."""

from pathlib import Path

import numpy as np

from pipeline.inference.viewer.cases import CaseFiles
from tests.images import noise, write_scan

# (D, H, W) with x to the patient's left: two cochleas 37.5 mm apart in the prediction, and a tumour.
SHAPE = (8, 24, 32)
SPACING = (1.25, 1.5, 2.0)
VS = (slice(2, 5), slice(4, 9), slice(12, 17))
RIGHT_COCHLEA = (slice(3, 5), slice(12, 14), slice(1, 3))
LEFT_COCHLEA = (slice(3, 5), slice(12, 14), slice(28, 31))


def prediction() -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[VS] = 1
    labels[RIGHT_COCHLEA] = labels[LEFT_COCHLEA] = 2
    return labels


def reference() -> np.ndarray:
    """The prediction without a cochlea, and with a block of tumour that it misses."""
    labels = prediction()
    labels[LEFT_COCHLEA] = 0
    labels[1:6, 15:20, 20:25] = 1
    return labels


def write_case(folder: Path, case: str = "crossmoda_1", **geometry) -> CaseFiles:
    geometry = {"spacing_mm": SPACING, "origin_mm": (-20, 7, 3)} | geometry
    paths = []
    for name, array in (("hrT2", noise(SHAPE)), ("Label", prediction()), ("Reference", reference())):
        paths.append(write_scan(folder / f"{case}_{name}.nii.gz", array, **geometry))
    return CaseFiles(case, *paths)
