"""The two kinds of steps that a network is made of, as derivatives see it.

A *linear* step adds up exact linear maps of the steps it reads, ``dz = sum_i W_i dz_i``. A *factor* step multiplies,
element by element, what arrives by a local derivative that is known only to a range, ``dz = d * dz_source`` with d in
[dl, du]: that of an activation function, the other factor of a product, the weight of a maximum.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from recurjac_plugin.activations.activation import Activation
from recurjac_plugin.numerics.intervals import Interval

from .linear_maps import Broadcast, LinearMap, Shape, aligned
from .node import Node


@dataclass(frozen=True)
class Read:
    """Bounds that a factor depends on: those of a node of the host, by name, and its shape per sample."""

    name: str
    shape: Shape


class Factor(abc.ABC):
    """An element-wise local derivative over a region.

    Attributes:
        kinked: whether it jumps where something passes 0, so that rounding of the bounds can hide one of its values.
        has_domain: whether the function ends somewhere; `within_domain` is asked only then.
    """

    kinked: bool
    has_domain: bool = False

    @abc.abstractmethod
    def derivative_range(self, *intervals: Interval) -> Interval:
        """Its range ``[dl, du]``, two tensors of shape (b, *shape of the step), from the bounds of what it reads.

        Args:
            intervals: lower and upper bounds of each node in `FactorStep.reads`, (b, *shape of the node).
        """

    def within_domain(self, name: str, given: Sequence[Interval], widened: Sequence[Interval]) -> Sequence[Interval]:
        """The widened bounds of what it reads, cut where the function ends.

        Args:
            name: the step's name, for the error.
            given: bounds as they are known.
            widened: the same with room for rounding.

        Raises:
            UnsupportedError: the bounds reach where the function has no finite derivative.
        """
        return widened


class ActivationFactor(Factor):
    """The derivative ``s'(z)`` of an activation function s at its pre-activation z.

    Attributes:
        activation: the function, a row of the table of activations.
        parameters: its parameters, as the host names them.
    """

    def __init__(self, activation: Activation, parameters: Mapping[str, Any]) -> None:
        points = tuple(activation.points(parameters))
        self.activation, self.parameters = activation, parameters
        self.kinked = any(len(values) > 1 for _, values in points)
        self.has_domain = activation.domain(parameters) is not None
        self._with_points = replace(activation, critical_points=points)  # found once, not for every interval

    def within_domain(self, name: str, given: Sequence[Interval], widened: Sequence[Interval]) -> Sequence[Interval]:
        """The bounds cut to the function's domain."""
        return [self.activation.within_domain(name, given[0], widened[0], self.parameters)]

    def derivative_range(self, *intervals: Interval) -> Interval:
        """The range of the function's derivative over its pre-activations' bounds."""
        return self._with_points.derivative_range(*intervals[0], self.parameters)


@dataclass(frozen=True, eq=False)
class LinearStep:
    """``z = sum_i W_i z_i`` over its sources, plus a constant that no derivative sees.

    Attributes:
        name: the step's name.
        shape: shape of its output per sample.
        sources: the steps it reads, each with its map; one may occur several times.
    """

    name: str
    shape: Shape
    sources: tuple[tuple[str, LinearMap], ...]


@dataclass(frozen=True, eq=False)
class FactorStep:
    """``dz = d * dz_source``, element by element, with d in a range.

    Attributes:
        name: the step's name.
        shape: shape of its output per sample, and of its source.
        source: the step it reads.
        reads: the nodes whose bounds decide the factor's range.
        factor: how they decide it.
    """

    name: str
    shape: Shape
    source: str
    reads: tuple[Read, ...]
    factor: Factor


Step = LinearStep | FactorStep


class StepBuilder:
    """The steps of one node, as they are added.

    Args:
        node: what is taken apart.
        sources: the steps that stand for its perturbed inputs, by the names of these.

    Attributes:
        node: the same.
        shape: shape of its output per sample.
        steps: those added so far.
    """

    def __init__(self, node: Node, sources: Mapping[str, str]) -> None:
        self.node = node
        self.shape: Shape = tuple(node.output_shape[1:])
        self.steps: list[Step] = []
        self._sources = sources

    def source(self, position: int) -> str:
        """The step that stands for an input."""
        return self._sources[self.node.inputs[position]]

    def read(self, position: int) -> Read:
        """The bounds of an input, for a factor that depends on them."""
        return Read(self.node.inputs[position], tuple(self.node.input_shapes[position][1:]))

    def constant(self, position: int) -> Interval:
        """The bounds of an input that is not perturbed: its value twice."""
        value = self.node.constants[position]
        assert value is not None
        value = value if value.dim() == len(self.node.output_shape) else value.unsqueeze(0)
        return value, value

    def linear(self, *sources: tuple[str, LinearMap]) -> str:
        """Add a linear step, unless it were the identity; returns the name of what gives its value."""
        (source, first), *others = sources
        if not others and isinstance(first, Broadcast) and first.is_identity:
            return source
        step = LinearStep(self._name(), first.output_shape, sources)
        self.steps.append(step)
        return step.name

    def factor(
        self,
        source: str,
        shape: Shape,
        reads: Sequence[Read],
        derivative_range: Callable[..., Interval],
        kinked: bool = False,
    ) -> str:
        """Add a factor step, see `Factor` and `FactorStep`; returns its name."""
        step = FactorStep(self._name(), shape, source, tuple(reads), _RangeFactor(derivative_range, kinked))
        self.steps.append(step)
        return step.name

    def finished(self, *sources: tuple[str, LinearMap]) -> tuple[Step, ...]:
        """All steps, with a last linear one under the node's own name."""
        return (*self.steps, LinearStep(self.node.name, self.shape, sources))

    def _name(self) -> str:
        return f"{self.node.name}:{len(self.steps)}"


@dataclass(frozen=True, eq=False)
class _RangeFactor(Factor):
    """A factor by the function that computes its range."""

    range: Callable[..., Interval]
    kinked: bool = False

    def derivative_range(self, *intervals: Interval) -> Interval:
        return self.range(*intervals)


ToSteps = Callable[[StepBuilder], tuple[Step, ...]]
"""How an operator is taken apart: from a builder for one node of its kind to the node's steps."""


def spread(interval: Interval, shape: Shape) -> Interval:
    """Bounds of shape (b or 1, *smaller) broadcast to (b or 1, *shape)."""
    lower, upper = (aligned(bound, shape).expand(-1, *shape) for bound in interval)
    return lower, upper
