"""The gradient reversal layer, Ganin's ramp and the domain classifier."""

import pytest
import torch
from torch import nn

from pipeline.model.domain import DomainClassifier, reversal_weight, reverse_gradient


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0, 3.0])
def test_the_gradient_is_minus_weight_times_the_plain_one(weight: float) -> None:
    x = torch.randn(2, 3, 4, 4, 4, requires_grad=True)
    (plain,) = torch.autograd.grad(x.pow(3).sum(), x)
    (reversed_,) = torch.autograd.grad(reverse_gradient(x, weight).pow(3).sum(), x)
    assert torch.equal(reversed_, -weight * plain)


def test_reversal_leaves_the_values_alone() -> None:
    x = torch.randn(2, 3)
    assert torch.equal(reverse_gradient(x, 0.5), x)


def test_two_reversals_in_a_row_multiply() -> None:
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    reverse_gradient(reverse_gradient(x, 0.5), 4.0).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    ("progress", "weight"), [(0.0, 0.0), (0.1, 0.4621172), (0.25, 0.8482836), (0.5, 0.9866143), (1.0, 0.9999092)]
)
def test_ganins_ramp(progress: float, weight: float) -> None:
    assert reversal_weight(progress, 1.0) == pytest.approx(weight, abs=1e-7)
    assert reversal_weight(progress, 0.1) == pytest.approx(0.1 * weight, abs=1e-8)


@pytest.mark.parametrize("progress", [-0.01, 1.01, float("nan")])
def test_progress_outside_the_phase_is_refused(progress: float) -> None:
    with pytest.raises(ValueError, match="progress: expected the fraction"):
        reversal_weight(progress)


@pytest.mark.parametrize("shape", [(3, 8, 2, 2, 2), (1, 8, 8, 8, 8), (2, 8, 5, 3, 7)])
def test_one_logit_a_patch_for_features_of_any_side(shape: tuple[int, ...]) -> None:
    classifier = DomainClassifier(channels=8, grid=2)
    assert classifier(torch.randn(shape), 1.0).shape == (shape[0],)


def test_three_fully_connected_layers_and_no_sigmoid() -> None:
    classifier = DomainClassifier()
    layers = [m for m in classifier.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in layers] == [(1024, 128), (128, 64), (64, 1)]
    assert not any(isinstance(m, nn.Sigmoid) for m in classifier.modules())
    # 1024*128 + 128, 128*64 + 64, 64 + 1
    assert sum(p.numel() for p in classifier.parameters()) == 131_200 + 8_256 + 65


def test_the_classifier_learns_while_the_features_are_pushed_the_other_way() -> None:
    classifier = DomainClassifier(channels=4, grid=1, hidden=(8, 8))
    features = torch.randn(2, 4, 2, 2, 2, requires_grad=True)
    inputs = [features, *classifier.parameters()]
    plain = torch.autograd.grad(classifier(features, -1.0).sum(), inputs)  # minus one reversed: the plain gradient
    reversed_ = torch.autograd.grad(classifier(features, 0.5).sum(), inputs)
    torch.testing.assert_close(reversed_[0], -0.5 * plain[0])
    for ours, theirs in zip(reversed_[1:], plain[1:], strict=True):
        assert torch.equal(ours, theirs)
    assert plain[0].abs().sum() > 0
