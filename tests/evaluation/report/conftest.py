"""Folders of label maps and scans for the tests of the report."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from challenge.contract import COCHLEA, VS, label_file
from tests.images import make_image


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Reference, scans and prediction of the cases of `cohort()`: 213's prediction misfits, 214 has none."""
    for name in ("reference", "prediction", "scans"):
        (tmp_path / name).mkdir()
    for number in (211, 212, 213, 214):
        labels = np.zeros((8, 40, 60), dtype=np.uint8)
        labels[2:5, 10:20, 10:20] = VS.label
        labels[3, 25:28, 5:8] = COCHLEA.label
        labels[3, 25:28, 52:55] = COCHLEA.label
        name = label_file(f"crossmoda_{number}")
        sitk.WriteImage(make_image(labels), str(tmp_path / "reference" / name))
        if number != 214:
            given = np.roll(labels, 2, axis=2) if number != 213 else labels[:7]
            sitk.WriteImage(make_image(given), str(tmp_path / "prediction" / name))
        noise = np.random.default_rng(number).normal(100, 20, labels.shape).astype(np.int16)
        if number != 212:
            sitk.WriteImage(make_image(noise), str(tmp_path / "scans" / f"crossmoda_{number}_hrT2.nii.gz"))
    return tmp_path
