"""The scores of a cohort: folders of label maps matched to references, every case scored, metrics aggregated.

- A file without a reference is listed in `CohortScores.extra` and not scored.
- A file whose name is nearly right (`_label.nii.gz`, `_Label.nii`) does not count. Its case is missing, and the case's
  `problem` names the file.
- Two files for one case are a `ValueError` before anything is scored, since nobody knows which is meant.
- Hidden files are ignored, and so are names with control characters or bytes that are no UTF-8.
- A link that leads out of the team's folder is refused unread, as it could lead to the reference. So is a team's folder
  that is such a link.

Memory: each process holds one case at a time, the reference's masks and one prediction. The process's peak was measured
at 0.35 GB for 512 x 512 x 120 voxels of uint8 and 0.7 GB of float64, whatever the number of cases and teams.
"""

import multiprocessing
import os
import re
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from challenge.contract import LABEL_SUFFIX, STRUCTURES, Structure, files_by_case, sorted_cases
from challenge.layouts import CROSSMODA_2021, GRAND_CHALLENGE, FolderLayout
from challenge.names import is_plain
from evaluation.grand_challenge import PREDICTIONS_FILE, label_maps_of_jobs
from evaluation.metrics import CHALLENGE_ASSD, AssdDefinition
from evaluation.scoring import CaseScores, Status, StructureScores, score_case

# The metrics that are averaged over a cohort, in the order of the tables.
AVERAGED_METRICS = ("dice", "assd_mm", "hd95_mm", "volume_error_mm3")

_NEARLY_A_LABEL = re.compile(r"(?P<case>.+)_label\.nii(\.gz)?", re.IGNORECASE)
# Where label maps have no more than their case's name.
_NEARLY_A_CASE = re.compile(r"(?P<case>.+?)(_label)?\.(nii\.gz|nii|mha|nrrd)", re.IGNORECASE)


@dataclass(frozen=True)
class Summary:
    """One metric over a cohort's `n` defined values: mean, sample standard deviation (n - 1), median and quartiles.

    All are None where n is 0, and `sd` where n is 1. Quartiles interpolate linearly, as NumPy and pandas do.
    """

    n: int
    mean: float | None = None
    sd: float | None = None
    median: float | None = None
    q1: float | None = None
    q3: float | None = None


@dataclass(frozen=True)
class StructureAggregates:
    """One structure over a cohort: a `Summary` of each of `AVERAGED_METRICS`, and the number of cases by status."""

    metrics: Mapping[str, Summary]
    counts: Mapping[Status, int]


@dataclass(frozen=True)
class Metadata:
    """How a cohort was scored; None where a score file does not say."""

    asd: str | None = None
    reference: str | None = None
    prediction: str | None = None
    strict_geometry: bool | None = None


@dataclass(frozen=True)
class CohortScores:
    """One team's scores over all reference cases.

    Attributes:
        team: its name.
        results: by case, as a person would sort them: problem, and each structure's status, Dice, distances in mm and
            volumes in mm3.
        metadata: what was scored, and by which rules.
        extra: names of files that belong to no reference case.
    """

    team: str
    results: tuple[CaseScores, ...]
    metadata: Metadata = Metadata()
    extra: tuple[str, ...] = ()
    structures: tuple[Structure, ...] = STRUCTURES

    @property
    def aggregates(self) -> dict[str, StructureAggregates]:
        """Summaries and counts by `Structure.key`."""
        return {
            structure.key: aggregate([result.structures[structure.key] for result in self.results])
            for structure in self.structures
        }

    @property
    def missing(self) -> list[str]:
        """Cases without a prediction file."""
        return [r.case for r in self.results if any(s.status is Status.MISSING for s in r.structures.values())]

    @property
    def failed(self) -> list[CaseScores]:
        """Cases whose prediction was refused or whose reference could not be used; `problem` says why."""
        return [result for result in self.results if result.problem is not None and result.case not in self.missing]


