"""A network as plain steps: linear maps and uncertain factors, in topological order, from its inputs to its output.

`build_graph` keeps the nodes on paths from the perturbed input to the output and looks each one up by its exact class
name in the tables of activations, linear operators and operators of several inputs. Everything it cannot place is
reported in one error, before any bound is computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from recurjac_plugin.activations.table import ACTIVATIONS, REFUSED
from recurjac_plugin.errors import UnsupportedError

from .fusions import fused
from .linear_maps import Broadcast
from .node import Node
from .operators import OPERATORS, Refusal
from .products import PRODUCTS, expand, multiplies
from .steps import ActivationFactor, FactorStep, LinearStep, Read, Step


@dataclass(frozen=True, eq=False)
class Graph:
    """Steps in topological order.

    Attributes:
        steps: every step reads only `inputs` and steps before it.
        inputs: names of the perturbed inputs.
        output: name of the output, a step or an input.
        shapes: shape per sample of every input and step.
        stands_for: nodes without a step of their own -> the step, or input, with the same derivative.
    """

    steps: tuple[Step, ...]
    inputs: tuple[str, ...]
    output: str
    shapes: Mapping[str, tuple[int, ...]]
    stands_for: Mapping[str, str]

    @cached_property
    def columns(self) -> int:
        """Number of input coordinates, those of all inputs together."""
        return sum(torch.Size(self.shapes[name]).numel() for name in self.inputs)

    @cached_property
    def factors(self) -> tuple[FactorStep, ...]:
        """The steps with uncertain derivatives, in topological order."""
        return tuple(step for step in self.steps if isinstance(step, FactorStep))

    @cached_property
    def position(self) -> Mapping[str, int]:
        """Where a step stands among `steps`, by name; -1 for the inputs, which stand before all of them."""
        return dict.fromkeys(self.inputs, -1) | {step.name: i for i, step in enumerate(self.steps)}

    @cached_property
    def readers(self) -> Mapping[str, int]:
        """How often a step or an input is read by steps, by name; no entry where never."""
        return Counter(
            source
            for step in self.steps
            for source in ((step.source,) if isinstance(step, FactorStep) else (name for name, _ in step.sources))
        )


def build_graph(
    nodes: Sequence[Node],
    inputs: Mapping[str, tuple[int, ...]],
    output_name: str,
) -> Graph:
    """Translate nodes into a graph of steps.

    Args:
        nodes: in topological order.
        inputs: name -> shape, batch dimension included, of the perturbed inputs.
        output_name: name of the output.

    Raises:
        UnsupportedError: nodes on the way from the input to the output have no rule; lists every one of them.
    """
    nodes = fused(nodes)
    on_path = _ancestors(nodes, output_name)
    shapes = {name: tuple(shape[1:]) for name, shape in inputs.items()}
    batch = next(iter(inputs.values()))[0]
    same_as = {name: name for name in inputs}  # nodes whose derivative is the identity stand for the node they read
    steps: list[Step] = []
    offenders: list[str] = []
    for node in nodes:
        if node.name not in on_path or not any(node.perturbed):
            continue
        same_as[node.name] = node.name
        try:
            found = _steps(node, same_as, batch)
        except Refusal as refusal:
            offenders.append(f"`{node.name}` ({node.kind.removeprefix('Bound')}): {refusal}")
            continue
        for step in found:
            shapes[step.name] = step.shape
            if isinstance(step, LinearStep) and len(step.sources) == 1:
                source, linear = step.sources[0]
                if step.name == node.name and isinstance(linear, Broadcast) and linear.is_identity:
                    same_as[node.name] = source
                    continue
            steps.append(step)
    if offenders:
        kinds = {*OPERATORS, *ACTIVATIONS, *PRODUCTS}
        raise UnsupportedError(
            "The network",
            offenders,
            f"Supported are {', '.join(sorted(kind.removeprefix('Bound') for kind in kinds))}; add others with "
            "`register_activation` or `register_operator`.",
        )
    return Graph(tuple(steps), tuple(inputs), same_as[output_name], shapes, same_as)


def _ancestors(nodes: Sequence[Node], output_name: str) -> set[str]:
    """Names of the nodes the output is computed from, itself included."""
    needed = {output_name}
    for node in reversed(nodes):
        if node.name in needed:
            needed.update(name for name, perturbed in zip(node.inputs, node.perturbed, strict=True) if perturbed)
    return needed


def _steps(node: Node, same_as: Mapping[str, str], batch: int) -> tuple[Step, ...]:
    """What a node does, as steps, the last one under its own name."""
    if node.output_shape[:1] != (batch,):
        raise Refusal(
            f"its output has shape {tuple(node.output_shape)}, but every node must keep the batch of {batch} first"
        )
    shape = tuple(node.output_shape[1:])
    activation = ACTIVATIONS.get(node.kind)
    if activation is not None:
        if any(node.perturbed[1:]):
            raise Refusal("its parameters depend on the perturbed input")
        parameters = dict(node.attributes)
        if len(node.constants) > 1 and isinstance(node.constants[1], Tensor):
            parameters["slope"] = node.constants[1]  # PReLU: the only activation with a second input
        reads = (Read(node.inputs[0], shape),)
        return (FactorStep(node.name, shape, same_as[node.inputs[0]], reads, ActivationFactor(activation, parameters)),)
    if node.kind in PRODUCTS and multiplies(node):
        return expand(node, same_as)
    rule = OPERATORS.get(node.kind)
    if rule is None:
        raise Refusal(REFUSED.get(node.kind, "no rule for this operator"))
    sources = tuple(
        (same_as[name], rule(node, position))
        for position, (name, perturbed) in enumerate(zip(node.inputs, node.perturbed, strict=True))
        if perturbed
    )
    return (LinearStep(node.name, shape, sources),)


def refinable(graph: Graph) -> bool:
    """Whether every uncertain derivative of a graph is that of a function with lines here."""
    return len(graph.inputs) == 1 and all(
        isinstance(step.factor, ActivationFactor) and step.factor.activation.linear_pieces for step in graph.factors
    )
