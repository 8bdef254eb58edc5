import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from challenge.contract import label_file
from challenge.nifti import CaseError
from crossmoda_grl.__main__ import main
from pipeline.inference.picture import PicturedCase, draw_picture, read_pictured_case
from tests.images import FLIPPED, noise, write_scan


@pytest.fixture
def folders(tmp_path):
    for name in ("scans", "labels", "reference"):
        (tmp_path / name).mkdir()
    return tmp_path


def labels():
    array = np.zeros((12, 20, 16), dtype="uint8")
    array[4:7, 8:14, 9:13] = 1
    array[5:7, 3:5, 2:4] = array[5:7, 3:5, 12:14] = 2
    return array


def coloured(picture):
    """How many pixels are neither grey nor nearly so."""
    return int((np.ptp(imread(picture)[..., :3], axis=-1) > 0.3).sum())


def test_picture_has_a_row_a_case_and_a_column_for_each_prediction_and_the_reference(folders):
    for case in ("crossmoda_1", "crossmoda_2", "crossmoda_3"):
        write_scan(folders / "scans" / f"{case}_hrT2.nii.gz")
    for case in ("crossmoda_1", "crossmoda_2"):
        write_scan(folders / "labels" / label_file(case), labels())
        write_scan(folders / "reference" / label_file(case), np.roll(labels(), 1, axis=1))

    def draw(name, *more):
        scans, out = folders / "scans", folders / f"{name}.png"
        command = ["picture", "--scans", scans, "--labels", folders / "labels", "--out", out, *more]
        result = CliRunner().invoke(main, [str(part) for part in command])
        assert result.exit_code == 0, result.output
        return imread(out), result.stdout

    reference = ["--reference", folders / "reference"]
    two, told = draw("two", *reference)
    assert told == f"{folders}/two.png: 2 of 3 cases\n"
    one, _ = draw("one", *reference, "--most", "1")
    assert two.shape[0] - one.shape[0] > 200
    assert two.shape[1] == one.shape[1]
    again, _ = draw("again", *reference, "--labels", f"again={folders / 'labels'}")
    assert again.shape[1] - two.shape[1] > 400  # a panel for each structure
    assert again.shape[0] == two.shape[0]
    assert coloured(folders / "again.png") > coloured(folders / "two.png") > coloured(folders / "one.png") > 200
    assert draw("plain")[0].shape[1] < two.shape[1]


def test_two_folders_of_one_name_are_refused(folders):
    write_scan(folders / "scans" / "a_hrT2.nii.gz")
    command = ["picture", "--scans", folders / "scans", "--out", folders / "a.png"]
    command += ["--labels", folders / "labels", "--labels", f"labels={folders / 'reference'}"]
    result = CliRunner().invoke(main, [str(part) for part in command])
    assert result.exit_code == 1
    assert "--labels: expected a different name for each folder, got labels, labels; write NAME=DIR" in result.stderr


def texts(page):
    """Every line of text on a figure, with its box in pixels."""
    page.draw_without_rendering()
    return [(t.get_text(), t.get_window_extent()) for t in page.findobj(Text) if t.get_text() and t.get_visible()]


def drawn(monkeypatch, tmp_path, cases, **options):
    """Draw a picture and return its figure."""
    kept = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (kept.append(self), save(self, *a, **k))[1])
    draw_picture(cases, tmp_path / "a.png", **options)
    return kept[0]


def pictured(case, predictions, reference):
    return PicturedCase(case, noise((12, 20, 16), dtype="float32"), predictions, reference, (1.5, 0.5, 0.5))


@pytest.mark.parametrize("names", [["a"], ["paper", "best"], ["paper", "best", "a longer name"]])
def test_no_text_overlaps_another_or_leaves_the_page(monkeypatch, tmp_path, names):
    cases = [pictured(f"crossmoda2022_etz_{n}", dict.fromkeys(names, labels()), labels()) for n in range(2)]
    figure = drawn(monkeypatch, tmp_path, cases, note="Phantoms, not patients. The shipped networks: weights/*/*.json")
    boxes = texts(figure)
    assert [text for text, _ in boxes].count("reference") == 2
    for n, (text, box) in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0, text
        assert figure.bbox.x1 >= box.x1, text
        assert figure.bbox.y0 <= box.y0, text
        assert figure.bbox.y1 >= box.y1, text
        for other, area in boxes[n + 1 :]:
            assert not box.overlaps(area), f"{text} lies on {other}"


def test_each_panel_outlines_its_own_structure_and_tells_the_dice(monkeypatch, tmp_path):
    missed = labels()
    missed[missed == 1] = 0
    figure = drawn(monkeypatch, tmp_path, [pictured("a", {"right": labels(), "missed": missed}, labels())])
    said = [[t.get_text() for t in axes.texts] for axes in figure.axes]
    assert [remarks[-1] for remarks in said] == ["Dice 1.00", "Dice 0.00, none found", "", "Dice 1.00", "Dice 1.00", ""]
    outlined = [[len(c.get_segments()) > 0 for c in axes.collections] for axes in figure.axes]
    assert outlined == [[True], [False], [True], [True], [True], [True]]


def test_flipped_scan_is_turned_so_that_the_patient_s_right_is_on_the_reader_s_left(folders):
    """FLIPPED has its second axis from posterior to anterior: its rows come in reverse order."""
    array = noise((12, 20, 16))
    scan = write_scan(folders / "scans" / "a_hrT2.nii.gz", array, direction=FLIPPED)
    write_scan(folders / "labels" / label_file("a"), labels(), direction=FLIPPED)
    case = read_pictured_case("a", scan, {"labels": folders / "labels"}, None)
    np.testing.assert_array_equal(case.scan, array[:, ::-1])
    np.testing.assert_array_equal(case.predictions["labels"], labels()[:, ::-1])
    assert case.reference is None
    assert case.spacing_mm == (1.5, 0.5, 0.5)


def test_label_map_on_another_grid_is_refused(folders):
    scan = write_scan(folders / "scans" / "a_hrT2.nii.gz")
    write_scan(folders / "labels" / label_file("a"), labels(), spacing_mm=(0.6, 0.5, 1.5))
    with pytest.raises(CaseError, match=r"a_Label.nii.gz: expected the scan's grid .* got 16 x 20 x 12 voxels, 0.6"):
        read_pictured_case("a", scan, {"labels": folders / "labels"}, None)


def test_empty_prediction_is_said_in_words_and_no_case_is_an_error(monkeypatch, tmp_path):
    empty = np.zeros((12, 20, 16), dtype="uint8")
    figure = drawn(monkeypatch, tmp_path, [pictured("a", {"labels": empty}, None)])
    assert [axes.texts[-1].get_text() for axes in figure.axes] == ["none found", "none found"]
    both = [pictured("a", {"labels": empty}, empty), pictured("b", {"labels": empty}, None)]
    figure = drawn(monkeypatch, tmp_path, both)
    assert {axes.texts[-1].get_text() for axes in figure.axes} == {"none found", "none", "no reference"}
    with pytest.raises(ValueError, match="expected at least one case, got none"):
        draw_picture([], tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()
    with pytest.raises(ValueError, match="expected every case with the predictions labels"):
        draw_picture([both[0], pictured("b", {"other": empty}, None)], tmp_path / "b.png")
