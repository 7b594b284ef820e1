r"""CROWN's substitution with the best lines that can be found: alpha-CROWN on the gains.

Of most functions there is no best line on both sides: every line through 0 with a slope between both pieces lies below
a ReLU, every tangent below a convex function. CROWN takes one of them. Any other gives bounds that hold as well, so
every sum has lines of its own, mixed from a family of n lines L_i in the order of their slopes (`Family`),

.. math:: L = (1 - \theta) L_i + \theta L_{i+1}, \qquad 0 \le \theta \le 1,

and the mixtures are improved by projected gradient descent (Adam). Whatever they are, they lie on their side of the
function; the best bound that was met is the result, that of CROWN's lines among them. With gains in place of weights
one step costs as much as two substitutions between undetermined neurons.

Source: Xu, Zhang, Wang, Wang, Jana, Lin, Hsieh: Fast and Complete: Enabling Complete Neural Network Verification with
Rapid and Massively Parallel Incomplete Verifiers, ICLR 2021, arXiv:2011.13824 (alpha-CROWN), there for the weights of
a network and slopes of ReLU; families of lines, and the gains, are own.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from recurjac_plugin.activations.lines import Relaxation
from recurjac_plugin.numerics.descent import Descent
from recurjac_plugin.numerics.memory import chunk_size
from recurjac_plugin.numerics.region import Region, concretized

from .crown import linear_upper_bound
from .gains import Gains

# Adam's step in units of a family's length, and what it is multiplied with after every step. Slopes of two pieces come
# to both of their ends within a few steps; tangents are near the best from the beginning.
_RATE, _RATE_OF_MANY, _DECAY = 0.5, 0.05, 0.93

# A bound that so many steps do not lower by this part of itself is left at that.
_TRIAL, _WORTH = 4, 5e-3


@dataclass(frozen=True)
class Effort:
    """How long is looked for better lines.

    Attributes:
        steps: steps of gradient descent for every bound that the first few of them improve.
        deadline: when to stop, by `time.monotonic`; bounds are not reproducible, then. None for never.
    """

    steps: int = 20
    deadline: float | None = None

    @property
    def over(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and time.monotonic() >= self.deadline


class Family(NamedTuple):
    """What the lines of one layer are mixed from.

    Attributes:
        start: the lines to begin with, shape (b, u).
        lines: n lines on either side in the order of their slopes, shape (n, b, u); where they are all the same on one
            side there is no choice.
    """

    start: Relaxation
    lines: Relaxation


class UpperBound(NamedTuple):
    """``sum <= slope (x - x0) + constant`` on a region, and the largest value of that.

    Attributes:
        value: shape (b, m).
        slope: shape (b, m, columns).
        constant: shape (b, m).
    """

    value: Tensor
    slope: Tensor
    constant: Tensor

    def better(self, other: UpperBound) -> UpperBound:
        """The lower one of two bounds of every sum."""
        lower = other.value < self.value
        return UpperBound(
            torch.where(lower, other.value, self.value),
            torch.where(lower.unsqueeze(2), other.slope, self.slope),
            torch.where(lower, other.constant, self.constant),
        )


def optimised_upper_bound(
    gains: Gains,
    families: Mapping[str, Family],
    count: int,
    regions: Sequence[Region],
    memory_budget: int,
    effort: Effort,
    *,
    on_activations: Mapping[str, Tensor] | None = None,  # layer or `INPUT` -> (b or 1, m, u)
    on_preactivations: Mapping[str, Tensor] | None = None,  # layer -> (b, m, u)
) -> UpperBound:
    """The best bounds of m sums over a network that are found, as `linear_upper_bound` has them; without gradients.

    Never above those with the lines of the start.

    Source: alpha-CROWN, arXiv:2011.13824, on gains in place of weights.

    Args:
        gains: the exact part.
        families: what lines are mixed from, by layer.
        count: the number of sums, m.
        regions: where the inputs lie.
        memory_budget: bytes for a chunk of sums; the result does not depend on it.
        effort: how long is looked for better lines.
        on_activations: as in `linear_upper_bound`.
        on_preactivations: as in `linear_upper_bound`.
    """
    sums = tuple(
        {name: value.detach() for name, value in (each or {}).items()} for each in (on_activations, on_preactivations)
    )
    met = {name for each in sums for name in each}
    last = max((place for place, name in enumerate(gains.layers) if name in met), default=-1)
    mixtures = {name: _Mixture.of(families[name]) for name in gains.layers[: last + 1]}
    width = gains.columns + 8 * sum(gains.count(name) for name in mixtures)
    size = chunk_size(memory_budget, 4 * gains.batch * width, gains.reference)
    parts = []
    for start in range(0, count, size):
        activations, preactivations = (
            {name: value[:, start : start + size] for name, value in each.items()} for each in sums
        )
        search = _Search(gains, mixtures, regions, min(size, count - start), activations, preactivations)
        parts.append(search.best(effort))
    return parts[0] if len(parts) == 1 else UpperBound(*(torch.cat(each, 1) for each in zip(*parts, strict=True)))


class _Side(NamedTuple):
    """The lines on one side: (n, b, u) each, and where the start stands among them, from 0 to 1, (b, u)."""

    slopes: Tensor
    constants: Tensor
    start: Tensor

    def mixed(
        self,
        share: Tensor,  # shape: (b, m, u)
    ) -> tuple[Tensor, Tensor]:
        """Slope and constant of the mixtures at places from 0 to 1, (b, m, u) each."""
        several = len(self.slopes)
        if several == 2:
            slopes, constants = (torch.lerp(ends[0].unsqueeze(1), ends[1].unsqueeze(1), share) for ends in self[:2])
            return slopes, constants
        place = share * (several - 1)
        index = place.detach().long().clamp(max=several - 2)
        rest = place - index

        def between(ends: Tensor) -> Tensor:
            every = ends.unsqueeze(2).expand(-1, -1, share.shape[1], -1)
            first = every.gather(0, index.unsqueeze(0))[0]
            return first + rest * (every.gather(0, index.unsqueeze(0) + 1)[0] - first)

        return between(self.slopes), between(self.constants)


class _Mixture(NamedTuple):
    """What lines of one layer are mixed from, without gradients: the start, and on either side the choice if any."""

    start: Relaxation
    lower: _Side | None
    upper: _Side | None

    @staticmethod
    def of(family: Family) -> _Mixture:
        start, lines = (each.mapped(Tensor.detach) for each in family)
        return _Mixture(
            start,
            _side(lines.lower_slope, lines.lower_constant, start.lower_slope),
            _side(lines.upper_slope, lines.upper_constant, start.upper_slope),
        )


def _side(slopes: Tensor, constants: Tensor, start: Tensor) -> _Side | None:
    """One side, or None where it has no choice."""
    length = slopes[-1] - slopes[0]
    if not bool((length != 0).any()):
        return None
    place = torch.where(length == 0, 0.0, (start - slopes[0]) / torch.where(length == 0, 1.0, length))
    return _Side(slopes, constants, place.clamp(0, 1))


@dataclass(frozen=True, eq=False)
class _Search:
    """Gradient descent for some sums at once."""

    gains: Gains
    mixtures: Mapping[str, _Mixture]
    regions: Sequence[Region]
    count: int
    on_activations: Mapping[str, Tensor]
    on_preactivations: Mapping[str, Tensor]
    shares: dict[tuple[str, int], Tensor] = field(default_factory=dict)

    def best(self, effort: Effort) -> UpperBound:
        """The best bounds: all steps for the sums that are worth them, every sum and region judged by itself."""
        with torch.no_grad():
            start = self._bound({name: each.start for name, each in self.mixtures.items()})
        trial = self._improved(start, replace(effort, steps=min(effort.steps, _TRIAL)))
        worth = start.value - trial.value > _WORTH * start.value.abs()
        chosen = worth.any(0).nonzero().squeeze(1)
        if effort.steps <= _TRIAL or not len(chosen) or effort.over:
            return trial
        activations, preactivations = (
            {name: value[:, chosen] for name, value in each.items()}
            for each in (self.on_activations, self.on_preactivations)
        )
        search = _Search(self.gains, self.mixtures, self.regions, len(chosen), activations, preactivations)
        rest = search._improved(UpperBound(*(each[:, chosen] for each in trial)), effort)
        for mine, its in zip(trial, rest, strict=True):
            where = worth[:, chosen].reshape(*its.shape[:2], *(1,) * (its.dim() - 2))
            mine[:, chosen] = torch.where(where, its, mine[:, chosen])
        return trial

    def _improved(self, best: UpperBound, effort: Effort) -> UpperBound:
        """Bounds by some steps from the start, or those that are given where these are better; tensors of its own."""
        best = UpperBound(*(each.clone() for each in best))
        for name, each in self.mixtures.items():
            for place, side in enumerate(each[1:]):
                if side is not None:
                    wide = side.start.unsqueeze(1).expand(-1, self.count, -1)
                    self.shares[name, place] = wide.clone().requires_grad_()
        if not self.shares or not effort.steps:
            return best
        shares = [*self.shares.values()]
        descent = Descent(shares, self._rates())
        with torch.enable_grad():
            for _ in range(effort.steps):
                if effort.over:
                    return best
                found = self._bound(self._lines())
                total = found.value.sum()
                if not total.requires_grad:  # no line is met
                    return best
                best = best.better(UpperBound(*(each.detach() for each in found)))
                for share, gradient in zip(shares, torch.autograd.grad(total, shares, allow_unused=True), strict=True):
                    share.grad = None if gradient is None else gradient.nan_to_num(nan=0.0)
                descent.step(_DECAY)
                with torch.no_grad():
                    for share in shares:
                        share.clamp_(0, 1)
        with torch.no_grad():
            return best.better(self._bound(self._lines()))

    def _rates(self) -> list[float]:
        """Adam's first step for all shares."""
        sides = [side for each in self.mixtures.values() for side in each[1:] if side is not None]
        return [_RATE if len(side.slopes) == 2 else _RATE_OF_MANY for side in sides]

    def _lines(self) -> dict[str, Relaxation]:
        """The lines of all layers, those with a choice mixed, (b, m, u)."""
        lines = {}
        for name, each in self.mixtures.items():
            start = each.start
            sides = [(start.lower_slope, start.lower_constant), (start.upper_slope, start.upper_constant)]
            for place, side in enumerate(each[1:]):
                if side is not None:
                    sides[place] = side.mixed(self.shares[name, place])
            lines[name] = Relaxation(*sides[0], *sides[1])
        return lines

    def _bound(self, lines: Mapping[str, Relaxation]) -> UpperBound:
        slope, constant = linear_upper_bound(
            self.gains, lines, self.count, on_activations=self.on_activations, on_preactivations=self.on_preactivations
        )
        return UpperBound(constant + concretized(self.regions, slope), slope, constant)
