"""Warnings: each is given by one thing that is wrong, and a label map as it should be gives none."""

import numpy as np
import pytest

from challenge.contract import COCHLEA, VS
from pipeline.data.known import Known, KnownVolumes, known_by, measure_scans
from pipeline.inference.plausibility import examine
from tests.images import make_image, noise, write_scan

SHAPE = (12, 24, 60)  # of 1 mm: the sides are more than 30 mm apart


def sound():
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[4:8, 8:12, 30:35] = VS.label
    labels[5:7, 10:13, 8:10] = labels[5:7, 10:13, 50:52] = COCHLEA.label
    return labels


def scan(seed=50, brightest=0.0):
    array = noise(SHAPE, seed=seed, dtype="float32")
    array[:, :, :20] += brightest
    return make_image(array, spacing_mm=(1.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    # Histograms that differ a little, so that the rim is not the noise of one and the same histogram.
    rng = [noise(SHAPE, seed=n, dtype="float32") for n in range(4)]
    for n, array in enumerate(rng):
        array[:, :, : 2 * n] += 20
    scans = [write_scan(folder / f"{n}.nii.gz", a, spacing_mm=(1.0, 1.0, 1.0)) for n, a in enumerate(rng)]
    seen = known_by({"seen": {"scans": measure_scans(scans, "target_training")}}).scans
    return {VS: Known(KnownVolumes(9, 50.0, 100.0), seen), COCHLEA: Known(KnownVolumes(9, 20.0, 30.0), seen)}


def test_a_sound_label_map_on_a_scan_of_the_known_kind_gives_no_warning(known):
    findings = examine(sound(), scan(), known)
    assert findings.warnings == ()
    assert findings.volumes_mm3 == {VS: 80.0, COCHLEA: 24.0}
    assert findings.components == {VS: 1, COCHLEA: 2}
    assert 0 < findings.unlikeness < 1.5


def without(label):
    labels = sound()
    labels[labels == label] = 0
    return labels


def with_box(label, *box):
    labels = sound()
    labels[box] = label
    return labels


WRONG = {
    "no tumour": (without(1), ["VS: expected one tumour, got none"]),
    "two tumours": (
        with_box(1, slice(4, 5), slice(2, 3), slice(20, 22)),
        ["VS: expected one tumour, got 2 components"],
    ),
    "no cochlea": (without(2), ["Cochlea: expected one on each side, got none"]),
    "one side": (
        with_box(0, slice(None), slice(None), slice(50, 52)),
        [
            "Cochlea: expected one on each side, got 1 component",
            "Cochlea: expected 20 to 30 mm3, as in 9 training labels, got 12 mm3",
        ],
    ),
    "three": (
        with_box(2, slice(9, 10), slice(20, 21), slice(20, 21)),
        ["Cochlea: expected one on each side, got 3 components"],
    ),
    "large": (
        with_box(1, slice(3, 9), slice(7, 12), slice(30, 35)),
        ["VS: expected 50 to 100 mm3, as in 9 training labels, got 150 mm3"],
    ),
    "at the border": (
        with_box(1, slice(4, 5), slice(0, 8), slice(32, 33)),
        ["VS: touches the border of the scan and may be cut off"],
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_each_fault_gives_its_own_warning_and_no_other(known, name):
    labels, expected = WRONG[name]
    assert list(examine(labels, scan(), known).warnings) == expected


def test_two_cochleas_on_one_side(known):
    labels = without(2)
    labels[5:7, 10:13, 8:10] = labels[5:7, 10:13, 18:20] = 2
    assert examine(labels, scan(), known).warnings == (
        "Cochlea: expected one on each side, got two that are 10 mm apart",
    )


def test_a_scan_unlike_the_known_ones_is_told_once(known):
    findings = examine(sound(), scan(brightest=500.0), known)
    [warning] = findings.warnings
    assert warning.startswith("scan unlike those that the weights know, ")
    assert "histogram" in warning
    assert findings.unlikeness > 1.5


def test_a_small_scan_is_told_by_its_field_of_view(known):
    image = make_image(noise(SHAPE, dtype="float32"), spacing_mm=(0.9, 0.9, 0.5))
    warnings = [w for w in examine(sound(), image, known).warnings if w.startswith("scan unlike")]
    assert [w.split("outside: ")[1].split(" mm, known")[0] for w in warnings] == [
        "spacing 0.5 x 0.9 x 0.9",
        "field of view 6 x 21.6 x 54",
    ]


def test_without_knowledge_anatomy_is_still_checked():
    findings = examine(without(1), scan(brightest=500.0), {})
    assert findings.warnings == ("VS: expected one tumour, got none",)
    assert findings.unlikeness is None


def test_labels_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="expected the scan's shape"):
        examine(np.zeros((1, 2, 3), dtype=np.uint8), scan(), {})
