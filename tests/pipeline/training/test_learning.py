"""Does the paper's network learn? A hundred steps on VS source phantoms, and the same on labels that lie elsewhere."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from challenge.contract import SOURCE_SUFFIX, SOURCE_TRAINING_FOLDERS, VS, files_by_case, label_file
from pipeline.data.cache import normalised_volume, structure_mask
from pipeline.data.sampling import TrainingVolume
from pipeline.phantom import make_cohort
from pipeline.training.history import Epoch
from pipeline.training.recipes import SupervisedRecipe
from pipeline.training.supervised import train_supervised

TRAINING = 4  # of 6 phantoms; the others validate
# The paper's network, rate, losses and batch size, small windows; 80 patches by 4 are 20 steps an epoch, 100 in all.
RECIPE = replace(SupervisedRecipe.paper(VS), window=32, epochs=5, patches_per_volume=20)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> list[TrainingVolume]:
    root = tmp_path_factory.mktemp("phantoms")
    make_cohort(root, source=6, target=0, validation=0, preset="small", seed=11)
    folder = root / SOURCE_TRAINING_FOLDERS[0]
    return [
        TrainingVolume(case, normalised_volume(scan), structure_mask(folder / label_file(case), VS))
        for case, scan in files_by_case(folder, SOURCE_SUFFIX).items()
    ]


def near_the_structure(volume: TrainingVolume, margin: int = 24) -> TrainingVolume:
    """Cut a volume to its structure and `margin` voxels around it, so that validation is over in a second."""
    assert volume.mask is not None
    box = tuple(slice(max(0, i.min() - margin), i.max() + margin) for i in np.nonzero(volume.mask))
    return TrainingVolume(volume.case, volume.volume[box], volume.mask[box])


def trained(training: list[TrainingVolume], validation: list[TrainingVolume]) -> tuple[Epoch, ...]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        nearby = [near_the_structure(volume) for volume in validation]
        volumes = {"source_training": training, "source_validation": nearby}
        return train_supervised(VS, None, volumes, RECIPE, rng=np.random.default_rng(0)).history
    finally:
        torch.set_num_threads(threads)


def loss_left(history: tuple[Epoch, ...]) -> float:
    """The mean loss of the last 20 steps over that of the first 20. With a rate of 0 it stays at 1."""
    return history[-1].losses["loss"] / history[0].losses["loss"]


def test_the_loss_falls_and_the_network_finds_the_tumour(volumes: list[TrainingVolume]) -> None:
    history = trained(volumes[:TRAINING], volumes[TRAINING:])
    assert loss_left(history) < 0.75
    for epoch in history:
        # Predicted over true volume is logged every epoch: 0 is a collapse to background, above 10 not started.
        assert epoch.validation is not None
        assert epoch.validation.volume_ratio > 0
    last = history[-1].validation
    assert last is not None
    assert 0.1 < last.volume_ratio < 10
    assert last.mean_dice > 0.2


def test_labels_that_lie_elsewhere_do_not_pass(volumes: list[TrainingVolume]) -> None:
    """The control: the masks mirrored and shifted, so that there is a size to learn and no place or look."""
    rng = np.random.default_rng(0)
    moved = []
    for volume in volumes[:TRAINING]:
        assert volume.mask is not None
        shift = (int(rng.integers(10, 40)), int(rng.integers(10, 60)), 0)
        moved.append(TrainingVolume(volume.case, volume.volume, np.roll(volume.mask[..., ::-1], shift, axis=(0, 1, 2))))
    history = trained(moved, volumes[TRAINING:])
    assert loss_left(history) > 0.75
    last = history[-1].validation
    assert last is not None
    assert last.mean_dice < 0.2
