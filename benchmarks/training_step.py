"""A training step side by side with a plain loop: the paper's batches, both structures, both phases.

    python benchmarks/training_step.py                      one step after a first one, three pairs of runs
    python benchmarks/training_step.py --steps 3 --pairs 5

Ours is `pipeline.training` as `train` runs it, its patches cut from volumes. The plain loop does the same
mathematics as a textbook writes it, on patches that lie ready: the same network of torch's layers, MONAI's DiceCELoss,
Adam, the default allocator.
Every run is a process of its own, ours and the plain one in turn, so that each has its own allocator and its own peak
of memory, and the machine's drift meets both alike. Ratios are taken pair by pair: quote those, not the seconds.
The second ratio is of processor time, which other work on the machine disturbs least.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace

import click
import numpy as np
import torch

from challenge.contract import STRUCTURES, Structure
from pipeline.config import PAPER
from pipeline.data.sampling import TrainingVolume
from pipeline.model.convolutions import DilatedConv3d, FirstAxisConv3d, PointwiseConv3d
from pipeline.model.domain import DomainClassifier
from pipeline.model.enet import ENet3d
from pipeline.model.prelu import PReLU
from pipeline.runtime.allocator import keep_large_blocks
from pipeline.training.listeners import Listener
from pipeline.training.phases import ADAPTATION, PHASES, SUPERVISED
from pipeline.training.state import PhaseState

PEERS = {
    "ours": "pipeline.training, glibc keeps large blocks",
    "plain": "the same network of torch's layers, MONAI's DiceCELoss, glibc's default allocator",
}
TIMED = (SUPERVISED.key, ADAPTATION.key)


class Enough(Exception):
    """Ends a phase once its steps are timed."""


class Clock(Listener):
    """Notes when each step ends, by the clock and in processor time, and ends the phase after some."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._ended: list[tuple[float, float]] = []

    def stepped(self, state: PhaseState | None = None) -> None:
        self._ended.append((time.perf_counter(), time.process_time()))
        if len(self._ended) > self._steps:
            raise Enough

    def seconds(self) -> list[float]:
        """Return the mean step after the first one: seconds by the clock, seconds of processor time."""
        return [(last - first) / self._steps for first, last in zip(self._ended[0], self._ended[-1], strict=True)]


