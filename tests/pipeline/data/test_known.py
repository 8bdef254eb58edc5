"""What weights know: measured on training scans, kept on a card, and how unlike those another scan is."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

from challenge.contract import VS
from pipeline.data.known import SEEN, Known, known_by, measure_labels, measure_scans, profile_of, trained_on
from tests.images import PERMUTED, make_image, write_scan

SPACING = (0.5, 0.6, 1.5)


def head(seed, bright=0.1, shape=(10, 20, 30)):
    """A share of bright voxels in dark noise."""
    rng = np.random.default_rng(seed)
    return rng.normal(100, 10, shape) + 300 * (rng.random(shape) < bright)


def image(seed=9, bright=0.1, shape=(10, 20, 30), spacing_mm=SPACING):
    return make_image(head(seed, bright, shape).astype("float32"), spacing_mm=spacing_mm)


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    shares = (0.08, 0.09, 0.1, 0.11, 0.12)
    scans = [write_scan(folder / f"{n}.nii.gz", head(n, s), spacing_mm=SPACING) for n, s in enumerate(shares)]
    card = json.loads(json.dumps({SEEN: {"scans": measure_scans(scans, "target_training")}}))
    return known_by(card).scans, scans


def test_no_training_scan_is_beyond_the_rim(known):
    scans, paths = known
    ratios = [scans.unlikeness(profile_of(sitk.ReadImage(str(p), sitk.sitkFloat32))) for p in paths]
    assert max(max(r.values()) for r in ratios) <= 1 + 1e-6
    assert max(r["intensities"] for r in ratios) > 0.98


def test_a_new_scan_of_the_same_kind_is_not_unlike(known):
    assert max(known[0].unlikeness(profile_of(image(seed=77))).values()) < 1.5


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("intensities", {"bright": 0.5}),
        ("spacing", {"spacing_mm": (0.5, 0.6, 3.0)}),
        ("spacing", {"spacing_mm": (0.2, 0.6, 1.5)}),
        ("field of view", {"shape": (30, 20, 30)}),
        ("field of view", {"shape": (3, 20, 30)}),
    ],
)
def test_each_difference_is_told_by_its_own_ratio(known, name, other):
    ratios = known[0].unlikeness(profile_of(image(**other)))
    assert ratios[name] > 1.9, ratios
    if name != "field of view":
        assert ratios["intensities" if name == "spacing" else "spacing"] < 1.5, ratios


def test_neither_the_unit_of_intensities_nor_the_order_of_axes_counts(known):
    array = head(9).astype("float32")
    plain = profile_of(make_image(array, spacing_mm=SPACING))
    turned = np.ascontiguousarray(array.transpose(2, 0, 1)) * 7 - 1000
    other = profile_of(make_image(turned, spacing_mm=(0.6, 1.5, 0.5), direction=PERMUTED))
    assert (other.spacing_mm, other.field_of_view_mm) == (plain.spacing_mm, plain.field_of_view_mm)
    np.testing.assert_allclose(other.quantiles, plain.quantiles, atol=0.05)


def test_volumes_of_labels(tmp_path):
    maps = []
    for n in (2, 5):
        labels = np.zeros((4, 5, 6), dtype="uint8")
        labels[0, 0, :n], labels[1, 1, 1] = 1, 2
        maps.append(write_scan(tmp_path / f"{n}.nii.gz", labels, spacing_mm=(1.0, 1.0, 2.0)))
    assert measure_labels(maps, VS) == {"cases": 2, "smallest": 4.0, "largest": 10.0}


def test_a_single_scan_has_no_rim(tmp_path):
    scan = write_scan(tmp_path / "a.nii.gz", head(1))
    assert measure_scans([scan], "target_training") is None
    assert measure_scans([scan, scan], "target_training") is None


def test_cards_without_and_with_a_fault():
    assert known_by({}) == known_by({SEEN: None}) == Known()
    for seen in ([1], {"scans": {"part": "a"}}, {"label_volumes_mm3": {"smallest": 1}}):
        with pytest.raises(ValueError, match="card: expected 'seen' as export writes it"):
            known_by({SEEN: seen})


def test_what_weights_were_trained_on_is_one_line():
    cases = {"source_training": 95, "target_training": 105}
    assert trained_on({"data": {"kind": "scans", "cases": cases}}) == (
        "trained on 95 labelled source scans, 105 unlabelled target scans"
    )
    phantoms = {"source_training": {"preset": "small", "hardness": "easy"}}
    told = trained_on({"data": {"kind": "phantom", "cases": {"source_training": 1}, "phantoms": phantoms}})
    assert told.startswith("trained on phantoms alone (1 labelled source scan; preset small, hardness easy)")
    assert trained_on({"data": "none"}) == trained_on({}) == "their card does not say what they were trained on"
