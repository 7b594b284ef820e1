"""The README and the site: snippets run, commands run, pictures have words, the reference has every public name."""

from __future__ import annotations

import re
import runpy
import shlex

import numpy as np
import pytest
from commands import recurjac
from places import DATA, ROOT
from scripts import run_script

import recurjac_plugin

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
TO_FOLLOW = [ROOT / "README.md", DOCS / "start.md", *sorted((DOCS / "howto").glob("*.md"))]
"""Pages to be typed in from top to bottom."""
WITH_SNIPPETS = [*TO_FOLLOW, DOCS / "training.md", DOCS / "scale.md"]

BLOCK = re.compile(r"^```(?P<kind>\w+)\n(?P<text>.*?)^```$|^<!-- setup\n(?P<setup>.*?)^-->$", re.DOTALL | re.MULTILINE)
PLACEHOLDERS = {"NETWORK.onnx": DATA / "digits_relu.onnx", "PROPERTY.vnnlib": DATA / "digits_relu_small.vnnlib"}


def named(page):
    return page.relative_to(ROOT).as_posix()


def blocks(page):
    return [*BLOCK.finditer(page.read_text(encoding="utf-8"))]


def snippets(page):
    """All Python of a page, from top to bottom; what a comment sets up is not shown to readers."""
    parts = [found["setup"] or found["text"] for found in blocks(page) if found["setup"] or found["kind"] == "python"]
    return "\n".join(parts)


def commands(page):
    """The lines of a page's consoles that call `recurjac`."""
    shown = (found["text"] for found in blocks(page) if found["kind"] == "console")
    lines = (line.partition(" #")[0] for text in shown for line in text.splitlines())
    return [line.removeprefix("$ recurjac ") for line in lines if line.startswith("$ recurjac ")]


@pytest.mark.parametrize("page", [page for page in WITH_SNIPPETS if snippets(page)], ids=named)
def test_snippets_run(page, tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    script = tmp_path / "snippets.py"
    script.write_text(snippets(page), encoding="utf-8")
    shown = run_script(script, cwd=tmp_path, on_warning="ignore")
    assert shown.returncode == 0, shown.stderr


@pytest.mark.parametrize("line", sorted({line for page in TO_FOLLOW for line in commands(page)}))
def test_commands_run(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for file in DATA.iterdir():  # for pages that change to this folder
        (tmp_path / file.name).symlink_to(file)
    np.save("x.npy", np.linspace(0, 1, 64, dtype=np.float32)[None])
    arguments = shlex.split(line)
    assert recurjac(*(PLACEHOLDERS.get(word, word) for word in arguments)).stdout


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_pictures_are_described(page):
    pictures = re.findall(r"!\[(.*?)\]\((.*?)\)", page.read_text(encoding="utf-8"))
    assert [target for words, target in pictures if len(words) < 10] == []


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"], ids=named)
def test_links_lead_to_files(page):
    """On the site `make docs` looks at all of them."""
    targets = re.findall(r"\]\(([^)#:\s]+)[)#]", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (ROOT / target).exists()] == []


@pytest.mark.parametrize("repository", [None, "https://example.org/somebody/recurjac_plugin"])
def test_the_long_description_has_no_links_within_the_repository(repository):
    shown = runpy.run_path(str(ROOT / "setup.py"))["long_description"](repository)
    targets = re.findall(r"\]\(([^)]+)\)", shown)
    assert [target for target in targets if not target.startswith("https://")] == []
    inside = [target for target in targets if repository and target.startswith(repository)]
    assert bool(inside) == (repository is not None)
    assert all((ROOT / target.partition("/main/")[2].partition("#")[0]).exists() for target in inside)


def test_the_reference_has_every_public_name_once():
    pages = "".join(page.read_text(encoding="utf-8") for page in sorted((DOCS / "reference").glob("*.md")))
    assert sorted(re.findall(r"^::: recurjac_plugin\.(\w+)$", pages, re.MULTILINE)) == sorted(recurjac_plugin.__all__)


def test_the_tables_of_names_have_all_of_them():
    """In the reference, and in what `help` shows."""
    table = (DOCS / "reference" / "index.md").read_text(encoding="utf-8").partition("## What they have in common")[0]
    for text in (table, recurjac_plugin.__doc__):
        assert set(recurjac_plugin.__all__) - set(re.findall(r"\w+", text)) == set()
