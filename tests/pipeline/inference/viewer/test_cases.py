"""Places to look at, and what the page is told of a case."""

import nibabel
import numpy as np
import pytest

from challenge.colours import REFERENCE_COLOUR, colour_of
from challenge.contract import STRUCTURES
from challenge.nifti import CaseError
from pipeline.inference.viewer.cases import CaseFiles, colours, read_viewed_case
from pipeline.inference.viewer.places import largest_disagreement, places_of_structure
from tests.images import OBLIQUE, write_scan
from tests.pipeline.inference.viewer.volumes import VS, prediction, write_case


def test_a_place_lies_inside_a_bent_structure_and_not_at_its_centre():
    mask = np.zeros((9, 9, 9), dtype=bool)
    mask[4, 1:8, 1:8] = True
    mask[4, 2:7, 2:8] = False  # a C
    (place,) = places_of_structure(mask, (1, 1, 1))
    assert mask[place.voxel]
    assert (place.voxels, place.extent_mm) == (int(mask.sum()), 7.0)


def test_the_middle_of_a_block_is_its_place():
    mask = np.zeros((9, 9, 9), dtype=bool)
    mask[1:4, 2:7, 3:8] = True
    (place,) = places_of_structure(mask, (2, 1, 1))
    assert place.voxel == (2, 4, 5)
    assert place.extent_mm == 6.0
    assert places_of_structure(np.zeros_like(mask), (1, 1, 1)) == []


def test_what_is_missed_and_what_is_added_are_two_disagreements():
    predicted, wanted = np.zeros((2, 3, 20, 20), np.uint8)
    wanted[:, 5:15, 5:15] = 1
    predicted[:, 5:15, 8:18] = 1  # 3 * 10 * 3 voxels missed and as many added
    predicted[:, 4, 8:18] = 1  # and 3 * 10 more, which touch those that were added
    place = largest_disagreement(predicted, wanted, (1, 1, 1))
    assert place is not None
    assert place.voxels == 120
    assert predicted[place.voxel] == 1
    assert wanted[place.voxel] == 0
    assert largest_disagreement(wanted, wanted, (1, 1, 1)) is None


@pytest.mark.parametrize("direction", [(1, 0, 0, 0, 1, 0, 0, 0, 1), (-1, 0, 0, 0, -1, 0, 0, 0, 1), OBLIQUE])
def test_places_are_where_the_files_have_them(tmp_path, direction):
    files = write_case(tmp_path, direction=direction)
    case = read_viewed_case(files, STRUCTURES)
    places = {place["title"]: place for place in case.description["places"]}
    assert list(places) == ["VS", "Cochlea, left", "Cochlea, right", "Largest disagreement"]
    # By another library, from the files on disk.
    on_disk = nibabel.load(files.labels)
    labels = np.asarray(on_disk.dataobj)
    for title, label in (("VS", 1), ("Cochlea, left", 2), ("Cochlea, right", 2)):
        voxel = np.linalg.inv(on_disk.affine) @ [*places[title]["mm"], 1]
        assert labels[tuple(np.rint(voxel[:3]).astype(int))] == label
    assert places["Cochlea, left"]["mm"][0] < places["Cochlea, right"]["mm"][0]
    wanted = np.asarray(nibabel.load(files.reference).dataobj)
    voxel = np.rint((np.linalg.inv(on_disk.affine) @ [*places["Largest disagreement"]["mm"], 1])[:3]).astype(int)
    assert (labels[tuple(voxel)], wanted[tuple(voxel)]) == (0, 1)
    assert places["Largest disagreement"]["detail"] == "469 mm³: labels nothing, reference VS"
    # What is served has the same voxels at the same places, on axes that run to the right, front and head.
    served = nibabel.Nifti1Image.from_bytes(case.volumes["prediction"])
    assert nibabel.aff2axcodes(served.affine) == ("R", "A", "S")
    moved = np.linalg.inv(served.affine) @ on_disk.affine
    for label in (1, 2):
        there = np.argwhere(labels == label)
        here = np.rint((moved[:3, :3] @ there.T).T + moved[:3, 3]).astype(int)
        assert (np.asarray(served.dataobj)[tuple(here.T)] == label).all()


def test_figures(tmp_path):
    case = read_viewed_case(write_case(tmp_path), STRUCTURES)
    vs, cochlea = case.description["structures"]
    assert vs["mm3"] == {"prediction": 75 * 3.75, "reference": 200 * 3.75}
    assert vs["dice"] == pytest.approx(2 * 75 / 275)
    assert cochlea["dice"] == pytest.approx(2 * 8 / (8 + 20))
    assert case.description["notes"] == []


def test_a_structure_that_only_the_reference_has_can_be_gone_to(tmp_path):
    files = write_case(tmp_path)
    labels = prediction()
    labels[VS] = 3
    write_scan(files.labels, labels, spacing_mm=(1.25, 1.5, 2.0), origin_mm=(-20, 7, 3))
    description = read_viewed_case(files, STRUCTURES).description
    first = description["places"][0]
    assert (first["title"], first["detail"]) == ("VS", "in the reference only")
    assert description["notes"] == ["The prediction also has the label 3, of no structure; see --layout."]


@pytest.mark.parametrize(
    ("array", "spacing_mm", "message"),
    [
        (prediction(), (1.25, 1.5, 2.5), "expected the scan's grid"),
        (prediction() * np.float32(0.3), (1.25, 1.5, 2.0), "expected a label map of whole numbers from 0 to 255"),
        (prediction().astype(np.int16) * 300, (1.25, 1.5, 2.0), "got values from 0 to 600; name a label map"),
    ],
)
def test_what_is_no_label_map_of_the_scan_is_refused(tmp_path, array, spacing_mm, message):
    files = write_case(tmp_path)
    other = write_scan(tmp_path / "other.nii.gz", array, spacing_mm=spacing_mm, origin_mm=(-20, 7, 3))
    for bad in (CaseFiles("c", files.scan, other, None), CaseFiles("c", files.scan, files.labels, other)):
        with pytest.raises(CaseError, match=message):
            read_viewed_case(bad, STRUCTURES)


def test_colours_are_those_of_other_pictures():
    assert colours(STRUCTURES)["prediction"] == [colour_of(structure) for structure in STRUCTURES]
    assert colours(STRUCTURES)["reference"][0] == REFERENCE_COLOUR
    assert len({colour for role in colours(STRUCTURES).values() for colour in role}) == 4
