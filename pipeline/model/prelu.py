"""PReLU with a faster backward pass on a CPU, where torch's is not vectorised."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional


class _PReLU(torch.autograd.Function):
    """One slope a channel: `x` where it is positive, and `slope * x` elsewhere."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, slopes)
        return functional.prelu(x, slopes)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, slopes = ctx.saved_tensors
        gradient = gradients[0]
        where_positive = torch.ops.aten.threshold_backward(gradient, x, 0)
        elsewhere = gradient - where_positive
        of_x = torch.addcmul(where_positive, elsewhere, slopes.view(-1, *[1] * (x.ndim - 2)))
        return of_x, elsewhere.mul_(x).sum(dim=[axis for axis in range(x.ndim) if axis != 1])


class PReLU(nn.PReLU):
    """`torch.nn.PReLU` for `(N, C, ...)` with one slope a channel; same parameters, same values."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map a tensor to the same shape."""
        slow = torch.is_grad_enabled() and x.device.type == "cpu" and x.dtype == self.weight.dtype
        if slow and not torch.compiler.is_compiling():
            return _PReLU.apply(x, self.weight)
        return super().forward(x)
