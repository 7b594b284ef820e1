r"""One traversal each way over the steps of a graph; what is carried is an argument.

Whatever is computed on a graph travels along its edges: rows of derivatives from the output back to the input, columns
from the input on, intervals of either, sums of absolute terms, or the mere question what depends on what. With
``T_lm`` what the step l does with a value on the way between itself and a step m that it reads,

.. math::
    v_m = \sum_{l \text{ reads } m} T_{lm}(v_l) \quad \text{(backward)}, \qquad
    v_l = T_l(v_m, v_{m'}, \dots) \quad \text{(forward; } m, m', \dots \text{ are what } l \text{ reads)}.

`backward` and `forward` know the order of the steps, where several paths meet, and when a value is no longer needed. A
domain knows the values, and supplies two functions, one for factor steps and one for linear steps. Those for plain
tensors are here:

==================================  ========================================================================
domain                              linear step with the matrix W
==================================  ========================================================================
`pull`, `push`                      ``W^T v``, ``W v``: rows, columns
`pull_absolute`, `push_absolute`    ``|W|^T v``, ``|W| v``: sums of absolute terms, radii of intervals
`pull_pattern`, `push_pattern`      1 where such a sum is not 0, else 0: which neurons depend on which
==================================  ========================================================================

In a part of a graph (see `seen_from`) some steps read what is not there: nothing arrives from it, and nothing is passed
on to it.

Source:
    The idea of one traversal for every domain is jax_verify's (google-deepmind/jax_verify, `graph_traversal`).
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import repeat
from typing import Any, TypeVar

import torch
from torch import Tensor

from .graph import Graph
from .steps import FactorStep, LinearStep, Step

Value = TypeVar("Value")
Arrived = Iterable[tuple[int, Value]]
"""Values that a linear step reads, each with the position of its source. They are to be taken one after the other: a
value that nobody else reads is dropped as soon as the next one is asked for."""


def backward(
    graph: Graph,
    start: str,
    value: Value,
    factor: Callable[[FactorStep, Value], Value | None],
    linear: Callable[[LinearStep, Value], Iterable[Value]],
    add: Callable[[Value, Value], Value] = operator.add,
    keep: Collection[str] | None = None,
) -> dict[str, Value]:
    """Carry a value from a step back to the inputs; a value is dropped once its step has passed it on.

    Args:
        graph: the network.
        start: where the value is given, a step or an input.
        value: what is given there.
        factor: what a factor step makes of the value at its output for its source; None to pass nothing on.
        linear: what a linear step makes of it, one value for each of its sources, in their order.
        add: the sum of two values that arrive at the same step.
        keep: where the values that arrive are wanted; None for the inputs.

    Returns:
        Name -> what arrived there; no entry where nothing did.
    """
    keep = graph.inputs if keep is None else keep
    pending, kept, position = {start: value}, {}, graph.position
    del value

    def pass_on(step: Step, value: Value) -> None:
        if isinstance(step, FactorStep):
            passed = factor(step, value)
            parts: Iterable[tuple[str, Value]] = () if passed is None else ((step.source, passed),)
        else:
            parts = zip((source for source, _ in step.sources), linear(step, value))
        for source, part in parts:
            if source in position:
                pending[source] = add(pending[source], part) if source in pending else part

    for step in reversed(graph.steps[: position.get(start, -1) + 1]):
        if step.name in pending:
            if step.name in keep:
                kept[step.name] = pending[step.name]
            pass_on(step, pending.pop(step.name))
    return kept | {name: pending[name] for name in graph.inputs if name in pending and name in keep}


def forward(
    graph: Graph,
    starts: Mapping[str, Value],
    factor: Callable[[FactorStep, Value], Value | None],
    linear: Callable[[LinearStep, Arrived[Value]], Value],
    keep: Collection[str] | None = None,
) -> dict[str, Value]:
    """Carry values from the inputs on; a value is dropped once the last step that reads it has done so.

    Args:
        graph: the network.
        starts: what is given at the inputs.
        factor: what a factor step makes of the value of its source; None to pass nothing on.
        linear: what a linear step makes of the values of its sources.
        keep: where the values are wanted; None for the output. A linear step that is neither wanted nor read is left
            out.

    Returns:
        Name -> the value there; no entry where nothing arrived.
    """
    keep = (graph.output,) if keep is None else keep
    values, unread = dict(starts), Counter(graph.readers)
    del starts

    def taken(name: str) -> Value:
        unread[name] -= 1
        return values[name] if unread[name] or name in keep else values.pop(name)

    for step in graph.steps:
        if isinstance(step, FactorStep):
            if step.source in values:
                passed = factor(step, taken(step.source))
                if passed is not None:
                    values[step.name] = passed
                del passed
        elif unread[step.name] or step.name in keep:
            there = [(i, source) for i, (source, _) in enumerate(step.sources) if source in values]
            if there:
                values[step.name] = linear(step, ((i, taken(source)) for i, source in there))
    return {name: value for name, value in values.items() if name in keep}


def at_inputs(
    graph: Graph,
    arrived: Mapping[str, Tensor],
    like: Tensor,  # shape: (b or 1, *lead)
) -> Tensor:
    """What a backward sweep of tensors brought to the inputs, side by side and 0 where nothing came.

    Args:
        graph: the network.
        arrived: by the names of the inputs, (b or 1, *lead, *shape) each.
        like: a tensor of the leading axes, dtype and device of what was carried.

    Returns:
        Shape (b or 1, *lead, columns).
    """
    axes = like.dim()
    parts = [
        arrived[name].flatten(axes)
        if name in arrived
        else like.new_zeros(*like.shape, torch.Size(graph.shapes[name]).numel())
        for name in graph.inputs
    ]
    batch = max(map(len, parts))  # what passed nothing that differs by region is still the same for all
    return torch.cat([part.expand(batch, *part.shape[1:]) for part in parts], axes)


# What steps do with tensors


def times(multipliers: Mapping[str, Tensor]) -> Callable[[FactorStep, Tensor], Tensor]:
    """Factor steps that multiply, element by element, by ``multipliers[name]``; both ways are the same."""
    return lambda step, value: value * multipliers[step.name]


def stop(step: FactorStep, value: Any) -> None:
    """Factor steps that nothing passes."""


def pull(
    step: LinearStep,
    rows: Tensor,  # shape: (*lead, *step.shape)
) -> Iterator[Tensor]:
    """``W^T v`` of every map W of a step, each of shape (*lead, *input_shape)."""
    return _pulled(step, rows, absolute=False)


def pull_absolute(
    step: LinearStep,
    rows: Tensor,  # shape: (*lead, *step.shape)
) -> Iterator[Tensor]:
    """``|W|^T v`` of every map W of a step, each of shape (*lead, *input_shape)."""
    return _pulled(step, rows, absolute=True)


def pull_pattern(
    step: LinearStep,
    rows: Tensor,  # shape: (*lead, *step.shape)
) -> Iterator[Tensor]:
    """Positive where a positive element of the rows depends on an element of a source, else 0; what arrives is >= 0."""
    return pull_absolute(step, rows.sign())


def _pulled(step: LinearStep, rows: Tensor, absolute: bool) -> Iterator[Tensor]:
    lead = rows.shape[: rows.dim() - len(step.shape)]
    flat = rows.flatten(0, len(lead) - 1)
    for _, linear in step.sources:
        pulled = linear.pull_absolute(flat) if absolute else linear.pull(flat)
        yield pulled.reshape(*lead, *pulled.shape[1:])


def push(
    step: LinearStep,
    arrived: Arrived[Tensor],  # shape of each: (*lead, *input_shape)
) -> Tensor:
    """``sum_i W_i v_i`` over the sources of a step that values arrived from, of shape (*lead, *step.shape)."""
    return _pushed(step, arrived, absolute=False)


def push_absolute(
    step: LinearStep,
    arrived: Arrived[Tensor],  # shape of each: (*lead, *input_shape)
) -> Tensor:
    """``sum_i |W_i| v_i`` over the sources of a step that values arrived from, of shape (*lead, *step.shape)."""
    return _pushed(step, arrived, absolute=True)


def push_pattern(
    step: LinearStep,
    arrived: Arrived[Tensor],  # shape of each: (*lead, *input_shape)
) -> Tensor:
    """1 where an element of a step depends on a positive element of what arrives, else 0: (*lead, *step.shape)."""
    return push_absolute(step, arrived).sign()


def _pushed(step: LinearStep, arrived: Arrived[Tensor], absolute: bool) -> Tensor:
    total = None
    for i, value in arrived:
        linear = step.sources[i][1]
        lead = value.shape[: value.dim() - len(linear.input_shape)]
        flat = value.flatten(0, len(lead) - 1)
        pushed = linear.push_absolute(flat) if absolute else linear.push(flat)
        pushed = pushed.reshape(*lead, *step.shape)
        total = pushed if total is None else total + pushed
    assert total is not None  # a step that nothing arrives at is left out
    return total


# What depends on what


def ancestors(graph: Graph, name: str, passes: Callable[[FactorStep], bool]) -> set[str]:
    """A step and all that it is computed from, looking through a factor step only where ``passes(step)``."""

    def factor(step: FactorStep, value: bool) -> bool | None:
        return True if passes(step) else None

    return {*backward(graph, name, True, factor, lambda step, value: repeat(True), operator.or_, graph.position)}


def descendants(graph: Graph, names: Iterable[str]) -> set[str]:
    """The given inputs and everything that depends on one of them."""
    return {*forward(graph, dict.fromkeys(names, True), lambda step, value: True, lambda *_: True, graph.position)}


def seen_from(graph: Graph, name: str) -> Graph:
    """The part that depends on one of the inputs: what derivatives with respect to it alone are made of."""
    there = descendants(graph, (name,))
    steps = tuple(
        step
        if isinstance(step, FactorStep)
        else replace(step, sources=tuple(source for source in step.sources if source[0] in there))
        for step in graph.steps
        if step.name in there
    )
    return replace(graph, steps=steps, inputs=(name,))
