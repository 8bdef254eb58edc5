"""Which cases are worst, and the pictures of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from challenge.contract import label_file
from challenge.nifti import CaseError
from evaluation.report.page import render_html
from evaluation.report.worst_cases import draw_worst, lps_array, mean_dice, places_of, worst_first
from evaluation.scoring import Status, StructureScores
from tests.evaluation.report.cohorts import Elements, case, cohort, scores
from tests.images import FLIPPED, PERMUTED, make_image


def test_worst_cases_come_first_and_unscored_ones_last() -> None:
    nothing = StructureScores(Status.BOTH_EMPTY)
    unscored = case("crossmoda_215", nothing, nothing)
    both_zero = case("crossmoda_216", scores(0.0, 20.0), scores(0.0, 20.0))
    given = replace(cohort(), results=(*cohort().results, unscored, both_zero))
    assert [entry.case for _, entry in worst_first([given])] == [
        "crossmoda_214",  # Dice 0 like 216, and farther off
        "crossmoda_216",
        "crossmoda_213",
        "crossmoda_212",
        "crossmoda_211",
        "crossmoda_215",
    ]
    assert mean_dice(unscored) is None
    assert mean_dice(case("a", scores(0.4, 1.0), nothing)) == 0.4


def test_both_cochleas_are_two_places_and_touching_parts_one() -> None:
    reference, prediction = np.zeros((2, 20, 60, 120), dtype=bool)
    reference[8:10, 20:24, 10:14] = True
    reference[8:10, 20:24, 100:104] = True
    prediction[8:10, 20:24, 12:16] = True
    prediction[8:10, 30:33, 104:107] = True  # 3 mm from the second
    left, right = (slice(8, 10), slice(20, 24), slice(10, 16)), (slice(8, 10), slice(20, 33), slice(100, 107))
    assert places_of(reference, prediction, (1.5, 0.5, 0.5)) == [right, left]
    assert places_of(reference, reference, (1.5, 0.5, 0.5), apart_mm=50.0) == [
        (slice(8, 10), slice(20, 24), slice(10, 104))
    ]


def test_far_false_positive_is_a_place_and_nothing_is_everywhere() -> None:
    reference, prediction = np.zeros((2, 40, 20, 20), dtype=bool)
    reference[3:6, 5:9, 5:9] = True
    prediction[3:6, 5:9, 5:9] = True
    prediction[30, 5, 5] = True
    far = (slice(30, 31), slice(5, 6), slice(5, 6))
    assert places_of(reference, prediction, (1.0, 1.0, 1.0)) == [far, (slice(3, 6), slice(5, 9), slice(5, 9))]
    nothing = np.zeros_like(reference)
    assert places_of(nothing, nothing, (1.0, 1.0, 1.0)) == [(slice(0, 40), slice(0, 20), slice(0, 20))]


@pytest.mark.parametrize("direction", [FLIPPED, PERMUTED, (-1, 0, 0, 0, -1, 0, 0, 0, 1)])
def test_patients_right_is_on_the_readers_left_whatever_the_scans_axes(direction: tuple[float, ...]) -> None:
    image = make_image(np.zeros((6, 8, 10), dtype=np.uint8), spacing_mm=(1.0, 1.0, 1.0), direction=direction)
    image[2, 5, 3] = 1
    x, y, z = image.TransformIndexToPhysicalPoint((2, 5, 3))
    corners = [
        image.TransformIndexToPhysicalPoint((i * 9, j * 7, k * 5)) for i in (0, 1) for j in (0, 1) for k in (0, 1)
    ]
    # Distances in mm, which are voxels here, from the right, the anterior and the inferior end.
    expected = tuple(round(at - min(corner[axis] for corner in corners)) for axis, at in ((2, z), (1, y), (0, x)))
    assert tuple(np.argwhere(lps_array(image, image))[0]) == expected


def test_prediction_is_laid_on_the_reference_by_index() -> None:
    reference = make_image(np.zeros((4, 5, 6), dtype=np.uint8))
    labels = np.arange(120, dtype=np.uint8).reshape(4, 5, 6)
    moved = make_image(labels, origin_mm=(7.0, 0.0, 0.0), direction=FLIPPED)
    assert np.array_equal(lps_array(moved, reference), labels)
    with pytest.raises(CaseError, match=r"expected the reference's size \(6, 5, 4\), got \(6, 5, 3\)"):
        lps_array(make_image(labels[:3]), reference)


def test_worst_cases_are_drawn(folders: Path) -> None:
    drawn = draw_worst([cohort()], folders / "reference", folders / "prediction", folders / "scans", count=3)
    assert [(entry.case, entry.mean_dice) for entry in drawn] == [
        ("crossmoda_214", 0.0),
        ("crossmoda_213", pytest.approx(0.35)),
        ("crossmoda_212", pytest.approx(0.55)),
    ]
    assert drawn[0].problem == "No prediction in the folder given."
    assert "expected the reference's size (60, 40, 8), got (60, 40, 7)" in str(drawn[1].problem)
    assert drawn[2].problem is None
    assert [picture.title for picture in drawn[2].places] == [
        "VS",
        "Cochlea (1 of 2 places)",
        "Cochlea (2 of 2 places)",
    ]
    assert [picture.text for picture in drawn[2].places] == [
        "Dice 0.500, ASSD 4.00 mm",
        "Dice 0.600, ASSD 1.00 mm",
        "",
    ]
    assert drawn[0].places[0].text == "Dice 0.000, ASSD 350.0 mm (no file)"
    assert drawn[0].places[0].alt == (
        "crossmoda_214, axial slice 4 of 8: outlines of VS in the reference (100 voxels) "
        "and in the prediction (none here)"
    )
    page = render_html([cohort()], pictures=drawn, scans_given=True)
    found = Elements(page).found
    # VS lies in slices 3 to 5, the cochleas in 4; a stack holds one slice more on either side. 212 has no scan.
    assert [attrs["data-number"] for tag, attrs in found if tag == "g" and "data-number" in attrs][:8] == list(
        "23456345"
    )
    assert sum(tag == "image" for tag, _ in found) == 2 * (5 + 3 + 3)
    assert [attrs.get("class") for tag, attrs in found if tag == "g"].count("slice middle shown") == 9
    pictures = [attrs for tag, attrs in found if tag == "svg" and attrs.get("role") == "img"]
    assert len(pictures) == 9
    assert all(attrs["aria-label"] for attrs in pictures)


def test_scans_are_seen_where_given(folders: Path) -> None:
    arguments = ([cohort()], folders / "reference", folders / "prediction")
    with_scans = draw_worst(*arguments, folders / "scans", count=4)
    without = draw_worst(*arguments, count=4)
    assert all(slice.uri for slice in with_scans[0].places[0].stack.slices)
    assert not any(slice.uri for entry in without for place in entry.places for slice in place.stack.slices)
    assert not any(slice.uri for slice in with_scans[2].places[0].stack.slices)  # 212 has no scan


def test_team_folders_are_found_and_not_left(folders: Path) -> None:
    teams = folders / "teams"
    teams.mkdir()
    (folders / "prediction").rename(teams / "skjp")
    drawn = draw_worst([cohort()], folders / "reference", teams, count=4)
    assert [entry.problem for entry in drawn if entry.case == "crossmoda_211"] == [None]
    with pytest.raises(ValueError, match=r"expected a folder named '\.\.' in it for each of 2 teams"):
        draw_worst([cohort(), cohort("..")], folders / "reference", teams)
    with pytest.raises(ValueError, match=r"--scans .*nowhere: expected a folder, got none"):
        draw_worst([cohort()], folders / "reference", teams, folders / "nowhere")


def test_case_that_cannot_be_read_does_not_stop_the_others(folders: Path) -> None:
    (folders / "reference" / label_file("crossmoda_214")).write_bytes(b"no NIfTI")
    (folders / "reference" / label_file("crossmoda_213")).unlink()
    drawn = draw_worst([cohort()], folders / "reference", folders / "prediction", count=4)
    assert [len(entry.places) for entry in drawn] == [0, 0, 3, 3]
    assert "crossmoda_214_Label.nii.gz" in str(drawn[0].problem)
    assert "no reference in the folder given" in str(drawn[1].problem)
