"""One case, from scan to labels.

The data goes one way: read -> resample -> normalise -> predict -> restore -> merge -> write.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from challenge.contract import BACKGROUND, Structure
from pipeline.config import OURS, PAPER
from pipeline.data.cases import array_from, image_from
from pipeline.data.preprocessing import normalise, resample_like, resample_to_spacing
from pipeline.inference.sliding_window import predict_volume
from pipeline.model.weights import Segmenter


@dataclass(frozen=True)
class Segmentation:
    """A segmented case on the scan's own grid: `labels` (D, H, W) uint8, and each structure's probability, float32."""

    labels: NDArray[np.uint8]
    probabilities: dict[Structure, NDArray[np.float32]]


def segment_case(image: sitk.Image, segmenters: Sequence[Segmenter], *, overlap: float = OURS.overlap) -> Segmentation:
    """Segment a scan: a 3-D float32 image of any grid and orientation.

    Raises:
        CaseError: the scan is constant, or too large once resampled.

    Source: Kondo 2021, Sections 2 and 3.
    """
    resampled = resample_to_spacing(image, PAPER.spacing_mm)
    volume = normalise(array_from(resampled))
    probabilities = {
        s.structure: restore_probability(predict_structure(volume, s, overlap=overlap), resampled, native=image)
        for s in segmenters
    }
    return Segmentation(merge_structures(probabilities), probabilities)


def predict_structure(
    volume: NDArray[np.float32], segmenter: Segmenter, *, overlap: float = OURS.overlap
) -> NDArray[np.float32]:
    """Predict a structure's probability in a normalised volume, both `(D, H, W)` float32, on the volume's 0.5 mm grid.

    Inference, validation and the search all predict with this function.
    """
    return predict_volume(
        volume,
        segmenter,
        segmenter.window,
        overlap=overlap,
        windows_per_pass=OURS.windows_per_pass[segmenter.structure],
        device=segmenter.device,
    )


def restore_probability(
    probability: NDArray[np.float32], resampled: sitk.Image, native: sitk.Image
) -> NDArray[np.float32]:
    """Resample a probability `(D, H, W)` float32 from the 0.5 mm grid to the scan's own.

    Labels are decided after this step: a resampled label map would lose thin structures such as the cochlea.
    """
    return array_from(resample_like(image_from(probability, resampled), native))


def merge_structures(probabilities: Mapping[Structure, NDArray[np.float32]]) -> NDArray[np.uint8]:
    """Merge the structures' probabilities `(D, H, W)` into one label map, uint8.

    A voxel gets the label of its likeliest structure if that probability is above 0.5, and is background otherwise.
    Between equal probabilities, the first structure wins.

    Raises:
        ValueError: no structure, or shapes that differ.
    """
    shapes = {p.shape for p in probabilities.values()}
    if len(shapes) != 1:
        raise ValueError(
            f"probabilities to merge: expected one shape, got {sorted(shapes)}; restore them to one grid first"
        )
    labels = np.full(shapes.pop(), BACKGROUND, dtype=np.uint8)
    highest = np.full(labels.shape, 0.5, dtype=np.float32)
    for structure, probability in probabilities.items():
        wins = probability > highest
        labels[wins] = structure.label
        highest[wins] = probability[wins]
    return labels
