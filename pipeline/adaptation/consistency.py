"""A teacher that is the running mean of its student, and how far the two differ on unlabelled patches.

Beyond the paper.

Source: Tarvainen and Valpola, "Mean teachers are better role models", NIPS 2017, arXiv 1703.01780; for segmentation
across scanners, Perone et al., NeuroImage 194, 2019.
"""

import math

import torch
from torch import nn

from pipeline.model.losses import SMOOTHING


def consistency_loss(logits: torch.Tensor, expected: torch.Tensor, smoothing: float = SMOOTHING) -> torch.Tensor:
    """Return how far the structure's probability is from the teacher's, between 0 and 1, shape ().

    ::

        sum(w (p - q)^2) / (sum(w (p^2 + q^2)) + s)      w = |2 q - 1|, sums over every voxel of every patch

    q is the teacher's probability and w its confidence; voxels on which it is undecided do not count. The squared
    difference is divided by the structure's own size, as in a Dice loss with squares below the line: a mean over all
    voxels would be nearly 0, since nearly all of them are background.

    Args:
        logits: of the student, `(N, 2, D, H, W)`.
        expected: the teacher's probability of the structure, `(N, D, H, W)` float32, without a gradient.
        smoothing: s, in voxels.

    Raises:
        ValueError: the shapes do not fit.
    """
    if logits.ndim != 5 or logits.shape[1] != 2 or expected.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(
            "consistency: expected logits (N, 2, D, H, W) and probabilities (N, D, H, W), "
            f"got {tuple(logits.shape)} and {tuple(expected.shape)}"
        )
    with torch.autocast(logits.device.type, enabled=False):
        probability = logits.float().softmax(dim=1)[:, 1]
        confidence = (2 * expected - 1).abs()
        difference = (confidence * (probability - expected).square()).sum()
        return difference / ((confidence * (probability.square() + expected.square())).sum() + smoothing)


def ramp_up(progress: float, length: float) -> float:
    """Return the weight after a fraction `progress` of the phase: exp(-5 (1 - progress / length)^2), then 1.

    A `length` of 0 is no ramp.

    Source: Laine and Aila, "Temporal ensembling for semi-supervised learning", ICLR 2017, arXiv 1610.02242.
    """
    return 1.0 if progress >= length else math.exp(-5 * (1 - progress / length) ** 2)


@torch.no_grad()
def move_towards(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """Make the teacher `decay * teacher + (1 - decay) * student`: weights, and batch norm's means and variances.

    Counts are the student's. Both have the same names.
    """
    of_student = student.state_dict()
    for name, tensor in teacher.state_dict().items():
        if tensor.is_floating_point():
            tensor.lerp_(of_student[name], 1 - decay)
        else:
            tensor.copy_(of_student[name])
