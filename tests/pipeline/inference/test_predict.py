"""The predict command as a user meets it: a folder in, a folder out, and everything that can be wrong with either."""

import contextlib
import csv
import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from click.testing import CliRunner
from scipy import ndimage

from challenge.contract import STRUCTURES
from challenge.files import only_writer
from challenge.nifti import geometry_of, read_geometry
from crossmoda_grl.__main__ import main
from pipeline.data.cases import read_scan
from pipeline.inference.segment import segment_case
from pipeline.model.enet import ENet3d
from pipeline.model.rules import PostProcessing
from pipeline.model.shipped import DEFAULT_WEIGHTS
from pipeline.model.weights import load_segmenter, save_weights
from tests.images import (
    DIM,
    FLIPPED,
    OBLIQUE,
    PIXDIM,
    SCL_SLOPE,
    edit_header,
    noise,
    pack,
    set_sform,
    write_scan,
)
from tests.segmenters import WINDOW, narrow_network, write_narrow_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_narrow_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def folders(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in", tmp_path / "out"


def arguments(folders, weights, *more):
    options = ["--input", folders[0], "--output", folders[1], "--weights", weights, "--device", "cpu", *more]
    return ["predict", *map(str, options)]


def predict(folders, weights, *more):
    return CliRunner().invoke(main, arguments(folders, weights, *more))


def command(folders, weights, *more):
    """The same as a process of its own."""
    return [sys.executable, "-m", "crossmoda_grl", *arguments(folders, weights, *more)]


def record(folders):
    return json.loads((folders[1] / "predictions.json").read_text(encoding="utf-8"))["cases"]


def scan(folder, case, *edits, array=None, **geometry):
    path = write_scan(folder / f"{case}_hrT2.nii.gz", array, **geometry)
    for edit in edits:
        edit_header(path, edit)
    return path


def labels_in(folder):
    """The files of an output folder, but for the record of the results."""
    assert {"predictions.csv", "predictions.json"} <= set(os.listdir(folder))
    return sorted(set(os.listdir(folder)) - {"predictions.csv", "predictions.json"})


def label_of(folders, case):
    return folders[1] / f"{case}_Label.nii.gz"


@pytest.mark.parametrize("seen", ["mind", "both"])
def test_networks_that_see_descriptors_predict_by_their_cards(folders, tmp_path, seen):
    torch.manual_seed(2)
    for structure in STRUCTURES:
        network = ENet3d(channels=(4, 8, 16), input=seen).eval()
        save_weights(tmp_path / "weights", structure, network, {"spacing_mm": 0.5}, window=WINDOW)
    scan(folders[0], "crossmoda_211")
    result = predict(folders, tmp_path / "weights")
    assert result.exit_code == 0, result.output
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(label_of(folders, "crossmoda_211"))))
    segmenters = [load_segmenter(tmp_path / "weights", structure, torch.device("cpu")) for structure in STRUCTURES]
    expected = segment_case(read_scan(folders[0] / "crossmoda_211_hrT2.nii.gz"), segmenters).labels
    np.testing.assert_array_equal(written, expected)
    assert written.any()


def test_label_maps_are_uint8_on_the_scans_own_grids(folders, weights):
    scan(folders[0], "crossmoda_211")
    scan(folders[0], "crossmoda_212", direction=OBLIQUE, origin_mm=(-50.5, 20.25, 3.0), spacing_mm=(0.469, 0.469, 1.5))
    scan(folders[0], "crossmoda2022_etz_7", direction=FLIPPED, array=noise((5, 33, 7), dtype="float64"))
    result = predict(folders, weights)
    assert result.exit_code == 0, result.output
    assert labels_in(folders[1]) == [
        "crossmoda2022_etz_7_Label.nii.gz",
        "crossmoda_211_Label.nii.gz",
        "crossmoda_212_Label.nii.gz",
    ]
    for path in folders[0].iterdir():
        labels = sitk.ReadImage(str(label_of(folders, path.name.removesuffix("_hrT2.nii.gz"))))
        assert labels.GetPixelID() == sitk.sitkUInt8
        assert set(np.unique(sitk.GetArrayFromImage(labels))) <= {0, 1, 2}
        ours, theirs = geometry_of(labels), read_geometry(path)
        assert ours.size_xyz == theirs.size_xyz
        np.testing.assert_allclose(ours.spacing_mm, theirs.spacing_mm, atol=1e-6)
        np.testing.assert_allclose(ours.origin_mm, theirs.origin_mm, atol=1e-6)
        np.testing.assert_allclose(ours.direction, theirs.direction, atol=1e-6)


