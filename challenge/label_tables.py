"""The names and colours of a layout's labels, as files that ITK-SNAP and 3D Slicer read.

ITK-SNAP, a label description: index, red, green, blue (0 to 255), opacity (0 to 1), visible, mesh visible, "name"::

    1   213   94    0        1  1  1    "VS"

3D Slicer, a colour table: index, name without spaces, red, green, blue, opacity (0 to 255)::

    1 VS 213 94 0 255

Sources: the header that ITK-SNAP itself writes above its labels; `vtkMRMLColorTableStorageNode.cxx` of 3D Slicer, which
turns the underscores of a name into spaces.
"""

from pathlib import Path

from challenge.colours import colour_of, rgb
from challenge.contract import BACKGROUND, Structure
from challenge.files import write_text
from challenge.layouts import FolderLayout

ITK_SNAP_FILE = "labels.label"
SLICER_FILE = "labels.ctbl"

_ITK_SNAP_HEADER = """\
################################################
# ITK-SnAP Label Description File
# File format:
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
# Fields:
#    IDX:   Zero-based index
#    -R-:   Red color component (0..255)
#    -G-:   Green color component (0..255)
#    -B-:   Blue color component (0..255)
#    -A-:   Label transparency (0.00 .. 1.00)
#    VIS:   Label visibility (0 or 1)
#    MSH:   Label mesh visibility (0 or 1)
#  LABEL:   Label description
################################################
"""


def write_label_tables(folder: Path, layout: FolderLayout) -> None:
    """Write both files into a folder.

    Raises:
        OSError: a file cannot be written.
    """
    write_text(folder / ITK_SNAP_FILE, itk_snap_labels(layout))
    write_text(folder / SLICER_FILE, slicer_colours(layout))


def itk_snap_labels(layout: FolderLayout) -> str:
    """Return a layout's labels as ITK-SNAP's label description."""
    lines = [f'{BACKGROUND:5d} {0:5d} {0:4d} {0:4d} {0:8d}  0  0    "Clear Label"']
    for structure in _labels(layout):
        red, green, blue = rgb(colour_of(structure))
        lines.append(f'{structure.label:5d} {red:5d} {green:4d} {blue:4d} {1:8d}  1  1    "{structure.title}"')
    return _ITK_SNAP_HEADER + "\n".join(lines) + "\n"


def slicer_colours(layout: FolderLayout) -> str:
    """Return a layout's labels as 3D Slicer's colour table."""
    lines = [
        f"# Color table file {SLICER_FILE}",
        f"# {len(_labels(layout)) + 1} values",
        f"{BACKGROUND} Background 0 0 0 0",
    ]
    for structure in _labels(layout):
        red, green, blue = rgb(colour_of(structure))
        lines.append(f"{structure.label} {structure.title.replace(' ', '_')} {red} {green} {blue} 255")
    return "\n".join(lines) + "\n"


def _labels(layout: FolderLayout) -> list[Structure]:
    """Return the structures that have a voxel value of their own."""
    return [structure for structure in layout.scored if not structure.also]
