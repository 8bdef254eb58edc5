"""Connected components of a mask, and which of them to keep: the anatomy that a network does not know.

Pseudo-labels in training and post-processing in prediction use the same rules. Voxels touch by faces, edges or corners:
a cochlea is thin.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from evaluation.metrics import bounding_box
from pipeline.config import COMPONENTS, EVERY, LARGEST

# The cochleas of the phantoms lie 65 mm apart, those of a measured patient 75 mm; one side's labyrinth spans under 20.
SIDES_APART_MM = 30.0

Mask = NDArray[np.bool_]
_TOUCHING = np.ones((3, 3, 3), dtype=np.bool_)


def labelled_components(mask: Mask) -> tuple[NDArray[np.int32], int]:
    """Number the components of a mask `(D, H, W)`; return the numbers, int32, 0 outside, and how many there are."""
    labels, count = ndimage.label(mask, structure=_TOUCHING)
    return labels.astype(np.int32, copy=False), int(count)


def kept_components(
    mask: Mask, rule: str, spacing_mm: Sequence[float], score: NDArray[np.float32] | None = None
) -> Mask:
    """Keep what a rule, one of `pipeline.config.COMPONENTS`, says of a mask `(D, H, W)`.

    The other arguments are as in `one_component_a_side`.

    Raises:
        ValueError: no such rule.
    """
    if rule not in COMPONENTS:
        raise ValueError(f"components: expected one of {', '.join(COMPONENTS)}, got {rule}")
    if rule == EVERY:
        return mask
    return largest_component(mask, score) if rule == LARGEST else one_component_a_side(mask, spacing_mm, score)


def largest_component(mask: Mask, score: NDArray[np.float32] | None = None) -> Mask:
    """Keep a mask's largest component: by voxels, or by the sum of `score` over them, both `(D, H, W)`.

    Returns:
        A new mask of the same shape, bool; empty where the mask is.
    """
    return _kept(mask, score, apart_mm=None, spacing_mm=(1.0, 1.0, 1.0))


def one_component_a_side(
    mask: Mask, spacing_mm: Sequence[float], score: NDArray[np.float32] | None = None, apart_mm: float = SIDES_APART_MM
) -> Mask:
    """Keep a mask's largest component, and the largest of those whose centre lies at least `apart_mm` from its centre.

    Distances instead of a midline, because a scan need be neither centred nor upright.

    Args:
        mask: bool `(D, H, W)`.
        spacing_mm: of the voxels along `(z, y, x)`, in mm.
        score: float32 `(D, H, W)`; components are compared by its sum, without it by their voxels.
        apart_mm: between the components' centres, in mm.

    Returns:
        A new mask of the same shape, bool, of at most two components.
    """
    return _kept(mask, score, apart_mm=apart_mm, spacing_mm=spacing_mm)


def _kept(
    mask: Mask, score: NDArray[np.float32] | None, *, apart_mm: float | None, spacing_mm: Sequence[float]
) -> Mask:
    kept = np.zeros_like(mask)
    box = bounding_box(mask)
    if box is None:
        return kept
    labels, count = labelled_components(mask[box])
    numbers = np.arange(1, count + 1)
    if score is None:
        sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:].astype(np.float64)
    else:
        sizes = np.asarray(ndimage.sum_labels(score[box], labels, numbers), dtype=np.float64)
    first = int(np.argmax(sizes))
    chosen = [first]
    if apart_mm is not None and count > 1:
        centres = np.array(ndimage.center_of_mass(mask[box], labels, numbers)) * np.asarray(spacing_mm)
        far = np.linalg.norm(centres - centres[first], axis=1) >= apart_mm
        if far.any():
            chosen.append(int(np.argmax(np.where(far, sizes, -np.inf))))
    kept[box] = np.isin(labels, numbers[chosen])
    return kept


def fill_holes(mask: Mask) -> Mask:
    """Fill the cavities of a mask `(D, H, W)` that no path leaves; return a new mask, bool."""
    filled = mask.copy()
    box = bounding_box(mask)
    if box is not None:
        filled[box] = ndimage.binary_fill_holes(mask[box])
    return filled