def refuse_unusable(cohorts: Sequence[CohortScores], layout: FolderLayout = CROSSMODA_2021) -> None:
    """Refuse cohorts without one usable prediction among them: a table of zeros would look like a bad method.

    Raises:
        ValueError: every case of every cohort is missing, refused, or without a usable reference.
    """
    problems = [result.problem for cohort in cohorts for result in cohort.results]
    if all(problems):
        folders = ", ".join(str(cohort.metadata.prediction) for cohort in cohorts)
        raise ValueError(
            f"{folders}: expected label maps named {{case}}{layout.label_suffix} of the reference's cases, got none "
            f"that can be used; e.g. {problems[0]}"
        )


def team_folders(prediction: Path, team: str | None = None, layout: FolderLayout = CROSSMODA_2021) -> dict[str, Path]:
    """Tell whose predictions a folder holds: one team's label maps, or one folder of label maps per team.

    A folder that holds label maps is one team's, named `team` or after the folder. Otherwise, if a folder in it holds
    label maps, every folder in it is a team's. If none does, the folder is that of one team that handed in nothing.

    Returns:
        Folders by team, sorted by name.

    Raises:
        ValueError: there are label maps both in the folder and in folders in it, `team` names several teams, or a
            folder in it is a link out of it.
        OSError: a folder cannot be listed.
    """
    inside = sorted(entry for entry in prediction.iterdir() if entry.is_dir() and is_plain(entry.name))
    for folder in inside:
        if leaves_folder(folder, prediction):
            raise ValueError(
                f"{prediction}: expected folders of teams, got {folder.name}, a link out of the folder; "
                "remove it, or put the team's own files in its place"
            )
    holding = [folder for folder in inside if label_files(folder, layout)]
    if label_files(prediction, layout) or not holding:
        if holding:
            raise ValueError(
                f"{prediction}: expected label maps or folders of teams, got both, with label maps in "
                f"{holding[0].name}; give the folder of one team, or one that holds only folders of teams"
            )
        return {team or prediction.resolve().name: prediction}
    if team is not None:
        raise ValueError(
            f"{prediction}: expected one team's label maps for the team {team!r}, got folders of {len(inside)} teams; "
            "leave --team out: teams are named after their folders"
        )
    return {folder.name: folder for folder in inside}


def label_files(folder: Path, layout: FolderLayout) -> dict[str, Path]:
    """Find a folder's label maps by case, those of grand-challenge's jobs included; refuse two files for one case.

    Raises:
        ValueError: two files stand for one case.
        OSError: the folder cannot be listed.
    """
    if layout.name == GRAND_CHALLENGE.name and (folder / PREDICTIONS_FILE).exists():
        return label_maps_of_jobs(folder)
    found = files_by_case(folder, layout.label_suffix)
    spellings: dict[str, list[str]] = {}
    for case, name in (*((case, path.name) for case, path in found.items()), *_misspelt(folder, layout)):
        spellings.setdefault(case.casefold(), []).append(name)
    for names in spellings.values():
        if len(names) > 1:
            raise ValueError(
                f"{folder}: expected one label map per case, got {' and '.join(sorted(names))}; remove all but one"
            )
    return found


def _misspelt(folder: Path, layout: FolderLayout) -> Iterator[tuple[str, str]]:
    """Yield case and file name of each file that was probably meant to be a label map."""
    nearly = _NEARLY_A_LABEL if layout.label_suffix == LABEL_SUFFIX else _NEARLY_A_CASE
    for entry in folder.iterdir():
        match = nearly.fullmatch(entry.name)
        if match and not entry.name.endswith(layout.label_suffix) and is_plain(entry.name):
            yield match["case"], entry.name


