"""Pre-activation bounds of large piecewise linear networks by zonotopes, pushed forwards once.

The host's CROWN pulls a row back from every neuron; a convolutional network has too many of them. A zonotope goes the
other way: around the network's values at the centre of the region it carries one column per input coordinate and one
per undetermined neuron met so far,

    z(x) in  z(x0) + s + sum_i g_i e_i,    e_i in [-1, 1],

through linear steps exactly. (Over a ball of another norm than inf the inputs' e_i lie in its unit ball, and the dual
norm of their columns takes the place of the sum.) An undetermined neuron with bounds l < 0 < u and slopes a below 0 and
b above (a <= b) becomes a line with an error, a new column: with ``k = (b u - a l) / (u - l)`` and ``m = (b - k) u``
its output lies within m / 2 of ``k z + m / 2``. Time and memory grow with the number of columns, not with that of
neurons.

Source:
    Singh, Gehr, Mirman, Püschel, Vechev: Fast and Effective Robustness Certification, NeurIPS 2018 (DeepZ), Theorem
    3.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recurjac_plugin.errors import UnsupportedError
from recurjac_plugin.gains.errors import estimated_errors
from recurjac_plugin.gains.undetermined import PreactivationBounds
from recurjac_plugin.graph.graph import Graph, refinable
from recurjac_plugin.graph.linear_maps import LinearMap
from recurjac_plugin.graph.steps import ActivationFactor, FactorStep, LinearStep
from recurjac_plugin.graph.sweeps import Arrived, forward
from recurjac_plugin.host.problem import read
from recurjac_plugin.host.region import Inputs, through_float32
from recurjac_plugin.host.same_function import declare
from recurjac_plugin.numerics.memory import chunk_size
from recurjac_plugin.numerics.memory import memory_budget as chosen_budget
from recurjac_plugin.numerics.precision import full_precision
from recurjac_plugin.numerics.region import Region


@torch.no_grad()
@through_float32
@full_precision()
def zonotope_bounds(
    model: nn.Module, x: Inputs, *, memory_budget: int | None = None, reference: nn.Module | None = None
) -> dict[str, tuple[Tensor, Tensor]]:
    """Bounds of everything that activations read, for `intermediate_bounds` of the other functions.

    ``z(x0) + s - reach <= z(x) <= z(x0) + s + reach`` with ``reach = |g_inputs|_q + sum_i |g_i|``: the dual norm of the
    inputs' columns, which have been scaled by the region's radius, and the sum over the neurons' columns.

    They are constants: gradients do not pass through them. Tighter than IBP, about as tight as CROWN where few neurons
    are undetermined, and the way to go where CROWN runs out of memory.

    Args:
        model: auto_LiRPA's `BoundedModule`; it is left as it was.
        x: a `BoundedTensor`.
        memory_budget: as in `jacobian_bounds`, for one chunk of columns at one step; all columns of the steps that
            are still needed are kept besides.
        reference: as in `jacobian_bounds`.

    Returns:
        Name of the node -> lower and upper bound, each of shape (b, *shape).

    Raises:
        InputError: as `jacobian_bounds`.
        UnsupportedError: the network has several inputs, or activations other than ReLU, leaky ReLU, PReLU and Abs.

    Source:
        Singh, Gehr, Mirman, Püschel, Vechev, NeurIPS 2018 (DeepZ), Theorem 3.1, for ReLU; slopes other than 0 and 1,
        and balls of other norms, are this package's own.
    """
    declare(model, reference)
    problem = read(model, x)
    graph, host_graph = problem.graph, problem.host_graph
    if not refinable(graph):
        raise UnsupportedError(
            "The network",
            ["zonotopes here are for one input and activations with two linear pieces"],
            "Use the host's pre-activation bounds, e.g. `IBP+RecurJac`.",
        )
    region = problem.region
    budget = chosen_budget(memory_budget, region.center.device)
    per_region = []
    for i in range(len(region.center)):
        values = {name: value[i : i + 1] for name, value in host_graph.values.items()}
        one = region.part(slice(i, i + 1))
        per_region.append(_Zonotope(graph, values, one, budget).bounds())
    return {
        name: (torch.cat([each[name][0] for each in per_region]), torch.cat([each[name][1] for each in per_region]))
        for name in per_region[0]
    }


@dataclass(frozen=True, eq=False)
class _Zonotope:
    """One region's zonotope. The first column is the shift s, then come the inputs' columns, then the neurons'."""

    graph: Graph
    values: Mapping[str, Tensor]
    region: Region
    memory_budget: int

    def bounds(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Bounds of what the activations read, by name, (1, *shape) each."""
        (start,) = self.graph.inputs
        bounds: dict[str, tuple[Tensor, Tensor]] = {}
        count = 1 + self.region.center.numel()

        def activated(step: FactorStep, columns: Tensor) -> Tensor | None:
            nonlocal count
            name = step.reads[0].name
            bounds[name] = self._bounds(name, columns)
            if step.name == self.graph.output:
                return None
            columns = self._activated(step, columns, self._widened(name, bounds), count)
            count = len(columns)  # the columns of other branches are other columns
            return columns

        def summed(step: LinearStep, arrived: Arrived[Tensor]) -> Tensor:
            parts = [self._pushed(step.sources[i][1], columns) for i, columns in arrived]
            total = max(parts, key=len)
            for part in parts:
                if part is not total:
                    total[: len(part)] += part
            return total

        # Nobody asks for bounds at the output, so nothing is kept.
        forward(self.graph, {start: self._units(self.graph.shapes[start])}, activated, summed, keep=())
        return bounds

    def _units(self, shape: tuple[int, ...]) -> Tensor:
        """The input's columns: (1 + columns, *shape)."""
        count = self.region.center.numel()
        units = torch.eye(count, dtype=self.region.center.dtype, device=self.region.center.device)
        # A ball's columns are scaled by its radius, and summed up by the dual norm.
        units = units * self.region.radius.reshape(-1, 1)
        return torch.cat((units.new_zeros(1, count), units)).reshape(-1, *shape)

    def _bounds(
        self,
        name: str,
        columns: Tensor,  # shape: (1 + inputs + neurons, *shape)
    ) -> tuple[Tensor, Tensor]:
        """``z(x0) + s -+ sum_i |g_i|`` of a node, (1, *shape) each."""
        inputs = 1 + self.region.center.numel()
        flat = columns.flatten(1)
        reach = self._size(flat[1:inputs], self.region.dual_norm) + self._size(flat[inputs:], 1.0)
        reach = reach.reshape(columns.shape[1:])
        middle = self.values[name] + columns[0]
        return middle - reach, middle + reach

    def _size(
        self,
        columns: Tensor,  # shape: (n, neurons)
        norm: float,
    ) -> Tensor:
        """The l_norm of every neuron's coefficients, (neurons,)."""
        if norm != 1:
            return torch.linalg.vector_norm(columns, ord=norm, dim=0)
        total = columns.new_zeros(columns.shape[1])
        for part in columns.split(chunk_size(self.memory_budget, 2 * columns.shape[1], columns)):
            total += part.abs().sum(0)  # many times as fast as torch's norm over the first axis
        return total

    def _pushed(self, linear: LinearMap, columns: Tensor) -> Tensor:
        """A linear map of all columns, in chunks; always a tensor of its own."""
        largest = max(columns[0].numel(), torch.Size(linear.output_shape).numel())
        chunk = chunk_size(self.memory_budget, 4 * largest, columns)
        result = columns.new_empty(len(columns), *linear.output_shape)
        for start in range(0, len(columns), chunk):
            result[start : start + chunk] = linear.push(columns[start : start + chunk])
        return result

    def _widened(self, name: str, bounds: Mapping[str, tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Bounds of a node with room for their errors, the bounds of all that lies before it being known."""
        (start,) = self.graph.inputs
        reach = {start: self.region.reach.reshape(self.region.center.shape)}
        unit = torch.finfo(self.region.center.dtype).eps
        errors = estimated_errors(self.graph, self.values, reach, bounds, unit)
        return PreactivationBounds(*bounds[name], errors[name]).widened()

    def _activated(self, step: FactorStep, columns: Tensor, bounds: tuple[Tensor, Tensor], count: int) -> Tensor:
        """Through an activation; its new columns come behind the first `count`."""
        assert isinstance(step.factor, ActivationFactor)
        name, (low, high) = step.reads[0].name, bounds
        below, above = (
            step.factor.activation.derivative(torch.full_like(low, side), step.factor.parameters)
            for side in (-1.0, 1.0)
        )
        crossing = (low < 0) & (high > 0)
        width = torch.where(crossing, high - low, 1.0)
        slope = torch.where(crossing, (above * high - below * low) / width, torch.where(low >= 0, above, below))
        error = torch.where(crossing, (above - slope) * high / 2, 0.0)  # signed: negative where the function is concave
        z = self.values[name]
        value = torch.where(z > 0, above, below) * z
        changed = columns * slope
        changed[0] += torch.where(crossing, slope * z + error - value, 0.0)[0]
        where = crossing.flatten().nonzero().squeeze(1)
        new = columns.new_zeros(count - len(columns) + len(where), crossing.numel())
        new[count - len(columns) :].scatter_(1, where.unsqueeze(1), error.flatten()[where].unsqueeze(1))
        return torch.cat((changed, new.reshape(-1, *columns.shape[1:])))
