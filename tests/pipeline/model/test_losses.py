"""Eq. 1 and Eq. 2, worked by hand on 2 x 2 x 2 voxels and compared with MONAI's."""

import math

import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss

from pipeline.model.losses import adaptation_loss, domain_loss, soft_dice_loss, supervised_loss

LN3 = math.log(3)


def quarter_logits(confident: int) -> torch.Tensor:
    """Logits (1, 2, 2, 2, 2) whose structure probability is 3/4 in the first `confident` voxels, 1/4 in the others."""
    structure = torch.full((8,), -LN3)
    structure[:confident] = LN3
    return torch.stack([torch.zeros(8), structure]).reshape(1, 2, 2, 2, 2)


def mask_of(count: int) -> torch.Tensor:
    mask = torch.zeros(8, dtype=torch.bool)
    mask[:count] = True
    return mask.reshape(1, 2, 2, 2)


def test_eq_1_by_hand() -> None:
    # Two voxels of structure, p = 3/4 there, and 1/4 in the other six: every voxel gives its class 3/4.
    loss = supervised_loss(quarter_logits(2), mask_of(2), dice_weight=3.4)
    assert loss.cross_entropy.item() == pytest.approx(math.log(4 / 3), rel=1e-6)
    # overlap 2 * 3/4 = 1.5; sum p = 1.5 + 6/4 = 3; sum g = 2: 1 - (2*1.5 + 1) / (3 + 2 + 1) = 1/3
    assert loss.dice.item() == pytest.approx(1 / 3, rel=1e-6)
    assert loss.total.item() == pytest.approx(math.log(4 / 3) + 3.4 / 3, rel=1e-6)


def test_the_papers_weight_is_the_default() -> None:
    loss = supervised_loss(quarter_logits(4), mask_of(2))
    assert loss.total.item() == pytest.approx(loss.cross_entropy.item() + 3.4 * loss.dice.item(), rel=1e-6)


def test_eq_2_by_hand() -> None:
    supervised = supervised_loss(quarter_logits(2), mask_of(2), dice_weight=3.4)
    # Source with logit ln 3 (p_target 3/4, wrong), target with logit 0 (p 1/2): mean of ln 4 and ln 2.
    domain = domain_loss(torch.tensor([LN3, 0.0]), torch.tensor([False, True]))
    assert domain.item() == pytest.approx(1.5 * math.log(2), rel=1e-6)
    loss = adaptation_loss(supervised, domain)
    assert loss.total.item() == pytest.approx(math.log(4 / 3) + 3.4 / 3 + 1.5 * math.log(2), rel=1e-6)
    assert loss.supervised is supervised
    assert loss.domain is domain


def test_a_batch_without_the_structure() -> None:
    nothing = torch.zeros(1, 2, 2, 2)
    assert soft_dice_loss(nothing, mask_of(0)).item() == 0.0
    # Eight voxels at 1/2 add up to 4: 1 - 1 / (4 + 1)
    assert soft_dice_loss(nothing + 0.5, mask_of(0)).item() == pytest.approx(0.8)
    assert soft_dice_loss(nothing + 1.0, mask_of(0)).item() == pytest.approx(8 / 9)


def test_dice_pools_over_the_batch() -> None:
    perfect = mask_of(4).float()
    with_empty = soft_dice_loss(
        torch.cat([perfect, torch.full_like(perfect, 0.25)]), torch.cat([mask_of(4), mask_of(0)])
    )
    # 1 - (2*4 + 1) / (4 + 2 + 4 + 1); a mean of two patches' losses would be (0 + 2/3) / 2
    assert with_empty.item() == pytest.approx(2 / 11)


def test_perfect_and_opposite() -> None:
    assert soft_dice_loss(mask_of(3).float(), mask_of(3)).item() == 0.0
    assert soft_dice_loss(1 - mask_of(3).float(), mask_of(3)).item() == pytest.approx(1 - 1 / 9)


