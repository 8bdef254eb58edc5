"""One case, from scan to labels.

The data goes one way: read -> resample -> normalise -> predict -> restore -> merge -> write.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from challenge.contract import Structure
from pipeline.config import OURS, PAPER
from pipeline.data.cases import left_right_axis
from pipeline.data.preprocessing import array_at_spacing, array_back, normalise
from pipeline.inference.postprocessing import merge
from pipeline.inference.sliding_window import predict_volume
from pipeline.model.rules import PostProcessing, rules_of
from pipeline.model.weights import Segmenter


@dataclass(frozen=True)
class Segmentation:
    """A segmented case on the scan's own grid: `labels` (D, H, W) uint8, and each structure's probability, float32."""

    labels: NDArray[np.uint8]
    probabilities: dict[Structure, NDArray[np.float32]]


def segment_case(
    image: sitk.Image,
    segmenters: Sequence[Segmenter],
    *,
    rules: Mapping[Structure, PostProcessing] | None = None,
    overlap: float = OURS.overlap,
) -> Segmentation:
    """Segment a scan: a 3-D float32 image of any grid and orientation.

    Args:
        image: the scan.
        segmenters: one for each structure.
        rules: post-processing by structure; for a structure without, its card's count. The paper's cards name none.
        overlap: of neighbouring windows, as a fraction in [0, 1).

    Raises:
        CaseError: the scan is constant, or too large once resampled.

    Source: Kondo 2021, Sections 2 and 3.
    """
    rules = {s.structure: rules_of(s.card) for s in segmenters} | dict(rules or {})
    volume = normalise(array_at_spacing(image, PAPER.spacing_mm), in_place=True)
    probabilities = {}
    for s in segmenters:
        mirror_axis = left_right_axis(image) if rules[s.structure].flip_average else None
        probability = predict_structure(volume, s, overlap=overlap, mirror_axis=mirror_axis)
        # Labels are decided on the scan's grid: a resampled label map would lose thin structures such as the cochlea.
        probabilities[s.structure] = array_back(probability, PAPER.spacing_mm, native=image)
        del probability
    del volume  # its memory serves what follows
    x_mm, y_mm, z_mm = image.GetSpacing()
    return Segmentation(merge(probabilities, rules, (z_mm, y_mm, x_mm)), probabilities)


def predict_structure(
    volume: NDArray[np.float32],
    segmenter: Segmenter,
    *,
    overlap: float = OURS.overlap,
    mirror_axis: int | None = None,
) -> NDArray[np.float32]:
    """Predict a structure's probability in a normalised volume, both `(D, H, W)` float32, on the volume's 0.5 mm grid.

    With a `mirror_axis` it is the mean of the volume's prediction and of its mirror image's, turned back. Inference,
    validation and the search all predict with this function.
    """
    if mirror_axis is not None:
        mirrored = np.ascontiguousarray(np.flip(volume, mirror_axis))
        straight, turned = (predict_structure(v, segmenter, overlap=overlap) for v in (volume, mirrored))
        return (straight + np.flip(turned, mirror_axis)) * np.float32(0.5)
    return predict_volume(
        volume,
        segmenter,
        segmenter.window,
        overlap=overlap,
        windows_per_pass=segmenter.windows_per_pass,
        device=segmenter.device,
    )
