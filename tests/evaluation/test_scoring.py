"""Scoring: what every missing, misfit or empty label map scores, what is written, what the command says."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner

from crossmoda_grl.__main__ import main
from evaluation import scoring
from evaluation.metrics import assd_mm, surface_distances
from evaluation.scoring import (
    CSV_COLUMNS,
    CohortScores,
    Status,
    from_json,
    read_csv,
    score_case,
    score_cohort,
    score_cohorts,
    summarise,
    team_folders,
    to_json,
    write_csv,
)

SPACING_XYZ = (0.5, 0.5, 1.5)
SHAPE = (10, 20, 24)


def labels(*, vs: tuple[int, int] | None = (4, 10), cochlea: tuple[int, int] | None = (14, 18)) -> np.ndarray:
    """A label map (D, H, W): two boxes over z 3-6 and y 5-11, each over the given range of x."""
    values = np.zeros(SHAPE, dtype=np.uint8)
    for label, side in ((1, vs), (2, cochlea)):
        if side is not None:
            values[3:7, 5:12, slice(*side)] = label
    return values


def write(
    path: Path,
    values: np.ndarray,
    *,
    spacing_xyz: tuple[float, ...] = SPACING_XYZ,
    origin: tuple[float, ...] = (0.0, 0.0, 0.0),
    direction: tuple[float, ...] = (1, 0, 0, 0, 1, 0, 0, 0, 1),
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(spacing_xyz)
    image.SetOrigin(origin)
    image.SetDirection(direction)
    sitk.WriteImage(image, str(path), useCompression=True)
    return path


class Folders:
    """A reference folder and a prediction folder of two cases, to spoil."""

    def __init__(self, root: Path) -> None:
        self.root, self.reference, self.prediction = root, root / "reference", root / "prediction"
        for case in ("crossmoda_9", "crossmoda_10"):
            write(self.reference / f"{case}_Label.nii.gz", labels())
            write(self.prediction / f"{case}_Label.nii.gz", labels(vs=(5, 10)))

    def predicted(self, case: str = "crossmoda_9") -> Path:
        return self.prediction / f"{case}_Label.nii.gz"

    def score(self, **options) -> CohortScores:
        return score_cohort(self.reference, self.prediction, "a team", **options)

    def first(self, **options) -> scoring.CaseScores:
        return self.score(**options).results[0]

    def run(self, *arguments: str):
        folders = ["--reference", str(self.reference), "--prediction", str(self.prediction)]
        return CliRunner().invoke(main, ["evaluate", "score", *folders, *arguments])


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


class TestUsualCase:
    def test_scores(self, folders: Folders) -> None:
        cohort = folders.score()
        assert [result.case for result in cohort.results] == ["crossmoda_9", "crossmoda_10"]
        vs, cochlea = (cohort.results[0].structures[key] for key in ("vs", "cochlea"))
        # VS: 6 columns of 28 voxels against 5; a voxel is 0.375 mm3.
        assert vs.status is Status.SCORED
        assert vs.dice == pytest.approx(2 * 5 / 11)
        assert (vs.reference_volume_mm3, vs.prediction_volume_mm3, vs.volume_error_mm3) == (63.0, 52.5, -10.5)
        distances = surface_distances(labels() == 1, labels(vs=(5, 10)) == 1, SPACING_XYZ[::-1])
        assert vs.assd_mm == assd_mm(distances, "2021") > 0
        assert vs.hd95_mm == 0.5
        assert (cochlea.dice, cochlea.assd_mm, cochlea.hd95_mm, cochlea.volume_error_mm3) == (1.0, 0.0, 0.0, 0.0)
        assert cohort.results[0].problem is None
        assert cohort.results[0].warnings == ()

    def test_definition_is_passed_on(self, folders: Folders) -> None:
        challenge, pooled = (folders.first(asd=name).structures["vs"].assd_mm for name in ("2021", "pooled"))
        assert challenge != pooled
        assert folders.score(asd="pooled").metadata.asd == "pooled"

    @pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
    def test_any_numeric_type(self, folders: Folders, dtype: type) -> None:
        expected = folders.first().structures
        write(folders.predicted(), labels(vs=(5, 10)).astype(dtype))
        write(folders.reference / "crossmoda_9_Label.nii.gz", labels().astype(dtype))
        assert folders.first().structures == expected
        assert folders.first().warnings == ()

    def test_oblique_scan_has_its_headers_spacing(self, folders: Folders) -> None:
        # Turned by 30 degrees about z, the affine's diagonal is cos(30) times the spacing in x and y.
        cosine, sine = np.cos(np.pi / 6), np.sin(np.pi / 6)
        turned = (cosine, -sine, 0, sine, cosine, 0, 0, 0, 1)
        expected = folders.first().structures["vs"]
        write(folders.reference / "crossmoda_9_Label.nii.gz", labels(), direction=turned)
        write(folders.predicted(), labels(vs=(5, 10)), direction=turned)
        oblique = folders.first()
        assert oblique.structures["vs"].assd_mm == pytest.approx(expected.assd_mm, abs=1e-6)
        assert oblique.structures["vs"].reference_volume_mm3 == pytest.approx(63.0, abs=1e-4)
        assert oblique.warnings == ()


class TestEmpty:
    def test_empty_prediction(self, folders: Folders) -> None:
        write(folders.predicted(), labels(vs=None))
        scores = folders.first().structures
        assert scores["vs"].status is Status.EMPTY_PREDICTION
        assert (scores["vs"].dice, scores["vs"].assd_mm, scores["vs"].hd95_mm) == (0.0, 350.0, 350.0)
        assert scores["vs"].volume_error_mm3 == -63.0
        assert scores["cochlea"].status is Status.SCORED
        assert folders.run().exit_code == 0

    def test_empty_reference_is_not_scored_counted_and_said(self, folders: Folders) -> None:
        write(folders.reference / "crossmoda_9_Label.nii.gz", labels(vs=None))
        cohort = folders.score()
        vs = cohort.results[0].structures["vs"]
        assert vs.status is Status.EMPTY_REFERENCE
        assert (vs.dice, vs.assd_mm, vs.hd95_mm) == (None, None, None)
        assert vs.volume_error_mm3 == 52.5
        assert cohort.aggregates["vs"].metrics["dice"].n == 1
        assert cohort.aggregates["vs"].counts[Status.EMPTY_REFERENCE] == 1
        result = folders.run()
        assert result.exit_code == 0
        assert "VS not scored in some cases: 1 empty reference" in result.stderr

    def test_both_empty(self, folders: Folders) -> None:
        write(folders.reference / "crossmoda_9_Label.nii.gz", labels(cochlea=None))
        write(folders.predicted(), labels(cochlea=None))
        scores = folders.first().structures["cochlea"]
        assert scores.status is Status.BOTH_EMPTY
        assert scores.dice is None
        assert scores.volume_error_mm3 == 0.0


class TestMissingAndExtra:
    def test_missing_scores_as_empty_and_exits_with_one(self, folders: Folders) -> None:
        folders.predicted().unlink()
        cohort = folders.score()
        assert cohort.missing == ["crossmoda_9"]
        assert cohort.failed == []
        for scores in cohort.results[0].structures.values():
            assert (scores.status, scores.dice, scores.assd_mm) == (Status.MISSING, 0.0, 350.0)
        assert cohort.aggregates["vs"].counts[Status.MISSING] == 1
        result = folders.run()
        assert result.exit_code == 1
        assert "crossmoda_9: crossmoda_9_Label.nii.gz: expected a label map, got no such file" in result.stderr
        assert folders.run("--allow-missing").exit_code == 0

    def test_missing_where_the_reference_lacks_a_structure(self, folders: Folders) -> None:
        write(folders.reference / "crossmoda_9_Label.nii.gz", labels(vs=None))
        folders.predicted().unlink()
        scores = folders.first().structures
        assert (scores["vs"].status, scores["cochlea"].status) == (Status.BOTH_EMPTY, Status.MISSING)
        assert folders.score().missing == ["crossmoda_9"]

    def test_nothing_handed_in(self, folders: Folders) -> None:
        shutil.rmtree(folders.prediction)
        folders.prediction.mkdir()
        assert folders.score().missing == ["crossmoda_9", "crossmoda_10"]
        assert folders.run().exit_code == 1

    def test_extra_files_are_listed_and_harmless(self, folders: Folders) -> None:
        write(folders.prediction / "crossmoda_300_Label.nii.gz", labels())
        (folders.prediction / "log.txt").write_text("done")
        (folders.prediction / ".partial-crossmoda_9_Label.nii.gz").write_text("left by a killed process")
        assert folders.score().extra == ("crossmoda_300_Label.nii.gz",)
        result = folders.run()
        assert result.exit_code == 0
        assert "not scored, without a reference: crossmoda_300_Label.nii.gz" in result.stderr

    @pytest.mark.parametrize("name", ["crossmoda_9_label.nii.gz", "crossmoda_9_Label.nii", "CrossModa_9_LABEL.nii.gz"])
    def test_misspelt_file_is_missing_and_named(self, folders: Folders, name: str) -> None:
        folders.predicted().unlink()
        write(folders.prediction / name, labels())
        cohort = folders.score()
        assert cohort.missing == ["crossmoda_9"]
        assert cohort.extra == (name,)
        assert f"found {name}: rename it to crossmoda_9_Label.nii.gz" in (cohort.results[0].problem or "")

    @pytest.mark.parametrize("name", ["crossmoda_9_label.nii.gz", "crossmoda_9_Label.nii", "Crossmoda_9_Label.nii.gz"])
    @pytest.mark.parametrize("side", ["reference", "prediction"])
    def test_duplicates_are_refused(self, folders: Folders, name: str, side: str) -> None:
        write(getattr(folders, side) / name, labels())
        with pytest.raises(ValueError, match="expected one label map per case, got"):
            folders.score()
        result = folders.run()
        assert result.exit_code == 1
        assert "remove all but one" in result.stderr

    def test_no_reference(self, folders: Folders) -> None:
        shutil.rmtree(folders.reference)
        folders.reference.mkdir()
        with pytest.raises(ValueError, match=r"expected label maps named \*_Label.nii.gz, got none"):
            folders.score()


class TestRefused:
    def assert_refused(self, folders: Folders, message: str, **options) -> None:
        cohort = folders.score(**options)
        first = cohort.results[0]
        assert message in (first.problem or "")
        for scores in first.structures.values():
            assert (scores.status, scores.dice, scores.assd_mm) == (Status.REFUSED, 0.0, 350.0)
        assert [result.case for result in cohort.failed] == ["crossmoda_9"]
        assert cohort.missing == []
        assert cohort.results[1].structures["vs"].status is Status.SCORED
        result = folders.run("--allow-missing", *(["--strict-geometry"] if options else []))
        assert result.exit_code == 1
        assert message in result.stderr

    def test_other_shape(self, folders: Folders) -> None:
        write(folders.predicted(), labels()[1:])
        self.assert_refused(folders, "expected the reference's size 24 x 20 x 10, got 24 x 20 x 9")

    @pytest.mark.parametrize("damage", ["text", "cut", "empty", "folder", "dangling link", "four axes", "nan"])
    def test_unreadable(self, folders: Folders, damage: str) -> None:
        path = folders.predicted()
        whole = path.read_bytes()
        path.unlink()
        if damage == "text":
            path.write_text("no image")
        elif damage == "cut":
            path.write_bytes(gzip.compress(gzip.decompress(whole)[:900]))
        elif damage == "empty":
            path.write_bytes(b"")
        elif damage == "folder":
            path.mkdir()
        elif damage == "dangling link":
            path.symlink_to(folders.root / "nowhere")
        elif damage == "four axes":
            sitk.WriteImage(sitk.Image([4, 4, 4, 2], sitk.sitkUInt8), str(path))
        else:
            write(path, np.where(labels() == 0, np.nan, labels()))
        self.assert_refused(folders, "crossmoda_9_Label.nii.gz: expected")

    def test_other_grid_is_scored_with_a_warning_that_names_both(self, folders: Folders) -> None:
        expected = folders.first().structures
        write(folders.predicted(), labels(vs=(5, 10)), spacing_xyz=(0.5, 0.5, 2.0), origin=(7.0, 0.0, 0.0))
        first = folders.first()
        assert first.structures == expected
        assert "0.5 x 0.5 x 1.5 mm, origin (0, 0, 0)" in first.warnings[0]
        assert "0.5 x 0.5 x 2 mm, origin (7, 0, 0)" in first.warnings[0]
        assert folders.run().exit_code == 0
        self.assert_refused(folders, "expected the reference's grid", strict_geometry=True)

    def test_strict_geometry_bears_rounding(self, folders: Folders) -> None:
        write(folders.predicted(), labels(vs=(5, 10)), origin=(1e-5, 0.0, 0.0))
        assert folders.first(strict_geometry=True).structures["vs"].status is Status.SCORED


class TestForeignLabels:
    def test_other_label_counts_as_background_with_a_warning(self, folders: Folders) -> None:
        expected = folders.first().structures
        values = labels(vs=(5, 10))
        values[0, 0, :3] = 3, 3, 7
        write(folders.predicted(), values)
        first = folders.first()
        assert first.structures == expected
        assert "expected the labels 0, 1, 2, got also 3, 7 in 3 voxels; counted as background" in first.warnings[0]
        assert folders.run().exit_code == 0

    def test_fractions_count_as_background_with_a_warning(self, folders: Folders) -> None:
        values = labels().astype(np.float64)
        values[3:7, 5:12, 4] = 0.75  # VS's first column
        write(folders.predicted(), values)
        first = folders.first()
        assert first.structures["vs"].dice == pytest.approx(2 * 5 / 11)
        assert "got also 0.75 in 28 voxels" in first.warnings[0]

    def test_many_values_are_cut_short(self, folders: Folders) -> None:
        write(folders.predicted(), np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE))
        assert "got also 3, 4, 5, 6, 7 and 4792 more in 4797 voxels" in folders.first().warnings[0]

    @pytest.mark.parametrize("value", [3, 0.5])
    def test_reference_of_another_year_is_an_error(self, folders: Folders, value: float) -> None:
        values = labels().astype(np.float32)
        values[0, 0, 0] = value
        write(folders.reference / "crossmoda_9_Label.nii.gz", values)
        cohort = folders.score()
        assert cohort.results[0].structures["vs"].status is Status.BAD_REFERENCE
        assert cohort.results[0].structures["vs"].dice is None
        assert f"reference crossmoda_9_Label.nii.gz: expected the labels 0, 1, 2, got also {value}" in (
            cohort.results[0].problem or ""
        )
        assert cohort.aggregates["vs"].metrics["dice"].n == 1
        assert folders.run().exit_code == 1

    def test_unreadable_reference(self, folders: Folders) -> None:
        (folders.reference / "crossmoda_9_Label.nii.gz").write_text("no image")
        assert folders.first().structures["cochlea"].status is Status.BAD_REFERENCE
        assert folders.run().exit_code == 1


class TestTeams:
    def test_folder_of_team_folders(self, folders: Folders) -> None:
        teams = folders.root / "teams"
        shutil.copytree(folders.prediction, teams / "b")
        shutil.copytree(folders.reference, teams / "a")
        (teams / "nothing handed in").mkdir()
        (teams / "readme.txt").write_text("ignored")
        assert list(team_folders(teams)) == ["a", "b", "nothing handed in"]
        folders.prediction = teams
        result = folders.run("--csv", str(folders.root / "scores.csv"), "--allow-missing")
        assert result.exit_code == 0, result.output
        a, b, none = read_csv(folders.root / "scores.csv")
        assert (a.team, b.team, none.team) == ("a", "b", "nothing handed in")
        assert a.results[0].structures["vs"].dice == 1.0
        assert b.results[0].structures["vs"].dice == pytest.approx(2 * 5 / 11)
        assert none.missing == ["crossmoda_9", "crossmoda_10"]

    def test_one_teams_folder(self, folders: Folders) -> None:
        assert team_folders(folders.prediction) == {"prediction": folders.prediction}
        assert team_folders(folders.prediction, "skjp") == {"skjp": folders.prediction}

    def test_label_maps_and_team_folders_together_are_refused(self, folders: Folders) -> None:
        write(folders.prediction / "inner" / "crossmoda_9_Label.nii.gz", labels())
        with pytest.raises(ValueError, match="got both, with label maps in inner"):
            team_folders(folders.prediction)

    def test_one_name_for_several_teams_is_refused(self, folders: Folders) -> None:
        with pytest.raises(ValueError, match="expected one team's label maps for the team 'me'"):
            team_folders(folders.root, "me")


class TestAggregates:
    def test_summary(self) -> None:
        summary = summarise([1.0, None, 2.0, 4.0, 5.0])
        assert (summary.n, summary.mean, summary.median, summary.q1, summary.q3) == (4, 3.0, 3.0, 1.75, 4.25)
        assert summary.sd == pytest.approx((10 / 3) ** 0.5)

    def test_one_value_has_no_deviation(self) -> None:
        assert summarise([2.0]).sd is None

    def test_no_value(self) -> None:
        assert summarise([None]).mean is None

    def test_one_empty_of_32_costs_eleven_mm(self) -> None:
        assert summarise([350.0] + [0.3] * 31).mean == pytest.approx(11.23, abs=0.005)


class TestFiles:
    @pytest.fixture
    def cohort(self, folders: Folders) -> CohortScores:
        folders.predicted("crossmoda_10").unlink()
        write(folders.reference / "crossmoda_9_Label.nii.gz", labels(cochlea=None))
        write(folders.prediction / "crossmoda_11_Label.nii.gz", labels())
        return score_cohort(folders.reference, folders.prediction, 'a "team", <script> ü')

    def test_json_round_trip(self, cohort: CohortScores) -> None:
        assert from_json(to_json([cohort, cohort])) == [cohort, cohort]

    def test_json_shape(self, cohort: CohortScores) -> None:
        document = json.loads(to_json([cohort]))
        [entry] = document["cohorts"]
        assert set(entry) == {"team", "metadata", "results", "aggregates", "extra"}
        assert entry["results"][0]["structures"]["cochlea"]["status"] == "empty_reference"
        assert entry["results"][0]["structures"]["cochlea"]["dice"] is None
        assert entry["aggregates"]["vs"]["counts"]["missing"] == 1
        assert entry["aggregates"]["vs"]["metrics"]["assd_mm"]["n"] == 2
        assert entry["extra"] == ["crossmoda_11_Label.nii.gz"]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "expected JSON"),
            ("[]", "expected the format 'crossmoda-grl scores'"),
            ('{"format": "crossmoda-grl scores", "version": 2}', "expected version 1, got 2"),
            ('{"format": "crossmoda-grl scores", "version": 1}', "got a fault at 'cohorts'"),
            (
                '{"format": "crossmoda-grl scores", "version": 1, "cohorts": [{"team": "a"}]}',
                "got a fault at 'results'",
            ),
        ],
    )
    def test_bad_json(self, text: str, message: str) -> None:
        with pytest.raises(ValueError, match="score file") as caught:
            from_json(text)
        assert message in str(caught.value)

    def test_csv_round_trip(self, cohort: CohortScores, tmp_path: Path) -> None:
        write_csv([cohort], tmp_path / "scores.csv")
        [read] = read_csv(tmp_path / "scores.csv")
        assert read.team == cohort.team
        assert [r.structures for r in read.results] == [r.structures for r in cohort.results]

    def test_csv_has_the_organisers_columns_first(self, cohort: CohortScores, tmp_path: Path) -> None:
        write_csv([cohort], tmp_path / "scores.csv")
        header = (tmp_path / "scores.csv").read_text().splitlines()[0]
        assert header.startswith("Case,VS_Dice,VS_ASSD,Cochlea_Dice,Cochlea_ASSD,Team,VS_HD95,")
        assert header == ",".join(CSV_COLUMNS)

    @pytest.mark.parametrize("option", ["--json", "--csv"])
    def test_unwritable_place_is_told_before_scoring(self, folders: Folders, option: str) -> None:
        result = folders.run(option, str(folders.root / "nowhere" / "scores"))
        assert result.exit_code == 1
        assert "expected a folder that exists and can be written" in result.stderr
        assert "1/2" not in result.stderr


class TestCommand:
    def test_table_on_stdout_progress_on_stderr(self, folders: Folders) -> None:
        result = folders.run("--team", "skjp")
        assert result.exit_code == 0
        assert result.stdout.startswith("skjp: 2 cases, ASSD of 2021\n")
        assert "VS Dice" in result.stdout
        assert "0.909 ± 0.000  0.909 [0.909 - 0.909]" in result.stdout
        lines = result.stderr.splitlines()
        assert [line.split()[:2] for line in lines] == [["1/2", "crossmoda_9"], ["2/2", "crossmoda_10"]]
        assert all(line.endswith(" s") for line in lines)

    def test_several_jobs_score_the_same(self, folders: Folders) -> None:
        folders.predicted("crossmoda_10").write_text("no image")
        seen: list[tuple[int, int]] = []
        alone = folders.score()
        shared = folders.score(jobs=2, on_case=lambda done, total, case: seen.append((done, total)))
        assert shared == alone
        assert seen == [(1, 2), (2, 2)]

    def test_interrupt_ends_all_processes_quietly(self, tmp_path: Path) -> None:
        values = np.zeros((48, 256, 256), dtype=np.uint8)
        values[20:30, 90:120, 80:110] = 1
        first = write(tmp_path / "labels" / "crossmoda_1_Label.nii.gz", values)
        for case in range(2, 121):
            first.with_name(f"crossmoda_{case}_Label.nii.gz").hardlink_to(first)
        command = [sys.executable, "-m", "crossmoda_grl", "evaluate", "score", "--jobs", "2"]
        folder = str(first.parent)
        with subprocess.Popen(
            [*command, "--reference", folder, "--prediction", folder],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            start_new_session=True,
        ) as process:
            assert process.stderr is not None
            assert process.stderr.readline().startswith("1/120 crossmoda_")
            os.killpg(process.pid, signal.SIGINT)  # a terminal's Ctrl-C reaches the whole group
            # Every process holds the pipe's end: that it ends means that they ended.
            stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == 1
        assert stdout == ""
        assert "Traceback" not in stderr
        assert "120/120" not in stderr

    def test_single_case(self, folders: Folders) -> None:
        path = folders.reference / "crossmoda_9_Label.nii.gz"
        assert score_case("crossmoda_9", path, folders.predicted()) == folders.first()

    def test_no_jobs(self, folders: Folders) -> None:
        with pytest.raises(ValueError, match="jobs: expected at least 1, got 0"):
            score_cohorts(folders.reference, {"a": folders.prediction}, jobs=0)
