"""Values that options of the commands can take. Needs no torch."""

from dataclasses import dataclass, field
from pathlib import Path

from challenge.layouts import CROSSMODA_2021, DEFAULT_LAYOUT, NNUNET

ALL = "all"
AUTO, FP32, BF16 = "auto", "fp32", "bf16"
# Half precision (fp16) is left out: it would need a loss scale that grows and shrinks, and that checkpoints carry.
PRECISIONS = (AUTO, FP32, BF16)
# Those whose label maps tell VS and cochlea, and nothing else, and that have training data.
TRAINING_LAYOUTS = (CROSSMODA_2021.name, NNUNET.name)
DEVICES = (AUTO, "cpu", "cuda")


@dataclass(frozen=True)
class RunOptions:
    """The options that `train` and `tune` share; `all` stands for every structure or phase."""

    data: Path
    runs: Path
    structure: str
    phase: str
    epochs: int | None
    recipe: str
    config: Path | None
    split_file: Path | None
    validation_cases: int | None
    device: str
    cache: Path | None
    seed: int
    layout: str = field(default=DEFAULT_LAYOUT, kw_only=True)
