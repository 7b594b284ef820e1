"""Fast-Lip: interval arithmetic on gradients, layer by layer.

The rows' derivatives are carried back as intervals ``[yl, yu]``, through a linear map W as

    center W,  radius |W|,

and through a layer of derivatives ``d`` in [dl, du] as the range of the products d y (Weng et al., ICML 2018,
arXiv:1804.09699, section 3.4, for ReLU; here for every factor). Nothing is remembered of what an interval came from,
which makes it the loosest of the methods, and the only one whose cost does not grow with the number of uncertain
neurons.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recurjac_plugin.gains.undetermined import Layer
from recurjac_plugin.graph.graph import Graph
from recurjac_plugin.graph.steps import FactorStep
from recurjac_plugin.numerics.intervals import Interval, require_numbers
from recurjac_plugin.numerics.memory import each_chunk


@dataclass(frozen=True, eq=False)
class IntervalArithmetic:
    """Fast-Lip on one graph.

    Attributes:
        graph: the network.
        derivatives: derivative ranges of every factor step.
        rows: what is differentiated, shape (b, k, *output_shape).
        memory_budget: largest number of bytes for one chunk of rows or columns.
        forward: whether columns are pushed from the input on, instead of rows pulled from the output back.
    """

    graph: Graph
    derivatives: Mapping[str, Layer]
    rows: Tensor
    memory_budget: int
    forward: bool = False

    def jacobian(self) -> Interval:
        """Lower and upper bounds of the Jacobian, both of shape (b, k, columns)."""
        if self.forward:
            units = torch.eye(self.graph.columns, dtype=self.rows.dtype, device=self.rows.device)
            lower, upper = _joined(self._each(self._pushed, units.split(self._chunk())), 2)
        else:
            lower, upper = _joined(self._each(self._pulled, self.rows.split(self._chunk(), 1)), 1)
        require_numbers(lower)
        require_numbers(upper)
        return lower, upper

    def upper_of_sum(
        self,
        weights: Tensor,  # shape: (b, k, columns)
    ) -> Tensor:
        """Upper bound of ``sum_r weights_r J_kr`` for every row k: (b, k)."""
        lower, upper = self.jacobian()
        return torch.where(weights >= 0, weights * upper, weights * lower).sum(2)

    def _each(self, function: Callable[[Tensor], Interval], parts: Sequence[Tensor]) -> list[Interval]:
        # Of every step autograd keeps about as much as eight tensors of its size (products, corners, halves).
        sizes = sum(torch.Size(step.shape).numel() for step in self.graph.steps)
        count = self.graph.columns if self.forward else self.rows.shape[1]
        kept = 8 * len(self.rows) * count * sizes * self.rows.element_size()
        return each_chunk(function, parts, kept, self.memory_budget)

    def _chunk(self) -> int:
        largest = max(torch.Size(shape).numel() for shape in self.graph.shapes.values())
        return max(1, self.memory_budget // (8 * len(self.rows) * largest * self.rows.element_size()))

    def _pulled(self, rows: Tensor) -> Interval:
        batch, count = rows.shape[:2]
        zero = torch.zeros_like(rows)
        pending: dict[str, tuple[Tensor, Tensor]] = {self.graph.output: (rows, zero)}  # centre and radius

        def pass_on(name: str, center: Tensor, radius: Tensor) -> None:
            before = pending.get(name)
            pending[name] = (center, radius) if before is None else (before[0] + center, before[1] + radius)

        for step in reversed(self.graph.steps):
            value = pending.pop(step.name, None)
            if value is None:
                continue
            center, radius = value
            if isinstance(step, FactorStep):
                pass_on(step.source, *self._multiplied(step, center, radius))
                continue
            for source, linear in step.sources:
                shape = (batch, count, *linear.input_shape)
                pass_on(
                    source,
                    linear.pull(center.flatten(0, 1)).reshape(shape),
                    linear.absolute().pull(radius.flatten(0, 1)).reshape(shape),
                )
        return self._at_inputs(pending, batch, count)

    def _at_inputs(self, pending: Mapping[str, tuple[Tensor, Tensor]], batch: int, count: int) -> Interval:
        lower, upper = [], []
        for name in self.graph.inputs:
            center, radius = pending.get(name) or (self.rows.new_zeros(batch, count, *self.graph.shapes[name]),) * 2
            lower.append((center - radius).flatten(2))
            upper.append((center + radius).flatten(2))
        return torch.cat(lower, 2), torch.cat(upper, 2)

    def _pushed(self, units: Tensor) -> Interval:
        """Intervals of the columns `units`, shape (r, columns), at the rows: (b, k, r)."""
        batch, count = len(self.rows), len(units)
        found: dict[str, tuple[Tensor, Tensor]] = {}
        sizes = [torch.Size(self.graph.shapes[name]).numel() for name in self.graph.inputs]
        for name, part in zip(self.graph.inputs, units.split(sizes, 1)):
            shape = self.graph.shapes[name]
            center = part.reshape(1, count, *shape).expand(batch, count, *shape)
            found[name] = center, torch.zeros_like(center)
        for step in self.graph.steps:
            if isinstance(step, FactorStep):
                found[step.name] = self._multiplied(step, *found[step.source])
                continue
            center = radius = self.rows.new_zeros(())
            for source, linear in step.sources:
                c, r = found[source]
                center = center + linear.push(c.flatten(0, 1))
                radius = radius + linear.absolute().push(r.flatten(0, 1))
            found[step.name] = (
                center.reshape(batch, count, *step.shape),
                radius.reshape(batch, count, *step.shape),
            )
        center, radius = (value.flatten(2).mT for value in found[self.graph.output])
        rows = self.rows.flatten(2)
        center, radius = rows @ center, rows.abs() @ radius
        return center - radius, center + radius

    def _multiplied(self, step: FactorStep, center: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        """Centre and radius of ``d y``, d in the step's range: (b, r, *shape)."""
        size = torch.Size(step.shape).numel()
        dl, du = (bound.reshape(-1, 1, *step.shape) for bound in self.derivatives[step.name].dense(len(center), size))
        middle, half = (dl + du) / 2, (du - dl) / 2
        low, high = center - radius, center + radius
        corners = torch.stack((dl * low, dl * high, du * low, du * high))
        low, high = corners.amin(0), corners.amax(0)
        # A single derivative leaves no trace of the interval's ends in the centre, which may be exact.
        exact = half == 0
        return torch.where(exact, middle * center, (low + high) / 2), torch.where(
            exact, middle.abs() * radius, (high - low) / 2
        )


def _joined(parts: list[Interval], dimension: int) -> Interval:
    return torch.cat([part[0] for part in parts], dimension), torch.cat([part[1] for part in parts], dimension)
