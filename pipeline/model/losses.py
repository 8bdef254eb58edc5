"""The losses: Eq. 1 and Eq. 2, and their terms by name.

Source: Kondo 2021, Section 2.
"""

from typing import Any, NamedTuple

import torch
from torch.nn import functional

from pipeline.config import PAPER
from pipeline.model.layout import channels_are_together

# Added to numerator and denominator of the Dice loss, in voxels; negligible for structures of our sizes.
SMOOTHING = 1.0


class _Difference(torch.autograd.Function):
    """The second channel minus the first, `(N, 2, D, H, W)` -> `(N, D, H, W)`; the gradient has the input's layout."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor) -> torch.Tensor:
        ctx.together = channels_are_together(logits)
        return logits[:, 1] - logits[:, 0]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        both = (-gradients[0], gradients[0])
        return torch.stack(both, dim=-1).movedim(-1, 1) if ctx.together else torch.stack(both, dim=1)


class SupervisedLoss(NamedTuple):
    """Eq. 1, `total = cross_entropy + w_d * dice`: scalars."""

    cross_entropy: torch.Tensor
    dice: torch.Tensor
    total: torch.Tensor


class AdaptationLoss(NamedTuple):
    """Eq. 2, `total = supervised.total + domain`: scalars."""

    supervised: SupervisedLoss
    domain: torch.Tensor
    total: torch.Tensor


def soft_dice_loss(probability: torch.Tensor, mask: torch.Tensor, smoothing: float = SMOOTHING) -> torch.Tensor:
    """Return 1 minus the soft Dice of a structure's probability and its mask, both `(N, D, H, W)`, over the batch.

    ::

        1 - (2 sum(p g) + s) / (sum(p) + sum(g) + s)        sums over every voxel of every patch, s the smoothing

    The sums run over the whole batch (our choice). With one Dice per patch, every patch without the structure would
    push the network to background, and it would collapse. Here, an empty patch only adds its false positives to the
    batch's. A batch without any structure gives 1 - s / (sum(p) + s): 0 if nothing is predicted, nearly 1 if much is.
    """
    g = mask.to(probability.dtype)
    intersection = (probability * g).sum()
    return 1 - (2 * intersection + smoothing) / (probability.sum() + g.sum() + smoothing)


def supervised_loss(
    logits: torch.Tensor,
    mask: torch.Tensor,
    dice_weight: float = PAPER.dice_weight,
    certain: torch.Tensor | None = None,
) -> SupervisedLoss:
    """Return L_S = L_c + w_d L_d for logits `(N, 2, D, H, W)` and the structure's mask `(N, D, H, W)`, bool.

    The cross entropy is the mean over all voxels; the Dice loss is that of the structure's channel. Both are computed
    in float32 even under autocast, because half precision cannot hold sums over a million voxels. With `certain`, bool
    `(N, D, H, W)`, both are over those voxels alone: that is for pseudo-labels, beyond the paper.

    Raises:
        ValueError: the shapes do not fit.

    Source: Eq. 1.
    """
    if logits.ndim != 5 or logits.shape[1] != 2 or mask.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(
            "supervised loss: expected logits (N, 2, D, H, W) and a mask (N, D, H, W), "
            f"got {tuple(logits.shape)} and {tuple(mask.shape)}"
        )
    with torch.autocast(logits.device.type, enabled=False):
        # The softmax over two channels is the sigmoid of their difference.
        logit = _Difference.apply(logits.float())
        probability = logit.sigmoid()
        if certain is None:
            cross_entropy = functional.binary_cross_entropy_with_logits(logit, mask.float())
            dice = soft_dice_loss(probability, mask)
        else:
            of_voxels = functional.binary_cross_entropy_with_logits(logit, mask.float(), reduction="none")
            cross_entropy = (of_voxels * certain).sum() / certain.sum().clamp(min=1)
            dice = soft_dice_loss(probability * certain, mask & certain)
        return SupervisedLoss(cross_entropy, dice, cross_entropy + dice_weight * dice)


def domain_loss(logits: torch.Tensor, is_target: torch.Tensor) -> torch.Tensor:
    """Return L_b, the mean binary cross entropy of the domain logits `(N,)` and `is_target` `(N,)` bool, in float32.

    Raises:
        ValueError: the shapes differ.

    Source: Section 2, "the binary cross entropy loss, for both of source and target data".
    """
    if logits.shape != is_target.shape:
        raise ValueError(
            f"domain loss: expected one logit a patch, {tuple(is_target.shape)}, got {tuple(logits.shape)}"
        )
    with torch.autocast(logits.device.type, enabled=False):
        return functional.binary_cross_entropy_with_logits(logits.float(), is_target.float())


def adaptation_loss(supervised: SupervisedLoss, domain: torch.Tensor) -> AdaptationLoss:
    """Return L_D = L_S + L_b: the source patches' supervised loss plus the domain loss of all patches, shape ().

    Source: Eq. 2.
    """
    return AdaptationLoss(supervised, domain, supervised.total + domain)
