"""One head: bones, brain, fluid, vessels, both ears and a tumour, as continuous solids in painting order.

Coordinates are millimetres in the head (x left, y back, z up). The origin lies midway between the ears, at the height
of the internal auditory canals. Sizes come from textbooks, and are moved and scaled at random for each head.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from challenge.contract import COCHLEA, VS, Structure
from pipeline.phantom.shapes import (
    Both,
    Cells,
    Ellipsoid,
    Minus,
    Offset,
    Pose,
    RandomField,
    Rough,
    Solid,
    Tube,
    Union,
    Vector,
    random_field,
    rotation_about_axes,
    scaled_to_volume,
)

# Volumes in the challenge, mm3: tumours are log-normal around the typical size, within the limits. A cochlea is of one
# side.
VS_VOLUME_MM3 = (100.0, 10_000.0)
VS_TYPICAL_MM3 = 1300.0
VS_LOG_SPREAD = 0.95
COCHLEA_VOLUME_MM3 = 46.0
COCHLEA_SPREAD_MM3 = 7.0
EARS_APART_MM = 66.0

_COCHLEA_TURNS = 2.4
_STRAIGHT = np.eye(3)


@dataclass(frozen=True)
class Layer:
    """A solid, painted over the layers before it; `structure` is set if it belongs to one."""

    shape: Solid
    tissue: str
    structure: Structure | None = None


@dataclass(frozen=True)
class Tumour:
    """A head's VS. `character` is uniform in [0, 1); `contrast` derives from it whether the VS is cystic or dark."""

    side: str
    volume_mm3: float
    character: float
    cysts: Layer


@dataclass(frozen=True)
class Head:
    """A head: its layers in painting order, its tumour and its pose."""

    layers: tuple[Layer, ...]
    tumour: Tumour
    pose: Pose


def _vec(*values: float) -> Vector:
    return np.array(values, dtype=np.float64)


def _ball(centre: Vector, *radii: float, axes: Vector = _STRAIGHT) -> Ellipsoid:
    return Ellipsoid(centre=centre, radii=_vec(*(radii if len(radii) == 3 else radii * 3)), axes=axes)


def _tube(*points_and_radius: tuple[float, float, float, float]) -> Tube:
    table = np.array(points_and_radius, dtype=np.float64)
    return Tube(points=table[:, :3], radii=table[:, 3])


def _frame(axis: Vector) -> Vector:
    """Return right-handed axes as columns, the last along `axis`."""
    last = axis / np.linalg.norm(axis)
    first = np.cross(_vec(0.0, 0.0, 1.0), last)
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(last, first), last], axis=1)


def make_head(rng: np.random.Generator) -> Head:
    """Draw a head: anatomy, the tumour's side and size, and the pose. Contrast and grid play no part."""
    pose = Pose(
        rotation=rotation_about_axes(np.radians(np.clip(rng.normal(0, 2.5, size=3), -6, 6))),
        shift_mm=np.clip(rng.normal(0, 1.5, size=3), -3, 3),
    )
    tumour_side = float(rng.choice([-1.0, 1.0]))
    volume = 0.0
    while not VS_VOLUME_MM3[0] <= volume <= VS_VOLUME_MM3[1]:
        volume = float(np.exp(rng.normal(np.log(VS_TYPICAL_MM3), VS_LOG_SPREAD)))
    growth = float(np.log10(volume / VS_VOLUME_MM3[0]))  # 0 for the smallest, 2 for the largest

    ears = {side: _make_ear(rng, side, growth if side == tumour_side else None) for side in (-1.0, 1.0)}
    layers = _make_cranium(rng)
    for ear in ears.values():
        layers += ear.bone
    layers += _make_vessels(rng)
    for ear in ears.values():
        layers += ear.fluid
    tumour, tumour_layers = _make_tumour(rng, ears[tumour_side], volume, growth)
    layers += tumour_layers
    return Head(layers=tuple(layers), tumour=tumour, pose=pose)


