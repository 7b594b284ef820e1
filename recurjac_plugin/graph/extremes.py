"""Maxima and minima, of two tensors, along axes and over windows, as linear steps and factors.

``max(x, y) = y + relu(x - y)``: one factor in {0, 1} on the difference, which is 1 where x is certainly the larger and
0 where y is. Several values are compared in a tournament of such pairs, so that at every point the weights of the
values add up to 1. A minimum is the same with the signs of the values changed: ``min(x, y) = x - relu(x - y)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from recurjac_plugin.errors import counted
from recurjac_plugin.numerics.intervals import Interval

from .linear_maps import Broadcast, Embedding, LinearMap, Negative, Shape, Transposed, View, nonnegative
from .node import Node
from .operators import Refusal, broadcast_shapes
from .steps import Step, StepBuilder, ToSteps, spread

_ItemBounds = Callable[[Interval], Interval]
"""From the bounds of a node's first input, (b, *input_shape), to those of the items compared, (b, count, *rest)."""


def pairwise(sign: int) -> ToSteps:
    """Max (sign 1) or Min (sign -1) of two inputs, at least one of them perturbed.

    ``max(x, y) = y + relu(x - y)`` and ``min(x, y) = x - relu(x - y)``.
    """

    def to_steps(builder: StepBuilder) -> tuple[Step, ...]:
        if len(builder.node.inputs) != 2:
            raise Refusal(f"it has {counted(len(builder.node.inputs), 'input')}, supported are 2")
        perturbed, shape = builder.node.perturbed, builder.shape
        signed = {i: Broadcast(1 - 2 * i, *broadcast_shapes(builder.node, i)) for i in (0, 1) if perturbed[i]}
        difference = builder.linear(*((builder.source(i), signed[i]) for i in signed))

        def apart(*bounds: Interval) -> Interval:
            of_perturbed = iter(bounds)
            x, y = (next(of_perturbed) if p else builder.constant(i) for i, p in enumerate(perturbed[:2]))
            return _difference(spread(x, shape), spread(y, shape))

        def weight_of_x(*bounds: Interval) -> Interval:
            return _weight(apart(*bounds))

        def at_center(*values: Tensor) -> Tensor:
            return apart(*((value, value) for value in values))[0]

        reads = [builder.read(i) for i in signed]
        weighted = builder.rectified(difference, shape, reads, weight_of_x, at_center, apart)
        sources: list[tuple[str, LinearMap]] = [(weighted, Broadcast(sign, shape, shape))]
        base = 1 if sign > 0 else 0
        if perturbed[base]:
            sources.append((builder.source(base), Broadcast(1, *broadcast_shapes(builder.node, base))))
        return builder.finished(*sources)

    return to_steps


def reduce(sign: int) -> ToSteps:
    """ReduceMax (sign 1) or ReduceMin (sign -1) over axes of a sample."""

    def to_steps(builder: StepBuilder) -> tuple[Step, ...]:
        if any(builder.node.perturbed[1:]):
            raise Refusal("its axes depend on the perturbed input")
        shape = tuple(builder.node.input_shapes[0])
        axes = given_axes(builder.node, len(shape))
        if 0 in axes:
            raise Refusal("it reduces the batch dimension")
        kept = [axis for axis in range(1, len(shape)) if axis not in axes]
        count = math.prod(shape[axis] for axis in axes)
        rest = tuple(shape[axis] for axis in kept)

        def items_first(t: Tensor) -> Tensor:
            return t.permute(0, *axes, *kept).reshape(len(t), count, *rest)

        def item_bounds(interval: Interval) -> Interval:
            return items_first(interval[0]), items_first(interval[1])

        items = builder.linear((builder.source(0), nonnegative(items_first, shape[1:], (count, *rest))))
        best = _tournament(builder, items, (count, *rest), item_bounds, sign)
        return builder.finished((best, View((1, *rest), builder.shape)))

    return to_steps


def given_axes(node: Node, dimensions: int) -> list[int]:
    """The axes that a node reduces, counted from 0; those of a sample where none are given."""
    given = node.constants[1] if len(node.constants) > 1 else node.attributes.get("axis")
    if given is None:
        return list(range(1, dimensions))
    axes = torch.as_tensor(given).flatten().tolist()
    return sorted(int(axis) % dimensions for axis in axes)


