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

import torch
from torch import Tensor

from recurjac_plugin.activations.activation import Activation
from recurjac_plugin.activations.curves import relax_smooth
from recurjac_plugin.activations.lines import Relaxation, linear_pieces, product_lines, relax_kinked
from recurjac_plugin.numerics.intervals import Interval
from recurjac_plugin.numerics.rounding import eps

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
        exact: whether its range is computed without rounding from the bounds of what it reads.
        has_domain: whether the function ends somewhere; `within_domain` is asked only then.
    """

    kinked: bool
    exact: bool = False
    has_domain: bool = False

    @abc.abstractmethod
    def derivative_range(self, *intervals: Interval) -> Interval:
        """Its range ``[dl, du]``, two tensors of shape (b, *shape of the step), from the bounds of what it reads.

        Args:
            intervals: lower and upper bounds of each node in `FactorStep.reads`, (b, *shape of the node).
        """

    def change_lines(
        self,
        intervals: Sequence[Interval],
        centers: Sequence[Tensor],
        change: Interval,
        index: Tensor | None = None,  # shape: (b, u)
        near: float | None = None,
    ) -> Relaxation:
        r"""Lines in t around how far a step's output moves while its source moves by t from the centre of the region.

        For a factor d that is only known to a range they are those of ``d t`` (`activations.lines.product_lines`); for
        an activation a at ``z0`` those of ``a(z0 + t) - a(z0)``. They hold for what the step's differential adds up to
        along the straight line, in the space of the node's inputs, from the centre to any point of the bounds.

        Args:
            intervals: bounds of what it reads, as for `derivative_range`.
            centers: values of these at the centre of the region, (b, *shape of the node); within the bounds.
            change: bounds of t, two tensors of shape (b, *shape of the step); 0 lies between them.
            index: positions in the flattened step; None for all of them in order.
            near: slope of the line through 0 of functions with two linear pieces, as in `linear_pieces`.

        Returns:
            Shape (b, u); (b, n) without an index.

        Source:
            The mean value theorem along that line.
        """
        dl, du = self.derivative_range(*intervals)
        return product_lines(*(at(value, index) for value in (dl, du, *change)))

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
        self.exact = activation.linear_pieces or activation.curvature == 0
        self.has_domain = activation.domain(parameters) is not None
        self._with_points = replace(activation, critical_points=points)  # found once, not for every interval

    def within_domain(self, name: str, given: Sequence[Interval], widened: Sequence[Interval]) -> Sequence[Interval]:
        """The bounds cut to the function's domain."""
        return [self.activation.within_domain(name, given[0], widened[0], self.parameters)]

    def derivative_range(self, *intervals: Interval) -> Interval:
        """The range of the function's derivative over its pre-activations' bounds."""
        return self._with_points.derivative_range(*intervals[0], self.parameters)

    def change_lines(
        self,
        intervals: Sequence[Interval],
        centers: Sequence[Tensor],
        change: Interval,
        index: Tensor | None = None,  # shape: (b, u)
        near: float | None = None,
    ) -> Relaxation:
        """Lines of ``a(z0 + t) - a(z0)`` in t on the pre-activations' bounds; exact where a is linear on them."""
        (lower, upper), center = intervals[0], centers[0]
        # Bounds of a part of the region need not hold the value at its centre, which the distances are from.
        lower, upper = torch.minimum(lower, center), torch.maximum(upper, center)
        if index is None:
            index = torch.arange(lower[0].numel(), device=lower.device).expand(len(lower), -1)
        dl, du = (at(end, index) for end in self.derivative_range((lower, upper)))
        if self.activation.linear_pieces:
            (lines,) = relax_kinked(self.activation, self.parameters, index, lower, upper, center, (near,))
        else:
            lower, upper, center = (at(value, index) for value in (lower, upper, center))
            lines = relax_smooth(self.activation, self.parameters, lower, upper, center, dl, du).change
        zero = torch.zeros_like(dl)
        return Relaxation(dl, zero, dl, zero).where(dl == du, lines)


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
        exact: bool = False,
        affine: bool = False,
    ) -> str:
        """Add a factor step, see `Factor` and `FactorStep`; returns its name.

        Args:
            source: the step that is multiplied.
            shape: its shape.
            reads: what decides the factor.
            derivative_range: from bounds of these to the factor's range.
            exact: whether no rounding goes into the factor's range, see `Factor`.
            affine: whether the factor is an affine function of what it reads, as the other operand of a product is.
        """
        factor = _RangeFactor(derivative_range, exact, affine)
        return self._add(FactorStep(self._name(), shape, source, tuple(reads), factor))

    def rectified(
        self,
        source: str,
        shape: Shape,
        reads: Sequence[Read],
        derivative_range: Callable[..., Interval],
        at_center: Callable[..., Tensor],
        bounds: Callable[..., Interval],
        sign: int = 1,
    ) -> str:
        """Add the factor step of ``max(s, 0)``, or ``min(s, 0)``, of a step s; returns its name.

        Args:
            source: the step s.
            shape: its shape.
            reads: what decides its sign.
            derivative_range: from bounds of these to the range of the derivative.
            at_center: from values of these to that of s.
            bounds: from bounds of these to those of s.
            sign: 1 for ``max(s, 0)``, -1 for ``min(s, 0)``.
        """
        factor = RectifiedFactor(derivative_range, at_center, bounds, sign)
        return self._add(FactorStep(self._name(), shape, source, tuple(reads), factor))

    def _add(self, step: FactorStep) -> str:
        self.steps.append(step)
        return step.name

    def finished(self, *sources: tuple[str, LinearMap]) -> tuple[Step, ...]:
        """All steps, with a last linear one under the node's own name."""
        return (*self.steps, LinearStep(self.node.name, self.shape, sources))

    def _name(self) -> str:
        return f"{self.node.name}:{len(self.steps)}"


