r"""Bounds of a Jacobian ``J = dy/dx`` inside a model, from the host's bounds of the nodes between x and y.

For every region b, row k (a flattened output of y) and column r (a flattened coordinate of x),

.. math:: L_{bkr} \le \frac{\partial y_k}{\partial x_r} \le U_{bkr},

by the recursion on the sub-graph from x to y (RecurJac, arXiv:1810.11783, Algorithm 1). x itself may be uncertain in
whatever way; what matters are the bounds of the nodes that the derivatives read. Linear combinations
``sum_kr c_kr J_kr`` are bounded as one column that is pushed once (`recursion.sums`), which is tighter than the same
combination of the entries' bounds; where derivatives are smooth, by a linear function of the pre-activations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from recurjac_plugin.gains.gains import compute_gains
from recurjac_plugin.gains.undetermined import PreactivationBounds, derivative_ranges
from recurjac_plugin.graph.graph import Graph
from recurjac_plugin.jacobian.methods import Treatment
from recurjac_plugin.numerics.intervals import Interval, Intervals
from recurjac_plugin.numerics.memory import memory_budget
from recurjac_plugin.numerics.region import Region
from recurjac_plugin.numerics.rounding import PER_SUM, eps
from recurjac_plugin.passes.affine import affine_pass
from recurjac_plugin.passes.mccormick import changes_gradually, relax_network
from recurjac_plugin.preactivations.bounds import checked_bounds
from recurjac_plugin.recursion.backward import BackwardOrder, backward_order
from recurjac_plugin.recursion.fast_lip import IntervalArithmetic
from recurjac_plugin.recursion.sums import upper_of_sums

from .subgraph import Subgraph


@dataclass(frozen=True, eq=False)
class InnerProblem:
    """A Jacobian inside a model over the regions of the model's inputs, before anything is bounded.

    Attributes:
        subgraph: the host's nodes between x and y.
        whole: their steps, with derivatives with respect to x and to every other uncertain node that they read.
        graph: the steps that depend on x.
        rows: unit rows at y, shape (b, k, *y_shape).
        treatment: what happens at an undetermined neuron.
    """

    subgraph: Subgraph
    whole: Graph
    graph: Graph
    rows: Tensor
    treatment: Treatment

    @cached_property
    def with_planes(self) -> bool:
        """Whether derivatives are put between lines in the pre-activations.

        These are bounded over the inputs of `whole`, and only where x leads to all that is uncertain behind them.
        """
        return self.treatment.planes is True and len(self.whole.factors) == len(self.graph.factors)

    @cached_property
    def needed(self) -> frozenset[str]:
        """Names of the nodes that must have bounds: what derivatives read and, for planes, where `whole` begins."""
        reads = frozenset(self.graph.reads)
        if not self.with_planes:
            return reads
        return reads | (frozenset(self.whole.inputs) - self.subgraph.certain - self.subgraph.regions.keys())

    def regions(self, bounds: Intervals, unit: float) -> list[Region]:
        """Where the inputs of `whole` lie: the model's own as they are, others in the boxes of their bounds."""
        regions = []
        for name in self.whole.inputs:
            center = self.subgraph.graph.values[name].flatten(1)
            region = self.subgraph.regions.get(name)
            if region is not None:
                regions.append(region)
            elif name in self.subgraph.certain:
                regions.append(Region(center, math.inf, torch.zeros_like(center)))
            else:
                low, high = (bound.reshape(center.shape) for bound in bounds[name])
                error = PER_SUM * unit * torch.maximum(low.abs(), high.abs()).detach()
                low, high = PreactivationBounds(low, high, error).widened()
                regions.append(Region(center, math.inf, torch.maximum(high - center, center - low)))
        return regions


