"""Linear bounds of sums of pre-activations over the whole region, in terms of the input: CROWN on the gains.

The derivatives of smooth activations are put between lines in the pre-activations (`curves`), so that bounds of a
Jacobian become sums ``sum_l g_l t_l`` of the pre-activations' distances ``t = z(x) - z(x0)`` from their values at the
centre. These are known exactly from layer to layer: with the gains G (see `gains`) and the activations a,

    t_l = G_lx (x - x0) + sum over earlier layers m of G_lm (a_m(x) - a_m(x0)).

As in CROWN (Zhang, Weng, Chen, Hsieh, Daniel, NeurIPS 2018, arXiv:1811.00866) every ``a_m`` is replaced by its lines,
from the last layer to the first, until only ``x - x0`` is left. All layers' terms are summed up on the way before they
are bounded, so what they have in common cancels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from recurjac_plugin.activations.curves import _Grid
from recurjac_plugin.activations.lines import Relaxation, linear_pieces
from recurjac_plugin.gains.gains import INPUT, Gains
from recurjac_plugin.gains.undetermined import Layer, PreactivationBounds, intervals, largest
from recurjac_plugin.graph.graph import Graph
from recurjac_plugin.graph.steps import ActivationFactor, FactorStep
from recurjac_plugin.numerics.intervals import Interval
from recurjac_plugin.numerics.region import Region
from recurjac_plugin.numerics.rounding import FROM_CENTER, eps

from .rules import Line, recurjac_linear


@dataclass(frozen=True, eq=False)
class Curve:
    """The derivative of one layer's undetermined neurons as a function of their pre-activations.

    Attributes:
        lines: in ``t = z - z0``, shape (b, 1, u) each, the same for all rows.
        middle: t at the middle of the neurons' intervals, shape (b, 1, u).
    """

    lines: Relaxation
    middle: Tensor


@dataclass(frozen=True, eq=False)
class Expansion:
    """What is known of the pre-activations of a network's undetermined neurons.

    Attributes:
        gains: the exact part; its columns are those of all inputs.
        changes: lines of ``a(x) - a(x0)`` in t for each layer.
        curves: the derivatives of the layers that have lines with a slope.
        inputs: where the inputs lie, in their order.
    """

    gains: Gains
    changes: Mapping[str, Relaxation]
    curves: Mapping[str, Curve]
    inputs: Sequence[Region]

    @property
    def width(self) -> int:
        """Numbers that one form is made of on its way to the input."""
        return self.gains.columns + 2 * sum(map(self.gains.count, self.gains.layers))

    def upper(
        self,
        forms: Mapping[str, Tensor],  # layer -> (b, m, u)
    ) -> Tensor:
        """Upper bounds of ``sum over layers of forms t``: (b, m)."""
        like = next(iter(forms.values()))
        total = like.new_zeros(like.shape[:2])
        on_input = like.new_zeros(*like.shape[:2], self.gains.columns)
        on_change: dict[str, Tensor] = {}
        for position, layer in reversed([*enumerate(self.gains.layers)]):
            on_t, h = forms.get(layer), on_change.pop(layer, None)
            if h is not None:
                line = self.changes[layer]
                positive = h.clamp(min=0)  # takes the upper line, and the rest of h the lower one
                apart = (line.upper_constant - line.lower_constant).unsqueeze(2)
                total = total + (h @ line.lower_constant.unsqueeze(2) + positive @ apart).squeeze(2)
                more = h * line.lower_slope.unsqueeze(1)
                more = more.addcmul(positive, (line.upper_slope - line.lower_slope).unsqueeze(1))
                on_t = more if on_t is None else on_t + more
            if on_t is None:
                continue
            for earlier in self.gains.layers[:position]:
                if (layer, earlier) in self.gains.blocks:
                    step = on_t @ self.gains.blocks[layer, earlier]
                    on_change[earlier] = on_change[earlier] + step if earlier in on_change else step
            if (layer, INPUT) in self.gains.blocks:
                on_input = on_input + on_t @ self.gains.blocks[layer, INPUT]
        parts = on_input.split([each.columns for each in self.inputs], 2)
        return total + torch.stack([each.concretize(part) for each, part in zip(self.inputs, parts, strict=True)]).sum(
            0
        )


def expansion(
    gains: Gains,
    graph: Graph,
    evidence: Mapping[str, PreactivationBounds],
    values: Mapping[str, Tensor],
    inputs: Sequence[Region],
) -> Expansion | None:
    """Relax all activations of a network, or as many as have nothing but activations before them.

    Where bounds do not hold the value at a centre, none behind a step that is linear on the bounds alone.

    Args:
        gains: of this graph.
        graph: the network.
        evidence: bounds of the pre-activations, by name of the node that is read.
        values: value of every node at the centres of the regions.
        inputs: where the graph's inputs lie.

    Returns:
        None if no derivative has lines with a slope.
    """
    if not any(step.name in gains.layers and _curved(step) for step in graph.factors):
        return None
    changes: dict[str, Relaxation] = {}
    curves: dict[str, Curve] = {}
    for step in graph.factors:
        bounds = intervals(step, [evidence[read.name] for read in step.reads])
        centers = [
            values[read.name].reshape(-1, *read.shape).expand(bound[0].shape)
            for read, bound in zip(step.reads, bounds, strict=True)
        ]
        if not linear_up_to(step, bounds, centers):
            break  # this step, and what comes behind it
        name = step.name
        if name not in gains.layers:
            continue
        layer, position = gains.derivatives[name], gains.layers.index(name)
        before = [earlier for earlier in gains.layers[:position] if (name, earlier) in gains.blocks]
        # A product of two uncertain factors has two derivatives: its change is not one of them times a distance.
        if not isinstance(step.factor, ActivationFactor) or any(earlier not in changes for earlier in before):
            continue
        interval, center = bounds[0], centers[0]
        # The values at the centres, and the distances from them, are sums that were rounded.
        error = FROM_CENTER * eps(center) * largest(*(bound.flatten(1) for bound in interval))
        changes[name], lines = (found.padded(error) for found in relax(step, layer, interval, center))
        if not _curved(step):
            continue
        index = layer.index.expand(len(center), -1)
        middle = ((interval[0] + interval[1]) / 2 - center).flatten(1).gather(1, index)
        curves[name] = Curve(lines.for_rows(), torch.where(middle.isfinite(), middle, 0.0).unsqueeze(1))
    return Expansion(gains, changes, curves, inputs) if curves else None


def _curved(step: FactorStep) -> bool:
    """Whether a step's derivative is that of an activation, and changes gradually."""
    return isinstance(step.factor, ActivationFactor) and not step.factor.activation.linear_pieces