def _make_cranium(rng: np.random.Generator) -> list[Layer]:
    """Return scalp, skull, cavity, brain and brainstem: everything but ears and vessels."""
    wide, long, high = rng.normal(1.0, 0.03, size=3)
    surface = random_field(rng, (40, 120), waves=16)
    sulci = random_field(rng, (16, 32))
    folia = random_field(rng, (7, 14), stretch=(3.0, 1.0, 0.8))

    def ball(x: float, y: float, z: float, *radii: float) -> Ellipsoid:
        return _ball(_vec(x, y, z), *(r * s for r, s in zip(radii, (wide, long, high), strict=True)))

    scalp = Union(
        (ball(0, 8, 27, 77, 97, 112), ball(0, -42, -55, 60, 58, 75), _tube((0, 12, -20, 62), (0, 18, -140, 64)))
    )
    skull = Rough(ball(0, 8, 36, 70, 90, 76), surface, 0.8)
    cerebral = ball(0, 6, 42, 63, 83, 63)
    fossa = Rough(ball(0, 30, -8, 50, 48, 30), surface, 0.8)
    middle_fossae = tuple(ball(s * 41, -29, 3, 21, 27, 21) for s in (-1, 1))
    cavity = Union((cerebral, *middle_fossae))
    cerebrum = Offset(cavity, -2.0)
    cerebellum = Union((*(ball(s * 22, 40, -8, 26, 33, 26) for s in (-1, 1)), ball(0, 40, -6, 12, 28, 26)))
    pons = rng.normal(_vec(15.5, 12.5, 13.0), 0.5)
    stem = Union(
        (
            ball(0, 0, 0, *pons),
            _tube((0, 4, -60, 7.0), (0, 3, -22, 8.0), (0, 2, -10, 10), (0, 2, 10, 12), (0, -2, 26, 13)),
            *(_tube((s * 9, 3, 0, 8.0), (s * 21, 19, -3, 7.5)) for s in (-1, 1)),
        )
    )
    mid_line = float(rng.normal(0, 0.6))
    return [
        Layer(scalp, "fat"),
        Layer(Rough(Offset(scalp, -4.0), surface, 1.0), "muscle"),
        Layer(Union((ball(0, -50, -22, 32, 36, 32), ball(0, -24, -22, 22, 14, 24))), "bone"),
        Layer(ball(0, -25, -18, 13, 7, 20), "marrow"),
        *(Layer(ball(s * 13, -62, -18, 9, 22, 20), "mucosa") for s in (-1, 1)),
        *(Layer(ball(s * 13, -62, -18, 7, 20, 18), "air") for s in (-1, 1)),
        Layer(ball(0, -42, -8, 11, 10, 9), "air"),
        Layer(skull, "bone"),
        Layer(Offset(skull, -1.8), "marrow"),
        Layer(Offset(skull, -4.2), "petrous"),
        Layer(Offset(Union((cavity, fossa)), 2.6), "bone"),
        Layer(Offset(cavity, 0.8), "dura"),
        Layer(cavity, "csf"),
        Layer(cerebrum, "cortex"),
        Layer(Minus(Offset(cerebrum, -3.0), Cells(cerebrum, sulci, 0.35, folded=True)), "white"),
        Layer(Cells(cerebrum, sulci, 0.10, folded=True), "csf"),
        Layer(Offset(fossa, 0.8), "dura"),
        Layer(fossa, "csf"),
        Layer(Both(cerebellum, Offset(fossa, -1.2)), "cerebellum"),
        Layer(Cells(Both(cerebellum, Offset(fossa, -1.2)), folia, 0.16, folded=True), "folia"),
        Layer(stem, "brainstem"),
        Layer(_ball(_vec(mid_line, 16.0, 0.0), 6.0, 3.6, 9.0), "csf"),
        *(
            Layer(_tube((s * 11, -6, 6, 1.6), (s * 15, -14, 4, 1.4), (s * 18, -21, 3, 2.4)), "nerve")  # trigeminal
            for s in (-1, 1)
        ),
    ]


@dataclass(frozen=True)
class _Ear:
    side: float
    bone: list[Layer]
    fluid: list[Layer]
    petrous: Solid
    cochlea: Solid
    porus: Vector
    fundus: Vector
    canal_radius_mm: float