def test_output_is_lines_on_stderr_and_a_table_on_stdout(folders, weights):
    scan(folders[0], "crossmoda_211", spacing_mm=(0.5, 0.5, 1.5))
    scan(folders[0], "crossmoda_212")
    (folders[0] / "notes.txt").touch()
    result = predict(folders, weights)
    lines = result.stderr.splitlines()
    assert lines[0] == f"2 scans in {folders[0]}, weights from {weights}, on cpu"
    assert lines[1] == "weights: their card does not say what they were trained on"
    assert lines[2].startswith("the cards of VS and Cochlea do not say what is usual")
    assert lines[3] == f"ignored in {folders[0]}: notes.txt"
    assert lines[4].startswith("VS: network runs uncompiled and slower: none is compiled; crossmoda-grl compile")
    assert lines[5].startswith("Cochlea: network runs uncompiled")
    assert lines[6].startswith("1/2 crossmoda_211 ")
    assert [line for line in lines if line.startswith("2/2 crossmoda_212 ")]
    assert "16 x 20 x 12" in result.stdout
    assert "0.5 x 0.5 x 1.5" in result.stdout
    assert "VS mm3" in result.stdout


# Name -> how to make it, and what the message must say. Each stands between two sound cases, which must be finished.
BAD_SCANS = {
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-900]), "cut short; copy the file again"),
    "not a NIfTI": (lambda p: p.write_bytes(b"hello" * 999), "expected a NIfTI file, got something else"),
    "empty file": (lambda p: p.write_bytes(b""), "expected a NIfTI header, got 0 bytes"),
    "4-D": (lambda p: edit_header(p, pack("5h", DIM, 4, 16, 20, 6, 2)), "expected a 3-D scan, got 4-D"),
    "2-D": (lambda p: edit_header(p, pack("5h", DIM, 2, 16, 20, 1, 1)), "expected a 3-D scan, got 2-D"),
    "NaN": (lambda p: write_scan(p, np.full((4, 4, 4), np.nan, dtype="float32")), "got 64 of 64 NaN or infinite"),
    "Inf": (lambda p: write_scan(p, np.full((4, 4, 4), np.inf, dtype="float64")), "got 64 of 64 NaN or infinite"),
    "constant": (lambda p: write_scan(p, np.full((4, 4, 4), 9, dtype="int16")), "got 9 in every voxel"),
    "zero spacing": (lambda p: edit_header(p, pack("f", PIXDIM + 4, 0)), "expected three spacings above 0 mm"),
    "negative spacing": (lambda p: edit_header(p, pack("f", PIXDIM + 4, -1)), "expected three spacings above 0 mm"),
    "singular": (lambda p: edit_header(p, set_sform(1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0)), "singular direction"),
    "huge": (lambda p: edit_header(p, pack("4h", DIM, 3, 10000, 10000, 10000)), "claims 1,000,000,000,000"),
    "huge once resampled": (
        lambda p: write_scan(p, noise((9, 9, 9)), spacing_mm=(999.0, 999.0, 999.0)),
        "expected at most 100,663,296 voxels, got 17982 x 17982 x 17982",
    ),
    "folder": (lambda p: (p.unlink(), p.mkdir()), "expected a file, got a folder"),
    "dangling link": (lambda p: (p.unlink(), p.symlink_to("nowhere")), "got a link to nowhere, which does not exist"),
}


