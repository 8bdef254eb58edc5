"""ENet in three dimensions: an encoder and a decoder, with one attribute for each row of ENet's Table 1.

Source: Paszke et al., "ENet: A Deep Neural Network Architecture for Real-Time Semantic Segmentation", arXiv 1606.02147,
Table 1 and Section 4; "3D version of ENet" is Kondo 2021, Section 3.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from pipeline.config import BOTH_INPUTS, FINE_MIND_INPUT, INPUTS, MIND_INPUT, SIDE_MULTIPLE, VOLUME_INPUT
from pipeline.model.convolutions import DilatedConv3d, FirstAxisConv3d, PointwiseConv3d
from pipeline.model.layout import apart, in_layout_of
from pipeline.model.mind import CHANNELS as MIND_CHANNELS
from pipeline.model.mind import mind_ssc
from pipeline.model.prelu import PReLU

# ENet, Sections 3 and 4: spatial dropout with p = 0.01 before bottleneck 2.0, and 0.1 afterwards
_EARLY_DROPOUT = 0.01
_LATE_DROPOUT = 0.1
# How many voxels the descriptors of an input reach.
_DILATIONS = {MIND_INPUT: 2, FINE_MIND_INPUT: 1, BOTH_INPUTS: 2}


class EncoderOutput(NamedTuple):
    """What the decoder needs: the features `(N, 128, D/8, H/8, W/8)`, and the positions of the poolings' maxima.

    `indices1` `(N, 16, D/4, H/4, W/4)` belong to downsample1_0 and `indices2` `(N, 64, D/8, H/8, W/8)` to
    downsample2_0, int64. Unpooling doubles the sides exactly, because they are multiples of 8. `early_features`
    `(N, 64, D/4, H/4, W/4)` are stage 1's output, another feature layer that can be adapted.
    """

    features: torch.Tensor
    indices1: torch.Tensor
    indices2: torch.Tensor
    early_features: torch.Tensor


def _conv(inputs: int, outputs: int, kernel: int | tuple[int, int, int], *, dilation: int = 1) -> nn.Conv3d:
    """Make a convolution that keeps the sides, without bias (ENet, Section 4)."""
    sides = (kernel, kernel, kernel) if isinstance(kernel, int) else kernel
    z, y, x = (dilation * (side - 1) // 2 for side in sides)
    layer: type[nn.Conv3d] = DilatedConv3d if dilation > 1 else nn.Conv3d
    if sides[1:] == (1, 1):
        layer = PointwiseConv3d if sides[0] == 1 else FirstAxisConv3d
    return layer(inputs, outputs, sides, padding=(z, y, x), dilation=dilation, bias=False)


def _activation(channels: int, *, decoder: bool = False) -> nn.Module:
    """Make a PReLU with one slope per feature map, or in the decoder a ReLU.

    Our choice: the paper's text names PReLU and leaves the decoder open; its authors' code has ReLU there.
    """
    return nn.ReLU() if decoder else PReLU(channels)


def _normalised(conv: nn.Module, channels: int, *, decoder: bool = False) -> list[nn.Module]:
    """Append batch norm and non-linearity to a convolution, as ENet does "between all convolutions"."""
    return [conv, nn.BatchNorm3d(channels), _activation(channels, decoder=decoder)]


def _branch(
    projection: nn.Module, main: list[nn.Module], internal: int, outputs: int, dropout: float, *, decoder: bool = False
) -> nn.Sequential:
    """Assemble a bottleneck's convolutional branch: projection, main convolution, 1x1x1 expansion, regulariser."""
    return nn.Sequential(
        *_normalised(projection, internal, decoder=decoder),
        *main,
        _conv(internal, outputs, 1),
        nn.BatchNorm3d(outputs),
        nn.Dropout3d(dropout),
    )


