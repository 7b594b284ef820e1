"""Operators that multiply or choose between perturbed inputs, taken apart into linear maps and uncertain factors.

Each row writes the differential of an operator with factors whose ranges follow from the host's bounds:

==============  ========================================================================================
product         ``d(x y) = y dx + x dy``, each factor ranging over the other's bounds
quotient        ``d(x / y) = dx / y - (x / y^2) dy``, where y stays away from 0
matrix product  the products ``x_ik y_kj`` one by one, then the sum over k
maximum         ``max(x, y) = y + relu(x - y)``: one factor in {0, 1} on the difference, which is 1 where x is certainly
                the larger; several values by a tournament of such pairs, so that the weights always add up to 1
softmax         ``ds = s * (dx - <s, dx>)`` with s ranging over its own bounds
==============  ========================================================================================

They hold at every point of the region, so bounds built on the ranges do, whatever the inputs share. A new operator is
one function and one row of `PRODUCTS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from recurjac_plugin.errors import UnsupportedError
from recurjac_plugin.numerics.intervals import Interval

from .linear_maps import Broadcast, Embedding, LinearMap, Negative, Shape, Transposed, View, aligned, nonnegative
from .node import Node
from .operators import OPERATORS, Refusal, broadcast_shapes, per_sample
from .steps import Factor, FactorStep, LinearStep, Read, Step

Range = Callable[..., Interval]


@dataclass(frozen=True, eq=False)
class _Factor(Factor):
    """A factor by the function that computes its range."""

    range: Range
    kinked: bool = False

    def derivative_range(self, *intervals: Interval) -> Interval:
        return self.range(*intervals)


class StepBuilder:
    """The steps of one node, as they are added.

    Args:
        node: what is taken apart.
        sources: the steps that stand for its perturbed inputs, by the names of these.
    """

    def __init__(self, node: Node, sources: Mapping[str, str]) -> None:
        self.node = node
        self.steps: list[Step] = []
        self._sources = sources
        self.shape: Shape = tuple(node.output_shape[1:])

    def source(self, position: int) -> str:
        """The step that stands for an input."""
        return self._sources[self.node.inputs[position]]

    def read(self, position: int) -> Read:
        """The bounds of an input."""
        return Read(self.node.inputs[position], tuple(self.node.input_shapes[position][1:]))

    def linear(self, *sources: tuple[str, LinearMap]) -> str:
        """Add a linear step; nothing for the identity."""
        (source, first), *others = sources
        if not others and isinstance(first, Broadcast) and first.is_identity:
            return source
        step = LinearStep(self._name(), first.output_shape, sources)
        self.steps.append(step)
        return step.name

    def factor(self, source: str, shape: Shape, reads: Sequence[Read], of: Range, kinked: bool = False) -> str:
        """Add a factor step."""
        step = FactorStep(self._name(), shape, source, tuple(reads), _Factor(of, kinked))
        self.steps.append(step)
        return step.name

    def finished(self, *sources: tuple[str, LinearMap]) -> tuple[Step, ...]:
        """All steps, with a last one under the node's own name."""
        return (*self.steps, LinearStep(self.node.name, self.shape, sources))

    def _name(self) -> str:
        return f"{self.node.name}:{len(self.steps)}"


ToSteps = Callable[[StepBuilder], tuple[Step, ...]]


def multiplies(node: Node) -> bool:
    """Whether a node belongs here: products are linear in a single perturbed factor, quotients in their dividend."""
    linear = node.kind in OPERATORS and sum(node.perturbed) == 1
    if node.kind == "BoundMul":
        linear = linear and not any(value is not None and per_sample(value, node) for value in node.constants)
    if node.kind == "BoundDiv":
        linear = linear and not node.perturbed[1]
    return node.kind in PRODUCTS and not linear


def expand(node: Node, sources: Mapping[str, str]) -> tuple[Step, ...]:
    """The steps of a node with a row in `PRODUCTS`.

    Args:
        node: the node.
        sources: the steps that stand for its perturbed inputs, by the names of these.

    Raises:
        Refusal: the rule does not cover this use of the operator.
    """
    return PRODUCTS[node.kind](StepBuilder(node, sources))


def _spread(interval: Interval, shape: Shape) -> Interval:
    """Bounds broadcast to the shape of a step."""
    lower, upper = (aligned(bound, shape).expand(-1, *shape) for bound in interval)
    return lower, upper


