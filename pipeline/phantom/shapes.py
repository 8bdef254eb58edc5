"""Solids, as signed distances, and random fields: both are continuous, and can be sampled on any plane.

Head coordinates are millimetres, x to the left, y to the back, z up (LPS, as in SimpleITK).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Pose:
    """The head's place in the scanner: scanner point = `rotation` @ head point + `shift_mm`."""

    rotation: Vector
    shift_mm: Vector


UPRIGHT = Pose(rotation=np.eye(3), shift_mm=np.zeros(3))


def rotation_about_axes(angles_rad: Vector) -> Vector:
    """Return the 3 x 3 rotation about x, then y, then z."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles_rad), np.sin(angles_rad)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


class Plane:
    """Sample points of one axial scanner plane, `(H, W)`: rows along the scanner's y, columns along its x.

    `x_mm`, `y_mm`, `z_mm` are the scanner's; `x`, `y`, `z` are the same points in head coordinates, float32 `(H, W)`.
    """

    def __init__(self, x_mm: Vector, y_mm: Vector, z_mm: float, pose: Pose) -> None:
        """Make the plane of the scanner's columns `x_mm` and rows `y_mm` at height `z_mm`."""
        self.x_mm, self.y_mm, self.z_mm, self.pose = x_mm, y_mm, z_mm, pose
        back = pose.rotation.T
        self.x, self.y, self.z = (
            np.add.outer(
                (back[axis, 1] * (y_mm - pose.shift_mm[1]) + back[axis, 2] * (z_mm - pose.shift_mm[2])).astype(
                    np.float32
                ),
                (back[axis, 0] * (x_mm - pose.shift_mm[0])).astype(np.float32),
            )
            for axis in range(3)
        )

    def window(self, rows: slice, columns: slice) -> "Plane":
        """Return a window of the plane; its points are views."""
        part = object.__new__(Plane)
        part.x_mm, part.y_mm, part.z_mm, part.pose = self.x_mm[columns], self.y_mm[rows], self.z_mm, self.pose
        part.x, part.y, part.z = (points[rows, columns] for points in (self.x, self.y, self.z))
        return part


