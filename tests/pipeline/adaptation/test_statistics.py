import numpy as np
import pytest
import torch
from torch import nn

from pipeline.adaptation.statistics import reestimate_statistics, statistics_of, with_statistics_of
from pipeline.data.sampling import TrainingVolume
from tests.segmenters import narrow_network


def volumes(shift, scale, count=3, seed=0):
    rng = np.random.default_rng(seed)
    return [
        TrainingVolume(f"case_{n}", (rng.normal(size=(24, 20, 28)) * scale + shift).astype(np.float32))
        for n in range(count)
    ]


def first_norm(network):
    return next(m for m in network.modules() if isinstance(m, nn.BatchNorm3d))


def test_weights_stay_statistics_change_and_the_network_given_is_left_alone():
    network = narrow_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    adapted = reestimate_statistics(network, volumes(3, 2), 16, patches_per_volume=4, rng=np.random.default_rng(0))
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(adapted.state_dict()[name], value, rtol=0, atol=0)
    assert not adapted.training
    assert not any(m.training for m in adapted.modules())
    assert {m.momentum for m in adapted.modules() if isinstance(m, nn.BatchNorm3d)} == {0.1}


def test_statistics_are_the_mean_over_the_volumes_batches():
    """The first norm's last channel holds the max-pooled input, so its statistics can be worked."""
    network = narrow_network()
    given = volumes(3, 2)
    adapted = reestimate_statistics(network, given, 16, patches_per_volume=2, rng=np.random.default_rng(7))
    from pipeline.data.sampling import cut_patch, head_centre

    rng = np.random.default_rng(7)
    means, variances = [], []
    for volume in given:
        patches = np.stack([cut_patch(volume.volume, head_centre(volume, rng), 16) for _ in range(2)])
        pooled = nn.functional.max_pool3d(torch.from_numpy(patches)[:, None], 2)
        means.append(pooled.mean())
        variances.append(pooled.var())
    torch.testing.assert_close(first_norm(adapted).running_mean[-1], torch.stack(means).mean())
    torch.testing.assert_close(first_norm(adapted).running_var[-1], torch.stack(variances).mean())


def test_same_rng_same_statistics():
    network = narrow_network()
    one, two = (
        reestimate_statistics(network, volumes(1, 2), 16, patches_per_volume=2, rng=np.random.default_rng(5))
        for _ in range(2)
    )
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, two.state_dict()[name], rtol=0, atol=0)


@pytest.mark.parametrize(("given", "patches"), [([], 2), (volumes(0, 1, count=1), 0)])
def test_nothing_to_estimate_from_is_refused(given, patches):
    with pytest.raises(ValueError, match="statistics: expected volumes and patches"):
        reestimate_statistics(narrow_network(), given, 16, patches_per_volume=patches, rng=np.random.default_rng(0))


def running(network):
    return {name: value.clone() for name, value in network.state_dict().items() if "running" in name}


def same(one, other):
    return [torch.equal(value, other[name]) for name, value in one.items()]


def test_lent_statistics_are_used_and_updated_and_its_own_are_kept():
    network = narrow_network()
    other = reestimate_statistics(network, volumes(3, 2), 16, patches_per_volume=4, rng=np.random.default_rng(0))
    patches = torch.from_numpy(np.random.default_rng(0).normal(3, 2, (2, 1, 16, 16, 16)).astype(np.float32))
    own, of_other, expected = running(network), running(other), other(patches)
    assert not any(same(own, of_other))
    with statistics_of(network.eval(), other):
        torch.testing.assert_close(network(patches), expected, rtol=0, atol=0)
    copied = with_statistics_of(network, other)
    assert all(same(running(copied), of_other))
    network.train()
    with statistics_of(network, other):
        network(patches).sum().backward()
    assert all(same(running(network), own))
    assert not any(same(running(other), of_other))
    assert all(same(running(copied), of_other))
    network(patches)
    assert not any(same(running(network), own))
