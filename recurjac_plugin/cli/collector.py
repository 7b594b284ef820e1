"""Python's garbage collector, which waits while the program loads its libraries.

They make hundreds of thousands of objects, none of them garbage, and the collector would look at all of them again and
again: a fifth of the time of an import of torch. While the program computes it is on, and leaves those objects alone.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_programs_own = False  # whether the process is the program's, and not that of somebody who calls a command


def pause() -> None:
    """Let the collector wait until `resume`, in a process that runs nothing but the program."""
    global _programs_own
    _programs_own = True
    gc.disable()


def resume() -> None:
    """Let it work again, on what is made from now on; nothing without a `pause` before."""
    if _programs_own and not gc.isenabled():
        gc.freeze()
        gc.enable()


@contextmanager
def paused() -> Iterator[None]:
    """Let it wait for the duration of the ``with`` block, in a process that runs nothing but the program."""
    if _programs_own:
        gc.disable()
    try:
        yield
    finally:
        resume()