def _make_ear(rng: np.random.Generator, side: float, growth: float | None) -> _Ear:
    """Return one temporal bone: pyramid, air, canal, labyrinth, nerves. A tumour's `growth` widens its canal."""
    move = rng.normal(0, 0.8, size=3)
    tilt = rotation_about_axes(rng.normal(0, np.radians(4), size=3))
    middle = _vec(33.0, 0.0, 0.0)

    def place(x: float, y: float, z: float) -> Vector:
        """Move a point of the standard left ear to this ear."""
        return (tilt @ (_vec(x, y, z) - middle) + middle + move) * _vec(side, 1.0, 1.0)

    def turn(x: float, y: float, z: float) -> Vector:
        return (tilt @ _vec(x, y, z)) * _vec(side, 1.0, 1.0)

    def tube(*points_and_radius: tuple[float, float, float, float]) -> Tube:
        return _tube(*((*place(x, y, z), r) for x, y, z, r in points_and_radius))

    roughness = random_field(rng, (9, 25), waves=24)
    cell_field = random_field(rng, (3.5, 8.0), waves=40)
    marrow_field = random_field(rng, (7.0, 14.0), waves=24)
    pyramid = Rough(tube((12, -17, -4, 5.5), (24, -7, -5, 9.5), (38, 7, -6, 12.5), (50, 14, -8, 15.5)), roughness, 0.5)

    canal_radius = float(rng.normal(2.2, 0.15)) + (0.5 + 0.45 * growth if growth is not None else 0.0)
    porus, fundus = place(19.5, 1.5, 0.5), place(30.0, -0.3, 0.2)
    canal = Union(
        (
            Tube(points=np.stack([porus, fundus]), radii=_vec(canal_radius + 0.3, 1.7)),
            Tube(
                points=np.stack([porus + turn(-2.5, 1.0, 0.0), porus]),
                radii=_vec(canal_radius + 1.6, canal_radius + 0.3),
            ),
        )
    )

    cochlea_axis = turn(0.62, -0.72, -0.22)
    volume = float(np.clip(rng.normal(COCHLEA_VOLUME_MM3, COCHLEA_SPREAD_MM3), 30, 64))
    centre = place(EARS_APART_MM / 2, -5.4, -1.6)
    handedness = side * float(_COCHLEA_TURNS)
    start = float(rng.normal(0.0, 0.25))
    scale = scaled_to_volume(
        lambda s: _cochlea(centre, cochlea_axis, s, handedness, start)[0], volume, scale=1.0, step_mm=0.35, rounds=3
    )
    cochlea, lumen = _cochlea(centre, cochlea_axis, scale, handedness, start)

    vestibule = _ball(place(36.4, 2.6, 0.2), 1.9, 2.7, 2.3)
    canals = _semicircular_canals(rng, place)
    base = centre - 1.2 * scale * cochlea_axis / np.linalg.norm(cochlea_axis)
    hook = Tube(  # the basal turn opens into the vestibule: on hrT2 the labyrinth is one bright body
        points=np.stack([base + turn(2.0, 1.2, 0.0), place(36.2, 0.8, -0.3)]), radii=_vec(0.75, 0.9)
    )
    aperture = Tube(points=np.stack([fundus, base]), radii=_vec(0.7, 0.5))
    capsule = Union(
        (
            _ball(centre, 5.4, 5.0, 5.0),
            _ball(place(37.2, 3.2, 0.8), 4.4, 4.8, 4.6),
            *(Offset(c, 1.5) for c in canals),
        )
    )

    pneumatised = float(rng.uniform(0.0, 1.0))
    mastoid = _ball(place(53, 12, -10), 12, 15, 20)
    nerves = [
        tube((12, 5.0, 0.2, 0.8), (20, 2.4, 1.2, 0.7), (30, -0.8, 1.2, 0.5)),
        tube((12, 6.0, -0.6, 0.9), (20, 2.6, -0.8, 0.8), (30, 0.2, -0.9, 0.6)),
    ]
    bone = [
        Layer(Offset(pyramid, 1.0), "dura"),
        Layer(Union((pyramid, _ball(place(53, 12, -10), 14, 17, 22))), "petrous"),
        Layer(Cells(Offset(pyramid, -1.8), marrow_field, 0.75 - 0.5 * float(rng.uniform())), "petrous marrow"),
        Layer(Cells(mastoid, cell_field, 0.9 - 1.3 * pneumatised), "air"),
        Layer(Cells(Offset(pyramid, -1.5), cell_field, 2.1 - 0.8 * pneumatised), "air"),
        Layer(tube((45, -1, -3, 3.0), (51, 0, -3, 3.6), (80, 1, -4, 3.6)), "air"),  # middle ear and outer canal
        Layer(tube((42.6, -2, 4, 0.8), (43.5, -2, -3, 2.6)), "air"),
        Layer(capsule, "otic capsule"),
        Layer(Minus(canal, Offset(cochlea, 0.8)), "csf"),
    ]
    fluid = [
        *(Layer(nerve, "nerve") for nerve in nerves),
        Layer(Union((vestibule, *canals, hook, aperture)), "labyrinth"),
        Layer(cochlea, "modiolus", COCHLEA),
        Layer(lumen, "labyrinth", COCHLEA),
    ]
    return _Ear(side, bone, fluid, pyramid, cochlea, porus, fundus, canal_radius)


