"""The scores of a cohort: files matched to cases and teams, metrics aggregated, and the command."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from crossmoda_grl.__main__ import main
from evaluation.cohort import score_cohorts, summarise, team_folders
from evaluation.score_files import read_csv
from evaluation.scoring import Status, score_case
from tests.evaluation.cohorts import Folders, labels, write


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


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
        assert score_case("crossmoda_9", path, [folders.predicted()]) == [folders.first()]

    def test_no_jobs(self, folders: Folders) -> None:
        with pytest.raises(ValueError, match="jobs: expected at least 1, got 0"):
            score_cohorts(folders.reference, {"a": folders.prediction}, jobs=0)


class TestLinks:
    """Whoever hands in a link to the reference is not scored by it."""

    @pytest.mark.parametrize("absolute", [True, False])
    @pytest.mark.parametrize("hops", [1, 2, 5])
    @pytest.mark.parametrize("through_folder", [False, True])
    def test_a_link_out_of_the_team_s_folder_is_refused(
        self, folders: Folders, absolute: bool, hops: int, through_folder: bool
    ) -> None:
        folder, target = folders.prediction, folders.reference / folders.predicted().name
        if through_folder:
            (folder / "hidden").symlink_to(folders.reference)
            target = folder / "hidden" / target.name
        for hop in range(hops - 1):
            (folder / f"hop{hop}").symlink_to(target)
            target = folder / f"hop{hop}"
        folders.predicted().unlink()
        folders.predicted().symlink_to(target if absolute else os.path.relpath(target, folder))
        cohort = folders.score()
        for scores in cohort.results[0].structures.values():
            assert (scores.status, scores.dice, scores.assd_mm) == (Status.REFUSED, 0.0, 350.0)
        assert cohort.results[0].problem is not None
        assert "expected a file, got a link that leaves its folder" in cohort.results[0].problem
        assert [result.case for result in cohort.failed] == ["crossmoda_9"]
        assert cohort.results[1].structures["vs"].status is Status.SCORED

    def test_loops_and_links_to_nothing_cost_their_own_case_alone(self, folders: Folders) -> None:
        for target in (folders.predicted().name, "nothing"):
            folders.predicted().unlink(missing_ok=True)
            folders.predicted().symlink_to(target)
            results = folders.score().results
            assert results[0].structures["vs"].status is Status.REFUSED
            assert results[1].structures["vs"].status is Status.SCORED

    def test_the_reference_s_own_lack_is_said_first(self, folders: Folders) -> None:
        (folders.reference / folders.predicted().name).write_bytes(b"no gzip")
        folders.predicted().unlink()
        folders.predicted().symlink_to(folders.reference / folders.predicted().name)
        result = folders.first()
        assert result.structures["vs"].status is Status.BAD_REFERENCE
        assert result.problem.startswith("reference ")

    def test_a_team_that_is_a_link_to_the_reference(self, folders: Folders) -> None:
        (folders.root / "teams").mkdir()
        folders.prediction.rename(folders.root / "teams" / "a")
        (folders.root / "teams" / "b").symlink_to(folders.reference)
        with pytest.raises(ValueError, match="got b, a link out of the folder"):
            team_folders(folders.root / "teams")

    def test_the_folder_itself_may_be_a_link(self, folders: Folders) -> None:
        (folders.root / "link").symlink_to(folders.prediction)
        [cohort] = score_cohorts(folders.reference, team_folders(folders.root / "link"))
        assert cohort.results[0].structures["vs"].status is Status.SCORED


def test_folders_without_a_usable_prediction_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    scores = tmp_path / "scores.json"
    command = ["evaluate", "score", "--reference", str(folders.reference), "--prediction", str(folders.prediction)]
    for path in folders.prediction.iterdir():
        path.write_bytes(b"no NIfTI")
    refused = CliRunner().invoke(main, [*command, "--json", str(scores)])
    assert refused.exit_code == 1
    assert f"{folders.prediction}: expected label maps named {{case}}_Label.nii.gz" in refused.stderr
    assert (refused.stdout, scores.exists()) == ("", False)
    for path in folders.prediction.iterdir():
        path.unlink()
    assert "got none that can be used" in CliRunner().invoke(main, command).stderr
    # One of two is enough: the other counts as empty.
    write(folders.predicted(), labels())
    one = CliRunner().invoke(main, [*command, "--json", str(scores)])
    assert one.exit_code == 1
    assert scores.exists()
    assert "got none that can be used" not in one.stderr


def test_rank_takes_json_and_csv_alike(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    command = ["evaluate", "score", "--reference", str(folders.reference), "--prediction", str(folders.prediction)]
    files = [str(tmp_path / name) for name in ("scores.json", "scores.csv")]
    assert CliRunner().invoke(main, [*command, "--json", files[0], "--csv", files[1]]).exit_code == 0
    ranked = [CliRunner().invoke(main, ["evaluate", "rank", file, "--samples", "9"]) for file in files]
    assert [result.exit_code for result in ranked] == [0, 0], ranked[0].output
    assert ranked[0].stdout == ranked[1].stdout
