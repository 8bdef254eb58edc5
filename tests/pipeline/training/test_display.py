"""What stands on stderr while a run goes on."""

import io

import numpy as np
import pytest
import torch
from rich.console import Console

from challenge.contract import VS
from pipeline.model.enet import ENet3d
from pipeline.training import display as training_display
from pipeline.training.display import ProgressDisplay
from pipeline.training.history import Validation
from pipeline.training.phases import ADAPTATION, SUPERVISED, Phase
from pipeline.training.state import PhaseState
from tests.tiny_run import VOLUMES


def state_of(phase: Phase) -> PhaseState:
    """Three epochs of two batches, the first under way."""
    network = ENet3d(channels=(4, 8, 16))
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=3)
    rng = np.random.default_rng(0)
    state = PhaseState(VS, phase, network, optimiser, schedule, rng, epochs=3, batches_per_epoch=2)
    assert next(state.epochs_left()) == 1
    return state


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, to be set."""
    now = [0.0]
    monkeypatch.setattr(training_display.time, "perf_counter", lambda: now[0])
    return now


def step(state: PhaseState, display: ProgressDisplay, **more: float) -> None:
    values = {"loss": 2.5, "cross_entropy": 0.5, "dice_loss": 0.588, **more}
    state.optimiser.step()
    state.add_step(**{name: torch.tensor(value) for name, value in values.items()})
    display.stepped(state)


def test_plain_lines_elsewhere_than_on_a_terminal(clock: list[float]) -> None:
    text, state = io.StringIO(), state_of(SUPERVISED)
    with ProgressDisplay(Console(file=text, soft_wrap=True)) as display:
        display.started(state)
        clock[0] = 30.0
        step(state, display)  # half a minute: nothing to say yet
        clock[0] = 70.0
        step(state, display)
        clock[0] = 80.0
        display.validated(state, VOLUMES["source_validation"][0], np.zeros((24, 24, 24), dtype=np.bool_))
        state.finish_epoch(Validation({"crossmoda_96": 0.7}, 1.1))
        clock[0] = 120.0
        display.epoch_finished(state)
    started, minute, epoch = text.getvalue().splitlines()
    assert started == "VS supervised: 3 epochs of 2 batches"
    assert minute == "VS supervised 1/3: batch 2/2 loss 2.500, 2 min left"  # 35 s a batch, four to go
    # 120 s for an epoch with its validation, two to go
    assert epoch.startswith(
        "VS supervised: epoch 1, rate 1.00e-03, loss 2.5000, cross_entropy 0.5000, dice_loss 0.5880, val"
    )
    assert epoch.endswith("4 min left")


def test_a_bar_that_fits_a_terminal(clock: list[float]) -> None:
    text, state = io.StringIO(), state_of(ADAPTATION)
    console = Console(file=text, force_terminal=True, width=80, legacy_windows=False)
    with ProgressDisplay(console) as display:
        display.started(state)
        clock[0] = 5000.0
        step(state, display, domain_loss=0.69, domain_accuracy=0.5)
        display._bar.refresh()
    # Nothing is cut off, the time left last.
    assert "VS adaptation 1/3" in text.getvalue()
    assert "batch 1/2 loss 2.500 domain acc 0.50, 6 h 57 min left" in text.getvalue()


def test_where_a_phase_is_resumed_or_that_it_is_finished() -> None:
    text, state = io.StringIO(), state_of(SUPERVISED)
    with ProgressDisplay(Console(file=text, soft_wrap=True)) as display:
        state.epoch, state.batches_done, state.steps_done = 1, 1, 3
        display.started(state)
        state.epoch, state.batches_done = 3, 0
        display.started(state)
    assert text.getvalue().splitlines() == [
        "VS supervised: 3 epochs of 2 batches, resumed after epoch 1 and 1 batch",
        "VS supervised: finished, 3 epochs",
    ]
