"""The pages for people: links lead somewhere, and commands have the options that they are shown with."""

import re
import shlex
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
import yaml
from mkdocs.exceptions import PluginError

from crossmoda_grl.__main__ import COMMANDS, main

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / ".github").rglob("*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
# The command itself, or the image of that name
INSIDE = re.compile(r"crossmoda-grl(?::\w+)? ")


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """A forge's anchors of a page's headings: lower case, no punctuation, dashes for spaces."""
    plain = (re.sub(r"\]\([^)]*\)", "", heading).lower() for heading in HEADING.findall(prose(page)))
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


def command_lines():
    """Each command line of ours in a fenced block, without what it is piped to or run under; `page: words`."""
    for page in PAGES:
        for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
            if language not in {"", "bash"}:
                continue
            for line in block.replace("\\\n", " ").splitlines():
                if not line.startswith(("crossmoda-grl ", "docker run ")):
                    continue
                start = INSIDE.search(line)
                if start is None:
                    continue
                words = shlex.split(line[start.end() :], comments=True)
                words = [word for word in words[: words.index("&") if "&" in words else None] if word != "..."]
                if words and words[0] in COMMANDS:
                    yield pytest.param(words, id=f"{page.name}: {' '.join(words)}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_a_file_and_a_heading(page):
    for link in LINK.findall(prose(page)):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_file(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


@pytest.mark.parametrize("words", list(command_lines()))
def test_documented_commands_have_these_options(words):
    command: click.Command = main
    context = click.Context(main)
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, words[0]
        command, words = found, words[1:]
        context = click.Context(command, parent=context, info_name=command.name)
    values, rest, _ = command.make_parser(context).parse_args(list(words))
    assert not rest
    for parameter in command.params:
        assert not parameter.required or values.get(parameter.name) not in (None, ()), parameter.name


def test_some_commands_were_found():
    assert len(list(command_lines())) > 10


def test_the_files_that_the_guides_name_are_there():
    for guide in (ROOT / "CONTRIBUTING.md", ROOT / "docs" / "architecture.md"):
        for name in re.findall(r"`((?:[\w.-]+/)+[\w.-]+\.\w+)`", guide.read_text(encoding="utf-8")):
            assert (ROOT / name).is_file(), f"{guide.name}: {name}"


def test_ci_calls_the_script_that_the_repository_has():
    steps = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]["test"]["steps"]
    assert "bash .ci/run" in [step.get("run") for step in steps]
    assert (ROOT / ".ci" / "run").is_file()


def test_the_issue_template_asks_for_what_is_needed_and_for_no_patient():
    _, front, body = (ROOT / ".github/ISSUE_TEMPLATE/bad_scan.md").read_text(encoding="utf-8").split("---\n", 2)
    assert {"name", "about"} <= yaml.safe_load(front).keys()
    for wanted in ("No patient data", "header", "warnings", "predictions.json", "--version"):
        assert wanted in body


@pytest.fixture(scope="module")
def site():
    """The site's hooks, docs/site.py; `import site` is Python's own."""
    spec = spec_from_file_location("docs_site", ROOT / "docs" / "site.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page(name: str) -> SimpleNamespace:
    return SimpleNamespace(file=SimpleNamespace(src_uri=name))


@pytest.mark.parametrize(
    ("name", "link", "expected"),
    [
        ("index.md", "docs/predict.md#options", "predict.md#options"),
        ("index.md", "SECURITY.md", "security.md"),
        ("index.md", "https://example.org/docs/a.md", "https://example.org/docs/a.md"),
        ("python.md", "predict.md", "predict.md"),
        ("python.md", "../README.md#resume", "index.md#resume"),
        ("results.md", "images/curves.png", "images/curves.png"),
    ],
)
def test_the_site_s_links_are_made_of_a_forge_s(site, name, link, expected):
    assert site.on_page_markdown(f"See [this]({link}).", page(name)) == f"See [this]({expected})."


def test_the_site_ends_a_paragraph_before_a_list_but_not_in_code(site):
    text = "Then:\n- one\n- two\n  | x\n```\na\n- b\n```\nTable\n| a |\n|---|"
    spaced = "Then:\n\n- one\n- two\n  | x\n```\na\n- b\n```\nTable\n\n| a |\n|---|"
    assert site.on_page_markdown(text, page("python.md")) == spaced


@pytest.mark.parametrize(
    "loaded",
    [
        '<script async src="https://cdn.example.org/a.js">',
        "<link rel=stylesheet href=//fonts.example.org/b.css>",
        '<img alt="" src="http://example.org/c.png">',
    ],
)
def test_the_site_refuses_a_page_that_loads_from_elsewhere(site, loaded):
    with pytest.raises(PluginError, match="loads nothing from elsewhere"):
        site.on_post_page(f"<p>{loaded}</p>", page("python.md"))
    kept = '<a href="https://example.org">a</a><script src="assets/a.js"></script>'
    assert site.on_post_page(kept, page("python.md")) == kept
