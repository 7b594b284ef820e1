"""`Table`: what a comparison found, to be looked at, drawn, written and handed to pandas."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recurjac_plugin.files import write_csv
from recurjac_plugin.kept import Call, kept_as
from recurjac_plugin.plots.figures import save
from recurjac_plugin.written.frames import data_frame

from .pictures import Picture

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_LONGEST = 40  # characters of a cell that are printed


class Table:
    """Rows with named columns, as `compare` and `lipschitz_curve` return them.

    A notebook shows it as a table. `len` is the number of rows, and iterating gives them, each a `dict`.

    Attributes:
        title: what it is about.
        columns: names of the columns.
        rows: one `dict` for each row; None where a row has no value.
    """

    def __init__(
        self,
        title: str,
        rows: Sequence[Mapping[str, Any]],
        picture: Picture | tuple[Any, ...],
    ) -> None:
        self.title = title
        self.rows: tuple[dict[str, Any], ...] = tuple(map(dict, rows))
        self.columns: tuple[str, ...] = tuple(self.rows[0]) if self.rows else ()
        self._picture = Picture(*picture)

    @property
    def frame(self) -> pd.DataFrame:
        """The table as a `DataFrame` of pandas, a new one each time.

        Raises:
            ExtraError: pandas is not installed.
        """
        return data_frame({name: [row[name] for row in self.rows] for name in self.columns})

    def plot(self, path: str | os.PathLike[str] | None = None, *, title: str | None = None) -> Figure:
        """Draw the table.

        Args:
            path: where to save the picture; its ending says the format (.png, .pdf, .svg).
            title: shown above; None takes that of the table.

        Returns:
            The figure, made without pyplot: nothing has to be closed.

        Raises:
            ExtraError: matplotlib is not installed.
            FileError: the picture cannot be written, see `path`.
        """
        figure = self._picture.of(self.rows, self.title if title is None else title)
        if path is not None:
            save(figure, path)
        return figure

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the table as CSV, whole or not at all; numbers read back exactly, None is an empty field.

        Args:
            path: the file.

        Raises:
            FileError: the system refuses.
        """
        write_csv(Path(path), self.columns, [list(row.values()) for row in self.rows])

    def __reduce__(self) -> Call:
        values = {"title": self.title, "rows": list(self.rows), "picture": tuple(self._picture)}
        return kept_as("Table", values)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def __repr__(self) -> str:
        lines = [list(self.columns), *([_text(value) for value in row.values()] for row in self.rows)]
        kept = [i for i, name in enumerate(self.columns) if any(row[name] is not None for row in self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in kept]
        cells = ([line[i].ljust(width) for i, width in zip(kept, widths, strict=True)] for line in lines)
        return "\n".join([self.title, *("  ".join(line).rstrip() for line in cells)])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(name)}</th>" for name in list(self.columns))
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(_text(value))}</td>" for value in row.values()) + "</tr>"
            for row in self.rows
        )
        caption = f"<caption>{escape(self.title)}</caption>"
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _text(value: Any) -> str:
    """A value as the table is shown: five digits of a number, a dash for None."""
    if value is None:
        return "–"
    text = f"{value:.5g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
