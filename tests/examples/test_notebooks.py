"""The notebooks run from top to bottom, say what they do, and their pages show them as they are."""

from __future__ import annotations

import shutil

import jupytext
import notebooks
import pytest
from places import ROOT
from processes import environment

NAMES = [path.stem for path in notebooks.SCRIPTS]


def test_there_are_five():
    assert len(NAMES) == 5


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_and_draws(name, tmp_path, monkeypatch):
    """In a copy of the examples alone, without the networks of VNN-COMP."""
    for variable, value in environment().items():
        monkeypatch.setenv(variable, value)
    monkeypatch.delenv("VNNCOMP_BENCHMARKS", raising=False)
    shutil.copytree(ROOT / "examples" / "notebooks", tmp_path / "notebooks")
    shutil.copytree(ROOT / "examples" / "data", tmp_path / "data")
    before = sorted(path.name for path in (tmp_path / "notebooks").iterdir())
    script = tmp_path / "notebooks" / f"{name}.py"
    found = notebooks.executed(script)
    outputs = [output for cell in found.cells for output in cell.get("outputs", [])]
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
    pictures: dict[str, bytes] = {}
    assert "```text\n" in notebooks.page(script, found, pictures)
    assert pictures and all(content.startswith(b"\x89PNG") for content in pictures.values())
    assert sorted(path.name for path in (tmp_path / "notebooks").iterdir()) == before


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_for_reading(name):
    cells = jupytext.read(ROOT / "examples" / "notebooks" / f"{name}.py").cells
    words = [cell for cell in cells if cell.cell_type == "markdown"]
    code = [cell.source.count("\n") + 1 for cell in cells if cell.cell_type == "code"]
    assert words[0].source.startswith("# ") and len(words) >= 3
    assert max(code) <= 45 and cells[-1].cell_type == "code" and "assert " in cells[-1].source


@pytest.mark.parametrize("name", NAMES)
def test_its_page_shows_it(name):
    """`python docs/notebooks.py` writes the pages."""
    shown = (notebooks.PAGES / f"{name}.md").read_text(encoding="utf-8")
    script = ROOT / "examples" / "notebooks" / f"{name}.py"
    place = 0
    for part in notebooks.source(script, jupytext.read(script).cells):
        assert part in shown[place:], f"run `python docs/notebooks.py {name}`"
        place = shown.index(part, place) + len(part)
