r"""Operators that multiply or choose between perturbed inputs, bounded by their own steps.

Along the straight line from the middle :math:`x_0` of the inputs' bounds to any x in them, an operator's differential
is that of its steps (`graph.products`): linear maps, and factors d known to a range. With lines around the change of
every factor step in the change t of its source (`graph.steps.Factor.change_lines`), the coefficients A of the output
become those of the inputs, step by step from the last one back:

.. math:: A f(x) \ge A f(x_0) + \sum_i A_i (x_i - x_{0,i})
    + \sum_{\text{steps}} (A^+ \underline{c} + A^- \overline{c}) .

Source: own; the substitution is CROWN's (Zhang, Weng, Chen, Hsieh, Daniel, NeurIPS 2018, arXiv:1811.00866).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.activations.lines import Relaxation
from recurjac_plugin.errors import UnsupportedError
from recurjac_plugin.graph.products import softmax_range
from recurjac_plugin.graph.steps import FactorStep, LinearStep
from recurjac_plugin.numerics.intervals import Interval, Intervals
from recurjac_plugin.numerics.rounding import ELEMENTWISE, eps

from .coefficients import dense
from .linear import bias, pulled
from .part import Part

_RISING = {"BoundMax", "BoundMin", "BoundReduceMax", "BoundReduceMin", "BoundMaxPool"}
"""Operators that do not fall in any of their inputs: their values at the ends are their bounds, exactly."""


class Relaxed:
    """An operator with lines around all of its factor steps, on bounds of its inputs.

    Args:
        part: the operator.
        inputs: bounds of its perturbed inputs by name, (b, *input_shape) each.
    """

    def __init__(self, part: Part, inputs: Intervals) -> None:
        self.part = part
        self._centers = {name: _middle(*ends) for name, ends in inputs.items()}
        self._value = part.value(self._centers)
        changes = {
            name: (ends[0] - self._centers[name], ends[1] - self._centers[name]) for name, ends in inputs.items()
        }
        sizes = {name: torch.maximum(low.abs(), high.abs()) for name, (low, high) in inputs.items()}
        self._lines: dict[str, Relaxation] = {}
        for step in part.graph.steps:
            if isinstance(step, LinearStep):
                changes[step.name], sizes[step.name] = _moved(step, changes, sizes)
            else:
                changes[step.name], sizes[step.name] = self._multiplied(step, inputs, changes, sizes)
        self._size = sizes[part.graph.output]

    def _multiplied(
        self, step: FactorStep, inputs: Intervals, changes: Mapping[str, Interval], sizes: Mapping[str, Tensor]
    ) -> tuple[Interval, Tensor]:
        """Keep the lines of a factor step; returns bounds of its change, and the size of its terms."""
        reads = [inputs[read.name] for read in step.reads]
        centers = [self._centers[read.name] for read in step.reads]
        first, last = changes[step.source]
        dl, du = step.factor.derivative_range(*reads)
        size = sizes[step.source] * torch.maximum(dl.abs(), du.abs())
        error = ELEMENTWISE * eps(size) * sizes[step.source]
        lines = step.factor.change_lines(reads, centers, (first - error, last + error))
        # The values that a factor depends on are rounded, which moves its lines by that times their slope.
        room = ELEMENTWISE * eps(size) * size.reshape(len(size), -1)
        lines = lines.padded(error.reshape(len(error), -1))
        self._lines[step.name] = Relaxation(
            lines.lower_slope, lines.lower_constant - room, lines.upper_slope, lines.upper_constant + room
        )
        corners = torch.stack([d * t for d in (dl, du) for t in (first - error, last + error)])
        return (corners.amin(0), corners.amax(0)), size

    def lower(self, coefficients: Any) -> tuple[dict[str, Tensor], Any]:
        """Coefficients of the inputs by name, and the constant, of a linear function below ``A f``.

        Args:
            coefficients: A, in one of the host's forms.
        """
        part = self.part
        A = dense(coefficients, tuple(part.node.output_shape[1:]), self._value)
        assert A is not None
        reached: dict[str, Tensor] = {part.graph.output: A}
        constant = bias(A, self._value) - bias(A.abs(), self._room(self._value, self._size))
        for step in reversed(part.graph.steps):
            rows = reached.pop(step.name, None)
            if rows is None:
                continue
            if isinstance(step, LinearStep):
                for source, linear in step.sources:
                    _add(reached, source, pulled(linear, rows))
            else:
                rows, added = _below(self._lines[step.name], rows)
                constant = constant + added
                _add(reached, step.source, rows)
        for name, rows in reached.items():
            center = self._centers[name]
            constant = constant - bias(rows, center) - bias(rows.abs(), self._room(center, center.abs()))
        return reached, constant

    @staticmethod
    @torch.no_grad()
    def _room(value: Tensor, size: Tensor) -> Tensor:
        return ELEMENTWISE * eps(value) * torch.maximum(value.abs(), size)


def _middle(lower: Tensor, upper: Tensor) -> Tensor:
    """The middle of intervals; bounds that rounding has inverted count as points."""
    middle = lower / 2 + upper / 2
    return torch.minimum(torch.maximum(middle, lower), torch.maximum(lower, upper))


def _moved(step: LinearStep, changes: Mapping[str, Interval], sizes: Mapping[str, Tensor]) -> tuple[Interval, Tensor]:
    """Bounds of the change of a linear step, and the size of its terms."""
    middle = radius = size = torch.zeros((), dtype=next(iter(sizes.values())).dtype)
    for source, linear in step.sources:
        first, last = changes[source]
        middle = middle + linear.push(first / 2 + last / 2)
        radius = radius + linear.push_absolute(last / 2 - first / 2)
        size = size + linear.push_absolute(sizes[source])
    return (middle - radius, middle + radius), size


def _add(reached: dict[str, Tensor], name: str, rows: Tensor) -> None:
    reached[name] = reached[name] + rows if name in reached else rows


def _below(
    lines: Relaxation,
    rows: Tensor,  # shape: (rows, b, *shape)
) -> tuple[Tensor, Tensor]:
    """Rows of a factor step as rows of its source, from below, and what that adds, (rows, b)."""
    flat = rows.reshape(*rows.shape[:2], -1)
    positive, negative = flat.clamp(min=0), flat.clamp(max=0)
    moved = positive * lines.lower_slope + negative * lines.upper_slope
    constant = (positive * lines.lower_constant + negative * lines.upper_constant).sum(2)
    return moved.reshape(rows.shape), constant


def interval(part: Part, inputs: Intervals) -> Interval:
    """Interval bounds of an operator, outward by their rounding.

    Exact for extremes, products, quotients and softmax; for others those of its steps.

    Args:
        part: the operator.
        inputs: bounds of its perturbed inputs by name, (b, *input_shape) each.

    Raises:
        UnsupportedError: a divisor can be 0.
    """
    if part.kind in _RISING:
        lower, upper = (part.value({name: ends[side] for name, ends in inputs.items()}) for side in (0, 1))
        return lower, upper
    if part.kind == "BoundReduceLogSumExp":  # it rises in every input
        ((name, (low, high)),) = inputs.items()
        lower, upper = part.value({name: low}), part.value({name: high})
        terms = ELEMENTWISE + low[0].numel() // lower[0].numel()  # of which the logarithm near 1 keeps the errors
        error = [terms * eps(end) * (1 + end.abs()).detach() for end in (lower, upper)]
        return lower - error[0], upper + error[1]
    if part.kind == "BoundSoftmax":
        (ends,) = inputs.values()
        return _widened(softmax_range(*ends, part.node.attributes["axis"]))
    if part.kind in ("BoundMul", "BoundDiv"):
        return _widened(_corners(part, inputs))
    if part.kind == "BoundMatMul":
        return _matrix_product(part, inputs)
    raise UnsupportedError(
        "The network", [f"`{part.node.name}` ({part.kind.removeprefix('Bound')})"], "Its intervals are not known."
    )


def _operands(part: Part, inputs: Intervals) -> list[Interval]:
    found = []
    for name, perturbed, constant in zip(part.node.inputs, part.node.perturbed, part.node.constants, strict=True):
        if perturbed:
            found.append(inputs[name])
        else:
            assert constant is not None
            found.append((constant, constant))
    return found


def _corners(part: Part, inputs: Intervals) -> Interval:
    """A product or quotient is monotone in either operand between the corners of their intervals."""
    first, second = _operands(part, inputs)
    if part.kind == "BoundDiv" and not bool(((second[0] > 0) | (second[1] < 0)).all()):
        raise UnsupportedError(
            "The network",
            [f"`{part.node.name}` (Div): the bounds of its divisor contain 0 on this region"],
            "Use a smaller region, or tighter pre-activation bounds.",
        )
    corners = torch.stack(
        [x * y if part.kind == "BoundMul" else x / y for x, y in ((x, y) for x in first for y in second)]
    )
    return corners.amin(0), corners.amax(0)


def _matrix_product(part: Part, inputs: Intervals) -> Interval:
    """Every element is a sum of products, each between its corners."""
    first, second = _operands(part, inputs)
    terms = torch.stack([x.unsqueeze(-1) * y.unsqueeze(-3) for x in first for y in second])  # (4, ..., i, k, j)
    lower, upper = terms.amin(0).sum(-2), terms.amax(0).sum(-2)
    error = (ELEMENTWISE * eps(lower) * terms.abs().amax(0).sum(-2)).detach()
    return lower - error, upper + error


def _widened(bounds: Interval) -> Interval:
    lower, upper = bounds
    unit = ELEMENTWISE * eps(lower)
    return lower - (unit * lower.abs()).detach(), upper + (unit * upper.abs()).detach()
