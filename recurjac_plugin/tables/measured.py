"""What one method says over some regions, and what sampling says of the same: the numbers of a table's row."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from recurjac_plugin.certificates.sampled_derivatives import SampledDerivatives, SampledRegion
from recurjac_plugin.host.region import read_region
from recurjac_plugin.host.state import preserved, takes_batches
from recurjac_plugin.jacobian.entries import jacobian_bounds
from recurjac_plugin.jacobian.methods import AUTO
from recurjac_plugin.lipschitz.local import local_lipschitz
from recurjac_plugin.lipschitz.mean_value import output_bounds
from recurjac_plugin.lipschitz.sampled import sampled_lipschitz
from recurjac_plugin.numerics.rounding import PROOF, eps

from .subject import Subject, chosen, listed

T = TypeVar("T")

Part = tuple[Any, Tensor | None]
"""Regions, as a `BoundedTensor`, and the rows C that are bounded on them; None for every output."""

_REPEATED = 0.5  # seconds below which a computation is timed twice: the first call of a process is slow
_BATCH = 256  # points at once


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


class Sampled(NamedTuple):
    """What points of the regions show: no bounds can be narrower, and no more signs be known."""

    jacobian_width: float
    known_signs: int
    output_width: float


def named(subject: Subject, parts: Sequence[Part], names: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """The methods with `auto` replaced by what it is on all parts, where it is one, and what it is."""

    def on_parts(name: str) -> str:
        return listed(chosen(subject, name, [x], C) for x, C in parts)

    found = {name: on_parts(name) for name in names}
    kept = (by if "," not in by else name for name, by in found.items())
    return tuple(dict.fromkeys(kept)), on_parts(AUTO)


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


def sampled_constant(subject: Subject, parts: Sequence[Part], norm: float | None = None, seed: int = 0) -> float:
    """The largest Lipschitz constant that points of the regions show for the rows: no method can go below."""
    constants = [
        float(sampled_lipschitz(subject.module, x, C=C, norm=norm, points=32, steps=10, seed=seed).max())
        for x, C in parts
    ]
    return max(constants)


def sampled_values(subject: Subject, parts: Sequence[Part], points: int, seed: int = 0) -> Sampled:
    """Widths of what the Jacobian and the rows are at random points of every region, and entries of one sign there."""
    widths, known, outputs = [], 0, []
    model = subject.host
    for x, C in parts:
        region = read_region(x)
        center = region.center.detach()
        shape, flat = tuple(center.shape[1:]), center.flatten(1)
        radius = region.radius.detach().expand(flat.shape)
        place = SampledRegion(flat - radius, flat + radius, region.norm, region.radius[:, :1].detach())
        with preserved(model):
            size = _BATCH if takes_batches(model.forward, shape, center) else 1
            value = torch.cat([model(one).flatten(1).detach() for one in center.split(size)])
        rows = _rows(C, value)
        generator = torch.Generator().manual_seed(seed)
        met = SampledDerivatives(model, rows, shape, size, math.inf)
        at, index = place.random(points, generator)
        met.meet(at, index)
        widths.append(float((met.highest - met.lowest).mean()))
        known += int(((met.lowest >= 0) | (met.highest <= 0)).sum())
        with preserved(model), torch.no_grad():
            values = torch.cat([model(one.unflatten(1, shape)).flatten(1) for one in at.split(size)])
        values = (rows[index] @ values.unsqueeze(2)).reshape(len(center), points, -1)
        outputs.append(float((values.amax(1) - values.amin(1)).mean()))
    return Sampled(math.fsum(widths) / len(widths), known, math.fsum(outputs) / len(outputs))


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


def _rows(C: Tensor | None, value: Tensor) -> Tensor:
    """The matrix of the rows, (b, k, n_out)."""
    if C is None:
        C = torch.eye(value.shape[1], dtype=value.dtype, device=value.device).unsqueeze(0)
    return C.flatten(2).expand(len(value), *C.shape[1:2], value.shape[1])
