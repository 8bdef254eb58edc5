"""What is found for training, how it is split, and every mistake refused by name."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from pipeline.data.dataset import DataError, find_training_data

SOURCE, TARGET = "source_training", "target_training"


def write(path: Path, size_xyz: Sequence[int] = (6, 5, 4), spacing: Sequence[float] = (0.5, 0.5, 1.5)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(np.arange(np.prod(size_xyz), dtype=np.float32).reshape(size_xyz[::-1]))
    image.SetSpacing(spacing)
    sitk.WriteImage(image, path)


def challenge(
    root: Path, source: Sequence[int], target: Sequence[int], folders: tuple[str, str] = (SOURCE, TARGET)
) -> Path:
    for number in source:
        write(root / folders[0] / f"crossmoda_{number}_ceT1.nii.gz")
        write(root / folders[0] / f"crossmoda_{number}_Label.nii.gz")
    for number in target:
        write(root / folders[1] / f"crossmoda_{number}_hrT2.nii.gz", (8, 7, 2), (0.4, 0.4, 1.0))
    return root


def names(cases: Sequence) -> list[str]:
    return [c.case for c in cases]


@pytest.mark.parametrize("folders", [(SOURCE, TARGET), ("training_source", "training_target")])
def test_the_paper_s_split_goes_by_ids(tmp_path: Path, folders: tuple[str, str]) -> None:
    # Section 3: 1-95 train, 96-105 validate, 106-210 are the target's; both ends included
    data = find_training_data(challenge(tmp_path, (1, 9, 95, 96, 105, 10), (106, 210), folders))
    assert names(data.source_training) == ["crossmoda_1", "crossmoda_9", "crossmoda_10", "crossmoda_95"]
    assert names(data.source_validation) == ["crossmoda_96", "crossmoda_105"]
    assert names(data.target_training) == ["crossmoda_106", "crossmoda_210"]
    assert data.source_training[0].labels == tmp_path / folders[0] / "crossmoda_1_Label.nii.gz"
    assert data.target_training[0].labels is None


def test_what_was_found_is_said(tmp_path: Path) -> None:
    challenge(tmp_path, (1, 2, 96), (106, 107))
    write(tmp_path / SOURCE / "crossmoda_2_ceT1.nii.gz", (6, 5, 9), (0.5, 0.5, 1.25))
    write(tmp_path / SOURCE / "crossmoda_2_Label.nii.gz", (6, 5, 9), (0.5, 0.5, 1.25))
    (tmp_path / TARGET / "readme.txt").write_text("hello")
    assert str(find_training_data(tmp_path)).splitlines() == [
        "source training: 2 cases (crossmoda_1 to crossmoda_2), 6 x 5 x 4-9 voxels of 0.5 x 0.5 x 1.25-1.5 mm",
        "source validation: 1 case (crossmoda_96), 6 x 5 x 4 voxels of 0.5 x 0.5 x 1.5 mm",
        "target training: 2 cases (crossmoda_106 to crossmoda_107), 8 x 7 x 2 voxels of 0.4 x 0.4 x 1 mm",
        "split: the paper's, by ids: source 1-95 train, 96-105 validate; target 106-210",
        "not used: target_training/readme.txt",
    ]


def test_fewer_cases_need_a_number_of_validation_cases(tmp_path: Path) -> None:
    challenge(tmp_path, (1, 2, 10), (106,))
    with pytest.raises(DataError, match=r"crossmoda_96 to crossmoda_105 .* got 3 cases .*--validation-cases N"):
        find_training_data(tmp_path)
    data = find_training_data(tmp_path, validation_cases=1)
    assert names(data.source_validation) == ["crossmoda_10"]
    assert data.split == "the last 1 of 3 source cases validate"
    for number in (0, 3):
        with pytest.raises(DataError, match=f"expected 1 to 2 of 3 source cases, got {number}"):
            find_training_data(tmp_path, validation_cases=number)


def test_names_of_2022_are_found_and_need_a_rule(tmp_path: Path) -> None:
    for case in ("crossmoda2021_ldn_1", "crossmoda2021_ldn_96", "crossmoda2022_etz_1"):
        for suffix in ("ceT1", "Label"):
            write(tmp_path / "training_source" / f"{case}_{suffix}.nii.gz")
    write(tmp_path / "training_target" / "crossmoda2022_etz_106_hrT2.nii.gz")
    with pytest.raises(DataError, match="--validation-cases N"):
        find_training_data(tmp_path)
    data = find_training_data(tmp_path, validation_cases=1)
    assert names(data.source_training) == ["crossmoda2021_ldn_1", "crossmoda2021_ldn_96"]
    assert names(data.source_validation) == ["crossmoda2022_etz_1"]


def test_mistakes_in_the_folders_are_refused_by_name_all_at_once(tmp_path: Path) -> None:
    challenge(tmp_path, (1, 96), (106,))
    (tmp_path / SOURCE / "crossmoda_1_Label.nii.gz").unlink()
    write(tmp_path / SOURCE / "crossmoda_4_Label.nii.gz")
    write(tmp_path / TARGET / "crossmoda_106_Label.nii.gz")
    with pytest.raises(DataError) as refused:
        find_training_data(tmp_path)
    assert str(refused.value).splitlines() == [
        "source_training: expected a label map beside every scan, got none for crossmoda_1",
        "source_training: expected a scan beside every label map, got none for crossmoda_4",
        "target_training: expected no label maps of the target domain, got those of crossmoda_106; move them away: "
        "adaptation must not see them",
    ]


def test_ids_outside_their_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="source ids: expected 1 to 105, got crossmoda_106"):
        find_training_data(challenge(tmp_path / "a", (1, 96, 106), (107,)))
    # 211 is one of the scans that the challenge scores
    with pytest.raises(DataError, match="target ids: expected 106 to 210, got crossmoda_211"):
        find_training_data(challenge(tmp_path / "b", (1, 96), (106, 211)))


def test_folders_that_are_missing_empty_or_there_twice(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a folder source_training or training_source, got none"):
        find_training_data(tmp_path)
    challenge(tmp_path, (1, 96), ())
    with pytest.raises(DataError, match="expected a folder target_training or training_target, got none"):
        find_training_data(tmp_path)
    assert find_training_data(tmp_path, with_target=False).target_training == ()
    (tmp_path / TARGET).mkdir()
    with pytest.raises(DataError, match=r"expected scans \{case\}_hrT2.nii.gz, got none"):
        find_training_data(tmp_path)
    (tmp_path / "training_source").mkdir()
    with pytest.raises(DataError, match="expected one of source_training and training_source, got both"):
        find_training_data(tmp_path)


def test_bad_headers_and_labels_off_the_grid_are_all_named(tmp_path: Path) -> None:
    challenge(tmp_path, (1, 2, 96), (106,))
    (tmp_path / SOURCE / "crossmoda_1_ceT1.nii.gz").write_bytes(b"no scan")
    write(tmp_path / SOURCE / "crossmoda_2_Label.nii.gz", (6, 5, 5))
    with pytest.raises(DataError) as refused:
        find_training_data(tmp_path)
    first, second = str(refused.value).splitlines()
    assert first.startswith("source_training: crossmoda_1_ceT1.nii.gz: expected a NIfTI header")
    assert second.startswith("source_training: crossmoda_2_Label.nii.gz: expected its scan's grid (6 x 5 x 4 voxels")


def split_file(folder: Path, **parts: list) -> Path:
    path = folder / "split.json"
    path.write_text(json.dumps(parts))
    return path


def test_a_split_file_names_cases_or_files(tmp_path: Path) -> None:
    challenge(tmp_path, (1, 2, 3), (106,))
    write(tmp_path / "site" / "t1.nii.gz")
    write(tmp_path / "site" / "seg.nii.gz")
    split = split_file(
        tmp_path,
        source_training=["crossmoda_1", {"case": "site_1", "scan": "site/t1.nii.gz", "labels": "site/seg.nii.gz"}],
        source_validation=["crossmoda_2"],
        target_training=["crossmoda_106"],
    )
    data = find_training_data(tmp_path, split_file=split)
    assert names(data.source_training) == ["crossmoda_1", "site_1"]
    assert data.source_training[1].labels == tmp_path / "site" / "seg.nii.gz"
    assert data.ignored == ("crossmoda_3",)
    assert data.split == "split.json, by name"
    with pytest.raises(DataError, match="expected a split file or a number of validation cases, got both"):
        find_training_data(tmp_path, split_file=split, validation_cases=1)


def test_a_split_file_s_mistakes(tmp_path: Path) -> None:
    challenge(tmp_path, (1, 2), (106,))
    write(tmp_path / "target_validation_reference" / "crossmoda_211_Label.nii.gz")
    write(tmp_path / "target_validation" / "crossmoda_211_hrT2.nii.gz")

    def refused(**parts: list) -> list[str]:
        with pytest.raises(DataError) as error:
            find_training_data(tmp_path, split_file=split_file(tmp_path, **parts))
        return str(error.value).splitlines()

    fine = {
        "source_training": ["crossmoda_1"],
        "source_validation": ["crossmoda_2"],
        "target_training": ["crossmoda_106"],
    }
    both = "source_training and source_validation"
    scan = SOURCE + "/crossmoda_1_ceT1.nii.gz"
    label = SOURCE + "/crossmoda_1_Label.nii.gz"
    [overlap, _, _] = refused(**{**fine, "source_validation": ["crossmoda_1"]})
    assert overlap == f"case crossmoda_1: expected it in one place, got it in {both}; keep it in one"
    # The same file under another case's name is seen too.
    renamed = {"case": "another", "scan": scan, "labels": label}
    assert refused(**{**fine, "source_validation": [renamed]})[0].startswith(f"file {tmp_path}/{scan}: expected it in")
    unlabelled = {"case": "another", "scan": scan}
    assert "source_validation: expected a label map for every scan, got none for another" in refused(
        **{**fine, "source_validation": [unlabelled]}
    )
    target = {"case": "crossmoda_211", "scan": "target_validation/crossmoda_211_hrT2.nii.gz"}
    target["labels"] = "target_validation_reference/crossmoda_211_Label.nii.gz"
    labelled, reference = refused(**{**fine, "target_training": [target]})
    assert labelled.startswith("target_training: expected no label maps of the target domain, got crossmoda_211's")
    assert reference.startswith("target_training: crossmoda_211: expected nothing of target_validation_reference, got")
    assert refused(**{**fine, "target_training": []}) == ["target_training: expected at least one case, got none"]
    assert refused(**{**fine, "source_training": ["crossmoda_77", 5]}) == [
        "split.json, source_training: expected a case of the challenge's folders, got crossmoda_77, which is not there",
        "split.json, source_training: expected a case name, or an object with case, scan and, for the source, labels, "
        "got 5",
    ]
    [keys] = refused(training=["crossmoda_1"])
    assert keys == (
        "split.json: expected lists under source_training, source_validation, target_training, got training"
    )
    (tmp_path / "split.json").write_text("{")
    with pytest.raises(DataError, match=r"split.json: expected JSON, got damaged text"):
        find_training_data(tmp_path, split_file=tmp_path / "split.json")
    with pytest.raises(DataError, match=r"none.json: expected a split file, got No such file"):
        find_training_data(tmp_path, split_file=tmp_path / "none.json")
