import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference

from pipeline.inference.sliding_window import predict_volume


def identity(windows):
    return windows[:, 0]


@pytest.mark.parametrize("weighting", ["gaussian", "constant"])
@pytest.mark.parametrize("shape", [(16, 16, 16), (1, 1, 1), (5, 40, 17), (33, 16, 31), (50, 7, 7), (17, 17, 17)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
def test_identity_predictor_returns_the_volume_exactly(shape, overlap, weighting):
    volume = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    predicted = predict_volume(volume, identity, 16, overlap=overlap, weighting=weighting, windows_per_pass=3)
    np.testing.assert_array_equal(predicted, volume)
    assert predicted.dtype == np.float32


@pytest.mark.parametrize("weighting", ["gaussian", "constant"])
@pytest.mark.parametrize(
    ("shape", "overlap"), [((20, 37, 25), 0.25), ((20, 37, 25), 0.5), ((16, 16, 16), 0.5), ((9, 40, 15), 0.6)]
)
def test_same_values_as_monai(shape, overlap, weighting):
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv3d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(4, 1, 3, padding=1)
    )
    volume = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    ours = predict_volume(
        volume, lambda x: network(x)[:, 0], 16, overlap=overlap, weighting=weighting, windows_per_pass=2
    )
    with torch.inference_mode():
        theirs = sliding_window_inference(
            torch.from_numpy(volume)[None, None], (16, 16, 16), 2, network, overlap=overlap, mode=weighting
        )
    np.testing.assert_allclose(ours, theirs[0, 0].numpy(), atol=1e-5)


def test_window_may_be_a_shape():
    volume = np.random.default_rng(0).normal(size=(10, 20, 30)).astype(np.float32)
    seen = set()

    def predict(windows):
        seen.add(tuple(windows.shape))
        return windows[:, 0] * 2

    np.testing.assert_array_equal(predict_volume(volume, predict, (4, 8, 16), overlap=0.5), volume * 2)
    assert seen == {(1, 1, 4, 8, 16)}


def test_every_pass_but_the_last_is_full():
    sizes = []

    def predict(windows):
        sizes.append(len(windows))
        return windows[:, 0]

    predict_volume(np.zeros((8, 8, 40), dtype=np.float32), predict, 8, overlap=0.0, windows_per_pass=2)
    assert sizes == [2, 2, 1]


def test_values_do_not_depend_on_windows_per_pass():
    volume = np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32)
    one, five = (predict_volume(volume, lambda x: x[:, 0].sigmoid(), 8, windows_per_pass=n) for n in (1, 5))
    np.testing.assert_array_equal(one, five)


def test_predictor_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"window predictor: expected shape \(1, 8, 8, 8\), got \(1, 1, 8, 8, 8\)"):
        predict_volume(np.zeros((8, 8, 8), dtype=np.float32), lambda windows: windows, 8)
