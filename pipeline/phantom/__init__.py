"""Seeded phantoms: ceT1- and hrT2-like scans with labels, in the challenge's layout.

`shapes` has solids (signed distances) and random fields, `anatomy` builds a head from them, `contrast` says how bright
each tissue is, `scanner` samples the head on a grid with partial volume and noise, `cohort` writes folders of cases.
"""

from pipeline.phantom.anatomy import Head, make_head
from pipeline.phantom.cohort import PRESETS, make_case, make_cohort
from pipeline.phantom.contrast import CET1, HARDNESS, HRT2, Hardness
from pipeline.phantom.scanner import Grid, centred_grid, paint

__all__ = [
    "CET1", "HARDNESS", "HRT2", "PRESETS", "Grid", "Hardness", "Head", "centred_grid", "make_case", "make_cohort",
    "make_head", "paint",
]  # fmt: skip
