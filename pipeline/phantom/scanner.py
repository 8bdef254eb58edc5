"""The scanner: samples a head on any grid, axial or oblique, in either contrast.

With partial volume, coil shading and Rician noise.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from challenge.contract import BACKGROUND, STRUCTURES
from pipeline.phantom.anatomy import Head, Layer
from pipeline.phantom.contrast import Appearance, Hardness, draw_appearance, is_cystic
from pipeline.phantom.shapes import FloatArray, Plane, Pose, Vector, coverage, random_field

# A slice is the mean of sub-slices that are at most this far apart.
_SUB_SLICE_MM = 0.55


@dataclass(frozen=True)
class Grid:
    """A scan's grid; `origin_mm` is the first voxel's centre along the grid's own axes.

    These are the scanner's x, y, z, turned by `direction`: a 3 x 3 rotation by rows, or None if they are not turned.
    """

    size_xyz: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]
    direction: tuple[float, ...] | None = None

    def centres(self, axis: int) -> Vector:
        """Return the voxel centres along the grid's x (0), y (1) or z (2), mm."""
        return self.origin_mm[axis] + self.spacing_mm[axis] * np.arange(self.size_xyz[axis], dtype=np.float64)

    def sees(self, pose: Pose) -> Pose:
        """Return a pose in the scanner as the grid's own axes have it."""
        if self.direction is None:
            return pose
        back = np.reshape(self.direction, (3, 3)).T
        return Pose(rotation=back @ pose.rotation, shift_mm=back @ pose.shift_mm)


def centred_grid(
    size_xyz: tuple[int, int, int], spacing_mm: tuple[float, float, float], centre_mm: tuple[float, float, float]
) -> Grid:
    """Return the grid whose field of view has its centre at `centre_mm`.

    Raises:
        ValueError: a size or spacing is not positive.
    """
    if min(size_xyz) < 1 or min(spacing_mm) <= 0:
        raise ValueError(f"grid: expected positive sizes and spacings, got {size_xyz} voxels, {spacing_mm} mm")
    x, y, z = (
        centre - (size - 1) / 2 * spacing for size, spacing, centre in zip(size_xyz, spacing_mm, centre_mm, strict=True)
    )
    return Grid(size_xyz, spacing_mm, (x, y, z))


@dataclass(frozen=True)
class _PlacedLayer:
    layer: Layer
    rows: slice
    columns: slice
    low_z_mm: float
    high_z_mm: float


def _place(layer: Layer, pose: Pose, grid: Grid, margin_mm: float) -> _PlacedLayer:
    """Return a layer with the rows, columns and heights of its bounding box in the scanner."""
    low, high = layer.shape.bounds()
    centre = pose.rotation @ ((low + high) / 2) + pose.shift_mm
    half = np.abs(pose.rotation) @ ((high - low) / 2) + margin_mm
    first, last = centre - half, centre + half
    columns, rows = (
        slice(
            int(
                np.clip(np.floor((first[axis] - grid.origin_mm[axis]) / grid.spacing_mm[axis]), 0, grid.size_xyz[axis])
            ),
            int(
                np.clip(
                    np.ceil((last[axis] - grid.origin_mm[axis]) / grid.spacing_mm[axis]) + 1, 0, grid.size_xyz[axis]
                )
            ),
        )
        for axis in (0, 1)
    )
    return _PlacedLayer(layer, rows, columns, float(first[2]), float(last[2]))


