"""What the package knows of one node of the host's graph: plain data, no host object.

The host module fills these in; everything below reads only them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


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
