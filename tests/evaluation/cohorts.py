"""A small cohort on disk for the tests of scoring: label maps of two boxes."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from click.testing import CliRunner

from crossmoda_grl.__main__ import main
from evaluation.cohort import CohortScores, score_cohorts
from evaluation.scoring import CaseScores

SPACING_XYZ = (0.5, 0.5, 1.5)
SHAPE = (10, 20, 24)


def labels(*, vs: tuple[int, int] | None = (4, 10), cochlea: tuple[int, int] | None = (14, 18)) -> np.ndarray:
    """A label map (D, H, W): two boxes over z 3-6 and y 5-11, each over the given range of x."""
    values = np.zeros(SHAPE, dtype=np.uint8)
    for label, side in ((1, vs), (2, cochlea)):
        if side is not None:
            values[3:7, 5:12, slice(*side)] = label
    return values


def write(
    path: Path,
    values: np.ndarray,
    *,
    spacing_xyz: tuple[float, ...] = SPACING_XYZ,
    origin: tuple[float, ...] = (0.0, 0.0, 0.0),
    direction: tuple[float, ...] = (1, 0, 0, 0, 1, 0, 0, 0, 1),
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(spacing_xyz)
    image.SetOrigin(origin)
    image.SetDirection(direction)
    sitk.WriteImage(image, str(path), useCompression=True)
    return path


class Folders:
    """A reference folder and a prediction folder of two cases, to spoil."""

    def __init__(self, root: Path) -> None:
        self.root, self.reference, self.prediction = root, root / "reference", root / "prediction"
        for case in ("crossmoda_9", "crossmoda_10"):
            write(self.reference / f"{case}_Label.nii.gz", labels())
            write(self.prediction / f"{case}_Label.nii.gz", labels(vs=(5, 10)))

    def predicted(self, case: str = "crossmoda_9") -> Path:
        return self.prediction / f"{case}_Label.nii.gz"

    def score(self, **options) -> CohortScores:
        [cohort] = score_cohorts(self.reference, {"a team": self.prediction}, **options)
        return cohort

    def first(self, **options) -> CaseScores:
        return self.score(**options).results[0]

    def run(self, *arguments: str):
        folders = ["--reference", str(self.reference), "--prediction", str(self.prediction)]
        return CliRunner().invoke(main, ["evaluate", "score", *folders, *arguments])
