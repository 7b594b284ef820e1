"""docs/architecture.md is up to date: its table, its picture, and the files that it and the other pages name."""

from __future__ import annotations

import re

import pytest
from architecture import PACKAGE, PAGE, PICTURE, ROOT, TABLE, Folder, folders, table
from layered_picture import cost, draw, levels_of, rows_and_edges, untangled
from PIL import Image

AGAIN = "run `python docs/architecture.py`"


def test_table_is_that_of_the_imports():
    (written,) = TABLE.findall(PAGE.read_text(encoding="utf-8"))
    assert written == table(folders()), AGAIN


def test_picture_is_that_of_the_imports():
    with Image.open(PICTURE) as picture:
        assert picture.text["Description"] == table(folders()), AGAIN


def test_picture_can_be_drawn(tmp_path):
    draw(folders(), tmp_path / "picture.png", "of the package")
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.text["Description"] == "of the package"


def test_every_arrow_points_down_and_names_the_rest():
    known = folders()
    levels = levels_of({name: each for name, each in known.items() if each.label.endswith("/")})
    for each in known.values():
        assert each.imports == each.stands_on.union(*(known[other].imports for other in each.stands_on))
        assert all(levels[each.name] > levels[other] for other in each.stands_on & levels.keys() if each.name in levels)


def test_arrows_do_not_cross_where_they_need_not():
    """The arrow from `d` to `a` passes by the level of `m` and `e`."""

    def folder(name, *stands_on):
        return Folder(name, 1, "", frozenset(stands_on), frozenset(stands_on), 0)

    arrows = {"c": "", "b": "", "a": "", "m": "b", "e": "ac", "d": "am"}
    known = {name: folder(name, *below) for name, below in arrows.items()}
    rows, edges = rows_and_edges(known)
    assert [sorted(row) for row in rows] == [["a", "b", "c"], ["d to a on 1", "e", "m"], ["d"]]
    assert cost(rows, edges)[0] > 0
    assert cost(untangled(rows, edges), edges)[0] == 0


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(PAGE.parent.rglob("*.md"))], ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page):
    names = set(re.findall(r"`([\w./-]+(?:\.py|\.sh|/))`", page.read_text(encoding="utf-8")))
    folders = (ROOT, PACKAGE, ROOT / "examples", ROOT / "examples" / "vnncomp")
    assert [name for name in sorted(names) if not any((folder / name).exists() for folder in folders)] == []
