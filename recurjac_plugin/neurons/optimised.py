r"""Lower bounds of linear sums on parts of a region, by CROWN with optimised slopes and multipliers.

A sum over the network, one for each part of a batch, is bounded from below by CROWN's substitution on the gains, in
which three things are free (`Choices`): the slope of the line through 0 at every neuron whose kink lies in its
interval, a multiplier for every neuron that is kept on a side, and multipliers of *cuts*, sums that are asked about
only where they are at most 0. With ``z_j >= 0`` (or `<=`, likewise) on a part, cuts g, and any
:math:`\beta, \gamma \ge 0`,

.. math:: \min_{\text{part},\, g \le 0} f \;\ge\;
    \min_{\text{box}} \Big( f - \sum_j \beta_j z_j + \sum_k \gamma_k g_k \Big),

so every choice gives a bound, and gradient steps find good ones; the best is kept. If the bound of an average of the
cuts themselves is positive, there is no such point.

Source: alpha-CROWN, Xu et al., ICLR 2021, arXiv:2011.13824, for the slopes; beta-CROWN, Wang et al., NeurIPS 2021,
arXiv:2103.06624, for the multipliers of neurons; INVPROP, Kotha, Brix, Kolter, Dvijotham, Zhang, NeurIPS 2023,
arXiv:2302.01404, for those of what is asked about outputs. On gains, which all parts share, own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recurjac_plugin.gains.crown import linear_upper_bound
from recurjac_plugin.numerics.descent import Descent
from recurjac_plugin.numerics.rounding import gamma

from .parts import Parts, largest_on
from .reduced import Reduced

# Sizes of the first gradient steps, and by what later ones are smaller. Of a third to three times as much none was
# better on networks of VNN-COMP.
WITH_GRADIENT = 3  # a bound and its gradient cost as much as so many bounds
_SLOPE_STEP, _MULTIPLIER_STEP, _CUT_STEP, _DECAY = 0.1, 0.03, 0.1, 0.97


@dataclass(frozen=True, eq=False)
class Sums:
    """A linear sum of activations and inputs for each part of a batch: ``center + sum_m A_m (a_m - a_m(x0))``.

    Attributes:
        center: value at the centre of the region, (n,).
        error: how far that, and any linear bound, may be off, (n,).
        on_activations: coefficients by layer, and of ``x - x0`` under `INPUT`, (n, u) each.
    """

    center: Tensor
    error: Tensor
    on_activations: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.center)

    def take(self, index: Tensor | slice) -> Sums:
        """Some of them, by position (m,), slice or mask."""
        on = {name: value[index] for name, value in self.on_activations.items()}
        return Sums(self.center[index], self.error[index], on)

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Sums:
        """A function of all tensors."""
        on = {name: function(value) for name, value in self.on_activations.items()}
        return Sums(function(self.center), function(self.error), on)

    def plus(self, other: Sums) -> Sums:
        """The sums of two batches of the same length, part by part."""
        on = dict(self.on_activations)
        for name, value in other.on_activations.items():
            on[name] = on[name] + value if name in on else value
        return Sums(self.center + other.center, self.error + other.error, on)

    def combined(
        self,
        factors: Tensor,  # shape: (m, n)
    ) -> Sums:
        """Sums of these with factors that are not negative: m of them."""
        on = {name: factors @ value for name, value in self.on_activations.items()}
        return Sums(factors @ self.center, factors @ self.error, on)

    def both_ways(self) -> Sums:
        """These, and the same with all signs changed: 2n sums."""
        on = {name: torch.cat((value, -value)) for name, value in self.on_activations.items()}
        return Sums(torch.cat((self.center, -self.center)), self.error.repeat(2), on)


@dataclass(frozen=True, eq=False)
class Choices:
    """What is free in the bounds of a batch of n parts.

    Attributes:
        near: slopes of the lines through 0, in [0, 1] from left to right, (n, u) by layer.
        kept: multipliers of ``z >= lower`` where positive, of ``z <= upper`` where negative, (n, u) by layer.
        cuts: multipliers of the cuts, at least 0, (n, k).
    """

    near: Mapping[str, Tensor]
    kept: Mapping[str, Tensor]
    cuts: Tensor

    @staticmethod
    def first(reduced: Reduced, parts: Parts, cuts: Tensor) -> Choices:
        """CROWN's slopes, given multipliers of the cuts (n, k), and no others."""
        layers = [name for name in reduced.layers if reduced.neurons[name].divisible]
        near = {name: (parts.upper[name] > -parts.lower[name]).to(cuts) for name in layers}
        return Choices(near, {name: torch.zeros_like(value) for name, value in near.items()}, cuts)

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Choices:
        """A function of all tensors."""
        near, kept = ({name: function(value) for name, value in each.items()} for each in (self.near, self.kept))
        return Choices(near, kept, function(self.cuts))

    def take(self, index: Tensor | slice) -> Choices:
        """Those of some parts."""
        return self.mapped(lambda value: value[index])

    def where(self, better: Tensor, other: Choices) -> Choices:
        """These on the parts where a condition (n,) holds, others elsewhere."""
        each = better.unsqueeze(1)
        near, kept = (
            {name: torch.where(each, value, its[name]) for name, value in mine.items()}
            for mine, its in ((self.near, other.near), (self.kept, other.kept))
        )
        return Choices(near, kept, torch.where(each, self.cuts, other.cuts))

    @staticmethod
    def joined(several: Sequence[Choices]) -> Choices:
        """Those of several batches, one after the other."""
        near, kept = (
            {name: torch.cat([getattr(each, what)[name] for each in several]) for name in several[0].near}
            for what in ("near", "kept")
        )
        return Choices(near, kept, torch.cat([each.cuts for each in several]))


