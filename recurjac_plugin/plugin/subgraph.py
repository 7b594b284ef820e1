"""The part of a host's graph between two of its nodes, as plain nodes, for derivatives of one by the other.

The host's own marks say which nodes are uncertain over the region of the model's inputs; a derivative inside the model
also needs to know which nodes depend on the tensor it is taken by. A node that is uncertain but does not depend on that
tensor (another input of the model, or what is computed from it) is an input of the sub-graph, too: a factor that a
product multiplies by, for instance, has a range.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.errors import InputError, UnsupportedError
from recurjac_plugin.host.library import BoundedTensor
from recurjac_plugin.host.read import HostGraph, plain_node, topological
from recurjac_plugin.host.region import read_region
from recurjac_plugin.numerics.region import Region

# Their values depend on shapes alone, whatever they read; the host does not mark them as perturbed either.
_CONSTANT = {"BoundShape", "BoundConstantOfShape"}


def label(node: Any) -> str:
    """How messages name a node of the host."""
    return f"`{node.name}` ({type(node).__name__.removeprefix('Bound')})"


def between(output: Any, source: Any) -> list[Any]:
    """The nodes that depend on `source` and that `output` is computed from, both included; empty if it does not depend.

    In topological order.
    """
    order = topological(output)
    depend = {source.name}
    for node in order:
        if type(node).__name__ not in _CONSTANT and any(other.name in depend for other in node.inputs):
            depend.add(node.name)
    if output.name not in depend:
        return []
    return [node for node in order if node.name in depend]


def evaluate(nodes: Iterable[Any], values: dict[str, Any]) -> None:
    """Evaluate nodes of the host in topological order, from and into `values` by name, those in it left alone."""
    for node in nodes:
        if node.name not in values:
            value = node.forward(*(values[source.name] for source in node.inputs))
            if isinstance(value, (torch.Size, tuple)):  # as the host keeps shapes
                value = torch.tensor(value, device=node.device)
            values[node.name] = value


@dataclass(frozen=True, eq=False)
class Subgraph:
    """The graph between two nodes over the host's present inputs.

    Attributes:
        graph: the nodes that depend on the source; its inputs are the source, first, and uncertain nodes that do not
            depend on it; values at the centres of the regions.
        ancestors: every uncertain node that the output or the source is computed from, from the model's inputs on.
        regions: where the model's perturbed inputs lie, by the names of their nodes.
        certain: names of nodes in `graph.values` whose values are certain over the region.
    """

    graph: HostGraph
    ancestors: HostGraph
    regions: Mapping[str, Region]
    certain: frozenset[str]


def read_between(output: Any, source: Any, *, marked: bool = True) -> Subgraph:
    """Read the sub-graph from `source` to `output`, the host's inputs and marks being set.

    Args:
        output: y, a node of the host.
        source: x, another.
        marked: whether the host's marks say what is uncertain; if not, that is only what depends on the source, as
            before any region is known.

    Raises:
        InputError: the output does not depend on the source, their types or devices differ, the region of an input is
            not readable.
        UnsupportedError: weights are perturbed.
    """
    path = between(output, source)
    order = topological(output)
    order += [node for node in topological(source) if node.name not in {other.name for other in order}]
    perturbed = {node.name for node in order if node.perturbed} if marked else set()
    regions, values = _centers([node for node in order if node.name in perturbed])
    evaluate(order, values)
    if not path:
        raise InputError(
            f"{label(output)} does not depend on {label(source)}: a Jacobian is of a tensor with respect to one "
            "that it is computed from."
        )
    x, y = values[source.name], values[output.name]
    if (x.dtype, x.device) != (y.dtype, y.device) or not x.is_floating_point():
        raise InputError(
            f"{label(output)} is {y.dtype} on {y.device}, but {label(source)} is {x.dtype} on {x.device}; a Jacobian "
            "needs floating-point numbers of one type on one device."
        )
    depend = {node.name for node in path}
    uncertain = perturbed | depend
    frontier = {
        other.name: other
        for node in path
        if node is not source
        for other in node.inputs
        if other.name not in depend and other.name in perturbed
    }
    inputs = {node.name: tuple(values[node.name].shape) for node in (source, *frontier.values())}
    constants = {name: value for name, value in values.items() if name not in uncertain}
    nodes = tuple(plain_node(node, constants, uncertain, values) for node in path if node is not source)
    graph = HostGraph(nodes, inputs, output.name, y, values)
    certain = {name: value for name, value in values.items() if name not in perturbed}
    ancestors = tuple(
        plain_node(node, certain, perturbed, values) for node in order if node.name in perturbed and node.inputs
    )
    roots = {name: tuple(region.center.shape) for name, region in regions.items()}
    return Subgraph(graph, HostGraph(ancestors, roots, output.name, y, values), regions, frozenset(certain))


def _centers(order: list[Any]) -> tuple[dict[str, Region], dict[str, Any]]:
    """The regions of the perturbed inputs among nodes, and the values of these at the centres."""
    roots = [node for node in order if not node.inputs and node.perturbed]
    weights = [label(node) for node in roots if type(node).__name__ != "BoundInput"]
    if weights:
        raise UnsupportedError("The model", weights, "Perturbed weights are not supported, only perturbed inputs.")
    regions = {}
    values: dict[str, Any] = {}
    for node in roots:
        # A model without any perturbed input counts as perturbed in all of them, at single points.
        if isinstance(node.value, BoundedTensor) and getattr(node.value, "ptb", None) is not None:
            regions[node.name] = read_region(node.value)
            values[node.name] = regions[node.name].center
        elif isinstance(node.value, BoundedTensor):
            values[node.name] = node.value.as_subclass(Tensor)
    return regions, values