def _cochlea(centre: Vector, axis: Vector, scale: float, turns: float, start: float) -> tuple[Solid, Solid]:
    """Return the labelled spiral, filled and with touching turns, and its fluid: the spiral without the modiolus."""
    frame = _frame(axis)
    way = np.linspace(0.0, 1.0, 26)
    angle = 2 * np.pi * (turns * way + start)
    radius = 2.55 - 1.85 * way**0.8
    local = np.stack([radius * np.cos(angle), radius * np.sin(angle), -1.3 + 3.0 * way**1.2], axis=1)
    spiral = Tube(points=centre + scale * local @ frame.T, radii=scale * (1.05 - 0.35 * way))
    core = Tube(
        points=centre + scale * np.array([[0.0, 0.0, -1.2], [0.0, 0.0, 1.4]]) @ frame.T, radii=scale * _vec(1.6, 0.7)
    )
    thin_core = Tube(points=core.points, radii=core.radii * 0.55)
    filled = Union((spiral, core))
    return filled, Minus(filled, thin_core)


def _semicircular_canals(rng: np.random.Generator, place: Callable[[float, float, float], Vector]) -> tuple[Tube, ...]:
    """Return the superior, posterior and lateral canals: three arcs at right angles that end at the vestibule."""
    arcs = (  # centre, two axes of the arc's plane, radius; the arc is open towards the vestibule
        (_vec(37.6, 1.6, 4.6), _vec(0.7, -0.7, 0.0), _vec(0.0, 0.0, 1.0), 3.1),
        (_vec(38.6, 6.2, 1.4), _vec(0.7, 0.7, 0.0), _vec(0.0, 0.0, 1.0), 3.0),
        (_vec(39.8, 3.4, 0.4), _vec(0.96, 0.0, -0.25), _vec(0.0, 1.0, 0.0), 2.6),
    )
    vestibule = _vec(36.4, 2.6, 0.2)
    tubes = []
    for centre, first, second, radius in arcs:
        towards = vestibule - centre
        open_at = np.arctan2(towards @ second, towards @ first)
        angles = open_at + np.linspace(0.55, 2 * np.pi - 0.55, 15)
        radius *= float(rng.normal(1.0, 0.05))
        points = centre + radius * (np.outer(np.cos(angles), first) + np.outer(np.sin(angles), second))
        points = np.concatenate([vestibule[None], points, vestibule[None]])
        tubes.append(Tube(points=np.stack([place(*p) for p in points]), radii=np.full(len(points), 0.6)))
    return tuple(tubes)


