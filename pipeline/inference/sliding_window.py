"""Sliding-window prediction: a network for cubic patches predicts a whole volume.

Source: Kondo 2021, Section 2: "The input data to each network is cubic patch extracted from the whole volumes".
"""

from collections.abc import Callable
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.config import OURS
from pipeline.data.patches import Shape, WeightedMean, crop_back, divide, pad_to, window_weights, windows

# Takes patches (N, 1, D, H, W) float32 on the network's device, returns one value a voxel, (N, D, H, W) float32.
WindowPredictor = Callable[[torch.Tensor], torch.Tensor]


@torch.inference_mode()
def predict_volume(
    volume: NDArray[np.float32],
    predict_windows: WindowPredictor,
    window: int | Shape,
    *,
    overlap: float = OURS.overlap,
    weighting: str = OURS.weighting,
    windows_per_pass: int = 1,
    device: torch.device | str = "cpu",
) -> NDArray[np.float32]:
    """Predict a volume `(D, H, W)` window by window; return one float32 value a voxel, in the same shape.

    A volume smaller than the window is padded with 0, the mean of a normalised volume, and cropped back. Besides the
    volume, memory holds the mean, a slab of weights as deep as a window, and what the predictor needs for
    `windows_per_pass` windows. It does not grow with the number of windows.

    Args:
        volume: normalised voxels `(D, H, W)`, float32.
        predict_windows: takes `(N, 1, D, H, W)` float32 on `device`, N at most `windows_per_pass`; returns
            `(N, D, H, W)`, which may be overwritten.
        window: side of the cubic window in voxels, or its shape `(D, H, W)`.
        overlap: of neighbouring windows, as a fraction in [0, 1).
        weighting: "gaussian" (centres count more) or "constant".
        windows_per_pass: windows in one forward pass.
        device: where the windows are sent.

    Raises:
        ValueError: an overlap or weighting out of range, or a predictor that returns another shape.
    """
    shape: Shape = (window, window, window) if isinstance(window, int) else window
    padded, padding = pad_to(volume, shape)
    boxes = windows(padded.shape, shape, overlap)
    mean = WeightedMean(padded.shape, window_weights(shape, weighting, OURS.gaussian_sigma))
    patches = zip(boxes, divide(padded, boxes), strict=True)
    while batch := list(islice(patches, windows_per_pass)):
        stacked = torch.from_numpy(np.stack([patch for _, patch in batch])[:, None])
        predicted = predict_windows(stacked.to(device)).float().cpu()
        if predicted.shape != (len(batch), *shape):
            raise ValueError(f"window predictor: expected shape {(len(batch), *shape)}, got {tuple(predicted.shape)}")
        for (box, _), values in zip(batch, predicted, strict=True):
            mean.add(box, values)
    return crop_back(mean.volume(), padding)