def random_volume(case: str, side: int) -> TrainingVolume:
    """A cube of noise with a cube of the structure in it, `(D, H, W)`."""
    volume = np.random.default_rng(0).normal(size=(side, side, side)).astype(np.float32)
    mask = np.zeros(volume.shape, dtype=np.bool_)
    mask[side // 2 - 6 : side // 2 + 6, side // 2 - 6 : side // 2 + 6, side // 2 - 6 : side // 2 + 6] = True
    return TrainingVolume(case, volume, mask)


def run_ours(structure: Structure, phase: str, steps: int, clock: Clock) -> None:
    """Run the pipeline's own loop until the clock has had enough."""
    keep_large_blocks()
    trained = PHASES[phase]
    paper = trained.recipe_type.paper(structure)
    recipe = replace(paper, patches_per_volume=(steps + 1) * PAPER.plans[structure].batch_size)
    volumes = [random_volume(f"case {i}", recipe.window + 32) for i in range(2)]
    parts = dict.fromkeys(trained.reads, volumes)
    network = None if trained.starts_from is None else ENet3d()
    rng = np.random.default_rng(0)
    trained.training_function()(structure, network, parts, recipe, rng=rng, listeners=[clock])


def with_torch_s_layers(network: ENet3d) -> ENet3d:
    """Replace the layers that have a faster form of ours by torch's own, with the same parameters."""
    for module in list(network.modules()):
        for name, layer in list(module.named_children()):
            if type(layer) is PReLU:
                setattr(module, name, torch.nn.PReLU(layer.num_parameters))
            elif type(layer) in (DilatedConv3d, FirstAxisConv3d, PointwiseConv3d):
                plain = torch.nn.Conv3d(
                    layer.in_channels,
                    layer.out_channels,
                    layer.kernel_size,
                    padding=layer.padding,
                    dilation=layer.dilation,
                    bias=False,
                )
                setattr(module, name, plain)
    return network


def run_plain(structure: Structure, phase: str, steps: int, clock: Clock) -> None:
    """Run a textbook's loop until the clock has had enough."""
    from monai.losses import DiceCELoss

    plan = PAPER.plans[structure]
    cube = random_volume("case", plan.window)
    assert cube.mask is not None
    patches = torch.from_numpy(cube.volume).expand(plan.batch_size, 1, -1, -1, -1).contiguous()
    masks = torch.from_numpy(cube.mask).expand_as(patches)
    network = with_torch_s_layers(ENet3d()).train()
    classifier = DomainClassifier(network.channels[-1])
    optimiser = torch.optim.Adam([*network.parameters(), *classifier.parameters()], lr=PAPER.supervised_rate)
    segmentation_loss = DiceCELoss(
        include_background=False, to_onehot_y=True, softmax=True, batch=True, lambda_dice=PAPER.dice_weight
    )
    domain_loss = torch.nn.BCEWithLogitsLoss()
    sources = plan.batch_size // 2 if phase == "adaptation" else plan.batch_size
    is_target = (torch.arange(plan.batch_size) >= sources).float()
    for _ in range(steps + 1):
        encoded = network.encoder(patches)
        loss = segmentation_loss(network.decoder(encoded)[:sources], masks[:sources])
        if phase == "adaptation":
            loss = loss + domain_loss(classifier(encoded.features, 1.0), is_target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        clock.stepped()


def run_once(who: str, structure: Structure, phase: str, steps: int) -> dict[str, float]:
    """Time one phase's step in this process: seconds a step after the first, peak resident memory."""
    clock = Clock(steps)
    with suppress(Enough):
        (run_ours if who == "ours" else run_plain)(structure, phase, steps, clock)
    seconds, processor = clock.seconds()
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": seconds, "processor": processor, "peak_gb": peak_gb}


def in_a_process(who: str, structure: Structure, phase: str, steps: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--steps", str(steps), "--child", who, structure.key, phase]
    default_allocator = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=default_allocator)
    result: dict[str, float] = json.loads(done.stdout)
    return result


@click.command()
@click.option("--steps", type=click.IntRange(min=1), default=1, show_default=True, help="Timed steps of a run.")
@click.option("--pairs", type=click.IntRange(min=1), default=3, show_default=True, help="How often each is run.")
@click.option("--child", type=(click.Choice(list(PEERS)), str, click.Choice(TIMED)), hidden=True)
def main(steps: int, pairs: int, child: tuple[str, str, str] | None) -> None:
    """Time the paper's training steps beside a plain loop's."""
    by_key = {s.key: s for s in STRUCTURES}
    if child:
        who, key, phase = child
        click.echo(json.dumps(run_once(who, by_key[key], phase, steps)))
        return
    click.echo(f"{torch.get_num_threads()} threads, {pairs} pairs of runs, {steps} steps each after a first one")
    for who, meaning in PEERS.items():
        click.echo(f"{who}: {meaning}")
    for structure in STRUCTURES:
        for phase in TIMED:
            runs: dict[str, list[dict[str, float]]] = {who: [] for who in PEERS}
            for _ in range(pairs):
                for who, done in runs.items():
                    done.append(in_a_process(who, structure, phase, steps))
            ratios = {
                name: [theirs[name] / ours[name] for ours, theirs in zip(*runs.values(), strict=True)]
                for name in ("seconds", "processor")
            }
            told = [f"{statistics.median(r):.2f} ({min(r):.2f} to {max(r):.2f})" for r in ratios.values()]
            seconds = {who: statistics.median(r["seconds"] for r in done) for who, done in runs.items()}
            peaks = {who: max(r["peak_gb"] for r in done) for who, done in runs.items()}
            plan = PAPER.plans[structure]
            half = plan.batch_size // 2
            batch = f"{half} + {half}" if phase == "adaptation" else str(plan.batch_size)
            click.echo(
                f"{structure.title:8}{phase:11}{batch:>5} x {plan.window}^3: ours {seconds['ours']:.2f} s, "
                f"{peaks['ours']:.2f} GB; plain {seconds['plain']:.2f} s, {peaks['plain']:.2f} GB; "
                f"plain/ours {told[0]}, in processor time {told[1]}"
            )


if __name__ == "__main__":
    main()