@pytest.mark.parametrize("name", BAD_SCANS)
def test_bad_scan_is_told_and_loses_no_other(folders, weights, name):
    make, message = BAD_SCANS[name]
    for case in ("crossmoda_1", "crossmoda_2", "crossmoda_3"):
        scan(folders[0], case)
    make(folders[0] / "crossmoda_2_hrT2.nii.gz")
    result = predict(folders, weights)
    assert result.exit_code == 1
    assert labels_in(folders[1]) == ["crossmoda_1_Label.nii.gz", "crossmoda_3_Label.nii.gz"]
    assert "1 of 3 cases failed:" in result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.strip().startswith("crossmoda_2_hrT2.nii.gz: ")
    assert record(folders)["crossmoda_2"]["error"] == last.strip()
    assert record(folders)["crossmoda_3"]["error"] is None
    assert "expected" in last
    assert message in last


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: scan(folder, "müller 1 (left)"),
        lambda folder: scan(folder, "前庭"),
        lambda folder: scan(folder, "a", pack("2f", SCL_SLOPE, 0.01, -5.0)),
        lambda folder: scan(folder, "a", pack("5h", DIM, 4, 16, 20, 12, 1)),
        lambda folder: scan(folder, "a", array=noise((1, 3, 7))),
        lambda folder: scan(folder, "a", array=noise((7, 7, 7), dtype="int8")),
        lambda folder: scan(folder, "a", array=noise((7, 70, 7), dtype="uint64")),
    ],
    ids=["spaces and umlauts", "non-Latin", "scl_slope", "4-D of one", "tiny", "int8", "uint64"],
)
def test_unusual_but_sound_scan_is_segmented(folders, weights, make):
    path = make(folders[0])
    result = predict(folders, weights)
    assert result.exit_code == 0, result.output
    labels = label_of(folders, path.name.removesuffix("_hrT2.nii.gz"))
    assert read_geometry(labels).same_place(read_geometry(path), tolerance=1e-6)


def test_empty_folder_and_folder_without_scans_are_errors(folders, weights):
    result = predict(folders, weights)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"{folders[0]}: expected scans named {{case}}_hrT2.nii.gz, got an empty folder" in result.stderr
    (folders[0] / "crossmoda_1_ceT1.nii.gz").touch()
    result = predict(folders, weights)
    assert result.exit_code == 1
    assert "got only crossmoda_1_ceT1.nii.gz; rename" in result.stderr


def test_input_that_is_not_there_is_an_error(folders, weights):
    folders[0].rmdir()
    result = predict(folders, weights)
    assert result.exit_code == 1
    assert (
        f"{folders[0]}: expected a folder of scans, got: No such file or directory; name it with --input"
        in result.stderr
    )


def test_a_shipped_set_is_named_on_the_first_line(folders, monkeypatch):
    scan(folders[0], "crossmoda_1")
    monkeypatch.delenv("CROSSMODA_GRL_WEIGHTS", raising=False)
    for chosen, name in ((["--weights", "paper"], "paper"), ([], DEFAULT_WEIGHTS)):
        command = ["predict", "--input", folders[0], "--output", folders[1], "--device", "cpu", *chosen]
        result = CliRunner().invoke(main, [*map(str, command)])
        assert result.exit_code == 0, result.output
        assert result.stderr.splitlines()[0] == f"1 scan in {folders[0]}, weights from {name}, on cpu"


def test_flags_take_the_place_of_the_card_s_rules(folders, tmp_path):
    for structure in STRUCTURES:
        rules = PostProcessing(components="largest", fill_holes=True)
        card = {"spacing_mm": 0.5, "postprocessing": rules.as_card()}
        save_weights(tmp_path / "weights", structure, narrow_network(), card, window=WINDOW)
    scan(folders[0], "crossmoda_1")
    flags = ["--vs-components", "every", "--no-fill-holes", "--never-empty", "--contested-to-smaller"]
    for given, vs, cochlea in (
        ([], "components largest, fill holes", "components largest, fill holes"),
        (flags, "never empty, keeps contested", "components largest, never empty, keeps contested"),
    ):
        result = predict(folders, tmp_path / "weights", *given)
        assert result.exit_code == 0, result.output
        told = [line for line in result.stderr.splitlines() if line.startswith("post-processing")]
        assert told == [f"post-processing of VS: {vs}", f"post-processing of Cochlea: {cochlea}"]


