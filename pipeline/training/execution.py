"""How a training step is computed, whatever it computes: precision, memory layout, compiling, processes, threads."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.model.layout import put_channels_together
from pipeline.runtime.distributed import ALONE, Ranks, pool_batch_norm
from pipeline.training.options import AUTO, BF16, FP32

COMPILER = "inductor"


@dataclass(frozen=True)
class Execution:
    """How steps are computed; by default in float32, eagerly, in one process.

    `compiler` is a backend of `torch.compile`, or empty; `workers` are threads that cut patches ahead.

    Raises:
        ValueError: compiling in several processes, whose batch norms wait for each other.
    """

    precision: str = FP32
    channels_last: bool = False
    compiler: str = ""
    workers: int = 0
    ranks: Ranks = ALONE

    def __post_init__(self) -> None:
        """Refuse options that exclude each other."""
        if self.compiler and self.ranks.size > 1:
            raise ValueError(f"--compile: expected one process, got {self.ranks.size}; leave --compile out")

    def __str__(self) -> str:
        """Name the precision, and everything that is not the default."""
        parts = [
            self.precision,
            "channels last" if self.channels_last else "",
            "compiled" if self.compiler else "",
            f"workers {self.workers}" if self.workers else "",
            f"processes {self.ranks.size}" if self.ranks.size > 1 else "",
        ]
        return ", ".join(part for part in parts if part)

    def check_batch(self, batch_size: int, what: str = "batch size") -> None:
        """Refuse a batch that the processes cannot share evenly.

        Raises:
            ValueError: its size is not a multiple of their number.
        """
        if batch_size % self.ranks.size:
            raise ValueError(
                f"{what}: expected a multiple of the {self.ranks.size} processes, got {batch_size}; "
                "change --nproc_per_node, or batch_size in a --config file"
            )


PLAIN = Execution()


def pick_precision(name: str, device: torch.device) -> str:
    """Return "bf16" or "fp32": for "auto" bf16 on GPUs that compute in it, else fp32; other names unchanged."""
    if name != AUTO:
        return name
    able = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return BF16 if able else FP32


class BatchForward:
    """A module's forward for a whole batch, as an `Execution` says; the module itself is not wrapped.

    Weights, gradients and the optimiser stay float32: bf16 comes from autocast, in the forward only.
    """

    def __init__(self, module: nn.Module, device: torch.device, execution: Execution, *, seed: int) -> None:
        """Prepare a module that is on `device`; `seed` seeds dropout if there are several processes."""
        if execution.channels_last or device.type == "cpu":
            put_channels_together(module)
        self._forward: Any = module
        if execution.compiler:
            self._forward = torch.compile(module, backend=execution.compiler)
        if execution.ranks.size > 1:
            pool_batch_norm(module, device)
            # Every rank has the same running statistics, so they need not be sent.
            self._forward = DistributedDataParallel(module, forward_sync_buffers=False)
        self._device, self._execution, self._seed = device, execution, seed

    def __call__(self, patches: torch.Tensor, *more: Any, step: int) -> Any:
        """Return what the module does for patches `(N, 1, D, H, W)` float32: a tensor `(N, ...)`, or a tuple of them.

        Args:
            patches: the whole batch; each process computes its share, and returns the whole.
            more: what else the module's forward takes.
            step: counts the phase's steps.
        """
        ranks = self._execution.ranks
        if ranks.size > 1:
            # Seeded at every step: ranks drop different channels, and a checkpoint need not hold their generators.
            torch.manual_seed(int(np.random.SeedSequence([self._seed, step, ranks.rank]).generate_state(1)[0]))
        share = patches[ranks.shard].to(self._device)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._execution.precision == BF16):
            outputs = self._forward(share, *more)
        if isinstance(outputs, tuple):
            return tuple(ranks.all_gather(output, len(patches)) for output in outputs)
        return ranks.all_gather(outputs, len(patches))
