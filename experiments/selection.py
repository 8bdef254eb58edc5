"""Choosing a network without target labels, against the choice that labels would make. Phantoms, not patients.

    python -m experiments.selection --out experiment

Takes every phase of every arm and seed in OUT/runs that has ended, its last and its best network, and the networks in
OUT/arms that have the target's statistics. The oracle is left out: it has seen labels. Each network's scores are a
file, so that the same command resumes; networks that are copies of another count once.

The label-free scores are of a few unlabelled target training scans, in windows that do not overlap: 4 scans by default,
three predictions of each, which is less work than the true Dice. That is of the 8 tuning phantoms on their own grids,
with the components that anatomy allows, for every network alike; scores that ladder.py has left are taken over.

    OUT/selection/{N}_scans/{structure}/{sha256}.json     one network: where it comes from, its scores, its Dice
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from scipy.stats import spearmanr

from challenge.contract import COCHLEA, STRUCTURES, TARGET_SUFFIX, VS, Structure
from experiments.arms import SCORED, cohort, network_scores, write_json
from pipeline.adaptation.augmentations import AUGMENTATIONS
from pipeline.adaptation.randomisation import randomise
from pipeline.adaptation.selection import LabelFreeScores, mask_agreement, volume_range_agreement
from pipeline.config import OURS, PAPER
from pipeline.data.cache import normalised_volume, structure_mask
from pipeline.data.components import fill_holes, kept_components
from pipeline.data.intensities import intensities_of
from pipeline.inference.segment import predict_structure
from pipeline.model.rules import CARD_KEY, PostProcessing
from pipeline.model.weights import Segmenter, load_segmenter
from pipeline.runtime.allocator import keep_large_blocks
from pipeline.training.checkpoint import network_of, read_checkpoint, saved_progress
from pipeline.training.settings import RunError, read_settings

# Contrasts under which a prediction must not change, without changes of geometry.
CONTRASTS = {
    structure: replace(AUGMENTATIONS[name], untouched=0.0, affine=0.0)
    for structure, name in ((VS, "contrast"), (COCHLEA, "mild"))
}
# Exists where there is a domain classifier: 1 where its accuracy is one half, 0 where it is never or always right.
CONFUSION = "domain_confusion"
SCORES = ("source_dice", "volume", "flip", "contrast", "product", CONFUSION)
ORACLE = "oracle"
# A ranking of fewer networks says nothing.
_FEWEST = 3
# So many of the best and of the worst networks are printed with all their scores.
_TOLD = 3
TUNING = next(scored for scored in SCORED if scored.name == "tuning")


@dataclass(frozen=True)
class Candidate:
    """A network to choose or not: where it comes from, and what is known of it before anything is predicted."""

    name: str
    segmenter: Segmenter
    source_dice: float
    confusion: float | None

    @property
    def digest(self) -> str:
        """Return the sha256 of its weights, as on a card."""
        return hashlib.sha256(save(dict(self.segmenter.network.state_dict()))).hexdigest()


def candidates(out: Path, structure: Structure) -> Iterator[Candidate]:
    """Yield the networks of the runs that have ended, then those in OUT/arms with the target's statistics."""
    for path in sorted((out / "runs").rglob(f"{structure.key}/*/checkpoint.pt")):
        arm = path.relative_to(out / "runs").parts
        if arm[0] != ORACLE:
            yield from of_checkpoint(path, structure, " ".join((*arm[:-3], arm[-2])))
    for path in sorted((out / "arms").glob(f"*/seed*/{structure.key}.json")):
        card = json.loads(path.read_text())
        source = path.with_name(f"{structure.key}_source_validation.json")
        if "statistics" in card["departures_from_paper"] and source.exists():
            scores = json.loads(source.read_text()).values()
            name = " ".join(path.relative_to(out / "arms").parts[:-1])
            segmenter = load_segmenter(path.parent, structure, torch.device("cpu"))
            yield Candidate(name, segmenter, float(np.mean([case["dice"] for case in scores])), None)


def of_checkpoint(path: Path, structure: Structure, name: str) -> Iterator[Candidate]:
    """Yield a phase's last and its best network, if the phase has ended."""
    try:
        checkpoint, settings = read_checkpoint(path), read_settings(path.parent)
    except RunError as error:
        click.echo(f"left out: {error}", err=True)
        return
    progress = saved_progress(checkpoint)
    if progress["epoch"] < checkpoint["epochs"]:
        return
    window = int(settings["settings"]["recipe"]["window"])
    for which, number in (("last", progress["epoch"]), ("best", progress["best_epoch"])):
        epoch = progress["history"][number - 1]
        accuracy = epoch["losses"].get("domain_accuracy")
        network = network_of(checkpoint, best=which == "best")
        yield Candidate(
            f"{name} {which}",
            Segmenter(structure, network, window, torch.device("cpu"), card={}),
            float(np.mean(list(epoch["validation"]["dice"].values()))),
            None if accuracy is None else 1 - 2 * abs(accuracy - 0.5),
        )


