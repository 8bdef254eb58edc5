"""The networks from Python: `load` gives a `Model`, whose `segment` gives a `Prediction`."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from challenge.contract import STRUCTURES, Structure
from challenge.nifti import CaseError
from pipeline.config import OURS
from pipeline.data.cases import as_scan, image_from, read_scan, write_labels
from pipeline.data.known import Known
from pipeline.inference.plausibility import examine
from pipeline.inference.segment import segment_case
from pipeline.inference.submission import known_by_cards, weights_lines
from pipeline.model.shipped import weights_folder
from pipeline.model.weights import Segmenter, load_segmenter
from pipeline.runtime.devices import pick_device


@dataclass(frozen=True)
class Prediction:
    """A segmented scan, on the scan's own grid. The structures are "vs" and "cochlea".

    Attributes:
        labels: uint8 `(D, H, W)`, of axes z, y, x: 0 background, 1 VS, 2 cochlea.
        probabilities: float32 `(D, H, W)`, by structure; before post-processing.
        volumes_mm3: by structure.
        components: how many pieces each structure has.
        unlikeness: how unlike the scans that the weights know this one is; at most 1 for those themselves. None if the
            weights' cards do not say.
        warnings: what cannot be right, or is unusual, in sentences for people. Empty does not mean right.
        image: the label map as a SimpleITK image with the scan's spacing, origin and direction.
    """

    labels: NDArray[np.uint8]
    probabilities: dict[str, NDArray[np.float32]]
    volumes_mm3: dict[str, float]
    components: dict[str, int]
    unlikeness: float | None
    warnings: tuple[str, ...]
    image: sitk.Image

    def save(self, path: str | PathLike[str]) -> None:
        """Write the label map as NIfTI, such as `crossmoda_211_Label.nii.gz`. The file is whole or absent.

        Raises:
            OSError: it cannot be written.
        """
        write_labels(self.labels, self.image, Path(path), note=f"crossmoda-grl {version('crossmoda-grl')}")


@dataclass(frozen=True)
class Model:
    """Both structures' networks, ready to segment; `load` makes it."""

    segmenters: tuple[Segmenter, ...]
    known: dict[Structure, Known]

    @property
    def trained_on(self) -> str:
        """Say what the weights were trained on."""
        return "\n".join(weights_lines(self.segmenters))

    @property
    def cards(self) -> dict[str, dict[str, Any]]:
        """Return the weights' cards by structure: data, schedule, scores, departures from the paper."""
        return {s.structure.key: s.card for s in self.segmenters}

    def segment(
        self,
        scan: str | PathLike[str] | sitk.Image | NDArray[Any],
        spacing_mm: Sequence[float] | None = None,
        *,
        overlap: float = OURS.overlap,
    ) -> Prediction:
        """Segment one hrT2 scan, with the post-processing on the weights' cards.

        Args:
            scan: a NIfTI file, a 3-D SimpleITK image, or an array `(D, H, W)` of axes z, y, x, of any numeric type.
            spacing_mm: of an array, in the order of its axes: z, y, x. It is taken to lie as a patient does in LPS: x
                to the left, y to the back, z to the head. Only for arrays; files and images have their own.
            overlap: of neighbouring windows, as a fraction in [0, 1).

        Raises:
            CaseError: the scan cannot be used; the message says what was expected and found, and what to do.
            TypeError: an array without a spacing, or a file or an image with one.
        """
        image = _image_of(scan, spacing_mm)
        segmentation = segment_case(image, self.segmenters, overlap=overlap)
        findings = examine(segmentation.labels, image, self.known)
        return Prediction(
            labels=segmentation.labels,
            probabilities={s.key: p for s, p in segmentation.probabilities.items()},
            volumes_mm3={s.key: volume for s, volume in findings.volumes_mm3.items()},
            components={s.key: count for s, count in findings.components.items()},
            unlikeness=findings.unlikeness,
            warnings=findings.warnings,
            image=image_from(segmentation.labels, image),
        )


def load(weights: str | PathLike[str] | None = None, device: str = "auto") -> Model:
    """Load both structures' networks.

    Args:
        weights: a folder of weights and cards, or the name of a shipped set: "best" or "paper". By default
            `CROSSMODA_GRL_WEIGHTS`, or else "best".
        device: "auto", "cpu" or "cuda".

    Raises:
        WeightsError: the weights are missing or damaged, or do not fit their cards.
        DeviceError: the device is not there.
    """
    folder, where = weights_folder(None if weights is None else fspath(weights)), pick_device(device)
    segmenters = tuple(load_segmenter(folder, structure, where) for structure in STRUCTURES)
    return Model(segmenters, known_by_cards(segmenters))


def _image_of(scan: str | PathLike[str] | sitk.Image | NDArray[Any], spacing_mm: Sequence[float] | None) -> sitk.Image:
    """Return a scan of any kind as a checked image, float32.

    Raises:
        CaseError, TypeError: as `Model.segment`.
    """
    is_array = isinstance(scan, np.ndarray)
    if is_array != (spacing_mm is not None):
        got = "an array without" if is_array else "a file or an image with"
        raise TypeError(f"segment: expected spacing_mm (z, y, x) with an array, and with nothing else, got {got} it")
    if isinstance(scan, np.ndarray):
        assert spacing_mm is not None
        return as_scan(_image_from_array(scan, spacing_mm), "array")
    if isinstance(scan, sitk.Image):
        return as_scan(scan, "image")
    return read_scan(Path(scan))


def _image_from_array(array: NDArray[Any], spacing_mm: Sequence[float]) -> sitk.Image:
    if array.ndim != 3 or array.size == 0 or array.dtype.kind not in "iufb":
        raise CaseError(f"array: expected numbers (D, H, W), got {array.dtype} of shape {array.shape}; take one volume")
    if len(spacing_mm) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing_mm):
        raise CaseError(f"array: expected three spacings above 0 mm, z, y, x, got {spacing_mm}; check spacing_mm")
    image = sitk.GetImageFromArray(array.astype(np.float32))
    image.SetSpacing([float(s) for s in reversed(spacing_mm)])
    return image
