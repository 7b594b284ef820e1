"""From a host's model and a perturbed input to bounds of all gradients: what every public quantity starts from.

Model and regions are read once (`host.problem`), pre-activations are bounded (`preactivations.bounds`), and from their
derivative ranges follow, each when it is first asked for: the gains between undetermined neurons, lines of smooth
derivatives, and the Jacobian in the order that is wanted (RecurJac, arXiv:1810.11783, Algorithm 1 and section 3.3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.errors import InputError
from recurjac_plugin.gains.errors import jacobian_error, path_sums
from recurjac_plugin.gains.gains import Gains, compute_gains
from recurjac_plugin.gains.optimised import Effort
from recurjac_plugin.gains.undetermined import Layer, PreactivationBounds
from recurjac_plugin.graph.graph import Graph
from recurjac_plugin.host.library import IS_03
from recurjac_plugin.host.problem import Problem, read, read_in_float64, specification
from recurjac_plugin.numerics.intervals import Interval, Intervals, intersection
from recurjac_plugin.numerics.memory import memory_budget as chosen_budget
from recurjac_plugin.numerics.region import Region, joined
from recurjac_plugin.numerics.rounding import ELEMENTWISE, eps
from recurjac_plugin.passes.affine import affine_pass
from recurjac_plugin.passes.mccormick import NetworkRelaxation, relax_network
from recurjac_plugin.preactivations.bounds import Preactivations, ProvenErrors, bound_preactivations
from recurjac_plugin.preactivations.host import HostBounds
from recurjac_plugin.preactivations.refined import refined_preactivations
from recurjac_plugin.preactivations.rigorous import bounds_of_our_own, host_or_own_bounds, prove_preactivations
from recurjac_plugin.recursion.backward import backward_order
from recurjac_plugin.recursion.fast_lip import IntervalArithmetic
from recurjac_plugin.recursion.forward import ForwardOrder, shifted_forward_order
from recurjac_plugin.recursion.order import BothOrders, Order

from .bounded import sum_with_room, sums_with_room, with_room
from .methods import ORDERS, Method, Treatment, require_jacobian, require_rigorous
from .planes import from_input_pays, where_planes_pay


@dataclass(frozen=True, eq=False)
class Analysis:
    """The bounds of one model over one batch of regions, for one method and one set of rows: a `BoundedJacobian`.

    Attributes:
        regions: where the perturbed inputs lie, in their order.
        graph: the network as plain steps.
        preactivations: bounds of what its factor steps read, by the names of the nodes read.
        derivatives: derivative ranges of its factor steps, by their names.
        centers: values of what the factor steps read at the centres of the regions, (b, *shape) each.
        rows: what is differentiated, shape (b, k, *output_shape).
        method: what happens at an undetermined neuron, and where the bounds of its pre-activation come from.
        order, shift: in which order the neurons' gradients are bounded, see `jacobian_bounds`.
        memory_budget: bytes that one chunk of columns may take.
        center_value: ``C f(x_0)`` at the centres, shape (b, k).
        host_output: the host's bounds of ``C f``, each of shape (b, k); None where the host was not run. Of a proven
            analysis those of our own CROWN.
        proven: what its bounds have proven errors from; None if they have none.
        start: the analysis whose bounds are to be no wider than these; where there is one, bounds are constants.
    """

    regions: tuple[Region, ...]
    graph: Graph
    preactivations: Mapping[str, PreactivationBounds]
    derivatives: Mapping[str, Layer]
    centers: Mapping[str, Tensor]
    rows: Tensor
    method: Method
    order: str
    shift: int
    memory_budget: int
    center_value: Tensor
    host_output: Interval | None
    proven: ProvenErrors | None = None
    start: Analysis | None = None

    @cached_property
    def region(self) -> Region:
        """The region of all perturbed inputs together.

        Raises:
            InputError: they have no common norm.
        """
        return self.regions[0] if len(self.regions) == 1 else joined(self.regions)

    @cached_property
    def gains(self) -> Gains:
        """The exact part between the undetermined neurons."""
        if self.proven is not None:
            return self.proven.gains
        return compute_gains(self.graph, self.derivatives, self.rows, self.memory_budget)

    @property
    def treatment(self) -> Treatment:
        """What happens at an undetermined neuron."""
        return self.method.treatment

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """The method by its name, one for each region: of `AUTO` the chosen one."""
        return tuple(self.method.chosen(planes).name for planes in self._planes[1])

    @property
    def relaxation(self) -> NetworkRelaxation | None:
        """What is known of the derivatives beyond their ranges, if the method uses it, on the regions where it does."""
        return self._planes[0]

    @cached_property
    def _planes(self) -> tuple[NetworkRelaxation | None, tuple[bool, ...]]:
        """The relaxation, and on which of the regions the method uses it."""
        wanted, proven = self.treatment.planes, self.proven is not None
        if wanted is False or (self.shift and self.order == "forward"):  # the shifted order has no planes
            return None, (False,) * len(self.rows)
        relaxation = relax_network(self.gains, self.graph, self.preactivations, self.centers, self.regions, proven)
        if relaxation is None or wanted:
            return relaxation, (relaxation is not None,) * len(self.rows)
        pays = where_planes_pay(self.gains, relaxation)
        regions = tuple(map(bool, pays.tolist()))
        return (relaxation.only(pays) if any(regions) else None), regions

    @cached_property
    def entry_error(self) -> Tensor | None:
        """Proven errors of the entries' bounds, (b, k, columns); None without proof."""
        if self.proven is None:
            return None
        planes = (
            {}
            if self.relaxation is None
            else self.relaxation.sizes({step.name: self.proven.spreads[step.source] for step in self.graph.factors})
        )
        return jacobian_error(self.graph, self.derivatives, self.rows, self.memory_budget, planes)

    def signed(self) -> Interval:
        r"""The Jacobian's bounds with room for what rounding does to their signs, (b, k, columns) each.

        Ways through the network that cancel leave a sum that may have another sign than the computed one. With A the
        sum of the absolute values of all ways, ``A - U`` is what the negative ones have, and ``A + L`` what the
        positive ones have, at least; the rooms are 8 eps times these. A sum of terms of one sign needs none, nor does
        an entry that no way leads to. Proven bounds have theirs already.
        """
        lower, upper = self.jacobian
        if self.proven is not None:
            return lower, upper
        paths, _ = path_sums(self.graph, self.derivatives, self.rows, self.memory_budget)
        relative = ELEMENTWISE * eps(paths)
        unit = relative * (paths > torch.finfo(paths.dtype).tiny / relative)
        below, above = (torch.where(part > unit * paths, unit * part, 0.0) for part in (paths - upper, paths + lower))
        return lower - below, upper + above

    @cached_property
    def jacobian(self) -> Interval:
        """Lower and upper bounds of the Jacobian, both of shape (b, k, columns)."""
        if self.start is None:
            return with_room(self._in_order.jacobian(), self.entry_error)
        with torch.no_grad():
            return intersection(self.start.jacobian, with_room(self._in_order.jacobian(), self.entry_error))

    def upper_of_sum(
        self,
        weights: Tensor,  # shape: (b, k, columns)
    ) -> Tensor:
        """Upper bound of ``sum_r weights_r J_kr`` for every row k: (b, k).

        Tighter than summing the bounds of the entries, because the neurons' derivatives are shared by all entries.
        """
        if self.start is None:
            return sum_with_room(self._in_order.upper_of_sum(weights), weights, self.entry_error)
        with torch.no_grad():
            upper = sum_with_room(self._in_order.upper_of_sum(weights), weights, self.entry_error)
            return torch.fmin(upper, self.start.upper_of_sum(weights))

    def upper_of_sums(
        self,
        coefficients: Tensor,  # shape: (b, s, k, columns)
    ) -> Tensor:
        """Upper bound of ``sum_kr c_skr J_kr``, over entries of all rows, for every s: (b, s)."""
        if self.start is None:
            return sums_with_room(self._in_order, self.jacobian, coefficients, self.entry_error)
        with torch.no_grad():
            upper = sums_with_room(self._in_order, self.jacobian, coefficients, self.entry_error)
            return torch.fmin(upper, self.start.upper_of_sums(coefficients))

    @property
    def exact_part(self) -> Gains | None:
        """The gains, where the method has them and nothing is to be proven."""
        return None if self.treatment.upper_line is None or self.proven is not None else self.gains

    @property
    def center_error(self) -> Tensor | float:
        """Proven error of ``C f(x_0)``, (b, k); 0 without proof."""
        return 0.0 if self.proven is None else self.proven.center

    def part(
        self,
        regions: Tensor,  # shape: (n,)
        rows: Tensor,  # shape: (n, k')
    ) -> Analysis:
        """The analysis of some regions, by position, and of some rows of each; without the host's output bounds."""
        return replace(
            self,
            regions=(self.region.part(regions),),
            derivatives={name: layer.part(regions) for name, layer in self.derivatives.items()},
            rows=gathered_rows(self.rows[regions], rows),
            preactivations={name: each.part(regions) for name, each in self.preactivations.items()},
            centers={name: value[regions] for name, value in self.centers.items()},
            center_value=self.center_value[regions].gather(1, rows),
            host_output=None,
            proven=None if self.proven is None else self.proven.part(regions, rows),
            start=None if self.start is None else self.start.part(regions, rows),
        )

    @cached_property
    def _in_order(self) -> Order:
        if self.order == "both":
            return BothOrders(self._forward, self._backward)
        if self.order == "backward" and self.relaxation is not None and from_input_pays(self.gains):
            return BothOrders(self._forward, self._backward, self.relaxation.used)
        return self._forward if self.order == "forward" else self._backward

    @property
    def _backward(self) -> Order:
        if self.treatment.upper_line is None:
            return self._intervals(forward=False)
        affine = None
        if self.relaxation is not None and self.proven is None:
            affine = affine_pass(self.gains, self.graph, self.rows, self.relaxation, self.memory_budget)
        return backward_order(self.gains, self.treatment.upper_line, self.memory_budget, self.relaxation, affine)

    @property
    def _forward(self) -> Order:
        line = self.treatment.upper_line
        if line is None:
            return self._intervals(forward=True)
        if self.shift and self.graph.factors:
            return shifted_forward_order(self.graph, self.derivatives, self.rows, line, self.memory_budget)
        return ForwardOrder(self.gains, line, self.memory_budget, self.relaxation)

    def _intervals(self, forward: bool) -> IntervalArithmetic:
        return IntervalArithmetic(self.graph, self.derivatives, self.rows, self.memory_budget, forward)