def test_flip_averaged_probabilities_are_those_of_both_sides(folders, weights):
    """A symmetric scan, flip-averaged, has a symmetric probability; the networks alone give none."""
    array = noise((12, 20, 16))
    array[..., 8:] = array[..., 7::-1]
    scan(folders[0], "crossmoda_1", array=array, spacing_mm=(0.5, 0.5, 0.5))
    asymmetry = {}
    for flag in ("--no-flip-average", "--flip-average"):
        assert predict(folders, weights, "--save-probabilities", flag).exit_code == 0
        probability = sitk.GetArrayFromImage(
            sitk.ReadImage(str(folders[1] / "probabilities" / "crossmoda_1_vs.nii.gz"))
        )
        asymmetry[flag] = np.abs(probability - probability[..., ::-1]).max()
    assert asymmetry["--flip-average"] < 1e-5 < asymmetry["--no-flip-average"]


def test_help_says_that_the_defaults_are_the_card_s():
    text = CliRunner().invoke(main, ["predict", "--help"], terminal_width=200).stdout
    for flag in ("--vs-components", "--cochlea-components", "--fill-holes", "--flip-average", "--never-empty"):
        assert "[default: (the card's)]" in " ".join(text[text.index(flag) :].split())[:400], flag


def test_statistics_of_the_cohort_at_hand(folders, weights):
    for number in (1, 2, 3):
        scan(folders[0], f"crossmoda_{number}", array=noise((12, 20, 16), seed=number))
    (folders[0] / "crossmoda_2_hrT2.nii.gz").write_bytes(b"hello" * 999)
    probabilities = []
    for options in (["--target-statistics"], ["--target-statistics"], []):
        result = predict(folders, weights, "--save-probabilities", *options)
        assert result.exit_code == 1
        assert "1 of 3 cases failed:" in result.stderr
        assert sorted(p.name for p in folders[1].glob("*.nii.gz")) == [
            "crossmoda_1_Label.nii.gz",
            "crossmoda_3_Label.nii.gz",
        ]
        if options:
            assert "statistics: crossmoda_2 is left out: crossmoda_2_hrT2.nii.gz: expected a NIfTI" in result.stderr
            assert "statistics: re-estimated on 2 scans, 4 patches of each" in result.stderr
        image = sitk.ReadImage(str(folders[1] / "probabilities" / "crossmoda_1_vs.nii.gz"))
        probabilities.append(sitk.GetArrayFromImage(image))
    np.testing.assert_array_equal(probabilities[0], probabilities[1])
    assert np.abs(probabilities[0] - probabilities[2]).max() > 1e-3


def test_missing_weights_are_an_error_before_any_work(folders, tmp_path):
    scan(folders[0], "crossmoda_1")
    result = predict(folders, tmp_path / "none")
    assert result.exit_code == 1
    assert f"{tmp_path}/none/vs.json: expected the card of the weights for VS" in result.stderr
    assert os.listdir(folders[1]) == []


def test_cuda_without_a_gpu_is_an_error(folders, weights):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    scan(folders[0], "crossmoda_1")
    result = predict(folders, weights, "--device", "cuda")
    assert result.exit_code == 1
    assert "--device cuda: expected a GPU that torch can use, got none" in result.stderr


def test_overlap_out_of_range_is_a_usage_error(folders, weights):
    assert predict(folders, weights, "--overlap", "1").exit_code == 2


@pytest.mark.parametrize("side", ["0", "12", "264", "-8", "whole"])
def test_a_window_that_the_network_cannot_take_is_a_usage_error(folders, weights, side):
    result = predict(folders, weights, "--window", side)
    assert result.exit_code == 2
    assert f"expected a multiple of 8 up to 256, got {side}" in result.output


