"""Does a tumour lie where tumours lie? The distance of its centre to the nearest cochlea's, compared with the source's.

A vestibular schwannoma grows along the nerve to one cochlea, so this distance varies little. It is a rule for
pseudo-labels, beyond the paper, and ours. The gap between tumour and cochlea will not do: it is 0 for many of them, and
a label that has grown over the cochlea passes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.config import ONE_A_SIDE
from pipeline.data.components import Mask, kept_components, labelled_components


class DistanceRange(NamedTuple):
    """The smallest and the largest distance between the centres of a tumour and its nearest cochlea, in mm."""

    smallest: float
    largest: float


@dataclass(frozen=True)
class Nearness:
    """Where the cochleas of the target's cases are, and how near to one a tumour must be.

    Attributes:
        cochleas_mm: case -> centres of its cochleas `(n, 3)`, along `(z, y, x)` from the scan's first voxel, in mm.
        source: the distances of the source's labels.
        factor: at least 1; a distance below `source.smallest / factor` or above `source.largest * factor` is refused.
    """

    cochleas_mm: Mapping[str, NDArray[np.float64]]
    source: DistanceRange
    factor: float

    def refusal(self, case: str, tumour: Mask, spacing_mm: Sequence[float]) -> str:
        """Return why a tumour's label, bool `(D, H, W)` with voxels, is not in a plausible place; nothing if it is.

        Raises:
            KeyError: a case whose cochleas are not known.
        """
        cochleas = self.cochleas_mm[case]
        if not len(cochleas):
            return "no cochlea was found to compare its place with"
        distance = distance_to_nearest(tumour, cochleas, spacing_mm)
        low, high = self.source.smallest / self.factor, self.source.largest * self.factor
        if low <= distance <= high:
            return ""
        return f"centre {distance:.1f} mm from the nearest cochlea's, outside {low:.1f} to {high:.1f}"


def cochlea_centres(mask: Mask, spacing_mm: Sequence[float]) -> NDArray[np.float64]:
    """Return the centres of the cochleas in a mask `(D, H, W)`, at most one a side: `(n, 3)` as `(z, y, x)`, in mm."""
    labels, count = labelled_components(kept_components(mask, ONE_A_SIDE, spacing_mm))
    centres = ndimage.center_of_mass(labels > 0, labels, np.arange(1, count + 1))
    return np.asarray(centres, dtype=np.float64).reshape(-1, 3) * np.asarray(spacing_mm)


def distance_to_nearest(tumour: Mask, cochleas_mm: NDArray[np.float64], spacing_mm: Sequence[float]) -> float:
    """Return how far a tumour's centre, bool `(D, H, W)`, is from the nearest of the centres `(n, 3)`, in mm."""
    centre = np.asarray(ndimage.center_of_mass(tumour)) * np.asarray(spacing_mm)
    return float(np.linalg.norm(cochleas_mm - centre, axis=1).min())
