"""The package as a whole: who may import whom, what an import costs, which version it is."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from processes import python

import recurjac_plugin

PACKAGE = Path(recurjac_plugin.__file__).parent
ROOT = PACKAGE.parent
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = {"onnx", "onnx2pytorch", "onnxruntime", "torchvision", "vnnlib", "matplotlib", "typer", "rich"}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imports(path: Path) -> set[str]:
    """Top-level packages a module imports, anywhere in it, by statement or by `import_module("...")`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(str(node.module).partition(".")[0])
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            found |= {str(a.value).partition(".")[0] for a in node.args if isinstance(a, ast.Constant)}
    return found


def calls(path: Path, function: str) -> list[int]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = (n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name))
    return [call.lineno for call in names if call.func.id == function]


def test_only_the_host_module_imports_auto_lirpa():
    assert [name_of(path) for path in MODULES if "auto_LiRPA" in imports(path)] == ["host/library.py"]


def test_nothing_is_printed_outside_the_command_line():
    printing = {name_of(path): calls(path, "print") for path in MODULES if not name_of(path).startswith("cli")}
    assert {name: lines for name, lines in printing.items() if lines} == {}


def test_import_is_cheap():
    code = f"""
import sys, numpy, torch, torch.onnx  # older torch.onnx loads onnx and onnxruntime itself
before = set(sys.modules)
import recurjac_plugin
print(*({HEAVY!r} & (set(sys.modules) - before)))
"""
    shown = python("-c", code)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.split() == []


def test_help_is_the_docstring():
    """What the package does and its names by topic, nothing loaded, no class with all that it inherits."""
    code = """
import io, pydoc, sys
import recurjac_plugin
loaded = set(sys.modules)
shown = io.StringIO()
pydoc.Helper(output=shown).help(recurjac_plugin)
assert not [name for name in set(sys.modules) - loaded if name.startswith(("recurjac_plugin", "auto_LiRPA", "torch"))]
assert "jacobian_bounds" in dir(recurjac_plugin)
print(shown.getvalue())
"""
    shown = python("-c", code)
    assert shown.returncode == 0, shown.stderr
    sections = [line for line in shown.stdout.splitlines() if line.isupper()]
    assert sections == ["NAME", "DESCRIPTION", "PACKAGE CONTENTS", "VERSION", "FILE"]
    assert "jacobian_bounds, Bounds" in shown.stdout.partition("PACKAGE CONTENTS")[0]


def test_version_is_read_from_one_place():
    """By setuptools, which must not import anything for it, and by users."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert '\nversion = { attr = "recurjac_plugin.version.__version__" }\n' in project
    (assigned,) = ast.parse((PACKAGE / "version.py").read_text(encoding="utf-8")).body[1:]
    assert isinstance(assigned, ast.Assign)
    assert ast.literal_eval(assigned.value) == recurjac_plugin.__version__


@pytest.mark.parametrize("name", ["host", "plots"])
def test_folders_are_there_without_having_been_imported(name):
    shown = python("-c", f"import recurjac_plugin\nprint(recurjac_plugin.{name}.__name__)")
    assert shown.stdout == f"recurjac_plugin.{name}\n", shown.stderr


def test_public_names_exist():
    missing = [name for name in recurjac_plugin.__all__ if not hasattr(recurjac_plugin, name)]
    assert missing == []
    assert len(set(recurjac_plugin.__all__)) == len(recurjac_plugin.__all__)


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES} - {PACKAGE}), ids=lambda path: path.name)
def test_folders_have_at_most_ten_modules(folder):
    assert len([*folder.glob("*.py")]) <= 10


def test_few_modules_lie_outside_of_folders():
    assert len([*PACKAGE.glob("*.py")]) <= 6


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_and_functions_are_short_and_have_names_of_their_own(path):
    """At most 400 lines, 50 of them in the body of one function (docstring aside)."""
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            assert node.name != path.stem or path.stem == "__init__"
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            if body:
                assert node.end_lineno - body[0].lineno < 50, node.name
