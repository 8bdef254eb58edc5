"""Hooks of MkDocs. They make one site of two places: what a forge looks for in the root, and docs/.

Links in the sources are those that a forge follows. Here they are turned into the site's.
"""

import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

import crossmoda_grl

ROOT = Path(__file__).parent.parent
# Files in the root, and their pages.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
_LINK = re.compile(r"(?<=\]\()([^)\s:#]+)")
_BLOCK = re.compile(r"([-*] |\d+\. |\|)")
_LOADED = re.compile(
    r"<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)|@import\s+[^;]*//"
)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the root, and the reference of the Python interface."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    files.append(File.generated(config, "reference.md", content=_reference()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn a forge's links into the site's, and end paragraphs before lists and tables, as a forge does."""
    folder = PurePosixPath() if page.file.src_uri in PAGES.values() else PurePosixPath("docs")
    return _LINK.sub(lambda link: _in_site(folder, link[1]), "\n".join(_with_blank_lines(markdown.splitlines())))


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Refuse a page that would load anything from another host."""
    if loaded := _LOADED.search(output):
        raise PluginError(f"{page.file.src_uri}: expected a page that loads nothing from elsewhere, got {loaded[0]}")
    return output


def _in_site(folder: PurePosixPath, link: str) -> str:
    """Return the site's link for a link from a file in this folder of the repository."""
    parts: list[str] = []
    for part in (*folder.parts, *PurePosixPath(link).parts):
        parts = parts[:-1] if part == ".." else [*parts, part]
    path = "/".join(parts)
    return PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else link)


def _with_blank_lines(lines: list[str]) -> list[str]:
    """Python's Markdown wants a blank line before a list or a table; GitHub's does not."""
    spaced: list[str] = []
    fenced = False
    for line in lines:
        if line.startswith("```"):
            fenced = not fenced
        before = spaced[-1] if spaced else ""
        starts = _BLOCK.match(line) and before.strip() and not before.startswith(" ") and not _BLOCK.match(before)
        spaced += ["", line] if starts and not fenced else [line]
    return spaced


def _reference() -> str:
    """Return the page of the interface's names, in the order of docs/python.md; mkdocstrings takes their docstrings."""
    described = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    names = [name for name in crossmoda_grl.__all__ if not name.startswith("_")]
    names.sort(key=lambda name: described.index(f"| `{name}"))
    paths = [f"{crossmoda_grl._MODULES[name]}.{name}" for name in names]
    return "\n\n".join(
        ["# Python reference", "What [From Python](python.md) lists, in full.", *(f"::: {p}" for p in paths)]
    )
