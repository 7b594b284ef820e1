"""From a host's model and a perturbed input to bounds of all gradients: what every public quantity starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .bounds import intersection
from .errors import InputError
from .forward import ForwardOrder, ShiftedForwardOrder, shifted_forward_order
from .gains import Gains, compute_gains
from .graph import ActivationStep, Graph, build_graph
from .host import BoundedModule
from .host_bounds import host_bounds
from .host_defects import host_precision
from .host_graph import HostGraph, read_graph
from .magnitude import magnitudes
from .methods import Method
from .recursion import BackwardOrder, backward_order
from .region import Region, read_region
from .rules import UpperLine
from .undetermined import Layer, classify

DEFAULT_MEMORY_BUDGET = 512 * 2**20
"""Bytes that one chunk of rows or columns may take; bounds do not depend on it."""

# Bounds that meet can be inverted by rounding, in units of the precision times the layer's largest bound.
_INVERTED = 1024

Intervals = Mapping[str, tuple[Tensor, Tensor]]

ORDERS = ("backward", "forward", "both")
"""Names of the orders; `both` is the intersection."""


@dataclass(frozen=True, eq=False)
class Analysis:
    """The bounds of one model over one batch of regions, for one method and one set of rows.

    Attributes:
        region: where the input lies.
        graph: the network as plain steps.
        derivatives: derivative ranges of its activation steps.
        rows: what is differentiated, shape (b, k, *output_shape).
        gains: the exact part between the undetermined neurons.
        rule: what happens at an undetermined neuron.
        order, shift: in which order the neurons' gradients are bounded, see `jacobian_bounds`.
        memory_budget: bytes that one chunk of columns may take.
        center_value: ``C f(center)``, shape (b, k).
        host_output: the host's bounds of ``C f``, each of shape (b, k); None where the host was not run.
    """

    region: Region
    graph: Graph
    derivatives: Mapping[str, Layer]
    rows: Tensor
    gains: Gains
    rule: UpperLine
    order: str
    shift: int
    memory_budget: int
    center_value: Tensor
    host_output: tuple[Tensor, Tensor] | None

    @cached_property
    def backward(self) -> BackwardOrder:
        """The gradients at every undetermined neuron, from the output back."""
        return backward_order(self.gains, self.rule, self.memory_budget)

    @cached_property
    def forward(self) -> ForwardOrder | ShiftedForwardOrder:
        """The order from the input on."""
        if self.shift:
            shifted = shifted_forward_order(
                self.graph, self.derivatives, self.rows, self.gains.batch, self.rule, self.memory_budget
            )
            if shifted is not None:
                return shifted
        return ForwardOrder(self.gains, self.rule, self.memory_budget)

    @cached_property
    def jacobian(self) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds of the Jacobian, both of shape (b, k, columns)."""
        if self.order == "backward":
            return self.backward.jacobian()
        forward = self.forward.jacobian()
        return intersection(forward, self.backward.jacobian()) if self.order == "both" else forward

    def upper_of_sum(
        self,
        weights: Tensor,  # shape: (b, k, columns)
    ) -> Tensor:
        """Upper bound of ``sum_r weights_r J_kr`` for every row k: (b, k)."""
        if self.order == "backward":
            return self.backward.upper_of_sum(weights)
        forward = self.forward.upper_of_sum(weights)
        return torch.minimum(forward, self.backward.upper_of_sum(weights)) if self.order == "both" else forward


def analyse(
    model: Any,
    x: Any,
    method: Method,
    C: Tensor | None,
    *,
    order: str = "backward",
    shift: int = 0,
    intermediate_bounds: Intervals | None = None,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
    to_input: bool = True,
) -> Analysis:
    """Bound the gradients of ``C f`` at every undetermined neuron.

    Args:
        model: the host's `BoundedModule`.
        x: a `BoundedTensor`.
        method: a parsed method with a rule.
        C: specification matrix, shape (b or 1, k, n_out); None for all outputs.
        order: in which order the neurons' gradients are bounded, one of `ORDERS`.
        shift: 1 to let the forward order begin behind the first activation layer.
        intermediate_bounds: pre-activation bounds by node name, used instead of the host's where given.
        memory_budget: bytes that one chunk may take.
        to_input: whether the gains up to the input are needed.

    Raises:
        InputError: model, input or C do not fit together.
        UnsupportedError: parts of the network have no rule.
    """
    rule = method.upper_line
    _check_order(order, shift)
    if not isinstance(memory_budget, int) or memory_budget < 1:
        raise InputError(f"`memory_budget` must be a whole number of bytes of at least 1, got {memory_budget!r}.")
    region, host_graph = read(model, x)
    graph = build_graph(host_graph.nodes, host_graph.input_name, host_graph.output_name, host_graph.input_shape)
    rows = specification(C, host_graph.output)
    names = [step.preactivation for step in graph.activations]
    given = _given_bounds(intermediate_bounds or {}, names)
    precision = {name: torch.finfo(low.dtype).eps for name, (low, _) in given.items()}
    host_output = None
    if method.with_host_output or len(given) < len(set(names)):
        wanted = [name for name in names if name not in given]
        computed, host_output = host_bounds(model, host_graph, region, method.host, rows, wanted)
        given |= computed
        precision |= dict.fromkeys(wanted, host_precision(host_graph, method.host, rows.dtype))
    sizes = magnitudes(graph, host_graph.values)
    derivatives = {
        step.name: classify(
            step,
            *_checked(given, step, graph, region, precision[step.preactivation]),
            precision[step.preactivation],
            sizes[step.source],
        )
        for step in graph.activations
    }
    start = rows.reshape(*rows.shape[:2], *graph.shapes[graph.output])  # in the shape of the last step
    gains = compute_gains(graph, derivatives, start, len(region.center), memory_budget, to_input)
    return Analysis(
        region=region,
        graph=graph,
        derivatives=derivatives,
        rows=start,
        gains=gains,
        rule=rule,
        order=order,
        shift=shift,
        memory_budget=memory_budget,
        center_value=host_graph.specified(rows),
        host_output=host_output,
    )


