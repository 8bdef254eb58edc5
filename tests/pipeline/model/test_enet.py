"""The network against Table 1 of ENet's paper, counted and measured by hand."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from pipeline.model.enet import Encoder, EncoderOutput, ENet3d
from pipeline.model.mind import mind_ssc

NARROW = (4, 8, 16)

# Parameters of each row, by hand: convolutions (no biases), batch norms (2 a channel), PReLUs (1 a channel).
#   initial           27*15 + 2*16 + 16
#   downsample1_0     8*16*16 + 3*16 + 27*16*16 + 3*16 + 16*64 + 2*64 + 64
#   regular1_x        64*16 + 3*16 + 27*16*16 + 3*16 + 16*64 + 2*64 + 64
#   downsample2_0     8*64*32 + 3*32 + 27*32*32 + 3*32 + 32*128 + 2*128 + 128
#   regular, dilated  128*32 + 3*32 + 27*32*32 + 3*32 + 32*128 + 2*128 + 128
#   asymmetric        128*32 + 3*32 + 3*(5*32*32 + 3*32) + 32*128 + 2*128 + 128
#   upsample4_0       128*64 + 2*64 + 128*16 + 2*16 + 27*16*16 + 2*16 + 16*64 + 2*64       (ReLU: no slopes)
#   regular4_x        64*16 + 2*16 + 27*16*16 + 2*16 + 16*64 + 2*64
#   upsample5_0       64*16 + 2*16 + 64*4 + 2*4 + 27*4*4 + 2*4 + 4*16 + 2*16
#   regular5_1        16*4 + 2*4 + 27*4*4 + 2*4 + 4*16 + 2*16
#   fullconv          27*16*2
ENCODER_ROWS = OrderedDict(
    initial=453,
    downsample1_0=10_272,
    regular1_1=9_248,
    regular1_2=9_248,
    regular1_3=9_248,
    regular1_4=9_248,
    downsample2_0=48_704,
    regular2_1=36_416,
    dilated2_2=36_416,
    asymmetric2_3=24_320,
    dilated2_4=36_416,
    regular2_5=36_416,
    dilated2_6=36_416,
    asymmetric2_7=24_320,
    dilated2_8=36_416,
    regular3_1=36_416,
    dilated3_2=36_416,
    asymmetric3_3=24_320,
    dilated3_4=36_416,
    regular3_5=36_416,
    dilated3_6=36_416,
    asymmetric3_7=24_320,
    dilated3_8=36_416,
)
DECODER_ROWS = OrderedDict(
    upsample4_0=18_496, regular4_1=9_152, regular4_2=9_152, upsample5_0=1_856, regular5_1=608, fullconv=864
)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def narrow(seed: int = 0) -> ENet3d:
    torch.manual_seed(seed)
    return ENet3d(channels=NARROW)


def test_rows_of_table_1_in_order_with_their_parameters() -> None:
    network = ENet3d()
    assert OrderedDict((name, parameters(m)) for name, m in network.encoder.named_children()) == ENCODER_ROWS
    assert OrderedDict((name, parameters(m)) for name, m in network.decoder.named_children()) == DECODER_ROWS
    assert parameters(network) == 670_821


def test_dilations_and_kernels_of_the_main_convolutions() -> None:
    encoder = ENet3d().encoder
    dilations = {
        name: max(m.dilation[0] for m in row.modules() if isinstance(m, nn.Conv3d))
        for name, row in encoder.named_children()
    }
    expected = {"dilated2_2": 2, "dilated2_4": 4, "dilated2_6": 8, "dilated2_8": 16}
    expected |= {name.replace("dilated2", "dilated3"): d for name, d in expected.items()}
    assert {name: d for name, d in dilations.items() if d != 1} == expected
    for row in (encoder.asymmetric2_3, encoder.asymmetric2_7, encoder.asymmetric3_3, encoder.asymmetric3_7):
        kernels = [m.kernel_size for m in row.modules() if isinstance(m, nn.Conv3d)]
        assert kernels == [(1, 1, 1), (5, 1, 1), (1, 5, 1), (1, 1, 5), (1, 1, 1)]


def test_dropout_is_a_hundredth_before_2_0_and_a_tenth_from_there() -> None:
    network = ENet3d()
    for part in (network.encoder, network.decoder):
        for name, row in part.named_children():
            found = [m.p for m in row.modules() if isinstance(m, nn.Dropout3d)]
            if name in ("initial", "fullconv"):
                assert found == []
            else:
                assert found == [0.01 if name.split("_")[0].endswith("1") else 0.1], name


def test_no_biases_and_the_decoder_has_relu() -> None:
    network = ENet3d()
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv3d | nn.ConvTranspose3d)]
    assert all(m.bias is None for m in convolutions)
    assert not any(isinstance(m, nn.ReLU) for m in network.encoder.modules())
    assert not any(isinstance(m, nn.PReLU) for m in network.decoder.modules())


@pytest.mark.parametrize("side", [64, 128])
def test_shape_after_every_stage(side: int) -> None:
    network = ENet3d().eval()
    shapes: dict[str, tuple[int, ...]] = {}
    stages = ["encoder.initial", "encoder.regular1_4", "encoder.dilated2_8", "encoder.dilated3_8"]
    stages += ["decoder.regular4_2", "decoder.regular5_1", "decoder.fullconv"]
    for name in stages:
        network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: shapes.__setitem__(name, tuple(output.shape))
        )
    with torch.inference_mode():
        network(torch.zeros(1, 1, side, side, side))
    expected = [(16, 2), (64, 4), (128, 8), (128, 8), (64, 4), (16, 2), (2, 1)]
    assert list(shapes.items()) == [
        (name, (1, channels, *[side // divisor] * 3))
        for name, (channels, divisor) in zip(stages, expected, strict=True)
    ]


@pytest.mark.parametrize("shape", [(8, 8, 8), (8, 24, 16), (40, 8, 32)])
def test_any_sides_divisible_by_8(shape: tuple[int, int, int]) -> None:
    network = narrow().eval()
    with torch.inference_mode():
        assert network(torch.randn(2, 1, *shape)).shape == (2, 2, *shape)


def test_other_sides_are_refused_with_the_padding_to_use() -> None:
    network = narrow()
    with pytest.raises(ValueError, match=r"got \(20, 64, 7\); pad them by \(4, 0, 1\) voxels"):
        network(torch.zeros(1, 1, 20, 64, 7))
    with pytest.raises(ValueError, match=r"expected 5 axes \(N, C, D, H, W\), got 3"):
        network.encoder(torch.zeros(16, 16, 16))


@pytest.mark.parametrize("channels", [(16, 64), (6, 8, 16), (16, 8, 32), (0, 4, 4)])
def test_impossible_channels_are_refused(channels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="channels: expected three multiples of 4"):
        ENet3d(channels=channels)


def test_in_channels_leave_room_for_the_initial_convolution() -> None:
    assert ENet3d(in_channels=3, channels=NARROW)(torch.zeros(2, 3, 16, 16, 16)).shape == (2, 2, 16, 16, 16)
    with pytest.raises(ValueError, match="in_channels: expected 1 to 3, got 4"):
        ENet3d(in_channels=4, channels=NARROW)


def test_encoder_and_decoder_stand_alone() -> None:
    network = narrow().eval()
    x = torch.randn(2, 1, 16, 24, 16)
    with torch.inference_mode():
        encoded = network.encoder(x)
        assert isinstance(encoded, EncoderOutput)
        assert encoded.features.shape == (2, 16, 2, 3, 2)
        assert encoded.indices1.shape == (2, 4, 4, 6, 4)
        assert encoded.indices2.shape == (2, 8, 2, 3, 2)
        assert torch.equal(network.decoder(encoded), network(x))


def test_unpooling_puts_values_back_where_pooling_found_them() -> None:
    network = narrow().eval()
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.inference_mode():
        pooled_from = network.encoder.initial(x)
        _, indices = network.encoder.downsample1_0(pooled_from)
        unpooled = nn.functional.max_unpool3d(torch.ones(1, 4, 4, 4, 4), indices, 2)
    # Each 2x2x2 block of each channel holds a single 1, at its maximum.
    blocks = pooled_from.unfold(2, 2, 2).unfold(3, 2, 2).unfold(4, 2, 2).flatten(-3)
    ones = unpooled.unfold(2, 2, 2).unfold(3, 2, 2).unfold(4, 2, 2).flatten(-3)
    assert torch.equal(ones.sum(-1), torch.ones(1, 4, 4, 4, 4))
    assert torch.equal((ones * blocks).sum(-1), blocks.amax(-1))


def test_zero_padding_of_the_pooled_maps() -> None:
    row = narrow().encoder.downsample1_0.eval()
    x = torch.rand(1, 4, 8, 8, 8) + 1
    with torch.inference_mode():
        row.branch[-2].weight.zero_()  # silences the branch: batch norm gives its bias, 0
        output, _ = row(x)
    assert torch.equal(output[:, :4], nn.functional.max_pool3d(x, 2))
    assert torch.equal(output[:, 4:], torch.zeros(1, 4, 4, 4, 4))


def test_the_gradient_reaches_every_parameter() -> None:
    network = narrow().train()
    network(torch.randn(2, 1, 32, 32, 32)).pow(2).mean().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_training_drops_feature_maps_and_evaluation_does_not() -> None:
    network = narrow()
    x = torch.randn(2, 1, 16, 16, 16)
    with torch.no_grad():
        network.train()
        assert not torch.equal(network(x), network(x))
        network.eval()
        assert torch.equal(network(x), network(x))


def test_a_patch_is_predicted_alone_as_in_a_batch() -> None:
    network = narrow().eval()
    x = torch.randn(3, 1, 16, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(network(x)[1:2], network(x[1:2]), rtol=1e-4, atol=1e-5)


def test_config_and_state_rebuild_the_network_strictly() -> None:
    network = narrow(seed=1).eval()
    rebuilt = ENet3d(**network.config())
    rebuilt.load_state_dict(network.state_dict(), strict=True)
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.inference_mode():
        assert torch.equal(rebuilt.eval()(x), network(x))
    with pytest.raises(RuntimeError, match="size mismatch"):
        ENet3d().load_state_dict(network.state_dict(), strict=True)


def test_the_encoder_alone_is_a_module_of_its_own() -> None:
    assert Encoder(1, NARROW)(torch.zeros(2, 1, 16, 16, 16)).features.shape == (2, 16, 2, 2, 2)


@pytest.mark.parametrize(
    ("input", "seen", "pooled", "dilation"), [("mind", 12, 0, 2), ("mind-fine", 12, 0, 1), ("both", 13, 1, 2)]
)
def test_descriptors_beside_or_instead_of_the_voxels(input: str, seen: int, pooled: int, dilation: int) -> None:
    torch.manual_seed(0)
    network = ENet3d(channels=NARROW, input=input).eval()
    x = torch.randn(2, 1, 16, 24, 16)
    shown: list[torch.Tensor] = []
    network.encoder.initial.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    assert network(x).shape == (2, 2, 16, 24, 16)
    assert shown[0].shape == (2, seen, 16, 24, 16)
    assert torch.equal(shown[0][:, -12:], mind_ssc(x, dilation=dilation))
    assert torch.equal(shown[0][:, :-12], x[:, :pooled])  # the voxels come first, and are pooled beside the convolution
    assert network.encoder.initial.conv.weight.shape == (NARROW[0] - pooled, seen, 3, 3, 3)
    # Descriptors alone do not see a linear map of the contrast.
    unchanged = torch.allclose(network(x), network(3 - 2 * x), atol=1e-3)
    assert unchanged is (input != "both")


def test_the_paper_s_input_is_not_named_and_others_are() -> None:
    assert ENet3d(channels=NARROW).config() == {"in_channels": 1, "classes": 2, "channels": list(NARROW)}
    assert ENet3d(channels=NARROW, input="both").config()["input"] == "both"
    assert ENet3d(**ENet3d(channels=NARROW, input="mind").config()).input == "mind"
    with pytest.raises(
        ValueError, match="input: expected volume, or for patches of 1 channel mind or mind-fine or both, got vox"
    ):
        ENet3d(channels=NARROW, input="voxels")
    with pytest.raises(ValueError, match="got mind for 2"):
        ENet3d(in_channels=2, channels=NARROW, input="mind")
