"""Values that options of the commands can take. Needs no torch."""

ALL = "all"
AUTO, FP32, BF16 = "auto", "fp32", "bf16"
# Half precision (fp16) is left out: it would need a loss scale that grows and shrinks, and that checkpoints carry.
PRECISIONS = (AUTO, FP32, BF16)
DEVICES = (AUTO, "cpu", "cuda")
