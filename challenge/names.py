"""Names from outside: which of them count, and how they are written where a program would act on them.

A file's name and a text in a score file come from anyone. They can hold escape sequences for a terminal, bytes that are
no UTF-8, or a formula for a spreadsheet.
"""

# What a spreadsheet takes for a formula, or drops before it looks. Source: OWASP, "CSV Injection".
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
_QUOTE = "'"
_BRIEF = 100


def is_plain(name: str) -> bool:
    """Tell whether a file's name counts: not hidden, UTF-8, and without control or invisible characters."""
    return name.isprintable() and not name.startswith(".")


def shown(text: str) -> str:
    r"""Return a text as a terminal may have it, in one line: what cannot be printed as an escape, as in `\x1b`.

    Bytes of a file's name that are no UTF-8 appear as they are on disk.
    """
    return text if text.isprintable() else "".join(map(_escaped, text))


def shown_briefly(text: str) -> str:
    """Return a text of any length as `shown` does, cut after 100 characters, where three dots stand."""
    brief = shown(text)
    return brief if len(brief) <= _BRIEF else brief[:_BRIEF] + "..."


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    # Python keeps the byte 0xff of a file's name as the character U+DCFF.
    code = ord(character) - 0xDC00 if 0xDC80 <= ord(character) <= 0xDCFF else ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def spreadsheet_cell(text: str) -> str:
    """Return a text for a CSV cell that no spreadsheet runs: a quote stands before what looks like a formula."""
    return _QUOTE + text if text.startswith(_FORMULA_STARTS) or _is_quoted(text) else text


def text_of_cell(cell: str) -> str:
    """Return the text that `spreadsheet_cell` wrote."""
    return cell[1:] if _is_quoted(cell) else cell


def _is_quoted(text: str) -> bool:
    """Tell whether a text is one or more quotes before the start of a formula, so that every text comes back."""
    return text.startswith(_QUOTE) and text.lstrip(_QUOTE).startswith(_FORMULA_STARTS)
