"""The host's node for `JacobianOP`.

It reads y and x and, besides them, the nodes between them whose bounds decide the derivatives: the host bounds these
before it asks for bounds of the Jacobian, whatever its method. From them the node answers

* interval arithmetic with bounds of every entry, by RecurJac on the sub-graph from x to y, and
* CROWN with bounds of the linear combinations of entries that arrive from behind (`combinations`), which are tighter
  than combinations of bounds: a row sum with signs is one column pushed once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.errors import InputError, UnsupportedError
from recurjac_plugin.gains.gains import compute_gains
from recurjac_plugin.gains.summed_terms import term_sizes
from recurjac_plugin.gains.undetermined import PreactivationBounds
from recurjac_plugin.graph.graph import Graph, build_graph
from recurjac_plugin.graph.sweeps import seen_from
from recurjac_plugin.host.library import Bound, LinearBound, Patches, bound_op_map
from recurjac_plugin.host.misread import require_read_right
from recurjac_plugin.host.read import HostGraph, topological
from recurjac_plugin.host.region import require_alike, require_full_type
from recurjac_plugin.jacobian.methods import parse
from recurjac_plugin.numerics.memory import memory_budget
from recurjac_plugin.numerics.precision import full_precision
from recurjac_plugin.numerics.region import Region
from recurjac_plugin.preactivations.defects import (
    Precision,
    host_precision,
    loses_norm,
    require_center_inside,
    require_sound,
    require_whole_logarithms,
)
from recurjac_plugin.preactivations.evidence import checked_evidence, derivative_ranges
from recurjac_plugin.recursion.backward import BackwardOrder, backward_order
from recurjac_plugin.recursion.fast_lip import IntervalArithmetic
from recurjac_plugin.recursion.mccormick import expansion
from recurjac_plugin.recursion.sums import upper_of_combinations

from .jacobian_op import DEFAULT_METHOD, OPERATOR, jacobian
from .subgraph import Subgraph, between, evaluate, label, read_between


@dataclass(frozen=True, eq=False)
class _Plan:
    """What is known of a Jacobian before anything is bounded.

    Attributes:
        subgraph: the host's nodes between x and y.
        whole: their steps, derivatives with respect to every uncertain node that they read.
        graph: the steps that depend on x.
        rows: unit rows at y, shape (b, k, *y_shape).
    """

    subgraph: Subgraph
    whole: Graph
    graph: Graph
    rows: Tensor

    @property
    def reads(self) -> set[str]:
        """Names of the nodes whose bounds decide the derivatives."""
        return {read.name for step in self.graph.factors for read in step.reads}

    @property
    def starts(self) -> set[str]:
        """Names of the inputs of `whole` that are uncertain and not inputs of the model."""
        return {*self.whole.inputs} - self.subgraph.certain - self.subgraph.regions.keys()

    @property
    def closed(self) -> bool:
        """Whether the steps that depend on x are all that is uncertain behind the inputs of `whole`."""
        return len(self.whole.factors) == len(self.graph.factors)


@dataclass(frozen=True, eq=False)
class _Bounds:
    """Bounds of a Jacobian, both of shape (b, k, columns), and what sums of its entries are bounded with."""

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
    ) -> Tensor:
        """Upper or lower bounds of sums of entries: (b, s)."""
        flat = coefficients.flatten(2)
        lower, upper = self.lower.flatten(1), self.upper.flatten(1)
        near, far = (upper, lower) if above else (lower, upper)
        if _all_units(flat):  # the host asks for every entry by itself
            return near
        if bool(lower.isfinite().all() & upper.isfinite().all()):
            plain = (flat.clamp(min=0) @ near.unsqueeze(2) + flat.clamp(max=0) @ far.unsqueeze(2)).squeeze(2)
        else:  # an infinite bound that is not asked for does not count
            terms = flat * torch.where(flat >= 0, near.unsqueeze(1), far.unsqueeze(1))
            plain = torch.where(flat == 0, 0.0, terms).sum(2)
        if self.exact or isinstance(self.order, IntervalArithmetic):
            return plain
        several = (flat.count_nonzero(2) > 1).any(0).nonzero().squeeze(1)
        if not len(several):
            return plain
        chosen = coefficients.index_select(1, several)
        if above:
            tight = torch.minimum(plain.index_select(1, several), upper_of_combinations(self.order, chosen))
        else:
            tight = torch.maximum(plain.index_select(1, several), -upper_of_combinations(self.order, -chosen))
        return plain.index_copy(1, several, tight)


def _all_units(rows: Tensor) -> bool:
    """Whether rows of shape (b, s, n) are the n unit vectors in order, for every b."""
    units = rows.shape[1] == rows.shape[2] and bool((rows.diagonal(dim1=1, dim2=2) == 1).all())
    return units and int(rows.count_nonzero()) == rows.shape[0] * rows.shape[2]


class BoundRecurJacobian(Bound):
    """The host's node of `JacobianOP`; its inputs are y, x, and what lies between them (see `read_by`)."""

    def __init__(self, attr: Any = None, inputs: Any = None, output_index: int = 0, options: Any = None) -> None:
        super().__init__(attr, inputs, output_index, options)
        self.rule = (attr or {}).get("method", DEFAULT_METHOD)
        self.complete = False
        self.clear()

    @property
    def requires_input_bounds(self) -> list[int]:
        """Positions of the inputs that the host must bound first; the host reads this."""
        if not self.complete:
            return []
        reads = self._wanted(self.plan())
        return [i for i, node in enumerate(self.inputs) if node.name in reads]

    @requires_input_bounds.setter
    def requires_input_bounds(self, value: Any) -> None:
        """Nothing: the host's base class sets an empty list."""

    def _wanted(self, plan: _Plan) -> set[str]:
        """Names of the nodes that must have bounds."""
        return plan.reads | plan.starts if parse(self.rule).treatment.derivative_lines and plan.closed else plan.reads

    def read_by(self) -> None:
        """Make everything that the derivatives can depend on an input, so that the host bounds it."""
        if self.complete:
            return
        known = {node.name for node in self.inputs}
        for node in between(*self.inputs):
            for other in (*node.inputs, node):
                if other.name not in known and other.from_input and node is not self.inputs[1]:
                    known.add(other.name)
                    self.inputs.append(other)
                    other.output_name.append(self.name)
        self.complete = True

    def clear(self) -> None:
        """Forget what was known of the last input of the model; the host calls it."""
        self._plan: _Plan | None = None
        self._last: tuple[Any, _Bounds] | None = None
        # Bounds that the caller has given may be those of a part of the region, without its centre.
        self._given = any(getattr(node, "interval", None) is not None for node in self.inputs)

    def forward(self, output: Tensor, input: Tensor, *others: Any) -> Tensor:
        """The Jacobian, by autograd through the host's nodes."""
        y, x = self.inputs[:2]
        path = between(y, x)
        self._require_dependence(path, output, input)
        inside = {node.name for node in path}
        order = [node for node in topological(y) if node.name not in inside]
        values = {node.name: node.forward_value for node in order if getattr(node, "forward_value", None) is not None}
        differentiable = torch.is_grad_enabled() and output.requires_grad
        with torch.enable_grad():
            start = input if input.requires_grad else input.detach().clone().requires_grad_()
            values[x.name] = start
            evaluate((*order, *path[1:]), values)
        found = jacobian(values[y.name], start, differentiable)
        return found if differentiable else found.detach()

    def _require_dependence(self, path: list[Any], output: Tensor, input: Tensor) -> None:
        y, x = self.inputs[:2]
        if not path:
            raise InputError(
                f"`JacobianOP` (node `{self.name}`): its output {label(y)} does not depend on its input {label(x)}; "
                "pass the tensor that the output is computed from."
            )
        if (output.dtype, output.device) != (input.dtype, input.device) or not input.is_floating_point():
            raise InputError(
                f"`JacobianOP` (node `{self.name}`): its output {label(y)} is {output.dtype} on {output.device}, but "
                f"its input {label(x)} is {input.dtype} on {input.device}; use one floating-point type on one device."
            )

    def plan(self) -> _Plan:
        """The sub-graph over the model's present input, as steps.

        Raises:
            InputError: y does not depend on x, or the region of the model's input cannot be read.
            UnsupportedError: parts of the sub-graph have no rule, or the host reads or bounds them wrongly.
        """
        if self._plan is None:
            subgraph = read_between(*self.inputs[:2])
            require_read_right(subgraph.ancestors.nodes)
            self._require_norms(subgraph)
            whole, output = self._steps(subgraph.graph), subgraph.graph.output
            size = output[0].numel()
            eye = torch.eye(size, dtype=output.dtype, device=output.device)
            rows = eye.expand(len(output), -1, -1).reshape(-1, size, *whole.shapes[whole.output])
            self._plan = _Plan(subgraph, whole, seen_from(whole, self.inputs[1].name), rows)
        return self._plan

    def require_supported(self) -> None:
        """Refuse, before any region is known, a sub-graph that cannot be bounded.

        Raises:
            InputError: y does not depend on x.
            UnsupportedError: parts of the sub-graph have no rule, or the host reads them wrongly.
        """
        graph = read_between(*self.inputs[:2], marked=False).graph
        require_read_right(graph.nodes)
        # The host builds some networks in training mode only; whether they still are is seen when they are bounded.
        self._steps(replace(graph, nodes=tuple(replace(node, training=False) for node in graph.nodes)))

    def _steps(self, graph: HostGraph) -> Graph:
        try:
            return build_graph(graph.nodes, graph.inputs, graph.output_name)
        except UnsupportedError as error:
            y, x = self.inputs[:2]
            raise UnsupportedError(
                f"`JacobianOP` (node `{self.name}`), from {label(x)} to {label(y)},", error.offenders, error.remedy
            ) from error

    def _require_norms(self, subgraph: Subgraph) -> None:
        lost = [
            f"`{name}`: auto_LiRPA's interval bounds lose its l_{region.norm:g} norm"
            for name, region in subgraph.regions.items()
            if loses_norm(subgraph.ancestors, name, region.norm)
        ]
        if lost:
            raise UnsupportedError(
                f"`JacobianOP` (node `{self.name}`)", lost, "Bound it over the box around the ball (norm inf)."
            )

    @full_precision()
    def bounds(self, intervals: Mapping[str, Any], method: str) -> _Bounds:
        """Bounds of all entries.

        Args:
            intervals: lower and upper bounds of what the derivatives read, by name.
            method: how the host computes them: `IBP` or `CROWN`.

        Raises:
            UnsupportedError: they are missing, or known or seen to be wrong.
        """
        plan = self.plan()
        values = plan.subgraph.graph.values
        given = {
            name: (values[name],) * 2 if name in plan.subgraph.certain else intervals[name]
            for name in self._wanted(plan)
        }
        key = (torch.is_grad_enabled(), method, *(bound for name in sorted(given) for bound in given[name]))
        if self._last is not None and len(self._last[0]) == len(key) and all(map(_same, self._last[0], key)):
            return self._last[1]
        self._require_whole_logarithms(intervals)
        found = _bounds(plan, given, self._trusted(plan, given, method), self.rule)
        self._last = key, found
        return found

    def _trusted(self, plan: _Plan, given: Mapping[str, Any], method: str) -> Precision:
        """Refuse bounds of the host that do not hold; how exact the others are."""
        missing = [name for name, (low, high) in given.items() if low is None or high is None]
        if missing:
            raise UnsupportedError(
                f"`JacobianOP` (node `{self.name}`)",
                [f"`{name}`: auto_LiRPA left it without bounds" for name in missing],
                "Try another method, e.g. `IBP`.",
            )
        ancestors = plan.subgraph.ancestors
        require_sound(ancestors.nodes, method)
        precision = host_precision(ancestors, method, plan.rows.dtype)
        if not self._given:
            require_center_inside(given, plan.subgraph.graph.values, method, precision)
        return precision

    def _require_whole_logarithms(self, intervals: Mapping[str, Any]) -> None:
        found = {}
        for node in topological(self.inputs[0]):
            if type(node).__name__ == "BoundLog" and node.perturbed:
                argument = node.inputs[0]
                held = intervals.get(argument.name, (getattr(argument, "lower", None),))
                found[node.name] = held[0]
        require_whole_logarithms(found)

    def interval_propagate(self, *v: Any) -> tuple[Tensor, Tensor]:
        """IBP: bounds of every entry."""
        found = self.bounds({node.name: tuple(pair) for node, pair in zip(self.inputs, v)}, "IBP")
        return self._shaped(found.lower), self._shaped(found.upper)

    def bound_backward(self, last_lA: Any, last_uA: Any, *x: Any, **kwargs: Any) -> Any:
        """CROWN: bounds of the combinations of entries, as constants."""
        found = self._from_inputs()
        lower, upper = (self._coefficients(last, found) for last in (last_lA, last_uA))
        lower_bias = 0 if lower is None else found.of_sums(lower, above=False).T
        upper_bias = 0 if upper is None else found.of_sums(upper, above=True).T
        return [(None, None)] * len(self.inputs), lower_bias, upper_bias

    def bound_forward(self, dim_in: int, *x: Any) -> Any:
        """Forward-mode bounds, as constants."""
        found = self._from_inputs()
        lower, upper = self._shaped(found.lower), self._shaped(found.upper)
        slope = lower.new_zeros(len(lower), dim_in, *lower.shape[1:])
        return LinearBound(slope, lower, slope, upper)

    def _from_inputs(self) -> _Bounds:
        held = {node.name: (getattr(node, "lower", None), getattr(node, "upper", None)) for node in self.inputs}
        return self.bounds(held, "CROWN")

    def _shaped(self, value: Tensor) -> Tensor:
        return value.reshape(*value.shape[:2], *self.plan().graph.shapes[self.inputs[1].name])

    def _coefficients(self, last: Any, bounds: _Bounds) -> Tensor | None:
        """The coefficients of the entries in what is to be bounded: (b, s, k, columns)."""
        if last is None:
            return None
        batch, rows, columns = bounds.lower.shape
        if isinstance(last, Patches):
            last = last.to_matrix((batch, *self._shaped(bounds.lower).shape[1:])).transpose(0, 1)
        if not isinstance(last, Tensor):  # the host's abstract unit matrix
            like = bounds.lower
            last = torch.eye(rows * columns, dtype=like.dtype, device=like.device).unsqueeze(1).expand(-1, batch, -1)
        return last.to(bounds.lower).reshape(-1, batch, rows, columns).transpose(0, 1)