def gathered_rows(
    C: Tensor,  # shape: (n, k, *output_shape)
    rows: Tensor,  # shape: (n, k')
) -> Tensor:
    """The chosen rows of every region's matrix, by position: (n, k', *output_shape)."""
    return C.gather(1, rows.reshape(*rows.shape, *[1] * (C.dim() - 2)).expand(-1, -1, *C.shape[2:]))


def analyse(
    model: Any,
    x: Any,
    method: Method,
    C: Tensor | None,  # shape: (b or 1, k, n_out)
    *,
    order: str = "backward",
    shift: int = 0,
    intermediate_bounds: Intervals | None = None,
    memory_budget: int | None = None,
    rigorous: bool = False,
) -> Analysis:
    """`analyse_problem` for a model and a perturbed input that nobody has read yet.

    Args:
        model: the host's `BoundedModule`.
        x: a `BoundedTensor`, or a tuple of them and of plain tensors, shape (b, *input_shape) each.
        method: as there.
        C: as there.
        order: as there.
        shift: as there.
        intermediate_bounds: as there.
        memory_budget: as there.
        rigorous: as there.

    Raises:
        InputError: model, input or C do not fit together.
        MethodError: the method has no rigorous bounds where these are asked for.
        UnsupportedError: parts of the network have no rule.
    """
    require_rigorous(method, rigorous)
    return analyse_problem(
        read_in_float64(model, x) if rigorous else read(model, x),
        method,
        C,
        order=order,
        shift=shift,
        intermediate_bounds=intermediate_bounds,
        memory_budget=memory_budget,
        rigorous=rigorous,
    )


