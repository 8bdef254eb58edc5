"""Three phases as two processes of one group compute them: `python -m tests.ranks_run FOLDER`.

The two are forked, so that torch is imported once, and do what `torchrun` would have them do:

1. phases 1 and 2 and a round of self-training without dropout, because each process drops other channels; what came
   out in `FOLDER/plain{rank}.pt`
2. a run in `FOLDER/whole`
3. the same in `FOLDER/stopped`, where the second process alone is told to stop amid an epoch; then on to the end
"""

import os
import signal
import socket
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import torch._dynamo  # as in tiny_run
from torch import nn

from challenge.contract import VS
from challenge.signals import Interrupted
from pipeline.model.enet import ENet3d
from pipeline.runtime.distributed import ALONE, Ranks, joined_ranks
from pipeline.training import self_training
from pipeline.training.adaptation import train_adaptation
from pipeline.training.execution import Execution
from pipeline.training.recipes import BOTH, AdaptationRecipe, SelfTrainingRecipe, SupervisedRecipe
from pipeline.training.run import train_run
from pipeline.training.self_training import train_self_training
from pipeline.training.state import Trained
from pipeline.training.supervised import train_supervised
from tests import tiny_run
from tests.tiny_run import Ender, ball, labelled_truly

CPU = torch.device("cpu")
# Nine patches a domain: batches of 4, 4 and 1, of which the second process gets 2, 2 and none. The rates are small,
# because Adam's first steps are the gradients' signs, which rounding decides where a gradient is next to nothing.
RECIPE = SupervisedRecipe(24, 4, epochs=2, patches_per_volume=3, channels=(4, 8, 16), learning_rate=1e-4)
ADAPTATION_RECIPE = AdaptationRecipe(24, 4, epochs=2, patches_per_volume=3, learning_rate=2e-5)
ROUND_RECIPE = SelfTrainingRecipe(
    24, 4, epochs=2, patches_per_volume=3, learning_rate=2e-6, separate_statistics=True, teacher=BOTH
)
SOURCE = [ball(f"crossmoda_{i}", i) for i in (1, 2, 3)]
VALIDATION = [ball(f"crossmoda_{i}", i) for i in (96, 97, 98)]
TARGET = [ball(f"crossmoda_{i}", i, inverted=True) for i in (106, 107, 108)]
BRIGHT = [ball(f"crossmoda_{i}", i) for i in (106, 107, 108)]  # as TARGET, with masks
VOLUMES = {"source_training": SOURCE, "source_validation": VALIDATION, "target_training": TARGET}


def three_phases(ranks: Ranks = ALONE) -> tuple[Trained, Trained, Trained]:
    torch.manual_seed(5)
    network = ENet3d(channels=RECIPE.channels)
    for module in network.modules():
        if isinstance(module, nn.Dropout3d):
            module.p = 0.0
    execution = Execution(ranks=ranks)
    first = train_supervised(VS, network, VOLUMES, RECIPE, rng=np.random.default_rng(0), execution=execution)
    second = train_adaptation(
        VS, first.last, VOLUMES, ADAPTATION_RECIPE, rng=np.random.default_rng(1), execution=execution
    )
    with patch.object(self_training, "label_target", labelled_truly(BRIGHT)):
        third = train_self_training(
            VS, first.last, VOLUMES, ROUND_RECIPE, rng=np.random.default_rng(2), execution=execution
        )
    return first, second, third


def run(folder: Path, ranks: Ranks, *listeners: Ender) -> int:
    """A run with dropout; return its exit code."""
    plan = tiny_run.tiny_plan(batch_size=4, patches_per_volume=4, validate_every=2)
    try:
        train_run(plan, tiny_run.VOLUMES, folder, device=CPU, execution=Execution(ranks=ranks), listeners=listeners)
    except Interrupted as interrupted:
        return interrupted.exit_code
    return 0


def one_of_two(folder: Path) -> None:
    with joined_ranks(CPU) as (ranks, _):
        phases = three_phases(ranks)
        plain = [
            {
                "losses": [epoch.losses for epoch in phase.history],
                "dice": [epoch.validation.dice for epoch in phase.history if epoch.validation is not None],
                "weights": phase.last.state_dict(),
            }
            for phase in phases
        ]
        torch.save(plain, folder / f"plain{ranks.rank}.pt")
        codes = [run(folder / "whole", ranks)]
        ender = Ender("adaptation", 2, 2, "", signal.SIGTERM)
        codes.append(run(folder / "stopped", ranks, *([] if ranks.is_first else [ender])))
        codes.append(run(folder / "stopped", ranks))
        (folder / f"codes{ranks.rank}").write_text(" ".join(map(str, codes)))


def main(folder: Path) -> int:
    torch.set_num_threads(1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    children = []
    for rank in range(2):
        if not (child := os.fork()):
            code = 1
            try:
                os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
                os.environ["MASTER_PORT"] = str(port)
                one_of_two(folder)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    return max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
