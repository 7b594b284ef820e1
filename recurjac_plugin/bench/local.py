"""Many instances on this machine, a few at a time."""

from __future__ import annotations

import multiprocessing.connection
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from .child import Child, Solve
from .solve import Task, solve_task


def run_local(tasks: Sequence[Task], *, jobs: int, solve: Solve = solve_task) -> Iterator[dict[str, Any]]:
    """Solve each task in a process of its own.

    Args:
        tasks: begun in this order.
        jobs: how many run at the same time.
        solve: what to do with a task; importable by name.

    Yields:
        One record per task, in the order in which they end. Closing the iterator ends the processes.
    """
    waiting = deque(tasks)
    running: list[Child] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(Child(waiting.popleft(), solve))
            handles = [handle for child in running for handle in child.waitables]
            multiprocessing.connection.wait(handles, min(child.seconds_left for child in running))
            for child in [child for child in running if child.finished()]:
                running.remove(child)
                yield child.record()
    finally:
        for child in running:
            child.close()
            child.record()  # removes its log
