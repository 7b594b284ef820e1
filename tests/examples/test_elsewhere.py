"""Examples use public names alone, and run outside of a clone: from the source distribution, with the wheel."""

from __future__ import annotations

import ast
import os
import re
import shutil
import sys
import tarfile
import zipfile

import pytest
from places import ROOT
from processes import environment, python

import recurjac_plugin

EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(EXAMPLES.rglob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OF_HOST = {"Bound", "BoundedModule", "BoundedTensor", "PerturbationLpNorm"}
"""What docs/reference/host.md says of `recurjac_plugin.host`."""


def private_names(text):
    """Names of the package that are not public: imported, or read from it under the name it was given."""
    tree, found, package = ast.parse(text), [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            ours = [alias for alias in node.names if alias.name.partition(".")[0] == "recurjac_plugin"]
            package |= {alias.asname or alias.name for alias in ours}
            found += [alias.name for alias in ours if alias.name not in ("recurjac_plugin", "recurjac_plugin.host")]
        elif isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == "recurjac_plugin":
            public = {"recurjac_plugin": recurjac_plugin.__all__, "recurjac_plugin.host": OF_HOST}.get(node.module, ())
            found += [f"{node.module}.{alias.name}" for alias in node.names if alias.name not in public]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in package:
            found += [] if node.attr in recurjac_plugin.__all__ else [f"{node.value.id}.{node.attr}"]
    return found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import recurjac_plugin as rj\nrj.verify(rj.host)", []),
        ("from recurjac_plugin.host import BoundedModule\nfrom recurjac_plugin import Bounds", []),
        ("from recurjac_plugin.graph import Function", ["recurjac_plugin.graph.Function"]),
        ("from recurjac_plugin.host import IS_03", ["recurjac_plugin.host.IS_03"]),
        ("import recurjac_plugin.jacobian.methods", ["recurjac_plugin.jacobian.methods"]),
        ("import recurjac_plugin as rj\nrj.graph.Function", ["rj.graph"]),
    ],
)
def test_the_reader_tells_public_from_private(text, found):
    assert private_names(text) == found


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.relative_to(EXAMPLES).as_posix())
def test_examples_use_public_names(script):
    assert private_names(script.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_snippets_use_public_names(page):
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    for block in blocks:
        try:
            assert private_names(block) == []
        except SyntaxError:  # an excerpt
            assert "recurjac_plugin." not in block.replace("recurjac_plugin.host", "")


def test_the_page_of_the_host_names_what_is_public():
    page = (ROOT / "docs" / "reference" / "host.md").read_text(encoding="utf-8")
    assert {f"`{name}`" for name in OF_HOST} <= set(re.findall(r"`\w+`", page))


@pytest.fixture(scope="module")
def distributed(tmp_path_factory):
    """The unpacked source distribution, and the unpacked wheel that is made from it."""
    folder = tmp_path_factory.mktemp("distributed")
    copy = folder / "copy"
    unwanted = shutil.ignore_patterns("__pycache__", ".*", "build", "dist", "*.egg-info", "site", "tests", "docs")
    shutil.copytree(ROOT, copy, ignore=unwanted)
    build = "import sys; from setuptools import build_meta as b; getattr(b, sys.argv[1])(sys.argv[2])"
    made = python("-c", build, "build_sdist", folder, cwd=copy)
    assert made.returncode == 0, made.stderr
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    source = folder / archive.name.removesuffix(".tar.gz")
    made = python("-c", build, "build_wheel", folder, cwd=source)
    assert made.returncode == 0, made.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder / "installed")
    return source, folder / "installed"


def test_the_source_distribution_has_all_examples(distributed):
    source, _ = distributed
    ours = {
        path.relative_to(ROOT) for path in EXAMPLES.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    assert {path for path in ours if not (source / path).is_file()} == set()


@pytest.mark.parametrize("script", ["drop_in.py", "lipschitz_curve.py", "custom_operator.py"])
def test_an_example_runs_outside_of_a_clone(script, distributed, tmp_path):
    """One that needs the package alone, one that reads data, one that adds an operator."""
    source, installed = distributed
    shutil.copytree(source / "examples", tmp_path / "examples")
    (tmp_path / "here").mkdir()
    variables = {**environment(), "PYTHONPATH": str(installed)}
    where = "import recurjac_plugin; print(recurjac_plugin.__file__)"
    assert python("-c", where, env=variables, cwd=tmp_path).stdout.startswith(str(installed)), sys.path
    shown = python(tmp_path / "examples" / script, cwd=tmp_path / "here", env=variables)
    assert shown.returncode == 0, shown.stderr
    assert os.listdir(tmp_path / "here") == [f"{script.removesuffix('.py')}.png"]
