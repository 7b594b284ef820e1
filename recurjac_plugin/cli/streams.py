"""What a command says: results on stdout, as text or as JSON, remarks and progress on stderr."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, TextIO, TypeVar

from recurjac_plugin.errors import FileError
from recurjac_plugin.files import finite

from . import collector
from .terminal.tables import print_table, table_of

T = TypeVar("T")

_quiet = False  # whether the command that runs was told `--quiet`


def be_quiet(wanted: bool) -> None:
    """Whether the next command says its result alone; refusals and wrong verdicts are told all the same."""
    global _quiet
    _quiet = wanted


class Streams:
    """Where one command writes: its results, and its remarks on stderr; see `open_streams`.

    Args:
        as_json: whether the result is one JSON object.
        results: the stream of the results.
        quiet: whether remarks and progress are left out.
    """

    def __init__(self, as_json: bool, results: TextIO, quiet: bool = False) -> None:
        self.as_json, self._results, self.quiet = as_json, results, quiet

    def line(self, text: str) -> None:
        """A result as text."""
        with _writing(self._results):
            print(text, file=self._results)

    def json(self, values: dict[str, Any]) -> None:
        """The result as one JSON object; numbers that are not finite become null."""
        self.line(json.dumps(finite(values), allow_nan=False))

    def table(
        self,
        title: str,
        header: Sequence[str],
        rows: Iterable[Sequence[Any]],
        right: Collection[int] = (),
        prose: Collection[int] = (),
        keys: int = 1,
    ) -> None:
        """A result as a table, as wide as the terminal; whole, however wide, where stdout is none.

        Args:
            title: stands above it.
            header: names of the columns, all different.
            rows: one value per column, see `terminal.tables.shown`.
            right: positions of the columns that are set flush right, as numbers are.
            prose: positions of the columns that may go on in a next line, between words.
            keys: how many columns on the left say what a row is about.
        """
        with _writing(self._results):
            print_table(table_of(title, header, rows, right, prose, keys), self._results, _width(self._results))

    def note(self, text: str) -> None:
        """A remark for whoever watches; nothing when the command is quiet."""
        if not self.quiet:
            self.alarm(text)

    def alarm(self, text: str) -> None:
        """A remark that nobody may miss, whether the command is quiet or not."""
        print(text, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def status(self, what: str) -> Iterator[Callable[[str], None]]:
        """A line on stderr that can be written anew while something goes on, where stderr is a terminal."""
        from rich.console import Console

        if not animated(self.quiet):
            yield lambda text: None
            return
        with Console(stderr=True).status(what) as line:
            yield lambda text: line.update(f"{what}: {text}")

    def progress(self, items: Sequence[T], what: str) -> Iterator[T]:
        """The items one by one, with a progress bar called `what` where stderr is a terminal."""
        from rich.console import Console
        from rich.progress import track

        hidden = not animated(self.quiet) or len(items) < 2
        return iter(track(items, what, console=Console(stderr=True), disable=hidden, transient=True))


@contextlib.contextmanager
def open_streams(as_json: bool) -> Iterator[Streams]:
    """The streams of a command while it runs. Whatever libraries print on stdout in the meantime goes to stderr."""
    collector.resume()
    with contextlib.ExitStack() as stack:
        results: TextIO | None = sys.stdout
        if results is None:  # closed by whoever started the process
            results = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        chatter = stack.enter_context(open(os.devnull, "w", encoding="utf-8")) if _quiet else sys.stderr
        stack.enter_context(contextlib.redirect_stdout(chatter))
        yield Streams(as_json, results, _quiet)
        with _writing(results):
            results.flush()


@contextlib.contextmanager
def _writing(results: TextIO) -> Iterator[None]:
    """Refuse in one sentence what the system does not let us write; a reader that has left is left alone."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):  # or Python would try once more at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), results.fileno())
        raise FileError(f"The results cannot be written to stdout: {error.strerror}.") from error


def animated(quiet: bool) -> bool:
    """Whether lines on stderr may be written anew: on a terminal that can, unless nobody wants to see them."""
    return not quiet and sys.stderr.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def _width(stream: TextIO) -> int | None:
    """Columns of the terminal that a stream is; None where it is none."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def duration(seconds: float | None) -> str | None:
    """Seconds to the millisecond; None stays None."""
    return None if seconds is None else f"{seconds:.3f}"
