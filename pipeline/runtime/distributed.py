"""Data-parallel training: several processes, the ranks, train one network together.

Every rank draws the same batches and computes its shard of each. The logits are all-gathered, so every rank computes
the loss of the whole batch, including the pooled Dice loss. Batch norm uses the whole batch's statistics. So the ranks
compute what one process computes, but sum in another order. In a single process, everything here is the identity.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed, nn

# Ranks wait for each other at every step, also while the first one writes checkpoints and records.
_TIMEOUT = timedelta(hours=1)


@dataclass(frozen=True)
class Ranks:
    """This process's place, `rank`, among the `size` processes that train together."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Tell whether this is the process that writes files and prints."""
        return self.rank == 0

    @property
    def shard(self) -> slice:
        """Return this rank's items of a batch: every `size`-th. So each rank gets as many of both domains."""
        return slice(self.rank, None, self.size)

    def all_gather(self, part: torch.Tensor, count: int) -> torch.Tensor:
        """Gather the ranks' shards to the whole batch, shape `(count, ...)`; gradients flow back to this shard."""
        return part if self.size == 1 else _AllGather.apply(part, self, count)

    def sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sum of the ranks' arrays, all of one shape."""
        if self.size == 1:
            return values
        total = torch.tensor(values)
        distributed.all_reduce(total)
        return total.numpy()

    def all_reduce_max(self, number: int) -> int:
        """Return the ranks' largest number. Every rank waits here for all others."""
        if self.size == 1:
            return number
        largest = torch.tensor(number)
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        return int(largest)

    @contextmanager
    def rank_zero_first(self) -> Iterator[None]:
        """Run the block on the first rank, and then on the others."""
        if not self.is_first:
            self.all_reduce_max(0)
        yield
        if self.is_first:
            self.all_reduce_max(0)


ALONE = Ranks()


@contextmanager
def joined_ranks(device: torch.device) -> Iterator[tuple[Ranks, torch.device]]:
    """Join the process group if `torchrun` started this process; yield this rank, and its own GPU.

    Raises:
        ValueError: this machine has fewer GPUs than ranks.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE, device
        return
    backend = "gloo"
    if device.type == "cuda":
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= gpus:
            raise ValueError(
                f"torchrun: expected a GPU for each process, got {gpus} GPUs for process {local + 1}; "
                f"use --nproc_per_node {gpus}"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, timeout=_TIMEOUT)
    yield Ranks(distributed.get_rank(), distributed.get_world_size()), device
    distributed.destroy_process_group()  # not after an error: the other ranks may be gone


class _AllGather(torch.autograd.Function):
    """The ranks' shards, gathered.

    Every rank computes the same loss of the whole batch, so it already has its shard of the gradient. That is
    multiplied by the number of ranks, because DistributedDataParallel averages over them.
    """

    @staticmethod
    def forward(ctx: Any, part: torch.Tensor, ranks: Ranks, count: int) -> torch.Tensor:
        ctx.ranks = ranks
        whole = part.new_zeros((count, *part.shape[1:]))
        whole[ranks.shard] = part
        distributed.all_reduce(whole)  # each row: one rank's values plus zeros, which is exact
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradients[0][ctx.ranks.shard] * ctx.ranks.size, None, None


class _AllReduceSum(torch.autograd.Function):
    """The sum over the ranks, whose gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        total = gradients[0].clone()
        distributed.all_reduce(total)
        return total


class PooledBatchNorm3d(nn.BatchNorm3d):
    """Batch norm with the statistics of all ranks' patches, for CPUs; `nn.SyncBatchNorm` works only on GPUs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise `(N, C, D, H, W)`; a rank without patches, N = 0, must call this too."""
        # Without a momentum, statistics are re-estimated, by every rank alone from the same patches.
        if not self.training or self.momentum is None or self.running_mean is None or self.running_var is None:
            return super().forward(x)
        wide, axes = x.double(), (0, 2, 3, 4)
        voxels = wide.new_full((1,), x.numel() // x.shape[1])
        sums, squares, voxels = _AllReduceSum.apply(torch.cat([wide.sum(axes), wide.square().sum(axes), voxels])).split(
            [x.shape[1], x.shape[1], 1]
        )
        mean = sums / voxels
        variance = squares / voxels - mean.square()
        with torch.no_grad():
            unbiased = variance * voxels / (voxels - 1)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked += 1
        scale = self.weight * (variance + self.eps).rsqrt().to(x.dtype)
        shift = self.bias - mean.to(x.dtype) * scale
        return x * scale[:, None, None, None] + shift[:, None, None, None]


def pool_batch_norm(module: nn.Module, device: torch.device) -> None:
    """Make a module's batch norms, in place, use the statistics of all ranks; names, weights and buffers stay."""
    for name, child in module.named_children():
        if not isinstance(child, nn.BatchNorm3d):
            pool_batch_norm(child, device)
        elif device.type == "cuda":
            setattr(module, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
        else:
            pooled = PooledBatchNorm3d(child.num_features, child.eps, child.momentum)
            pooled.weight, pooled.bias = child.weight, child.bias
            pooled.running_mean, pooled.running_var = child.running_mean, child.running_var
            pooled.num_batches_tracked = child.num_batches_tracked
            setattr(module, name, pooled)