class Initial(nn.Module):
    """ENet's Fig. 2a: a stride-2 convolution beside max-pooling, concatenated; the sides are halved."""

    def __init__(self, in_channels: int, channels: int, pooled: int) -> None:
        """Make the block; the first `pooled` inputs are max-pooled, and the convolution gives the other channels."""
        super().__init__()
        self.pooled = pooled
        self.conv = nn.Conv3d(in_channels, channels - pooled, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm3d(channels)
        self.activation = _activation(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `(N, in_channels, D, H, W)` to `(N, channels, D/2, H/2, W/2)`."""
        halved = self.conv(x)
        if self.pooled:
            halved = torch.cat([halved, functional.max_pool3d(x[:, : self.pooled], 2)], dim=1)
        return self.activation(self.norm(halved))


class Bottleneck(nn.Module):
    """ENet's Fig. 2b that keeps its input's shape: regular, dilated or asymmetric."""

    def __init__(
        self, channels: int, *, dropout: float, dilation: int = 1, asymmetric: int = 0, decoder: bool = False
    ) -> None:
        """Make the block; `asymmetric` is the length of the three one-axis kernels, 0 for one 3x3x3 kernel."""
        super().__init__()
        internal = channels // 4
        if asymmetric:
            # The paper's 5x1 and 1x5 with one more axis; batch norm and PReLU as "between all convolutions".
            kernels = [(asymmetric, 1, 1), (1, asymmetric, 1), (1, 1, asymmetric)]
            main = [layer for k in kernels for layer in _normalised(_conv(internal, internal, k), internal)]
        else:
            main = _normalised(_conv(internal, internal, 3, dilation=dilation), internal, decoder=decoder)
        self.branch = _branch(_conv(channels, internal, 1), main, internal, channels, dropout, decoder=decoder)
        self.activation = _activation(channels, decoder=decoder)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `(N, channels, D, H, W)` to the same shape."""
        return self.activation(x + self.branch(x))


class Downsampling(nn.Module):
    """ENet's Fig. 2b that halves the sides: max-pooling beside a branch with a 2x2x2 stride-2 projection."""

    def __init__(self, in_channels: int, channels: int, *, dropout: float) -> None:
        """Make the block; `channels` is at least `in_channels`, and zeros pad the pooled maps to it."""
        super().__init__()
        # A quarter of the output's channels, as in the authors' code: a quarter of 16 would choke stage 1.
        internal = channels // 4
        projection = nn.Conv3d(in_channels, internal, 2, stride=2, bias=False)
        main = _normalised(_conv(internal, internal, 3), internal)
        self.branch = _branch(projection, main, internal, channels, dropout)
        self.activation = _activation(channels)
        self.padding = channels - in_channels

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map `(N, in_channels, D, H, W)` to `(N, channels, D/2, H/2, W/2)` and the pooling's int64 indices."""
        # Pooling and unpooling run in float32 even under autocast: rounding would make different maxima equal.
        pooled, indices = functional.max_pool3d_with_indices(x.float(), (2, 2, 2))
        padded = functional.pad(pooled, (0, 0, 0, 0, 0, 0, 0, self.padding))
        return self.activation(padded + self.branch(x)), indices


class Upsampling(nn.Module):
    """ENet's Fig. 2b that doubles the sides: 1x1x1 convolution and max-unpooling beside a transposed convolution."""

    def __init__(self, in_channels: int, channels: int, *, dropout: float) -> None:
        """Make the block; `channels` is the number of input channels of the pooling that gave the indices."""
        super().__init__()
        internal = channels // 4
        self.main = nn.Sequential(_conv(in_channels, channels, 1), nn.BatchNorm3d(channels))
        transposed = nn.ConvTranspose3d(internal, internal, 3, stride=2, padding=1, output_padding=1, bias=False)
        upsampled = _normalised(transposed, internal, decoder=True)
        self.branch = _branch(_conv(in_channels, internal, 1), upsampled, internal, channels, dropout, decoder=True)
        self.activation = _activation(channels, decoder=True)

    def forward(self, x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Map `(N, in_channels, D, H, W)` to `(N, channels, 2D, 2H, 2W)`; `indices` are `(N, channels, D, H, W)`."""
        unpooled = functional.max_unpool3d(apart(self.main(x).float()), indices, (2, 2, 2))
        branch = self.branch(x)
        return self.activation(in_layout_of(unpooled, branch) + branch)


class Encoder(nn.Module):
    """ENet's rows initial to 3.8: what Kondo's Section 2 calls "the encoder part of the segmentation network"."""

    def __init__(self, in_channels: int, channels: tuple[int, int, int], input: str = VOLUME_INPUT) -> None:
        """Make the encoder; `channels` are the widths after initial, in stage 1, and in stages 2 and 3.

        `input` is as in `ENet3d`.
        """
        super().__init__()
        first, second, third = channels
        early, late = _EARLY_DROPOUT, _LATE_DROPOUT
        self.input = input
        # Only the scan is pooled: twelve pooled descriptors would leave the convolution 4 of 16 feature maps.
        seen, pooled = {
            VOLUME_INPUT: (in_channels, in_channels),
            MIND_INPUT: (MIND_CHANNELS, 0),
            FINE_MIND_INPUT: (MIND_CHANNELS, 0),
            BOTH_INPUTS: (1 + MIND_CHANNELS, 1),
        }[input]
        self.initial = Initial(seen, first, pooled)
        self.downsample1_0 = Downsampling(first, second, dropout=early)
        self.regular1_1 = Bottleneck(second, dropout=early)
        self.regular1_2 = Bottleneck(second, dropout=early)
        self.regular1_3 = Bottleneck(second, dropout=early)
        self.regular1_4 = Bottleneck(second, dropout=early)
        self.downsample2_0 = Downsampling(second, third, dropout=late)
        self.regular2_1 = Bottleneck(third, dropout=late)
        self.dilated2_2 = Bottleneck(third, dropout=late, dilation=2)
        self.asymmetric2_3 = Bottleneck(third, dropout=late, asymmetric=5)
        self.dilated2_4 = Bottleneck(third, dropout=late, dilation=4)
        self.regular2_5 = Bottleneck(third, dropout=late)
        self.dilated2_6 = Bottleneck(third, dropout=late, dilation=8)
        self.asymmetric2_7 = Bottleneck(third, dropout=late, asymmetric=5)
        self.dilated2_8 = Bottleneck(third, dropout=late, dilation=16)
        # "Repeat section 2, without bottleneck2.0"
        self.regular3_1 = Bottleneck(third, dropout=late)
        self.dilated3_2 = Bottleneck(third, dropout=late, dilation=2)
        self.asymmetric3_3 = Bottleneck(third, dropout=late, asymmetric=5)
        self.dilated3_4 = Bottleneck(third, dropout=late, dilation=4)
        self.regular3_5 = Bottleneck(third, dropout=late)
        self.dilated3_6 = Bottleneck(third, dropout=late, dilation=8)
        self.asymmetric3_7 = Bottleneck(third, dropout=late, asymmetric=5)
        self.dilated3_8 = Bottleneck(third, dropout=late, dilation=16)

    def forward(self, x: torch.Tensor) -> EncoderOutput:
        """Encode patches `(N, in_channels, D, H, W)` float32 whose sides are multiples of 8.

        Raises:
            ValueError: a side is not a positive multiple of 8.
        """
        _check_sides(x)
        # Patches of one channel have no layout: it begins with the first convolution of several.
        x = self.initial(in_layout_of(represented(x, self.input), self.initial.conv.weight))
        x = in_layout_of(x, self.downsample1_0.branch[0].get_parameter("weight"))
        x, indices1 = self.downsample1_0(x)
        x = self.regular1_4(self.regular1_3(self.regular1_2(self.regular1_1(x))))
        early = x
        x, indices2 = self.downsample2_0(x)
        x = self.dilated2_4(self.asymmetric2_3(self.dilated2_2(self.regular2_1(x))))
        x = self.dilated2_8(self.asymmetric2_7(self.dilated2_6(self.regular2_5(x))))
        x = self.dilated3_4(self.asymmetric3_3(self.dilated3_2(self.regular3_1(x))))
        x = self.dilated3_8(self.asymmetric3_7(self.dilated3_6(self.regular3_5(x))))
        return EncoderOutput(x, indices1, indices2, early)


class Decoder(nn.Module):
    """ENet's rows 4.0 to fullconv."""

    def __init__(self, channels: tuple[int, int, int], classes: int) -> None:
        """Make the decoder for an encoder with the same `channels`."""
        super().__init__()
        first, second, third = channels
        late = _LATE_DROPOUT
        self.upsample4_0 = Upsampling(third, second, dropout=late)
        self.regular4_1 = Bottleneck(second, dropout=late, decoder=True)
        self.regular4_2 = Bottleneck(second, dropout=late, decoder=True)
        self.upsample5_0 = Upsampling(second, first, dropout=late)
        self.regular5_1 = Bottleneck(first, dropout=late, decoder=True)
        # "a bare full convolution as the last module". The paper gives no kernel. We take 3, as in 4.0 and 5.0: with
        # the 2 of the authors' code, neighbouring blocks of 2x2x2 voxels would share no weights, and seams would show.
        self.fullconv = nn.ConvTranspose3d(first, classes, 3, stride=2, padding=1, output_padding=1, bias=False)

    def forward(self, encoded: EncoderOutput) -> torch.Tensor:
        """Return logits `(N, classes, D, H, W)`; D, H and W are the sides of the encoder's input."""
        x = self.upsample4_0(encoded.features, encoded.indices2)
        x = self.regular4_2(self.regular4_1(x))
        x = self.upsample5_0(x, encoded.indices1)
        return self.fullconv(self.regular5_1(x))


class ENet3d(nn.Module):
    """Segment cubic patches: takes `(N, 1, D, H, W)` float32, returns logits `(N, 2, D, H, W)`.

    670,821 parameters at the paper's width. Shapes after each stage, channels x side^3::

        stage                        rows                     64^3        128^3
        initial                      initial                  16 x 32     16 x 64
        1  encoder                   downsample1_0 .. 1_4     64 x 16     64 x 32
        2  encoder                   downsample2_0 .. 2_8    128 x  8    128 x 16
        3  encoder                   regular3_1 .. 3_8       128 x  8    128 x 16
        4  decoder                   upsample4_0 .. 4_2       64 x 16     64 x 32
        5  decoder                   upsample5_0 .. 5_1       16 x 32     16 x 64
        full convolution             fullconv                  2 x 64      2 x 128

    On a 64^3 patch, the rows of dilation 8 and 16 reach past the 8^3 features: dilation 16 sees only its centre tap.

    Source: arXiv 1606.02147, Table 1, each kernel one axis longer.
    """

    def __init__(
        self,
        in_channels: int = 1,
        classes: int = 2,
        channels: Sequence[int] = (16, 64, 128),
        input: str = VOLUME_INPUT,
    ) -> None:
        """Make the network.

        Args:
            in_channels: channels of the patches.
            classes: channels of the logits.
            channels: widths after the initial block, in stages 1 and 4, and in stages 2 and 3. The default is the
                paper's; tests use narrower networks. Multiples of 4, not falling, the first above `in_channels`.
            input: what the initial block sees, one of `pipeline.config.INPUTS`: the patch, as in the paper, MIND-SSC
                descriptors of it, or both. The patches given have one channel all the same.

        Raises:
            ValueError: channels that break those rules, or an unknown input.
        """
        super().__init__()
        if len(channels) != 3 or any(c < 4 or c % 4 for c in channels) or not channels[0] <= channels[1] <= channels[2]:
            raise ValueError(f"channels: expected three multiples of 4, not falling, got {tuple(channels)}")
        if not 1 <= in_channels < channels[0]:
            raise ValueError(f"in_channels: expected 1 to {channels[0] - 1}, got {in_channels}; widen `channels`")
        if input not in INPUTS or (input != VOLUME_INPUT and in_channels != 1):
            raise ValueError(
                f"input: expected {VOLUME_INPUT}, or for patches of 1 channel {' or '.join(INPUTS[1:])}, "
                f"got {input} for {in_channels}"
            )
        first, second, third = channels
        self.in_channels = in_channels
        self.classes = classes
        self.channels = (first, second, third)
        self.input = input
        self.encoder = Encoder(in_channels, self.channels, input)
        self.decoder = Decoder(self.channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits `(N, classes, D, H, W)` for patches `(N, in_channels, D, H, W)`, float32.

        Raises:
            ValueError: a side is not a positive multiple of 8.
        """
        return self.decoder(self.encoder(x))

    def config(self) -> dict[str, Any]:
        """Return the arguments that rebuild this network, as JSON can hold them; the paper's input is not named."""
        config = {"in_channels": self.in_channels, "classes": self.classes, "channels": list(self.channels)}
        return config if self.input == VOLUME_INPUT else {**config, "input": self.input}


def represented(patches: torch.Tensor, input: str) -> torch.Tensor:
    """Return what a network with this `input` sees of patches `(N, C, D, H, W)`: float32, 1, 12 or 13 channels.

    Source: MIND-SSC, Heinrich et al. 2013; beyond the paper.
    """
    if input == VOLUME_INPUT:
        return patches
    with torch.autocast(patches.device.type, enabled=False):
        described = mind_ssc(patches.float(), dilation=_DILATIONS[input])
        return torch.cat([patches.float(), described], dim=1) if input == BOTH_INPUTS else described


def _check_sides(x: torch.Tensor) -> None:
    if x.ndim != 5:
        raise ValueError(f"patches: expected 5 axes (N, C, D, H, W), got {x.ndim}; add the batch and channel axes")
    sides = tuple(x.shape[2:])
    if any(side < 1 or side % SIDE_MULTIPLE for side in sides):
        missing = tuple(max(SIDE_MULTIPLE - side, -side % SIDE_MULTIPLE) for side in sides)
        raise ValueError(
            f"patches: expected sides (D, H, W) that are multiples of {SIDE_MULTIPLE}, got {sides}; "
            f"pad them by {missing} voxels"
        )
