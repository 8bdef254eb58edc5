"""Batch norm's running statistics, of one domain alone. Beyond the paper, and off by default.

Source: Li et al., "Revisiting Batch Normalization For Practical Domain Adaptation", arXiv 1603.04779 ("AdaBN").
"""

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.data.sampling import TrainingVolume, cut_patch, head_centre

Network = TypeVar("Network", bound=nn.Module)


@contextmanager
def statistics_of(network: nn.Module, other: nn.Module) -> Iterator[None]:
    """Lend a network the running statistics of another with the same layers: forwards inside use and update those."""
    pairs = [pair for pair in zip(network.modules(), other.modules(), strict=True) if isinstance(pair[0], _BatchNorm)]
    own = [(norm.running_mean, norm.running_var) for norm, _ in pairs]
    for norm, of_other in pairs:
        norm.running_mean, norm.running_var = of_other.running_mean, of_other.running_var
    try:
        yield
    finally:
        for (norm, _), (mean, variance) in zip(pairs, own, strict=True):
            norm.running_mean, norm.running_var = mean, variance


def with_statistics_of(network: Network, other: nn.Module) -> Network:
    """Return a copy of a network with another's running statistics; both have the same layers."""
    with statistics_of(network, other):
        return copy.deepcopy(network)


@torch.no_grad()
def reestimate_statistics(
    network: Network,
    volumes: Iterable[TrainingVolume],
    window: int,
    *,
    patches_per_volume: int,
    rng: np.random.Generator,
) -> Network:
    """Return a copy of a network whose batch norms have the means and variances of `volumes`; the weights are the same.

    Each volume's patches, cut anywhere in the head, are one batch. The statistics are the plain mean over the batches.
    Masks are not used.

    Args:
        network: is not changed; the copy is on its device, in eval mode.
        volumes: of the domain to predict, `(D, H, W)` float32; only one is held at a time.
        window: side of the cubic patches in voxels.
        patches_per_volume: patches of each volume.
        rng: where every random draw comes from.

    Raises:
        ValueError: no volume, or no patch.
    """
    adapted = copy.deepcopy(network).eval()
    for module in adapted.modules():
        if isinstance(module, _BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # the mean over all batches, not a moving average
            module.train()
    device = next(adapted.parameters()).device
    taken = 0
    for volume in volumes if patches_per_volume > 0 else ():
        patches = [cut_patch(volume.volume, head_centre(volume, rng), window) for _ in range(patches_per_volume)]
        adapted(torch.from_numpy(np.stack(patches)[:, None]).to(device))
        taken += 1
    if not taken:
        raise ValueError(
            f"statistics: expected volumes and patches, got {taken} volumes with {patches_per_volume} patches each; "
            "name scans of the domain to predict"
        )
    for module, original in zip(adapted.modules(), network.modules(), strict=True):
        if isinstance(module, _BatchNorm) and isinstance(original, _BatchNorm):
            module.momentum = original.momentum
    return adapted.eval()
