"""One node of the host as a small network of its own: its steps, in the inputs that are perturbed.

What an operator is stands in the tables of `activations` and `graph`, and nowhere else. Here a node of the host is
looked up in them as it stands in a model, with the values of its constant inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.activations.activation import Activation, Parameters
from recurjac_plugin.errors import UnsupportedError
from recurjac_plugin.graph.fusions import fused
from recurjac_plugin.graph.graph import Graph, build_graph
from recurjac_plugin.graph.node import Node
from recurjac_plugin.graph.steps import ActivationFactor
from recurjac_plugin.host.read import plain_nodes


@dataclass(frozen=True, eq=False)
class Part:
    """A node of the host, read as plain data.

    Attributes:
        node: its plain form.
    """

    node: Node

    @classmethod
    def of(cls, host_node: Any) -> Part:
        """Read a node whose model has been evaluated.

        Args:
            host_node: a `Bound` of the host.
        """
        sources = host_node.inputs
        constants = {source.name: value_of(source) for source in sources if not source.perturbed}
        uncertain = {source.name for source in sources if source.perturbed}
        (node,) = plain_nodes((host_node,), constants, uncertain)
        return cls(node)

    @cached_property
    def positions(self) -> Mapping[str, int]:
        """Every perturbed input by name -> its first position: an operator may read one input twice."""
        names = zip(self.node.inputs, self.node.perturbed, strict=True)
        found = [(name, position) for position, (name, perturbed) in enumerate(names) if perturbed]
        return dict(reversed(found))

    @cached_property
    def graph(self) -> Graph:
        """Its steps, the inputs being its perturbed inputs.

        Raises:
            UnsupportedError: the tables do not cover it.
        """
        shapes = {name: self.node.input_shapes[position] for name, position in self.positions.items()}
        if () in shapes.values():
            kind = self.node.kind.removeprefix("Bound")
            raise UnsupportedError(
                "The model", [f"`{self.node.name}` ({kind}): it reads one number of the whole batch"], "Keep the batch."
            )
        return build_graph((self.node,), shapes, self.node.name)

    @cached_property
    def activation(self) -> tuple[Activation, Parameters] | None:
        """Its row of the table of activations, with a `function`, and its parameters; None if it is something else."""
        steps = self.graph.steps
        if len(steps) != 1 or not self.graph.factors:
            return None
        factor = self.graph.factors[0].factor
        if not isinstance(factor, ActivationFactor):
            return None
        activation = factor.activation
        if activation.function is None:
            constants = self.node.constants[1:]
            activation = replace(activation, function=lambda z, parameters: self.node.forward(z, *constants))
        return activation, factor.parameters

    @property
    def is_linear(self) -> bool:
        """Whether none of its steps has an uncertain factor."""
        return not self.graph.factors

    @cached_property
    def kind(self) -> str:
        """Key of the table that it is in: powers and clips with constant numbers have rows of their own."""
        return fused((self.node,))[0].kind

    def value(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Its value, (b, *shape), at values of its perturbed inputs by name, (b, *input_shape) each."""
        return self.node.forward(
            *(
                inputs[name] if perturbed else constant
                for name, perturbed, constant in zip(
                    self.node.inputs, self.node.perturbed, self.node.constants, strict=True
                )
            )
        )

    def origin(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Its value where all perturbed inputs are 0: what a linear operator adds."""
        return self.value({name: torch.zeros_like(value) for name, value in inputs.items()})


def value_of(constant: Any) -> Any:
    """The value of one of the host's nodes that is not perturbed: what holds it depends on its kind and the version."""
    # The `value` of an operator can be a parameter of it, as in ConstantOfShape.
    for name in ("lower", "forward_value") if constant.inputs else ("lower", "forward_value", "value"):
        held = getattr(constant, name, None)
        if held is not None:
            return held
    value = constant.forward(*[value_of(source) for source in constant.inputs])
    return torch.tensor(value) if isinstance(value, torch.Size) else value