def analyse_problem(
    problem: Problem,
    method: Method,
    C: Tensor | None,  # shape: (b or 1, k, n_out)
    *,
    order: str = "backward",
    shift: int = 0,
    intermediate_bounds: Intervals | None = None,
    memory_budget: int | None = None,
    rigorous: bool = False,
) -> Analysis:
    """Find out what is certain and what is not about the derivatives of ``C f``.

    Args:
        problem: the model over its regions.
        method: a parsed method that bounds Jacobians.
        C: specification matrix; None for all outputs.
        order: in which order the neurons' gradients are bounded, one of `ORDERS`.
        shift: 1 to let the forward order begin behind the first activation layer.
        intermediate_bounds: pre-activation bounds by node name, used instead of the host's where given.
        memory_budget: bytes that one chunk may take; None for a share of the free memory.
        rigorous: whether everything is proven, by CROWN of our own; the problem is one in float64, then
            (`host.problem.read_in_float64`).

    Raises:
        InputError: C, bounds or options do not fit the model.
        MethodError: the method is one of the host alone.
        UnsupportedError: parts of the network have no rule.
    """
    require_jacobian(method)
    _require_order(order, shift)
    graph, host_graph = problem.graph, problem.host_graph
    rows = specification(C.to(host_graph.output) if rigorous and isinstance(C, Tensor) else C, host_graph.output)
    budget = chosen_budget(memory_budget, rows.device)
    known: Preactivations
    if rigorous:
        _require_none_given(intermediate_bounds)
        known = prove_preactivations(problem, rows, budget)
    else:
        known = bound_preactivations(
            problem, method.host, rows, intermediate_bounds or {}, method.with_host_output, _bounder(method, budget)
        )
    analysis = Analysis(
        regions=problem.arguments.regions,
        graph=graph,
        preactivations=known.bounds,
        derivatives=known.derivatives,
        centers={name: host_graph.values[name] for name in graph.reads},
        rows=rows.reshape(*rows.shape[:2], *graph.shapes[graph.output]),  # in the shape of the last step
        method=method,
        order=order,
        shift=shift,
        memory_budget=budget,
        center_value=host_graph.specified(rows),
        host_output=known.host_output,
        proven=known.proven,
    )
    if not method.treatment.optimised:
        return analysis
    known = refined_preactivations(problem, rows, known, intermediate_bounds or {}, budget, Effort())
    return replace(
        analysis,
        preactivations=known.bounds,
        derivatives=known.derivatives,
        center_value=analysis.center_value.detach(),
        host_output=known.host_output,
        proven=known.proven,
        start=analysis,
    )


