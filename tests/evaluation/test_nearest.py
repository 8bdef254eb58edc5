"""The nearest-neighbour searches: each against a plain one, and which is chosen when."""

from collections.abc import Callable

import numpy as np

from evaluation import nearest
from evaluation.metrics import surface_voxels
from tests.evaluation.masks import pairs


@pairs
def test_every_search_finds_the_same(reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...]) -> None:
    step = np.array(spacing)
    here, there = surface_voxels(reference), surface_voxels(prediction)
    for queries, targets in ((here, there), (there, here)):
        plain = np.array([np.sqrt((((targets - q) * step) ** 2).sum(axis=1).min()) for q in queries[::7]])
        reachable = nearest._reachable(queries, targets, step)
        for search in nearest._SEARCHES:
            found = search.nearest_mm(queries, reachable, step)
            np.testing.assert_allclose(found[::7], plain, rtol=0, atol=1e-11)


class TestChoice:
    """The cost rule takes the way meant for each kind of masks, on the grid of a real scan."""

    shape = (120, 512, 512)
    spacing = np.array((1.5, 0.41, 0.41))

    def chosen(self, queries: np.ndarray, targets: np.ndarray) -> Callable:
        reachable = nearest._reachable(queries, targets, self.spacing)
        return min(nearest._SEARCHES, key=lambda way: way.cost_ns(queries, reachable)).nearest_mm

    def cube(self, *corner: int, side: int = 30) -> np.ndarray:
        return surface_voxels(np.ones((side // 3, side, side), dtype=bool)) + corner

    def test_near_masks_are_transformed(self) -> None:
        assert self.chosen(self.cube(50, 200, 200), self.cube(51, 203, 199)) is nearest._nearest_by_transform

    def test_noise_is_searched_by_rows(self) -> None:
        rng = np.random.default_rng(0)
        noise = np.argwhere(rng.random((40, 512, 512)) < 0.02)
        assert self.chosen(noise, self.cube(15, 200, 200)) is nearest._nearest_by_rows

    def test_few_voxels_far_apart_are_searched_by_tree(self) -> None:
        corners = np.array([[0, 0, 0], [119, 511, 511]])
        assert self.chosen(corners, corners) is nearest._nearest_by_tree

    def test_far_targets_that_no_query_can_reach_are_dropped(self) -> None:
        near, far = self.cube(51, 203, 199), self.cube(0, 480, 10, side=9)
        both = np.concatenate((far, near))
        kept = nearest._reachable(self.cube(50, 200, 200), both, self.spacing)
        assert kept.tolist() == near.tolist()
