"""Networks made of others as plain nodes, where the others have some: without the host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.graph.node import Node
from recurjac_plugin.host.read import HostGraph
from recurjac_plugin.networks.onnx import OnnxNetwork
from recurjac_plugin.networks.plain import plain_graph
from recurjac_plugin.networks.several.product import Product

from .equal import Spread
from .joined import Joined

Shape = tuple[int, ...]


def composed_graph(network: OnnxNetwork) -> HostGraph | None:
    """The network as plain nodes at an input of zeros; None if a part of it needs the host.

    Args:
        network: what `load_onnx` returns, or one made of such ones.
    """
    inner = network.network
    if isinstance(inner, Product):
        parts = {id(each): composed_graph(each) for each in inner.networks}
        graphs = [parts[id(each)] for each in inner.networks]
        return None if any(graph is None for graph in graphs) else _side_by_side([g for g in graphs if g is not None])
    if not isinstance(inner, Spread | Joined):
        return plain_graph(network)
    graph = composed_graph(inner.network)
    if graph is None:
        return None
    return _with_inputs(graph) if isinstance(inner, Joined) else _of_fewer_inputs(graph, inner.place)


def _with_inputs(graph: HostGraph) -> HostGraph:
    """The nodes of f (outputs (1, n)), and two more: ``x -> (f(x), x)``."""
    ((source, shape),) = graph.inputs.items()
    flat, output = f"{graph.output_name}/inputs", f"{graph.output_name}/joined"
    sizes = graph.output.shape[1], torch.Size(shape[1:]).numel()
    more = (
        _node(flat, "BoundFlatten", {source: shape}, (1, sizes[1]), lambda x: x.flatten(1)),
        _concatenation(output, {graph.output_name: (1, sizes[0]), flat: (1, sizes[1])}),
    )
    return _at_zeros((*graph.nodes, *more), source, shape, output, graph.output)


def _of_fewer_inputs(graph: HostGraph, place: Tensor) -> HostGraph:
    """The nodes of f behind one that hands every input on to its places: ``z -> f(z[place])``."""
    ((source, shape),) = graph.inputs.items()
    count, z = int(place.max()) + 1, f"{source}/few"

    def spread(x: Tensor) -> Tensor:
        return x[:, place].reshape(-1, *shape[1:])

    first = _node(source, "BoundGather", {z: (1, count)}, shape, spread)
    return _at_zeros((first, *graph.nodes), z, (1, count), graph.output_name, graph.output)


def _side_by_side(graphs: list[HostGraph]) -> HostGraph:
    """The nodes of all networks, each behind one that cuts its inputs out, and one that puts outputs together."""
    source, output, start = "inputs", "outputs", 0
    nodes: list[Node] = []
    outputs: dict[str, Shape] = {}
    shapes = [next(iter(graph.inputs.values())) for graph in graphs]
    total = sum(torch.Size(shape[1:]).numel() for shape in shapes)
    for i, (graph, shape) in enumerate(zip(graphs, shapes)):
        end = start + torch.Size(shape[1:]).numel()
        (own,) = graph.inputs
        nodes.append(_node(f"{i}/{own}", "BoundSlice", {source: (1, total)}, shape, _part(start, end, shape[1:])))
        names = {own, *(node.name for node in graph.nodes)}
        for node in graph.nodes:
            inputs = tuple(f"{i}/{name}" if name in names else name for name in node.inputs)
            nodes.append(replace(node, name=f"{i}/{node.name}", inputs=inputs))
        outputs[f"{i}/{graph.output_name}"] = tuple(graph.output.shape)
        start = end
    nodes.append(_concatenation(output, outputs))
    return _at_zeros(tuple(nodes), source, (1, total), output, graphs[0].output)


def _part(start: int, end: int, shape: Shape) -> Callable[[Tensor], Tensor]:
    return lambda x: x[:, start:end].reshape(-1, *shape)


def _concatenation(name: str, parts: dict[str, Shape]) -> Node:
    """Matrices side by side."""
    width = sum(shape[1] for shape in parts.values())
    return _node(name, "BoundConcat", parts, (1, width), lambda *each: torch.cat(each, 1), {"axis": 1})


def _node(
    name: str,
    kind: str,
    inputs: dict[str, Shape],
    shape: Shape,
    forward: Callable[..., Tensor],
    attributes: dict[str, Any] | None = None,
) -> Node:
    """A node without constants."""
    count = len(inputs)
    names, shapes = tuple(inputs), tuple(inputs.values())
    return Node(name, kind, names, (True,) * count, (None,) * count, shapes, shape, attributes or {}, False, forward)


def _at_zeros(nodes: tuple[Node, ...], source: str, shape: Shape, output: str, like: Tensor) -> HostGraph:
    return HostGraph(nodes, {source: shape}, output, like, {}).at({source: like.new_zeros(shape)})
