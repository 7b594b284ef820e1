r"""RecurJac-McCormick: planes above ``d y`` where the derivative d is known as a function of the pre-activation.

The derivative of a smooth activation is more than a range: with ``t = z - z0`` the distance of the pre-activation from
its value at the centre x0 of the region, it lies between two lines in t (`recurjac_plugin.activations.curves`). So the
product with an uncertain gradient y in [yl, yu] lies below a *plane* in y and t, found in three steps.

1. **Envelope.** Of two uncertain numbers on a rectangle the product lies below both of

   .. math:: d y \le \overline{y} d + \underline{d} y - \overline{y} \underline{d}, \qquad
       d y \le \underline{y} d + \overline{d} y - \underline{y} \overline{d}

   (McCormick, Mathematical Programming 10, 1976), into which the lines of d are put (`mccormick_planes`).
2. **Recursion.** The slope in y is pushed on and the constant is final, as with the lines of `rules`. The slopes in t
   are collected, so that bounds of a Jacobian become sums ``sum_l g_l t_l`` over all layers l.
3. **Concretisation.** These are bounded together at the end, by CROWN on the gains
   (`recurjac_plugin.gains.crown.linear_upper_bound`) and over the region, so what the layers have in common cancels
   (`NetworkRelaxation.concretize`).

Over a small region the bounds are then off by terms of second order in its radius, where those from ranges are off by
terms of first order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial, reduce
from typing import NamedTuple

import torch
from torch import Tensor

from recurjac_plugin.activations.curves import Samples, SmoothRelaxation, relax_smooth
from recurjac_plugin.activations.lines import Relaxation, relax_kinked
from recurjac_plugin.gains.crown import linear_upper_bound
from recurjac_plugin.gains.gains import Gains
from recurjac_plugin.gains.pull import ROWS
from recurjac_plugin.gains.undetermined import Layer, PreactivationBounds, intervals
from recurjac_plugin.graph.graph import Graph
from recurjac_plugin.graph.steps import ActivationFactor, FactorStep, at
from recurjac_plugin.numerics.intervals import Interval
from recurjac_plugin.numerics.region import Region, concretized
from recurjac_plugin.numerics.rounding import proven_room

from .rules import Rule, UpperLine, recurjac_linear

# Of two planes the lower one is taken alone if they differ by this part of how much ``d y`` varies, or more.
_SHARP = 1 / 1024


# Step 1: planes above the products.


def mccormick_planes(
    dl: Tensor,  # shape: (b, 1, u)
    du: Tensor,  # shape: (b, 1, u)
    yl: Tensor,  # shape: (b, k, u)
    yu: Tensor,  # shape: (b, k, u)
    *,
    derivative: Relaxation,  # shape: (b, 1, u)
    middle: Tensor,  # shape: (b, 1, u)
    used: Tensor | None = None,  # shape: (b, 1, 1)
) -> UpperLine:
    """The best of three planes above ``d y``.

    For d in [dl, du] and y in [yl, yu] both ``(d - dl) (yu - y)`` and ``(du - d) (y - yl)`` are at least 0, so

        d y <= yu d + dl y - yu dl   and   d y <= yl d + du y - yl du,

    and d is at most its upper line in t where its factor is positive, at least its lower line where it is negative. The
    third plane is `recurjac_linear`'s, which has no slope in t. Neuron by neuron the one that is lowest in the middle
    of both intervals is taken. Planes that are about equally high there, as all three are for a derivative that is
    linear in z, are mixed, so that the bounds are continuous in everything: with heights h and h' there, the share of
    the first is ``1/2 + 512 (h' - h) / scale`` cut to [0, 1], where the scale is ``(du - dl) (yu - yl)`` for the first
    two planes, and ``(du - dl) max(|yl|, |yu|)`` for the result of these and the third. Where the scale is 0 the share
    is ``1/2 + h' - h``.

    Source: McCormick, Mathematical Programming 10, 1976, for the two planes in d and y; lines of d in t put into them,
    and the choice between three, are own.

    Args:
        dl: lower end of the derivative's range.
        du: upper end.
        yl: lower bound of the gradient.
        yu: upper bound.
        derivative: lines of d in t.
        middle: t at the middle of its interval.
        used: in which regions the planes in d and y are; the others have the third one. None for in all.

    Returns:
        ``d y <= slope y + constant + t_slope t``, all of shape (b, k, u).
    """
    center, size = (yl + yu) / 2, torch.maximum(yl.abs(), yu.abs())

    def plane(end: Tensor, other: Tensor) -> Plane:
        t_slope = torch.where(end >= 0, derivative.upper_slope, derivative.lower_slope) * end
        constant = (torch.where(end >= 0, derivative.upper_constant, derivative.lower_constant) - other) * end
        return Plane(other.expand_as(t_slope), constant, t_slope, other * center + constant + t_slope * middle)

    chord = recurjac_linear(dl, du, yl, yu)
    flat = Plane(*chord[:2], torch.zeros_like(chord.slope), chord.slope * center + chord.constant)
    envelope = lower_plane(plane(yu, dl), plane(yl, du), (du - dl) * (yu - yl))
    lowest = lower_plane(envelope, flat, (du - dl) * size)
    if used is not None:
        lowest = Plane(*(torch.where(used, plane, line) for plane, line in zip(lowest, flat)))
    return UpperLine(*lowest[:3])


class Plane(NamedTuple):
    """``slope y + constant + t_slope t``, and its height in the middle of both intervals."""

    slope: Tensor
    constant: Tensor
    t_slope: Tensor
    height: Tensor


def lower_plane(first: Plane, second: Plane, scale: Tensor) -> Plane:
    """The lower one of two planes in the middle, a mixture where they differ by little on a scale of heights."""
    share = (second.height - first.height) / torch.where(scale > 0, 2 * _SHARP * scale, 1.0)
    return Plane(*map(partial(torch.lerp, weight=(0.5 + share).clamp(0, 1)), second, first))


# Steps 2 and 3: what the recursion asks for planes, and what bounds the slopes in t that it has collected.


@dataclass(frozen=True, eq=False)
class DerivativeRelaxation:
    """The derivatives of one layer's undetermined neurons as functions of their pre-activations.

    ``lower_slope t + lower_constant <= d <= upper_slope t + upper_constant``.

    Attributes:
        lines: of the derivatives in ``t = z - z0``, shape (b, 1, u) each, the same for all rows.
        middle: t at the middle of the neurons' intervals, shape (b, 1, u).
        half: half their length, shape (b, 1, u).
        samples: the derivatives at points, for `strips`; None where their rounding is to be proven.
    """

    lines: Relaxation
    middle: Tensor
    half: Tensor
    samples: Samples | None = None


@dataclass(frozen=True, eq=False)
class NetworkRelaxation:
    """Linear relaxations of the activations of a network, and of their derivatives, at its undetermined neurons.

    Source: CROWN, arXiv:1811.00866, for the activations; that derivatives are relaxed, too, is own.

    Attributes:
        gains: the exact part; its columns are those of all inputs.
        activations: for each layer, lines of ``a(x) - a(x0)`` in t, shape (b, u) each.
        derivatives: for the layers whose derivative changes gradually, its lines in t.
        inputs: where the inputs lie, in their order.
        substituted: whether sums over t are bounded by substitution; otherwise by the intervals of t.
        used: on which regions it is made use of, bool (b,); None for all. The others have `recurjac_linear`'s lines.
    """

    gains: Gains
    activations: Mapping[str, Relaxation]
    derivatives: Mapping[str, DerivativeRelaxation]
    inputs: Sequence[Region]
    substituted: bool = True
    used: Tensor | None = None

    def only(self, regions: Tensor) -> NetworkRelaxation:
        """The same, for some of the regions alone, bool (b,)."""
        return replace(self, used=regions)

    @cached_property
    def width(self) -> int:
        """``columns + 2 sum_l u_l``, what the slopes in t of one bound become on their way to the input.

        For budgets of memory. Without a substitution they stay what they are.
        """
        gains = self.gains
        if not self.substituted:
            return sum(gains.derivatives[layer].count for layer in self.derivatives)
        return gains.columns + 2 * sum(gains.derivatives[layer].count for layer in gains.layers)

    def substitutions(self, sums: int) -> int:
        """Multiplications for one region that so many sums over t take."""
        count = self.gains.count
        return sums * sum(count(later) * count(earlier) for later, earlier in self.gains.blocks if later != ROWS)

    def planes(self, layer: str) -> Rule | None:
        """`mccormick_planes` for one layer, if its derivatives are known beyond their ranges."""
        known = self.derivatives.get(layer)
        if known is None:
            return None
        used = None if self.used is None else self.used[:, None, None]
        return partial(mccormick_planes, derivative=known.lines, middle=known.middle, used=used)

    def concretize(
        self,
        t_slopes: Mapping[str, Tensor],  # layer -> (b, m, u)
    ) -> Tensor:
        """Upper bounds of ``sum over layers l of t_slopes_l t_l`` over the region: (b, m).

        ``constant + sum over inputs i of max slope_i (x_i - x0_i)``, with slope and constant of `linear_upper_bound`;
        the maximum over a region is `Region.concretize`. Without a substitution it is the sum of the terms' maxima,
        which for a single t is the same.

        Source: CROWN, arXiv:1811.00866, Theorem 3.2 and Corollary 3.3.
        """
        if not self.substituted:
            terms = (
                (slopes @ self.derivatives[layer].middle.mT + slopes.abs() @ self.derivatives[layer].half.mT).squeeze(2)
                for layer, slopes in t_slopes.items()
            )
            return reduce(torch.add, terms)
        count = next(iter(t_slopes.values())).shape[1]
        slope, constant = self.linear(t_slopes, count)
        return constant + concretized(self.inputs, slope)

    def linear(
        self,
        t_slopes: Mapping[str, Tensor],  # layer -> (b, m, u)
        count: int,
    ) -> tuple[Tensor, Tensor]:
        """Slopes (b, m, columns) and constants (b, m) of linear upper bounds of so many sums over t."""
        return linear_upper_bound(self.gains, self.activations, count, on_preactivations=t_slopes)

    def sizes(self, spreads: Mapping[str, Tensor]) -> dict[str, float]:
        """How large the terms of a plane get, relative to ``|y| max |d|``, for each layer that has planes.

        The slope in t of a plane is at most twice ``|y|`` times the slope s of the derivative's line, the constants
        are at most 4 times ``|y| (max |d| + |c|)`` with c the line's: 4 times ``1 + (|s| spread + |c|) / max |d|``.

        Args:
            spreads: sums of the absolute values of all terms of linear bounds of t, by name of the layer, (b, *shape).
        """
        sizes = {}
        for name, known in self.derivatives.items():
            layer, lines = self.gains.derivatives[name], known.lines
            spread = at(spreads[name], layer.index.expand(len(layer.lower), -1))
            slope = torch.maximum(lines.lower_slope.abs(), lines.upper_slope.abs()).squeeze(1)
            constant = torch.maximum(lines.lower_constant.abs(), lines.upper_constant.abs()).squeeze(1)
            steepest = torch.maximum(layer.lower.abs(), layer.upper.abs())
            ratio = torch.where(steepest > 0, (slope * spread + constant) / steepest, 0.0)
            sizes[name] = 4 * (1 + float(ratio.max())) if ratio.numel() else 4.0
        return sizes


# How the relaxations are made.


def relax_network(
    gains: Gains,
    graph: Graph,
    preactivations: Mapping[str, PreactivationBounds],
    values: Mapping[str, Tensor],
    inputs: Sequence[Region],
    proven: bool = False,
) -> NetworkRelaxation | None:
    """Relax all activations of a network, or as many as have nothing but activations before them.

    Bounds that are given for a part of the region need not hold the values at its centre. Nothing is relaxed from the
    first step on that is linear on such bounds, but not up to the centre (see `linear_up_to_center`).

    The lines are those of `relax_layer`, with room for the errors e of the pre-activations (`gains.errors`), by which t
    and z0 are off: ``(|slope| + max |a'|) e`` for an activation, ``|slope| e`` for its derivative.

    Source: CROWN, arXiv:1811.00866, section 3.2, for the activations' lines; the rest is own.

    Args:
        gains: of this graph.
        graph: the network.
        preactivations: bounds of the pre-activations, by name of the node that is read.
        values: value of every node at the centres of the regions, shape (b, *shape) by name.
        inputs: where the graph's inputs lie.
        proven: whether the lines leave proven room for their own rounding.

    Returns:
        Relaxations of shape (b, u) of the activations, (b, 1, u) of the derivatives; None if no derivative has lines
        with a slope.

    Raises:
        UnsupportedError: bounds reach beyond where an activation has a finite derivative.
    """
    if not any(step.name in gains.layers and changes_gradually(step) for step in graph.factors):
        return None
    activations: dict[str, Relaxation] = {}
    derivatives: dict[str, DerivativeRelaxation] = {}
    for step in graph.factors:
        bounds = intervals(step, [preactivations[read.name] for read in step.reads])
        centers = [
            values[read.name].reshape(-1, *read.shape).expand(bound[0].shape)
            for read, bound in zip(step.reads, bounds, strict=True)
        ]
        if not linear_up_to_center(step, bounds, centers):
            break  # this step, and what comes behind it
        name = step.name
        if name not in gains.layers:
            continue
        position = gains.layers.index(name)
        before = [earlier for earlier in gains.layers[:position] if (name, earlier) in gains.blocks]
        # A product of two uncertain factors has two derivatives: its change is not one of them times a distance.
        if not isinstance(step.factor, ActivationFactor) or any(earlier not in activations for earlier in before):
            continue
        layer = gains.derivatives[name]
        index = layer.index.expand(len(centers[0]), -1)
        error = at(preactivations[step.reads[0].name].error, index)
        change, derivative, samples = relax_layer(step, layer, bounds[0], centers[0])
        steepest, rounding = torch.maximum(layer.lower.abs(), layer.upper.abs()), torch.zeros_like(layer.lower)
        if proven:
            rounding = proven_room(steepest.clamp(min=1.0) * sum(at(end.abs(), index) for end in bounds[0]))
        activations[name] = change.padded(error, steepest, rounding)
        if changes_gradually(step):
            low, high = (at(end, index).unsqueeze(1) for end in bounds[0])
            middle = (low + high) / 2 - at(centers[0], index).unsqueeze(1)
            middle = torch.where(middle.isfinite(), middle, 0.0)
            lines = _with_room(derivative, error, proven).for_rows()
            half = (high - low) / 2
            if proven:  # the middle is rounded
                half = half + proven_room(low.abs() + high.abs())
            points = None if proven or samples is None else samples.padded(error)
            derivatives[name] = DerivativeRelaxation(lines, middle, half, points)
    return NetworkRelaxation(gains, activations, derivatives, inputs) if derivatives else None


def _with_room(derivative: Relaxation, error: Tensor, proven: bool) -> Relaxation:
    """Lines of a derivative with room for the error of t, and for their own rounding."""
    if not proven:
        return derivative.padded(error)
    sides = (derivative.lower_constant, derivative.upper_constant)
    largest = torch.maximum(*(side.abs() for side in sides)).clamp(min=1.0)
    return derivative.padded(error, rounding=proven_room(largest))


def relax_layer(
    step: FactorStep,
    layer: Layer,
    interval: Interval,  # shape: (b, *shape)
    center: Tensor,  # shape: (b, *shape)
) -> SmoothRelaxation:
    """Lines in t for the undetermined neurons of an activation.

    They hold on the smallest interval that contains ``[l, u]`` and z0. With linear pieces the derivative has the lines
    ``dl <= a'(z) <= du``, without slope; the rest is `relax_kinked`, or `relax_smooth`.

    Source: CROWN, arXiv:1811.00866, section 3.2, for the activation; the lines of the derivative are own.

    Args:
        step: the layer; its factor is an activation's derivative.
        layer: its derivative ranges.
        interval: pre-activation bounds that these are based on.
        center: pre-activations at the centres of the regions.

    Returns:
        Lines of the change of the function from the centre on, ``a(z) - a(z0)``, and of its derivative ``a'(z)``, of
        shape (b, u) each, both 0 for what fills up a list of neurons; of a smooth one its derivative at points, too.
    """
    assert isinstance(step.factor, ActivationFactor)
    activation, parameters = step.factor.activation, step.factor.parameters
    index = layer.index.expand(len(center), -1)
    # Bounds given for a part of the region need not hold the value at its centre, which the distances are from.
    numbers = torch.minimum(interval[0], center), torch.maximum(interval[1], center), center
    if activation.linear_pieces:
        (change,) = relax_kinked(activation, parameters, index, *numbers)
        zero = torch.zeros_like(layer.lower)
        return SmoothRelaxation(change, Relaxation(zero, layer.lower, zero, layer.upper), None)
    lower, upper, center = (value.flatten(1).gather(1, index) for value in numbers)
    return relax_smooth(activation, parameters, lower, upper, center, layer.lower, layer.upper)


def changes_gradually(step: FactorStep) -> bool:
    """Whether a step's derivative is that of an activation, and has more than two values."""
    return isinstance(step.factor, ActivationFactor) and not step.factor.activation.linear_pieces


@torch.no_grad()
def linear_up_to_center(
    step: FactorStep,
    bounds: Sequence[Interval],  # shape: (b, *shape)
    centers: Sequence[Tensor],  # shape: (b, *shape)
) -> bool:
    """Whether a step that is linear on the bounds of what it reads is so up to the regions' centres, too.

    Bounds given for a part of a region need not hold its centre. A ReLU that is active all over the part, but not at
    the centre, changes by ``z - max(z0, 0)`` and not by ``z - z0``: the gains through it do not lead to distances from
    the centre. Nor is there a line between both sides of a pole.

    With derivatives in [dl, du] on the bounds, and in [dl', du'] on the smallest intervals that contain bounds and
    centres, no neuron may have ``dl = du`` and ``dl' < dl or du' > du``; and these intervals must lie within the
    activation's domain. If all bounds hold their centres this needs no check.

    Source: own.
    """
    if all(bool(((low <= center) & (center <= high)).all()) for (low, high), center in zip(bounds, centers)):
        return True
    hull = [(torch.minimum(low, center), torch.maximum(high, center)) for (low, high), center in zip(bounds, centers)]
    if isinstance(step.factor, ActivationFactor):
        domain = step.factor.activation.domain(step.factor.parameters)
        if domain is not None and not bool(domain.contains(*hull[0]).all()):
            return False
    (low, high), (least, most) = step.factor.derivative_range(*bounds), step.factor.derivative_range(*hull)
    return not bool(((low == high) & ((least < low) | (most > high))).any())