def _check_order(order: str, shift: int) -> None:
    if order not in ORDERS:
        raise InputError(f"`order` must be one of {', '.join(map(repr, ORDERS))}, got {order!r}.")
    if isinstance(shift, bool) or shift not in (0, 1):
        raise InputError(f"`shift` must be 0 or 1, got {shift!r}.")
    if shift and order == "backward":
        raise InputError("`shift` belongs to the forward order: use `order='forward'` or `order='both'` with it.")


def read(model: Any, x: Any) -> tuple[Region, HostGraph]:
    """Read a model and its perturbed input, the graph at the centre of the region.

    Raises:
        InputError: not the host's objects, or they do not fit together.
    """
    if not isinstance(model, BoundedModule):
        raise InputError(
            f"`model` must be auto_LiRPA's `BoundedModule`, got {type(model).__name__}; wrap it as "
            "`BoundedModule(model, example_input)`."
        )
    region = read_region(x)
    parameter = next(model.parameters(), None)
    if parameter is not None and (parameter.device != x.device or parameter.dtype != x.dtype):
        raise InputError(
            f"`x` is {x.dtype} on {x.device}, but the model is {parameter.dtype} on {parameter.device}; "
            "move one of them."
        )
    return region, read_graph(model, region.scaled(1.0))


def specification(C: Tensor | None, output: Tensor) -> Tensor:
    """The matrix C for an output of shape (b, *output_shape), as (b, k, *output_shape).

    Raises:
        InputError: C has another shape, dtype or device, or contains NaN.
    """
    batch, size = len(output), output[0].numel()
    if C is None:
        C = torch.eye(size, dtype=output.dtype, device=output.device).unsqueeze(0)
    if not isinstance(C, Tensor) or C.dim() < 3 or len(C) not in (1, batch) or C[0, :1].numel() != size:
        came = tuple(C.shape) if isinstance(C, Tensor) else type(C).__name__
        raise InputError(f"`C` must have shape ({batch} or 1, k, {size}) for this model, got {came}.")
    if C.dtype != output.dtype or C.device != output.device:
        raise InputError(
            f"`C` is {C.dtype} on {C.device}, but the model's output is {output.dtype} on {output.device}; "
            "use the same."
        )
    if not bool(C.isfinite().all()):
        raise InputError("`C` contains NaN or infinite values; a specification must be finite.")
    return C.expand(batch, *C.shape[1:]).reshape(batch, C.shape[1], *output.shape[1:])


def _given_bounds(given: Intervals, names: list[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """The caller's pre-activation bounds, as pairs of floating-point tensors."""
    unknown = [name for name in given if name not in names]
    if unknown:
        raise InputError(
            f"`intermediate_bounds` names {', '.join(f'`{name}`' for name in unknown)}, which no activation reads; "
            f"pre-activations are {', '.join(f'`{name}`' for name in names)}."
        )
    for name, pair in given.items():
        if not (
            isinstance(pair, (tuple, list))
            and len(pair) == 2
            and all(isinstance(bound, Tensor) and bound.is_floating_point() for bound in pair)
        ):
            raise InputError(f"`intermediate_bounds` of `{name}` must be two floating-point tensors, lower and upper.")
    return {name: (pair[0], pair[1]) for name, pair in given.items()}


def _checked(
    given: Intervals, step: ActivationStep, graph: Graph, region: Region, precision: float
) -> tuple[Tensor, Tensor]:
    """Pre-activation bounds of a step in the shape, dtype and device of the region."""
    name = step.preactivation
    shape = (len(region.center), *graph.shapes[step.source])
    lower, upper = given[name]
    sizes = (torch.Size(shape).numel(), torch.Size(shape[1:]).numel())
    if lower.numel() != upper.numel() or lower.numel() not in sizes:
        raise InputError(
            f"The bounds of `{name}` have shapes {tuple(lower.shape)} and {tuple(upper.shape)}, expected {shape}."
        )
    lower, upper = (bound.to(region.center).reshape(-1, *shape[1:]).expand(shape) for bound in (lower, upper))
    allowed = _INVERTED * precision * torch.maximum(lower.abs(), upper.abs()).amax().detach()
    if bool((lower > upper + allowed).any()):
        raise InputError(f"The bounds of `{name}` are inverted by more than rounding: give lower bounds first.")
    return lower, upper