@dataclass(frozen=True, eq=False)
class _RangeFactor(Factor):
    """A factor by the function that computes its range, and whether it is affine in what it reads."""

    range: Callable[..., Interval]
    exact: bool
    affine: bool = False
    kinked: bool = False

    def derivative_range(self, *intervals: Interval) -> Interval:
        return self.range(*intervals)

    def change_lines(
        self,
        intervals: Sequence[Interval],
        centers: Sequence[Tensor],
        change: Interval,
        index: Tensor | None = None,  # shape: (b, u)
        near: float | None = None,
    ) -> Relaxation:
        """Lines of ``d t``; an affine d is on the average over a straight line what it is at the middle of the line."""
        dl, du = self.range(*intervals)
        if self.affine and intervals:
            low, high = self.range(*((center, center) for center in centers))
            dl, du = (torch.minimum(dl, low) + low) / 2, (torch.maximum(du, high) + high) / 2
            unit = eps(dl)  # a mean is rounded
            dl, du = dl - (unit * dl.abs()).detach(), du + (unit * du.abs()).detach()
        return product_lines(*(at(value, index) for value in (dl, du, *change)))


@dataclass(frozen=True, eq=False)
class RectifiedFactor(Factor):
    """``max(s, 0)`` or ``min(s, 0)`` of a step s that is no node of the host: the bounds of others decide its sign.

    Attributes:
        range: from these bounds to the derivative's range.
        at_center: from the values of what is read to that of s.
        bounds: from bounds of what is read to those of s.
        sign: 1 for the maximum, -1 for the minimum.
    """

    range: Callable[..., Interval]
    at_center: Callable[..., Tensor]
    bounds: Callable[..., Interval]
    sign: int
    kinked: bool = True
    exact: bool = True

    def derivative_range(self, *intervals: Interval) -> Interval:
        """0, 1, or both, by the sign of s."""
        return self.range(*intervals)

    def change_lines(
        self,
        intervals: Sequence[Interval],
        centers: Sequence[Tensor],
        change: Interval,
        index: Tensor | None = None,  # shape: (b, u)
        near: float | None = None,
    ) -> Relaxation:
        """Lines of the change from ``s0`` to ``s0 + t``; exact where the derivative is known."""
        center = self.at_center(*centers)
        low, high = self.bounds(*intervals)  # of s itself, where steps before it have made those of its change wider
        first, last = torch.maximum(change[0], low - center), torch.minimum(change[1], high - center)
        dl, du, first, last, center = (at(v, index) for v in (*self.range(*intervals), first, last, center))
        zero, one = torch.zeros_like(center), torch.ones_like(center)
        left, right = (zero, one) if self.sign > 0 else (one, zero)
        pieces = linear_pieces(left, right, center + first, center + last, center, near=near)
        slope = torch.where(dl == du, dl, torch.where(center + first >= 0, right, left))
        known = (dl == du) | (center + first >= 0) | (center + last <= 0)
        return Relaxation(slope, zero, slope, zero).where(known, pieces)


ToSteps = Callable[[StepBuilder], tuple[Step, ...]]
"""How an operator is taken apart: from a builder for one node of its kind to the node's steps."""


def at(value: Tensor, index: Tensor | None) -> Tensor:
    """Elements of a flattened sample, by position: (b or 1, *shape) -> (b, u), or all of them: (b or 1, n)."""
    flat = value.reshape(len(value), -1)
    return flat if index is None else flat.expand(len(index), -1).gather(1, index)


def spread(interval: Interval, shape: Shape) -> Interval:
    """Bounds of shape (b or 1, *smaller) broadcast to (b or 1, *shape)."""
    lower, upper = (aligned(bound, shape).expand(-1, *shape) for bound in interval)
    return lower, upper