@dataclass(frozen=True)
class RandomField:
    """A smooth random field of mean 0 and variance 1 over head space: a sum of plane waves.

    On a plane, a wave is an outer product, so a field costs one small matrix product. A wave's mean over a voxel is the
    wave times three sinc factors, so partial volume is exact.
    """

    wave_vectors: Vector  # (waves, 3), rad/mm, head coordinates
    phases: Vector  # (waves,), rad

    def sample(self, plane: Plane, voxel_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> FloatArray:
        """Return the field's mean over voxels of `voxel_mm` (x, y, z) at the plane's points: float32 `(H, W)`."""
        waves = self.wave_vectors @ plane.pose.rotation.T
        kx, ky, kz = waves.T
        start = self.phases - waves @ plane.pose.shift_mm + kz * plane.z_mm
        amplitude = np.sqrt(2 / len(waves)) * np.sinc(waves * np.asarray(voxel_mm) / (2 * np.pi)).prod(axis=1)
        across = np.outer(kx, plane.x_mm) + start[:, None]
        down = np.outer(plane.y_mm, ky)
        left = np.concatenate([np.cos(down) * amplitude, np.sin(down) * -amplitude], axis=1)
        right = np.concatenate([np.cos(across), np.sin(across)])
        # In float64, because a product in float32 depends on the number of threads, and a voxel's value with it.
        return (left @ right).astype(np.float32)


def random_field(
    rng: np.random.Generator,
    wavelengths_mm: tuple[float, float],
    waves: int = 32,
    stretch: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> RandomField:
    """Draw a field with wavelengths spread over `wavelengths_mm`, made longer along head axes by `stretch`."""
    directions = rng.normal(size=(waves, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    wavelengths = np.exp(rng.uniform(np.log(wavelengths_mm[0]), np.log(wavelengths_mm[1]), size=waves))
    return RandomField(
        wave_vectors=directions * (2 * np.pi / wavelengths)[:, None] / np.asarray(stretch),
        phases=rng.uniform(0, 2 * np.pi, size=waves),
    )


Bounds = tuple[Vector, Vector]


class Solid(Protocol):
    """A solid: negative distance inside. Distances are millimetres and hold near the surface."""

    def distance(self, plane: Plane) -> FloatArray:
        """Return the signed distance at the plane's points, float32 `(H, W)`."""
        ...

    def bounds(self) -> Bounds:
        """Return the lower and upper corner of a box around the solid, in head coordinates."""
        ...


# Points computed at a time, so that intermediate arrays stay in the processor's cache.
_CACHED_POINTS = 2**15


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid; `axes` has its own axes as columns."""

    centre: Vector
    radii: Vector
    axes: Vector

    def distance(self, plane: Plane) -> FloatArray:
        """First-order distance: (q - 1) / |grad q| with q the scaled radius; within 1 % for spheres up to 140 mm."""
        distance = np.empty_like(plane.x)
        rows = max(1, _CACHED_POINTS // max(1, plane.x.shape[1]))
        for first in range(0, len(distance), rows):
            band = slice(first, first + rows)
            self._fill(distance[band], plane.window(band, slice(None)))
        return distance

    def _fill(self, distance: FloatArray, plane: Plane) -> None:
        x, y, z = (points - np.float32(c) for points, c in zip((plane.x, plane.y, plane.z), self.centre, strict=True))
        square, slope = np.zeros_like(x), np.full_like(x, 1e-6)
        for axis, radius in zip(self.axes.T.astype(np.float32), self.radii, strict=True):
            (first, *others) = [c * p for c, p in zip(axis, (x, y, z), strict=True) if c]  # most stand upright
            along = sum(others, start=first)
            along *= np.float32(1 / radius)
            along *= along
            square += along
            along *= np.float32(1 / radius**2)
            slope += along
        np.sqrt(square, out=square)
        np.sqrt(slope, out=slope)
        np.subtract(square, 1, out=distance)
        distance *= square
        distance /= slope
        # Near q = 0 the quotient tends to 0 / 0; the centre is deep inside anyway.
        np.minimum(distance, (square - 1) * np.float32(self.radii.min()), out=distance, where=square < 0.3)

    def bounds(self) -> Bounds:
        """Box of the rotated ellipsoid."""
        half = np.sqrt(((self.axes * self.radii) ** 2).sum(axis=1))
        return self.centre - half, self.centre + half


# Distances from a tube are cut at this value, so that segments out of reach can be skipped. No tube is grown by as
# much.
_FAR_MM = 4.5


@dataclass(frozen=True)
class Tube:
    """A round tube along a polyline, its radius interpolated between the points."""

    points: Vector  # (n, 3)
    radii: Vector  # (n,)

    def distance(self, plane: Plane) -> FloatArray:
        """Least distance to its segments, each a cone with round ends; at most `_FAR_MM`."""
        nearest = np.full(plane.x.shape, _FAR_MM, dtype=np.float32)
        placed = self.points @ plane.pose.rotation.T + plane.pose.shift_mm
        reach = np.maximum(self.radii[:-1], self.radii[1:])[:, None] + _FAR_MM
        low = np.minimum(placed[:-1], placed[1:]) - reach
        high = np.maximum(placed[:-1], placed[1:]) + reach
        (left, right), (top, bottom) = (
            (np.searchsorted(along, low[:, axis]), np.searchsorted(along, high[:, axis]))
            for axis, along in enumerate((plane.x_mm, plane.y_mm))
        )
        met = (low[:, 2] <= plane.z_mm) & (high[:, 2] >= plane.z_mm) & (left < right) & (top < bottom)
        for i in np.flatnonzero(met):
            window = (slice(top[i], bottom[i]), slice(left[i], right[i]))
            start = self.points[i]
            step = (self.points[i + 1] - start).astype(np.float32)
            x, y, z = (p[window] - np.float32(s) for p, s in zip((plane.x, plane.y, plane.z), start, strict=True))
            along = (x * step[0] + y * step[1] + z * step[2]) * np.float32(1 / max(float(step @ step), 1e-9))
            np.minimum(np.maximum(along, 0, out=along), 1, out=along)
            x -= along * step[0]
            y -= along * step[1]
            z -= along * step[2]
            distance = np.sqrt(x * x + y * y + z * z)
            distance -= np.float32(self.radii[i]) + along * np.float32(self.radii[i + 1] - self.radii[i])
            part = nearest[window]
            np.minimum(part, distance, out=part)
        return nearest

    def bounds(self) -> Bounds:
        """Box around the points, grown by the largest radius."""
        return self.points.min(axis=0) - self.radii.max(), self.points.max(axis=0) + self.radii.max()


@dataclass(frozen=True)
class Offset:
    """A solid grown by `by_mm`, or shrunk if that is negative."""

    shape: Solid
    by_mm: float

    def distance(self, plane: Plane) -> FloatArray:
        """Distance minus the growth."""
        return self.shape.distance(plane) - np.float32(self.by_mm)

    def bounds(self) -> Bounds:
        """Box grown by the same."""
        low, high = self.shape.bounds()
        return low - self.by_mm, high + self.by_mm


@dataclass(frozen=True)
class Rough:
    """A solid whose surface is moved in and out by a field, with standard deviation `amplitude_mm`."""

    shape: Solid
    field: RandomField
    amplitude_mm: float

    def distance(self, plane: Plane) -> FloatArray:
        """Distance plus the field."""
        return self.shape.distance(plane) + np.float32(self.amplitude_mm) * self.field.sample(plane)

    def bounds(self) -> Bounds:
        """Box grown by three standard deviations."""
        low, high = self.shape.bounds()
        return low - 3 * self.amplitude_mm, high + 3 * self.amplitude_mm


@dataclass(frozen=True)
class Union:
    """Points in any of the solids."""

    shapes: tuple[Solid, ...]

    def distance(self, plane: Plane) -> FloatArray:
        """Least distance."""
        nearest = self.shapes[0].distance(plane)
        for shape in self.shapes[1:]:
            np.minimum(nearest, shape.distance(plane), out=nearest)
        return nearest

    def bounds(self) -> Bounds:
        """Box around all boxes."""
        lows, highs = zip(*(shape.bounds() for shape in self.shapes), strict=True)
        return np.min(lows, axis=0), np.max(highs, axis=0)


@dataclass(frozen=True)
class Both:
    """Points in both solids."""

    shape: Solid
    other: Solid

    def distance(self, plane: Plane) -> FloatArray:
        """Greater distance."""
        return np.maximum(self.shape.distance(plane), self.other.distance(plane))

    def bounds(self) -> Bounds:
        """Intersection of both boxes."""
        (low, high), (other_low, other_high) = self.shape.bounds(), self.other.bounds()
        return np.maximum(low, other_low), np.minimum(high, other_high)


@dataclass(frozen=True)
class Minus:
    """Points in `shape` but not in `other`."""

    shape: Solid
    other: Solid

    def distance(self, plane: Plane) -> FloatArray:
        """Greater of the distance to one and the negated distance to the other."""
        return np.maximum(self.shape.distance(plane), -self.other.distance(plane))

    def bounds(self) -> Bounds:
        """Box of the first solid."""
        return self.shape.bounds()


@dataclass(frozen=True)
class Cells:
    """Points in `shape` where a field is above `level`; with `folded`, where its absolute value is below `level`.

    The points above a level are blobs (air cells, cysts); the points around zero are folded sheets (sulci, folia).
    """

    shape: Solid
    field: RandomField
    level: float
    folded: bool = False

    def distance(self, plane: Plane) -> FloatArray:
        """Distance to the level set, estimated from the field's typical slope, within the solid."""
        slope = np.sqrt((self.field.wave_vectors**2).sum(axis=1).mean() / 3)
        value = self.field.sample(plane)
        excess = np.abs(value, out=value) - np.float32(self.level) if self.folded else np.float32(self.level) - value
        return np.maximum(self.shape.distance(plane), excess * np.float32(1 / slope))

    def bounds(self) -> Bounds:
        """Box of the solid."""
        return self.shape.bounds()


def volume_mm3(shape: Solid, step_mm: float) -> float:
    """Return a solid's volume, from samples every `step_mm` that count by their coverage."""
    low, high = shape.bounds()
    x_mm, y_mm, z_mm = (np.arange(a - step_mm / 2, b + step_mm, step_mm) for a, b in zip(low, high, strict=True))
    inside = sum(float(coverage(shape.distance(Plane(x_mm, y_mm, float(z), UPRIGHT)), step_mm).sum()) for z in z_mm)
    return inside * step_mm**3


def coverage(distance: FloatArray, width_mm: float) -> FloatArray:
    """Return the fraction of a sample of `width_mm` that lies inside, from distances `(H, W)`; linear at the edge."""
    share = np.float32(0.5) - distance * np.float32(1 / width_mm)
    return np.minimum(np.maximum(share, 0, out=share), 1, out=share)


def scaled_to_volume(
    make: Callable[[float], Solid], target_mm3: float, scale: float, step_mm: float, rounds: int
) -> float:
    """Return the scale at which `make(scale)` has about the target volume, after `rounds` cube-root corrections."""
    for _ in range(rounds):
        scale *= float(np.cbrt(target_mm3 / max(volume_mm3(make(scale), step_mm), 1e-3)))
    return scale
