"""What every public function begins with: the host's model and its perturbed inputs, read once and found to fit.

`read` gives a `Problem`, which is all that the package asks of the host until the host's own bounds are wanted: where
the inputs lie, and the network over them as plain nodes (`read.HostGraph`) and as plain steps.

Reading takes as long as bounding a small network, and a search asks for the same graph again and again. So the graph of
a model (nodes, constants, and the steps made of them) is kept for every shape of its inputs, as long as the model is
there; its values are computed anew, node by node. A graph is used again only if nothing that it was read from has
changed: all weights, buffers and constants have the values that they had, number by number, however they were written
to; the nodes are the same, connected in the same way, with the same attributes and in the same modes; and the tables of
operators are. Graphs whose nodes do not give what the host computes, digit by digit, are not kept, nor those of large
networks, where reading is the least of the work, nor any while gradients by the weights are wanted.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.activations.table import ACTIVATIONS
from recurjac_plugin.errors import InputError
from recurjac_plugin.graph.graph import Graph
from recurjac_plugin.graph.operators import OPERATORS
from recurjac_plugin.graph.products import PRODUCTS
from recurjac_plugin.numerics.region import Region, joined

from .find import HOST_FAILURES
from .library import BoundedModule
from .misread import require_decided
from .read import PLAIN, HostGraph, read_graph
from .region import Arguments, converted, read_arguments
from .same_function import require
from .state import preserved

_SHAPES = 16  # graphs of one model
_WEIGHTS = 1 << 24  # numbers in a model whose graphs are kept: they are compared whenever it is read

# What the host writes to its nodes whenever it evaluates them; nothing of it tells what a node computes.
_WRITTEN = {"perturbed", "from_input", "input_shape", "output_shape", "batch_dim", "used", "visited", "bounded"}

_Key = tuple[Any, ...]
_kept: weakref.WeakKeyDictionary[Any, _Kept] = weakref.WeakKeyDictionary()


@dataclass(eq=False)
class _Kept:
    """The graphs of one model.

    Attributes:
        structure: nodes, attributes and tables that they were read from.
        weights: copies of the numbers.
        graphs: by the shapes of the inputs, without values; None where nodes do not give what the host computes. The
            one that was used last stands at the end.
    """

    structure: Any
    weights: list[Tensor]
    graphs: OrderedDict[_Key, HostGraph | None] = field(default_factory=OrderedDict)


@dataclass(frozen=True, eq=False)
class Problem:
    """A model over a batch of regions.

    Attributes:
        model: the host's `BoundedModule`; None for a network that was read without the host.
        arguments: where its inputs lie.
        host_graph: its graph, the values those at the centres of the regions.
    """

    model: Any
    arguments: Arguments
    host_graph: HostGraph

    @cached_property
    def graph(self) -> Graph:
        """The network as plain steps, translated when it is first asked for.

        Raises:
            UnsupportedError: parts of the network have no rule; lists all of them.
        """
        return self.host_graph.steps

    @cached_property
    def function(self) -> Graph:
        """The network as plain steps for bounds of the function alone, which may be piecewise constant.

        Raises:
            UnsupportedError: as for `graph`, for all other parts.
        """
        return self.host_graph.function

    @property
    def jumps(self) -> bool:
        """Whether parts of the network are piecewise constant: its outputs have bounds, and no Jacobian."""
        return self.host_graph.jumps

    @cached_property
    def region(self) -> Region:
        """One region of the coordinates of all perturbed inputs together.

        Raises:
            InputError: several regions that are not all boxes: they have no common norm.
        """
        return joined(self.arguments.regions)

    @cached_property
    def reach(self) -> dict[str, Tensor]:
        """How far each perturbed input can be from its centre, by name, (b, *shape)."""
        regions = zip(self.host_graph.inputs, self.arguments.regions, strict=True)
        return {name: region.reach.reshape(region.center.shape) for name, region in regions}

    def in_float64(self) -> Problem:
        """The same network on the same regions in float64, as constants."""
        values = tuple(
            Region(value.center.detach().double(), value.norm, value.radius.detach().double())
            if isinstance(value, Region)
            else value.detach().to(torch.float64 if value.is_floating_point() else value.dtype)
            for value in self.arguments.values
        )
        arguments = Arguments(values)
        centers = {name: each.center for name, each in zip(self.host_graph.inputs, arguments.regions, strict=True)}
        return Problem(self.model, arguments, self.host_graph.in_float64(centers))

    def shrunk(self, fraction: float) -> Problem:
        """The same over regions shrunk about their centres."""
        return replace(self, arguments=self.arguments.scaled(fraction))


def read(model: Any, x: Any) -> Problem:
    """Read a model and its perturbed inputs, the graph at the centres of the regions.

    Args:
        model: the host's `BoundedModule`; it is left as it was.
        x: a `BoundedTensor`, or a tuple of them and of plain tensors.

    Raises:
        InputError: not the host's objects, or they do not fit together.
        UnsupportedError: weights are perturbed, or the host reads another network.
    """
    if not isinstance(model, BoundedModule):
        raise InputError(
            f"`model` must be auto_LiRPA's `BoundedModule`, got {type(model).__name__}; wrap it as "
            "`BoundedModule(model, example_input)`."
        )
    arguments = read_arguments(x, model)
    graph = _graph_at(model, arguments.values, lambda: read_graph(model, *arguments.for_host()))
    problem = Problem(model, arguments, graph)
    centers = [value.center if isinstance(value, Region) else value for value in arguments.values]
    if not require(model, centers, problem.host_graph.output):
        require_decided(problem.host_graph.nodes)
    return problem


def read_in_float64(model: Any, x: Any) -> Problem:
    """`read`, and everything in float64 from then on, whatever the model's type: what proven bounds start from.

    Regions are the smallest of float64 numbers that contain all points between the ends given.

    Args:
        model: as there.
        x: as there.

    Raises:
        InputError: as there.
        UnsupportedError: as there.
    """
    own = next((parameter.dtype for parameter in getattr(model, "parameters", tuple)()), None)
    problem = read(model, x if own is None else converted(x, own))
    arguments, centers = _in_float64(x, problem.host_graph)
    return Problem(model, arguments, problem.host_graph.in_float64(centers))


def over(graph: HostGraph, x: Any) -> Problem:
    """A network of float64 that was read without the host, over regions; as `read_in_float64` has them.

    Args:
        graph: the network.
        x: its inputs, as there.

    Raises:
        InputError: as there, of the inputs alone.
    """
    arguments, centers = _in_float64(x, graph)
    return Problem(None, arguments, graph.at(centers))


def _in_float64(x: Any, graph: HostGraph) -> tuple[Arguments, dict[str, Tensor]]:
    """Where inputs lie, in float64, and the centres of the regions by the names of the inputs."""
    arguments = read_arguments(converted(x, torch.float64), None).scaled(1 + 2.0**-50)
    return arguments, {name: each.center for name, each in zip(graph.inputs, arguments.regions, strict=True)}


def specification(
    C: Tensor | None,  # shape: (b or 1, k, n_out)
    output: Tensor,  # shape: (b, *output_shape)
) -> Tensor:
    """The matrix C for an output, one for every region; None takes every output by itself.

    Returns:
        Shape (b, k, *output_shape).

    Raises:
        InputError: C has another shape, dtype or device, or contains NaN.
    """
    batch, size = len(output), output[0].numel()
    if C is None:
        C = torch.eye(size, dtype=output.dtype, device=output.device).unsqueeze(0)
    if not isinstance(C, Tensor) or C.dim() < 3 or len(C) not in (1, batch) or C[0, :1].numel() != size:
        came = tuple(C.shape) if isinstance(C, Tensor) else type(C).__name__
        raise InputError(f"`C` must have shape ({batch} or 1, k, {size}) for this model, got {came}.")
    if C.dtype != output.dtype or C.device != output.device:
        raise InputError(
            f"`C` is {C.dtype} on {C.device}, but the model's output is {output.dtype} on {output.device}; "
            "use the same."
        )
    if not bool(C.isfinite().all()):
        raise InputError("`C` contains NaN or infinite values; a specification must be finite.")
    return C.expand(batch, *C.shape[1:]).reshape(batch, C.shape[1], *output.shape[1:])


def _graph_at(model: Any, values: Sequence[Region | Tensor], read: Callable[[], HostGraph]) -> HostGraph:
    """The graph of a model at the centres of its regions: a kept one with new values, or read and kept.

    Args:
        model: the host's `BoundedModule`; it is left as it was.
        values: its arguments.
        read: reads it.

    Raises:
        What `read` raises.
    """
    weights = _weights(model)
    if weights is None:
        return read()
    regions = [value for value in values if isinstance(value, Region)]
    weights += [value for value in values if not isinstance(value, Region)]
    kept, structure = _kept.get(model), _structure(model)
    if kept is None or not (_equal(kept.weights, weights) and _same(kept.structure, structure)):
        kept = _kept[model] = _Kept(structure, [weight.detach().clone() for weight in weights])
    key = (*map(_kind, values), torch.is_inference_mode_enabled())
    if key in kept.graphs:
        kept.graphs.move_to_end(key)
        graph = kept.graphs[key]
        return read() if graph is None else _evaluated(model, graph, regions) or read()
    graph = read()
    template = replace(graph, output=graph.output.new_empty(0), values={})
    again = _evaluated(model, template, regions)
    same = again is not None and _equal([graph.output, *graph.values.values()], [again.output, *again.values.values()])
    kept.graphs[key] = template if same else None
    if len(kept.graphs) > _SHAPES:
        kept.graphs.popitem(last=False)
    return graph if again is None or not same else again


def _kind(value: Region | Tensor) -> _Key:
    """What a graph depends on in one argument, apart from the values of plain ones."""
    at = value.center if isinstance(value, Region) else value
    return isinstance(value, Region), tuple(at.shape), at.dtype, at.device


def _evaluated(model: Any, graph: HostGraph, regions: Sequence[Region]) -> HostGraph | None:
    """A graph with the values at the centres of regions, by the nodes' own functions; None where these need more."""
    centers = {name: region.center for name, region in zip(graph.inputs, regions, strict=True)}
    with preserved(model):
        try:
            return graph.evaluated(centers)
        except HOST_FAILURES:
            return None


