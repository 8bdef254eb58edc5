"""The phantom experiment of docs/results.md: makes the data, trains every arm, scores it. `make experiment` runs it.

    python -m experiments.arms --out experiment --seeds 3 --jobs 2
    python -m experiments.table --out experiment

Each step is a command of `crossmoda-grl`, or leaves a file behind, so that the same command resumes an experiment that
was stopped. Phantoms, not patients.

    OUT/data/training           seed 1: 24 ceT1 with labels, 24 hrT2 without; the same 24 hrT2's labels for the oracle
    OUT/data/source_validation  seed 2: 8 ceT1 with labels, which phases select by
    OUT/data/held_out           seed 3: 20 hrT2 with labels, only for reporting
    OUT/data/tuning             seed 4: 8 hrT2 with labels: to choose what is shipped, and the oracle's validation
    OUT/runs/seed{S}            phases 1 and 2 and the control
    OUT/runs/oracle             phase 1 trained on the target's labels
    OUT/runs/{variant}          phase 2 with one setting changed, from phase 1 of seed 0
    OUT/arms/{arm}/seed{S}      weights, and scores of both target cohorts
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import SimpleITK as sitk
import torch

from challenge.contract import (
    LABEL_SUFFIX,
    SOURCE_SUFFIX,
    STRUCTURES,
    TARGET_SUFFIX,
    Structure,
    files_by_case,
    label_file,
    sorted_cases,
)
from challenge.files import written_whole
from challenge.nifti import read_image, write_image
from evaluation.scoring import score_masks
from pipeline.data.cases import array_from, read_mask, read_scan
from pipeline.inference.segment import segment_case
from pipeline.model.weights import Segmenter, load_segmenter
from pipeline.phantom.cohort import PRESETS, make_case
from pipeline.phantom.contrast import HARDNESS, HRT2
from pipeline.runtime.allocator import keep_large_blocks

ROOT = Path(__file__).resolve().parent.parent
PRESET, LEVEL = "small", "standard"
TRAINING_SEED = 1
# folder of OUT/data -> (seed, source, target, validation cases)
COHORTS = {
    "training": (TRAINING_SEED, 24, 24, 0),
    "source_validation": (2, 8, 0, 0),
    "held_out": (3, 0, 0, 20),
    "tuning": (4, 0, 0, 8),
}


@dataclass(frozen=True)
class Scored:
    """A cohort that arms are scored on: where its scans and label maps lie in OUT/data, and the scans' suffix."""

    name: str
    scans: str
    labels: str
    suffix: str
    only_to_choose: bool = False


SCORED = (
    Scored(
        "source_validation", "source_validation/source_training", "source_validation/source_training", SOURCE_SUFFIX
    ),
    Scored(
        "tuning", "tuning/target_validation", "tuning/target_validation_reference", TARGET_SUFFIX, only_to_choose=True
    ),
    Scored("held_out", "held_out/target_validation", "held_out/target_validation_reference", TARGET_SUFFIX),
)


@dataclass(frozen=True)
class Arm:
    """One row of the table: a phase of a run, with the source's or the target's batch statistics; may it be shipped?

    `anatomy` tells whether its predictions are post-processed; None leaves that to `export`.
    """

    name: str
    runs: str
    phase: str
    target_statistics: bool = False
    may_ship: bool = False
    anatomy: bool | None = None


ARMS = (
    Arm("phase1", "seed{seed}", "supervised"),
    Arm("phase1+statistics", "seed{seed}", "supervised", target_statistics=True),
    Arm("phase2", "seed{seed}", "adaptation", may_ship=True),
    Arm("phase2+statistics", "seed{seed}", "adaptation", target_statistics=True, may_ship=True),
    Arm("control", "seed{seed}", "control"),
    Arm("control+statistics", "seed{seed}", "control", target_statistics=True),
)
ORACLE = Arm("oracle", "oracle", "supervised")
# The paper's method as it is shipped: one seed of phase 2, chosen by the tuning phantoms.
PAPER_ARM = "paper"
# What was tried to improve phase 2; `no_reversal` separates the adversary's effect from that of the shared batches.
VARIANTS = {
    "no_reversal": "grl_weight_max = 0.0",
    "weight_0.1": "grl_weight_max = 0.1",
    "weight_3": "grl_weight_max = 3.0",
    "rate_4e-4": "learning_rate = 4e-4",
    "grid_1": "domain_grid = 1",
    "tap_early": "feature_layer = 'early'",
}