def _make_vessels(rng: np.random.Generator) -> list[Layer]:
    """Return the sinuses, jugular bulbs, carotids, basilar artery and other vessels that enhance like the tumour."""
    layers = []
    for side in (-1.0, 1.0):
        size = float(rng.uniform(0.65, 1.15))  # one side often dominates

        def tube(*points_and_radius: tuple[float, float, float, float], size: float = size, side: float = side) -> Tube:
            sway = rng.normal(0, 0.7, size=3)
            return _tube(
                *((side * x + sway[0], y + sway[1], z + sway[2], r * size) for x, y, z, r in points_and_radius)
            )

        layers += [
            Layer(
                tube(
                    (4, 70, 14, 4.0),
                    (40, 60, 13, 4.2),
                    (56, 40, 11, 4.2),
                    (51, 25, 4, 4.6),
                    (45, 20, -10, 4.4),
                    (36, 13, -21, 4.4),
                    (32, 6, -17, 5.0),
                    (31, 4, -40, 4.5),
                ),
                "vein",
            ),
            Layer(
                tube(
                    (30, -12, -50, 2.6), (29, -13, -14, 2.6), (22, -19, -10, 2.6), (14, -26, -6, 2.5), (12, -34, 2, 2.5)
                ),
                "artery",
            ),
            Layer(tube((11, -25, 1, 3.4), (11, -38, 4, 3.6)), "vein"),  # cavernous sinus
            Layer(tube((19, -12, 8, 0.7), (15, -6, 12, 0.8), (9, -13, 15, 0.7)), "vein"),  # petrosal vein
            Layer(tube((3, -14.2, -9, 0.6), (13, -8, -5, 0.6), (17, -1, -1.5, 0.5)), "artery"),  # AICA
            Layer(tube((11, 13, -12, 1.6), (16, 9, -11, 1.4)), "plexus"),  # choroid plexus at the foramen of Luschka
        ]
    bend = float(rng.normal(0, 2.0))
    layers.append(
        Layer(_tube((3, -13, -40, 1.6), (bend, -14.5, -14, 1.7), (-bend, -15, 2, 1.7), (0, -15, 17, 1.6)), "artery")
    )
    return layers


def _make_tumour(rng: np.random.Generator, ear: _Ear, volume: float, growth: float) -> tuple[Tumour, list[Layer]]:
    """Return a stalk in the canal and a ball in the cistern: surrounded by fluid, and clear of bone and cochlea."""
    along = ear.fundus - ear.porus
    depth = float(rng.uniform(0.55, 0.85))
    stalk_radius = ear.canal_radius_mm - 0.55
    stalk = Tube(
        points=np.stack([ear.porus - 0.15 * along, ear.porus + depth * along]),
        radii=_vec(stalk_radius + 0.2, min(1.3, stalk_radius)),
    )
    medial = _vec(-0.84 * ear.side, 0.5, float(rng.normal(0.05, 0.12)))
    shape_noise = random_field(rng, (0.7 * 6 * 2**growth, 1.4 * 6 * 2**growth), waves=20)
    stretch = np.exp(rng.normal(0, 0.08, size=3))
    axes = _frame(medial + rng.normal(0, 0.2, size=3))
    off_limits = Union((ear.petrous, Offset(ear.cochlea, 1.5)))

    def ball(radius: float) -> Solid:
        centre = ear.porus + 0.7 * radius * medial
        return Rough(Ellipsoid(centre=centre, radii=radius * stretch, axes=axes), shape_noise, 0.06 * radius)

    def body(radius: float) -> Solid:
        return Union((Minus(stalk, Offset(ear.cochlea, 1.5)), Minus(ball(radius), off_limits)))

    guess = float(np.cbrt(volume / 4.2))
    radius = scaled_to_volume(body, volume, scale=guess, step_mm=0.06 * guess + 0.35, rounds=4)
    vs = body(radius)
    rim = Minus(Offset(ball(radius), float(rng.uniform(0.9, 1.6))), off_limits)
    cyst_field: RandomField = random_field(rng, (0.8 * radius + 3, 1.8 * radius + 6), waves=24)
    cysts = Layer(Cells(Offset(vs, -0.8), cyst_field, float(rng.uniform(0.2, 0.7))), "cyst", VS)
    tumour = Tumour("left" if ear.side > 0 else "right", volume, float(rng.uniform()), cysts)
    return tumour, [Layer(rim, "csf"), Layer(vs, "vs", VS)]
