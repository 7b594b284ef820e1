"""Fast-Lip: interval arithmetic on gradients, layer by layer.

The rows' derivatives are carried back as intervals ``[yl, yu]`` with centre c and radius r, through a linear map W as

    c -> W^T c,  r -> |W|^T r,

and through a layer of derivatives ``d`` in [dl, du] as the range of the products,

    [min, max] of dl yl, dl yu, du yl, du yu.

Nothing is remembered of what an interval came from, which makes it the loosest of the methods, and the only one whose
cost does not grow with the number of uncertain neurons. In forward order the columns of the Jacobian are carried from
the input on, with W in place of its transpose.

Axes: b regions, k rows, r columns (or any of them at a time).

Source:
    Weng, Zhang, Chen, Song, Hsieh, Boning, Dhillon, Daniel: Towards Fast Computation of Certified Robustness for ReLU
    Networks, ICML 2018, arXiv:1804.09699 (Fast-Lip), for ReLU; here for every factor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recurjac_plugin.gains.undetermined import Layer
from recurjac_plugin.graph.graph import Graph
from recurjac_plugin.graph.steps import FactorStep, LinearStep
from recurjac_plugin.graph.sweeps import Arrived, at_inputs, backward, forward, pull, pull_absolute, push, push_absolute
from recurjac_plugin.numerics.intervals import Interval, require_numbers
from recurjac_plugin.numerics.memory import chunk_size, recomputed

CenterRadius = tuple[Tensor, Tensor]
"""An interval ``[center - radius, center + radius]``, both of shape (b, r, *shape)."""


@dataclass(frozen=True, eq=False)
class IntervalArithmetic:
    """Fast-Lip on one graph: intervals of gradients carried through linear maps and products, as the module says.

    Source: Fast-Lip, arXiv:1804.09699, for ReLU; here for every factor, and in both directions.

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
        """Lower and upper bounds of the Jacobian, both of shape (b, k, columns).

        ``[c - r, c + r]`` with the centre c and radius r of the rows at the input, starting from (C, 0) at the output.
        In forward order ``[C c - |C| r, C c + |C| r]``, with those of the input's unit columns at the output.

        Raises:
            InputError: the gradients overflow.
        """
        if self.forward:
            units = torch.eye(self.graph.columns, dtype=self.rows.dtype, device=self.rows.device)
            lower, upper = _joined(self._each(self._pushed, units.split(self._chunk())), 2)
        else:
            lower, upper = _joined(self._each(self._pulled, self.rows.split(self._chunk(), 1)), 1)
        require_numbers(lower, upper)
        return lower, upper

    def upper_of_sum(
        self,
        weights: Tensor,  # shape: (b, k, columns)
    ) -> Tensor:
        """Upper bound of ``sum_r weights_kr J_kr`` for every row k, ``sum_r max(w_r l_kr, w_r u_kr)``: (b, k).

        Raises:
            InputError: the gradients overflow.
        """
        lower, upper = self.jacobian()
        return torch.where(weights >= 0, weights * upper, weights * lower).sum(2)

    def _each(self, function: Callable[[Tensor], Interval], parts: Sequence[Tensor]) -> list[Interval]:
        # Of every step autograd keeps about as much as eight tensors of its size (products, corners, halves).
        sizes = sum(torch.Size(step.shape).numel() for step in self.graph.steps)
        count = self.graph.columns if self.forward else self.rows.shape[1]
        kept = 8 * len(self.rows) * count * sizes * self.rows.element_size()
        bound_chunk = recomputed(function, kept, self.memory_budget)
        return [bound_chunk(part) for part in parts]

    def _chunk(self) -> int:
        largest = max(torch.Size(shape).numel() for shape in self.graph.shapes.values())
        return chunk_size(self.memory_budget, 8 * len(self.rows) * largest, self.rows)

    def _pulled(self, rows: Tensor) -> Interval:
        """Bounds of the derivatives of rows, shape (b, k, *output_shape), by the input: (b, k, columns) each."""
        start = (rows, torch.zeros_like(rows))
        arrived = backward(self.graph, self.graph.output, start, self._multiplied, _pull_interval, _add_intervals)
        like = rows.flatten(2)[:, :, 0]
        lower = at_inputs(self.graph, {name: center - radius for name, (center, radius) in arrived.items()}, like)
        upper = at_inputs(self.graph, {name: center + radius for name, (center, radius) in arrived.items()}, like)
        return lower, upper

    def _pushed(self, units: Tensor) -> Interval:
        """Bounds of the columns `units`, shape (r, columns), at the rows: (b, k, r) each."""
        batch, count = len(self.rows), len(units)
        starts = {}
        sizes = [torch.Size(self.graph.shapes[name]).numel() for name in self.graph.inputs]
        for name, part in zip(self.graph.inputs, units.split(sizes, 1)):
            shape = self.graph.shapes[name]
            center = part.reshape(1, count, *shape).expand(batch, count, *shape)
            starts[name] = center, torch.zeros_like(center)
        arrived = forward(self.graph, starts, self._multiplied, _push_interval)[self.graph.output]
        center, radius = (value.flatten(2).mT for value in arrived)
        rows = self.rows.flatten(2)
        center, radius = rows @ center, rows.abs() @ radius
        return center - radius, center + radius

    def _multiplied(self, step: FactorStep, interval: CenterRadius) -> CenterRadius:
        """Centre and radius of ``d y``, d in the step's range: (b, r, *shape) each, as those of y are."""
        center, radius = interval
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


def _pull_interval(step: LinearStep, interval: CenterRadius) -> Iterator[CenterRadius]:
    return zip(pull(step, interval[0]), pull_absolute(step, interval[1]))


def _push_interval(step: LinearStep, arrived: Arrived[CenterRadius]) -> CenterRadius:
    intervals = list(arrived)
    return (
        push(step, ((i, center) for i, (center, _) in intervals)),
        push_absolute(step, ((i, radius) for i, (_, radius) in intervals)),
    )


def _add_intervals(first: CenterRadius, second: CenterRadius) -> CenterRadius:
    return first[0] + second[0], first[1] + second[1]


def _joined(parts: list[Interval], dimension: int) -> Interval:
    return torch.cat([part[0] for part in parts], dimension), torch.cat([part[1] for part in parts], dimension)
