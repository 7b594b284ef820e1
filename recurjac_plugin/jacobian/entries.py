"""Bounds of every element of a network's Jacobian over an input region."""

from __future__ import annotations

import time
from typing import Any, overload

import torch
from torch import Tensor, nn

from recurjac_plugin.errors import InputError
from recurjac_plugin.graph.graph import Graph
from recurjac_plugin.host.problem import read_in_float64
from recurjac_plugin.host.region import Inputs, cut, through_float32, type_of
from recurjac_plugin.host.same_function import declare
from recurjac_plugin.neurons.searches.largest import Effort, effort_of
from recurjac_plugin.numerics.intervals import Interval, Intervals, rounded_outward
from recurjac_plugin.numerics.precision import full_precision

from .analysis import analyse
from .bounds import Bounds
from .entry_search import reduced_network, searched_entries
from .methods import MethodName, Order, parse_jacobian_method
from .parts import bounded_in_parts


@overload
def jacobian_bounds(  # type: ignore[overload-overlap]  # a tuple of one input is one input
    model: nn.Module, x: Tensor | tuple[Tensor],
    *, method: MethodName | None = None, C: Tensor | None = None, order: Order = "backward", shift: int = 0,
    gap: float | None = None, budget: float | None = None, intermediate_bounds: Intervals | None = None,
    memory_budget: int | None = None, rigorous: bool = False, reference: nn.Module | None = None,
) -> Bounds: ...  # fmt: skip


@overload
def jacobian_bounds(
    model: nn.Module, x: tuple[Tensor, ...] | list[Tensor],
    *, method: MethodName | None = None, C: Tensor | None = None, order: Order = "backward", shift: int = 0,
    gap: float | None = None, budget: float | None = None, intermediate_bounds: Intervals | None = None,
    memory_budget: int | None = None, rigorous: bool = False, reference: nn.Module | None = None,
) -> tuple[Bounds, ...]: ...  # fmt: skip


