"""Memory layout: channels together or apart, in the forward and in the backward pass. The values stay what they are.

A CPU convolves and normalises channels that lie together (`channels_last_3d`) up to twice as fast. But an operation
whose operands, or whose input and gradient, have different layouts falls back to a slow kernel, and operations such as
max-unpooling only know one layout. Hence the changes of layout are explicit here, and undone in the backward pass.
"""

from typing import Any

import torch
from torch import nn

_TOGETHER, _APART = torch.channels_last_3d, torch.contiguous_format


class _InLayout(torch.autograd.Function):
    """The identity; the output has one layout, the input's gradient another."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layout: torch.memory_format) -> torch.Tensor:
        ctx.before = layout_of(x)
        return x.contiguous(memory_format=layout)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0].contiguous(memory_format=ctx.before), None


def channels_are_together(x: torch.Tensor) -> bool:
    """Tell whether the channels of a tensor `(N, C, D, H, W)` lie together, and not apart."""
    return x.is_contiguous(memory_format=_TOGETHER) and not x.is_contiguous()


def layout_of(x: torch.Tensor) -> torch.memory_format:
    """Return the memory layout of a tensor `(N, C, D, H, W)`; of one with a single channel or voxel, the usual one."""
    return _TOGETHER if channels_are_together(x) else _APART


def in_layout_of(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return `x` `(N, C, D, H, W)` in the memory layout of `other`, with the gradient in its own.

    A compiler chooses layouts itself, so this and the functions below do nothing when one is at work.
    """
    layout = layout_of(other)
    return x if torch.compiler.is_compiling() or layout == layout_of(x) else _InLayout.apply(x, layout)


def apart(x: torch.Tensor) -> torch.Tensor:
    """Return `x` `(N, C, D, H, W)` with each channel's voxels together, with the gradient in its own layout."""
    return x if torch.compiler.is_compiling() or not channels_are_together(x) else _InLayout.apply(x, _APART)


def gradient_in_own_layout(x: torch.Tensor) -> torch.Tensor:
    """Return `x` `(N, C, D, H, W)`, with the gradient in its layout, whatever operations follow."""
    return x if torch.compiler.is_compiling() or not channels_are_together(x) else _InLayout.apply(x, _TOGETHER)


def put_channels_together(module: nn.Module) -> None:
    """Change the layout of a module's convolutions of several channels, in place."""
    for parameter in module.parameters():
        if parameter.ndim == 5 and parameter.shape[1] > 1:
            parameter.data = parameter.data.contiguous(memory_format=_TOGETHER)
