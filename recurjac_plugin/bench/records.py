"""The record of an instance: what is measured, with which versions, and on which machine."""

from __future__ import annotations

import functools
import os
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "numpy", "onnx", "onnxruntime", "vnnlib")  # whose versions are kept


def blank(
    number: int, timeout: float, options: Mapping[str, Any], *, error: str | None = None, result: str = "error"
) -> dict[str, Any]:
    """A record of an instance of which nothing was measured; callers fill in what they know.

    Args:
        number: position in the run.
        timeout: seconds.
        options: keyword arguments of `recurjac_plugin.verify`.
        error: why there is no verdict.
        result: one of VNN-COMP's words.

    Returns:
        The arguments, and `versions` and `host` of `facts`, with these fields: `late`, a verdict that came after the
        timeout; `counterexample`, with inputs `x` and outputs `y`; `lower_bound` of the distance from a violation;
        `boxes` bounded; `prepare_seconds` to load network and property; `run_seconds` of the verdict, measured around
        it, and `solve_seconds`, as `verify` reports them; `cpu_seconds` of all cores together for the verdict, None
        where the system does not say; `wall_seconds` of the whole process; `peak_memory_bytes` of the process, imports
        included; `log`, the last lines of a process that broke.
    """
    return {
        "number": number,
        "timeout": timeout,
        "result": result,
        "late": None,
        "counterexample": None,
        "lower_bound": None,
        "boxes": None,
        "prepare_seconds": 0.0,
        "run_seconds": 0.0,
        "solve_seconds": None,
        "cpu_seconds": None,
        "wall_seconds": 0.0,
        "peak_memory_bytes": None,
        "error": error,
        "log": None,
        "options": dict(options),
        **facts(),
    }


def cores() -> int:
    """How many CPU cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@functools.cache
def facts() -> dict[str, Any]:
    """The versions of everything that computes, and the machine; no package is imported to find them."""
    from recurjac_plugin.host.find import find_host
    from recurjac_plugin.version import __version__

    return {
        "versions": {
            "recurjac_plugin": __version__,
            "auto_lirpa": find_host().version,
            "python": platform.python_version(),
            **{name: _installed(name) for name in _PACKAGES},
        },
        "host": {"name": platform.node(), "cpu": _cpu(), "cores": cores(), "system": platform.platform()},
    }


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    """The name of the processor."""
    info = Path("/proc/cpuinfo")
    if sys.platform == "linux" and info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
