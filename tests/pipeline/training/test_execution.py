"""Steps computed in other ways: near float32's, and nothing of it in the weights' names."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._dynamo
from torch._dynamo.utils import counters

from challenge.contract import VS
from challenge.signals import Interrupted
from pipeline.model.enet import ENet3d
from pipeline.training.adaptation import train_adaptation
from pipeline.training.checkpoint import finished_checkpoint, network_of
from pipeline.training.execution import BatchForward, Execution, pick_precision
from pipeline.training.options import BF16, FP32
from pipeline.training.run import check_run, train_run
from pipeline.training.settings import RunError
from pipeline.training.state import Trained
from pipeline.training.supervised import train_supervised
from tests.tiny_run import MOMENTS, RECIPES, VOLUMES, tiny_plan

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
# Small rates: what rounding does to Adam's first steps is not the point here. In windows below 40 the features are
# smaller than a kernel of 5, of which torch's CPU build computes wrong gradients in bf16.
SHORT = {"window": 40, "epochs": 1, "patches_per_volume": 4, "learning_rate": 1e-5}


def train(execution: Execution) -> tuple[Trained, Trained]:
    recipe = dataclasses.replace(RECIPES["supervised"], **SHORT)
    first = train_supervised(VS, None, VOLUMES, recipe, rng=np.random.default_rng(0), execution=execution)
    return first, adapt(first.last, execution)


def adapt(network: ENet3d, execution: Execution) -> Trained:
    recipe = dataclasses.replace(RECIPES["adaptation"], **SHORT)
    return train_adaptation(VS, network, VOLUMES, recipe, rng=np.random.default_rng(1), execution=execution)


@pytest.fixture(scope="module")
def plain() -> tuple[Trained, Trained]:
    """Both phases in float32, eager."""
    return train(Execution())


def assert_near(trained: tuple[Trained, Trained], plain: tuple[Trained, Trained], tolerance: float) -> None:
    for ours, theirs in zip(trained, plain, strict=True):
        assert ours.history[0].losses == pytest.approx(theirs.history[0].losses, abs=tolerance)
        weights = ours.last.state_dict()
        assert list(weights) == list(theirs.last.state_dict())
        assert {t.dtype for t in weights.values()} == {torch.float32, torch.int64}


def test_bf16_is_near_float32_and_leaves_float32_weights(plain: tuple[Trained, Trained]) -> None:
    trained = train(Execution(precision=BF16))
    assert trained[0].history[0].losses != plain[0].history[0].losses
    assert_near(trained, plain, 0.1)


def test_pooling_and_its_undoing_are_float32_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []
    for name in ("max_pool3d_with_indices", "max_unpool3d"):
        whole = getattr(torch.nn.functional, name)
        monkeypatch.setattr(
            torch.nn.functional, name, lambda x, *a, whole=whole: (seen.append(x.dtype), whole(x, *a))[1]
        )
    forward = BatchForward(ENet3d(channels=(4, 8, 16)), CPU, Execution(precision=BF16), seed=0)
    logits = forward(torch.randn(2, 1, 16, 16, 16), step=0)
    assert logits.dtype == torch.bfloat16  # so autocast was on
    assert seen == [torch.float32] * 4


def test_auto_is_float32_where_no_gpu_computes_in_bf16() -> None:
    assert pick_precision("auto", CPU) == FP32
    assert pick_precision("bf16", CPU) == BF16


def test_channels_are_together_on_a_cpu_and_it_is_the_same_network(
    plain: tuple[Trained, Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert plain[0].last.encoder.regular1_1.branch[3].weight.is_contiguous(memory_format=torch.channels_last_3d)
    monkeypatch.setattr("pipeline.training.execution.put_channels_together", lambda _: None)
    apart = train(Execution())
    assert apart[0].last.encoder.regular1_1.branch[3].weight.is_contiguous()
    assert_near(apart, plain, 1e-3)


def test_compiling_leaves_names_and_numbers_alone(plain: tuple[Trained, Trained]) -> None:
    """With the backend that runs what was traced as it is: inductor takes minutes, even for a narrow network."""
    torch._dynamo.reset()
    counters.clear()
    compiled = adapt(plain[0].last, Execution(compiler="eager"))
    assert list(compiled.last.state_dict()) == list(plain[1].last.state_dict())
    # Near and not equal: some layers have a kernel of their own, which a compiler does not need.
    assert_near((plain[0], compiled), plain, 1e-3)
    # The reversal's weight changes at every one of eight steps, and must not compile the network anew each time.
    assert counters["stats"]["unique_graphs"] == 2  # a first weight of 0, and any weight


def test_precision_decides_weights_and_must_match(tmp_path: Path) -> None:
    plan = tiny_plan(("supervised",), **SHORT)
    half = Execution(precision=BF16)
    train_run(plan, VOLUMES, tmp_path / "vs", device=CPU, execution=half)
    with pytest.raises(RunError, match="got others: precision was bf16, is fp32; repeat them"):
        check_run(plan, tmp_path / "vs")
    check_run(plan, tmp_path / "vs", dataclasses.replace(half, channels_last=True, workers=2))


def test_a_checkpoint_of_another_execution_goes_on(tmp_path: Path) -> None:
    plan = tiny_plan(phases=("supervised",))
    other, folder = Execution(channels_last=True, workers=1), tmp_path / "vs"
    with pytest.raises(Interrupted):
        train_run(plan, VOLUMES, folder, device=CPU, execution=other, listeners=[MOMENTS["asked amid an epoch"]])
    train_run(plan, VOLUMES, folder, device=CPU)
    assert list(network_of(finished_checkpoint(folder / "supervised"), best=False).state_dict())