def score_cohorts(
    reference: Path,
    predictions: Mapping[str, Path],
    *,
    asd: AssdDefinition = CHALLENGE_ASSD,
    strict_geometry: bool = False,
    jobs: int = 1,
    layout: FolderLayout = CROSSMODA_2021,
    on_case: Callable[[int, int, str], None] | None = None,
) -> list[CohortScores]:
    """Score each team's folder of label maps against a folder of references, case by case.

    Args:
        reference: folder of `{case}_Label.nii.gz`, or as `layout` has it; its cases are the cohort.
        predictions: for each team, its folder of `{case}_Label.nii.gz`.
        asd: the definition of ASSD, see `metrics.assd_mm`.
        strict_geometry: refuse predictions on another grid than the reference's.
        layout: how label maps are named, and what is scored.
        jobs: number of processes. With more than 1, each process imports the caller's main module.
        on_case: called after each case with the number of cases done, the number of all cases, and the case.

    Returns:
        One record per team, in the order given, the same for any number of jobs.

    Raises:
        ValueError: the reference holds no label map, a case has two files, or `jobs` is less than 1.
        OSError: a folder cannot be listed.
    """
    if jobs < 1:
        raise ValueError(f"jobs: expected at least 1, got {jobs}; give the number of processes")
    references = label_files(reference, layout)
    if not references:
        raise ValueError(f"{reference}: expected label maps named *{layout.label_suffix}, got none; check the folder")
    found = {team: label_files(folder, layout) for team, folder in predictions.items()}
    tasks = [
        (
            case,
            references[case],
            [found[team].get(case) for team in predictions],
            asd,
            strict_geometry,
            layout,
        )
        for case in sorted_cases(references)
    ]
    scored: dict[str, list[CaseScores]] = {}
    for done, (case, results) in enumerate(_run_tasks(tasks, min(jobs, len(tasks))), start=1):
        scored[case] = results
        if on_case is not None:
            on_case(done, len(tasks), case)
    return [
        CohortScores(
            team=team,
            results=tuple(_with_hint(scored[case][index], folder, layout) for case in sorted_cases(references)),
            metadata=Metadata(str(asd), str(reference), str(folder), strict_geometry),
            extra=tuple(
                [path.name for case, path in found[team].items() if case not in references]
                + sorted(name for _, name in _misspelt(folder, layout))
            ),
            structures=layout.scored,
        )
        for index, (team, folder) in enumerate(predictions.items())
    ]


_Task = tuple[str, Path, Sequence[Path | None], AssdDefinition, bool, FolderLayout]


def _run_tasks(tasks: Sequence[_Task], jobs: int) -> Iterator[tuple[str, list[CaseScores]]]:
    """Yield each case and its scores, in the order in which they are finished."""
    if jobs == 1:
        for task in tasks:
            yield task[0], score_case(*task)
        return
    # Spawned, not forked: ITK has threads, which do not survive a fork.
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_use_one_thread)
    try:
        with _sigint_blocked():
            cases = {pool.submit(score_case, *task): task[0] for task in tasks}
        for future in as_completed(cases):
            yield cases.pop(future), future.result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Block Ctrl-C in this process for a while, and for good in processes started meanwhile: the caller stops those."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _use_one_thread() -> None:
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def leaves_folder(path: Path, folder: Path) -> bool:
    """Tell whether a path in a folder leads out of it, by a link in any place of the path."""
    # Unlike Path.resolve, realpath takes a loop of links as it is; reading it fails.
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _with_hint(result: CaseScores, folder: Path, layout: FolderLayout) -> CaseScores:
    """Add to a missing case's problem the file that was probably meant."""
    meant = [name for case, name in _misspelt(folder, layout) if case.casefold() == result.case.casefold()]
    if result.problem is None or not meant or any(s.status is Status.REFUSED for s in result.structures.values()):
        return result
    wanted = result.case + layout.label_suffix
    return replace(result, problem=f"{result.problem} (found {meant[0]}: rename it to {wanted})")


def summarise(values: Iterable[float | None]) -> Summary:
    """Summarise the values that are defined.

    Source: the paper, Table 1, for mean and standard deviation; the challenge's tables for median and quartiles.
    """
    defined = np.array([value for value in values if value is not None], dtype=np.float64)
    if not defined.size:
        return Summary(n=0)
    q1, median, q3 = np.percentile(defined, [25, 50, 75])
    return Summary(
        n=defined.size,
        mean=float(defined.mean()),
        sd=float(defined.std(ddof=1)) if defined.size > 1 else None,
        median=float(median),
        q1=float(q1),
        q3=float(q3),
    )


def aggregate(scores: Sequence[StructureScores]) -> StructureAggregates:
    """Reduce one structure's scores over a cohort to summaries and counts."""
    return StructureAggregates(
        metrics={metric: summarise(getattr(score, metric) for score in scores) for metric in AVERAGED_METRICS},
        counts={status: sum(score.status is status for score in scores) for status in Status},
    )