def _identity(shape: Shape) -> Broadcast:
    return Broadcast(1, shape, shape)


def _mul(e: StepBuilder) -> tuple[Step, ...]:
    """Product of two perturbed tensors, or with a constant that differs from sample to sample."""
    parts = []
    for position in (0, 1):
        if not e.node.perturbed[position]:
            continue
        spread = e.linear((e.source(position), Broadcast(1, *broadcast_shapes(e.node, position))))
        reads = (e.read(1 - position),) if e.node.perturbed[1 - position] else ()

        def of(*other: Interval, position: int = position) -> Interval:
            return _spread(other[0] if other else _constant(e, 1 - position), e.shape)

        parts.append(e.factor(spread, e.shape, reads, of))
    return e.finished(*((part, _identity(e.shape)) for part in parts))


def _div(e: StepBuilder) -> tuple[Step, ...]:
    """Quotient by a perturbed divisor; the dividend may be a constant."""

    def checked(divisor: Interval) -> Interval:
        lower, upper = _spread(divisor, e.shape)
        if bool(((lower <= 0) & (upper >= 0)).any()):
            raise UnsupportedError(
                "The network",
                [f"`{e.node.name}` (Div): the bounds of its divisor contain 0 on this region"],
                "Use a smaller region, or tighter pre-activation bounds.",
            )
        return lower, upper

    def of_dividend(divisor: Interval) -> Interval:
        lower, upper = checked(divisor)
        return 1 / upper, 1 / lower

    def of_divisor(divisor: Interval, *dividend: Interval) -> Interval:
        # -x / y^2 is linear in x and monotone in y on either side of 0: its extremes are at corners.
        ends = _spread(dividend[0] if dividend else _constant(e, 0), e.shape)
        corners = torch.stack([-x / y.square() for y in checked(divisor) for x in ends])
        return corners.amin(0), corners.amax(0)

    sources = []
    if e.node.perturbed[0]:
        spread = e.linear((e.source(0), Broadcast(1, *broadcast_shapes(e.node, 0))))
        sources.append(e.factor(spread, e.shape, (e.read(1),), of_dividend))
    spread = e.linear((e.source(1), Broadcast(1, *broadcast_shapes(e.node, 1))))
    reads = (e.read(1), e.read(0)) if e.node.perturbed[0] else (e.read(1),)
    sources.append(e.factor(spread, e.shape, reads, of_divisor))
    return e.finished(*((source, _identity(e.shape)) for source in sources))


def _matmul(e: StepBuilder) -> tuple[Step, ...]:
    left, right = (tuple(shape[1:]) for shape in e.node.input_shapes[:2])
    if len(left) < 2 or len(left) != len(right) or left[:-2] != right[:-2]:
        raise Refusal(f"it multiplies perturbed tensors of shapes {left} and {right} per sample, expected matrices")
    whole = (*left, right[-1])  # (..., i, k, j)
    views = ((*left, 1), (*right[:-2], 1, *right[-2:]))
    parts = []
    for position, own in enumerate(views):
        other = views[1 - position]
        viewed = e.linear((e.source(position), View((left, right)[position], own)))
        spread = e.linear((viewed, Broadcast(1, own, whole)))

        def of(bounds: Interval, other: Shape = other) -> Interval:
            return _spread((bounds[0].reshape(-1, *other), bounds[1].reshape(-1, *other)), whole)

        parts.append(e.factor(spread, whole, (e.read(1 - position),), of))
    total = nonnegative(lambda t: t.sum(-2), whole, e.shape)
    return e.finished(*((part, total) for part in parts))


def _choice(larger: Interval, smaller: Interval) -> Interval:
    """Range of the derivative of ``relu(a - b)`` by ``a - b``: 1 where a > b everywhere, 0 where a < b everywhere."""
    low, high = larger[0] - smaller[1], larger[1] - smaller[0]
    return (low > 0).to(low.dtype), (high >= 0).to(high.dtype)


