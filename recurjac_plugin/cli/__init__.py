"""The `recurjac` command: results on stdout, everything else on stderr.

``app`` registers the commands of the folders ``commands`` and ``about``, one file each. What they share: ``options``
declares and reads their options, ``problem`` loads networks and regions, ``streams`` says the results, ``files`` and
``plots`` write tables and pictures, ``standard`` holds the forms of the VNN-LIB standard.

Options and help texts need neither torch nor auto_LiRPA: these, readers of files, ONNX and pictures are imported by the
functions that need them, and ``collector`` lets the garbage collector wait meanwhile.
"""

from __future__ import annotations

import sys
from typing import NoReturn

from recurjac_plugin.errors import ExtraError
from recurjac_plugin.extras import need


def main() -> NoReturn:
    """Entry point of the console script; leaves with exit code 0, 2 for bad input, 1 for an error of our own."""
    try:
        need("typer", "rich")
    except ExtraError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    from . import collector

    collector.pause()
    from .app import app

    app(prog_name="recurjac")
    raise SystemExit(0)
