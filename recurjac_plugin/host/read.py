"""The host's computational graph as plain nodes, without leaving a trace in it.

The host traces a network once, and marks and evaluates its nodes anew for every input. Here it is evaluated at the
centres of the regions; every node that depends on a perturbed input becomes a `graph.node.Node`, with its shapes, the
values of its constant inputs and its attributes, and the model is put back as it was. Networks that the host has read
as other ones are refused (`misread`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.activations.jumps import JUMPS
from recurjac_plugin.errors import InputError, UnsupportedError
from recurjac_plugin.graph.graph import Graph, build_graph
from recurjac_plugin.graph.node import Node, with_axes

from .library import HOST_FAILURES, VERSION
from .misread import require_read_right
from .state import preserved

PLAIN = (bool, int, float, str, tuple, list, torch.Size, torch.dtype, type(None))
"""Types of the attributes of a node that are plain data."""


@dataclass(frozen=True, eq=False)
class HostGraph:
    """The host's graph over its perturbed inputs, or one that stands for it, as plain nodes.

    Attributes:
        nodes: the nodes that depend on a perturbed input, in topological order.
        inputs: name -> shape, batch dimension included, of the perturbed inputs, in the order of the arguments.
        output_name: name of the output.
        output: value of the output at the given inputs, shape (b, *output_shape).
        values: value of every node in `nodes` and of the inputs, shape (b, *shape).
        like: a graph of the same nodes, whose steps are those of this one; None if there is none.
    """

    nodes: tuple[Node, ...]
    inputs: Mapping[str, tuple[int, ...]]
    output_name: str
    output: Tensor
    values: Mapping[str, Tensor]
    like: HostGraph | None = None

    @cached_property
    def steps(self) -> Graph:
        """The same network as plain steps, as derivatives see it.

        Raises:
            UnsupportedError: nodes on the way to the output have no rule; lists every one of them.
        """
        return build_graph(self.nodes, self.inputs, self.output_name) if self.like is None else self.like.steps

    @property
    def jumps(self) -> bool:
        """Whether a node is piecewise constant."""
        return any(node.kind in JUMPS for node in self.nodes)

    @cached_property
    def function(self) -> Graph:
        """The same for bounds of the function alone: piecewise constant parts are steps as well.

        Raises:
            UnsupportedError: as for `steps`, for all other nodes.
        """
        if self.like is not None:
            return self.like.function
        if not self.jumps:
            return self.steps
        return build_graph(self.nodes, self.inputs, self.output_name, jumps=True)

    def in_float64(self, centers: Mapping[str, Tensor]) -> HostGraph:
        """The same network in float64, evaluated at centres of its inputs by the nodes' own functions.

        Casts to coarser types inside of it are left out: it stands for the network in real arithmetic.

        Args:
            centers: of the inputs, by name, float64, (b, *shape) each.
        """
        nodes = []
        for node in self.nodes:
            constants = tuple(
                c.detach().double() if isinstance(c, Tensor) and c.is_floating_point() else c for c in node.constants
            )
            forward = _first if node.kind == "BoundCast" else node.forward
            nodes.append(replace(node, constants=constants, forward=forward))
        return replace(self, nodes=tuple(nodes), like=None).at(centers)

    @torch.no_grad()
    def at(self, centers: Mapping[str, Tensor]) -> HostGraph:
        """`evaluated`, without gradients."""
        return self.evaluated(centers)

    def evaluated(self, centers: Mapping[str, Tensor]) -> HostGraph:
        """The same network evaluated elsewhere by the nodes' own functions, in the type of its constants.

        Args:
            centers: the inputs by name, (b, *shape) each.
        """
        values = dict(centers)
        for node in self.nodes:
            arguments = zip(node.inputs, node.perturbed, node.constants)
            values[node.name] = node.forward(*(values[name] if known else c for name, known, c in arguments))
        return replace(
            self, output=values[self.output_name], values=values, like=self if self.like is None else self.like
        )

    def specified(
        self,
        rows: Tensor,  # shape: (b, k, *output_shape)
    ) -> Tensor:
        """``C f(x)`` at the given input, C given by its rows: (b, k)."""
        return (rows.flatten(2) @ self.output.flatten(1).unsqueeze(2)).squeeze(2)


def _first(x: Tensor, *rest: Any) -> Tensor:
    return x


def read_graph(model: Any, *x: Any) -> HostGraph:
    """Read the graph of a `BoundedModule`, its shapes and constants taken at the given arguments.

    Args:
        model: the host's `BoundedModule`; it is left as it was.
        *x: its arguments, `BoundedTensor` where they are perturbed, shape (b, *input_shape) each.

    Raises:
        UnsupportedError: parameters are perturbed, the host cannot evaluate the model on a perturbed input, or it has
            read another network.
        InputError: the output does not depend on one of the perturbed arguments, or the weights contain NaN or
            infinite values.
    """
    with preserved(model):
        output = _output(model, x)
        final = model.final_node()
        order = topological(final)
        names = _perturbed_inputs(model, final, order, x)
        value_of = model.get_forward_value
        constants = {node.name: value_of(node) for node in order if not node.perturbed}
        _require_finite(constants)
        perturbed = {node.name: value_of(node) for node in order if node.perturbed}
        nodes = plain_nodes((node for node in order if node.perturbed and node.inputs), constants, perturbed.keys())
        require_read_right(nodes)
        inputs = {name: tuple(x[position].shape) for name, position in names.items()}
        batch = next(iter(inputs.values()))[0]
        perturbed = {name: _with_an_axis(value, batch) for name, value in perturbed.items()}
        return HostGraph(with_axes(nodes, batch), inputs, final.name, _with_an_axis(output, batch), perturbed)


def _with_an_axis(value: Tensor, batch: int) -> Tensor:
    """One number per sample, (b,), as a vector of length 1, (b, 1)."""
    return value.unsqueeze(1) if tuple(value.shape) == (batch,) else value


def _output(model: Any, x: Sequence[Any]) -> Tensor:
    """The model's output at its arguments, (b, *output_shape)."""
    try:
        output: Tensor = model.forward(*x)
    except HOST_FAILURES as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if _takes(model, x):
            raise UnsupportedError(
                "The model",
                [f"auto_LiRPA {VERSION} cannot evaluate it on a perturbed input ({reason})"],
                "Where an extreme is taken of the input itself, put a linear layer in front of it.",
            ) from error
        shapes = " and ".join(str(tuple(value.shape)) for value in x)
        raise InputError(
            f"The model does not take an input of shape {shapes} ({reason}); give `x` "
            "the shape the model was built with, apart from the batch."
        ) from error
    batch = next(len(value) for value in x if getattr(value, "ptb", None) is not None)
    if output.dim() < 1 or len(output) != batch:
        raise InputError(
            f"The model's output has shape {tuple(output.shape)}, expected (b, n_out) with b = {batch}, as its input: "
            "keep the batch first."
        )
    if not output.numel():
        raise InputError(f"The model's output has shape {tuple(output.shape)}, no element: there is nothing to bound.")
    return output


