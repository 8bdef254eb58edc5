"""Convolutions that compute less, or by a faster kernel, than torch's; parameters and values are the same."""

import torch
from torch import nn
from torch.nn import functional

from pipeline.model.layout import apart, channels_are_together, in_layout_of


def _moves_channels_apart(x: torch.Tensor) -> bool:
    """Tell whether torch would convolve features with a kernel that is thin in its last two axes by its slow path.

    It does so in one thread, and the result has its channels apart, which slows down all that follows.
    """
    if torch.compiler.is_compiling():
        return False
    return channels_are_together(x) and x.device.type == "cpu" and torch.get_num_threads() == 1


def _pointwise(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Convolve with a kernel of 1x1x1; where torch's would be slow, as a product of matrices."""
    if not _moves_channels_apart(x):
        return functional.conv3d(x, weight, bias)
    return functional.linear(x.movedim(1, -1), weight.flatten(1), bias).movedim(-1, 1)


class PointwiseConv3d(nn.Conv3d):
    """A 1x1x1 convolution without padding; in one thread, where channels lie together, it is a product of matrices."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `(N, C, D, H, W)` to the same sides."""
        return _pointwise(x, self.weight, self.bias)


class FirstAxisConv3d(nn.Conv3d):
    """A kernel along the first axis; what one thread moves apart is put together again, gradients too."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `(N, C, D, H, W)` to the same sides."""
        if not _moves_channels_apart(x):
            return super().forward(x)
        return in_layout_of(super().forward(apart(x)), x)


class DilatedConv3d(nn.Conv3d):
    """A 3x3x3 convolution that computes its centre tap alone where all others reach past the sides, into zeros."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `(N, C, D, H, W)` to the same sides."""
        if all(side <= reach for side, reach in zip(x.shape[2:], self.dilation, strict=True)):
            return _pointwise(x, self.weight[:, :, 1:2, 1:2, 1:2], self.bias)
        return super().forward(x)
