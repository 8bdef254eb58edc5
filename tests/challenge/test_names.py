import pytest
from hypothesis import given
from hypothesis import strategies as st

from challenge.names import is_plain, shown, shown_briefly, spreadsheet_cell, text_of_cell

# Everything that a file's name can hold: also bytes that are no UTF-8.
NAMES = st.binary(min_size=1, max_size=12).map(lambda raw: raw.decode("utf-8", "surrogateescape"))


@pytest.mark.parametrize("name", ["._x_hrT2.nii.gz", ".partial-x", "\udcff_hrT2.nii.gz", "\x1b[2J", "a\nb", "\u202e"])
def test_names_that_do_not_count(name):
    assert not is_plain(name)


@pytest.mark.parametrize("name", ["crossmoda_211_hrT2.nii.gz", "Müller x", "日本", "-x", "=x"])
def test_names_that_count_are_shown_as_they_are(name):
    assert is_plain(name)
    assert shown(name) == name


def test_bytes_that_are_no_utf_8_are_shown_as_on_disk():
    assert shown("\udcff_a\x1b[2J\u202e\U000e0001\n") == r"\xff_a\x1b[2J\u202e\U000e0001\x0a"


def test_a_long_text_is_cut_after_100_characters():
    assert shown_briefly("läuft_1_Label.nii.gz") == "läuft_1_Label.nii.gz"
    assert shown_briefly("x" * 100) == "x" * 100
    assert shown_briefly("\n" * 30) == (r"\x0a" * 30)[:100] + "..."


@given(NAMES)
def test_whatever_the_name_it_is_one_printable_line(name):
    assert shown(name).isprintable()
    shown(name).encode("utf-8")


@given(st.text(max_size=8) | st.text("'=+-@\t\r\n1a", max_size=5))
def test_no_cell_is_a_formula_and_every_text_comes_back(text):
    cell = spreadsheet_cell(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert text_of_cell(cell) == text
