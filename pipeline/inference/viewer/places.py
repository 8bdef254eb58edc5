"""Where to look: a place in each component of a structure, and in the largest disagreement with a reference."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from evaluation.metrics import bounding_box
from pipeline.data.components import Mask, labelled_components, largest_component, one_component_a_side


@dataclass(frozen=True)
class Place:
    """A voxel `(z, y, x)` deep inside a component, and the component's size: its longest side and its volume."""

    voxel: tuple[int, int, int]
    extent_mm: float
    voxels: int


def places_of_structure(mask: Mask, spacing_mm: Sequence[float]) -> list[Place]:
    """Find a structure's main component and, if there is one far from it, that of the other side.

    Args:
        mask: bool `(D, H, W)`, with x along the last axis.
        spacing_mm: of the voxels along z, y and x.

    Returns:
        None to two places, in the order of x.
    """
    kept = one_component_a_side(mask, spacing_mm)
    labels, count = labelled_components(kept)
    places = [_place_in(labels == number, spacing_mm) for number in range(1, count + 1)]
    return sorted(places, key=lambda place: place.voxel[2])


def largest_disagreement(
    prediction: NDArray[np.uint8], reference: NDArray[np.uint8], spacing_mm: Sequence[float]
) -> Place | None:
    """Find the largest component of voxels that two label maps label differently, all of them in the same way.

    Args:
        prediction: uint8 `(D, H, W)`.
        reference: uint8, of the same shape.
        spacing_mm: of the voxels along z, y and x.

    Returns:
        A place in it; None if the maps are equal.
    """
    # What was missed and what was added surround each other: together they would be one shell.
    ways = np.where(prediction == reference, 0, prediction.astype(np.uint16) * 256 + reference)
    components = [largest_component(ways == way) for way in np.unique(ways[ways > 0])]
    largest = max(components, key=np.count_nonzero, default=None)
    return None if largest is None else _place_in(largest, spacing_mm)


def _place_in(component: Mask, spacing_mm: Sequence[float]) -> Place:
    """Find the voxel of a component farthest from its border: its centre may lie outside, as a cochlea's does.

    Among equals, such as in a layer of single voxels, it is the one nearest to the centre.
    """
    box = bounding_box(component)
    assert box is not None, "a component has voxels"
    spacing = np.asarray(spacing_mm)
    padded = np.pad(component[box], 1)
    depth_mm = ndimage.distance_transform_edt(padded, sampling=spacing)
    deepest = np.argwhere(depth_mm >= depth_mm.max() - 1e-6)
    inside = np.argwhere(padded)
    off_centre_mm = np.linalg.norm((deepest - inside.mean(axis=0)) * spacing, axis=1)
    z, y, x = deepest[np.argmin(off_centre_mm)] - 1 + [part.start for part in box]
    sides_mm = (inside.max(axis=0) - inside.min(axis=0) + 1) * spacing
    return Place((int(z), int(y), int(x)), float(sides_mm.max()), len(inside))
