"""Every number of the paper, and every choice of ours, as two named blocks of frozen records.

`PAPER` is stated by the paper and followed to the letter; `OURS` fills what it leaves open, each with its reason.
"""

from dataclasses import dataclass, field

from challenge.contract import COCHLEA, VS, Structure

# The parts of the data, as split files and settings name them.
SOURCE_TRAINING, SOURCE_VALIDATION, TARGET_TRAINING = "source_training", "source_validation", "target_training"
SPLIT_PARTS = (SOURCE_TRAINING, SOURCE_VALIDATION, TARGET_TRAINING)
# ENet halves a patch three times: sides are multiples of this.
SIDE_MULTIPLE = 8
# Far above the paper's 128 voxels; more is a mistake, and could exhaust the memory.
LARGEST_WINDOW = 256
# Which network of a phase: the best by source validation, or as the last epoch left it.
BEST, LAST = "best", "last"
# Where the adversary can take its features: the encoder's output, or its first stage's.
FEATURE_LAYERS = ENCODER_LAYER, EARLY_LAYER = "encoder", "early"
# What a network sees of a patch: its voxels, MIND-SSC descriptors of them (`pipeline.model.mind`) that reach 2 voxels
# or, the fine ones, 1 voxel far, or voxels and those that reach 2.
INPUTS = VOLUME_INPUT, MIND_INPUT, FINE_MIND_INPUT, BOTH_INPUTS = "volume", "mind", "mind-fine", "both"
# What to keep of a predicted mask: every component, the largest, or the largest and another one far from it.
COMPONENTS = EVERY, LARGEST, ONE_A_SIDE = "every", "largest", "one-a-side"


@dataclass(frozen=True)
class StructurePlan:
    """What the paper states for each structure: the side of the cubic window in voxels, and the batch size."""

    window: int
    batch_size: int


@dataclass(frozen=True)
class Paper:
    """The paper's numbers. Sources are the sections of Kondo, crossMoDA 2021."""

    # Section 3: "resampled at 0.5 mm sampling pitch for all dimensions"
    spacing_mm: float = 0.5
    # Section 3: "The sizes of the cubic patch are 128 and 64", "The batch sizes are 4 and 16"
    plans: dict[Structure, StructurePlan] = field(
        default_factory=lambda: {
            VS: StructurePlan(window=128, batch_size=4),
            COCHLEA: StructurePlan(window=64, batch_size=16),
        }
    )
    # Section 3: "The number of epochs is 60 for both the supervised learning and domain adaptation phases"
    epochs: int = 60
    # Section 3: "The initial learning rate are 1.0e-3 and 6.7e-5"; the optimiser is Adam, annealed by a cosine
    supervised_rate: float = 1.0e-3
    adaptation_rate: float = 6.7e-5
    # Eq. 1 and Section 3: "The weight w_d in Eq. (1) is 3.4"
    dice_weight: float = 3.4
    # Section 3: source cases 1-95 train, 96-105 validate; target cases 106-210 train. Both ends included.
    source_training_ids: tuple[int, int] = (1, 95)
    source_validation_ids: tuple[int, int] = (96, 105)
    target_training_ids: tuple[int, int] = (106, 210)
    # Section 3, the ranges that Optuna searched
    supervised_rate_range: tuple[float, float] = (1e-5, 0.1)
    adaptation_rate_range: tuple[float, float] = (1e-10, 0.1)
    dice_weight_range: tuple[float, float] = (0.1, 4.0)


@dataclass(frozen=True)
class Ours:
    """Our choices where the paper is silent."""

    # Two channels and a softmax, because the cross entropy is over background and structure.
    classes: int = 2
    # A quarter of a window: four fifths of the time of a half go, and the Gaussian weighting hides the seams.
    overlap: float = 0.25
    # The centre of a window sees its surroundings, its rim does not: nnU-Net's and MONAI's default, sigma = side / 8.
    weighting: str = "gaussian"
    gaussian_sigma: float = 0.125
    # Windows in one pass: from two on, torch takes oneDNN's kernels for the small, dilated convolutions.
    windows_per_pass: dict[Structure, int] = field(default_factory=lambda: {VS: 2, COCHLEA: 8})
    # Compiled networks take oneDNN's kernels for any number: one window of 128^3 is as fast as two and needs less
    # memory, but four of 64^3 take 0.7 of the time of one by one. So many windows, up to this side, go together.
    compiled_together: tuple[int, int] = (4, 64)
    # Reversal weight: Ganin's ramp, times this; Ganin et al. is what the paper cites for the layer.
    grl_weight_max: float = 1.0
    # Before the first fully connected layer: flattening 128 x 16^3 features would need half a million inputs.
    domain_grid: int = 2
    # "the feature maps obtained by the encoder part": its output. "early" takes those of stage 1.
    feature_layer: str = ENCODER_LAYER
    # Half of the source patches are centred in the structure, because most random patches hold none of it.
    structure_fraction: float = 0.5
    # An epoch takes every training volume once, with this many patches from each.
    patches_per_volume: int = 1
    # What anatomy allows of a predicted structure (beyond the paper, off by default): one tumour, a cochlea a side.
    components: dict[Structure, str] = field(default_factory=lambda: {VS: LARGEST, COCHLEA: ONE_A_SIDE})
    # Where batch norm's statistics are re-estimated on the target (off by default): so many patches of each scan.
    statistics_patches: int = 4
    # For `predict --target-statistics`: any number does, a fixed one makes two runs equal.
    statistics_seed: int = 0


PAPER = Paper()
OURS = Ours()