@dataclass(frozen=True, eq=False)
class LowerBounds:
    """Lower bounds of one sum on each of n parts.

    Attributes:
        lower: proven ones, (n,).
        slope, offset: of linear ones, ``sum >= slope (x - x0) + offset``: (n, columns), (n,).
        arrived: coefficients with which activations were met, (n, u) by layer.
        choices: what they were found with.
    """

    lower: Tensor
    slope: Tensor
    offset: Tensor
    arrived: Mapping[str, Tensor]
    choices: Choices

    def take(self, index: Tensor | slice) -> LowerBounds:
        """Those of some parts."""
        arrived = {name: value[index] for name, value in self.arrived.items()}
        return LowerBounds(self.lower[index], self.slope[index], self.offset[index], arrived, self.choices.take(index))

    def where(self, better: Tensor, other: LowerBounds) -> LowerBounds:
        """These on the parts where a condition (n,) holds, others elsewhere."""
        each = better.unsqueeze(1)
        return LowerBounds(
            torch.where(better, self.lower, other.lower),
            torch.where(each, self.slope, other.slope),
            torch.where(better, self.offset, other.offset),
            {name: torch.where(each, value, other.arrived[name]) for name, value in self.arrived.items()},
            self.choices.where(better, other.choices),
        )

    @staticmethod
    def joined(several: Sequence[LowerBounds]) -> LowerBounds:
        """Those of several batches, one after the other."""
        lower, slope, offset = (
            torch.cat([getattr(each, name) for each in several]) for name in ("lower", "slope", "offset")
        )
        arrived = {name: torch.cat([each.arrived[name] for each in several]) for name in several[0].arrived}
        return LowerBounds(lower, slope, offset, arrived, Choices.joined([each.choices for each in several]))


def lower_bounds(reduced: Reduced, parts: Parts, sums: Sums | None, cuts: Sums, choices: Choices) -> LowerBounds:
    r"""Bounds with given choices.

    With s and c the slope and the constant of CROWN's upper bound of ``-(f - f(x0)) + sum beta t``, f being the sum
    with the cuts added,

    .. math:: f \ge f(x_0) - c - s (x - x_0) - \sum_j \beta_j (z_j(x_0) - \text{end}_j) - e,

    where the ends are lower or upper bounds of z by the sign of beta, and e has the errors of f and, times the
    multipliers, of z.

    Args:
        reduced: the network.
        parts: n parts of its region.
        sums: one for each; None for the average of the cuts with their multipliers for weights.
        cuts: k sums that are asked about only where all of them are at most 0.
        choices: slopes and multipliers.
    """
    if sums is None:
        sums = cuts.combined(choices.cuts / choices.cuts.sum(1, keepdim=True))
    elif len(cuts):
        sums = sums.plus(cuts.combined(choices.cuts))
    lines, on_z, error = {}, {}, sums.error
    paid = torch.zeros_like(sums.center)
    for name, neurons in reduced.neurons.items():
        lines[name] = neurons.lines(parts.lower[name], parts.upper[name], choices.near.get(name))
        if name not in choices.kept:
            continue
        beta = choices.kept[name]
        on_z[name] = beta.unsqueeze(1)
        end = torch.where(beta > 0, parts.lower[name], parts.upper[name])
        paid = paid + (beta * (neurons.center - end)).sum(1)
        error = error + (beta.abs() * (2 * neurons.error + gamma(64) * end.abs())).sum(1)
    met: dict[str, Tensor] = {}
    slope, constant = linear_upper_bound(
        replace(reduced.gains, batch=len(parts)), lines, 1, met=met, on_preactivations=on_z,
        on_activations={name: -value.unsqueeze(1) for name, value in sums.on_activations.items()},
    )  # fmt: skip
    slope = -slope.squeeze(1)
    offset = sums.center - constant.squeeze(1) - paid - error
    lower = offset - largest_on(reduced, parts, -slope.unsqueeze(1)).squeeze(1)
    return LowerBounds(lower, slope, offset, {name: -value.squeeze(1) for name, value in met.items()}, choices)