@torch.no_grad()
def linear_up_to(step: FactorStep, bounds: Sequence[Interval], centers: Sequence[Tensor]) -> bool:
    """Whether a step that counts as linear where its derivatives are certain is so up to the regions' centres, too.

    Bounds given for a part of a region need not hold its centre. A ReLU that is active all over the part, but not at
    the centre, changes by ``z - max(z0, 0)`` and not by ``z - z0``: the gains through it do not lead to distances from
    the centre. Nor is there a line between both sides of a pole.
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


def relax(step: FactorStep, layer: Layer, interval: Interval, center: Tensor) -> tuple[Relaxation, Relaxation]:
    """Lines for the undetermined neurons of an activation.

    Args:
        step: the layer; its factor is an activation's derivative.
        layer: its derivative ranges.
        interval: pre-activation bounds that these are based on, each of shape (b, *shape).
        center: pre-activations at the centres of the regions, shape (b, *shape).

    Returns:
        Of the change of the function from the centre on, ``a(z) - a(z0)``, and of its derivative ``a'(z)``. Both are 0
        for what fills up a list of neurons.
    """
    assert isinstance(step.factor, ActivationFactor)
    activation, parameters = step.factor.activation, step.factor.parameters
    index = layer.index.expand(len(center), -1)

    def chosen(value: Tensor) -> Tensor:
        return value.flatten(1).gather(1, index)

    # Bounds given for a part of the region need not hold the value at its centre, which the distances are from.
    lower, upper = torch.minimum(interval[0], center), torch.maximum(interval[1], center)
    valid = layer.lower < layer.upper
    zero = torch.zeros_like(layer.lower)
    nothing = Relaxation(zero, zero, zero, zero)
    constant = Relaxation(zero, layer.lower, zero, layer.upper).where(valid, nothing)
    if activation.linear_pieces:
        sides = (center.new_full((1, *step.shape), sign) for sign in (-1.0, 1.0))
        left, right = (chosen(activation.derivative(side, parameters).expand_as(center)) for side in sides)
        return linear_pieces(left, right, chosen(lower), chosen(upper), chosen(center)), constant
    lower, upper, center = chosen(lower), chosen(upper), chosen(center)
    with torch.no_grad():
        broad = valid & _Grid.over(activation, parameters, lower, upper, center).usable()
    # What cannot be used is held at a point: infinite slopes would leave NaN in the gradients of all others.
    grid = _Grid.over(activation, parameters, *(torch.where(broad, value, 1.0) for value in (lower, upper, center)))
    low, high = activation.derivative_range(lower, upper, parameters)
    change = grid.change().where(broad, _mean_value(low, high, lower - center, upper - center)).where(valid, nothing)
    return change, grid.derivative().where(broad, constant)


def _mean_value(low: Tensor, high: Tensor, first: Tensor, last: Tensor) -> Relaxation:
    """Lines of ``d t`` for a derivative d in [low, high] and t in [first, last]."""
    slope, off = (low + high) / 2, (high - low) / 2 * torch.maximum(first.abs(), last.abs())
    return Relaxation(slope, -off, slope, off)


# Of two planes the lower one is taken alone if they differ by this part of how much ``d y`` varies, or more.
_SHARP = 1 / 1024


def mccormick(dl: Tensor, du: Tensor, yl: Tensor, yu: Tensor, *, derivative: Relaxation, middle: Tensor) -> Line:
    """The best of three planes above ``d y``.

    For d in [dl, du] and y in [yl, yu] both ``(d - dl) (yu - y)`` and ``(du - d) (y - yl)`` are at least 0, so

        d y <= yu d + dl y - yu dl   and   d y <= yl d + du y - yl du,

    and d is at most its upper line in t where its factor is positive, at least its lower line where it is negative. The
    third plane is `recurjac_linear`'s. Neuron by neuron the one that is lowest in the middle of both intervals is
    taken. Planes that are about equally high there, as all three are for a derivative that is linear in z, are mixed,
    so that the bounds are continuous in everything.

    Args:
        dl: lower end of the derivative's range.
        du: upper end.
        yl: lower bound of the gradient, shape (b, k, j).
        yu: upper bound.
        derivative: lines of d in t.
        middle: t at the middle of its interval.
    """
    center, size = (yl + yu) / 2, torch.maximum(yl.abs(), yu.abs())

    def plane(end: Tensor, other: Tensor) -> _Plane:
        form = torch.where(end >= 0, derivative.upper_slope, derivative.lower_slope) * end
        constant = (torch.where(end >= 0, derivative.upper_constant, derivative.lower_constant) - other) * end
        return _Plane(other.expand_as(form), constant, form, other * center + constant + form * middle)

    chord = recurjac_linear(dl, du, yl, yu)
    flat = _Plane(*chord[:2], torch.zeros_like(chord.slope), chord.slope * center + chord.constant)
    curved = _lower(plane(yu, dl), plane(yl, du), (du - dl) * (yu - yl))
    return Line(*_lower(curved, flat, (du - dl) * size)[:3])


class _Plane(NamedTuple):
    """``slope y + constant + form t``, and its height in the middle."""

    slope: Tensor
    constant: Tensor
    form: Tensor
    height: Tensor


def _lower(first: _Plane, second: _Plane, scale: Tensor) -> _Plane:
    """The lower one of two planes in the middle, a mixture where they differ by little on a scale of heights."""
    share = (second.height - first.height) / torch.where(scale > 0, 2 * _SHARP * scale, 1.0)
    return _Plane(*map(partial(torch.lerp, weight=(0.5 + share).clamp(0, 1)), second, first))
