"""Cubic patches for training, drawn from whole volumes.

Source: Kondo 2021, Section 2, "cubic patch extracted from the whole volumes". Where the patches lie is our choice.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.config import OURS
from pipeline.data.patches import Scalar, Shape, box_around, pad_to

# A patch's centre may lie this far from the chosen voxel of the structure, as a fraction of the patch's side. So the
# voxel stays in the patch's central half.
_JITTER = 0.25
# After so many random voxels outside of the head, all voxels of the head are listed. That happens only if nearly the
# whole scan is air.
_DRAWS = 100


@dataclass(frozen=True)
class TrainingVolume:
    """A case ready for training: normalised `volume` `(D, H, W)` float32; `mask` of one structure, bool, or None.

    Raises:
        ValueError: a wrong dtype or number of axes, or a mask of another shape.
    """

    case: str
    volume: NDArray[np.float32]
    mask: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        """Check the volume, and that the mask fits it."""
        if self.volume.ndim != 3 or self.volume.dtype != np.float32:
            got = f"{self.volume.ndim} axes of {self.volume.dtype}"
            raise ValueError(f"{self.case}: expected a volume (D, H, W) of float32, got {got}; normalise it first")
        if self.mask is not None and (self.mask.shape != self.volume.shape or self.mask.dtype != np.bool_):
            got = f"{self.mask.dtype} {self.mask.shape}"
            raise ValueError(f"{self.case}: expected a mask of bool {self.volume.shape}, got {got}; resample it too")

    @cached_property
    def structure_voxels(self) -> NDArray[np.intp]:
        """List the structure's voxels as flat indices; empty without a mask."""
        return np.flatnonzero(self.mask) if self.mask is not None else np.empty(0, dtype=np.intp)

    @cached_property
    def mean(self) -> np.float32:
        """Return the mean of all voxels; it is cached, because the volume may be mapped from disk."""
        return self.volume.mean()

    @cached_property
    def head_voxels(self) -> NDArray[np.intp]:
        """List the voxels above the volume's mean as flat indices: our approximation of the head."""
        return np.flatnonzero(self.volume > self.mean)


class PatchDraw(NamedTuple):
    """A patch that is drawn but not yet cut: a cube of side `window` around `centre` `(z, y, x)`, mirrored or not."""

    volume: TrainingVolume
    centre: Shape
    window: int
    mirrored: bool


class PatchBatch(NamedTuple):
    """Patches `(N, 1, D, H, W)` float32, masks `(N, D, H, W)` bool (all False for a case without one), case names."""

    patches: NDArray[np.float32]
    masks: NDArray[np.bool_]
    cases: tuple[str, ...]


def structure_centre(volume: TrainingVolume, window: int, rng: np.random.Generator) -> Shape:
    """Draw a voxel `(z, y, x)` of the structure, and shift it by up to a quarter of the window along each axis.

    Raises:
        ValueError: the case's mask is empty or missing.
    """
    voxels = volume.structure_voxels
    if not len(voxels):
        raise ValueError(f"{volume.case}: expected a mask with voxels to centre a patch in, got none; check the labels")
    centre = np.array(np.unravel_index(rng.choice(voxels), volume.volume.shape))
    reach = int(window * _JITTER)
    z, y, x = (centre + rng.integers(-reach, reach, size=3, endpoint=True)).tolist()
    return z, y, x


def head_centre(volume: TrainingVolume, rng: np.random.Generator) -> Shape:
    """Draw a voxel `(z, y, x)` anywhere in the head: one that is brighter than the volume's mean.

    This threshold is enough: its only purpose is to keep most patches out of the air around the head.
    """
    shape = volume.volume.shape
    for _ in range(_DRAWS):
        z, y, x = rng.integers(0, shape).tolist()
        if volume.volume[z, y, x] > volume.mean:
            return z, y, x
    z, y, x = np.array(np.unravel_index(rng.choice(volume.head_voxels), shape)).tolist()
    return z, y, x


def cut_patch(array: NDArray[Scalar], centre: Shape, window: int) -> NDArray[Scalar]:
    """Cut a cube of side `window` from an array `(D, H, W)`, as near to `centre` as the border allows.

    An array that is too small is padded on both sides with 0, a normalised volume's mean, as `predict` does it.

    Returns:
        A new array `(window, window, window)` of the same dtype.
    """
    depth, height, width = array.shape
    part = array[box_around(centre, window, (depth, height, width)).slices].copy()
    return pad_to(part, (window, window, window))[0]


