"""The part of the host's graph between two of its nodes, x and y, as plain nodes: what dy/dx is made of.

The host marks the nodes that are uncertain over the region of the model's inputs. For a derivative inside the model
that is not enough: one must know which nodes depend on x. So the nodes before y fall into three kinds:

* those that depend on x: the nodes of the sub-graph;
* those that are uncertain, but do not depend on x (another input of the model, or what is computed from it): inputs of
  the sub-graph besides x, because a product may multiply by one of them;
* those that are certain: constants.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.errors import InputError, UnsupportedError
from recurjac_plugin.host.library import BoundedTensor
from recurjac_plugin.host.read import HostGraph, plain_nodes, topological
from recurjac_plugin.host.region import read_region
from recurjac_plugin.numerics.region import Region

# Their values depend on shapes alone, whatever they read; the host does not mark them as perturbed either.
_CONSTANT = {"BoundShape", "BoundConstantOfShape"}


def label(node: Any) -> str:
    """How messages name a node of the host."""
    return f"`{node.name}` ({type(node).__name__.removeprefix('Bound')})"


def between(order: Sequence[Any], source: Any) -> list[Any]:
    """The nodes that depend on `source` and lead to the last node of `order`, both included.

    Args:
        order: all that the last node is computed from, in topological order, see `topological`.
        source: a node of the host.

    Returns:
        In topological order; empty if the last node does not depend on `source`.
    """
    dependent = {source.name}
    for node in order:
        if type(node).__name__ not in _CONSTANT and any(other.name in dependent for other in node.inputs):
            dependent.add(node.name)
    if order[-1].name not in dependent:
        return []
    return [node for node in order if node.name in dependent]


def evaluate(nodes: Iterable[Any], values: dict[str, Any]) -> None:
    """Evaluate nodes of the host, in topological order, and enter their values by name; known ones are left alone."""
    for node in nodes:
        if node.name not in values:
            value = node.forward(*(values[source.name] for source in node.inputs))
            if isinstance(value, (torch.Size, tuple)):  # as the host keeps shapes
                value = torch.tensor(value, device=node.device)
            values[node.name] = value


@dataclass(frozen=True, eq=False)
class Subgraph:
    """The graph between two nodes, over the regions of the host's present inputs.

    Attributes:
        graph: the nodes that depend on x. Its inputs are x, first, and the uncertain nodes that do not depend on x; its
            values are those at the centres of the regions.
        ancestors: every uncertain node that y or x is computed from, from the model's inputs on.
        regions: where the model's perturbed inputs lie, by the names of their nodes.
        certain: names of the nodes in `graph.values` whose values are the same all over the regions.
    """

    graph: HostGraph
    ancestors: HostGraph
    regions: Mapping[str, Region]
    certain: frozenset[str]

    @property
    def reach(self) -> dict[str, Tensor]:
        """How far the model's perturbed inputs can be from their centres, by name, (b, *shape)."""
        return {name: region.reach.reshape(region.center.shape) for name, region in self.regions.items()}


def read_between(output: Any, source: Any, *, marked: bool = True) -> Subgraph:
    """Read the sub-graph from `source` to `output`, the host's inputs and marks being set.

    Args:
        output: y, a node of the host, of shape (b, *y_shape).
        source: x, another, of shape (b, *x_shape).
        marked: whether the host's marks say what is uncertain; if not, that is only what depends on x, as before any
            region is known.

    Raises:
        InputError: y does not depend on x, their types or devices differ, or the region of an input is not readable.
        UnsupportedError: weights are perturbed.
    """
    order = topological(output)
    path = between(order, source)
    if not path:  # the message below needs what x is computed from, too
        order = topological(output, source)
    perturbed = {node.name for node in order if node.perturbed} if marked else set()
    regions, values = _centers([node for node in order if node.name in perturbed])
    evaluate(order, values)
    y = values[output.name]
    _require_derivative(output, y, source, values[source.name], path)
    dependent = {node.name for node in path}
    uncertain = perturbed | dependent
    inside = [node for node in path if node is not source]
    others = {
        other.name: other
        for node in inside
        for other in node.inputs
        if other.name not in dependent and other.name in perturbed
    }
    inputs = {name: tuple(values[name].shape) for name in (source.name, *others)}
    constants = {name: value for name, value in values.items() if name not in uncertain}
    graph = HostGraph(plain_nodes(inside, constants, uncertain, values), inputs, output.name, y, values)
    certain = {name: value for name, value in values.items() if name not in perturbed}
    before = [node for node in order if node.name in perturbed and node.inputs]
    roots = {name: tuple(region.center.shape) for name, region in regions.items()}
    ancestors = HostGraph(plain_nodes(before, certain, perturbed, values), roots, output.name, y, values)
    return Subgraph(graph, ancestors, regions, frozenset(certain))


def _require_derivative(output: Any, y: Tensor, source: Any, x: Tensor, path: Sequence[Any]) -> None:
    """Refuse two nodes whose derivative does not exist: without a path, or of other types or devices."""
    if not path:
        raise InputError(
            f"{label(output)} does not depend on {label(source)}: a Jacobian is of a tensor with respect to one "
            "that it is computed from."
        )
    if (x.dtype, x.device) != (y.dtype, y.device) or not x.is_floating_point():
        raise InputError(
            f"{label(output)} is {y.dtype} on {y.device}, but {label(source)} is {x.dtype} on {x.device}; a Jacobian "
            "needs floating-point numbers of one type on one device."
        )


def _centers(nodes: Iterable[Any]) -> tuple[dict[str, Region], dict[str, Any]]:
    """The regions of the perturbed inputs among nodes, and the values of these at the centres."""
    roots = [node for node in nodes if not node.inputs and node.perturbed]
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
