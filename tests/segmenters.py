"""Segmenters for tests: one that knows its answer, and narrow networks of random weights in the shipped form."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from challenge.contract import COCHLEA, STRUCTURES, Structure
from pipeline.model.enet import ENet3d
from pipeline.model.weights import Segmenter, save_weights

CPU = torch.device("cpu")
WINDOW = 16


@dataclass(frozen=True)
class ThresholdSegmenter:
    """Says 1 where a normalised voxel lies between `low` and `high`, 0 elsewhere."""

    structure: Structure
    low: float
    high: float
    window: int = WINDOW
    device: torch.device = CPU
    windows_per_pass: int = 2
    card: dict[str, Any] = field(default_factory=dict)

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        return ((windows[:, 0] > self.low) & (windows[:, 0] < self.high)).float()


def narrow_network(seed: int = 0) -> ENet3d:
    torch.manual_seed(seed)
    return ENet3d(channels=(4, 8, 16)).eval()


def write_narrow_weights(folder: Path) -> Path:
    for seed, structure in enumerate(STRUCTURES):
        save_weights(folder, structure, narrow_network(seed), {"spacing_mm": 0.5, "data": "none"}, window=WINDOW)
    return folder


def found_somewhere(volume: np.ndarray, segmenter: Segmenter, **_: object) -> np.ndarray:
    """In place of `predict_structure`: what anatomy allows, a ball in the middle or two beside it, left and right."""
    z, y, x = (np.arange(n) - (n - 1) / 2 for n in volume.shape)
    beside = 35.0 if segmenter.structure is COCHLEA else 0.0  # voxels of 0.5 mm
    ball = z[:, None, None] ** 2 + y[:, None] ** 2 + (np.abs(x) - beside) ** 2 < 5**2
    return np.where(ball, np.float32(0.9), np.float32(0.1))
