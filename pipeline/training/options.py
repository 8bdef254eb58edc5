"""Values that options of the commands can take. Needs no torch."""

from dataclasses import dataclass
from pathlib import Path

ALL = "all"
AUTO, FP32, BF16 = "auto", "fp32", "bf16"
# Half precision (fp16) is left out: it would need a loss scale that grows and shrinks, and that checkpoints carry.
PRECISIONS = (AUTO, FP32, BF16)
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
