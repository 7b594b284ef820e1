"""The `recurjac` command: results on stdout, everything else on stderr.

``app`` registers the commands of the folders ``commands`` and ``about``, one file each. What they share: ``options``
declares and reads their options, ``problem`` loads networks and regions, ``streams`` says the results, ``files`` and
``plots`` write tables and pictures, ``standard`` holds the forms of the VNN-LIB standard, the folder ``terminal`` what
has to do with the terminal.

Options and help texts need neither torch nor auto_LiRPA: these, readers of files, ONNX and pictures are imported by the
functions that need them, and ``collector`` lets the garbage collector wait meanwhile.
"""

from __future__ import annotations

import sys

from recurjac_plugin.errors import ExtraError

from .terminal import interrupts

TYPE_CHECKING = False  # without `typing`: until `listen` Ctrl-C is a traceback, so nothing is loaded that can wait
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> NoReturn:
    """Entry point of the console script; exit code 0, 2 for bad input, 1 for an error of our own, 130 for Ctrl-C."""
    try:
        interrupts.listen()
        from recurjac_plugin.extras import need

        need("typer", "rich")
        from . import collector

        collector.pause()
        from .app import app

        app(prog_name="recurjac")
    except ExtraError as error:  # of these two: the commands tell of others themselves
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except BaseException:
        if not interrupts.was_interrupted():
            raise
        # What came of it may be another exception: the failure of an import, or the exit that typer makes of it.
        interrupts.leave()
    raise SystemExit(0)