def _bounder(method: Method, memory_budget: int) -> Callable[[Problem, str, Tensor, Sequence[str]], HostBounds]:
    """What bounds pre-activations, and outputs besides them: the host, or we where it has no room or cannot.

    The alpha-CROWN of 0.3 fails on batches and on some activations.
    """
    if method.host != "alpha-CROWN" or not IS_03:
        return partial(host_or_own_bounds, memory_budget=memory_budget)
    return lambda problem, _, rows, names: bounds_of_our_own(problem, rows, names, memory_budget, Effort())


def _require_none_given(bounds: Intervals | None) -> None:
    """Refuse bounds of the caller where everything is to be proven."""
    if bounds:
        raise InputError("`intermediate_bounds` are not proven: leave them out with `rigorous=True`.")


def _require_order(order: str, shift: int) -> None:
    """Refuse an order, or a shift of it, that there is not.

    Raises:
        InputError: an unknown name, a shift other than 0 or 1, or one of the backward order.
    """
    if order not in ORDERS:
        raise InputError(f"`order` must be one of {', '.join(map(repr, ORDERS))}, got {order!r}.")
    if isinstance(shift, bool) or shift not in (0, 1):
        raise InputError(f"`shift` must be 0 or 1, got {shift!r}.")
    if shift and order == "backward":
        raise InputError("`shift` belongs to the forward order: use `order='forward'` or `order='both'` with it.")
