"""Durations, sizes and counts."""

import pytest

from challenge.quantities import counted, parse_bytes, parse_duration_s


@pytest.mark.parametrize(("text", "seconds"), [("30m", 1800), ("90s", 90), ("1.5h", 5400), ("45", 45)])
def test_durations(text, seconds):
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize(("text", "size"), [("16g", 17179869184), ("512m", 536870912), ("7000K", 7168000)])
def test_sizes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "0s", "soon", "-3m", "5d"])
def test_no_durations(text):
    with pytest.raises(ValueError, match="duration: expected a number above 0"):
        parse_duration_s(text)


@pytest.mark.parametrize("text", ["", "5m", "much", "-16g"])
def test_no_sizes(text):
    with pytest.raises(ValueError, match="size: expected at least 6m"):
        parse_bytes(text)


def test_counts():
    assert [counted(number, "case") for number in (0, 1, 2)] == ["0 cases", "1 case", "2 cases"]