def _pairwise(sign: int) -> ToSteps:
    """Max (sign 1) or Min (sign -1) of two inputs, at least one of them perturbed.

    ``max(x, y) = y + relu(x - y)`` and ``min(x, y) = x - relu(x - y)``.
    """

    def rule(e: StepBuilder) -> tuple[Step, ...]:
        if len(e.node.inputs) != 2:
            raise Refusal(f"it has {len(e.node.inputs)} inputs, supported are 2")
        perturbed = e.node.perturbed
        spread = {i: Broadcast(1 - 2 * i, *broadcast_shapes(e.node, i)) for i in (0, 1) if perturbed[i]}
        difference = e.linear(*((e.source(i), spread[i]) for i in spread))

        def of(*bounds: Interval) -> Interval:
            given = iter(bounds)
            x, y = (next(given) if p else _constant(e, i) for i, p in enumerate(perturbed[:2]))
            return _choice(_spread(x, e.shape), _spread(y, e.shape))

        chosen = e.factor(difference, e.shape, [e.read(i) for i in spread], of, kinked=True)
        sources: list[tuple[str, LinearMap]] = [(chosen, Broadcast(sign, e.shape, e.shape))]
        base = 1 if sign > 0 else 0
        if perturbed[base]:
            sources.append((e.source(base), Broadcast(1, *broadcast_shapes(e.node, base))))
        return e.finished(*sources)

    return rule


def _constant(e: StepBuilder, position: int) -> Interval:
    value = e.node.constants[position]
    assert value is not None
    value = value if value.dim() == len(e.node.output_shape) else value.unsqueeze(0)
    return value, value


def _tournament(e: StepBuilder, items: str, count: int, shape: Shape, of: Range, sign: int) -> str:
    """The largest (sign 1) or smallest (sign -1) of `count` items along the first dimension, shape (count, *rest).

    Rounds of ``a + relu(b - a)``, the second half against the first: at every point the weights of the items add up to
    1. `of` gives the bounds of the items from the node's first input's, shape (b, count, *rest).
    """
    bounds, read = _contenders(of, sign), e.read(0)
    while count > 1:
        half = (count + 1) // 2
        pairs, rest = count - half, shape[1:]
        whole, first = (count, *rest), (pairs, *rest)
        difference = e.linear((items, _part(half, first, whole)), (items, Negative(_part(0, first, whole))))

        def chosen(interval: Interval, bounds: Range = bounds, half: int = half, pairs: int = pairs) -> Interval:
            low, high = bounds(interval)
            a, b = (low[:, :pairs], high[:, :pairs]), (low[:, half:], high[:, half:])
            lower, upper = _choice(b, a)
            return lower, torch.where(b[1] <= _least(low), lower, upper)

        def winners(interval: Interval, bounds: Range = bounds, half: int = half, pairs: int = pairs) -> Interval:
            low, high = (bound.clone() for bound in bounds(interval))
            for bound in (low, high):
                bound[:, :pairs] = torch.maximum(bound[:, :pairs], bound[:, half:])
            return low[:, :half], high[:, :half]

        factor = e.factor(difference, first, (read,), chosen, kinked=True)
        items = e.linear((items, _part(0, (half, *rest), whole)), (factor, Embedding(1, 0, first, (half, *rest))))
        count, bounds = half, winners
    return items


def _contenders(of: Range, sign: int) -> Range:
    """Bounds of the items of a maximum (of a minimum with the sign changed), those that cannot win sent far below.

    Between two that cannot win it does not matter which one goes on: it loses later.
    """

    def bounds(interval: Interval) -> Interval:
        low, high = of(interval)
        if sign < 0:
            low, high = -high, -low
        loses = high < low.amax(1, keepdim=True)
        return low.masked_fill(loses, _least(low)), high.masked_fill(loses, _least(low))

    return bounds


def _least(like: Tensor) -> float:
    """A number that no value comes near, finite so that differences are."""
    return -torch.finfo(like.dtype).max / 4


def _part(offset: int, part: Shape, whole: Shape) -> LinearMap:
    """The items from an offset on, as many as fit into `part`."""
    return Transposed(Embedding(1, offset, part, whole))


def _reduce(sign: int) -> ToSteps:
    """ReduceMax (sign 1) or ReduceMin (sign -1) over axes of a sample."""

    def rule(e: StepBuilder) -> tuple[Step, ...]:
        if any(e.node.perturbed[1:]):
            raise Refusal("its axes depend on the perturbed input")
        shape = tuple(e.node.input_shapes[0])
        axes = _axes(e.node, len(shape))
        if 0 in axes:
            raise Refusal("it reduces the batch dimension")
        kept = [axis for axis in range(1, len(shape)) if axis not in axes]
        count = math.prod(shape[axis] for axis in axes)
        rest = tuple(shape[axis] for axis in kept)

        def first(t: Tensor) -> Tensor:
            return t.permute(0, *axes, *kept).reshape(len(t), count, *rest)

        items = e.linear((e.source(0), nonnegative(first, shape[1:], (count, *rest))))
        best = _tournament(e, items, count, (count, *rest), lambda x: (first(x[0]), first(x[1])), sign)
        return e.finished((best, View((1, *rest), e.shape)))

    return rule


