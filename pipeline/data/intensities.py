"""What random contrast needs to know of a whole volume, of which it sees a patch."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Percentiles of a volume that stand for its dark and its bright end, and how many of its voxels stand for all of them.
_LOW, _HIGH = 0.5, 99.8
_SUBSAMPLE = 20_000


class Intensities(NamedTuple):
    """A normalised volume's dark and bright ends in z-scores, and some of its voxels `(K,)` float32 for all of them."""

    low: float
    high: float
    sample: NDArray[np.float32]


def intensities_of(volume: NDArray[np.float32]) -> Intensities:
    """Sum up a normalised volume `(D, H, W)`, by every so-manieth voxel, which needs no random draw."""
    step = max(volume.size // _SUBSAMPLE, 1)
    step += 1 - step % 2  # odd, so that rows of even length are not always met at the same place
    sample = np.ascontiguousarray(volume.reshape(-1)[::step])
    low, high = np.percentile(sample, (_LOW, _HIGH))
    return Intensities(float(low), float(high), sample)
