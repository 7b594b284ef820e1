"""A network as plain steps: linear maps and uncertain factors, in topological order, from its inputs to its output.

The differential of the network is that of its steps, one after the other,

    dz_n = sum over the sources m of W_nm dz_m      for a linear step n,
    dz_n = d_n * dz_m                               for a factor step n that reads m,

with exact matrices W and factors d that are known only to a range over a region (`steps`).

`build_graph` keeps the nodes on paths from the perturbed input to the output and looks each one up by its exact class
name in the tables of activations, linear operators and operators of several inputs. Everything it cannot place is
reported in one error, before any bound is computed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from recurjac_plugin.activations.jumps import JUMPS
from recurjac_plugin.activations.table import ACTIVATIONS, REFUSED
from recurjac_plugin.errors import UnsupportedError

from .factors.jumps import JumpFactor
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
    def jumps(self) -> bool:
        """Whether a step is piecewise constant: then it stands for a function, and its derivatives for none."""
        return bool(self.jumping)

    @cached_property
    def jumping(self) -> frozenset[str]:
        """The steps and inputs that piecewise constant steps read."""
        return frozenset(step.source for step in self.factors if isinstance(step.factor, JumpFactor))

    def reads_source(self, step: FactorStep) -> bool:
        """Whether what decides a factor's range is what the factor multiplies: as for all functions of one variable."""
        return (
            len(step.reads) == 1
            and self.stands_for[step.reads[0].name] == step.source
            and isinstance(step.factor, (ActivationFactor, JumpFactor))
        )

    @cached_property
    def reads(self) -> Mapping[str, Read]:
        """Everything that the factor steps read, by name: the nodes whose bounds decide the derivatives."""
        return {read.name: read for step in self.factors for read in step.reads}

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
    jumps: bool = False,
) -> Graph:
    """Translate nodes into a graph of steps.

    Args:
        nodes: in topological order.
        inputs: name -> shape, batch dimension included, of the perturbed inputs.
        output_name: name of the output.
        jumps: whether piecewise constant functions are steps as well: for bounds of the function alone.

    Raises:
        UnsupportedError: nodes on the way from the input to the output are in none of the tables, or are used in ways
            that these do not cover; lists every one of them.
    """
    nodes = fused(nodes)
    on_path = _ancestors(nodes, output_name)
    limits = {node.name: _limits(node) for node in nodes} if jumps else None
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
            of_node = _steps(node, same_as, batch, limits)
        except Refusal as refusal:
            offenders.append(f"`{node.name}` ({node.kind.removeprefix('Bound')}): {refusal}")
            continue
        for step in of_node:
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


def _limits(node: Node) -> tuple[float, float]:
    """Ends that a node's values do not pass, however they are rounded."""
    activation = ACTIVATIONS.get(node.kind)
    return (-math.inf, math.inf) if activation is None else activation.values(node.attributes)


def _steps(
    node: Node, same_as: Mapping[str, str], batch: int, limits: Mapping[str, tuple[float, float]] | None
) -> tuple[Step, ...]:
    """What a node does, as steps, the last one under its own name."""
    if node.output_shape[:1] != (batch,):
        raise Refusal(
            f"its output has shape {tuple(node.output_shape)}, but every node must keep the batch of {batch} first"
        )
    shape = tuple(node.output_shape[1:])
    if limits is not None and node.kind in JUMPS:
        (source,) = node.inputs
        factor = JumpFactor(JUMPS[node.kind], limits.get(source, (-math.inf, math.inf)))
        return (FactorStep(node.name, shape, same_as[source], (Read(source, shape),), factor),)
    activation = ACTIVATIONS.get(node.kind)
    if activation is not None:
        if any(node.perturbed[1:]):
            raise Refusal("its parameters depend on the perturbed input")
        parameters = dict(node.attributes)
        if len(node.constants) > 1 and isinstance(node.constants[1], Tensor):
            parameters["slope"] = node.constants[1]  # PReLU: the only activation with a second input
        reads = (Read(node.inputs[0], shape),)
        return (FactorStep(node.name, shape, same_as[node.inputs[0]], reads, ActivationFactor(activation, parameters)),)
    if multiplies(node):
        return expand(node, same_as)
    to_linear_map = OPERATORS.get(node.kind)
    if to_linear_map is None:
        raise Refusal(REFUSED.get(node.kind, "no rule for this operator"))
    sources = tuple(
        (same_as[name], to_linear_map(node, position))
        for position, (name, perturbed) in enumerate(zip(node.inputs, node.perturbed, strict=True))
        if perturbed
    )
    return (LinearStep(node.name, shape, sources),)


def refinable(graph: Graph) -> bool:
    """Whether a graph has one input, and every uncertain derivative in it is that of a function of two linear pieces.

    These have their lines here (see `activations.lines`), so that their pre-activation bounds can be refined.
    """
    return len(graph.inputs) == 1 and all(
        isinstance(step.factor, ActivationFactor) and step.factor.activation.linear_pieces for step in graph.factors
    )
