"""The `recurjac` command: results on stdout, everything else on stderr.

Nothing but typer is loaded to parse the command line; each command loads what it needs.
"""

from __future__ import annotations

from typing import NoReturn


def main() -> NoReturn:
    """Entry point of the console script; leaves with exit code 0, 2 for bad input, 1 for an error of our own."""
    from .app import app

    app(prog_name="recurjac")
    raise SystemExit(0)