@through_float32
@full_precision()
def jacobian_bounds(
    model: nn.Module,
    x: Inputs,
    *,
    method: MethodName | None = None,
    C: Tensor | None = None,
    order: Order = "backward",
    shift: int = 0,
    gap: float | None = None,
    budget: float | None = None,
    intermediate_bounds: Intervals | None = None,
    memory_budget: int | None = None,
    rigorous: bool = False,
    reference: nn.Module | None = None,
) -> Bounds | tuple[Bounds, ...]:
    r"""Bound the Jacobian of ``C f`` over the region of `x`.

    For every region b, row k and input coordinate r,

    .. math:: L_{bkr} \le \sum_i C_{bki} \frac{\partial f_i}{\partial x_r}(x) \le U_{bkr}
        \quad \text{for all } x \text{ in region } b.

    At kinks (ReLU at 0) the bounds hold for every element of Clarke's generalised derivative.

    Args:
        model: auto_LiRPA's `BoundedModule`; it is left as it was.
        x: a `BoundedTensor` whose perturbation is an l_p ball or a box, shape (b, *input_shape); for a model of several
            inputs a tuple of all of them, plain tensors where they are not perturbed.
        method: `RecurJac`, `RecurJac-Linear`, `RecurJac-McCormick`, `RecurJac-Optimized` or `Fast-Lip`, with a prefix
            for the pre-activation bounds (`IBP+`, ...); see `recurjac_plugin.jacobian.methods`. None or `auto` is
            `RecurJac-McCormick` on the regions where smooth activations make it worth its time, and `RecurJac-Linear`
            on all others; the bounds name it, and see `recurjac_plugin.jacobian.planes`.
        C: specification matrix, shape (b or 1, k, n_out); None differentiates every output.
        order: ``"backward"`` (from the output on), ``"forward"`` (from the input on), or ``"both"``, the intersection;
            neither order is always tighter. `RecurJac-McCormick` adds the forward order to the backward one where the
            input has few coordinates (`recurjac_plugin.jacobian.planes.from_input_pays`).
        shift: 1 lets the forward order begin behind the first activation layer, which is then joined by interval
            arithmetic: cheaper where the input is much larger than that layer, and looser. `RecurJac-McCormick` is
            `RecurJac-Linear` there.
        gap: to search over the sides of neurons until every bound is nearly attained: the distance between it and the
            largest value met at a point, relative to how far that value is from the other bound of one pass. For
            networks of functions with two linear pieces; such bounds are always rigorous, and go without a method,
            order or bounds of the caller's own.
        budget: seconds that the search may take for each region; None for no limit if a gap is given.
        intermediate_bounds: node name -> (lower, upper) of pre-activations to use instead of the host's.
        memory_budget: bytes that one chunk of rows or columns may take; the bounds do not depend on it, up to rounding.
            None takes a quarter of what is free on the device of `x`, at most 512 MiB of main memory or 8 GiB of a
            CUDA device's.
        rigorous: whether the bounds are to be proven: computed in float64 with running error bounds, from
            pre-activation bounds by CROWN of our own, and rounded outward to the type of the model. They hold for the
            network in real arithmetic with the weights that it has, whatever rounding did on the way. Assumed are IEEE
            arithmetic, matrix products in any order, and elementary functions to 2 units in the last place; of the host
            only its graph is used. Methods without a prefix have such bounds.
        reference: the module that the model was made of. Models made after `import recurjac_plugin` have been compared
            with theirs; for another one it is compared now, and refused if it computes something else.

    Returns:
        Bounds of shape (b, k, *input_shape), of the model's dtype and device, differentiable with respect to the
        weights where the host's pre-activation bounds are; rigorous ones and those of `RecurJac-Optimized` are not. For
        a tuple of several inputs a tuple of bounds, one for each perturbed input, in their order.

    Raises:
        InputError: model, input or C do not fit together, NaN, an empty region, or an unknown order or shift.
        MethodError: unknown method, one without Jacobian bounds, or without rigorous ones where these are asked for.
        UnsupportedError: the network has parts without a rule; all of them are listed.

    Source:
        Zhang, Zhang, Hsieh: RecurJac, AAAI 2019, arXiv:1810.11783, Algorithm 1 and section 3.3.
    """
    searched = gap is not None or budget is not None
    if searched and (method, order, shift, intermediate_bounds) != (None, "backward", 0, None):
        raise InputError("`gap` and `budget` go without `method`, `order`, `shift` and `intermediate_bounds`.")
    if searched:
        closeness, seconds = effort_of(gap, budget)
    declare(model, reference)
    parsed, methods = parse_jacobian_method(method), list[str]()

    def search(x: Any, C: Tensor | None) -> tuple[Tensor, ...]:
        bounds = []
        with torch.no_grad():
            for i in range(len(x[0] if isinstance(x, (tuple, list)) else x)):
                start = time.perf_counter()
                problem = read_in_float64(model, cut(x, slice(i, i + 1)))
                own = C[i : i + 1] if isinstance(C, Tensor) and C.dim() > 2 and len(C) > 1 else C
                reduced, memory = reduced_network(problem, own, memory_budget)
                bounds.append(searched_entries(reduced, memory, Effort(closeness, start + seconds))[0])
        methods.extend(["RecurJac-Linear"] * len(bounds))
        ends = rounded_outward(
            (torch.stack([low for low, _ in bounds]), torch.stack([up for _, up in bounds])), type_of(x)
        )
        return in_shapes(problem.graph, ends)

    def bound(x: Any, C: Tensor | None) -> tuple[Tensor, ...]:
        analysis = analyse(
            model, x, parsed, C, order=order, shift=shift, intermediate_bounds=intermediate_bounds,
            memory_budget=memory_budget, rigorous=rigorous,
        )  # fmt: skip
        methods.extend(analysis.methods)
        lower, upper = analysis.jacobian
        if rigorous:
            lower, upper = rounded_outward((lower, upper), type_of(x))
        return in_shapes(analysis.graph, (lower, upper))

    if searched:
        ends = search(x, C)
    else:
        ends = bound(x, C) if intermediate_bounds else bounded_in_parts(bound, model, x, C, memory_budget)
    bounds = tuple(
        Bounds(low, high, rigorous or searched, tuple(methods)) for low, high in zip(ends[::2], ends[1::2], strict=True)
    )
    return bounds if isinstance(x, (tuple, list)) and len(x) > 1 else bounds[0]


def in_shapes(graph: Graph, bounds: Interval) -> tuple[Tensor, ...]:
    """Bounds (b, k, columns) of all inputs as lower and upper bounds of each in its shape, one after the other."""
    shapes = [graph.shapes[name] for name in graph.inputs]
    sizes = [torch.Size(shape).numel() for shape in shapes]
    ends = (end.split(sizes, 2) for end in bounds)
    return tuple(part.reshape(*part.shape[:2], *shape) for pair, shape in zip(zip(*ends), shapes) for part in pair)