def optimised_bounds(
    reduced: Reduced,
    parts: Parts,
    sums: Sums | None,
    cuts: Sums,
    choices: Choices,
    steps: int,
    enough: float = math.inf,
) -> LowerBounds:
    """Bounds with choices that gradient steps have found, the best of all that were met; never below the first ones.

    Args:
        reduced: the network.
        parts: n parts of its region.
        sums: as for `lower_bounds`.
        cuts: as there.
        choices: what to begin with.
        steps: how many steps of Adam; all choices are projected to where they are valid after every one.
        enough: bounds above this need not get better.

    Source:
        Kingma, Ba: Adam, ICLR 2015, arXiv:1412.6980.
    """
    with torch.no_grad():
        first = lower_bounds(reduced, parts, sums, cuts, choices)
        if not steps or bool((first.lower > enough).all()):
            return first
        small = (
            parts.mapped(Tensor.float),
            None if sums is None else sums.mapped(Tensor.float),
            cuts.mapped(Tensor.float),
        )
        tried = _searched(reduced.single, *small, choices.mapped(Tensor.float), steps, enough)
        found = lower_bounds(reduced, parts, sums, cuts, tried.mapped(Tensor.double))
        return found.where(found.lower > first.lower, first)


@torch.enable_grad()
def _searched(
    reduced: Reduced, parts: Parts, sums: Sums | None, cuts: Sums, choices: Choices, steps: int, enough: float
) -> Choices:
    """The best choices that gradient steps meet."""
    variables = choices.mapped(lambda value: value.detach().clone().requires_grad_(True))
    moved = [*variables.near.values(), *variables.kept.values(), variables.cuts]
    rates = [_SLOPE_STEP] * len(variables.near) + [_MULTIPLIER_STEP] * len(variables.kept) + [_CUT_STEP]
    descent = Descent(moved, rates, betas=(0.9, 0.99))
    best, value = choices, torch.full_like(parts.box[0][:, 0], -math.inf)
    for step in range(steps + 1):
        lower = lower_bounds(reduced, parts, sums, cuts, variables).lower
        better = lower.detach() > value
        value = torch.where(better, lower.detach(), value)
        best = variables.mapped(Tensor.detach).where(better, best)
        if step == steps or bool((value > enough).all()):
            return best
        for each in moved:
            each.grad = None
        (-lower.sum()).backward()
        descent.step(_DECAY)
        _project(variables, parts, sums is None)
    return best


@torch.no_grad()
def _project(variables: Choices, parts: Parts, average: bool) -> None:
    """Move choices to the nearest ones that are valid."""
    for value in variables.near.values():
        value.clamp_(0.0, 1.0)
    for name, value in variables.kept.items():
        above, below = parts.lower[name] >= 0, parts.upper[name] <= 0
        value.copy_(torch.where(above, value.clamp(min=0.0), torch.where(below, value.clamp(max=0.0), 0.0)))
    cuts = variables.cuts
    if average:  # weights add up to 1; those that have all become 0 are equal again
        cuts.clamp_(min=0.0)
        total = cuts.sum(1, keepdim=True)
        cuts.copy_(torch.where(total > 0, cuts / total.clamp(min=torch.finfo(cuts.dtype).tiny), 1 / cuts.shape[1]))
    else:
        cuts.clamp_(min=0.0)


def sums_of(
    reduced: Reduced,
    later: str,
    index: Tensor,  # shape: (n,)
) -> Sums:
    """Pre-activations of a layer, or rows (`ROWS`), by position, as sums over what lies before them.

    Args:
        reduced: the network.
        later: a layer, or `ROWS`.
        index: which of its neurons, or rows.
    """
    if later in reduced.neurons:
        center, error = reduced.neurons[later].center, reduced.neurons[later].error
    else:
        center, error = reduced.center, reduced.row_error
    blocks = reduced.gains.blocks
    on = {earlier: blocks[end, earlier][0][index] for end, earlier in blocks if end == later}
    return Sums(center[0][index], error.expand_as(center)[0][index], on)


def nothing(reduced: Reduced) -> Sums:
    """No sums at all: for cuts where there are none."""
    none = reduced.center.new_zeros(0)
    blocks = reduced.gains.blocks
    ends = {earlier: blocks[later, earlier].shape[2] for later, earlier in blocks}
    return Sums(none, none, {earlier: none.reshape(0, 1).expand(0, count) for earlier, count in ends.items()})