class LinearBound(NamedTuple):
    """A bound that is linear in nodes before the Jacobian: ``constant + sum over nodes of slopes z``.

    Attributes:
        constant: shape (b, s).
        slopes: by the name of the node, shape (b, s, *z_shape).
    """

    constant: Tensor
    slopes: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class InnerBounds:
    """Bounds of a Jacobian, both of shape (b, k, columns), and what sums of its entries are bounded with."""

    problem: InnerProblem
    lower: Tensor
    upper: Tensor
    order: BackwardOrder | IntervalArithmetic

    @property
    def exact(self) -> bool:
        """Whether the Jacobian is the same all over the region."""
        return isinstance(self.order, BackwardOrder) and not self.order.gains.layers

    def of_sums(
        self,
        coefficients: Tensor,  # shape: (b, s, k, columns)
        above: bool,
    ) -> LinearBound:
        """Upper (or lower) bounds of the sums ``sum_kr c_skr J_kr``, linear in pre-activations where planes are used.

        They hold wherever these lie within the bounds that the Jacobian's bounds follow from.

        Args:
            coefficients: c, one matrix for every sum.
            above: whether upper bounds are wanted.
        """
        flat = coefficients.flatten(2)
        lower, upper = self.lower.flatten(1), self.upper.flatten(1)
        near, far = (upper, lower) if above else (lower, upper)
        if _all_units(flat):  # the host asks for every entry by itself
            return LinearBound(near, {})
        if bool(lower.isfinite().all() & upper.isfinite().all()):
            plain = (flat.clamp(min=0) @ near.unsqueeze(2) + flat.clamp(max=0) @ far.unsqueeze(2)).squeeze(2)
        else:  # an infinite bound that is not asked for does not count
            terms = flat * torch.where(flat >= 0, near.unsqueeze(1), far.unsqueeze(1))
            plain = torch.where(flat == 0, 0.0, terms).sum(2)
        if self.exact or isinstance(self.order, IntervalArithmetic):
            return LinearBound(plain, self._in_nodes({}, plain)[1])
        if above:
            form = upper_of_sums(self.order, coefficients, plain)
            moved, slopes = self._in_nodes(form.t_slopes, plain)
            return LinearBound(form.constant + moved, slopes)
        form = upper_of_sums(self.order, -coefficients, -plain)
        moved, slopes = self._in_nodes(form.t_slopes, plain)
        return LinearBound(-form.constant - moved, {name: -slope for name, slope in slopes.items()})

    def _in_nodes(
        self,
        t_slopes: Mapping[str, Tensor],  # layer -> (b, s, u)
        like: Tensor,  # shape: (b, s)
    ) -> LinearBound:
        """Slopes in distances t from the centre as slopes in the nodes z themselves, rounded upwards.

        ``t_slopes t = slopes z - slopes z0``. All nodes that can have slopes have some, if only 0: alpha-CROWN wants to
        know at the first call which ones it will come through.
        """
        values, graph = self.problem.subgraph.graph.values, self.problem.graph
        constant, slopes = torch.zeros_like(like), dict[str, Tensor]()
        for step in graph.factors if self.problem.with_planes else ():
            if not changes_gradually(step):
                continue
            name, t_slope = step.reads[0].name, t_slopes.get(step.name)
            center = values[name]
            slope = like.new_zeros(*like.shape, center[0].numel())
            if t_slope is not None and isinstance(self.order, BackwardOrder):
                index = self.order.gains.derivatives[step.name].index
                slope = slope.scatter_add(2, index.expand(len(like), -1).unsqueeze(1).expand_as(t_slope), t_slope)
                terms = slope * center.flatten(1).unsqueeze(1)
                room = (PER_SUM * eps(like) * terms.abs().sum(2)).detach()
                constant = constant - terms.sum(2) + room
            slope = slope.reshape(*like.shape, *center.shape[1:])
            slopes[name] = slopes[name] + slope if name in slopes else slope
        return LinearBound(constant, slopes)


def _all_units(
    rows: Tensor,  # shape: (b, s, n)
) -> bool:
    """Whether rows are the n unit vectors in order, for every b."""
    units = rows.shape[1] == rows.shape[2] and bool((rows.diagonal(dim1=1, dim2=2) == 1).all())
    return units and int(rows.count_nonzero()) == rows.shape[0] * rows.shape[2]


def bound_inner_jacobian(problem: InnerProblem, given: Mapping[str, Interval], unit: float) -> InnerBounds:
    """Bound all entries of a Jacobian inside a model.

    Args:
        problem: what is known before.
        given: lower and upper bounds of the nodes that are `needed`, by name.
        unit: relative error of one rounding in them.

    Raises:
        InputError: they are inverted, have another shape, or are NaN.
        UnsupportedError: they reach beyond where an activation has a finite derivative.
    """
    graph, rows, treatment = problem.graph, problem.rows, problem.treatment
    values, reach = problem.subgraph.graph.values, problem.subgraph.reach
    bounds = checked_bounds(graph, given, unit, problem.whole, values, reach, rows)
    derivatives, budget = derivative_ranges(graph, bounds), memory_budget(None, rows.device)
    order: BackwardOrder | IntervalArithmetic
    if treatment.upper_line is None:
        order = IntervalArithmetic(graph, derivatives, rows, budget)
    elif problem.with_planes:
        gains = compute_gains(problem.whole, derivatives, rows, budget)
        lines = relax_network(gains, problem.whole, bounds, values, problem.regions(given, unit))
        affine = None
        if lines is not None and len(problem.whole.inputs) == 1:  # x alone
            affine = affine_pass(gains, problem.whole, rows, lines, budget)
        order = backward_order(gains.first_columns(graph.columns), treatment.upper_line, budget, lines, affine)
    else:
        order = backward_order(compute_gains(graph, derivatives, rows, budget), treatment.upper_line, budget)
    return InnerBounds(problem, *order.jacobian(), order)
