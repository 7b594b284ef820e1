"""Operators that multiply or choose between perturbed inputs, taken apart into linear maps and uncertain factors.

Each row of `PRODUCTS` writes the differential of an operator with factors whose ranges follow from the host's bounds:

==============  ========================================================================================
product         ``d(x y) = y dx + x dy``, each factor ranging over the other's bounds
quotient        ``d(x / y) = dx / y - (x / y^2) dy``, where y stays away from 0
matrix product  the products ``x_ik y_kj`` one by one, then the sum over k
maximum         ``max(x, y) = y + relu(x - y)``, see `extremes`
log-sum-exp     ``d = <s, dx>`` with the softmax s ranging over its own bounds
softmax         ``ds = s * (dx - <s, dx>)`` with s ranging over its own bounds
==============  ========================================================================================

They hold at every point of the region, so bounds built on the ranges do, whatever the inputs share. A new operator is
one function and one row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from recurjac_plugin.errors import UnsupportedError
from recurjac_plugin.numerics.intervals import Interval
from recurjac_plugin.numerics.rounding import ELEMENTWISE, eps

from .extremes import given_axes, max_pool, pairwise, reduce
from .linear_maps import Broadcast, Shape, View, nonnegative
from .node import Node
from .operators import OPERATORS, Refusal, broadcast_shapes, per_sample
from .steps import Step, StepBuilder, ToSteps, spread


def multiplies(node: Node) -> bool:
    """Whether a node belongs here: products are linear in a single perturbed factor, quotients in their dividend."""
    if node.kind not in PRODUCTS:
        return False
    linear = node.kind in OPERATORS and sum(node.perturbed) == 1
    if node.kind in ("BoundMul", "BoundMatMul"):
        least = 3 if node.kind == "BoundMatMul" else 0  # a matrix alone is that of all samples
        factors = (value for value in node.constants[:2] if value is not None and value.dim() >= least)
        linear = linear and not any(per_sample(value, node) for value in factors)
    if node.kind == "BoundDiv":
        linear = linear and not node.perturbed[1]
    return not linear


def expand(node: Node, sources: Mapping[str, str]) -> tuple[Step, ...]:
    """The steps of a node with a row in `PRODUCTS`.

    Args:
        node: the node.
        sources: the steps that stand for its perturbed inputs, by the names of these.

    Raises:
        Refusal: the row does not cover this use of the operator.
    """
    return PRODUCTS[node.kind](StepBuilder(node, sources))


def _identity(shape: Shape) -> Broadcast:
    return Broadcast(1, shape, shape)


def _broadcast(builder: StepBuilder, position: int) -> str:
    """An input, repeated to the output's shape."""
    return builder.linear((builder.source(position), Broadcast(1, *broadcast_shapes(builder.node, position))))


def _mul(builder: StepBuilder) -> tuple[Step, ...]:
    """Product of two perturbed tensors, or with a constant that differs from sample to sample."""
    perturbed, shape = builder.node.perturbed, builder.shape
    terms = []
    for position in (0, 1):
        if not perturbed[position]:
            continue
        operand = _broadcast(builder, position)
        reads = (builder.read(1 - position),) if perturbed[1 - position] else ()

        def other_factor(*bounds: Interval, position: int = position) -> Interval:
            return spread(bounds[0] if bounds else builder.constant(1 - position), shape)

        terms.append(builder.factor(operand, shape, reads, other_factor, exact=True, affine=True))
    return builder.finished(*((term, _identity(shape)) for term in terms))


def _div(builder: StepBuilder) -> tuple[Step, ...]:
    """Quotient by a perturbed divisor; the dividend may be a constant."""
    divides, shape = builder.node.perturbed[0], builder.shape

    def away_from_0(divisor: Interval) -> Interval:
        lower, upper = spread(divisor, shape)
        if bool(((lower <= 0) & (upper >= 0)).any()):
            raise UnsupportedError(
                "The network",
                [f"`{builder.node.name}` (Div): the bounds of its divisor contain 0 on this region"],
                "Use a smaller region, or tighter pre-activation bounds.",
            )
        return lower, upper

    def by_dividend(divisor: Interval) -> Interval:
        lower, upper = away_from_0(divisor)
        return 1 / upper, 1 / lower

    def by_divisor(divisor: Interval, *dividend: Interval) -> Interval:
        # -x / y^2 is linear in x and monotone in y on either side of 0: its extremes are at corners.
        ends = spread(dividend[0] if dividend else builder.constant(0), shape)
        corners = torch.stack([-x / y.square() for y in away_from_0(divisor) for x in ends])
        return corners.amin(0), corners.amax(0)

    terms = []
    if divides:
        terms.append(builder.factor(_broadcast(builder, 0), shape, (builder.read(1),), by_dividend))
    operand = _broadcast(builder, 1)
    reads = (builder.read(1), builder.read(0)) if divides else (builder.read(1),)
    terms.append(builder.factor(operand, shape, reads, by_divisor))
    return builder.finished(*((term, _identity(shape)) for term in terms))