def test_as_monai_where_the_definitions_match() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(3, 2, 4, 6, 5, generator=generator)
    mask = torch.rand(3, 4, 6, 5, generator=generator) > 0.8
    ours = supervised_loss(logits, mask, dice_weight=3.4)
    settings = {"include_background": False, "softmax": True, "to_onehot_y": True, "batch": True}
    smoothed = {"smooth_nr": 1.0, "smooth_dr": 1.0}
    target = mask[:, None].long()
    torch.testing.assert_close(ours.dice, DiceLoss(**settings, **smoothed)(logits, target))
    total = DiceCELoss(**settings, **smoothed, lambda_dice=3.4, lambda_ce=1.0)(logits, target)
    torch.testing.assert_close(ours.total, total)


def test_float32_under_autocast() -> None:
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(1, 2, 8, 8, 8, generator=generator).bfloat16()
    mask = torch.rand(1, 8, 8, 8, generator=generator) > 0.5
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = supervised_loss(logits, mask)
        domain = domain_loss(logits[0, 0, 0, 0], mask[0, 0, 0])
    assert [part.dtype for part in (*loss, domain)] == [torch.float32] * 4
    torch.testing.assert_close(loss.total, supervised_loss(logits.float(), mask).total)


def test_both_parts_pull_towards_the_mask() -> None:
    logits = quarter_logits(0).requires_grad_()
    loss = supervised_loss(logits, mask_of(2))
    for part in (loss.cross_entropy, loss.dice):
        (gradient,) = torch.autograd.grad(part, logits, retain_graph=True)
        assert (gradient[0, 1].flatten()[:2] < 0).all()  # more structure where the mask is
        assert (gradient[0, 1].flatten()[2:] > 0).all()  # less elsewhere


def test_where_all_voxels_count_it_is_the_loss_without_saying_so() -> None:
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(3, 2, 4, 6, 5, generator=generator)
    mask = torch.rand(3, 4, 6, 5, generator=generator) > 0.8
    for one, other in zip(
        supervised_loss(logits, mask), supervised_loss(logits, mask, certain=torch.ones_like(mask)), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_the_loss_of_certain_voxels_by_hand() -> None:
    # Of eight voxels the first four count: two of structure, one of them found (p = 3/4, 1/4), and two of background,
    # neither found (p = 1/4). Three give their class 3/4, one gives it 1/4.
    loss = supervised_loss(quarter_logits(1), mask_of(2), dice_weight=3.4, certain=mask_of(4))
    assert loss.cross_entropy.item() == pytest.approx((3 * math.log(4 / 3) + math.log(4)) / 4, rel=1e-6)
    # overlap 3/4 + 1/4 = 1; sum p = 3/4 + 3/4 = 1.5; sum g = 2: 1 - (2 + 1) / (1.5 + 2 + 1) = 1/3
    assert loss.dice.item() == pytest.approx(1 / 3, rel=1e-6)
    assert loss.total.item() == pytest.approx(loss.cross_entropy.item() + 3.4 / 3, rel=1e-6)


def test_uncertain_voxels_carry_no_gradient_and_their_label_does_not_matter() -> None:
    certain = mask_of(5)
    logits = quarter_logits(3).requires_grad_()
    supervised_loss(logits, mask_of(4), certain=certain).total.backward()
    gradient = logits.grad[0].flatten(1)
    assert (gradient[:, :5] != 0).all()
    assert (gradient[:, 5:] == 0).all()
    other = mask_of(4) | ~certain
    assert supervised_loss(logits, other, certain=certain) == supervised_loss(logits, mask_of(4), certain=certain)


def test_where_no_voxel_counts_the_loss_is_finite_and_teaches_nothing() -> None:
    logits = quarter_logits(3).requires_grad_()
    loss = supervised_loss(logits, mask_of(4), certain=mask_of(0))
    # Nothing predicted and nothing to find: 1 - s / s.
    assert [part.item() for part in loss] == [0.0, 0.0, 0.0]
    loss.total.backward()
    assert (logits.grad == 0).all()


def test_misfits_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got \(1, 3, 2, 2, 2\) and \(1, 2, 2, 2\)"):
        supervised_loss(torch.zeros(1, 3, 2, 2, 2), mask_of(1))
    with pytest.raises(ValueError, match="supervised loss: expected logits"):
        supervised_loss(quarter_logits(1), mask_of(1)[None])
    with pytest.raises(ValueError, match=r"expected one logit a patch, \(2,\), got \(3,\)"):
        domain_loss(torch.zeros(3), torch.tensor([True, False]))