def epoch_draws(
    volumes: Sequence[TrainingVolume],
    *,
    window: int,
    batch_size: int,
    rng: np.random.Generator,
    patches_per_volume: int = OURS.patches_per_volume,
    structure_fraction: float = OURS.structure_fraction,
    mirror: bool = False,
) -> Iterator[list[PatchDraw]]:
    """Draw one epoch's batches: every volume `patches_per_volume` times, in random order.

    The last batch may be smaller. The fraction `structure_fraction` of the patches is centred in the structure, with
    some jitter. They are spread evenly: for a fraction of one half, every second patch. The others lie anywhere in the
    head, as do all patches of volumes without a mask. The same state of `rng` gives the same patches.

    Args:
        volumes: of one domain.
        window: side of the cubic patches, in voxels.
        batch_size: patches in a batch.
        rng: where every random draw comes from.
        patches_per_volume: patches of each volume in an epoch.
        structure_fraction: 0 to 1.
        mirror: flip each patch left to right with probability one half; off by default, because the paper does not.

    Raises:
        ValueError: no volumes, a fraction out of range, or a mask without voxels.
    """
    if not volumes:
        raise ValueError("epoch: expected at least one volume, got none")
    if not 0 <= structure_fraction <= 1:
        raise ValueError(f"structure_fraction: expected 0 to 1, got {structure_fraction}")
    order = rng.permutation(np.repeat(np.arange(len(volumes)), patches_per_volume))
    for first in range(0, len(order), batch_size):
        draws = []
        for i, volume in enumerate([volumes[k] for k in order[first : first + batch_size]], start=first):
            in_structure = int((i + 1) * structure_fraction) > int(i * structure_fraction)
            if in_structure and volume.mask is not None:
                centre = structure_centre(volume, window, rng)
            else:
                centre = head_centre(volume, rng)
            draws.append(PatchDraw(volume, centre, window, mirrored=mirror and rng.random() < 0.5))
        yield draws


def half_and_half(source: Iterator[list[PatchDraw]], target: Iterator[list[PatchDraw]]) -> Iterator[list[PatchDraw]]:
    """Join the batches of two domains: source patches, then as many target patches, until one domain ends.

    Source: Section 3, "Each batch … is composed the same number of the samples from the source and target domains".
    """
    for of_source, of_target in zip(source, target, strict=False):
        n = min(len(of_source), len(of_target))  # one domain's last batch may be smaller
        yield [*of_source[:n], *of_target[:n]]


def cut_batch(draws: Sequence[PatchDraw]) -> PatchBatch:
    """Cut a batch's patches and masks out of their volumes."""
    patches, masks = [], []
    for volume, centre, window, mirrored in draws:
        patch = cut_patch(volume.volume, centre, window)
        if volume.mask is not None:
            mask = cut_patch(volume.mask, centre, window)
        else:
            mask = np.zeros(patch.shape, dtype=np.bool_)
        patches.append(patch[..., ::-1] if mirrored else patch)
        masks.append(mask[..., ::-1] if mirrored else mask)
    return PatchBatch(np.stack(patches)[:, None], np.stack(masks), tuple(draw.volume.case for draw in draws))


def cut_batches(draws: Iterator[list[PatchDraw]], workers: int = 0) -> Iterator[PatchBatch]:
    """Cut batches in order; `workers` threads cut the next ones, one batch each, while a step is computed.

    The patches are drawn in the calling thread, in order, so they are the same with any number of workers. Threads are
    enough, because copying voxels and reading from disk release the GIL; and they need no `/dev/shm`. They end when the
    iterator ends or is closed.

    Raises:
        OSError, ValueError: whatever drawing or cutting a batch raised; it is raised when that batch is due.
    """
    if not workers:
        yield from map(cut_batch, draws)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="patches")
    ahead: deque[Future[PatchBatch]] = deque()
    try:
        for drawn in draws:
            ahead.append(pool.submit(cut_batch, drawn))
            if len(ahead) > workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
