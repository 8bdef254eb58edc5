"""Both phases on volumes small enough to learn in seconds."""

import copy
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from challenge.contract import COCHLEA, VS
from pipeline.data.sampling import PatchBatch, PatchDraw, TrainingVolume, cut_batch
from pipeline.model.domain import DomainClassifier
from pipeline.model.enet import ENet3d
from pipeline.training import adaptation
from pipeline.training.adaptation import _TwoHeads, train_adaptation
from pipeline.training.epoch_end import validate
from pipeline.training.history import Epoch
from pipeline.training.listeners import Listener
from pipeline.training.phases import CONTROL, PHASES
from pipeline.training.recipes import AdaptationRecipe, ControlRecipe, SupervisedRecipe
from pipeline.training.state import PhaseState, Trained
from pipeline.training.supervised import train_supervised

TINY = SupervisedRecipe(window=16, batch_size=4, epochs=3, patches_per_volume=4)


def ball(case: str, seed: int, inverted: bool = False) -> TrainingVolume:
    """A bright ball of radius 7 somewhere in noise, `(24, 24, 24)`."""
    rng = np.random.default_rng(seed)
    centre = rng.integers(9, 15, size=3)
    distance = np.linalg.norm(np.moveaxis(np.indices((24, 24, 24)), 0, -1) - centre, axis=-1)
    mask = distance < 7
    volume = rng.normal(0, 0.3, mask.shape) + np.where(mask, 2.0, 0.0)
    volume = (volume - volume.mean()) / volume.std()
    return TrainingVolume(case, (-volume if inverted else volume).astype(np.float32), mask)


def narrow() -> ENet3d:
    torch.manual_seed(5)
    return ENet3d(channels=(8, 16, 16))


def trained_on(
    training: list[TrainingVolume],
    validation: list[TrainingVolume],
    recipe: SupervisedRecipe,
    *,
    seed: int = 0,
    network: ENet3d | None = None,
    listeners: tuple[Listener, ...] = (),
) -> Trained:
    volumes = {"source_training": training, "source_validation": validation}
    return train_supervised(VS, network, volumes, recipe, rng=np.random.default_rng(seed), listeners=listeners)


def adapted(
    network: ENet3d,
    source: list[TrainingVolume],
    target: list[TrainingVolume],
    validation: list[TrainingVolume],
    recipe: AdaptationRecipe,
) -> Trained:
    volumes = {"source_training": source, "source_validation": validation, "target_training": target}
    return train_adaptation(VS, network, volumes, recipe, rng=np.random.default_rng(0))


def test_every_phase_s_record_is_whole() -> None:
    assert [(phase.key, phase.stream) for phase in PHASES.values()] == [
        ("supervised", 0),
        ("adaptation", 1),
        ("control", 2),
        ("self_training_1", 3),
        ("self_training_2", 4),
        ("self_training_3", 5),
        ("mean_teacher", 6),
    ]
    for key, phase in PHASES.items():
        assert phase.key == key
        assert callable(phase.training_function())
        assert phase.starts_from is None or phase.starts_from in PHASES
    assert [phase.key for phase in PHASES.values() if phase.is_the_papers] == ["supervised", "adaptation"]


def test_the_papers_recipe() -> None:
    # Section 3: 128 and 64; 4 and 16; 60 epochs for both phases; 1.0e-3 and 6.7e-5; w_d is 3.4
    for structure, window, batch_size in ((VS, 128, 4), (COCHLEA, 64, 16)):
        for recipe_type, rate in ((SupervisedRecipe, 1.0e-3), (AdaptationRecipe, 6.7e-5)):
            recipe = recipe_type.paper(structure)
            assert (recipe.window, recipe.batch_size, recipe.epochs) == (window, batch_size, 60)
            assert (recipe.learning_rate, recipe.dice_weight) == (rate, 3.4)
            assert recipe.departures(structure) == {}


def test_departures_from_the_paper_are_named() -> None:
    recipe = SupervisedRecipe(window=64, batch_size=4, epochs=60, mirror=True)
    assert recipe.departures(VS) == {"window": "64 instead of 128", "mirror": "True instead of False"}