def make_data(data: Path) -> None:
    """Make the cohorts and the two split files; existing cohorts are kept."""
    for name, (seed, source, target, validation) in COHORTS.items():
        if not (data / name / "phantom.json").exists():
            counts = ["--source", source, "--target", target, "--validation", validation]
            command("phantom", "--out", data / name, *counts, "--preset", PRESET, "--hardness", LEVEL, "--seed", seed)
    source = [labelled(data, path, SOURCE_SUFFIX) for path in cohort(data, "training/source_training", SOURCE_SUFFIX)]
    validation = [
        labelled(data, path, SOURCE_SUFFIX) | {"case": f"validation_{number}"}
        for number, path in enumerate(cohort(data, "source_validation/source_training", SOURCE_SUFFIX), start=1)
    ]
    target = cohort(data, "training/target_training", TARGET_SUFFIX)
    tuning = cohort(data, "tuning/target_validation", TARGET_SUFFIX)
    write_json(
        data / "split.json",
        {
            "source_training": source,
            "source_validation": validation,
            "target_training": [unlabelled(data, path) for path in target],
        },
    )
    write_json(
        data / "oracle.json",
        {
            "source_training": [oracle_case(data, path) for path in target],
            "source_validation": [oracle_case(data, path) for path in tuning],
        },
    )


def cohort(data: Path, folder: str, suffix: str) -> list[Path]:
    """List a folder's scans in the order of their cases."""
    scans = files_by_case(data / folder, suffix)
    return [scans[case] for case in sorted_cases(scans)]


def unlabelled(data: Path, scan: Path) -> dict[str, str]:
    """Return a split file's entry of a target scan."""
    return {"case": scan.name.removesuffix(TARGET_SUFFIX), "scan": str(scan.relative_to(data))}


def labelled(data: Path, scan: Path, suffix: str) -> dict[str, str]:
    """Return a split file's entry of a scan with its label map beside it."""
    case = scan.name.removesuffix(suffix)
    return {
        "case": case,
        "scan": str(scan.relative_to(data)),
        "labels": str(scan.with_name(case + LABEL_SUFFIX).relative_to(data)),
    }


def oracle_case(data: Path, scan: Path) -> dict[str, str]:
    """Return the oracle's entry of a target scan; its label map is copied, or made from the seed again."""
    entry = unlabelled(data, scan)
    labels = data / "oracle" / label_file(entry["case"])
    if not labels.exists():
        labels.parent.mkdir(exist_ok=True)
        reference = scan.parent.parent / "target_validation_reference" / label_file(entry["case"])
        image = read_image(scan)
        if reference.exists():
            voxels = sitk.GetArrayFromImage(read_image(reference))
        else:
            case_id = int(entry["case"].rsplit("_", 1)[1])
            painted, voxels, _, _ = make_case(case_id, HRT2, PRESETS[PRESET], HARDNESS[LEVEL], TRAINING_SEED)
            if not np.array_equal(painted, sitk.GetArrayFromImage(image)):
                raise RuntimeError(f"{scan}: expected the voxels of seed {TRAINING_SEED}, got others; remove {data}")
        made = sitk.GetImageFromArray(voxels.astype(np.uint8))
        made.CopyInformation(image)
        write_image(made, labels)
    return {**entry, "labels": str(labels.relative_to(data))}


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    with written_whole(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n")


def command(*arguments: object, threads: int = 1, log: Path | None = None) -> None:
    """Run `crossmoda-grl` with one thread, so that two processes fill two cores."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "crossmoda_grl", *map(str, arguments)]
    if log is None:
        subprocess.run(line, env=environment, check=True)
        return
    with log.open("a") as stream:
        code = subprocess.run(line, env=environment, stdout=stream, stderr=stream).returncode
    if code:
        raise RuntimeError(f"{' '.join(line)}: expected exit code 0, got {code}; {log} says why")


def run_seed(out: Path, structure: Structure, seed: int) -> None:
    """Train phases 1 and 2 and the control; score every arm."""
    runs, log = out / "runs" / f"seed{seed}", out / f"{structure.key}_seed{seed}.log"
    common = train_options(out, structure) | {"--seed": seed, "--split": out / "data" / "split.json"}
    for phase in ("all", "control"):
        command("train", *options(common | {"--runs": runs, "--phase": phase}), log=log)
    for arm in ARMS:
        score_arm(out, arm, structure, seed)


def run_variant(out: Path, structure: Structure, name: str) -> None:
    """Train phase 2 with one setting changed, from phase 1 of seed 0; score it."""
    runs, config = out / "runs" / name, out / f"{name}.toml"
    phase1 = Path(structure.key, "supervised")
    copy_once(out / "runs" / "seed0" / phase1, runs / phase1)
    with written_whole(config) as partial:
        partial.write_text(f"[adaptation]\n{VARIANTS[name]}\n")
    chosen = {"--runs": runs, "--phase": "adaptation", "--config": config, "--split": out / "data" / "split.json"}
    command("train", *options(train_options(out, structure) | chosen), log=out / f"{structure.key}_{name}.log")
    score_arm(out, Arm(name, name, "adaptation"), structure, 0)
    score_arm(out, Arm(f"{name}+statistics", name, "adaptation", target_statistics=True), structure, 0)


def run_oracle(out: Path, structure: Structure) -> None:
    """Train phase 1 on the target's labels, and score it."""
    chosen = {"--runs": out / "runs" / "oracle", "--phase": "supervised", "--split": out / "data" / "oracle.json"}
    command("train", *options(train_options(out, structure) | chosen), log=out / f"{structure.key}_oracle.log")
    score_arm(out, ORACLE, structure, 0)


def train_options(out: Path, structure: Structure) -> dict[str, object]:
    """Return the options of every training command."""
    return {
        "--data": out / "data",
        "--structure": structure.key,
        "--recipe": "cpu",
        "--cache": out / "cache",
        "--device": "cpu",
    }


def options(named: Mapping[str, object]) -> Iterator[object]:
    """Yield names and values in turn."""
    for name, value in named.items():
        yield from (name, value)


def score_arm(out: Path, arm: Arm, structure: Structure, seed: int) -> None:
    """Export an arm's network and score it on each target cohort, into a JSON file."""
    folder = out / "arms" / arm.name / f"seed{seed}"
    run = out / "runs" / arm.runs.format(seed=seed) / structure.key
    if not (folder / f"{structure.key}.json").exists():
        flags = ["--target-statistics"] if arm.target_statistics else []
        if arm.anatomy is not None:
            flags.append("--anatomy" if arm.anatomy else "--no-anatomy")
        command("export", run, "--phase", arm.phase, "--out", folder, *flags)
    for scored in SCORED:
        path = folder / f"{structure.key}_{scored.name}.json"
        if not path.exists() and (arm.may_ship or not scored.only_to_choose):
            write_json(path, scores_of(folder, structure, out / "data", scored))


def copy_paper(out: Path) -> None:
    """Put the shipped `weights/paper` among the arms as `paper`, unless that was done before."""
    copy_once(ROOT / "weights" / "paper", out / "arms" / PAPER_ARM / "seed0")


def copy_once(source: Path, folder: Path) -> None:
    """Copy a folder, whole or not at all; one that is there is kept."""
    if not folder.exists():
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial, ignore=shutil.ignore_patterns(".lock"))
        partial.rename(folder)


