"""docs/architecture.md says what is: its table, its picture, and every file it names."""

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


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([\w./-]+(?:\.py|/))`", PAGE.read_text(encoding="utf-8")))))
def test_what_the_page_names_is_there(name):
    assert (ROOT / name).exists() or (PACKAGE / name).exists()
