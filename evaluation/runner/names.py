"""File names of a submission, made fit to be shown: any bytes can stand in them."""

_MOST_CHARACTERS = 100


def printable(name: str) -> str:
    r"""Return a name with everything that is not printable escaped, cut at 100 characters.

    Escapes are Python's: `\x1b`, `\u202e`, and `\udcff` for the byte 0xff that is not UTF-8.
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)
    return shown if len(shown) <= _MOST_CHARACTERS else shown[:_MOST_CHARACTERS] + "..."