def label_free_scores(
    candidate: Candidate, volumes: Sequence[NDArray[np.float32]], expected: Sequence[float]
) -> LabelFreeScores:
    """Score a network on unlabelled target volumes `(D, H, W)`; `expected` are the source labels' voxels."""
    structure, rng = candidate.segmenter.structure, np.random.default_rng(0)  # the same contrasts for every network
    sizes, flips, contrasts = [], [], []
    for volume in volumes:
        mask = predicted(volume, candidate.segmenter)
        mirrored = predicted(np.ascontiguousarray(volume[..., ::-1]), candidate.segmenter)[..., ::-1]
        nothing = np.zeros(volume.shape, dtype=np.bool_)
        other, _, _ = randomise(volume, nothing, intensities_of(volume), CONTRASTS[structure], rng, certain=nothing)
        sizes.append(float(np.count_nonzero(mask)))
        flips.append(mask_agreement(mask, mirrored))
        contrasts.append(mask_agreement(mask, predicted(other, candidate.segmenter)))
    return LabelFreeScores(
        candidate.source_dice,
        volume_range_agreement(sizes, expected),
        float(np.mean(flips)),
        float(np.mean(contrasts)),
    )


def predicted(volume: NDArray[np.float32], segmenter: Segmenter) -> NDArray[np.bool_]:
    """Predict a mask of a volume, both `(D, H, W)`, with the components that anatomy allows."""
    found = predict_structure(volume, segmenter, overlap=0.0) > 0.5
    return fill_holes(kept_components(found, OURS.components[segmenter.structure], [PAPER.spacing_mm] * 3))


def true_dice(candidate: Candidate, data: Path) -> float:
    """Return the mean Dice on the tuning phantoms, with the components that anatomy allows."""
    segmenter = replace(candidate.segmenter, card={CARD_KEY: anatomy(candidate.segmenter.structure)})
    return mean_dice(network_scores(segmenter, data, TUNING))


def anatomy(structure: Structure) -> dict[str, Any]:
    """Return the post-processing that every network gets, as on a card."""
    return PostProcessing(components=OURS.components[structure], fill_holes=True).as_card()


def scored_before(out: Path, structure: Structure) -> dict[str, float]:
    """Return the tuning Dice of networks that arms.py or ladder.py have scored in the same way, by their digests."""
    known = {}
    for path in (out / "arms").glob(f"*/seed*/{structure.key}.json"):
        card, scores = json.loads(path.read_text()), path.with_name(f"{structure.key}_{TUNING.name}.json")
        if card.get(CARD_KEY) == anatomy(structure) and scores.exists():
            known[card["sha256"]] = mean_dice(json.loads(scores.read_text()))
    return known


def mean_dice(scores: Mapping[str, Any]) -> float:
    """Return the mean Dice over cases."""
    return float(np.mean([case["dice"] for case in scores.values()]))


def score_networks(out: Path, structure: Structure, scans: int) -> list[dict[str, Any]]:
    """Score every network that has no file yet; return the files' contents, the networks in order."""
    data, known = out / "data", scored_before(out, structure)
    split = json.loads((data / "split.json").read_text())
    paths = cohort(data, "training/target_training", TARGET_SUFFIX)[:scans]
    volumes = [normalised_volume(path) for path in paths]
    expected = [
        float(np.count_nonzero(structure_mask(data / case["labels"], structure))) for case in split["source_training"]
    ]
    told = {}
    for candidate in candidates(out, structure):
        digest = candidate.digest
        path = out / "selection" / f"{scans}_scans" / structure.key / f"{digest}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            scores = label_free_scores(candidate, volumes, expected)
            named = {name: getattr(scores, name) for name in SCORES if name != CONFUSION}
            truth = known[digest] if digest in known else true_dice(candidate, data)
            write_json(
                path,
                {"name": candidate.name, "scans": scans, **named, CONFUSION: candidate.confusion, "true_dice": truth},
            )
            click.echo(f"{structure.key} {candidate.name}: {truth:.3f}", err=True)
        told.setdefault(digest, json.loads(path.read_text()))
    return list(told.values())


def selection_table(networks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield how well each score ranks networks, which it would have picked, and the Dice lost against the labels' pick.

    Of equal scores, the first network's wins, for the labels too.
    """
    yield "| score | networks | rank correlation with Dice | picks | its Dice | lost against labels |"
    yield "|---|---|---|---|---|---|"
    for score in SCORES:
        having = [network for network in networks if network[score] is not None]
        if len(having) < _FEWEST:
            continue
        truth = [network["true_dice"] for network in having]
        values = [network[score] for network in having]
        correlation = float(spearmanr(values, truth).statistic) if len(set(values)) > 1 < len(set(truth)) else np.nan
        pick = having[int(np.argmax(values))]
        yield (
            f"| {score} | {len(having)} | {correlation:+.2f} | {pick['name']} | {pick['true_dice']:.3f} | "
            f"{max(truth) - pick['true_dice']:.3f} |"
        )


@click.command(context_settings={"show_default": True})
@click.option("--out", type=click.Path(path_type=Path), default=Path("experiment"), help="What arms.py was given.")
@click.option("--scans", type=click.IntRange(min=1), default=4, help="Target training scans for the label-free scores.")
def main(out: Path, scans: int) -> None:
    """Score every network with and without labels, and print the tables; the same command resumes."""
    keep_large_blocks()
    torch.set_num_threads(1)
    for structure in STRUCTURES:
        networks = score_networks(out.resolve(), structure, scans)
        click.echo(f"{structure.title}, phantoms, tuning\n")
        click.echo("\n".join(selection_table(networks)) + "\n")
        ranked = sorted(networks, key=lambda network: network["true_dice"], reverse=True)
        for network in ranked if len(ranked) <= 2 * _TOLD else ranked[:_TOLD] + ranked[-_TOLD:]:
            scores = ", ".join(f"{name} {network[name]:.2f}" for name in SCORES if network[name] is not None)
            click.echo(f"- {network['name']}: Dice {network['true_dice']:.3f}; {scores}")
        click.echo()


if __name__ == "__main__":
    main()