def test_window_takes_the_place_of_the_cards(folders, weights):
    scan(folders[0], "crossmoda_9")
    probabilities = {}
    for side in (WINDOW, WINDOW + 8):
        assert predict(folders, weights, "--window", side, "--save-probabilities").exit_code == 0
        assert record(folders)["crossmoda_9"]["made_by"]["options"]["window"] == {s.key: side for s in STRUCTURES}
        path = folders[1] / "probabilities" / "crossmoda_9_vs.nii.gz"
        probabilities[side] = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    small, large = probabilities.values()
    assert small.shape == large.shape
    assert not np.array_equal(small, large)


@pytest.fixture
def mounted(tmp_path):
    """Mount a small file system over a folder; root may, others skip."""
    folder = tmp_path / "mounted"
    folder.mkdir()

    def mount(options):
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True)
        if done.returncode:
            pytest.skip(f"cannot mount a file system: {done.stderr.decode().strip()}")
        return folder

    yield mount
    subprocess.run(["umount", folder], capture_output=True, check=False)


def test_output_that_cannot_be_written_is_said_at_once(folders, weights, mounted):
    scan(folders[0], "crossmoda_1")
    folders = (folders[0], mounted("ro"))
    result = predict(folders, weights)
    assert result.exit_code == 1
    assert f"{folders[1]}: expected a folder that this user can write to, got: Read-only file system" in result.stderr
    assert "1/1" not in result.stderr


def test_output_that_is_a_file_is_said_at_once(folders, weights):
    scan(folders[0], "crossmoda_1")
    folders[1].write_text("")
    result = predict(folders, weights)
    assert result.exit_code == 1
    assert f"{folders[1]}: expected a folder that this user can write to, got: File exists" in result.stderr


def test_full_disk_keeps_what_was_written_and_leaves_no_half(folders, weights, mounted):
    out = mounted("size=64k")
    scan(folders[0], "crossmoda_1", array=noise((6, 8, 8)))
    scan(folders[0], "crossmoda_2", array=noise((60, 60, 60)))
    scan(folders[0], "crossmoda_3", array=noise((6, 8, 8)))
    result = predict((folders[0], out), weights, "--save-probabilities")
    assert result.exit_code == 1
    assert "crossmoda_2: expected to write its files, got:" in result.stderr
    assert "check space and permissions" in result.stderr
    assert sorted(path.name for path in out.glob("*.nii.gz")) == [
        "crossmoda_1_Label.nii.gz",
        "crossmoda_3_Label.nii.gz",
    ]
    assert not [path for path in out.rglob("*") if "crossmoda_2" in path.name]


def test_probabilities_decide_the_labels(folders, weights):
    scan(folders[0], "crossmoda_1")
    assert predict(folders, weights, "--save-probabilities").exit_code == 0
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(label_of(folders, "crossmoda_1"))))
    vs, cochlea = (
        sitk.GetArrayFromImage(sitk.ReadImage(str(folders[1] / "probabilities" / f"crossmoda_1_{key}.nii.gz")))
        for key in ("vs", "cochlea")
    )
    assert vs.dtype == np.float32
    np.testing.assert_array_equal(labels, np.where((vs <= 0.5) & (cochlea <= 0.5), 0, np.where(vs >= cochlea, 1, 2)))


def test_a_batch_gives_what_single_runs_give(folders, weights, tmp_path):
    for number in (1, 2):
        scan(folders[0], f"crossmoda_{number}", array=noise((12, 30, 20), seed=number))
        (tmp_path / f"in{number}").mkdir()
        scan(tmp_path / f"in{number}", f"crossmoda_{number}", array=noise((12, 30, 20), seed=number))
    assert predict(folders, weights).exit_code == 0
    for number in (1, 2):
        alone = (tmp_path / f"in{number}", tmp_path / f"out{number}")
        assert predict(alone, weights).exit_code == 0
        case = f"crossmoda_{number}"
        assert label_of(alone, case).read_bytes() == label_of(folders, case).read_bytes()