def scores_of(weights: Path, structure: Structure, data: Path, scored: Scored) -> dict[str, Any]:
    """Score the network of a folder of weights on a cohort: as `network_scores`."""
    return network_scores(load_segmenter(weights, structure, torch.device("cpu")), data, scored)


def network_scores(segmenter: Segmenter, data: Path, scored: Scored) -> dict[str, Any]:
    """Score one network on a cohort's own grids: case -> Dice, ASSD, whether it is empty, volumes."""
    torch.set_num_threads(1)  # applies only to the calling thread
    structure = segmenter.structure
    scores = {}
    for path in cohort(data, scored.scans, scored.suffix):
        case = path.name.removesuffix(scored.suffix)
        scan = read_scan(path)
        prediction = segment_case(scan, [segmenter]).labels == structure.label
        reference = array_from(read_mask(data / scored.labels / label_file(case), structure)).astype(bool)
        score = score_masks(reference, prediction, scan.GetSpacing()[::-1])
        scores[case] = {
            "dice": score.dice,
            "assd_mm": score.assd_mm,
            "empty": not prediction.any(),
            "volume_ratio": float(prediction.sum() / reference.sum()),
        }
    return scores


@click.command(context_settings={"show_default": True})
@click.option("--out", type=click.Path(path_type=Path), default=Path("experiment"), help="Folder for everything.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, help="Training seeds, from 0.")
@click.option("--jobs", type=click.IntRange(min=1), default=2, help="Processes at a time, one thread each.")
def main(out: Path, seeds: int, jobs: int) -> None:
    """Train and score every arm; the same command resumes where it was stopped."""
    keep_large_blocks()
    out = out.resolve()
    make_data(out / "data")
    work: list[tuple[Any, ...]] = [(run_seed, out, s, 0) for s in STRUCTURES]
    work += [(run_oracle, out, s) for s in reversed(STRUCTURES)]
    work += [(run_seed, out, s, seed) for seed in range(1, seeds) for s in STRUCTURES]
    in_parallel(jobs, work)
    in_parallel(jobs, [(run_variant, out, s, name) for name in VARIANTS for s in STRUCTURES])


def in_parallel(jobs: int, work: Sequence[tuple[Any, ...]]) -> None:
    """Call every `(function, argument, ...)` in order, `jobs` at a time; after an error or Ctrl-C, begin no other."""
    pool = ThreadPoolExecutor(jobs)
    try:
        for done in as_completed([pool.submit(*task) for task in work]):
            done.result()
    finally:
        pool.shutdown(cancel_futures=True)


if __name__ == "__main__":
    main()
