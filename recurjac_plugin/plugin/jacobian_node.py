"""The host's node for `JacobianOP`: how a Jacobian takes part in the host's own methods.

Its inputs are y, x and, besides them, all nodes between the two that the derivatives can depend on. So the host bounds
these before it asks for bounds of the Jacobian, whatever its method. From them the node answers (`inner_jacobian`)

* interval arithmetic with bounds of every entry,
* CROWN with bounds of the linear combinations of entries that arrive from behind, linear in these nodes,
* forward-mode linear bounds with constants.

Answers are kept until the host says that the model has a new input, or asks with other bounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.errors import InputError, UnsupportedError
from recurjac_plugin.graph.graph import Graph
from recurjac_plugin.graph.sweeps import seen_from
from recurjac_plugin.host.library import Bound, LinearBound, Patches, bound_op_map
from recurjac_plugin.host.misread import require_read_right
from recurjac_plugin.host.read import HostGraph, topological
from recurjac_plugin.host.region import require_alike, require_full_type
from recurjac_plugin.jacobian.methods import parse_jacobian_method
from recurjac_plugin.numerics.precision import full_precision
from recurjac_plugin.preactivations.defects import (
    host_unit,
    loses_norm,
    require_center_inside,
    require_sound,
    require_whole_logarithms,
)

from .inner_jacobian import InnerBounds, InnerProblem, bound_inner_jacobian
from .jacobian_op import DEFAULT_METHOD, OPERATOR, jacobian
from .subgraph import Subgraph, between, evaluate, label, read_between


class BoundRecurJacobian(Bound):
    """The host's node of `JacobianOP`; its inputs are y, x, and what lies between them (see `add_inputs`)."""

    _problem: InnerProblem | None
    _required: list[int] | None
    _last: tuple[Any, InnerBounds] | None

    def __init__(self, attr: Any = None, inputs: Any = None, output_index: int = 0, options: Any = None) -> None:
        super().__init__(attr, inputs, output_index, options)
        self.method = parse_jacobian_method((attr or {}).get("method", DEFAULT_METHOD))
        self.complete = False
        self.clear()

    @property
    def requires_input_bounds(self) -> list[int]:
        """Positions of the inputs that the host must bound first; the host asks for them again and again."""
        if not self.complete:
            return []
        if self._required is None:
            needed = self.problem().needed
            self._required = [i for i, node in enumerate(self.inputs) if node.name in needed]
        return self._required

    @requires_input_bounds.setter
    def requires_input_bounds(self, value: Any) -> None:
        """Nothing: the host's base class sets an empty list."""

    def add_inputs(self) -> None:
        """Make every uncertain node that the derivatives can depend on an input, so that the host bounds it first."""
        if self.complete:
            return
        y, x = self.inputs[:2]
        known = {node.name for node in self.inputs}
        for node in between(topological(y), x):
            for other in (*node.inputs, node):
                if other.name not in known and other.from_input and node is not x:
                    known.add(other.name)
                    self.inputs.append(other)
                    other.output_name.append(self.name)
        self.complete = True

    def clear(self) -> None:
        """Forget what was known of the last input of the model; the host calls it."""
        self._problem = self._required = self._last = None
        # Bounds that the caller has given may be those of a part of the region, without its centre.
        self._given = any(getattr(node, "interval", None) is not None for node in self.inputs)

    def forward(self, output: Tensor, input: Tensor, *others: Any) -> Tensor:
        """The Jacobian by autograd through the host's nodes: (b, *y_shape), (b, *x_shape) -> (b, k, *x_shape)."""
        y, x = self.inputs[:2]
        ancestors = topological(y)
        path = between(ancestors, x)
        self._require_dependence(path, output, input)
        inside = {node.name for node in path}
        order = [node for node in ancestors if node.name not in inside]
        values = {node.name: node.forward_value for node in order if getattr(node, "forward_value", None) is not None}
        differentiable = torch.is_grad_enabled() and output.requires_grad
        with torch.enable_grad():
            start = input if input.requires_grad else input.detach().clone().requires_grad_()
            values[x.name] = start
            evaluate((*order, *path[1:]), values)
        rows = jacobian(values[y.name], start, differentiable)
        return rows if differentiable else rows.detach()

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

    def problem(self) -> InnerProblem:
        """The sub-graph over the model's present input, as steps; read once for every input.

        Raises:
            InputError: y does not depend on x, or the region of the model's input cannot be read.
            UnsupportedError: parts of the sub-graph have no rule, or the host reads or bounds them wrongly.
        """
        if self._problem is None:
            subgraph = read_between(*self.inputs[:2])
            require_read_right(subgraph.ancestors.nodes)
            self._require_norms(subgraph)
            whole, output = self._steps(subgraph.graph), subgraph.graph.output
            size = output[0].numel()
            eye = torch.eye(size, dtype=output.dtype, device=output.device)
            rows = eye.expand(len(output), -1, -1).reshape(-1, size, *whole.shapes[whole.output])
            graph = seen_from(whole, self.inputs[1].name)
            self._problem = InnerProblem(subgraph, whole, graph, rows, self.method.treatment)
        return self._problem

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
            return graph.steps
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
    def bounds(self, intervals: Mapping[str, Any], method: str) -> InnerBounds:
        """Bounds of all entries, computed once for every set of bounds that they follow from.

        Args:
            intervals: the host's lower and upper bounds of the node's inputs, by name; None where it has none.
            method: how the host computes them: `IBP` or `CROWN`.

        Raises:
            UnsupportedError: they are missing, or known or seen to be wrong.
        """
        problem = self.problem()
        values, certain = problem.subgraph.graph.values, problem.subgraph.certain
        given = {name: (values[name],) * 2 if name in certain else intervals[name] for name in problem.needed}
        key = (torch.is_grad_enabled(), method, *(bound for name in sorted(given) for bound in given[name]))
        if self._last is not None and len(self._last[0]) == len(key) and all(map(_same, self._last[0], key)):
            return self._last[1]
        self._require_whole_logarithms(problem, intervals)
        bounds = bound_inner_jacobian(problem, given, self._trusted(problem, given, method))
        self._last = key, bounds
        return bounds

    def _trusted(self, problem: InnerProblem, given: Mapping[str, Any], method: str) -> float:
        """Refuse bounds of the host that do not hold; the unit of the others."""
        missing = [name for name, (low, high) in given.items() if low is None or high is None]
        if missing:
            raise UnsupportedError(
                f"`JacobianOP` (node `{self.name}`)",
                [f"`{name}`: auto_LiRPA left it without bounds" for name in missing],
                "Try another method, e.g. `IBP`.",
            )
        ancestors = problem.subgraph.ancestors
        require_sound(ancestors.nodes, method)
        unit = host_unit(ancestors, problem.rows.dtype)
        if not self._given:
            require_center_inside(given, problem.subgraph.graph.values, method, unit)
        return unit

    def _require_whole_logarithms(self, problem: InnerProblem, intervals: Mapping[str, Any]) -> None:
        """Refuse logarithms before y of numbers that the host cuts off; their arguments need not be inputs here."""
        arguments = {node.name: node.inputs[0] for node in problem.subgraph.ancestors.nodes if node.kind == "BoundLog"}
        if arguments:
            nodes = {node.name: node for node in topological(self.inputs[0])}
            require_whole_logarithms(
                {
                    name: intervals.get(argument, (getattr(nodes[argument], "lower", None),))[0]
                    for name, argument in arguments.items()
                }
            )

    def interval_propagate(self, *v: Any) -> tuple[Tensor, Tensor]:
        """IBP: bounds of every entry, both of shape (b, k, *x_shape)."""
        bounds = self.bounds({node.name: tuple(pair) for node, pair in zip(self.inputs, v)}, "IBP")
        return self._shaped(bounds.lower), self._shaped(bounds.upper)

    def bound_backward(self, last_lA: Any, last_uA: Any, *x: Any, **kwargs: Any) -> Any:
        """CROWN: bounds of the combinations of entries, linear in the pre-activations of smooth functions.

        Returns:
            For every input the slopes of the lower and of the upper bound, (s, b, *shape) or None, and the constants of
            both, (s, b).
        """
        bounds = self._from_inputs()
        sides = []
        for last, above in ((last_lA, False), (last_uA, True)):
            coefficients = self._coefficients(last, bounds)
            sides.append(None if coefficients is None else bounds.of_sums(coefficients, above))
        slopes = [
            {} if side is None else {name: s.transpose(0, 1) for name, s in side.slopes.items()} for side in sides
        ]
        lower_bias, upper_bias = (0 if side is None else side.constant.T for side in sides)
        return [tuple(side.get(node.name) for side in slopes) for node in self.inputs], lower_bias, upper_bias

    def bound_forward(self, dim_in: int, *x: Any) -> Any:
        """Forward-mode linear bounds, with slopes of 0: constants of shape (b, k, *x_shape)."""
        bounds = self._from_inputs()
        lower, upper = self._shaped(bounds.lower), self._shaped(bounds.upper)
        slope = lower.new_zeros(len(lower), dim_in, *lower.shape[1:])
        return LinearBound(slope, lower, slope, upper)

    def _from_inputs(self) -> InnerBounds:
        held = {node.name: (getattr(node, "lower", None), getattr(node, "upper", None)) for node in self.inputs}
        return self.bounds(held, "CROWN")

    def _shaped(self, value: Tensor) -> Tensor:
        """(b, k, columns) -> (b, k, *x_shape)."""
        return value.reshape(*value.shape[:2], *self.problem().graph.shapes[self.inputs[1].name])

    def _coefficients(self, last: Any, bounds: InnerBounds) -> Tensor | None:
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


