"""What processes of `recurjac bench` might do: light to import, for each process does so."""

from __future__ import annotations

import os
import sys
import time

VERDICT = {"result": "unsat", "boxes": 1, "run_seconds": 0.0, "prepare_seconds": 0.0}


def well(task, loaded):
    loaded(0.25)
    os.write(1, b"a library says something on stdout")
    return VERDICT | {"lower_bound": task.number}


def unwell(task, loaded):
    """Numbers choose the misfortune."""
    if task.number == 0:
        time.sleep(60)  # loading
    loaded(0.0)
    if task.number == 1:
        os.abort()
    if task.number == 2:
        sys.exit(3)
    if task.number == 3:
        raise RuntimeError("a bug of our own")
    if task.number == 4:
        time.sleep(60)  # solving
    if task.number == 5:
        return VERDICT | {"run_seconds": task.timeout + 0.01}
    return VERDICT


def process_id(task, loaded):
    loaded(0.0)
    time.sleep(0.2)
    return VERDICT | {"boxes": os.getpid()}


def forked(task, loaded):
    """1 in a process that was forked from the server, which has imported much."""
    loaded(0.0)
    return VERDICT | {"boxes": int("recurjac_plugin.bench.preload" in sys.modules)}