def test_skip_existing_does_only_what_is_missing(folders, weights):
    for number in (1, 2, 3):
        scan(folders[0], f"crossmoda_{number}")
    assert predict(folders, weights).exit_code == 0
    label_of(folders, "crossmoda_2").unlink()
    # A label map on another grid is not this scan's: done again.
    write_scan(label_of(folders, "crossmoda_3"), np.zeros((3, 3, 3), dtype="uint8"))
    # Neither is half a file, though its header is sound.
    scan(folders[0], "crossmoda_4")
    whole = gzip.compress(gzip.decompress(label_of(folders, "crossmoda_1").read_bytes()), 0)
    label_of(folders, "crossmoda_4").write_bytes(whole[: len(whole) // 2])
    before = label_of(folders, "crossmoda_1").stat().st_mtime_ns
    result = predict(folders, weights, "--skip-existing")
    assert result.exit_code == 0
    assert "crossmoda_1_Label.nii.gz is there" in result.stderr
    assert label_of(folders, "crossmoda_1").stat().st_mtime_ns == before
    assert read_geometry(label_of(folders, "crossmoda_3")).size_xyz == (16, 20, 12)
    assert label_of(folders, "crossmoda_2").exists()
    assert label_of(folders, "crossmoda_4").read_bytes() == label_of(folders, "crossmoda_1").read_bytes()


def test_a_folder_that_another_process_writes_to_is_refused(folders, weights):
    scan(folders[0], "crossmoda_1")
    folders[1].mkdir(exist_ok=True)
    with only_writer(folders[1]):
        result = predict(folders, weights)
    assert result.exit_code == 1
    assert "expected a folder for this process alone, got another process that writes to it" in result.stderr


def test_odd_names_are_failed_cases_shown_as_escapes_and_hidden_ones_ignored(folders, weights):
    scan(folders[0], "crossmoda_1")
    for name in (b"\xff_hrT2.nii.gz", b"\x1b[2J_hrT2.nii.gz", b"._crossmoda_1_hrT2.nii.gz"):
        (folders[0] / os.fsdecode(name)).touch()
    result = predict(folders, weights)
    assert result.exit_code == 1
    assert labels_in(folders[1]) == ["crossmoda_1_Label.nii.gz"]
    assert "2 of 3 cases failed:" in result.stderr
    assert r"._crossmoda_1_hrT2.nii.gz" in result.stderr
    assert r"\xff_hrT2.nii.gz" in result.stderr
    assert r"\x1b[2J_hrT2.nii.gz" in result.stderr
    assert "\x1b[2J" not in result.stderr


def test_the_record_has_all_that_is_known_of_a_case(folders, weights):
    path = scan(folders[0], "crossmoda_10", spacing_mm=(0.5, 0.75, 1.5))
    scan(folders[0], "crossmoda_9")
    assert predict(folders, weights, "--overlap", "0.5", "--vs-components", "largest").exit_code == 0
    cases = record(folders)
    assert list(cases) == ["crossmoda_9", "crossmoda_10"]
    entry = cases["crossmoda_10"]
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(label_of(folders, "crossmoda_10"))))
    assert entry["structures"]["vs"]["volume_mm3"] == pytest.approx((labels == 1).sum() * 0.5 * 0.75 * 1.5, abs=1e-3)
    _, pieces = ndimage.label(labels == 1, structure=np.ones((3, 3, 3)))
    assert entry["structures"]["vs"]["components"] == pieces
    assert entry["scan"] == {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "size_xyz": [16, 20, 12],
        "spacing_mm": [0.5, 0.75, 1.5],
    }
    assert 0 < entry["seconds"] < 600
    made_by = entry["made_by"]
    assert made_by["version"] == version("crossmoda-grl")
    assert made_by["weights"]["sha256"] == {
        s.key: hashlib.sha256((weights / f"{s.key}.safetensors").read_bytes()).hexdigest() for s in STRUCTURES
    }
    assert made_by["options"]["overlap"] == 0.5
    assert made_by["options"]["window"] == {s.key: WINDOW for s in STRUCTURES}
    assert made_by["options"]["postprocessing"]["vs"]["components"] == "largest"
    with (folders[1] / "predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["crossmoda_9", "crossmoda_10"]
    assert rows[1]["scan_sha256"] == entry["scan"]["sha256"]
    assert rows[1]["warnings"] == "; ".join(entry["warnings"])


def test_label_maps_name_the_version(folders, weights):
    scan(folders[0], "crossmoda_1")
    assert predict(folders, weights).exit_code == 0
    header = nibabel.load(label_of(folders, "crossmoda_1")).header
    assert header["descrip"].item().decode() == f"crossmoda-grl {version('crossmoda-grl')}"


def test_warnings_are_told_twice_and_only_strict_minds(folders, weights):
    """A narrow network of random weights leaves nothing that looks like one tumour and two cochleas."""
    scan(folders[0], "crossmoda_1")
    result = predict(folders, weights)
    assert result.exit_code == 0
    warnings = record(folders)["crossmoda_1"]["warnings"]
    assert [w for w in warnings if w.startswith("Cochlea: expected one on each side")]
    lines = result.stderr.splitlines()
    assert all(f"  warning: {warning}" in lines for warning in warnings)
    assert lines[-2] == "1 of 1 case with warnings, to be looked at before use:"
    assert lines[-1] == f"  crossmoda_1: {'; '.join(warnings)}"
    again = predict(folders, weights, "--strict", "--skip-existing")
    assert again.exit_code == 1
    assert again.stderr.splitlines()[-1] == lines[-1]


def test_near_misses_are_failed_cases_beside_the_good_scans(folders, weights):
    scan(folders[0], "crossmoda_1")
    names = ("a_hrT2.nii", "b_T2.nii.gz", "c_hrt2.nii.gz", "d.mha")
    for name in (*names, "crossmoda_1_flair.nii.gz", "e_ceT1.nii.gz", "notes.txt"):
        (folders[0] / name).touch()
    result = predict(folders, weights)
    assert result.exit_code == 1
    assert labels_in(folders[1]) == ["crossmoda_1_Label.nii.gz"]
    assert f"ignored in {folders[0]}: crossmoda_1_flair.nii.gz, e_ceT1.nii.gz, notes.txt" in result.stderr
    told = result.stderr.split("4 of 5 cases failed:\n")[1].splitlines()
    advice = ["compress it to a_hrT2", "rename it to b_hrT2", "rename it to c_hrT2", "convert it to d_hrT2"]
    for line, name, what in zip(told, names, advice, strict=True):
        assert line.strip().startswith(f"{name}: expected a scan named")
        assert line.endswith(f"{what}.nii.gz")
    # Once they are named well, nothing of them is left on the record.
    for name in names:
        (folders[0] / name).unlink()
    assert predict(folders, weights, "--skip-existing").exit_code == 0
    assert list(record(folders)) == ["crossmoda_1"]


def test_a_resumed_run_adds_to_the_record(folders, weights, tmp_path):
    for number in (1, 2):
        scan(folders[0], f"crossmoda_{number}", array=noise((12, 20, 16), seed=number))
    assert predict(folders, weights).exit_code == 0
    before = record(folders)
    scan(folders[0], "crossmoda_2", array=noise((12, 20, 16), seed=9))  # another scan on the same grid
    scan(folders[0], "crossmoda_3")
    other = tmp_path / "other"
    for structure in STRUCTURES:
        save_weights(other, structure, narrow_network(5), {"spacing_mm": 0.5}, window=WINDOW)
    result = predict(folders, other, "--skip-existing")
    assert result.exit_code == 0
    after = record(folders)
    assert after["crossmoda_1"] == before["crossmoda_1"]
    assert f"label map of an earlier run with other weights, {weights}; remove it" in result.stderr
    assert after["crossmoda_2"]["scan"]["sha256"] != before["crossmoda_2"]["scan"]["sha256"]
    assert {after[f"crossmoda_{n}"]["made_by"]["weights"]["name"] for n in (2, 3)} == {str(other)}


def test_a_label_map_without_a_record_is_examined(folders, weights):
    scan(folders[0], "crossmoda_1")
    assert predict(folders, weights).exit_code == 0
    before = record(folders)["crossmoda_1"]
    (folders[1] / "predictions.json").unlink()
    result = predict(folders, weights, "--skip-existing")
    assert "crossmoda_1_Label.nii.gz is there" in result.stderr
    after = record(folders)["crossmoda_1"]
    assert after["made_by"] is None
    for name in ("structures", "warnings", "scan"):
        assert after[name] == before[name]


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"format": "other"}', '{"format": "crossmoda-grl predictions", "version": 1}']
)
def test_a_record_that_is_not_ours_is_left_alone(folders, weights, text):
    scan(folders[0], "crossmoda_1")
    folders[1].mkdir()
    (folders[1] / "predictions.json").write_text(text)
    result = predict(folders, weights)
    assert result.exit_code == 1
    assert "choose another --output, or remove the file" in result.stderr
    assert os.listdir(folders[1]) == ["predictions.json"]
    assert (folders[1] / "predictions.json").read_text() == text


