"""Files of scores, written and read again."""

import json
from pathlib import Path

import pytest

from evaluation.cohort import CohortScores, score_cohorts
from evaluation.score_files import CSV_COLUMNS, read_csv, read_score_files, scores_from_json, scores_to_json, write_csv
from tests.evaluation.cohorts import Folders, labels, write
from tests.evaluation.report.cohorts import cohort


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


class TestFiles:
    @pytest.fixture
    def cohort(self, folders: Folders) -> CohortScores:
        folders.predicted("crossmoda_10").unlink()
        write(folders.reference / "crossmoda_9_Label.nii.gz", labels(cochlea=None))
        write(folders.prediction / "crossmoda_11_Label.nii.gz", labels())
        [scored] = score_cohorts(folders.reference, {'a "team", <script> ü': folders.prediction})
        return scored

    def test_json_round_trip(self, cohort: CohortScores) -> None:
        assert scores_from_json(scores_to_json([cohort, cohort])) == [cohort, cohort]

    def test_json_shape(self, cohort: CohortScores) -> None:
        document = json.loads(scores_to_json([cohort]))
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
            scores_from_json(text)
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


def test_score_files_are_read_and_each_team_once(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(scores_to_json([cohort("a")]), encoding="utf-8")
    write_csv([cohort("b"), cohort("c")], tmp_path / "b.csv")
    assert [read.team for read in read_score_files([tmp_path / "a.json", tmp_path / "b.csv"])] == ["a", "b", "c"]
    with pytest.raises(ValueError, match=r"a\.json: expected each team once, got a again"):
        read_score_files([tmp_path / "a.json", tmp_path / "a.json"])
