"""Colours: one for each structure and one for the reference, the same in every picture, page and label file.

They are Okabe and Ito's. What is drawn together can be told apart with deuteranopia, protanopia and tritanopia too, and
stands out from a scan's black, grey and white.
"""

from challenge.contract import Structure

# Of every outline of a reference; a prediction's outline has its structure's colour.
REFERENCE_COLOUR = "#56B4E9"

# By `Structure.key`. The whole tumour of 2023 is not drawn beside its parts.
_COLOURS = {"vs": "#D55E00", "extrameatal": "#D55E00", "intrameatal": "#CC79A7", "cochlea": "#F0E442"}


def colour_of(structure: Structure) -> str:
    """Return a structure's colour as `#RRGGBB`."""
    return _COLOURS[structure.key]


def rgb(colour: str) -> tuple[int, int, int]:
    """Return the red, green and blue of `#RRGGBB`, each from 0 to 255."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue
