"""Which network to take, where the target has no labels: what can be said of its predictions without any.

Each score lies in [0, 1], 0 where a network has collapsed. docs/results.md has how well they rank networks on phantoms,
whose labels are known.

Source: a structure's expected size, Bateson et al., Constrained Domain Adaptation for Segmentation, MICCAI 2019;
agreement under changes that should change nothing is the usual test of consistency. Their product is our choice.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.metrics import count_overlap, dice


@dataclass(frozen=True)
class LabelFreeScores:
    """What is known of a network without target labels: means over cases.

    `source_dice` is of source validation; `volume` compares the predicted volumes with the source labels'
    (`volume_range_agreement`); `flip` and `contrast` are the Dice between the predictions of a target volume and of the
    same volume mirrored, or in another contrast (`mask_agreement`).
    """

    source_dice: float
    volume: float
    flip: float
    contrast: float

    @property
    def product(self) -> float:
        """Return the score to select by: all four must hold at once, so they are multiplied."""
        return self.source_dice * self.volume * self.flip * self.contrast


def volume_range_agreement(predicted: Sequence[float], expected: Sequence[float]) -> float:
    """Compare predicted volumes with the volumes of the source's labels, both in the same unit.

    A predicted volume within the labels' range agrees (1); outside of it, the smaller over the larger of the volume and
    the nearer end of the range. The mean over the cases is multiplied by the same ratio of the two medians, so that a
    network that predicts every case as small as the smallest label does not pass.

    Raises:
        ValueError: no volume, or an expected one that is not above 0.
    """
    if not len(predicted) or not len(expected) or min(expected) <= 0:
        raise ValueError("volumes: expected predicted ones, and labels' volumes above 0, got none; check the data")
    nearest = np.clip(predicted, min(expected), max(expected))
    medians = sorted((float(np.median(predicted)), float(np.median(expected))))
    return float(np.mean(_ratios(np.asarray(predicted, dtype=float), nearest)) * medians[0] / medians[1])


def mask_agreement(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Return the Dice of two predictions of one volume, bool `(D, H, W)`; two empty ones agree on nothing: 0."""
    overlap = count_overlap(first, second)
    return dice(overlap) if overlap.reference_voxels or overlap.prediction_voxels else 0.0


def _ratios(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    ratios: NDArray[np.float64] = np.minimum(a, b) / np.maximum(a, b)
    return ratios
