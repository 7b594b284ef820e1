"""What is kept of an instance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .host_facts import facts


def blank(
    number: int, timeout: float, options: Mapping[str, Any], *, error: str | None = None, result: str = "error"
) -> dict[str, Any]:
    """A record of an instance of which nothing was measured; callers fill in what they know.

    Fields: `number` in the run; `timeout`, `options`, `versions` and `host` that it had; `result`, one of VNN-COMP's
    words; `late`, a verdict that came after the timeout; `counterexample`, with inputs `x` and outputs `y`;
    `lower_bound` of the distance from a violation; `boxes` bounded; `prepare_seconds` to load network and property;
    `run_seconds` of the verdict, as seen around it, and `solve_seconds`, as `verify` reports them; `wall_seconds` of
    the whole process; `peak_memory_bytes` of the process, imports included; `error`, why there is no
    verdict; `log`, what a broken process said last.
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
        "wall_seconds": 0.0,
        "peak_memory_bytes": None,
        "error": error,
        "log": None,
        "options": dict(options),
        **facts(),
    }
