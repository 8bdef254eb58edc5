"""Post-processing: from the structures' probabilities to one label map, by rules that stand on the weights' cards.

The paper has none of these: its weights' cards name no rule, and `merge` then gives each voxel to the likelier
structure. What challenge teams found to help: components (docs/results.md has what each is worth here).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from challenge.contract import BACKGROUND, Structure
from evaluation.metrics import bounding_box
from pipeline.data.components import Mask, fill_holes, kept_components, labelled_components
from pipeline.model.rules import PostProcessing

THRESHOLD = 0.5
# `never_empty` halves the threshold until something plausible appears, and gives up below this.
_LOWEST_THRESHOLD = 0.5**10
# Smaller than any structure's label on the phantoms or in the challenge's description, in mm3.
_PLAUSIBLE_MM3 = 5.0


def decide(probability: NDArray[np.float32], rules: PostProcessing, spacing_mm: Sequence[float]) -> Mask:
    """Decide where one structure is, by its rules.

    Args:
        probability: float32 `(D, H, W)`, on any grid.
        rules: the structure's.
        spacing_mm: of the grid along `(z, y, x)`, in mm.

    Returns:
        A mask `(D, H, W)`, bool.
    """
    voxel_mm3 = float(np.prod(spacing_mm))
    threshold = THRESHOLD
    first = mask = _refined(probability > threshold, probability, rules, spacing_mm)
    while rules.never_empty and mask.sum() * voxel_mm3 < _PLAUSIBLE_MM3:
        if threshold <= _LOWEST_THRESHOLD:
            return first if first.any() else mask
        threshold /= 2
        mask = _refined(probability > threshold, probability, rules, spacing_mm)
    return mask


def _refined(mask: Mask, probability: NDArray[np.float32], rules: PostProcessing, spacing_mm: Sequence[float]) -> Mask:
    mask = kept_components(mask, rules.components, spacing_mm, probability)
    return fill_holes(mask) if rules.fill_holes else mask


def merge(
    probabilities: Mapping[Structure, NDArray[np.float32]],
    rules: Mapping[Structure, PostProcessing] | None = None,
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
) -> NDArray[np.uint8]:
    """Merge the structures' probabilities `(D, H, W)` into one label map, uint8.

    A structure claims the voxels where it is likelier than not, by its rules. Of a voxel that several claim the
    likeliest gets it, and between equals the first. With `keeps_contested` it goes to the structure whose component
    there is the smaller one: a network that paints over the other structure cannot take its voxels.

    Args:
        probabilities: float32, one shape.
        rules: by structure; rules that change nothing by default.
        spacing_mm: of the grid along `(z, y, x)`, in mm.

    Raises:
        ValueError: no structure, or shapes that differ.
    """
    shapes = {p.shape for p in probabilities.values()}
    if len(shapes) != 1:
        raise ValueError(
            f"probabilities to merge: expected one shape, got {sorted(shapes)}; restore them to one grid first"
        )
    rules = {structure: (rules or {}).get(structure, PostProcessing()) for structure in probabilities}
    labels = np.full(shapes.pop(), BACKGROUND, dtype=np.uint8)
    box = _box_of_claims(probabilities, rules)
    if box is not None:
        labels[box] = _merged({s: p[box] for s, p in probabilities.items()}, rules, spacing_mm)
    return labels


def _box_of_claims(
    probabilities: Mapping[Structure, NDArray[np.float32]], rules: Mapping[Structure, PostProcessing]
) -> tuple[slice, ...] | None:
    """Return the box of all voxels that a rule can look at: structures fill a few thousandths of a scan."""
    claimed = [p > (_LOWEST_THRESHOLD if rules[s].never_empty else THRESHOLD) for s, p in probabilities.items()]
    return bounding_box(np.logical_or.reduce(claimed))


def _merged(
    probabilities: Mapping[Structure, NDArray[np.float32]],
    rules: Mapping[Structure, PostProcessing],
    spacing_mm: Sequence[float],
) -> NDArray[np.uint8]:
    claims = {s: decide(p, rules[s], spacing_mm) for s, p in probabilities.items()}
    labels = np.full(next(iter(claims.values())).shape, BACKGROUND, dtype=np.uint8)
    highest = np.full(labels.shape, THRESHOLD, dtype=np.float32)
    for structure, claim in claims.items():
        probability = probabilities[structure]
        wins = claim & ((probability > highest) | (labels == BACKGROUND))
        labels[wins] = structure.label
        highest[wins] = probability[wins]
    contested = np.sum(list(claims.values()), axis=0) > 1
    if contested.any() and any(rule.keeps_contested for rule in rules.values()):
        _give_to_the_smaller(labels, contested, claims)
    # The other structure may have taken all of a claim. Small ones last, so that they keep what they get.
    for structure, claim in sorted(claims.items(), key=lambda item: -int(item[1].sum())):
        if rules[structure].never_empty and not (labels == structure.label).any():
            labels[claim] = structure.label
    return labels


def _give_to_the_smaller(labels: NDArray[np.uint8], contested: Mask, claims: Mapping[Structure, Mask]) -> None:
    """Give contested voxels, in place, to the structure whose component at that voxel has the fewest voxels."""
    smallest = np.full(int(contested.sum()), np.iinfo(np.int64).max)
    owner = labels[contested]
    for structure, claim in claims.items():
        components, _ = labelled_components(claim)
        here = components[contested]
        sizes = np.bincount(components.ravel())[here]
        smaller = (here > 0) & (sizes < smallest)
        smallest[smaller], owner[smaller] = sizes[smaller], structure.label
    labels[contested] = owner