def _takes(model: Any, x: Sequence[Any]) -> bool:
    """Whether the model can be evaluated at the same numbers without a perturbation."""
    try:
        model.forward(*(value.detach().as_subclass(Tensor) for value in x))
    except HOST_FAILURES:
        return False
    return True


def _perturbed_inputs(model: Any, final: Any, order: Sequence[Any], x: Sequence[Any]) -> dict[str, int]:
    """The perturbed inputs that the output depends on: name -> position among the arguments, in their order."""
    # 0.7.1 names perturbed weights among the inputs, without an index.
    position = {name: index for name, index in zip(model.input_name, model.input_index) if index is not None}
    roots = [node for node in order if not node.inputs and node.perturbed]
    weights = [f"`{n.name}` ({type(n).__name__.removeprefix('Bound')})" for n in roots if n.name not in position]
    if weights:
        raise UnsupportedError("The model", weights, "Perturbed weights are not supported, only perturbed inputs.")
    reached = sorted(position[node.name] for node in roots)
    unused = [i for i, value in enumerate(x) if getattr(value, "ptb", None) is not None and i not in reached]
    if not final.perturbed or unused:
        which = f" (input {', '.join(map(str, unused))})" if len(x) > 1 else ""
        raise InputError(
            f"The model's output does not depend on its perturbed input{which}: there is nothing to bound."
        )
    return {node.name: position[node.name] for node in sorted(roots, key=lambda node: position[node.name])}


def topological(*finals: Any) -> list[Any]:
    """All nodes of the host that the given ones are computed from, these included, each after its inputs."""
    order, done, stack = [], set(), [(final, False) for final in reversed(finals)]
    while stack:
        node, ready = stack.pop()
        if node.name in done:
            continue
        if ready:
            done.add(node.name)
            order.append(node)
            continue
        stack.append((node, True))
        stack.extend((source, False) for source in node.inputs if source.name not in done)
    return order


def _require_finite(values: Mapping[str, Any]) -> None:
    bad = [
        name
        for name, value in values.items()
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all())
    ]
    if bad:
        listed = ", ".join(f"`{name}`" for name in bad)
        raise InputError(f"The weights or constants {listed} contain NaN or infinite values; bounds need finite ones.")


def plain_nodes(
    nodes: Iterable[Any],
    constants: Mapping[str, Any],
    uncertain: Set[str],
    values: Mapping[str, Any] | None = None,
) -> tuple[Node, ...]:
    """Nodes of the host as plain data; attributes as the ONNX graph has them are under the key `onnx`.

    Args:
        nodes: of the host.
        constants: values of those of their inputs that are constant, by name.
        uncertain: names of the nodes to count as perturbed.
        values: values by name to take the shapes from; None for those the host keeps from its last evaluation.
    """

    def shape(node: Any) -> tuple[int, ...]:
        known = node.output_shape if values is None else values[node.name].shape
        return tuple(known) if known is not None else ()

    return tuple(
        Node(
            name=node.name,
            kind=type(node).__name__,
            inputs=tuple(source.name for source in node.inputs),
            perturbed=tuple(source.name in uncertain for source in node.inputs),
            constants=tuple(constants.get(source.name) for source in node.inputs),
            input_shapes=tuple(map(shape, node.inputs)),
            output_shape=shape(node),
            attributes={key: value for key, value in vars(node).items() if isinstance(value, PLAIN)}
            | {"onnx": dict(getattr(node, "attr", None) or {})},
            training=node.training,
            forward=node.forward,
        )
        for node in nodes
    )