def _axes(node: Node, dimensions: int) -> list[int]:
    given = node.constants[1] if len(node.constants) > 1 else node.attributes.get("axis")
    if given is None:
        return list(range(1, dimensions))
    axes = torch.as_tensor(given).flatten().tolist()
    return sorted(int(axis) % dimensions for axis in axes)


def _max_pool(e: StepBuilder) -> tuple[Step, ...]:
    a, shape = e.node.attributes, tuple(e.node.input_shapes[0][1:])
    if len(shape) != 3:
        raise Refusal("only two-dimensional pooling is supported")
    kernel, stride, padding = (tuple(a[name]) for name in ("kernel_size", "stride", "padding"))
    channels, *places = e.shape
    if any(
        (size + 2 * p - k) // s + 1 != out
        for size, k, s, p, out in zip(shape[1:], kernel, stride, padding, places, strict=True)
    ):
        raise Refusal("its output has not the size that its kernel, stride and padding give (dilation, ceil mode)")
    count = math.prod(kernel)

    def windows(t: Tensor) -> Tensor:
        flat = functional.unfold(t, kernel, padding=padding, stride=stride)
        return flat.reshape(len(t), channels, count, *places).transpose(1, 2)

    def bounds(interval: Interval) -> Interval:
        low, high = windows(interval[0]), windows(interval[1])
        if any(padding):
            outside = windows(torch.ones_like(interval[0])) == 0
            low, high = low.masked_fill(outside, _least(low)), high.masked_fill(outside, _least(low))
        return low, high

    items = e.linear((e.source(0), nonnegative(windows, shape, (count, channels, *places))))
    best = _tournament(e, items, count, (count, channels, *places), bounds, 1)
    return e.finished((best, View((1, channels, *places), e.shape)))


def _softmax(e: StepBuilder) -> tuple[Step, ...]:
    axis = e.node.attributes["axis"] % len(e.node.output_shape)
    if axis == 0:
        raise Refusal("it normalises over the batch dimension")
    shape = e.shape
    reduced = (*shape[: axis - 1], 1, *shape[axis:])

    def of(interval: Interval) -> Interval:
        return softmax_range(*interval, axis)

    x = e.source(0)
    weighted = e.factor(x, shape, (e.read(0),), of)
    mean = e.linear((weighted, nonnegative(lambda t: t.sum(axis, keepdim=True), shape, reduced)))
    centred = e.linear((x, _identity(shape)), (mean, Broadcast(-1, reduced, shape)))
    return e.finished((e.factor(centred, shape, (e.read(0),), of), _identity(shape)))


def softmax_range(low: Tensor, high: Tensor, axis: int) -> Interval:
    """Exact range of a softmax over boxes ``[low, high]`` of any shape.

    ``s_i = 1 / (1 + sum_{j != i} exp(x_j - x_i))`` is smallest where x_i is low and the others are high.
    """
    low, high = low.movedim(axis, -1), high.movedim(axis, -1)
    lower, upper = (torch.sigmoid(own - _others(far)) for own, far in ((low, high), (high, low)))
    return lower.movedim(-1, axis), upper.movedim(-1, axis)


def _others(x: Tensor) -> Tensor:
    """``log sum_{j != i} exp(x_j)`` for every i of the last dimension."""
    count = x.shape[-1]
    own = torch.eye(count, dtype=torch.bool, device=x.device)
    return x.unsqueeze(-2).expand(*x.shape[:-1], count, count).masked_fill(own, -math.inf).logsumexp(-1)


PRODUCTS: dict[str, ToSteps] = {
    "BoundMul": _mul,
    "BoundDiv": _div,
    "BoundMatMul": _matmul,
    "BoundMax": _pairwise(1),
    "BoundMin": _pairwise(-1),
    "BoundReduceMax": _reduce(1),
    "BoundReduceMin": _reduce(-1),
    "BoundMaxPool": _max_pool,
    "BoundSoftmax": _softmax,
}
"""Exact class name of the host's node -> its steps."""
