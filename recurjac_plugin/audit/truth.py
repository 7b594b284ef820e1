r"""What a specimen computes on boxes, by torch in float64, and how much rounding a host may show beside it.

Values are taken at corners, at random points, on the line from the lower to the upper corner, and where one step along
the gradient of an element leads: to the corner that is the best for a linear function, and half way to it.

The allowance for rounding is a running error bound over the modules in a row,

.. math:: e_0 = R \varepsilon |x|, \qquad
    e_{i+1} = \max_\sigma |f_i(z_i + \sigma e_i) - f_i(z_i)| + R \varepsilon (s_i + t_i),

with random signs sigma, R = `ROUNDINGS`, eps that of the type in which the host computes, s_i the sum of the sizes of
all terms of a linear module (``|W| |z_i| + |b|``) or the size of the result, and t_i that of what occurs inside of the
module; every e_i the largest over points of the box, its ends among them. It grows with the terms, not with their sum,
and vanishes with the box's distance from 0: an error of 1e-6 on a narrow interval near 0 is seen in float32 too.

Source: own; for running error bounds see Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.3.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .boxes import Boxes
from .specimens.specimen import Placed, Residual

ROUNDINGS = 32.0
"""How many roundings of the size of a term are allowed at every module: sums of up to some dozens of terms, and a few
operations on top of each other. What only rounding explains was at most 20 on both hosts."""

_ON_THE_LINE = 33
_RANDOM = 4
_ASCENDED = 6  # elements of each output that are ascended
_SIGNS = 8


@dataclass(frozen=True, eq=False)
class Truth:
    """One tensor of a network on boxes.

    Attributes:
        values: of shape (points, b, *shape).
        allowance: for rounding, shape (b, *shape).
    """

    values: Tensor
    allowance: Tensor

    def chosen(self, numbers: Sequence[int]) -> Truth:
        """The same on some of the boxes."""
        return Truth(self.values[:, numbers], self.allowance[numbers])

    def spread(self) -> Tensor:
        """Largest minus least value, shape (b, *shape)."""
        return self.values.amax(0) - self.values.amin(0)


def truths(
    network: Placed,
    boxes: Boxes,
    terms: float,
) -> list[Truth]:
    """Values and allowances of what the network's last ReLUs read, and of its output.

    Args:
        network: in float64, with the numbers of the host's.
        boxes: of the type in which the host computes.
        terms: `Specimen.terms`.

    Returns:
        One for each of `Placed.watched`, and the output's.
    """
    lower, upper = boxes.lower.double(), boxes.upper.double()
    points = _points(lower, upper)
    wanted = (*network.watched, len(network.stages) - 1)
    steps = [_ascended(network, position, points, lower, upper) for position in wanted]
    points = torch.cat([points, *steps])
    with torch.no_grad():
        values = network.values(points.flatten(0, 1))
    few = torch.cat([points[:_ON_THE_LINE:8], points[_ON_THE_LINE : _ON_THE_LINE + 3]])
    errors = _errors(network, few, boxes.lower.dtype, terms)
    return [Truth(values[i].unflatten(0, points.shape[:2]), errors[i]) for i in wanted]


def _points(lower: Tensor, upper: Tensor) -> Tensor:
    """On the line between the corners, corners, and random points, shape (points, b, *shape)."""
    generator = torch.Generator().manual_seed(0)
    line = torch.linspace(0, 1, _ON_THE_LINE, dtype=torch.float64).reshape(-1, *(1,) * lower.dim())
    line = line.expand(-1, *lower.shape)
    inside = torch.rand(_RANDOM, *lower.shape, generator=generator, dtype=torch.float64)
    corners = (torch.rand(_RANDOM, *lower.shape, generator=generator) < 0.5).double()
    parts = torch.cat([line, corners, inside])
    return torch.minimum(torch.lerp(lower.expand_as(parts), upper.expand_as(parts), parts), upper)


def _ascended(network: Placed, position: int, points: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Where the gradients of elements of one module's output lead from their best points, shape (points, b, *shape)."""
    found = []
    with torch.no_grad():
        known = network.values(points.flatten(0, 1))[position].unflatten(0, points.shape[:2]).flatten(2)
    count = known.shape[2]
    for element in range(0, count, max(1, count // _ASCENDED)):
        for sign in (1, -1):
            best = (sign * known[:, :, element]).nan_to_num(-torch.inf).argmax(0)
            start = points[best, torch.arange(points.shape[1])].requires_grad_()
            value = network.values(start)[position].flatten(1)[:, element].sum()
            value = value + 0.0 * start.sum()  # a comparison has no gradient
            (gradient,) = torch.autograd.grad(sign * value, start, materialize_grads=True)
            corner = torch.where(gradient > 0, upper, torch.where(gradient < 0, lower, start.detach()))
            found += [corner, torch.minimum(torch.lerp(start.detach(), corner, 0.5), upper)]
    return torch.stack(found) if found else points[:0]


@torch.no_grad()
def _errors(network: Placed, points: Tensor, dtype: torch.dtype, terms: float) -> list[Tensor]:
    """Running error of every module's output, the largest over the points, shape (b, *shape) each."""
    generator = torch.Generator().manual_seed(0)
    # All roundings at once: the effect of a single one of float64 would drown in those of the evaluation.
    eps, tiny = ROUNDINGS * torch.finfo(dtype).eps, ROUNDINGS * torch.finfo(dtype).tiny
    value = points.flatten(0, 1)
    error = (eps * points.abs().amax(0)).expand_as(points).flatten(0, 1)
    found = []
    for position, stage in enumerate(network.stages):
        result = stage(value)
        moved = torch.zeros_like(result)
        for _ in range(_SIGNS):
            signs = torch.randint(0, 2, value.shape, generator=generator) * 2 - 1
            for change in (signs * error, -signs * error):
                moved = torch.maximum(moved, (stage(value + change) - result).abs().nan_to_num(0.0))
        error = moved + eps * (_size(stage, value, result) + (terms if position == network.operator else 0.0)) + tiny
        # Hosts compute with the ends of intervals everywhere: the error at the far end is that of all points.
        found.append(error.unflatten(0, points.shape[:2]).amax(0))
        value, error = result, found[-1].expand(len(points), *found[-1].shape).flatten(0, 1)
    return found


def _size(stage: nn.Module, value: Tensor, result: Tensor) -> Tensor:
    """What a rounding of a module's result is a part of: the sum of the sizes of all terms."""
    if isinstance(stage, Residual):
        return stage.size(value)
    if not isinstance(stage, (nn.Linear, nn.Conv2d)):
        return result.abs()
    absolute = copy.deepcopy(stage)
    for parameter in absolute.parameters():
        parameter.abs_()
    size: Tensor = absolute(value.abs())
    return size
