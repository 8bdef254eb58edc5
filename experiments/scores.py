"""What experiments/arms.py and ladder.py leave of an arm: its scores by seed and case, and how long it trained."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from challenge.contract import Structure


@dataclass(frozen=True)
class Scores:
    """An arm's scores: arrays `(seeds, cases)`, of these seeds and cases, cases in the same order in every arm."""

    seeds: list[int]
    cases: list[str]
    dice: np.ndarray
    assd_mm: np.ndarray
    empty: np.ndarray
    volume_ratio: np.ndarray


def read_scores(out: Path, arm: str, structure: Structure, cohort: str) -> Scores | None:
    """Read an arm's scores of every seed; None if there are none."""
    files = sorted((out / "arms" / arm).glob(f"seed*/{structure.key}_{cohort}.json"), key=seed_of)
    if not files:
        return None
    seeds = [json.loads(path.read_text()) for path in files]
    cases = sorted(seeds[0])

    def values(name: str) -> np.ndarray:
        return np.array([[scores[case][name] for case in cases] for scores in seeds], dtype=float)

    return Scores(
        [seed_of(path) for path in files],
        cases,
        values("dice"),
        values("assd_mm"),
        values("empty"),
        values("volume_ratio"),
    )


def seed_of(path: Path) -> int:
    """Return the seed of a file or folder in `seed{S}`."""
    return int(path.parent.name.removeprefix("seed"))


def training_minutes(out: Path, arm: str, structure: Structure) -> float | None:
    """Return how long a seed of an arm trained, all phases that led to it, mean over its seeds; None if unknown."""
    cards = [json.loads(path.read_text()) for path in (out / "arms" / arm).glob(f"seed*/{structure.key}.json")]
    seconds = [sum(card["seconds"].values()) for card in cards if "seconds" in card]
    return float(np.mean(seconds)) / 60 if seconds else None


def paired(one: Scores, other: Scores, *, whole: bool = False) -> np.ndarray | None:
    """Return one arm's Dice minus another's, `(seeds, cases)`, of the seeds that both have; None if there are none.

    With `whole`, every seed of the one is compared with the other's mean over its seeds: the oracle is trained once.
    """
    if whole:
        return np.asarray(one.dice - other.dice.mean(axis=0))
    shared = [seed for seed in one.seeds if seed in other.seeds]
    rows, others = ([scores.seeds.index(seed) for seed in shared] for scores in (one, other))
    return np.asarray(one.dice[rows] - other.dice[others]) if shared else None
