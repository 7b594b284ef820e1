"""A network as plain steps: linear maps and activations, in topological order, from its input to its output.

`build_graph` keeps the nodes on paths from the perturbed input to the output and looks each one up by its exact class
name in the operator and activation tables. Everything it cannot place is reported in one error, before any bound is
computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .activations import ACTIVATIONS, REFUSED, Activation
from .errors import UnsupportedError
from .fusions import fused
from .linear_maps import Broadcast, LinearMap
from .node import Node
from .operators import OPERATORS, Refusal


@dataclass(frozen=True, eq=False)
class LinearStep:
    """output = sum over the sources of map(source), plus a constant that no derivative sees."""

    name: str
    sources: tuple[tuple[str, LinearMap], ...]


@dataclass(frozen=True, eq=False)
class ActivationStep:
    """output = activation(source), element-wise.

    Attributes:
        name: the step's name.
        source: the step it reads.
        preactivation: the host's name of the node it reads, under which the host keeps its bounds.
        activation: the function.
        parameters: its attributes and constant inputs.
    """

    name: str
    source: str
    preactivation: str
    activation: Activation
    parameters: Mapping[str, Any]


Step = LinearStep | ActivationStep


@dataclass(frozen=True, eq=False)
class Graph:
    """Steps in topological order.

    Attributes:
        steps: every step reads only `input` and steps before it.
        input: name of the perturbed input.
        output: name of the output, a step or the input itself.
        shapes: shape per sample of the input and of every step.
    """

    steps: tuple[Step, ...]
    input: str
    output: str
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def activations(self) -> tuple[ActivationStep, ...]:
        """The activation steps, in topological order."""
        return tuple(step for step in self.steps if isinstance(step, ActivationStep))


def build_graph(
    nodes: Sequence[Node],
    input_name: str,
    output_name: str,
    input_shape: tuple[int, ...],  # batch dimension included
) -> Graph:
    """Translate nodes in topological order into a graph of steps.

    Raises:
        UnsupportedError: nodes on the way from the input to the output have no rule; lists every one of them.
    """
    nodes = fused(nodes)
    on_path = _ancestors(nodes, output_name)
    shapes = {input_name: tuple(input_shape[1:])}
    same_as = {input_name: input_name}  # nodes whose derivative is the identity stand for the node they read
    steps: list[Step] = []
    offenders: list[str] = []
    for node in nodes:
        if node.name not in on_path or not any(node.perturbed):
            continue
        try:
            step = _step(node, same_as, batch=input_shape[0])
        except Refusal as refusal:
            offenders.append(f"`{node.name}` ({node.kind.removeprefix('Bound')}): {refusal}")
            same_as[node.name] = node.name
            continue
        shapes[node.name] = tuple(node.output_shape[1:])
        same_as[node.name] = node.name
        if isinstance(step, LinearStep) and len(step.sources) == 1:
            source, linear = step.sources[0]
            if isinstance(linear, Broadcast) and linear.is_identity:
                same_as[node.name] = source
                continue
        steps.append(step)
    if offenders:
        raise UnsupportedError(
            "The network",
            offenders,
            "Supported are "
            + ", ".join(sorted(kind.removeprefix("Bound") for kind in (*OPERATORS, *ACTIVATIONS)))
            + "; add others with `register_activation` or `register_operator`.",
        )
    return Graph(tuple(steps), input_name, same_as.get(output_name, output_name), shapes)


def _ancestors(nodes: Sequence[Node], output_name: str) -> set[str]:
    """Names of the nodes the output is computed from, itself included."""
    needed = {output_name}
    for node in reversed(nodes):
        if node.name in needed:
            needed.update(name for name, perturbed in zip(node.inputs, node.perturbed, strict=True) if perturbed)
    return needed


def _step(node: Node, same_as: Mapping[str, str], batch: int) -> Step:
    if node.output_shape[:1] != (batch,):
        raise Refusal(
            f"its output has shape {tuple(node.output_shape)}, but every node must keep the batch of {batch} first"
        )
    activation = ACTIVATIONS.get(node.kind)
    if activation is not None:
        if any(node.perturbed[1:]):
            raise Refusal("its parameters depend on the perturbed input")
        parameters = dict(node.attributes)
        if len(node.constants) > 1 and isinstance(node.constants[1], Tensor):
            parameters["slope"] = node.constants[1]  # PReLU: the only activation with a second input
        return ActivationStep(node.name, same_as[node.inputs[0]], node.inputs[0], activation, parameters)
    rule = OPERATORS.get(node.kind)
    if rule is None:
        raise Refusal(REFUSED.get(node.kind, "no rule for this operator"))
    return LinearStep(
        node.name,
        tuple(
            (same_as[name], rule(node, position))
            for position, (name, perturbed) in enumerate(zip(node.inputs, node.perturbed, strict=True))
            if perturbed
        ),
    )