def _matmul(builder: StepBuilder) -> tuple[Step, ...]:
    """Matrix product of two perturbed tensors, (..., i, k) times (..., k, j), or with a matrix for each sample."""
    perturbed = builder.node.perturbed
    left, right = (tuple(shape[1:]) for shape in builder.node.input_shapes[:2])
    if len(left) < 2 or len(left) != len(right) or left[:-2] != right[:-2]:
        raise Refusal(f"it multiplies perturbed tensors of shapes {left} and {right} per sample, expected matrices")
    whole = (*left, right[-1])  # (..., i, k, j)
    views = ((*left, 1), (*right[:-2], 1, *right[-2:]))
    terms = []
    for position, own in enumerate(views):
        if not perturbed[position]:
            continue
        viewed = builder.linear((builder.source(position), View((left, right)[position], own)))
        operand = builder.linear((viewed, Broadcast(1, own, whole)))

        def other_factor(*bounds: Interval, position: int = position, view: Shape = views[1 - position]) -> Interval:
            lower, upper = bounds[0] if bounds else builder.constant(1 - position)
            return spread((lower.reshape(-1, *view), upper.reshape(-1, *view)), whole)

        reads = (builder.read(1 - position),) if perturbed[1 - position] else ()
        terms.append(builder.factor(operand, whole, reads, other_factor, exact=True, affine=True))
    total = nonnegative(lambda t: t.sum(-2), whole, builder.shape)
    return builder.finished(*((term, total) for term in terms))


def _softmax(builder: StepBuilder) -> tuple[Step, ...]:
    """Softmax along one axis: ``ds = s * (dx - <s, dx>)``, both s with their own range."""
    axis = builder.node.attributes["axis"] % len(builder.node.output_shape)
    if axis == 0:
        raise Refusal("it normalises over the batch dimension")
    shape = builder.shape
    reduced = (*shape[: axis - 1], 1, *shape[axis:])

    def value(interval: Interval) -> Interval:
        return softmax_range(*interval, axis)

    x, reads = builder.source(0), (builder.read(0),)
    weighted = builder.factor(x, shape, reads, value)
    mean = builder.linear((weighted, nonnegative(lambda t: t.sum(axis, keepdim=True), shape, reduced)))
    centred = builder.linear((x, _identity(shape)), (mean, Broadcast(-1, reduced, shape)))
    return builder.finished((builder.factor(centred, shape, reads, value), _identity(shape)))


def _log_sum_exp(builder: StepBuilder) -> tuple[Step, ...]:
    """``log sum exp(x)`` along axes: ``<s, dx>`` with the softmax s of x in its own range."""
    shape = tuple(builder.node.input_shapes[0][1:])
    axes = given_axes(builder.node, len(shape) + 1)
    if 0 in axes:
        raise Refusal("it reduces the batch dimension")
    if len(axes) != 1:
        raise Refusal("it reduces several axes, supported is one")

    def share(interval: Interval) -> Interval:
        return softmax_range(*interval, axes[0])

    weighted = builder.factor(builder.source(0), shape, (builder.read(0),), share)
    total = nonnegative(lambda t: t.sum(axes[0]).reshape(-1, *builder.shape), shape, builder.shape)
    return builder.finished((weighted, total))


def softmax_range(low: Tensor, high: Tensor, axis: int) -> Interval:
    """Range of a softmax along an axis over boxes ``[low, high]`` of any shape: exact, and outward by its rounding.

    ``s_i = 1 / (1 + sum_{j != i} exp(x_j - x_i))`` is smallest where x_i is low and the others are high.

    Returns:
        Two tensors of the shape of `low` and `high`.
    """
    ends = []
    for own, far, sign in ((low, high, -1), (high, low, 1)):
        others = logits_of_others(far, axis)
        error = ELEMENTWISE * eps(own) * (own.abs() + torch.where(others.isfinite(), others.abs(), 0.0)).detach()
        share = torch.sigmoid(own - others + sign * error)
        ends.append(share + sign * eps(own) * (ELEMENTWISE + own.shape[axis]) * share.detach())
    return ends[0], ends[1].clamp(max=1.0)


def logits_of_others(x: Tensor, axis: int) -> Tensor:
    """``log sum_{j != i} exp(x_j)`` for every i along an axis; shaped like x."""
    x = x.movedim(axis, -1)
    count = x.shape[-1]
    own = torch.eye(count, dtype=torch.bool, device=x.device)
    others = x.unsqueeze(-2).expand(*x.shape[:-1], count, count).masked_fill(own, -math.inf).logsumexp(-1)
    return others.movedim(-1, axis)


PRODUCTS: dict[str, ToSteps] = {
    "BoundMul": _mul,
    "BoundDiv": _div,
    "BoundMatMul": _matmul,
    "BoundMax": pairwise(1),
    "BoundMin": pairwise(-1),
    "BoundReduceMax": reduce(1),
    "BoundReduceMin": reduce(-1),
    "BoundMaxPool": max_pool,
    "BoundReduceLogSumExp": _log_sum_exp,
    "BoundSoftmax": _softmax,
}
"""Exact class name of the host's node -> its steps."""
