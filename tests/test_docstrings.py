"""Public functions say what they take and give: shapes with axis order, types, units, errors."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("challenge", "crossmoda_grl", "evaluation", "pipeline")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

SHAPE = re.compile(r"\([A-Za-z]\w*(, ?[\w/-]+)*,?\)|shape")  # (D, H, W)
REFERS = re.compile(r"\b[Aa]s `\w")  # "as `outline`": the same as another one, which says it


def public_functions(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    for owner in [tree, *classes]:
        for node in owner.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                yield node


def raises(function):
    """The exceptions that a function raises by their public names in its own body."""
    for node in ast.walk(function):
        match node:
            case ast.Raise(exc=ast.Call(func=ast.Name(id=name))) if not name.startswith("_"):
                yield name


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_public_functions_are_documented(path):
    for function in public_functions(path):
        text = ast.get_docstring(function)
        where = f"{path.name}:{function.lineno} {function.name}"
        assert text, f"{where}: no docstring"
        says = REFERS.search(text) is not None
        annotations = " ".join(ast.unparse(a.annotation) for a in function.args.args if a.annotation)
        if any(array in annotations for array in ("NDArray", "np.ndarray", "torch.Tensor")):
            assert says or SHAPE.search(text), f"{where}: takes an array, and gives no shape with axis order"
        if path.name != "cli.py":
            for exception in raises(function):
                assert says or exception in text, f"{where}: raises {exception}, and does not say so"


def test_what_the_paper_states_names_its_section():
    modules = ("config", "data/preprocessing", "data/sampling", "inference/sliding_window")
    modules += ("model/enet", "model/domain", "model/losses", "training/recipes")
    modules += ("training/supervised", "training/adaptation", "training/epoch_end")
    for module in modules:
        text = (ROOT / "pipeline" / f"{module}.py").read_text(encoding="utf-8")
        assert "Section" in text or "Eq." in text, f"{module}: names no section of the paper"
