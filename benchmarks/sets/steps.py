"""What is done with an instance, each step in a process of its own, with its own clock and limit of memory.

A step ends in one word for the table and one sentence for whoever looks further.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from recurjac_plugin.bench.child import Child
from recurjac_plugin.bench.solve import Task, peak_memory, solve_task
from recurjac_plugin.errors import RecurJacError, UnsupportedError

Loaded = Callable[[float], None]
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "bad_alloc", "std::bad_alloc", "Unable to allocate")
_PATIENCE = 10.0  # seconds beyond a limit before a process is killed


def run_step(step: str, onnx: str, vnnlib: str, seconds: float, gigabytes: float) -> dict[str, Any]:
    """A step of an instance.

    Args:
        step: one of `STEPS`.
        onnx: path of the network.
        vnnlib: path of the property.
        seconds: limit of the step, and of loading before it.
        gigabytes: that the process may take beyond what its imports have.

    Returns:
        `result`, a word; `detail`, a sentence; the `load` and `run` seconds, and the `peak` of memory in MB.
    """
    options = {"step": step, "bytes": int(gigabytes * 2**30)}
    task = Task(0, onnx, vnnlib, seconds, options, grace=_PATIENCE, loading=max(seconds, 60.0) + _PATIENCE)
    child = Child(task, solve_step)
    while not child.finished():
        time.sleep(0.02)
    record = child.record()
    detail = " ".join((record["error"] or "").split())
    result = record["result"]
    if any(text in detail + str(record["log"]) for text in _OUT_OF_MEMORY):
        result = "memory"
    elif result == "error" and detail.startswith("Its process"):
        result = "crash"
    memory = record["peak_memory_bytes"]
    return {
        "result": result,
        "detail": record.get("shown") or detail,
        "load": record["prepare_seconds"],
        "run": record["run_seconds"],
        "peak": None if memory is None else memory / 2**20,
    }


def solve_step(task: Task, loaded: Loaded) -> dict[str, Any]:
    """What the process does: see `run_step`."""
    import torch

    torch.set_num_threads(1)
    _limit_memory(task.options["bytes"])
    step = task.options["step"]
    try:
        if step == "verdict":
            return solve_task(replace(task, options={}), loaded)
        return _measured(STEPS[step], task, loaded)
    except MemoryError as error:
        return {"result": "memory", "error": str(error)}


def _measured(work: Callable[[Any, Any], str], task: Task, loaded: Loaded) -> dict[str, Any]:
    """Load network and property, and do the work of a step with them."""
    from recurjac_plugin.networks.onnx import load_onnx

    start = time.perf_counter()
    try:
        network = load_onnx(task.onnx)
        spec = None if work is _nothing else _property(task.vnnlib)
        loaded(time.perf_counter() - start)
        prepared = time.perf_counter()
        shown = _in_either_type(work, network, spec)
    except RecurJacError as error:
        return {"result": "refused", "error": " ".join(str(error).split()), "peak_memory_bytes": peak_memory()}
    return {
        "result": "yes",
        "shown": shown,
        "prepare_seconds": prepared - start,
        "run_seconds": time.perf_counter() - prepared,
        "peak_memory_bytes": peak_memory(),
    }


def _in_either_type(work: Callable[[Any, Any], str], network: Any, spec: Any) -> str:
    """The work on the network in its own type; in float64 where float32 is refused and that might be for rounding."""
    import torch

    try:
        return work(network, spec)
    except UnsupportedError as error:
        if network.dtype == torch.float64 or "float64" not in str(error):
            raise
    network.dtype = torch.float64
    return f"{work(network.double(), spec)}, in float64"


def _property(path: str) -> Any:
    from recurjac_plugin.properties.vnnlib import load_vnnlib

    return load_vnnlib(path)


def _nothing(network: Any, spec: Any) -> str:
    return f"{tuple(network.input_shape)} to {network.n_outputs}, {network.max_difference:.1g} from onnxruntime"


def _crown(network: Any, spec: Any) -> str:
    """CROWN's bounds of one row of the property on its first box."""
    import recurjac_plugin as rj

    model, region, row = _problem(network, spec)
    lower, upper = (float(bound) for bound in rj.output_bounds(model, region, method="CROWN", C=row))
    if not lower <= upper:
        raise AssertionError(f"bounds are {lower} and {upper}")
    return f"{lower:.6g} to {upper:.6g}"


def _jacobian(network: Any, spec: Any) -> str:
    """Bounds of the Jacobian of one row of the property on its first box."""
    import recurjac_plugin as rj

    model, region, row = _problem(network, spec)
    bounds = rj.jacobian_bounds(model, region, C=row)
    if not bool((bounds.lower <= bounds.upper).all()):
        raise AssertionError("lower bounds are above upper ones, or NaN")
    return f"entries up to {float(bounds.magnitude.max()):.6g}, widths up to {float(bounds.width.max()):.6g}"


def _problem(network: Any, spec: Any) -> tuple[Any, Any, Any]:
    """Network on the host, first box of a property, and its first row about outputs: (1, 1, n_outputs)."""
    import numpy as np
    import torch

    from recurjac_plugin.host.region import perturbed_box
    from recurjac_plugin.plugin.model import bounded_model

    box = spec.boxes[0]
    like = torch.zeros((), dtype=network.dtype)
    lower, upper = (
        torch.from_numpy(end).reshape(1, *network.input_shape) for end in box.rounded_outward(like.numpy().dtype)
    )
    rows, _ = box.rows()
    row = next((row for row in rows if row.any()), np.eye(1, spec.n_outputs)[0])
    model = bounded_model(network, torch.zeros(1, *network.input_shape, dtype=network.dtype))
    return model, perturbed_box(lower, upper), torch.from_numpy(row).to(network.dtype)[None, None]


def _limit_memory(more: int) -> None:
    """Refuse this process more memory than so many bytes beyond what it has mapped now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + more, mapped + more))


STEPS: Mapping[str, Callable[[Any, Any], str]] = {"read": _nothing, "crown": _crown, "jacobian": _jacobian}
"""Steps before the verdict, in their order: the word `yes`, and what is shown with it."""
