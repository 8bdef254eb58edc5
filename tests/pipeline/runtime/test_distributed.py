"""Two processes train what one does, stop together, and go on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.model.enet import ENet3d
from pipeline.runtime.distributed import ALONE, PooledBatchNorm3d, Ranks, joined_ranks, pool_batch_norm
from pipeline.training.execution import Execution
from pipeline.training.run import check_run
from tests.ranks_run import three_phases
from tests.tiny_run import tiny_plan

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left behind."""
    folder = tmp_path_factory.mktemp("two")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.ranks_run", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, timeout=300, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_alone_everything_is_the_identity() -> None:
    batch = torch.arange(4.0)
    assert torch.equal(batch[ALONE.shard], batch)
    assert ALONE.all_gather(batch, 4) is batch
    assert ALONE.all_reduce_max(15) == 15
    assert ALONE.is_first
    with joined_ranks(CPU) as joined:
        assert joined == (ALONE, CPU)


def test_shares_are_half_and_half_and_may_be_empty() -> None:
    patches = ["s1", "s2", "s3", "s4", "t1", "t2", "t3", "t4"]
    assert [patches[Ranks(r, 2).shard] for r in (0, 1)] == [["s1", "s3", "t1", "t3"], ["s2", "s4", "t2", "t4"]]
    assert [patches[:1][Ranks(r, 2).shard] for r in (0, 1)] == [["s1"], []]


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    Execution(ranks=Ranks(0, 2)).check_batch(4)
    with pytest.raises(ValueError, match=r"batch size: expected a multiple of the 3 processes, got 4; change --nproc"):
        Execution(ranks=Ranks(0, 3)).check_batch(4)


def test_several_processes_do_not_compile() -> None:
    with pytest.raises(ValueError, match="--compile: expected one process, got 2; leave --compile out"):
        Execution(compiler="inductor", ranks=Ranks(0, 2))


def test_a_run_that_cannot_be_shared_is_refused_before_its_scans_are_read(tmp_path: Path) -> None:
    two = Execution(ranks=Ranks(0, 2))
    check_run(tiny_plan(phases=("supervised",)), tmp_path / "vs", two)
    with pytest.raises(ValueError, match="adaptation: half a batch, of each domain: expected a multiple of the 2 proc"):
        check_run(tiny_plan(), tmp_path / "vs", two)


def test_two_processes_give_the_losses_and_scores_of_one(two: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = three_phases()
    torch.set_num_threads(before)
    # Rounding differs, and Adam makes much of small gradients; later phases go on from where phase 1 came to.
    for rank in (0, 1):
        for phase, there, tolerance in zip(alone, torch.load(two / f"plain{rank}.pt"), (1e-6, 1e-4, 1e-4), strict=True):
            for epoch, losses, dice in zip(phase.history, there["losses"], there["dice"], strict=True):
                assert losses == pytest.approx(epoch.losses, abs=tolerance)
                assert epoch.validation is not None
                assert dice == pytest.approx(epoch.validation.dice, abs=1e-3)
            weights = phase.last.state_dict()
            assert list(there["weights"]) == list(weights)
            name = "decoder.fullconv.weight"
            assert there["weights"][name] == pytest.approx(weights[name], abs=1e-4)


def test_both_processes_hold_the_same_weights(two: Path) -> None:
    for one, other in zip(*(torch.load(two / f"plain{rank}.pt") for rank in (0, 1)), strict=True):
        assert one["losses"] == other["losses"]
        assert all(torch.equal(tensor, other["weights"][name]) for name, tensor in one["weights"].items())


def test_a_signal_to_one_stops_both_and_they_go_on_to_the_same_weights(two: Path) -> None:
    assert [(two / f"codes{rank}").read_text() for rank in (0, 1)] == ["0 143 0"] * 2
    for phase in ("supervised", "adaptation"):
        whole, stopped = (
            torch.load(two / run / phase / "checkpoint.pt", weights_only=True)["state"] for run in ("whole", "stopped")
        )
        for part in ("network", "best"):
            assert all(torch.equal(tensor, stopped[part][name]) for name, tensor in whole[part].items())


def test_the_first_process_alone_writes_and_all_is_there(two: Path) -> None:
    for phase in ("supervised", "adaptation"):
        files = sorted(p.name for p in (two / "stopped" / phase).iterdir())
        assert files == ["checkpoint.pt", "curves.png", "history.csv", "settings.json", "slices.png"]
    assert '"execution": "fp32, processes 2"' in (two / "whole" / "supervised" / "settings.json").read_text()
    assert "fp32, processes 2" in (two / "whole" / "summary.md").read_text()


def test_pooled_batch_norm_is_batch_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one process's patches: values, gradients, running statistics, and names in a checkpoint."""
    monkeypatch.setattr("torch.distributed.all_reduce", lambda _: None)
    torch.manual_seed(0)
    plain, pooled = nn.BatchNorm3d(3), PooledBatchNorm3d(3)
    x = torch.randn(2, 3, 4, 4, 4) * 5 + 2
    weight = torch.randn_like(x)
    ends = []
    for norm in (plain, pooled):
        leaf = x.clone().requires_grad_()
        (norm(leaf) * weight).sum().backward()
        assert norm.weight.grad is not None
        ends.append([norm.eval()(x), leaf.grad, norm.weight.grad, norm.running_mean, norm.running_var])
        assert norm.num_batches_tracked == 1
    for one, other in zip(*ends, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)


def test_without_a_momentum_pooled_batch_norm_takes_the_mean_over_all_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.all_reduce", lambda _: None)
    torch.manual_seed(0)
    norms = nn.BatchNorm3d(3, momentum=None), PooledBatchNorm3d(3, momentum=None)
    for batch in torch.randn(3, 2, 3, 4, 4, 4) * 5 + 2:
        for norm in norms:
            norm(batch)
    plain, pooled = norms
    assert torch.allclose(plain.running_mean, pooled.running_mean, atol=1e-5)
    assert torch.allclose(plain.running_var, pooled.running_var, rtol=1e-4)


def test_pooling_batch_norm_keeps_names_and_weights() -> None:
    network = ENet3d(channels=(4, 8, 16))
    before = dict(network.state_dict(keep_vars=True))
    pool_batch_norm(network, CPU)
    after = network.state_dict(keep_vars=True)
    assert list(before) == list(after)
    assert all(after[name] is tensor for name, tensor in before.items())  # the optimiser's tensors still
    assert isinstance(network.encoder.initial.norm, PooledBatchNorm3d)
