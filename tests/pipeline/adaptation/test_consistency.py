"""The mean teacher's parts: its loss against one by hand, its ramp, and the running mean."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.adaptation.consistency import consistency_loss, move_towards, ramp_up


def test_the_loss_by_hand() -> None:
    rng = np.random.default_rng(0)
    p, q = rng.uniform(size=(2, 2, 3, 4, 5))
    weight = np.abs(2 * q - 1)
    expected = (weight * (p - q) ** 2).sum() / ((weight * (p**2 + q**2)).sum() + 1)
    logits = torch.from_numpy(np.stack((np.log(1 - p), np.log(p)), axis=1)).float()
    assert consistency_loss(logits, torch.from_numpy(q).float()).item() == pytest.approx(expected, rel=1e-5)


def test_it_is_nothing_where_both_agree_and_nearly_1_where_they_contradict() -> None:
    sure = torch.zeros(1, 8, 8, 8)
    sure[0, 2:6, 2:6, 2:6] = 1
    logits = 50 * torch.stack((1 - sure, sure), dim=1)
    assert consistency_loss(logits, sure).item() == pytest.approx(0, abs=1e-6)
    # 64 voxels against the 448 others: sum of squares 512, and the smoothing's 1
    assert consistency_loss(logits, 1 - sure).item() == pytest.approx(512 / 513, rel=1e-4)
    # An undecided teacher pulls nowhere.
    logits.requires_grad_()
    consistency_loss(logits, torch.full_like(sure, 0.5)).backward()
    assert not logits.grad.any()
    with pytest.raises(ValueError, match=r"expected logits \(N, 2, D, H, W\) and probabilities \(N, D, H, W\), got"):
        consistency_loss(logits, sure[0])


def test_the_ramp() -> None:
    assert [ramp_up(at, 0.5) for at in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([np.exp(-5), np.exp(-1.25), 1, 1])
    assert ramp_up(0.0, 0.0) == 1.0


def test_the_teacher_moves_with_its_statistics() -> None:
    torch.manual_seed(0)
    teacher, student = (nn.Sequential(nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2)) for _ in range(2))
    student(torch.randn(2, 1, 4, 4, 4))
    before, of_student = copy.deepcopy(teacher.state_dict()), copy.deepcopy(student.state_dict())
    move_towards(teacher, student, 0.9)
    for name, tensor in teacher.state_dict().items():
        if name == "1.num_batches_tracked":
            assert tensor == 1
        else:
            torch.testing.assert_close(tensor, 0.9 * before[name] + 0.1 * of_student[name])
    assert all(torch.equal(tensor, of_student[name]) for name, tensor in student.state_dict().items())
