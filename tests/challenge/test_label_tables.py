"""Colours, and the files that tell them to ITK-SNAP and 3D Slicer, read back as the formats define their fields."""

import re

import pytest

from challenge.colours import REFERENCE_COLOUR, colour_of, rgb
from challenge.label_tables import itk_snap_labels, slicer_colours
from challenge.layouts import CROSSMODA_2021, CROSSMODA_2023, LAYOUTS

# What ITK-SNAP and 3D Slicer must show, by label: the layouts' names and Okabe and Ito's colours.
WANTED = {
    CROSSMODA_2021.name: {1: ("VS", (213, 94, 0)), 2: ("Cochlea", (240, 228, 66))},
    CROSSMODA_2023.name: {
        1: ("Extra-meatal VS", (213, 94, 0)),
        2: ("Intra-meatal VS", (204, 121, 167)),
        3: ("Cochlea", (240, 228, 66)),
    },
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_no_two_things_drawn_together_have_one_colour(layout):
    drawn = [REFERENCE_COLOUR, *(colour_of(structure) for structure in layout.scored if not structure.also)]
    assert len(set(drawn)) == len(drawn)
    assert all(rgb(colour_of(structure)) for structure in layout.scored)


@pytest.mark.parametrize("layout", [CROSSMODA_2021, CROSSMODA_2023], ids=lambda layout: layout.name)
def test_itk_snap_reads_the_labels(layout):
    lines = [line for line in itk_snap_labels(layout).splitlines() if not line.startswith("#")]
    # Seven numbers and a name in quotes.
    fields = [re.fullmatch(r"\s*" + r"([\d.]+)\s+" * 7 + r'"([^"]*)"', line).groups() for line in lines]
    assert fields[0] == ("0", "0", "0", "0", "0", "0", "0", "Clear Label")
    for *_, opacity, visible, mesh, _ in fields[1:]:
        assert (float(opacity), visible, mesh) == (1.0, "1", "1")
    read = {int(label): (name, (int(r), int(g), int(b))) for label, r, g, b, *_, name in fields[1:]}
    assert read == WANTED[layout.name]


@pytest.mark.parametrize("layout", [CROSSMODA_2021, CROSSMODA_2023], ids=lambda layout: layout.name)
def test_3d_slicer_reads_the_colours(layout):
    lines = [line for line in slicer_colours(layout).splitlines() if not line.startswith("#")]
    # Six fields with spaces between: id, name, red, green, blue, opacity.
    fields = [line.split() for line in lines]
    assert {len(of_line) for of_line in fields} == {6}
    assert fields[0] == ["0", "Background", "0", "0", "0", "0"]
    assert {opacity for *_, opacity in fields[1:]} == {"255"}
    read = {int(i): (name.replace("_", " "), (int(r), int(g), int(b))) for i, name, r, g, b, _ in fields[1:]}
    assert read == WANTED[layout.name]
