"""The two kinds of steps that a network is made of, as derivatives see it.

A *linear* step adds up exact linear maps of the steps it reads. A *factor* step multiplies, element by element, what
arrives by a local derivative that is known only to a range: that of an activation function, the other factor of a
product, the weight of a maximum.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from recurjac_plugin.activations.activation import Activation
from recurjac_plugin.numerics.intervals import Interval

from .linear_maps import LinearMap, Shape


@dataclass(frozen=True)
class Read:
    """Bounds that a factor depends on: those of a node of the host, by name, and its shape per sample."""

    name: str
    shape: Shape


class Factor(abc.ABC):
    """An element-wise local derivative over a region.

    Attributes:
        kinked: whether it jumps where something passes 0, so that rounding of the bounds can hide one of its values.
    """

    kinked: bool

    @abc.abstractmethod
    def derivative_range(self, *intervals: Interval) -> Interval:
        """Its range, shaped like the step, from the bounds of what it reads."""

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


@dataclass(frozen=True, eq=False)
class ActivationFactor(Factor):
    """The derivative of an activation function."""

    activation: Activation
    parameters: Mapping[str, Any]

    @cached_property
    def kinked(self) -> bool:  # type: ignore[override]
        """Whether the function has kinks."""
        return self.activation.has_kinks(self.parameters)

    def within_domain(self, name: str, given: Sequence[Interval], widened: Sequence[Interval]) -> Sequence[Interval]:
        """The bounds cut to the function's domain."""
        return [self.activation.within_domain(name, given[0], widened[0], self.parameters)]

    def derivative_range(self, *intervals: Interval) -> Interval:
        """The range of the function's derivative over its pre-activations' bounds."""
        return self.activation.derivative_range(*intervals[0], self.parameters)


@dataclass(frozen=True, eq=False)
class LinearStep:
    """output = sum over the sources of map(source), plus a constant that no derivative sees.

    Attributes:
        name: the step's name.
        shape: shape of its output per sample.
        sources: the steps it reads, each with its map; one may occur several times.
    """

    name: str
    shape: Shape
    sources: tuple[tuple[str, LinearMap], ...]

    @cached_property
    def absolute_maps(self) -> tuple[LinearMap, ...]:
        """The maps with the absolute values of their matrices' entries: made once, as constants without gradients."""
        with torch.no_grad():
            return tuple(linear.absolute() for _, linear in self.sources)


@dataclass(frozen=True, eq=False)
class FactorStep:
    """The derivative of the output is factor times that of the source, element-wise.

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
