"""What a command says: results on stdout, as text or as JSON, remarks and progress on stderr."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, TextIO, TypeVar

from recurjac_plugin.files import finite

T = TypeVar("T")

_WIDTH = 120  # where stdout is no terminal


class Report:
    """The two streams of one command.

    Args:
        as_json: whether the result is one JSON object.
        results: where results go.
    """

    def __init__(self, as_json: bool, results: TextIO) -> None:
        self.as_json, self._results = as_json, results

    def line(self, text: str) -> None:
        """A result as text."""
        print(text, file=self._results)

    def json(self, values: dict[str, Any]) -> None:
        """The result as one JSON object; numbers that are not finite become null."""
        print(json.dumps(finite(values), allow_nan=False), file=self._results)

    def table(
        self, title: str, header: Sequence[str], rows: Iterable[Sequence[Any]], right: Collection[int] = ()
    ) -> None:
        """A result as a table; `right` are the columns of numbers, None is shown as a dash."""
        from rich.console import Console
        from rich.table import Table

        table = Table(title=title, title_justify="left")
        for i, name in enumerate(header):
            table.add_column(name, justify="right" if i in right else "left", overflow="fold")
        for row in rows:
            table.add_row(*map(shown, row))
        width = None if self._results.isatty() else _WIDTH
        Console(file=self._results, width=width, markup=False, highlight=False).print(table)

    def note(self, text: str) -> None:
        """A remark for whoever watches."""
        print(text, file=sys.stderr, flush=True)

    def progress(self, items: Sequence[T], what: str) -> Iterator[T]:
        """Go through a loop with a progress bar, where stderr is a terminal."""
        from rich.console import Console
        from rich.progress import track

        console = Console(stderr=True)
        hidden = not console.is_terminal or len(items) < 2
        return iter(track(items, what, console=console, disable=hidden, transient=True))


@contextlib.contextmanager
def reporting(as_json: bool) -> Iterator[Report]:
    """Open the streams. Whatever libraries print on stdout in the meantime goes to stderr."""
    results = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        yield Report(as_json, results)
    results.flush()


def shown(value: Any) -> str:
    """A value as tables and pictures show it."""
    if value is None:
        return "–"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def duration(seconds: float | None) -> str | None:
    """Seconds with the digits that mean something."""
    return None if seconds is None else f"{seconds:.3f}"
