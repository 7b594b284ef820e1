"""Reading the host's computational graph, without leaving a trace in it."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.errors import InputError, UnsupportedError
from recurjac_plugin.graph.node import Node

from .library import HOST_FAILURES, VERSION
from .state import preserved


@dataclass(frozen=True, eq=False)
class HostGraph:
    """The host's graph over its perturbed inputs, as plain nodes.

    Attributes:
        nodes: the nodes that depend on a perturbed input, in topological order.
        inputs: name -> shape, batch dimension included, of the perturbed inputs, in the order of the arguments.
        output_name: name of the output.
        output: value of the output at the given inputs, shape (b, *output_shape).
        values: value of every node in `nodes` and of the inputs.
    """

    nodes: tuple[Node, ...]
    inputs: Mapping[str, tuple[int, ...]]
    output_name: str
    output: Tensor
    values: Mapping[str, Tensor]

    def specified(self, rows: Tensor) -> Tensor:
        """``C f(x)`` at the given input: rows (b, k, *output_shape) -> (b, k)."""
        return (rows.flatten(2) @ self.output.flatten(1).unsqueeze(2)).squeeze(2)


def read_graph(model: Any, *x: Any) -> HostGraph:
    """Read the graph of a `BoundedModule`, its shapes and constants taken at the given arguments.

    Raises:
        UnsupportedError: parameters are perturbed, or the host cannot evaluate the model on a perturbed input.
        InputError: the output does not depend on one of the perturbed arguments, or the weights contain NaN or
            infinite values.
    """
    with preserved(model):
        try:
            output = model.forward(*x)
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
        if output.dim() < 2:
            raise InputError(
                f"The model's output has shape {tuple(output.shape)}, expected (b, n_out): keep a dimension for "
                "the outputs."
            )
        final = model.final_node()
        order = topological(final)
        position = dict(zip(model.input_name, model.input_index))
        roots = [node for node in order if not node.inputs and node.perturbed]
        weights = [f"`{n.name}` ({type(n).__name__.removeprefix('Bound')})" for n in roots if n.name not in position]
        if weights:
            raise UnsupportedError("The model", weights, "Perturbed weights are not supported, only perturbed inputs.")
        roots.sort(key=lambda node: position[node.name])
        reached = {position[node.name] for node in roots}
        unused = [i for i, value in enumerate(x) if getattr(value, "ptb", None) is not None and i not in reached]
        if not final.perturbed or unused:
            which = f" (input {', '.join(map(str, unused))})" if len(x) > 1 else ""
            raise InputError(
                f"The model's output does not depend on its perturbed input{which}: there is nothing to bound."
            )
        values = {node.name: model.get_forward_value(node) for node in order if not node.perturbed}
        _require_finite(values)
        perturbed = {node.name for node in order if node.perturbed}
        nodes = tuple(plain_node(node, values, perturbed) for node in order if node.perturbed and node.inputs)
        at_input = {node.name: model.get_forward_value(node) for node in order if node.perturbed}
        inputs = {node.name: tuple(x[position[node.name]].shape) for node in roots}
        return HostGraph(nodes, inputs, final.name, output, at_input)


def _takes(model: Any, x: tuple[Any, ...]) -> bool:
    """Whether the model can be evaluated at the same numbers without a perturbation."""
    try:
        model.forward(*(value.detach().as_subclass(Tensor) for value in x))
    except HOST_FAILURES:
        return False
    return True


def topological(final: Any) -> list[Any]:
    """All nodes the final one is computed from, itself included, each after its inputs."""
    order, done, stack = [], set(), [(final, False)]
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


def _require_finite(values: dict[str, Any]) -> None:
    bad = [
        name
        for name, value in values.items()
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all())
    ]
    if bad:
        listed = ", ".join(f"`{name}`" for name in bad)
        raise InputError(f"The weights or constants {listed} contain NaN or infinite values; bounds need finite ones.")


def plain_node(
    node: Any, constants: Mapping[str, Any], uncertain: Set[str], values: Mapping[str, Any] | None = None
) -> Node:
    """One node as plain data; its attributes as the ONNX graph has them are under the key `onnx`.

    Args:
        node: of the host.
        constants: values of its inputs that are constant, by name.
        uncertain: names of nodes to count as perturbed.
        values: values by name to take the shapes from; None for those the host keeps from its last evaluation.
    """
    simple = (bool, int, float, str, tuple, list, torch.Size, torch.dtype, type(None))
    attributes = {key: value for key, value in vars(node).items() if isinstance(value, simple)}

    def shape(of: Any) -> tuple[int, ...]:
        known = of.output_shape if values is None else values[of.name].shape
        return tuple(known) if known is not None else ()

    return Node(
        name=node.name,
        kind=type(node).__name__,
        inputs=tuple(source.name for source in node.inputs),
        perturbed=tuple(source.name in uncertain for source in node.inputs),
        constants=tuple(constants.get(source.name) for source in node.inputs),
        input_shapes=tuple(shape(source) for source in node.inputs),
        output_shape=shape(node),
        attributes=attributes | {"onnx": dict(getattr(node, "attr", None) or {})},
        training=node.training,
        forward=node.forward,
    )