def add_to_host() -> None:
    """Make the host understand the operator. Doing it again changes nothing."""
    bound_op_map[OPERATOR] = BoundRecurJacobian


def remove_from_host() -> None:
    """Undo `add_to_host`."""
    bound_op_map.pop(OPERATOR, None)


def nodes_of(model: Any) -> list[BoundRecurJacobian]:
    """The Jacobians in a `BoundedModule`."""
    return [node for node in model._modules.values() if isinstance(node, BoundRecurJacobian)]


def require_alike_inputs(model: Any, nodes: list[BoundRecurJacobian], x: Any) -> None:
    """Refuse inputs of another type, or on another device, than a model with Jacobians in it.

    The host would compute until an operator of torch refuses them, or in the coarser type.

    Args:
        model: the host's `BoundedModule`.
        nodes: the Jacobians in it, named by the message.
        x: a tuple of its inputs.

    Raises:
        InputError: they differ, or are of a half type.
    """
    what = f"`JacobianOP` ({', '.join(f'node `{node.name}`' for node in nodes)}): an input of the model"
    for value in x if isinstance(x, (tuple, list)) else ():
        if isinstance(value, Tensor) and value.is_floating_point():
            require_full_type(what, value.dtype)
            require_alike(model, value, what)


def type_of(model: Any, x: Any) -> torch.dtype:
    """The type of a model's numbers, in which the host is to make what it makes of its own.

    Args:
        model: the host's `BoundedModule`.
        x: a tuple of its inputs; None where the host keeps those of the last call.
    """
    values = (*(x if isinstance(x, (tuple, list)) else (x,)), *model.parameters())
    types = (value.dtype for value in values if isinstance(value, Tensor) and value.is_floating_point())
    return next(types, torch.get_default_dtype())
