"""What a measurement depends on beside the program: versions and the machine."""

from __future__ import annotations

import functools
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "numpy", "onnx", "onnxruntime", "vnnlib")


def cores() -> int:
    """How many CPU cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@functools.cache
def facts() -> dict[str, Any]:
    """Versions of what computes, and the machine; nothing is imported for it."""
    from recurjac_plugin import __version__
    from recurjac_plugin._host_import import find_host

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
    info = Path("/proc/cpuinfo")
    if sys.platform == "linux" and info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