class Threshold(nn.Module):
    """Structure wherever the patch is above a value."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(x), x - self.value], dim=1)


def test_validation_takes_the_inference_form_and_its_dice_is_the_network_s(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    array = np.random.default_rng(0).normal(size=(24, 20, 16)).astype(np.float32)
    case, network, cpu = TrainingVolume("a", array, array > 1), ENet3d(channels=(4, 8, 16)), torch.device("cpu")
    generator = torch.get_rng_state()
    scores, formed = validate(network, [case], VS, TINY, cpu), []
    assert torch.equal(torch.get_rng_state(), generator)  # or a resumed run would not be the uninterrupted one
    monkeypatch.setattr("pipeline.training.epoch_end.for_inference", lambda s: (formed.append(s), s)[1])
    assert validate(network, [case], VS, TINY, cpu).dice == pytest.approx(scores.dice, abs=1e-3)
    assert len(formed) == 1
    assert 0.05 < scores.dice["a"] < 0.9


def test_validation_is_the_whole_volumes_dice() -> None:
    array = np.zeros((20, 24, 40), dtype=np.float32)
    array[4:8, 4:8, 4:8] = 1  # 64 voxels
    array[4:8, 4:8, 30:32] = 3  # 32 voxels
    either, bright = TrainingVolume("a", array, array > 0), TrainingVolume("b", array, array > 2)
    scores = validate(Threshold(0.5), [either, bright], VS, TINY, torch.device("cpu"))  # type: ignore[arg-type]
    assert scores.dice == {"a": 1.0, "b": 0.5}  # b: 2 * 32 / (96 + 32)
    assert scores.mean_dice == 0.75
    assert scores.volume_ratio == pytest.approx((96 + 96) / (96 + 32))
    collapsed = validate(Threshold(9.0), [either], VS, TINY, torch.device("cpu"))  # type: ignore[arg-type]
    assert (collapsed.mean_dice, collapsed.volume_ratio) == (0.0, 0.0)
    with pytest.raises(ValueError, match="c: expected a mask with voxels to validate against"):
        validate(Threshold(0.5), [TrainingVolume("c", array)], VS, TINY, torch.device("cpu"))  # type: ignore[arg-type]


def test_phase_1_overfits_one_case() -> None:
    recipe = SupervisedRecipe(24, 1, epochs=8, patches_per_volume=10, learning_rate=1e-2, validate_every=3)
    case = ball("case_1", 1)
    torch.manual_seed(5)
    network = ENet3d(channels=(16, 32, 32))
    seen: list[Epoch] = []

    class Follower(Listener):
        def epoch_finished(self, state: PhaseState) -> None:
            seen.append(state.history[-1])

    trained = trained_on([case], [case], recipe, network=network, listeners=(Follower(),))
    assert tuple(seen) == trained.history
    assert [e.number for e in seen if e.validation is not None] == [3, 6, 8]
    best = validate(trained.best, [case], VS, recipe, torch.device("cpu"))
    assert best.mean_dice > 0.95
    assert best.volume_ratio == pytest.approx(1, abs=0.1)
    losses = seen[-1].losses
    assert losses["loss"] < 0.3 * seen[0].losses["loss"]
    assert losses["loss"] == pytest.approx(losses["cross_entropy"] + 3.4 * losses["dice_loss"], rel=1e-4)


def test_the_best_epoch_is_kept_not_the_last() -> None:
    # A rate that is far too high at first: whichever epoch scores best is the one returned.
    recipe = SupervisedRecipe(window=16, batch_size=4, epochs=6, patches_per_volume=6, learning_rate=0.02)
    case = ball("case_1", 1)
    trained = trained_on([case], [case], recipe, seed=3, network=narrow())
    dices = [e.validation.mean_dice for e in trained.history if e.validation is not None]
    assert trained.best_epoch == 1 + int(np.argmax(dices))
    again = validate(trained.best, [case], VS, recipe, torch.device("cpu"))
    assert again.mean_dice == max(dices)
    last = validate(trained.last, [case], VS, recipe, torch.device("cpu"))
    assert last.mean_dice == dices[-1]


def test_the_rate_falls_along_a_cosine_once_an_epoch() -> None:
    case = ball("case_1", 1)
    trained = trained_on([case], [case], TINY, network=narrow())
    # 1e-3 (1 + cos(pi k / 3)) / 2 for k = 0, 1, 2
    assert [e.rate for e in trained.history] == pytest.approx([1e-3, 0.75e-3, 0.25e-3])


def test_the_same_seed_trains_the_same_weights() -> None:
    volumes = [ball("case_1", 1), ball("case_2", 2)]

    def train(seed: int) -> dict[str, torch.Tensor]:
        recipe = SupervisedRecipe(window=16, batch_size=2, epochs=1, mirror=True)
        return trained_on(volumes, volumes, recipe, seed=seed).last.state_dict()

    first, second, other = train(1), train(1), train(2)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["decoder.fullconv.weight"], other["decoder.fullconv.weight"])


def test_a_loss_that_is_no_number_names_the_cases() -> None:
    case = ball("case_9", 1)
    recipe = SupervisedRecipe(window=16, batch_size=1, epochs=1, dice_weight=float("nan"))
    with pytest.raises(FloatingPointError, match=r"epoch 1, cases case_9: expected a finite loss, got nan"):
        trained_on([case], [case], recipe, network=narrow())


def test_phase_2_half_and_half_with_the_adversary_s_health() -> None:
    source = [ball(f"case_{i}", i) for i in (1, 2, 3)]
    target = [ball(f"case_{i}", i, inverted=True) for i in (106, 107)]
    network = narrow()
    shapes: list[tuple[int, ...]] = []
    network.encoder.register_forward_pre_hook(lambda module, inputs: shapes.append(tuple(inputs[0].shape)))
    before = copy.deepcopy(network.state_dict())
    recipe = AdaptationRecipe(16, 4, epochs=4, patches_per_volume=3, validate_every=4, learning_rate=1e-3)
    trained = adapted(network, source, target, source[:1], recipe)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert not torch.equal(
        before["encoder.regular3_1.branch.0.weight"], trained.last.encoder.regular3_1.branch[0].weight
    )
    # Six target patches an epoch, two a batch: three batches of 2 + 2.
    assert [s for s in shapes if s[0] == 4] == [(4, 1, 16, 16, 16)] * 12
    assert list(trained.history[0].losses) == [
        "loss",
        "cross_entropy",
        "dice_loss",
        "domain_loss",
        "domain_accuracy",
        "grl_weight",
    ]
    for epoch in trained.history:
        losses = epoch.losses
        supervised = losses["cross_entropy"] + 3.4 * losses["dice_loss"]
        assert losses["loss"] == pytest.approx(supervised + losses["domain_loss"], rel=1e-4)
    # Steps 0, 1, 2 of 12, and 9, 10, 11
    for epoch, first in ((trained.history[0], 0), (trained.history[3], 9)):
        ramp = [2 / (1 + math.exp(-10 * step / 12)) - 1 for step in range(first, first + 3)]
        assert epoch.losses["grl_weight"] == pytest.approx(np.mean(ramp), rel=1e-5)
    assert [e.rate for e in trained.history][:2] == pytest.approx([1e-3, 1e-3 * (1 + math.cos(math.pi / 4)) / 2])


@pytest.mark.parametrize(("early", "channels"), [(False, 16), (True, 12)])
def test_the_adversary_s_gradient_begins_where_it_taps(early: bool, channels: int) -> None:
    network = ENet3d(channels=(8, 12, 16))
    classifier = DomainClassifier(channels, grid=1)
    _, domain_logits = _TwoHeads(network, classifier, early)(torch.randn(2, 1, 16, 16, 16), 1.0)
    domain_logits.sum().backward()

    def is_reached(part: nn.Module) -> bool:
        return any(p.grad is not None and bool(p.grad.any()) for p in part.parameters())

    assert is_reached(network.encoder.downsample1_0)
    assert is_reached(network.encoder.dilated3_8) is not early
    assert not is_reached(network.decoder)


def test_phase_2_does_not_look_at_target_labels() -> None:
    source = [ball(f"case_{i}", i) for i in (1, 2)]
    with_masks = [ball(f"case_{i}", i, inverted=True) for i in (106, 107)]
    without = [TrainingVolume(v.case, v.volume) for v in with_masks]
    recipe = AdaptationRecipe(window=16, batch_size=4, epochs=1, patches_per_volume=2)
    network = narrow()
    first, second = (
        adapted(network, source, target, source, recipe).last.state_dict() for target in (with_masks, without)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_phase_2_wants_an_even_batch() -> None:
    volumes = [ball("case_1", 1)]
    with pytest.raises(ValueError, match="batch size: expected an even number, half of it for each domain, got 3"):
        adapted(narrow(), volumes, volumes, volumes, AdaptationRecipe(16, 3))


def test_a_control_starts_from_a_network() -> None:
    with pytest.raises(ValueError, match="control: expected a network to start from, got none"):
        train_supervised(
            VS,
            None,
            {"source_training": [], "source_validation": []},
            ControlRecipe(16, 2),
            rng=np.random.default_rng(0),
            phase=CONTROL,
        )


def test_the_adversary_s_source_patches_are_augmented_and_its_target_patches_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[list[bool]] = []

    def cut(draws: Iterator[list[PatchDraw]], workers: int) -> Iterator[PatchBatch]:
        for batch in draws:
            drawn.append([draw.augment is not None for draw in batch])
            yield cut_batch(batch)

    monkeypatch.setattr(adaptation, "cut_batches", cut)
    source = [ball("case_1", 1)]
    recipe = AdaptationRecipe(window=16, batch_size=4, epochs=1, patches_per_volume=2, augmentation="contrast")
    adapted(narrow(), source, [ball("case_106", 106, inverted=True)], source, recipe)
    assert drawn == [[True, True, False, False]]
