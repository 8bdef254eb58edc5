"""The adversary: the gradient reversal layer and the domain classifier.

Source: Kondo 2021, Section 2; Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 17, 2016.
"""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from pipeline.config import OURS
from pipeline.model.layout import gradient_in_own_layout


class _GradientReversal(torch.autograd.Function):
    """The identity in the forward pass; in the backward pass, the gradient times `-weight`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: float) -> torch.Tensor:
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return -ctx.weight * gradients[0], None


def reverse_gradient(x: torch.Tensor, weight: float) -> torch.Tensor:
    """Return `x`, of any shape, unchanged; in the backward pass its gradient is multiplied by `-weight`.

    Source: Ganin et al., Section 3; Kondo 2021, Section 2.
    """
    return _GradientReversal.apply(x, weight)


def reversal_weight(progress: float, maximum: float = OURS.grl_weight_max) -> float:
    """Return the weight of the gradient reversal after a fraction `progress` of the adaptation: Ganin's ramp.

    The weight is `maximum * (2 / (1 + exp(-10 progress)) - 1)`: 0 at the start, 0.46 of the maximum after a tenth of
    the adaptation, 0.99 of it after half.

    Raises:
        ValueError: `progress` is not in [0, 1].

    Source: Ganin et al., Section 5.2.2. This is our choice: the paper cites them for the layer and gives no schedule.
    """
    if not 0 <= progress <= 1:
        raise ValueError(f"progress: expected the fraction of the adaptation done, in [0, 1], got {progress}")
    return maximum * (2 / (1 + math.exp(-10 * progress)) - 1)


class DomainClassifier(nn.Module):
    """Tell source from target patches by their features: reversal, pooling, three fully connected layers, one logit.

    The features are averaged onto a small grid before the first layer. This is our choice: flattened, 128 x 16^3
    features would be 524,288 inputs, and the first layer would hold nearly all of the model's weights. There is no
    sigmoid, because the loss takes logits.

    Source: Kondo 2021, Section 2, "fed into three fully connected layers which is the domain classifier".
    """

    def __init__(self, channels: int = 128, grid: int = OURS.domain_grid, hidden: tuple[int, int] = (128, 64)) -> None:
        """Make the classifier.

        Args:
            channels: channels of the features.
            grid: side of the cubic grid that the features are averaged onto.
            hidden: widths of the first two layers (our choice).
        """
        super().__init__()
        first, second = hidden
        self.grid = grid
        self.layers = nn.Sequential(
            nn.Linear(channels * grid**3, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, 1)
        )

    def forward(self, features: torch.Tensor, weight: float) -> torch.Tensor:
        """Return one logit a patch, `(N,)`, above 0 for the target, from features `(N, channels, d, h, w)`.

        `weight` is the gradient reversal's; every call passes it, so the module holds no state of the schedule.
        """
        reversed_features = reverse_gradient(gradient_in_own_layout(features), weight)
        pooled = functional.adaptive_avg_pool3d(reversed_features, self.grid)
        return self.layers(pooled.flatten(1)).squeeze(1)
