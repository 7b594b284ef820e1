"""Many instances on the machines of a Dask cluster."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from recurjac_plugin.errors import InputError, RecurJacError, counted
from recurjac_plugin.extras import need

from .local import run_local
from .records import blank, facts
from .solve import Task


def run_cluster(tasks: Sequence[Task], *, scheduler: str, connect_seconds: float = 15.0) -> Iterator[dict[str, Any]]:
    """Solve each task in a process of its own on some worker of a cluster.

    Every thread of every worker takes one instance at a time. An instance whose worker dies goes to another worker, as
    often as the scheduler's setting ``distributed.scheduler.allowed-failures`` says (3 times by default), and is an
    error after that. Workers must see the files under the same paths.

    Args:
        tasks: begun in about this order.
        scheduler: its address, such as ``tcp://host:8786``.
        connect_seconds: how long to wait for the scheduler to answer, and for a first worker.

    Yields:
        One record per task, in the order in which they end.

    Raises:
        ExtraError: Dask is not installed.
        InputError: no scheduler answers, or it has no workers.
        RecurJacError: workers cannot import this package, or the scheduler is gone; what was yielded so far stands.
    """
    with _quiet_client(), _connect(scheduler, connect_seconds) as client:
        _check_workers(client, scheduler, connect_seconds)
        # Keys of this run alone: results that the cluster still holds from another are not taken for ours.
        run = uuid.uuid4().hex
        futures = {
            client.submit(_on_worker, task, key=f"recurjac-{run}-{task.number}", pure=False): task for task in tasks
        }
        yield from _collected(futures, client, scheduler)


def _collected(futures: dict[Any, Task], client: Any, scheduler: str) -> Iterator[dict[str, Any]]:
    """The record of each task as soon as its future is done."""
    from distributed import KilledWorker, as_completed

    for future in as_completed(list(futures), loop=client.loop):
        task = futures.pop(future)
        if future.status == "finished":
            record = future.result()
        else:
            error = None if future.status == "cancelled" else future.exception()
            if error is None:
                raise RecurJacError(
                    f"The Dask scheduler at `{scheduler}` is gone; what it finished is kept: continue with --resume."
                )
            if isinstance(error, ImportError):
                raise RecurJacError(
                    f"A worker of `{scheduler}` cannot load recurjac_plugin: {error}; install it there."
                )
            if not isinstance(error, KilledWorker):
                raise error
            record = _lost(task, error)
        future.release()
        yield record


def _lost(task: Task, error: Any) -> dict[str, Any]:
    """The record of an instance that no worker survived."""
    message = f"Its Dask worker died each time it was tried, at last {error.last_worker.address}."
    return blank(task.number, task.timeout, task.options, error=message)


def _on_worker(task: Task) -> dict[str, Any]:
    """What a worker does with a task: the same as this machine would, in a process of its own."""
    from distributed import get_worker

    # Dask's nanny marks its workers as daemons, which may have no processes of their own. Ours end with the worker.
    multiprocessing.current_process().daemon = False
    (record,) = run_local([task], jobs=1)
    record["host"]["dask_worker"] = get_worker().address
    return record


@contextlib.contextmanager
def _quiet_client() -> Iterator[None]:
    """Keep Dask from logging a lost connection with its traceback: the error that follows from it says it in words."""
    logger = logging.getLogger("distributed.client")
    before, logger.disabled = logger.disabled, True  # its level is set anew when Dask is imported
    try:
        yield
    finally:
        logger.disabled = before


def _connect(scheduler: str, seconds: float) -> Any:
    need("distributed")
    from distributed import Client

    try:
        return Client(scheduler, timeout=seconds, set_as_default=False)
    except (OSError, ValueError, asyncio.TimeoutError) as error:
        raise InputError(
            f"No Dask scheduler answers at `{scheduler}` ({' '.join(str(error).split())}); start one with "
            "`dask scheduler`, and give the address that it prints."
        ) from error


def _check_workers(client: Any, scheduler: str, seconds: float) -> None:
    """Refuse a cluster without workers, or with workers that cannot load this package.

    Workers that come later are not asked: a task that fails to load there is refused by `_collected`.
    """
    try:
        client.wait_for_workers(1, timeout=seconds)
    except asyncio.TimeoutError as error:
        raise InputError(f"`{scheduler}` has no workers; start some with `dask worker {scheduler}`.") from error
    answers = client.run(_package, on_error="return")
    broken = {worker: answer for worker, answer in answers.items() if not isinstance(answer, str)}
    if broken:
        worker, reason = next(iter(broken.items()))
        raise RecurJacError(
            f"{len(broken)} of {counted(len(answers), 'worker')} of `{scheduler}` cannot load recurjac_plugin, e.g. "
            f"{worker}: {reason}; install it there."
        )


def _package() -> str:
    """The version of this package, as a worker finds it."""
    return str(facts()["versions"]["recurjac_plugin"])
