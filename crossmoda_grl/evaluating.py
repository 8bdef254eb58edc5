"""The organiser's side from Python: `score` and `rank`. Needs no torch."""

from collections.abc import Iterable
from os import PathLike
from pathlib import Path

import numpy as np

from challenge.layouts import DEFAULT_LAYOUT, LAYOUTS
from evaluation.cohort import CohortScores, refuse_unusable, score_cohorts, team_folders
from evaluation.metrics import CHALLENGE_ASSD, AssdDefinition
from evaluation.ranking import Ranking, rank_teams, table_of
from evaluation.score_files import read_score_file


def score(
    reference: str | PathLike[str],
    prediction: str | PathLike[str],
    *,
    team: str | None = None,
    asd: AssdDefinition = CHALLENGE_ASSD,
    strict_geometry: bool = False,
    jobs: int = 1,
    layout: str = DEFAULT_LAYOUT,
) -> list[CohortScores]:
    """Score label maps against references, as `crossmoda-grl evaluate score` does.

    Args:
        reference: folder of `{case}_Label.nii.gz`, or as the layout has it.
        prediction: folder of predicted label maps, or of one such folder per team.
        team: the team's name; by default the folder's.
        asd: ASSD, "2021" for the challenge's mean of two directed means, or "pooled".
        strict_geometry: refuse predictions on another grid than the reference's.
        jobs: processes. With more than 1, a script needs `if __name__ == "__main__":`.
        layout: how label maps are named and what is scored; a name in `challenge.layouts.LAYOUTS`.

    Returns:
        One record per team: `results` by case, `aggregates` by structure; distances in mm, volumes in mm3.

    Raises:
        ValueError: there is no reference or not one usable prediction, a case has two files, or there is no such
            layout.
        OSError: a folder cannot be read.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout: expected one of {', '.join(LAYOUTS)}, got {layout!r}")
    named = LAYOUTS[layout]
    folders = team_folders(Path(prediction), team, named)
    cohorts = score_cohorts(Path(reference), folders, asd=asd, strict_geometry=strict_geometry, jobs=jobs, layout=named)
    refuse_unusable(cohorts, named)
    return cohorts


def rank(scores: Iterable[CohortScores | str | PathLike[str]], *, samples: int = 1000, seed: int = 0) -> Ranking:
    """Rank teams as the challenge does, as `crossmoda-grl evaluate rank` does.

    Args:
        scores: what `score` returns, or score files, JSON or CSV.
        samples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        Ranks, mean ranks, other schemes, bootstrap and pairwise tests.

    Raises:
        ValueError: there is no score, or teams do not have the same cases.
        OSError: a file cannot be read.
    """
    cohorts: list[CohortScores] = []
    for given in scores:
        cohorts += [given] if isinstance(given, CohortScores) else read_score_file(Path(given))
    return rank_teams(table_of(cohorts), np.random.default_rng(seed), samples=samples)
