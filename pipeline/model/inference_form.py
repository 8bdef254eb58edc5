"""The network's inference form: the same function with fewer operations, for prediction only.

- Batch norm is folded into the convolutions, and dropout, which does nothing in eval mode, is gone.
- A transposed convolution is a convolution with the voxels of each 2 x 2 x 2 block as channels, which then move to
  their places: CPU libraries have no fast kernel for the transposed one.
- The two logits are one, their difference: the softmax over two channels is the sigmoid of it.

The values differ from the original's only by rounding.
"""

import copy
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import skip_init  # no weights are drawn: a training run counts on its generator
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.model.enet import ENet3d, Initial
from pipeline.model.weights import Segmenter

# Counts the changes of this form: an artefact that was compiled from another one is not used.
FORM_VERSION = 1


@dataclass(frozen=True)
class InferenceSegmenter(Segmenter):
    """A segmenter whose network returns one logit a voxel, `(N, D, H, W)` float32.

    `fixed_batch` is the only number of windows that a compiled network takes; None stands for any.
    """

    fixed_batch: int | None = None

    @property
    def windows_per_pass(self) -> int:
        """Return how many windows go through the network at once."""
        return self.fixed_batch or super().windows_per_pass

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        """Return the structure's probability `(N, D, H, W)` float32 for normalised windows `(N, 1, D, H, W)`."""
        missing = (self.fixed_batch or 0) - len(windows)
        if missing > 0:
            padded = functional.pad(windows, (0, 0, 0, 0, 0, 0, 0, 0, 0, missing))
            return torch.sigmoid_(self.network(padded)[: len(windows)])
        return torch.sigmoid_(self.network(windows).float())


def for_inference(segmenter: Segmenter) -> Segmenter:
    """Return a segmenter whose network has its inference form; any other network than an ENet of two classes stays."""
    network = segmenter.network
    if not isinstance(network, ENet3d) or network.classes != 2:
        return segmenter
    return InferenceSegmenter(**{**vars(segmenter), "network": InferenceForm(network)})


class InferenceForm(nn.Module):
    """An `ENet3d` of two classes for prediction: takes `(N, C, D, H, W)` float32, returns one logit `(N, D, H, W)`."""

    def __init__(self, network: ENet3d) -> None:
        """Copy a network, which stays as it is, in its inference form; on the network's device.

        Raises:
            ValueError: the network has other than two classes.
        """
        super().__init__()
        if network.classes != 2:
            raise ValueError(f"inference form: expected a network of 2 classes, got {network.classes}")
        folded = copy.deepcopy(network).eval().requires_grad_(False)
        last = folded.decoder.fullconv
        last.weight = nn.Parameter(last.weight[:, 1:] - last.weight[:, :1], requires_grad=False)
        _simplify(folded)
        self.encoder, self.decoder = folded.encoder, folded.decoder

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the structure's logit minus the background's, `(N, D, H, W)`, for patches `(N, C, D, H, W)`.

        Raises:
            ValueError: a side is not a positive multiple of 8.
        """
        return self.decoder(self.encoder(x))[:, 0]


def _simplify(module: nn.Module) -> None:
    """Fold batch norms, drop dropouts and replace transposed convolutions, in place and in all children."""
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential):
            child = _folded(child)
            setattr(module, name, child)
        elif isinstance(child, Initial):
            child = FoldedInitial(child)
            setattr(module, name, child)
        if isinstance(child, nn.ConvTranspose3d):
            setattr(module, name, ConvolutionToSpace(child))
        else:
            _simplify(child)


def _folded(layers: nn.Sequential) -> nn.Sequential:
    """Return a sequence without batch norms, each folded into the convolution before it, and without dropouts."""
    kept: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.BatchNorm3d):
            transposed = isinstance(kept[-1], nn.ConvTranspose3d)
            kept[-1] = fuse_conv_bn_eval(kept[-1], layer, transpose=transposed)  # type: ignore[type-var]
        elif not isinstance(layer, nn.Dropout3d):
            kept.append(layer)
    return nn.Sequential(*kept)


class FoldedInitial(nn.Module):
    """`Initial` without batch norm: it becomes part of the convolution, and a factor and summand of the pooled maps."""

    def __init__(self, initial: Initial) -> None:
        """Fold a block's batch norm."""
        super().__init__()
        norm, convolved = initial.norm, initial.conv.out_channels
        assert norm.running_mean is not None
        assert norm.running_var is not None
        factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        summand = norm.bias - norm.running_mean * factor
        conv = initial.conv
        self.conv = skip_init(nn.Conv3d, conv.in_channels, convolved, 3, stride=2, padding=1).requires_grad_(False)
        self.conv.weight.copy_(conv.weight * factor[:convolved, None, None, None, None])
        self.conv.bias.copy_(summand[:convolved])
        self.factor = nn.Buffer(factor[convolved:, None, None, None].clone())
        self.summand = nn.Buffer(summand[convolved:, None, None, None].clone())
        self.pooled, self.activation = initial.pooled, initial.activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `(N, in_channels, D, H, W)` to `(N, channels, D/2, H/2, W/2)`."""
        halved = self.conv(x)
        if self.pooled:
            pooled = functional.max_pool3d(x[:, : self.pooled], 2) * self.factor + self.summand
            halved = torch.cat([halved, pooled], dim=1)
        return self.activation(halved)


class ConvolutionToSpace(nn.Module):
    """A transposed convolution of kernel 3 and stride 2 that doubles the sides, as a convolution of kernel 2.

    Along one axis, with the input a, b, ... and the kernel k::

        outputs                  a k1,  a k2 + b k0,  b k1,  b k2 + c k0, ...
        as blocks of two         block i = inputs (i, i + 1) times the kernels (k1, 0) and (k2, k0)

    In three dimensions a block has 8 voxels, each with its own kernel of 2 x 2 x 2.
    """

    def __init__(self, transposed: nn.ConvTranspose3d) -> None:
        """Rewrite a transposed convolution.

        Raises:
            ValueError: it has another kernel, stride or padding.
        """
        super().__init__()
        form = (transposed.kernel_size, transposed.stride, transposed.padding, transposed.output_padding)
        if form != ((3,) * 3, (2,) * 3, (1,) * 3, (1,) * 3) or transposed.groups != 1:
            raise ValueError(f"transposed convolution: expected kernel 3, stride 2, padding 1 and 1, got {transposed}")
        inputs, self.outputs = transposed.weight.shape[:2]
        # taps[p, t, k]: whether voxel p of a block takes the input i + t with the kernel's element k
        taps = transposed.weight.new_zeros(2, 2, 3)
        taps[0, 0, 1] = taps[1, 0, 2] = taps[1, 1, 0] = 1
        weight = torch.einsum("iozyx,aKz,bLy,cMx->oabciKLM", transposed.weight, taps, taps, taps)
        self.conv = skip_init(nn.Conv3d, inputs, 8 * self.outputs, 2, bias=transposed.bias is not None).requires_grad_(
            False
        )
        self.conv.weight.copy_(weight.reshape(self.conv.weight.shape))
        if transposed.bias is not None and self.conv.bias is not None:
            self.conv.bias.copy_(transposed.bias.repeat_interleave(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `(N, C, D, H, W)` to `(N, outputs, 2D, 2H, 2W)`."""
        blocks = self.conv(functional.pad(x, (0, 1, 0, 1, 0, 1)))
        n, _, depth, height, width = blocks.shape
        blocks = blocks.reshape(n, self.outputs, 2, 2, 2, depth, height, width)
        return blocks.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(n, self.outputs, 2 * depth, 2 * height, 2 * width)
