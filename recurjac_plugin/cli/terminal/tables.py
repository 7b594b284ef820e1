"""Tables as wide as the terminal, in which no number and no name is broken.

A table that is too wide is transposed; where that is too wide, too, its columns come in several tables one below the
other, each with the column that names the rows; and where not even that fits, every row is a block of lines.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.table import Table as RichTable

_ENDLESS = 100_000  # columns of a stream that is no terminal


@dataclass(frozen=True)
class Table:
    """What a table says.

    Attributes:
        title: stands above it.
        header: names of the columns, all different.
        rows: a text per column.
        right: positions of the columns that are set flush right, as numbers are.
        prose: positions of the columns that may go on in a next line, between words.
        keys: how many columns on the left say what a row is about.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: frozenset[int] = frozenset()
    prose: frozenset[int] = frozenset()
    keys: int = 1

    @property
    def transposed(self) -> Table:
        """Rows as columns; the key columns of a row become the name of its column, where these differ."""
        names = [" ".join(text for text in row[: self.keys] if text != EMPTY) for row in self.rows]
        keys = self.keys if len(set(names)) == len(names) else 0
        header = names if keys else [str(i) for i in range(1, len(self.rows) + 1)]
        body = tuple(
            (name, *(row[i] for row in self.rows)) for i, name in enumerate(self.header[keys:], start=keys)
        )  # fmt: skip
        first = " ".join(self.header[:keys])
        numbers = frozenset(range(1, len(self.rows) + 1)) if self.right else frozenset()
        return Table(self.title, (first, *header), body, right=numbers)

    def columns(self, chosen: Sequence[int]) -> Table:
        """Some of the columns."""
        right, prose = (
            frozenset(new for new, old in enumerate(chosen) if old in of) for of in (self.right, self.prose)
        )
        rows = tuple(tuple(row[i] for i in chosen) for row in self.rows)
        return replace(self, header=tuple(self.header[i] for i in chosen), rows=rows, right=right, prose=prose)


EMPTY = "–"
"""What stands where there is no value."""


def table_of(
    title: str,
    header: Sequence[str],
    rows: Iterable[Sequence[Any]],
    right: Collection[int] = (),
    prose: Collection[int] = (),
    keys: int = 1,
) -> Table:
    """A table of values, see `shown`.

    Raises:
        AssertionError: columns have the same name: nobody could tell which is which.
    """
    assert len(set(header)) == len(header), header
    texts = tuple(tuple(map(shown, row)) for row in rows)
    return Table(title, tuple(header), texts, frozenset(right), frozenset(prose), keys)


def shown(value: Any) -> str:
    """A value as tables show it: five digits of a number, a dash for None."""
    if value is None:
        return EMPTY
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def print_table(table: Table, stream: TextIO, width: int | None) -> None:
    """Print a table.

    Args:
        table: what it says.
        stream: where to.
        width: of the terminal; None for a stream that is none and gets the whole table, however wide.
    """
    from rich.console import Console
    from rich.text import Text

    width = width or _ENDLESS
    parts = fitted(table, width)
    title = "\n".join(_lines(table.title, width))
    needed = max([width, *(_least(part) for part in parts if isinstance(part, Table)), *map(len, title.split("\n"))])
    console = Console(file=stream, width=needed, markup=False, highlight=False, emoji=False)
    console.print(Text(title, style="italic"), soft_wrap=True)
    for part in parts:
        if isinstance(part, Table):
            console.print(_rich(part))
        else:
            console.print(part, soft_wrap=True)


def fitted(table: Table, width: int) -> list[Table | str]:
    """The table in a form that needs no more columns of a terminal than `width`: tables, or text.

    A single word that is longer than the terminal stays whole all the same.
    """
    for form in (table, table.transposed):
        if _least(form) <= width:
            return [form]
    groups = _groups(table, width)
    return [*groups] if groups else [_blocks(table, width)]


def _groups(table: Table, width: int) -> list[Table]:
    """The columns in tables that fit, each with the key columns; none where these leave no room."""
    keys, groups = list(range(table.keys)), []
    left = list(range(table.keys, len(table.header)))
    while left:
        count = next((n for n in range(len(left), 0, -1) if _least(table.columns(keys + left[:n])) <= width), 0)
        if count == 0:
            return []
        groups.append(table.columns(keys + left[:count]))
        left = left[count:]
    return groups


def _blocks(table: Table, width: int) -> str:
    """Every row as lines `name: value`, long values below their names."""
    blocks = []
    for row in table.rows:
        lines = []
        for name, text in zip(table.header, row, strict=True):
            whole = f"{name}: {text}" if name else text
            lines += [whole] if len(whole) <= width else [f"{name}:", *_lines(text, width, "  ")]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _lines(text: str, width: int, indent: str = "") -> list[str]:
    """Lines of whole words."""
    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    ) or [""]


def _least(table: Table) -> int:
    """How many columns of a terminal a table needs at least: a column of prose its longest word, others all."""
    from rich.cells import cell_len

    widths = [
        max((cell_len(part) for text in texts for part in (text.split() if i in table.prose else [text])), default=0)
        for i, texts in enumerate(zip(table.header, *table.rows))
    ]
    return sum(widths) + 3 * len(widths) + 1  # lines, and a blank on each side of every text


def _rich(table: Table) -> RichTable:
    from rich.table import Table as RichTable

    made = RichTable()
    for i, name in enumerate(table.header):
        made.add_column(name, justify="right" if i in table.right else "left", no_wrap=i not in table.prose)
    for row in table.rows:
        made.add_row(*row)
    return made