def paint(
    head: Head, contrast: str, grid: Grid, rng: np.random.Generator, hardness: Hardness
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Scan a head. The labels depend only on head and grid, not on contrast or `rng`.

    Each slice is the mean of sub-slices about 0.5 mm apart, so thick slices blur thin structures. A voxel gets a
    structure's label if the structure fills at least half of it.

    Returns:
        The scan, int16 `(D, H, W)` in raw scanner units from 0, and its labels, uint8 `(D, H, W)`.

    Raises:
        ValueError: an unknown contrast.
    """
    character = head.tumour.character
    appearance = draw_appearance(rng, contrast, hardness, character=character)
    layers = (*head.layers, head.tumour.cysts) if is_cystic(character, hardness) else head.layers
    shading = random_field(rng, (150.0, 350.0), waves=8)
    margin_mm = max(grid.spacing_mm)
    pose = grid.sees(head.pose)
    placed = [_place(layer, pose, grid, margin_mm) for layer in layers]
    placed = [p for p in placed if p.rows.stop > p.rows.start and p.columns.stop > p.columns.start]

    width, height, depth = grid.size_xyz
    x_mm, y_mm = grid.centres(0), grid.centres(1)
    scan = np.empty((depth, height, width), dtype=np.int16)
    labels = np.full((depth, height, width), BACKGROUND, dtype=np.uint8)
    for index, z_mm in enumerate(grid.centres(2)):
        signal, filled = _paint_slice(placed, appearance, pose, grid, float(z_mm))
        for structure, fraction in filled.items():
            labels[index][fraction >= 0.5] = STRUCTURES[structure].label
        middle = Plane(x_mm, y_mm, float(z_mm), pose)
        signal *= 1 + np.float32(hardness.bias) * np.clip(shading.sample(middle), -2, 2)
        in_phase, quadrature = rng.standard_normal((2, height, width), dtype=np.float32) * np.float32(hardness.noise)
        signal += in_phase
        magnitude = np.sqrt(signal * signal + quadrature * quadrature)
        scan[index] = np.rint(magnitude * np.float32(appearance.gain)).astype(np.int16)
    return scan, labels


def _paint_slice(
    placed: list[_PlacedLayer], appearance: Appearance, pose: Pose, grid: Grid, z_mm: float
) -> tuple[FloatArray, dict[int, FloatArray]]:
    """Return one slice's signal, and for each index in `STRUCTURES` the fraction of each voxel that it fills."""
    width, height, _ = grid.size_xyz
    thickness = grid.spacing_mm[2]
    count = int(np.ceil(thickness / _SUB_SLICE_MM))
    edge_mm = max(grid.spacing_mm[0], grid.spacing_mm[1], thickness / count)
    x_mm, y_mm = grid.centres(0), grid.centres(1)
    middle = Plane(x_mm, y_mm, z_mm, pose)
    coarse = appearance.coarse.sample(middle, grid.spacing_mm)
    fine = appearance.fine.sample(middle, grid.spacing_mm)
    signal = np.zeros((height, width), dtype=np.float32)
    filled: dict[int, FloatArray] = {}
    for part in range(count):
        part_z_mm = z_mm + thickness * ((part + 0.5) / count - 0.5)
        plane = Plane(x_mm, y_mm, part_z_mm, pose)
        canvas = np.full((height, width), appearance.looks["air"].level, dtype=np.float32)
        fractions: dict[int, FloatArray] = {}
        for item in placed:
            if not item.low_z_mm <= part_z_mm <= item.high_z_mm:
                continue
            window = (item.rows, item.columns)
            share = coverage(item.layer.shape.distance(plane.window(*window)), edge_mm)
            look = appearance.looks[item.layer.tissue]
            under = canvas[window]
            if look.coarse or look.fine:
                over = coarse[window] * np.float32(look.coarse)
                over += fine[window] * np.float32(look.fine)
                over += np.float32(look.level)
                over -= under
            else:
                over = np.float32(look.level) - under
            over *= share
            under += over
            if item.layer.structure is not None:
                index = STRUCTURES.index(item.layer.structure)
                fraction = fractions.setdefault(index, np.zeros((height, width), dtype=np.float32))[window]
                np.maximum(fraction, share, out=fraction)
        np.maximum(canvas, 0, out=canvas)
        signal += canvas
        for index, whole in fractions.items():
            whole *= np.float32(1 / count)
            filled[index] = filled[index] + whole if index in filled else whole
    signal /= count
    return signal, filled
