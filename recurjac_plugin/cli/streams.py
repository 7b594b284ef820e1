"""What a command says: results on stdout, as text or as JSON, remarks and progress on stderr."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, TextIO, TypeVar

from recurjac_plugin.files import finite

from . import collector

T = TypeVar("T")

_WIDTH = 120  # where stdout is no terminal


class Streams:
    """Where one command writes: its results, and its remarks on stderr; see `open_streams`.

    Args:
        as_json: whether the result is one JSON object.
        results: the stream of the results.
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
        """A result as a table.

        Args:
            title: stands above it.
            header: names of the columns.
            rows: one value per column, see `shown`.
            right: positions of the columns that are set flush right, as numbers are.
        """
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

    @contextlib.contextmanager
    def status(self, what: str) -> Iterator[Callable[[str], None]]:
        """A line on stderr that can be written anew while something goes on, where stderr is a terminal."""
        from rich.console import Console

        console = Console(stderr=True)
        if not console.is_terminal:
            yield lambda text: None
            return
        with console.status(what) as line:
            yield lambda text: line.update(f"{what}: {text}")

    def progress(self, items: Sequence[T], what: str) -> Iterator[T]:
        """The items one by one, with a progress bar called `what` where stderr is a terminal."""
        from rich.console import Console
        from rich.progress import track

        console = Console(stderr=True)
        hidden = not console.is_terminal or len(items) < 2
        return iter(track(items, what, console=console, disable=hidden, transient=True))


@contextlib.contextmanager
def open_streams(as_json: bool) -> Iterator[Streams]:
    """The streams of a command while it runs. Whatever libraries print on stdout in the meantime goes to stderr."""
    collector.resume()
    results = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        yield Streams(as_json, results)
    results.flush()


def shown(value: Any) -> str:
    """A value as tables show it: five digits of a number, a dash for None."""
    if value is None:
        return "–"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def duration(seconds: float | None) -> str | None:
    """Seconds to the millisecond; None stays None."""
    return None if seconds is None else f"{seconds:.3f}"
