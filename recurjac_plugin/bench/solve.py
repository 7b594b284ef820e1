"""One instance, from its files to a verdict, with everything measured on the way."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from recurjac_plugin.errors import FileError, RecurJacError, UnsupportedError


@dataclass(frozen=True)
class Task:
    """What a process needs to know to solve an instance.

    Attributes:
        number: position in the run.
        onnx: path of the network.
        vnnlib: path of the property.
        timeout: seconds, loading not counted.
        options: keyword arguments of `recurjac_plugin.verify`.
        threads: how many threads to compute with.
        grace: seconds that may pass beyond the timeout before the process is killed.
        loading: seconds that loading may take before the process is killed.
        device: where to compute: ``cpu``, ``cuda`` or ``cuda:N``.
    """

    number: int
    onnx: str
    vnnlib: str
    timeout: float
    options: Mapping[str, Any]
    threads: int = 1
    grace: float = 10.0
    loading: float = 120.0
    device: str = "cpu"


def solve_task(task: Task, loaded: Callable[[float], None]) -> dict[str, Any]:
    """Load network and property, and verify.

    Args:
        task: the instance.
        loaded: called once both are loaded, with the seconds that took; the timeout counts from there.

    Returns:
        The measured part of a record (see `records.blank`); files and networks that are refused give an error.
    """
    import torch

    from recurjac_plugin.networks.onnx import load_onnx
    from recurjac_plugin.properties.vnnlib import load_vnnlib
    from recurjac_plugin.verification.verdicts import attack_refused, verify

    torch.set_num_threads(task.threads)
    start, prepared = time.perf_counter(), None
    try:
        spec, refusal = load_vnnlib(task.vnnlib), None
        try:
            network = load_onnx(task.onnx).to(task.device)
        except (FileError, UnsupportedError) as error:
            refusal = error
        prepared = time.perf_counter()
        loaded(prepared - start)
        if refusal is None:
            result = verify(network, spec, timeout=task.timeout, **task.options)
        else:
            result = attack_refused(task.onnx, spec, refusal, task.timeout, task.options.get("seed", 0))
    except RecurJacError as error:
        now = time.perf_counter()
        # A property of another network is found by `verify`, which knows no names of files.
        where = "" if prepared is None else f"`{task.vnnlib}` on `{task.onnx}`: "
        return {
            "result": "error",
            "error": where + " ".join(str(error).split()),
            "prepare_seconds": (prepared or now) - start,
            "run_seconds": 0.0 if prepared is None else now - prepared,
        }
    point = result.counterexample
    return {
        "result": result.verdict.value,
        "prepare_seconds": prepared - start,
        "run_seconds": time.perf_counter() - prepared,
        "counterexample": None if point is None else {"x": point.x.tolist(), "y": point.y.tolist()},
        "lower_bound": result.lower_bound,
        "boxes": result.boxes,
        "solve_seconds": result.seconds,
        "peak_memory_bytes": peak_memory(),
    }


def peak_memory() -> int | None:
    """Most memory this process has held at once, in bytes; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
