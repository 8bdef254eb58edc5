"""The inference form against the network that it was made from: the same logits but for rounding, the same voxels."""

import pytest
import torch

from challenge.contract import STRUCTURES, VS
from pipeline.data.preprocessing import normalise
from pipeline.model.enet import ENet3d
from pipeline.model.inference_form import ConvolutionToSpace, InferenceForm, InferenceSegmenter, for_inference
from pipeline.model.shipped import shipped_sets
from pipeline.model.weights import Segmenter, load_segmenter
from pipeline.phantom import HARDNESS, HRT2, PRESETS, make_case

CPU = torch.device("cpu")


def random_network(seed: int = 0, seen: str = "volume") -> ENet3d:
    """A narrow network none of whose batch norms is the identity."""
    torch.manual_seed(seed)
    network = ENet3d(channels=(4, 8, 16) if seen == "volume" else (16, 16, 16), input=seen)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.normal_()
    return network.eval()


@pytest.fixture(scope="module")
def phantom_windows():
    """A window of 64^3 voxels in which both structures of a phantom lie."""
    scan, labels, _, _ = make_case(150, HRT2, PRESETS["small"], HARDNESS["standard"], 7)
    volume = torch.from_numpy(normalise(scan.astype("float32")))
    columns = torch.from_numpy(labels).nonzero().float().mean(dim=0).long()
    y, x = (int(max(0, centre - 32)) for centre in columns[1:])
    # Twice each slice: about the 0.5 mm that the networks know.
    window = torch.zeros(1, 1, 64, 64, 64)
    part = volume.repeat_interleave(2, dim=0)[:64, y : y + 64, x : x + 64]
    window[0, 0, : part.shape[0], : part.shape[1], : part.shape[2]] = part
    return window


@pytest.mark.parametrize("seen", ["volume", "mind", "mind-fine", "both"])
@torch.inference_mode()
def test_every_layer_is_rewritten_without_changing_the_logits(seen):
    network = random_network(seen=seen)
    form = InferenceForm(network)
    kinds = {type(module) for module in form.modules()}
    assert not kinds & {torch.nn.BatchNorm3d, torch.nn.Dropout3d, torch.nn.ConvTranspose3d}
    windows = torch.randn(2, 1, 16, 24, 32)
    logits = network(windows)
    expected = logits[:, 1] - logits[:, 0]
    torch.testing.assert_close(form(windows), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("bias", [True, False])
def test_transposed_convolution_as_a_convolution(bias):
    torch.manual_seed(0)
    transposed = torch.nn.ConvTranspose3d(3, 5, 3, stride=2, padding=1, output_padding=1, bias=bias)
    x = torch.randn(2, 3, 4, 5, 6)
    with torch.no_grad():
        torch.testing.assert_close(ConvolutionToSpace(transposed)(x), transposed(x))


def test_other_transposed_convolutions_and_other_classes_are_refused():
    with pytest.raises(ValueError, match="expected kernel 3, stride 2"):
        ConvolutionToSpace(torch.nn.ConvTranspose3d(3, 5, 2, stride=2))
    with pytest.raises(ValueError, match="expected a network of 2 classes, got 3"):
        InferenceForm(ENet3d(classes=3, channels=(4, 8, 16)))


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda s: s.key)
@pytest.mark.parametrize("name", list(shipped_sets()))
@torch.inference_mode()
def test_shipped_networks_decide_every_voxel_as_before(name, structure, phantom_windows):
    segmenter = load_segmenter(shipped_sets()[name], structure, CPU)
    logits = segmenter.network(phantom_windows)
    expected, got = logits[:, 1] - logits[:, 0], InferenceForm(segmenter.network)(phantom_windows)
    assert float((got - expected).abs().max()) < 1e-4 * float(expected.abs().max())
    assert int(((got > 0) != (expected > 0)).sum()) == 0


@torch.inference_mode()
def test_segmenter_gives_the_same_probability_and_leaves_the_network_alone():
    network = random_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    plain = Segmenter(VS, network, 16, CPU, card={"a": 1})
    form = for_inference(plain)
    assert isinstance(form, InferenceSegmenter)
    assert (form.structure, form.window, form.card) == (VS, 16, {"a": 1})
    windows = torch.randn(3, 1, 16, 16, 16)
    torch.testing.assert_close(form(windows), plain(windows), rtol=0, atol=1e-5)
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


def test_network_of_a_fixed_batch_gets_full_batches():
    """The last pass has fewer windows."""
    seen = []

    class Fixed(torch.nn.Module):
        def forward(self, windows):
            seen.append(len(windows))
            return windows[:, 0]

    segmenter = InferenceSegmenter(VS, Fixed(), 8, CPU, card={}, fixed_batch=4)
    assert segmenter.windows_per_pass == 4
    windows = torch.randn(3, 1, 8, 8, 8)
    torch.testing.assert_close(segmenter(windows.clone()), torch.sigmoid(windows[:, 0]))
    assert seen == [4]


def test_other_networks_stay_as_they_are():
    segmenter = Segmenter(VS, torch.nn.Identity(), 8, CPU, card={})
    assert for_inference(segmenter) is segmenter