def max_pool(builder: StepBuilder) -> tuple[Step, ...]:
    """Two-dimensional max-pooling: the items are the places of a window; padding never wins."""
    a, shape = builder.node.attributes, tuple(builder.node.input_shapes[0][1:])
    if len(shape) != 3:
        raise Refusal("only two-dimensional pooling is supported")
    kernel, stride, padding = (tuple(a[name]) for name in ("kernel_size", "stride", "padding"))
    channels, *places = builder.shape
    if any(
        (size + 2 * p - k) // s + 1 != out
        for size, k, s, p, out in zip(shape[1:], kernel, stride, padding, places, strict=True)
    ):
        raise Refusal("its output has not the size that its kernel, stride and padding give (dilation, ceil mode)")
    count = math.prod(kernel)

    def windows(t: Tensor) -> Tensor:
        flat = functional.unfold(t, kernel, padding=padding, stride=stride)
        return flat.reshape(len(t), channels, count, *places).transpose(1, 2)

    def item_bounds(interval: Interval) -> Interval:
        low, high = windows(interval[0]), windows(interval[1])
        if any(padding):
            outside = windows(torch.ones_like(interval[0])) == 0
            low, high = low.masked_fill(outside, _least(low)), high.masked_fill(outside, _least(low))
        return low, high

    items = builder.linear((builder.source(0), nonnegative(windows, shape, (count, channels, *places))))
    best = _tournament(builder, items, (count, channels, *places), item_bounds, 1)
    return builder.finished((best, View((1, channels, *places), builder.shape)))


def _tournament(builder: StepBuilder, items: str, shape: Shape, item_bounds: _ItemBounds, sign: int) -> str:
    """The largest (sign 1) or smallest (sign -1) of the items along the first dimension of `shape`, (count, *rest).

    Rounds of ``a + relu(b - a)``, the second half against the first.

    Args:
        builder: where the steps are added.
        items: the step that gives the items.
        shape: its shape per sample.
        item_bounds: bounds of the items.
        sign: of what is to win.

    Returns:
        Name of the step that gives the winner, shape (1, *rest).
    """
    bounds, read = _contenders(item_bounds, sign), builder.read(0)
    count, *rest = shape

    def values(value: Tensor) -> Tensor:
        return item_bounds((value, value))[0]

    while count > 1:
        half = (count + 1) // 2
        pairs = count - half
        whole, first = (count, *rest), (pairs, *rest)
        difference = builder.linear((items, _part(half, first, whole)), (items, Negative(_part(0, first, whole))))

        def weight_of_b(interval: Interval, bounds: _ItemBounds = bounds, half: int = half) -> Interval:
            low, high = bounds(interval)
            pairs = low.shape[1] - half
            a, b = (low[:, :pairs], high[:, :pairs]), (low[:, half:], high[:, half:])
            lower, upper = _weight(_difference(b, a))
            return lower, torch.where(b[1] <= _least(low), lower, upper)

        def apart(interval: Interval, bounds: _ItemBounds = bounds, half: int = half) -> Interval:
            low, high = bounds(interval)
            pairs = low.shape[1] - half
            low, high = _difference((low[:, half:], high[:, half:]), (low[:, :pairs], high[:, :pairs]))
            return (low, high) if sign > 0 else (-high, -low)

        def winners(interval: Interval, bounds: _ItemBounds = bounds, half: int = half) -> Interval:
            low, high = (_better(bound, half, 1) for bound in bounds(interval))
            return low, high

        def at_center(value: Tensor, items: Callable[[Tensor], Tensor] = values, half: int = half) -> Tensor:
            compared = items(value)
            return compared[:, half:] - compared[:, : compared.shape[1] - half]

        weighted = builder.rectified(difference, first, (read,), weight_of_b, at_center, apart, sign)
        kept = _part(0, (half, *rest), whole)
        items = builder.linear((items, kept), (weighted, Embedding(1, 0, first, (half, *rest))))

        def better(value: Tensor, items: Callable[[Tensor], Tensor] = values, half: int = half) -> Tensor:
            return _better(items(value), half, sign)

        count, bounds, values = half, winners, better
    return items


def _better(items: Tensor, half: int, sign: int) -> Tensor:
    """The winners of one round, (b, count, *rest) -> (b, half, *rest)."""
    pairs = items.shape[1] - half
    best = torch.maximum if sign > 0 else torch.minimum
    return torch.cat((best(items[:, :pairs], items[:, half:]), items[:, pairs:half]), 1)


def _difference(first: Interval, second: Interval) -> Interval:
    """Bounds of ``a - b``."""
    return first[0] - second[1], first[1] - second[0]


def _weight(difference: Interval) -> Interval:
    """Range of the derivative of ``relu(s)`` by s: 1 where s > 0 everywhere, 0 where s < 0 everywhere."""
    low, high = difference
    return (low > 0).to(low.dtype), (high >= 0).to(high.dtype)


def _contenders(item_bounds: _ItemBounds, sign: int) -> _ItemBounds:
    """Bounds of the items of a maximum (of a minimum with the sign changed), those that cannot win sent far below.

    Between two that cannot win it does not matter which one goes on: it loses later.
    """

    def bounds(interval: Interval) -> Interval:
        low, high = item_bounds(interval)
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
