"""From a network's probabilities on unlabelled scans to labels that are worth training on; beyond the paper.

Confidence alone filters badly: a wrong network is sure of itself. So a case is refused for what anatomy does not allow,
and for predictions that do not agree with each other. Target labels are not needed, and not looked at.

Source: self-training on filtered pseudo-labels as the first two teams of crossMoDA 2021 have it; the rules are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.adaptation.selection import mask_agreement
from pipeline.config import ONE_A_SIDE
from pipeline.data.components import Mask, fill_holes, kept_components, labelled_components

# The smaller of the components that ONE_A_SIDE keeps holds at least this share of the larger one's voxels.
_SMALLER_SIDE = 1 / 3


@dataclass(frozen=True)
class PseudoLabelRules:
    """Which predictions become labels.

    Attributes:
        components: what is kept of a prediction, one of `pipeline.config.COMPONENTS`.
        smallest_volume: times the smallest source label: the least volume.
        largest_volume: times the largest source label: the greatest volume.
        kept_share: the least share of the voxels found that must lie in the components kept.
        agreement: the least Dice between any view's own label and that of their mean.
        uncertain_band: voxels whose mean probability lies within this of one half do not count in the loss; nor do
            voxels that are found and not kept. 0 lets all voxels count.
    """

    components: str
    smallest_volume: float = 0.5
    largest_volume: float = 1.5
    kept_share: float = 0.5
    agreement: float = 0.5
    uncertain_band: float = 0.0


class PseudoLabel(NamedTuple):
    """A case's label, bool `(D, H, W)`; the voxels that count, or None where all do; why it is refused, or nothing.

    `agreement` is the lowest Dice of a view's own label with the mean's.
    """

    mask: Mask
    certain: Mask | None
    refused: str
    agreement: float


class VolumeRange(NamedTuple):
    """The smallest and the largest label of the source domain, in voxels of the same grid."""

    smallest: int
    largest: int


def volume_range(masks: Sequence[Mask]) -> VolumeRange:
    """Return the range of the volumes of source labels, each bool `(D, H, W)`."""
    sizes = [int(np.count_nonzero(mask)) for mask in masks]
    return VolumeRange(min(sizes), max(sizes))


def pseudo_label(
    views: Sequence[NDArray[np.float32]], source: VolumeRange, rules: PseudoLabelRules, spacing_mm: Sequence[float]
) -> PseudoLabel:
    """Make one case's pseudo-label of several predictions of it.

    Args:
        views: probabilities `(D, H, W)` float32: of the scan, of its mirror image turned back, and so on.
        source: the volumes of the source's labels on the same grid.
        rules: what is refused.
        spacing_mm: of the grid along `(z, y, x)`, in mm.

    Returns:
        The label of the views' mean, also where it is refused.
    """
    mean: NDArray[np.float32] = np.mean(views, axis=0, dtype=np.float32)
    found = np.asarray(mean > 0.5)
    mask = _label(found, rules, spacing_mm)
    certain = None
    if rules.uncertain_band > 0:
        certain = (np.abs(mean - 0.5) >= rules.uncertain_band) & (mask | ~found)
    agreement = min(mask_agreement(_label(view > 0.5, rules, spacing_mm), mask) for view in views)
    return PseudoLabel(mask, certain, _refusal(found, mask, agreement, source, rules), agreement)


def _label(found: Mask, rules: PseudoLabelRules, spacing_mm: Sequence[float]) -> Mask:
    return fill_holes(kept_components(found, rules.components, spacing_mm))


def _refusal(found: Mask, mask: Mask, agreement: float, source: VolumeRange, rules: PseudoLabelRules) -> str:
    """Return the first rule that a case breaks, in words, or nothing."""
    voxels = int(np.count_nonzero(mask))
    if not voxels:
        return "empty"
    low, high = source.smallest * rules.smallest_volume, source.largest * rules.largest_volume
    if not low <= voxels <= high:
        return f"volume of {voxels} voxels, outside {low:.0f} to {high:.0f}"
    share = np.count_nonzero(found & mask) / np.count_nonzero(found)
    if share < rules.kept_share:
        return f"only {share:.0%} of the voxels found are in the components kept"
    if rules.components == ONE_A_SIDE:
        labels, count = labelled_components(mask)
        sizes = sorted(np.bincount(labels.ravel())[1:].tolist())
        if count < 2 or sizes[0] < sizes[-1] * _SMALLER_SIDE:
            return f"components of {' and '.join(map(str, sizes))} voxels, expected one of similar size a side"
    if agreement < rules.agreement:
        return f"the views agree to a Dice of {agreement:.2f} only"
    return ""
