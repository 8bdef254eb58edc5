"""Durations, sizes and counts: read from what a person types, written as a person writes them."""

import re


def parse_duration_s(text: str) -> float:
    """Read a duration: `90s`, `30m`, `1.5h`, or plain seconds.

    Raises:
        ValueError: not a duration above 0.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip().lower())
    seconds = float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]] if match else 0.0
    if not seconds:
        raise ValueError(f"duration: expected a number above 0 followed by s, m or h, got {text!r}; e.g. 30m")
    return seconds


def parse_bytes(text: str) -> int:
    """Read a size as Docker does, in powers of 1024: `512m`, `16g`.

    Raises:
        ValueError: not a size, or below 6 MB, Docker's minimum.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([bkmgt]?)b?", text.strip().lower())
    size = int(float(match[1]) * 1024 ** "bkmgt".index(match[2] or "b")) if match else 0
    if size < 6 * 2**20:
        raise ValueError(f"size: expected at least 6m, a number followed by k, m or g, got {text!r}; e.g. 16g")
    return size


def counted(number: int, noun: str, plural: str = "") -> str:
    """Write a number of things: `1 case`, `2 cases`, `2 batches`."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def format_duration(seconds: float) -> str:
    """Write a duration in seconds as a person does: `42 s`, `12 min`, `3 h 05 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
