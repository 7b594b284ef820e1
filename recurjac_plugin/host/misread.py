"""Networks that the host reads as others: what it computes is not what the user's network computes.

Each row of `MISREAD` names an operator of which the host overlooks an attribute, or which it takes for a part of
another operator. Bounds of what it reads would hold, for the wrong function; such networks are refused when they are
read. Most models are compared with their modules besides (`same_function`); a graph alone does not show everything.
(Operators that it reads rightly but bounds wrongly are in `preactivations.defects`.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from recurjac_plugin.errors import UnsupportedError
from recurjac_plugin.graph.node import Node

from .library import VERSION


def _pool(node: Node, kinds: Mapping[str, str]) -> str | None:
    written = node.attributes["onnx"]
    kernel, stride = written["kernel_shape"], written.get("strides", [1, 1])
    pads = written.get("pads", [0, 0, 0, 0])
    if any(step != 1 for step in written.get("dilations", ())):
        return "it is dilated, which the host overlooks"
    rests = [
        (size + pads[i] + pads[i + len(kernel)] - k) % s
        for i, (size, k, s) in enumerate(zip(node.input_shapes[0][2:], kernel, stride))
    ]
    if written.get("ceil_mode") and any(rests):
        return "it rounds its size up (ceil mode), which the host overlooks"
    if node.kind == "BoundAveragePool" and any(pads) and not written.get("count_include_pad", 0):
        return "its averages leave the padding out, but the host counts it"
    return None


def _padding(node: Node, kinds: Mapping[str, str]) -> str | None:
    mode = node.attributes["onnx"].get("mode", "constant")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    return None if mode == "constant" else f"its mode is {mode!r}, but the host pads with a constant"


def _leaky(node: Node, kinds: Mapping[str, str]) -> str | None:
    slope = node.attributes["onnx"].get("alpha", 0.01)
    if slope >= 0 or float(node.forward(torch.tensor([-1.0]))) > 0:
        return None
    return f"its negative slope of {slope:g} counts as 0 on the host; `register` puts it right"


MISREAD: dict[str, Callable[[Node, Mapping[str, str]], str | None]] = {
    "BoundMaxPool": _pool,
    "BoundAveragePool": _pool,
    "BoundPad": _padding,
    "BoundLeakyRelu": _leaky,
}
"""Exact class name of the host's node -> ``(node, kinds of all nodes by name) -> what the host computes otherwise than
the network does``, or None."""

UNDECIDED = {
    "BoundAveragePool": "its graph does not say whether it divides by a number of its own (`divisor_override`)"
}
"""Exact class name of the host's node -> what of the network is not to be seen in its attributes."""


def require_read_right(nodes: Sequence[Node]) -> None:
    """Refuse a graph that is not the network's.

    Args:
        nodes: its nodes, in topological order.

    Raises:
        UnsupportedError: lists every node that the host takes for another.
    """
    kinds = {node.name: node.kind for node in nodes}
    offenders = [
        f"`{node.name}` ({node.kind.removeprefix('Bound')}): {reason}"
        for node in nodes
        if node.kind in MISREAD and (reason := MISREAD[node.kind](node, kinds)) is not None
    ]
    if offenders:
        raise UnsupportedError(
            "The network",
            offenders,
            f"auto_LiRPA {VERSION} reads another network there; write it with other operators.",
        )


def require_decided(nodes: Sequence[Node]) -> None:
    """Refuse a graph that may not be the network's; for models of which only the graph is known.

    Args:
        nodes: its nodes, in topological order.

    Raises:
        UnsupportedError: lists every node that may be another operator of the network.
    """
    offenders = [
        f"`{node.name}` ({node.kind.removeprefix('Bound')}): {UNDECIDED[node.kind]}"
        for node in nodes
        if node.kind in UNDECIDED
    ]
    if offenders:
        raise UnsupportedError(
            "The model",
            offenders,
            "Hand over the module that it was made of with `reference=`, or make the model after "
            "`import recurjac_plugin`, which compares them.",
        )
