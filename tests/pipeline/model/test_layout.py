"""Channels together or apart in memory, and PReLU's own backward pass: other kernels, the same values and gradients."""

import copy

import pytest
import torch
from torch import nn

from pipeline.model.convolutions import DilatedConv3d
from pipeline.model.enet import ENet3d
from pipeline.model.layout import (
    apart,
    channels_are_together,
    gradient_in_own_layout,
    in_layout_of,
    put_channels_together,
)
from pipeline.model.losses import supervised_loss
from pipeline.model.prelu import PReLU

TOGETHER = torch.channels_last_3d
SHAPE = (2, 3, 4, 4, 4)


def randn(shape=SHAPE, layout=torch.contiguous_format, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).contiguous(memory_format=layout)


@pytest.mark.parametrize("layout", [torch.contiguous_format, TOGETHER])
def test_prelu_is_torch_s_in_values_and_gradients(layout):
    x = randn(layout=layout)
    x[0, 0, 0, 0, 0] = 0
    ours, theirs = PReLU(3), nn.PReLU(3)
    theirs.weight.data = ours.weight.data = torch.tensor([0.25, -0.5, 2.0])
    results = []
    for layer in (ours, theirs):
        x.grad, _ = None, x.requires_grad_()
        y = layer(x)
        y.backward(randn(layout=layout, seed=1))
        results.append((y, x.grad, layer.weight.grad))
    assert channels_are_together(results[0][1]) == (layout == TOGETHER)
    for own, torch_s in zip(*results, strict=True):
        torch.testing.assert_close(own, torch_s)


def test_a_change_of_layout_is_undone_in_the_gradient():
    x = randn(layout=TOGETHER).requires_grad_()
    y = apart(x)
    assert y.is_contiguous()
    assert torch.equal(y, x)
    y.backward(randn(seed=1))
    assert channels_are_together(x.grad)
    assert torch.equal(x.grad, randn(seed=1))
    z = randn().requires_grad_()
    assert in_layout_of(z, z) is z
    in_layout_of(z, x).backward(randn(layout=TOGETHER, seed=1))
    assert z.grad.is_contiguous()
    x.grad = None
    gradient_in_own_layout(x).backward(randn(seed=1))
    assert channels_are_together(x.grad)


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def networks():
    """The same network with channels apart and together."""
    torch.manual_seed(0)
    plain = ENet3d(channels=(8, 8, 16))  # a bottleneck of one channel would have no layout
    together = copy.deepcopy(plain)
    put_channels_together(together)
    return plain, together


@pytest.mark.usefixtures("threads")
def test_an_enet_with_channels_together_computes_the_same():
    """In float64: so few voxels make batch norms magnify the rounding of float32."""
    x, mask, losses = randn((2, 1, 16, 16, 16)).double(), randn((2, 16, 16, 16)) > 1, []
    plain, together = (network.double() for network in networks())
    for network in (plain, together):
        torch.manual_seed(1)  # dropout
        losses.append(supervised_loss(network(x), mask).total)
        losses[-1].backward()
    torch.testing.assert_close(*losses)
    for ours, theirs in zip(together.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-9)


@pytest.mark.usefixtures("threads")
def test_features_and_gradients_have_one_layout():
    """Others would be right as well, and slow."""
    _, network = networks()
    seen = {}

    def note(name):
        return lambda _, inputs, outputs: seen.update({name: [channels_are_together(t) for t in (*inputs, *outputs)]})

    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm3d) and name != "encoder.initial.norm":
            module.register_full_backward_hook(note(f"backward {name}"))
            module.register_forward_hook(lambda m, i, o, name=name: note(name)(m, i, (o,)))
    supervised_loss(network(randn((2, 1, 32, 32, 32))), randn((2, 32, 32, 32)) > 1).total.backward()
    assert len(seen) == 2 * 91
    assert [name for name, layouts in seen.items() if not all(layouts)] == []


@pytest.mark.parametrize("side", [8, 9])
def test_a_dilated_convolution_is_its_centre_tap_where_the_others_meet_zeros_alone(side):
    ours = DilatedConv3d(3, 2, 3, padding=8, dilation=8, bias=False)
    theirs = nn.Conv3d(3, 2, 3, padding=8, dilation=8, bias=False)
    theirs.load_state_dict(ours.state_dict())
    x = randn((1, 3, side, side, side))
    results = []
    for layer in (ours, theirs):
        y = layer(x)
        y.square().sum().backward()
        results.append((y, layer.weight.grad))
    for own, torch_s in zip(*results, strict=True):
        torch.testing.assert_close(own, torch_s)
    assert bool(ours.weight.grad[:, :, 0].any()) == (side == 9)
