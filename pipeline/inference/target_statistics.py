"""Batch norm's statistics of the scans that are to be predicted, before they are. Beyond the paper, and off by default.

A cohort of one scan will do. The scans need no labels, and the networks' weights stay as they are.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from challenge.nifti import CaseError
from challenge.quantities import counted
from pipeline.adaptation.statistics import reestimate_statistics
from pipeline.config import OURS, PAPER
from pipeline.data.cases import read_scan
from pipeline.data.preprocessing import array_at_spacing, normalise
from pipeline.data.sampling import TrainingVolume
from pipeline.model.weights import Segmenter
from pipeline.runtime.devices import is_out_of_memory


def with_cohort_statistics(
    segmenters: Sequence[Segmenter],
    scans: Mapping[str, Path],
    tell: Callable[[str], None],
    *,
    read: Callable[[Path], sitk.Image] = read_scan,
) -> list[Segmenter]:
    """Return the segmenters with the statistics of a cohort's scans; the same scans give the same statistics.

    A scan that cannot be used is left out, with a message. Without any other, the segmenters come back as they are.

    Args:
        segmenters: are not changed.
        scans: by case; only one is in memory at a time.
        tell: takes a line of text: a scan that is left out, and at the end how many were used.
        read: reads a scan as a 3-D float32 image.
    """
    usable = dict(scans)

    def volumes() -> Iterator[TrainingVolume]:
        for case, path in list(usable.items()):
            try:
                volume = normalise(array_at_spacing(read(path), PAPER.spacing_mm), in_place=True)
            except Exception as error:
                if not isinstance(error, CaseError) and not is_out_of_memory(error):
                    raise
                del usable[case]
                tell(f"statistics: {case} is left out: {error}")
            else:
                yield TrainingVolume(case, volume)

    adapted, patches = [], OURS.statistics_patches
    for s in segmenters:
        rng = np.random.default_rng(OURS.statistics_seed)
        try:
            network = reestimate_statistics(s.network, volumes(), s.window, patches_per_volume=patches, rng=rng)
        except ValueError:
            if usable:
                raise
            tell("statistics: no scan can be used; the networks keep their own")
            return list(segmenters)
        adapted.append(replace(s, network=network))
    tell(f"statistics: re-estimated on {counted(len(usable), 'scan')}, {patches} patches of each")
    return adapted