def _weights(model: Any) -> list[Tensor] | None:
    """All numbers that a model is made of; None where its graphs are not to be kept."""
    tensors: dict[int, Tensor] = {}
    for tensor in (*model.parameters(), *model.buffers(), *_constants(model)):
        tensors[id(tensor)] = tensor
    found = [*tensors.values()]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in found):
        return None
    return found if sum(tensor.numel() for tensor in found) <= _WEIGHTS else None


def _constants(model: Any) -> Iterator[Tensor]:
    """What the roots of the host's graph hold, but for its inputs."""
    for name, node in model._modules.items():
        if name in model.input_name or getattr(node, "inputs", None):
            continue
        for attribute in ("param", "buffer", "value"):
            held = getattr(node, attribute, None)
            if isinstance(held, Tensor):
                yield held


def _structure(model: Any) -> Any:
    """Everything else that a graph is read from, as plain data that is compared by its values."""
    nodes = [
        (name, type(node), node.training, [id(source) for source in getattr(node, "inputs", ())], _attributes(node))
        for name, node in model._modules.items()
    ]
    tables = [dict(table) for table in (ACTIVATIONS, OPERATORS, PRODUCTS)]
    options = {key: value for key, value in model.bound_opts.items() if isinstance(value, PLAIN)}
    return nodes, tables, options, model.final_name, model.training


def _attributes(node: Any) -> Mapping[Any, Any]:
    """The plain attributes of a node, and those of the ONNX graph."""
    own, written = vars(node), getattr(node, "attr", None)
    every = [own, written] if isinstance(written, dict) else [own]
    return {
        (i, key): value.copy() if isinstance(value, list) else value
        for i, attributes in enumerate(every)
        for key, value in attributes.items()
        if isinstance(value, PLAIN) and (i or key not in _WRITTEN)
    }


def _equal(first: Sequence[Any], second: Sequence[Any]) -> bool:
    """Whether all tensors are of the same types, on the same devices, and have the same elements, none of them NaN."""
    return len(first) == len(second) and all(_identical(a, b) for a, b in zip(first, second))


def _identical(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):  # 0.3 has shapes as they are
        return type(a) is type(b) and bool(a == b)
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)


def _same(first: Any, second: Any) -> bool:
    """Whether plain data is equal; what cannot be compared is not."""
    try:
        return bool(first == second)
    except (RuntimeError, ValueError, TypeError):  # tensors in lists
        return False
