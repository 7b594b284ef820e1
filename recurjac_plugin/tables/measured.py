"""What one method says over some regions: the numbers of a table's row, and rows of several inputs as one."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from recurjac_plugin.jacobian.entries import jacobian_bounds
from recurjac_plugin.jacobian.methods import AUTO
from recurjac_plugin.lipschitz.local import local_lipschitz
from recurjac_plugin.lipschitz.mean_value import output_bounds
from recurjac_plugin.numerics.rounding import PROOF, eps

from .subject import Subject, chosen, listed

T = TypeVar("T")

Part = tuple[Any, Tensor | None]
"""Regions, as a `BoundedTensor`, and the rows C that are bounded on them; None for every output."""

_REPEATED = 0.5  # seconds below which a computation is timed twice: the first call of a process is slow


class OfJacobian(NamedTuple):
    """Of the bounds of a Jacobian over all parts.

    Attributes:
        width: the mean width, every part of the same weight.
        known: how many entries have a known sign, 0 at an end included.
        entries: how many there are.
        constant: the largest Lipschitz constant.
    """

    width: float
    known: int
    entries: int
    constant: float


def named(subject: Subject, parts: Sequence[Part], names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The methods with `auto` replaced by what it is on all parts, where it is one, and what it is on each."""
    autos = tuple(chosen(subject, AUTO, [x], C) for x, C in parts)

    def on_parts(name: str) -> str:
        return listed(autos) if name == AUTO else listed(chosen(subject, name, [x], C) for x, C in parts)

    found = {name: on_parts(name) for name in names}
    kept = (by if "," not in by else name for name, by in found.items())
    return tuple(dict.fromkeys(kept)), autos


def outputs_of(subject: Subject, parts: Sequence[Part], name: str) -> list[tuple[Tensor, Tensor]]:
    """Lower and upper bounds of the rows ``C f`` on every part, float64 (b, k) each, on the CPU."""
    found = []
    for x, C in parts:
        with torch.no_grad():
            lower, upper = output_bounds(subject.host, x, method=name, C=C)
        found.append((lower.double().cpu(), upper.double().cpu()))
    return found


def jacobian_of(subject: Subject, parts: Sequence[Part], name: str, norm: float | None = None) -> OfJacobian:
    """What the bounds of the Jacobian say on all parts; norm: of the constant, None for that of the regions."""
    widths, known, entries, constants = [], 0, 0, []
    for x, C in parts:
        with torch.no_grad():
            lower, upper = jacobian_bounds(subject.host, x, method=name, C=C)
            constants.append(float(local_lipschitz(subject.host, x, method=name, C=C, norm=norm).max()))
        widths.append(float((upper - lower).mean()))
        known += int(((lower >= 0) | (upper <= 0)).sum())
        entries += lower.numel()
    return OfJacobian(math.fsum(widths) / len(widths), known, entries, max(constants))


def too_small(rows: Sequence[dict[str, Any]], sampled: float, dtype: torch.dtype) -> list[dict[str, Any]]:
    """The rows whose Lipschitz constants points of the regions show to be too small."""
    allowed = 1 + PROOF * eps(dtype)
    return [row for row in rows if row["lipschitz"] is not None and row["lipschitz"] * allowed < sampled]


def timed(run: Callable[[], T]) -> tuple[T, float]:
    """The value of `run`, and its seconds; of two runs the shorter one where they are short."""
    start = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - start
    if seconds < _REPEATED:
        start = time.perf_counter()
        result = run()
        seconds = min(seconds, time.perf_counter() - start)
    return result, seconds


def together(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each method, of its rows on several inputs.

    Widths are means, constants the largest, signs and seconds sums; a method that is refused on one input has none.
    """
    found = []
    for name in dict.fromkeys(row["method"] for row in rows):
        of_name = [row for row in rows if row["method"] == name]
        row: dict[str, Any] = {"method": name}
        for column, join in _JOINED.items():
            values = [each[column] for each in of_name]
            row[column] = None if None in values else join(values)
        reasons = [each["unsupported"] for each in of_name if each["unsupported"] is not None]
        row |= {"auto": all(each["auto"] for each in of_name), "unsupported": reasons[0] if reasons else None}
        found.append(row)
    return found


_JOINED: dict[str, Callable[[list[Any]], Any]] = {
    "jacobian_width": statistics.fmean,
    "known_signs": sum,
    "lipschitz": max,
    "output_width": statistics.fmean,
    "seconds": math.fsum,
}
