r"""Entries of the Jacobian over one region, searched over the sides of neurons.

Each entry has two terms and groups of its own in `neurons.searches.largest`, ``J_kr`` and ``-J_kr``, counted from
their smallest value by one pass, so that no value is below 0.

Source: as there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from recurjac_plugin.host.problem import Problem, specification
from recurjac_plugin.neurons.parts import Parts
from recurjac_plugin.neurons.points import jacobian_of_slopes
from recurjac_plugin.neurons.reduced import Reduced, reduce
from recurjac_plugin.neurons.searches.largest import Above, Effort, Found, largest_value
from recurjac_plugin.numerics.intervals import Interval
from recurjac_plugin.numerics.memory import memory_budget as chosen_budget
from recurjac_plugin.numerics.rounding import gamma, underflow
from recurjac_plugin.passes.rules import recurjac_linear
from recurjac_plugin.preactivations.crown import crown_bounds
from recurjac_plugin.recursion.backward import backward_order

from .bounded import sum_with_room, with_room


@dataclass(frozen=True, eq=False)
class Entries:
    """Both ends of some entries.

    Attributes:
        reduced: the network over the region.
        row, column: which entry each term is, (terms,).
        sign: 1 for its upper end, -1 for its lower one, (terms,).
        base: what the term is counted from, (terms,).
        memory_budget: bytes for one chunk of columns.
    """

    reduced: Reduced
    row: Tensor
    column: Tensor
    sign: Tensor
    base: Tensor
    memory_budget: int
    entries: int = 0

    @cached_property
    def groups(self) -> Tensor:
        """Each term is a group."""
        return torch.arange(len(self.row), device=self.row.device)

    def above(self, parts: Parts, terms: Tensor, signs: Tensor, scored: bool) -> Above:
        """Upper bounds on parts: of one pushed column, and of the entry."""
        reduced, count = self.reduced, len(parts)
        gains = replace(reduced.on(parts.lower, parts.upper), batch=count)
        order = backward_order(gains.one_row_each(self.row[terms]), recurjac_linear, self.memory_budget)
        column, sign = self.column[terms].reshape(-1, 1, 1), self.sign[terms].reshape(-1, 1, 1)
        error = reduced.entry_error[0][self.row[terms]].unsqueeze(1)
        weights = torch.zeros_like(error).scatter(2, column, sign)
        bound = sum_with_room(order.upper_of_sum(weights), weights, error).squeeze(1) - self.base[terms]
        room = gamma(16) * (bound.abs() + self.base[terms].abs()) + underflow(1)
        none = bound[:, None][:, :0]
        if not scored:
            return Above(bound + room, none, none, none)
        ranges = {name: each.ranges(parts.lower[name], parts.upper[name]) for name, each in reduced.neurons.items()}
        middle = {name: (dl + du) / 2 for name, (dl, du) in ranges.items()}
        scores, inputs = [none], torch.zeros_like(parts.box[0])
        arrived, _ = jacobian_of_slopes(reduced, middle, count)
        for name, (dl, du) in ranges.items():
            y = torch.maximum(*(end.abs() for end in order.gradients[name])).squeeze(1)
            X = arrived[name]
            score = (du - dl) * y * X.gather(2, column.expand(-1, X.shape[1], -1)).squeeze(2).abs()
            spread = (parts.upper[name] - parts.lower[name]).clamp(min=torch.finfo(score.dtype).tiny)
            inputs = inputs + ((score / spread).unsqueeze(1) @ X.abs()).squeeze(1)
            scores.append(score)
        return Above(bound + room, torch.cat(scores, 1), none, inputs * (parts.box[1] - parts.box[0]))

    def below(self, jacobian: Tensor) -> Tensor:
        """Values at points, rounded down: (n, terms)."""
        value = self.sign * jacobian[:, self.row, self.column]
        room = self.reduced.entry_error[0][self.row, self.column] + gamma(16) * (value.abs() + self.base.abs())
        return (value - room - self.base).clamp(min=0)


def reduced_network(problem: Problem, C: Tensor | None, memory_budget: int | None) -> tuple[Reduced, int]:
    """The network over one region, between its undetermined neurons, and the bytes that a chunk may take.

    Args:
        problem: the network and one region, in float64.
        C: specification matrix; None for all outputs.
        memory_budget: as in `jacobian_bounds`.

    Raises:
        InputError: C does not fit.
        UnsupportedError: parts of the network have no rule.
    """
    graph, host_graph = problem.graph, problem.host_graph
    rows = specification(C.to(host_graph.output) if isinstance(C, Tensor) else C, host_graph.output)
    memory, regions = chosen_budget(memory_budget, rows.device), problem.arguments.regions
    bounds = crown_bounds(graph, host_graph.values, host_graph.output, regions, rows, memory)
    return reduce(graph, bounds, host_graph.values, host_graph.output, regions, rows, memory), memory


def searched_entries(
    reduced: Reduced, memory_budget: int, effort: Effort, *, signs_alone: bool = False
) -> tuple[Interval, Found | None]:
    """Bounds of all entries over one region, (k, columns) each, and what the search for them found.

    Args:
        reduced: the network over the region.
        memory_budget: bytes for one chunk of columns.
        effort: when to end; the gap is relative to how far values are from where one pass has the other end.
        signs_alone: whether the search for an entry ends where its sign, or that it has none, is known.

    Raises:
        UnsupportedError: there are neurons without two linear pieces.
    """
    order = backward_order(reduced.gains, recurjac_linear, memory_budget)
    lower, upper = (end[0] for end in with_room(order.jacobian(), reduced.entry_error))
    open_entries = (lower < 0) & (upper > 0) if signs_alone else lower < upper
    row, column = open_entries.nonzero().unbind(1)
    if not len(row):
        return (lower, upper), None
    low, high = lower[row, column], upper[row, column]
    sign = torch.cat((torch.ones_like(low), -torch.ones_like(low)))
    base = torch.cat((low, -high))
    both = Entries(reduced, row.repeat(2), column.repeat(2), sign, base, memory_budget)
    if signs_alone:
        effort = replace(effort, goal=-base)
    found = largest_value(reduced, both, effort)
    above, below = (found.upper + base + gamma(4) * (found.upper.abs() + base.abs())).chunk(2)
    lower, upper = lower.clone(), upper.clone()
    lower[row, column], upper[row, column] = torch.maximum(low, -below), torch.minimum(high, above)
    return (lower, upper), found
