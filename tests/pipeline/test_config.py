"""The paper's numbers beside its sentences, and the challenge's facts."""

import dataclasses

import pytest

from challenge.contract import COCHLEA, STRUCTURES, VS, case_name, case_of, label_file, sorted_cases
from pipeline.config import OURS, PAPER


def test_numbers_of_the_paper():
    # "an input volume is resampled at 0.5 mm sampling pitch for all dimensions"
    assert PAPER.spacing_mm == 0.5
    # "The sizes of the cubic patch are 128 and 64 for VS and cochlea segmentation, respectively."
    assert (PAPER.plans[VS].window, PAPER.plans[COCHLEA].window) == (128, 64)
    # "The batch sizes are 4 and 16 for VS and cochlea segmentation, respectively."
    assert (PAPER.plans[VS].batch_size, PAPER.plans[COCHLEA].batch_size) == (4, 16)
    # "The number of epochs is 60 for both the supervised learning and domain adaptation phases."
    assert PAPER.epochs == 60
    # "The initial learning rate are 1.0e-3 and 6.7e-5 for the supervised learning and domain adaptation phases"
    assert (PAPER.supervised_rate, PAPER.adaptation_rate) == (1.0e-3, 6.7e-5)
    # "The weight w_d in Eq. (1) is 3.4."
    assert PAPER.dice_weight == 3.4
    # "case ID 1 - 95 ... training data and ten samples (case ID 96 - 105) ... validation data"
    assert (PAPER.source_training_ids, PAPER.source_validation_ids) == ((1, 95), (96, 105))
    # "One hundred and five samples (case ID 106 - 210) in the target domain are used as the training data."
    assert PAPER.target_training_ids == (106, 210)
    # "The search range of the hyper-parameters are from 1e-5 to 0.1, from 1e-10 to 0.1 and from 0.1 to 4.0"
    assert PAPER.supervised_rate_range == (1e-5, 0.1)
    assert PAPER.adaptation_rate_range == (1e-10, 0.1)
    assert PAPER.dice_weight_range == (0.1, 4.0)


def test_every_structure_has_its_numbers():
    assert set(PAPER.plans) == set(OURS.windows_per_pass) == set(STRUCTURES)


@pytest.mark.parametrize("block", [PAPER, OURS])
def test_blocks_are_frozen(block):
    with pytest.raises(dataclasses.FrozenInstanceError):
        block.epochs = 1


def test_labels_and_names_of_the_contract():
    assert (VS.label, COCHLEA.label) == (1, 2)
    assert case_name(211) == "crossmoda_211"
    assert label_file("crossmoda_211") == "crossmoda_211_Label.nii.gz"
    assert case_of("crossmoda2022_etz_7_hrT2.nii.gz", "_hrT2.nii.gz") == "crossmoda2022_etz_7"
    assert case_of("crossmoda_1_ceT1.nii.gz", "_hrT2.nii.gz") is None
    assert case_of("_hrT2.nii.gz", "_hrT2.nii.gz") is None


def test_cases_are_sorted_as_a_person_would():
    cases = ["crossmoda_10", "crossmoda_9", "b", "crossmoda_100", "a2", "a10"]
    assert sorted_cases(cases) == ["a2", "a10", "b", "crossmoda_9", "crossmoda_10", "crossmoda_100"]
