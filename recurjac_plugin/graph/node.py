"""What the package knows of one node of the host's graph: plain data, no host object.

The host module fills these in; everything below reads only them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.errors import UnsupportedError


@dataclass(frozen=True, eq=False)
class Node:
    """One node of a computational graph, evaluated at the centre of a region.

    Attributes:
        name: unique name in the graph.
        kind: exact class name of the host's node, e.g. ``"BoundLinear"``.
        inputs: names of the nodes it reads.
        perturbed: for each input, whether it depends on the perturbed input of the network.
        constants: for each input, its value if it is not perturbed, else None.
        input_shapes: shapes of the inputs, batch dimension included.
        output_shape: shape of the output, batch dimension included.
        attributes: the node's plain attributes (numbers, strings, tuples), as the host names them.
        training: whether the node is in training mode (dropout, batch normalisation).
        forward: the node's function, one tensor per input.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    perturbed: tuple[bool, ...]
    constants: tuple[Tensor | None, ...]
    input_shapes: tuple[tuple[int, ...], ...]
    output_shape: tuple[int, ...]
    attributes: Mapping[str, Any]
    training: bool
    forward: Callable[..., Tensor]


_SAME_PLACE = {"BoundAdd", "BoundSub", "BoundMul", "BoundDiv", "BoundMax", "BoundMin", "BoundExpand", "BoundWhere"}
"""Operators that align their operands from the right."""


def with_axes(nodes: Sequence[Node], batch: int) -> tuple[Node, ...]:
    """Nodes of one number per sample, (b,), as nodes of vectors of length 1, (b, 1), functions and constants included.

    Args:
        nodes: in topological order.
        batch: number of samples b.

    Raises:
        UnsupportedError: an operator would align such numbers with an axis other than the batch.
    """
    low = {node.name for node in nodes if node.output_shape == (batch,)}
    if not low:
        return tuple(nodes)
    wrong = [
        f"`{node.name}` ({node.kind.removeprefix('Bound')}): it aligns one number per sample, of shape ({batch},), "
        f"with the last axis of {node.output_shape}"
        for node in nodes
        if batch != 1 and _misaligns(node, low)
    ]
    if wrong:
        raise UnsupportedError("The network", wrong, "Keep a dimension: `x[:, 0:1]` in place of `x[:, 0]`.")
    return tuple(_with_axes(node, low, batch) for node in nodes)


def _misaligns(node: Node, low: set[str]) -> bool:
    if len(node.output_shape) < 2 or low.isdisjoint(node.inputs):
        return False
    return node.kind in _SAME_PLACE or (node.kind == "BoundMatMul")


def _with_axes(node: Node, low: set[str], batch: int) -> Node:
    gives, takes = node.name in low, [name in low for name in node.inputs]
    if not gives and not any(takes):
        return node

    def shape(value: tuple[int, ...], raised: bool) -> tuple[int, ...]:
        return (*value, 1) if raised else value

    aligned = node.kind in _SAME_PLACE and gives
    per_sample = [
        aligned and isinstance(value, Tensor) and tuple(value.shape) == (batch,) != (1,) for value in node.constants
    ]
    lowered = [taken or added for taken, added in zip(takes, per_sample, strict=True)]

    def forward(*values: Any) -> Any:
        result = node.forward(*(v.squeeze(1) if down else v for v, down in zip(values, lowered)))
        return result.unsqueeze(1) if gives else result

    attributes, constants = dict(node.attributes), list(node.constants)
    if any(takes):  # the only axis that they have is the batch, however it is counted
        attributes |= {key: 0 for key in ("axis", "dim") if attributes.get(key) is not None}
        if node.kind.startswith("BoundReduce"):
            constants[1:] = [torch.zeros_like(value) if isinstance(value, Tensor) else value for value in constants[1:]]
    constants = [value.unsqueeze(1) if up and value is not None else value for value, up in zip(constants, per_sample)]
    return replace(
        node,
        constants=tuple(constants),
        input_shapes=tuple(shape(s, taken) for s, taken in zip(node.input_shapes, takes, strict=True)),
        output_shape=shape(node.output_shape, gives),
        attributes=attributes,
        forward=forward,
    )