def _same(first: Any, second: Any) -> bool:
    return first is second or (not isinstance(first, Tensor) and first == second)


def _bounds(plan: _Plan, given: Mapping[str, Any], precision: Precision, rule: str) -> _Bounds:
    graph, rows = plan.graph, plan.rows
    sizes = term_sizes(plan.whole, plan.subgraph.graph.values, precision.least)
    evidence = checked_evidence(graph, sizes, given, dict.fromkeys(given, precision), rows)
    derivatives = derivative_ranges(graph, evidence)
    treatment, budget = parse(rule).treatment, memory_budget(None, rows.device)
    order: BackwardOrder | IntervalArithmetic
    if treatment.upper_line is None:
        order = IntervalArithmetic(graph, derivatives, rows, budget)
    else:
        known = None
        if treatment.derivative_lines and plan.closed:
            gains = compute_gains(plan.whole, derivatives, rows, budget)
            known = expansion(gains, plan.whole, evidence, plan.subgraph.graph.values, _reach(plan, given, precision))
            gains = gains.of_columns(graph.columns)
        else:
            gains = compute_gains(graph, derivatives, rows, budget)
        order = backward_order(gains, treatment.upper_line, budget, known)
    return _Bounds(*order.jacobian(), order)


def _reach(plan: _Plan, given: Mapping[str, Any], precision: Precision) -> list[Region]:
    """Where the inputs of the whole sub-graph lie: the model's own as they are, others in boxes."""
    found = []
    for name in plan.whole.inputs:
        center = plan.subgraph.graph.values[name].flatten(1)
        region = plan.subgraph.regions.get(name)
        if region is not None:
            found.append(region)
        elif name in plan.subgraph.certain:
            found.append(Region(center, math.inf, torch.zeros_like(center)))
        else:
            low, high = (bound.reshape(center.shape) for bound in given[name])
            low, high = PreactivationBounds(low, high, precision.relative).widened(kinked=False)
            found.append(Region(center, math.inf, torch.maximum(high - center, center - low)))
    return found


def add_to_host() -> None:
    """Make the host understand the operator. Doing it again changes nothing."""
    bound_op_map[OPERATOR] = BoundRecurJacobian


def remove_from_host() -> None:
    """Undo `add_to_host`."""
    bound_op_map.pop(OPERATOR, None)


def nodes_of(model: Any) -> list[BoundRecurJacobian]:
    """The Jacobians in a `BoundedModule`."""
    return [node for node in model._modules.values() if isinstance(node, BoundRecurJacobian)]


def require_alike_inputs(model: Any, x: Any) -> None:
    """Refuse inputs of another type, or on another device, than a model with Jacobians in it.

    The host would compute until an operator of torch refuses them, or in the coarser type.

    Raises:
        InputError: they differ, or are of a half type; names the Jacobians' nodes.
    """
    names = ", ".join(f"node `{node.name}`" for node in nodes_of(model))
    for value in x if isinstance(x, (tuple, list)) else ():
        if isinstance(value, Tensor) and value.is_floating_point():
            require_full_type(f"`JacobianOP` ({names}): an input of the model", value.dtype)
            require_alike(model, value, f"`JacobianOP` ({names}): an input of the model")