def test_unexpected_error_loses_no_other_case(folders, weights, monkeypatch):
    import pipeline.inference.folder

    for number in (1, 2):
        scan(folders[0], f"crossmoda_{number}")
    segment = pipeline.inference.folder.segment_case
    calls = []

    def fails_first(*arguments, **options):
        calls.append(1)
        if len(calls) == 1:
            raise ZeroDivisionError("boom")
        return segment(*arguments, **options)

    monkeypatch.setattr(pipeline.inference.folder, "segment_case", fails_first)
    result = predict(folders, weights)
    assert result.exit_code == 1
    assert "unexpected error (ZeroDivisionError: boom)" in result.stderr
    assert "Traceback" in result.stderr
    assert labels_in(folders[1]) == ["crossmoda_2_Label.nii.gz"]


def test_exhausted_memory_is_a_clear_error(folders, weights, monkeypatch):
    import pipeline.inference.folder

    def exhausted(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    scan(folders[0], "crossmoda_1")
    monkeypatch.setattr(pipeline.inference.folder, "segment_case", exhausted)
    result = predict(folders, weights)
    assert result.exit_code == 1
    assert "crossmoda_1_hrT2.nii.gz: expected to fit into memory" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_run_keeps_finished_cases_and_nothing_of_the_one_in_work(folders, weights, number, exit_code):
    scan(folders[0], "crossmoda_1")
    # Large enough to be in work when the signal comes.
    scan(folders[0], "crossmoda_2", array=noise((80, 160, 160)), spacing_mm=(0.5, 0.5, 1.5))
    process = subprocess.Popen(command(folders, weights, "--overlap", "0.9"), stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith("1/2"):
            break
    time.sleep(0.3)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == exit_code
    assert f"interrupted by {number.name}" in errors
    assert labels_in(folders[1]) == ["crossmoda_1_Label.nii.gz"]
    assert list(record(folders)) == ["crossmoda_1"]
    assert read_geometry(label_of(folders, "crossmoda_1")).size_xyz == (16, 20, 12)


def test_progress_bar_on_a_terminal(folders, weights):
    import pty

    scan(folders[0], "crossmoda_1")
    terminal, far_end = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(command(folders, weights), stderr=far_end, stdout=subprocess.DEVNULL, env=environment)
    os.close(far_end)
    shown = b""
    with contextlib.suppress(OSError):  # Linux says so at the end of a pseudo-terminal
        while chunk := os.read(terminal, 4096):
            shown += chunk
    assert process.wait(timeout=60) == 0
    assert b"segmenting" in shown
    assert "━".encode() in shown
    assert b"1/1" in shown
