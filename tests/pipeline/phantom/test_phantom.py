"""The phantoms: shapes worked by hand, one head in both contrasts, cohorts as the challenge lays them out."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from challenge.contract import COCHLEA, STRUCTURES, VS
from pipeline.phantom import (
    CET1,
    HARDNESS,
    HRT2,
    PRESETS,
    Grid,
    Head,
    centred_grid,
    make_case,
    make_cohort,
    make_head,
    paint,
)
from pipeline.phantom.anatomy import Layer, Tumour
from pipeline.phantom.cohort import _image, draw_grid
from pipeline.phantom.contrast import Hardness, draw_appearance
from pipeline.phantom.shapes import (
    UPRIGHT,
    Both,
    Cells,
    Ellipsoid,
    Minus,
    Offset,
    Plane,
    Pose,
    RandomField,
    Tube,
    Union,
    coverage,
    random_field,
    rotation_about_axes,
    scaled_to_volume,
    volume_mm3,
)

STANDARD = HARDNESS["standard"]
# A quiet scanner: what is painted is what is there.
SILENT = Hardness(noise=0.0, bias=0.0, tissue_jitter=0.0, cystic=0.0, dark=0.0)


def ball(radius: float, centre: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Ellipsoid:
    return Ellipsoid(np.array(centre), np.full(3, radius), np.eye(3))


def point(shape, x: float, y: float, z: float) -> float:
    """Return the distance at one point."""
    return float(shape.distance(Plane(np.array([x]), np.array([y]), z, UPRIGHT))[0, 0])


# Shapes


def test_a_ball_has_the_distance_of_a_ball():
    sphere = ball(5.0, (1.0, 2.0, 3.0))
    assert point(sphere, 1.0, 2.0, 10.0) == pytest.approx(2.0, abs=1e-4)
    assert point(sphere, 1.0, 5.0, 7.0) == pytest.approx(0.0, abs=1e-4)
    assert point(sphere, 1.0, 2.0, 3.0) == pytest.approx(-5.0, abs=1e-4)


def test_a_tube_widens_along_its_length():
    tube = Tube(points=np.array([[0.0, 0, 0], [10.0, 0, 0]]), radii=np.array([1.0, 3.0]))
    assert point(tube, 5.0, 4.0, 0.0) == pytest.approx(2.0, abs=1e-4)  # radius 2 half way
    assert point(tube, 0.0, 0.0, 1.5) == pytest.approx(0.5, abs=1e-4)
    assert point(tube, 12.0, 0.0, 0.0) == pytest.approx(-1.0, abs=1e-4)  # the round end


def test_set_operations_on_two_balls():
    left, right = ball(2.0, (-1.0, 0.0, 0.0)), ball(2.0, (1.0, 0.0, 0.0))
    assert point(Union((left, right)), 2.0, 0.0, 0.0) == pytest.approx(-1.0, abs=1e-4)
    assert point(Both(left, right), 2.0, 0.0, 0.0) == pytest.approx(1.0, abs=1e-4)
    assert point(Minus(right, left), 2.0, 0.0, 0.0) == pytest.approx(-1.0, abs=1e-4)
    assert point(Minus(right, left), 0.0, 0.0, 0.0) == pytest.approx(1.0, abs=1e-4)
    assert point(Offset(left, 0.5), 2.0, 0.0, 0.0) == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize(
    ("shape", "volume"),
    [
        (ball(6.0), 4 / 3 * np.pi * 216),
        (Ellipsoid(np.zeros(3), np.array([3.0, 5.0, 8.0]), rotation_about_axes(np.array([0.3, -0.5, 1.0]))), 502.65),
        (Tube(np.array([[0.0, 0, 0], [12.0, 3.0, 4.0]]), np.array([2.0, 2.0])), np.pi * 4 * 13 + 4 / 3 * np.pi * 8),
    ],
)
def test_volume_is_the_one_of_the_textbook(shape, volume: float):
    assert volume_mm3(shape, 0.5) == pytest.approx(volume, rel=0.02)


def test_scaled_to_volume_finds_the_radius():
    # 4/3 pi 5^3 = 523.6
    assert scaled_to_volume(ball, 523.6, scale=2.0, step_mm=0.4, rounds=4) == pytest.approx(5.0, rel=0.01)


def test_coverage_is_linear_across_the_surface():
    distance = np.array([[-2.0, -0.25, 0.0, 0.25, 2.0]], dtype=np.float32)
    np.testing.assert_allclose(coverage(distance, 1.0), [[1.0, 0.75, 0.5, 0.25, 0.0]])


def test_a_field_of_one_wave_is_that_wave_and_its_mean_over_a_voxel_is_the_integral():
    wave = RandomField(wave_vectors=np.array([[0.0, 0.0, 2 * np.pi / 8]]), phases=np.array([0.0]))  # 8 mm along z
    at = Plane(np.array([0.0, 3.0]), np.array([0.0]), 1.0, UPRIGHT)
    np.testing.assert_allclose(wave.sample(at), [[1.0, 1.0]], atol=1e-6)  # sqrt(2) cos(45 degrees)
    # The mean of cos over a quarter period each side of its peak: 2 / pi.
    middle = Plane(np.array([0.0]), np.array([0.0]), 0.0, UPRIGHT)
    np.testing.assert_allclose(wave.sample(middle, (0.4, 0.4, 4.0)), [[np.sqrt(2) * 2 / np.pi]], atol=1e-6)


def test_a_random_field_has_mean_0_and_variance_1():
    field = random_field(np.random.default_rng(0), (3.0, 8.0), waves=40)
    values = np.stack(
        [field.sample(Plane(np.arange(0, 200, 1.3), np.arange(0, 200, 1.3), z, UPRIGHT)) for z in (0, 90)]
    )
    assert abs(values.mean()) < 0.03
    assert values.std() == pytest.approx(1.0, abs=0.1)


def test_a_posed_plane_sees_the_head_turned():
    quarter_turn = Pose(rotation_about_axes(np.array([0.0, 0.0, np.pi / 2])), np.array([10.0, 0.0, 0.0]))
    # Head (3, 0, 0) turns to (0, 3, 0), then moves to (10, 3, 0).
    plane = Plane(np.array([10.0]), np.array([3.0]), 0.0, quarter_turn)
    np.testing.assert_allclose([plane.x[0, 0], plane.y[0, 0], plane.z[0, 0]], [3.0, 0.0, 0.0], atol=1e-5)
    field = random_field(np.random.default_rng(1), (5.0, 20.0))
    upright = Plane(np.array([3.0]), np.array([0.0]), 0.0, UPRIGHT)
    np.testing.assert_allclose(field.sample(plane), field.sample(upright), atol=1e-5)


def test_cells_are_half_of_a_shape_at_level_0():
    field = random_field(np.random.default_rng(2), (2.0, 5.0), waves=40)
    whole = ball(12.0)
    assert volume_mm3(Cells(whole, field, 0.0), 0.6) == pytest.approx(volume_mm3(whole, 0.6) / 2, rel=0.1)
    # P(|N| < 0.5) = 0.383
    assert volume_mm3(Cells(whole, field, 0.5, folded=True), 0.6) == pytest.approx(0.383 * 7238, rel=0.12)


# The scanner


def lone(shape, tissue: str = "csf", structure=None) -> Head:
    """Return a head that is one shape in air."""
    nothing = Layer(ball(0.1, (500.0, 0.0, 0.0)), "cyst", VS)
    return Head((Layer(shape, tissue, structure),), Tumour("left", 0.0, 0.5, nothing), UPRIGHT)


def test_a_centred_grid_has_its_middle_where_it_is_asked():
    grid = centred_grid((5, 4, 3), (0.5, 1.0, 2.0), (10.0, 0.0, -1.0))
    assert grid.origin_mm == (9.0, -1.5, -3.0)
    np.testing.assert_allclose(grid.centres(1), [-1.5, -0.5, 0.5, 1.5])
    with pytest.raises(ValueError, match=r"expected positive sizes and spacings, got \(0, 4, 3\)"):
        centred_grid((0, 4, 3), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))


def test_a_thick_slice_averages_over_its_thickness():
    slab = Minus(ball(100.0), ball(150.0, (0.0, 0.0, -150.25)))  # everything above z = -0.25 mm
    thick, _ = paint(
        lone(slab, "nerve"), HRT2, Grid((3, 3, 1), (1.0, 1.0, 1.0), (-1.0, -1.0, 0.0)), np.random.default_rng(0), SILENT
    )
    inside, _ = paint(
        lone(slab, "nerve"), HRT2, Grid((3, 3, 1), (1.0, 1.0, 1.0), (-1.0, -1.0, 9.0)), np.random.default_rng(0), SILENT
    )
    # Three quarters of the slice hold the nerve, a tissue without texture.
    assert thick.mean() / inside.mean() == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("spacing", [(0.4, 0.4, 1.5), (0.5, 0.5, 0.5), (0.8, 0.8, 1.0)])
def test_labels_hold_the_volume_of_the_shape_on_any_grid(spacing):
    size = tuple(round(16 / s) for s in spacing)
    grid = centred_grid(size, spacing, (0.3, -0.2, 0.1))
    _, labels = paint(lone(ball(6.0), structure=COCHLEA), CET1, grid, np.random.default_rng(0), SILENT)
    assert set(np.unique(labels)) == {0, 2}
    assert (labels == 2).sum() * np.prod(spacing) == pytest.approx(904.8, rel=0.03)


def test_air_has_rician_noise():
    grid = centred_grid((80, 80, 3), (1.0, 1.0, 1.0), (900.0, 0.0, 0.0))
    noisy = Hardness(noise=0.2, bias=0.0, tissue_jitter=0.0)
    scan, _ = paint(lone(ball(1.0)), CET1, grid, np.random.default_rng(3), noisy)
    # Without signal it is Rayleigh: mean / standard deviation = sqrt(pi / (4 - pi)) = 1.913.
    assert scan.mean() / scan.std() == pytest.approx(1.913, rel=0.03)


def test_unknown_contrast_is_refused():
    with pytest.raises(ValueError, match="expected one of ceT1, hrT2, got 'T1'"):
        paint(lone(ball(1.0)), "T1", centred_grid((2, 2, 2), (1, 1, 1), (0, 0, 0)), np.random.default_rng(0), STANDARD)


def test_an_oblique_scan_has_the_head_where_an_axial_one_has_it():
    straight = centred_grid((40, 40, 20), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0))
    turned = rotation_about_axes(np.radians([15.0, -5.0, 5.0]))
    centres = []
    for grid in (straight, replace(straight, direction=tuple(turned.ravel().tolist()))):
        _, labels = paint(
            lone(ball(6.0, (8.0, -5.0, 4.0)), structure=COCHLEA), HRT2, grid, np.random.default_rng(0), SILENT
        )
        image = _image(labels, grid)
        middle = ndimage.center_of_mass(labels)[::-1]
        centres.append(image.TransformContinuousIndexToPhysicalPoint(middle))
    np.testing.assert_allclose(centres, [[8.0, -5.0, 4.0]] * 2, atol=0.15)


# Heads


@pytest.fixture(scope="module")
def head() -> Head:
    return make_head(np.random.default_rng(5))


GRID = centred_grid((147, 91, 27), (0.75, 0.75, 1.5), (0.0, 3.0, 0.0))


@pytest.fixture(scope="module")
def both(head: Head):
    """The same head in both contrasts on one grid, without noise."""
    return {c: paint(head, c, GRID, np.random.default_rng(9), SILENT) for c in (CET1, HRT2)}


def test_one_head_has_the_same_labels_in_both_contrasts(both):
    np.testing.assert_array_equal(both[CET1][1], both[HRT2][1])


def test_contrasts_show_what_a_radiologist_expects(both):
    (t1, labels), (t2, _) = both[CET1], both[HRT2]
    vs, cochlea = (ndimage.binary_erosion(labels == s.label) for s in (VS, COCHLEA))
    fluid = t2 > np.percentile(t2, 98)
    csf_t1, csf_t2 = np.median(t1[fluid & (labels == 0)]), np.median(t2[fluid & (labels == 0)])
    brain_t1, brain_t2 = np.median(t1[:, 40:60, 68:78]), np.median(t2[:, 40:60, 68:78])
    assert np.median(t1[vs]) > 1.3 * brain_t1 > 2 * csf_t1  # ceT1: tumour bright, fluid dark
    assert np.median(t1[cochlea]) < brain_t1
    assert 0.45 < np.median(t2[vs]) / csf_t2 < 0.62  # hrT2: fluid bright, tumour grey
    assert np.median(t2[cochlea]) > 0.7 * csf_t2
    assert brain_t2 < np.median(t2[vs])


def test_dark_and_cystic_tumours_differ_from_plain_ones_where_they_should(head: Head, both):
    plain, labels = both[HRT2]
    vs = ndimage.binary_erosion(labels == VS.label)
    dark, dark_labels = paint(head, HRT2, GRID, np.random.default_rng(9), Hardness(
        noise=0.0, bias=0.0, tissue_jitter=0.0, cystic=0.0, dark=1.0))  # fmt: skip
    cystic, cystic_labels = paint(head, HRT2, GRID, np.random.default_rng(9), Hardness(
        noise=0.0, bias=0.0, tissue_jitter=0.0, cystic=1.0, dark=0.0))  # fmt: skip
    assert np.median(dark[vs]) == pytest.approx(0.62 * np.median(plain[vs]), rel=0.05)
    np.testing.assert_array_equal(dark_labels, labels)
    np.testing.assert_array_equal(cystic_labels, labels)
    assert cystic[vs].std() > 1.3 * plain[vs].std()
    np.testing.assert_array_equal(cystic[labels == 0][:1000], plain[labels == 0][:1000])


@pytest.mark.parametrize("seed", range(5))
def test_every_head_has_two_cochleas_and_one_tumour_of_the_size_asked(seed: int):
    drawn = make_head(np.random.default_rng(seed))
    cochleas = [layer.shape for layer in drawn.layers if layer.structure == COCHLEA and layer.tissue == "modiolus"]
    tumour = next(layer.shape for layer in drawn.layers if layer.structure == VS)
    assert 100 <= drawn.tumour.volume_mm3 <= 10_000
    assert volume_mm3(tumour, 0.6) == pytest.approx(drawn.tumour.volume_mm3, rel=0.05)
    volumes = [volume_mm3(c, 0.35) for c in cochleas]
    assert len(volumes) == 2
    assert all(28 <= v <= 66 for v in volumes)
    centres = [np.mean(c.bounds(), axis=0) for c in cochleas]
    assert 60 <= np.linalg.norm(centres[0] - centres[1]) <= 72
    # The tumour lies on its side, and its cochlea lower.
    middle = np.mean(tumour.bounds(), axis=0)
    assert (middle[0] > 0) == (drawn.tumour.side == "left")


def test_structures_never_touch(head: Head, both):
    labels = both[CET1][1]
    vs, cochlea = (labels == s.label for s in (VS, COCHLEA))
    assert vs.any()
    assert cochlea.any()
    assert not (ndimage.binary_dilation(vs) & cochlea).any()


# Cohorts


def test_a_case_is_the_same_head_in_any_preset_contrast_and_cohort():
    _, labels, grid, first = make_case(7, CET1, PRESETS["small"], STANDARD, seed=3)
    again_scan, _, _, _ = make_case(7, HRT2, PRESETS["small"], STANDARD, seed=3)
    repeat_scan, repeat_labels, repeat_grid, second = make_case(7, CET1, PRESETS["small"], STANDARD, seed=3)
    assert first.tumour.volume_mm3 == second.tumour.volume_mm3
    assert repeat_grid == grid
    np.testing.assert_array_equal(repeat_labels, labels)
    assert again_scan.shape != repeat_scan.shape  # hrT2 sees less
    _, _, _, other = make_case(8, CET1, PRESETS["small"], STANDARD, seed=3)
    assert other.tumour.volume_mm3 != first.tumour.volume_mm3


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    out = tmp_path_factory.mktemp("cohort")
    said: list[str] = []
    files = make_cohort(out, source=2, target=1, validation=1, preset="small", seed=0, progress=said.append)
    return out, files, said


def test_the_cohort_has_the_names_ids_and_folders_of_the_challenge(cohort):
    out, files, said = cohort
    assert [str(p.relative_to(out)) for p in files] == [
        "source_training/crossmoda_1_ceT1.nii.gz",
        "source_training/crossmoda_1_Label.nii.gz",
        "source_training/crossmoda_2_ceT1.nii.gz",
        "source_training/crossmoda_2_Label.nii.gz",
        "target_training/crossmoda_106_hrT2.nii.gz",
        "target_validation/crossmoda_211_hrT2.nii.gz",
        "target_validation_reference/crossmoda_211_Label.nii.gz",
        "phantom.json",
    ]
    assert {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()} == {str(p.relative_to(out)) for p in files}
    assert said == [str(p.relative_to(out)) for p in files if "T" in p.name]


def test_scans_and_labels_share_their_grid_and_hold_both_structures(cohort):
    out, _, _ = cohort
    for scan_name, label_name in (
        ("source_training/crossmoda_1_ceT1", "source_training/crossmoda_1_Label"),
        ("target_validation/crossmoda_211_hrT2", "target_validation_reference/crossmoda_211_Label"),
    ):
        scan, labels = (sitk.ReadImage(str(out / f"{name}.nii.gz")) for name in (scan_name, label_name))
        assert scan.GetPixelID() == sitk.sitkInt16
        assert labels.GetPixelID() == sitk.sitkUInt8
        assert scan.GetSize() == labels.GetSize()
        np.testing.assert_allclose(scan.GetOrigin(), labels.GetOrigin(), atol=1e-6)
        np.testing.assert_allclose(scan.GetSpacing(), labels.GetSpacing(), atol=1e-6)
        assert set(np.unique(sitk.GetArrayFromImage(labels))) == {0, 1, 2}


def test_the_record_says_what_was_made(cohort):
    out, _, _ = cohort
    record = json.loads((out / "phantom.json").read_text())
    assert {k: record[k] for k in ("preset", "seed", "hardness")} == {
        "preset": "small",
        "seed": 0,
        "hardness": "standard",
    }
    assert list(record["cases"]) == ["crossmoda_1", "crossmoda_2", "crossmoda_106", "crossmoda_211"]
    labels = sitk.ReadImage(str(out / "source_training/crossmoda_1_Label.nii.gz"))
    case = record["cases"]["crossmoda_1"]
    voxel = np.prod(labels.GetSpacing())
    for structure in STRUCTURES:
        counted = (sitk.GetArrayFromImage(labels) == structure.label).sum() * voxel
        assert case["volume_mm3"][structure.key] == pytest.approx(counted, abs=0.1)
    assert case["size_xyz"] == list(labels.GetSize())
    assert case["vs_side"] in {"left", "right"}


def test_the_same_seed_gives_the_same_voxels_and_another_seed_others(cohort, tmp_path: Path):
    out, _, _ = cohort
    make_cohort(tmp_path / "same", source=1, target=0, validation=0, preset="small", seed=0)
    make_cohort(tmp_path / "other", source=1, target=0, validation=0, preset="small", seed=1)
    name = "source_training/crossmoda_1_ceT1.nii.gz"
    first, same, other = (
        sitk.GetArrayFromImage(sitk.ReadImage(str(r / name))) for r in (out, tmp_path / "same", tmp_path / "other")
    )
    np.testing.assert_array_equal(first, same)
    assert other.shape != first.shape or (other != first).mean() > 0.5


def test_the_number_of_threads_changes_no_voxel():
    """Products of matrices in float32 did: one grey level in two cases of three."""
    digest = (
        "import hashlib; from pipeline.phantom.cohort import PRESETS, make_case; "
        "from pipeline.phantom.contrast import HARDNESS, HRT2; "
        "scan = make_case(108, HRT2, PRESETS['small'], HARDNESS['standard'], seed=1)[0]; "
        "print(hashlib.sha256(scan.tobytes()).hexdigest())"
    )
    environments = [os.environ | {"OMP_NUM_THREADS": threads} for threads in ("1", "2")]
    one, two = (subprocess.check_output([sys.executable, "-c", digest], env=e, text=True) for e in environments)
    assert one == two


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": 106}, r"source: expected 0 to 105 cases \(the challenge's ids 1 to 105\), got 106"),
        ({"target": 106}, r"target: expected 0 to 105 cases \(the challenge's ids 106 to 210\), got 106"),
        ({"validation": 33}, r"validation: expected 0 to 32 cases \(the challenge's ids 211 to 242\), got 33"),
        ({"source": -1}, r"source: expected 0 to 105 .* got -1"),
        ({"preset": "tiny"}, "preset: expected one of small, full, got 'tiny'"),
        ({"hardness": "brutal"}, "hardness: expected one of easy, standard, hard, got 'brutal'"),
        ({"seed": -4}, "seed: expected 0 or more, got -4"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path: Path, changes: dict, message: str):
    arguments = {"source": 1, "target": 0, "validation": 0, "preset": "small", "seed": 0} | changes
    with pytest.raises(ValueError, match=message):
        make_cohort(tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_full_scans_have_the_sizes_of_the_challenge():
    rng = np.random.default_rng(0)
    source = [draw_grid(rng, PRESETS["full"], CET1) for _ in range(50)]
    target = [draw_grid(rng, PRESETS["full"], HRT2) for _ in range(400)]
    assert {g.size_xyz for g in source} == {(512, 512, 120)}
    assert {g.spacing_mm[0] for g in source} == {0.4}
    assert {g.size_xyz[2] for g in target} == {20, 40, 80}
    wide = [g for g in target if g.size_xyz[0] == 448]
    assert {g.spacing_mm[0] for g in wide} == {0.46875}
    assert {g.spacing_mm[0] for g in target if g.size_xyz[0] == 384} == {0.546875}
    assert 0.74 < len(wide) / len(target) < 0.86  # about four in five
    assert all(1.0 <= g.spacing_mm[2] <= 1.5 for g in source + target)


def test_small_scans_are_what_two_cores_can_train_on():
    rng = np.random.default_rng(0)
    for contrast, most in ((CET1, (222, 138, 82)), (HRT2, (210, 126, 74))):
        for _ in range(50):
            grid = draw_grid(rng, PRESETS["small"], contrast)
            resampled = [n * s / 0.5 for n, s in zip(grid.size_xyz, grid.spacing_mm, strict=True)]
            assert all(r <= m for r, m in zip(resampled, most, strict=True))
            assert resampled[2] > 68


def test_standard_draws_what_it_has_always_drawn():
    """Shipped networks and published scores belong to these phantoms: a change here needs a new `version`."""
    grid = draw_grid(np.random.default_rng(4), PRESETS["small"], HRT2)
    assert grid == Grid((149, 89, 29), (0.7, 0.7, 1.26), (-50.37126888287688, -29.05749192831319, -17.317932504014912))
    looks = draw_appearance(np.random.default_rng(4), HRT2, STANDARD, character=0.5).looks
    assert (looks["vs"].level, looks["vein"].level) == pytest.approx((0.537113594825707, 0.45098417267988933))
    assert STANDARD.version == 2


def test_a_camouflaged_tumour_looks_like_the_cerebellum_and_a_dark_one_is_darker():
    hard = HARDNESS["hard"]
    dark, camouflaged, plain = (
        draw_appearance(np.random.default_rng(4), HRT2, hard, character=c).looks for c in (0.8, 0.6, 0.4)
    )
    assert camouflaged["vs"] == camouflaged["cerebellum"]
    assert dark["vs"].level == pytest.approx(0.62 * plain["vs"].level)
    assert plain["vein"].level == pytest.approx(0.45 * draw_appearance(
        np.random.default_rng(4), HRT2, replace(hard, shifts_hrt2={}), character=0.4).looks["vein"].level)  # fmt: skip
    enhanced = draw_appearance(np.random.default_rng(4), CET1, hard, character=0.6).looks
    assert enhanced["vs"] != enhanced["cerebellum"]  # on ceT1 it enhances like any other


def test_hard_scans_are_oblique_thick_and_wide():
    rng, hard = np.random.default_rng(0), HARDNESS["hard"]
    grids = [draw_grid(rng, PRESETS["small"], HRT2, hard) for _ in range(50)]
    assert all(1.8 <= grid.spacing_mm[2] <= 2.7 for grid in grids)
    for grid in grids:
        turn = np.reshape(grid.direction, (3, 3))
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        np.testing.assert_allclose(np.multiply(grid.size_xyz, grid.spacing_mm), (130.0, 77.5, 45.0), atol=1.4)
    tilts = [np.degrees(np.arccos(grid.direction[8])) for grid in grids]  # of the slices against axial ones
    assert 5 < np.mean(tilts) < max(tilts) < 16


def test_a_hard_case_holds_both_structures_in_its_oblique_field():
    _, labels, grid, _ = make_case(211, HRT2, PRESETS["small"], HARDNESS["hard"], seed=5)
    voxel_mm3 = np.prod(grid.spacing_mm)
    _, cochleas = ndimage.label(labels == COCHLEA.label)
    assert cochleas == 2
    assert (labels == VS.label).sum() * voxel_mm3 > 100
