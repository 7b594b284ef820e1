"""What points of regions show: no bounds can be narrower, no constant smaller, and no more signs be known.

Random points come first, then ascents: on the norm of the Jacobian for the constant (`lipschitz.sampled`), on single
entries of it for their ranges (`certificates.sampled_derivatives`), and likewise on single outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recurjac_plugin.certificates.sampled_derivatives import SampledDerivatives, SampledRegion, climbed
from recurjac_plugin.host.region import read_region
from recurjac_plugin.host.state import preserved, takes_batches
from recurjac_plugin.lipschitz.sampled import sampled_lipschitz

from .measured import Part
from .subject import Subject

_BATCH = 256  # points at once
_ENDS = 512  # ends of entries, and of outputs, that are climbed to in each region
_ENDS_ONE_BY_ONE = 16  # of models that take one point at a time


class Sampled(NamedTuple):
    """What points of the regions show."""

    jacobian_width: float
    known_signs: int
    output_width: float


def sampled_constant(subject: Subject, parts: Sequence[Part], norm: float | None = None, seed: int = 0) -> float:
    """The largest Lipschitz constant that points of the regions show for the rows: no method can go below."""
    constants = [
        float(sampled_lipschitz(subject.module, x, C=C, norm=norm, points=32, steps=10, seed=seed).max())
        for x, C in parts
    ]
    return max(constants)


def sampled_values(subject: Subject, part: Part, points: int, seed: int = 0) -> Sampled:
    """Ranges of the Jacobian's entries and of the rows at points of every region, and entries of one sign there."""
    (x, C), model = part, subject.host
    region = read_region(x)
    center = region.center.detach()
    shape, flat = tuple(center.shape[1:]), center.flatten(1)
    radius = region.radius.detach().expand(flat.shape)
    place = SampledRegion(flat - radius, flat + radius, region.norm, region.radius[:, :1].detach())
    with preserved(model):
        size = _BATCH if takes_batches(model.forward, shape, center) else 1
        value = torch.cat([model(one).flatten(1).detach() for one in center.split(size)])
    rows, ends = _rows(C, value), _ENDS if size > 1 else _ENDS_ONE_BY_ONE
    generator = torch.Generator().manual_seed(seed)
    met = SampledDerivatives(model, rows, shape, size, math.inf)
    at, index = place.random(points, generator)
    met.meet(at, index)
    anything = torch.full_like(met.lowest, math.inf)
    met.climb(place, -anything, anything, torch.ones_like(anything, dtype=torch.bool), generator)
    met.widen(place, ends, generator)
    lowest, highest = _output_ranges(_Outputs(model, rows, shape, size), place, (at, index), ends, generator)
    known = int(((met.lowest >= 0) | (met.highest <= 0)).sum())
    return Sampled(float((met.highest - met.lowest).mean()), known, float((highest - lowest).mean()))


class _Outputs(NamedTuple):
    """Rows ``C f`` of a network at points.

    Attributes:
        model: the host's.
        rows: C, (b, k, n_out).
        shape: of one input.
        size: points at once.
    """

    model: Any
    rows: Tensor
    shape: tuple[int, ...]
    size: int

    @torch.enable_grad()
    def at(self, points: Tensor, index: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """The rows at points (n, columns) of the regions `index` (n,), (n, k), and gradients of weighted sums of them.

        The weights are (n, k), the gradients (n, columns).
        """
        values, gradients = [], []
        for parts in zip(*(each.split(self.size) for each in (points, index, weights)), strict=True):
            with preserved(self.model):
                leaf = parts[0].unflatten(1, self.shape).detach().requires_grad_()
                value = (self.rows[parts[1]] @ self.model(leaf).flatten(1).unsqueeze(2)).squeeze(2)
                (gradient,) = torch.autograd.grad((value * parts[2]).sum(), leaf, materialize_grads=True)
            values.append(value.detach())
            gradients.append(gradient.flatten(1).nan_to_num(0.0))
        return torch.cat(values), torch.cat(gradients)


def _output_ranges(
    outputs: _Outputs, place: SampledRegion, tried: tuple[Tensor, Tensor], most: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The lowest and the highest rows met, (b, k) each: at points that were tried, and where at most so many climb."""
    points, index = tried
    values, _ = outputs.at(points, index, torch.zeros_like(outputs.rows[index, :, 0]))
    count, rows = outputs.rows.shape[:2]
    values = values.reshape(count, -1, rows)
    points = points.reshape(count, -1, points.shape[1])
    best = torch.cat((values.argmin(1), values.argmax(1)), 1)  # (b, 2 k)
    chosen = torch.randperm(2 * rows, generator=generator)[:most].sort().values.to(best.device)
    start = points.gather(1, best[:, chosen].unsqueeze(2).expand(-1, -1, points.shape[2])).flatten(0, 1)
    region = torch.arange(count, device=best.device).repeat_interleave(len(chosen))
    sides = torch.where(chosen < rows, -1.0, 1.0).to(start)
    weights = torch.zeros(len(chosen), rows).to(start).scatter(1, (chosen % rows).unsqueeze(1), sides.unsqueeze(1))
    weights = weights.repeat(count, 1)

    def measure(x: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = outputs.at(x, region, weights)
        return (value * weights).sum(1), gradient

    higher = climbed(place, start, region, measure, generator)
    more = outputs.at(higher, region, weights)[0].reshape(count, -1, rows)
    values = torch.cat((values, more), 1)
    return values.amin(1), values.amax(1)


def _rows(C: Tensor | None, value: Tensor) -> Tensor:
    """The matrix of the rows, (b, k, n_out)."""
    if C is None:
        C = torch.eye(value.shape[1], dtype=value.dtype, device=value.device).unsqueeze(0)
    return C.flatten(2).expand(len(value), *C.shape[1:2], value.shape[1])
