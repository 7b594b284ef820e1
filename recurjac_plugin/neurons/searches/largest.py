r"""The largest value of a quantity over a region, between two proven bounds that close in on each other.

A quantity of the Jacobian, such as a norm, is the largest of several *terms*, such as the norms of its rows. An *item*
of the search is a part of the region (`parts`) for one term, and signs of some entries: of a sum of absolute values
``|J_r| = max(J_r, -J_r)``, so either sign may be taken for both, and the sum is linear where all are chosen. The items
with the largest bounds are cut in two: at a neuron's kink, at the sign of an entry, or in the middle of an input. The
bounds of the halves of a few candidates decide where. Items in which nothing lies, by their intervals or by a linear
program (`programs`), and those whose bound is below what some point reaches, are done with.

Points come from the linear programs, and from climbing. What is proven below is the value at a point whose neurons are
all away from their kinks (`points`).

Source: own; branch and bound for exact constants by patterns is that of Bhowmick, D'Souza, Raghavan: LipBaB, ICANN
2021, arXiv:2105.05495, there on intervals of weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from recurjac_plugin.errors import InputError
from recurjac_plugin.neurons.parts import Parts
from recurjac_plugin.neurons.points import BestPoints, refuse_without_pieces, without_pieces
from recurjac_plugin.neurons.programs import Programs, joined_intervals, numbers
from recurjac_plugin.neurons.reduced import Reduced
from recurjac_plugin.neurons.tightening import tightened

_POPPED = 32  # items that are cut at once
_NEURONS, _ENTRIES, _INPUTS = 4, 2, 1  # candidates of each kind that are tried before one is cut
_FEW_INPUTS = 20  # more are not cut: halves of one of many change nothing
_WORTH_A_SIGN = 0.01  # part of the bound that a chord adds, from which on signs are candidates beside neurons
# How many cuts a linear program waits for, by the rate of those that showed a part to be empty, of so many.
_RATES, _REMEMBERED = ((0.3, 1), (0.1, 2), (0.03, 4), (0.0, 8)), 64
_MOST_BYTES = 2**29  # of all items that wait


class Above(NamedTuple):
    """Upper bounds of terms on parts, and what they are worth cutting at.

    Attributes:
        upper: (n,).
        neurons: how much the bound may gain by a side of each neuron, layer after layer: (n, count).
        entries: the same for the sign of each entry: (n, columns).
        inputs: the same for halves of each input: (n, inputs).
    """

    upper: Tensor
    neurons: Tensor
    entries: Tensor
    inputs: Tensor


class Quantity(Protocol):
    """What is made as large as it can be: of each of several groups, the largest of the terms that belong to it."""

    @property
    def groups(self) -> Tensor:
        """The group of each term, (terms,)."""

    @property
    def entries(self) -> int:
        """How many entries of a term have signs that may be chosen; 0 for none."""

    def above(self, parts: Parts, terms: Tensor, signs: Tensor, scored: bool) -> Above:
        """Upper bounds of terms (n,) on n parts, signs of entries being -1, 1, or 0 for any; with scores if asked."""

    def below(self, jacobian: Tensor) -> Tensor:
        """Lower bounds, for exact Jacobians at n points with proven room for their errors: (n, groups)."""


GAP, BUDGET = 0.01, 60.0
"""Where neither is given: how close the bounds are to come, and for how many seconds to try."""


def effort_of(gap: float | None, budget: float | None) -> tuple[float, float]:
    """The gap to reach, and the seconds to try.

    Raises:
        InputError: one of them is no number of at least 0.
    """
    for name, value in (("gap", gap), ("budget", budget)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0):
            raise InputError(f"`{name}` must be a number of at least 0, got {value!r}.")
    if gap is None and budget is None:
        return GAP, BUDGET
    return (0.0 if gap is None else float(gap)), (math.inf if budget is None else float(budget))


@dataclass(frozen=True, eq=False)
class Effort:
    """When a search ends.

    Attributes:
        gap: where upper <= (1 + gap) lower in every group.
        deadline: by `time.perf_counter`.
        goal: of every group, (groups,): it is done with, too, where its upper bound is at most this, or its lower bound
            above it; None for no goals.
        most: number of items after which it ends; None for any.
    """

    gap: float
    deadline: float
    goal: Tensor | None = None
    most: int | None = None


class Progress(NamedTuple):
    """How far a search has come: seconds, parts, and the bounds of every group, (groups,) each."""

    seconds: float
    parts: int
    lower: Tensor
    upper: Tensor


@dataclass(frozen=True, eq=False)
class Found:
    """What a search ends with.

    Attributes:
        lower, upper: proven bounds of every group's largest value, (groups,).
        points: where the lower ones were met, as distances from the centre, (groups, columns).
        parts: how many were bounded.
        seconds: how long it took.
    """

    lower: Tensor
    upper: Tensor
    points: Tensor
    parts: int
    seconds: float


_PER_ITEM = ("terms", "signs", "upper", "witnessed", "cuts")


@dataclass(frozen=True, eq=False)
class _Items:
    """n items: parts for a term, with signs of entries and bounds.

    Attributes:
        witnessed: whether something is known to lie in the part.
        cuts: how often it was cut since a linear program was last asked.
    """

    parts: Parts
    terms: Tensor
    signs: Tensor
    upper: Tensor
    witnessed: Tensor
    cuts: Tensor
    scores: tuple[Tensor, Tensor, Tensor]

    def __len__(self) -> int:
        return len(self.terms)

    def take(self, index: Tensor | slice) -> _Items:
        neurons, entries, inputs = (each[index] for each in self.scores)
        terms, signs, upper, witnessed, cuts = (getattr(self, name)[index] for name in _PER_ITEM)
        return _Items(self.parts.take(index), terms, signs, upper, witnessed, cuts, (neurons, entries, inputs))

    @staticmethod
    def joined(items: list[_Items]) -> _Items:
        if len(items) == 1:
            return items[0]
        terms, signs, upper, witnessed, cuts = (
            torch.cat([getattr(each, name) for each in items]) for name in _PER_ITEM
        )
        neurons, entries, inputs = (torch.cat(each) for each in zip(*(item.scores for item in items)))
        parts = Parts.joined([each.parts for each in items])
        return _Items(parts, terms, signs, upper, witnessed, cuts, (neurons, entries, inputs))


@torch.no_grad()
def largest_value(
    reduced: Reduced,
    quantity: Quantity,
    effort: Effort,
    seen: Callable[[Progress], bool | None] | None = None,
) -> Found:
    """Search until the bounds are as close as is asked for, or time is up.

    Args:
        reduced: the network over the region, all neurons of which have two linear pieces.
        quantity: what is asked for.
        effort: when to end.
        seen: called after every step; the search ends where it says so by True.

    Raises:
        UnsupportedError: there are neurons without two linear pieces.
    """
    refuse_without_pieces(without_pieces(reduced), "Bound smaller regions instead.")
    search = _Search(reduced, quantity, effort)
    while search.step():
        if seen is not None and seen(search.progress()):
            break
    return search.found()


class _Search:
    def __init__(self, reduced: Reduced, quantity: Quantity, effort: Effort) -> None:
        self.start = time.perf_counter()
        self.reduced, self.quantity, self.effort = reduced, quantity, effort
        self.programs = Programs(reduced)
        groups, like = int(quantity.groups.max()) + 1, reduced.center
        self.best = BestPoints(reduced, quantity.below, groups)
        self.closed = like.new_full((groups,), -torch.inf)  # bounds of items that nothing is left to cut in
        self.count, self.rate = 0, 0.1
        self.best.climb(effort.deadline)
        terms = torch.arange(len(quantity.groups), device=like.device)
        whole = Parts.whole(reduced).take(torch.zeros_like(terms))
        signs = like.new_zeros(len(terms), quantity.entries, dtype=torch.int8)
        none = like.new_zeros(len(terms))
        blank = _Items(whole, terms, signs, none + torch.inf, none > 1, none, (none, none, none))
        self.items = self._bounded(blank)

    def progress(self) -> Progress:
        return Progress(time.perf_counter() - self.start, self.count, self.best.lower, self.upper)

    def found(self) -> Found:
        return Found(self.best.lower, self.upper, self.best.points, self.count, time.perf_counter() - self.start)

    @property
    def upper(self) -> Tensor:
        """The upper bound of every group: of its items that wait or are closed, and no less than its lower bound."""
        upper = torch.maximum(self.best.lower, self.closed)
        group = self.quantity.groups[self.items.terms]
        return upper.scatter_reduce(0, group, self.items.upper, "amax")

    def _limit(self, terms: Tensor) -> Tensor:
        """What items of these terms need not be searched below."""
        limit = (1 + self.effort.gap) * self.best.lower
        if self.effort.goal is not None:
            limit = torch.where(self.best.lower > self.effort.goal, torch.inf, torch.maximum(limit, self.effort.goal))
        return limit[self.quantity.groups[terms]]

    def step(self) -> bool:
        """Cut the items with the largest bounds; False where the search ends."""
        self.items = self._worth(self.items)
        now = time.perf_counter()
        full = len(self.items) * 24 * (self.reduced.count + self.reduced.gains.columns) > _MOST_BYTES or self.count >= (
            self.effort.most or self.count + 1
        )
        if not len(self.items) or now >= self.effort.deadline or full:
            return False
        excess = self.items.upper / self._limit(self.items.terms).clamp(min=torch.finfo(torch.float64).tiny)
        if self.effort.goal is not None:  # groups that are nearest to their goals come first
            group = self.quantity.groups[self.items.terms]
            excess = excess - 2 * torch.zeros_like(self.closed).scatter_reduce(0, group, excess, "amax")[group]
        first = excess.topk(min(_POPPED, len(self.items))).indices
        rest = first.new_ones(len(self.items), dtype=torch.bool)
        rest[first] = False
        popped, waiting = self._not_empty(self.items.take(first))
        kept = [self.items.take(rest), *waiting]
        popped = self._worth(popped)
        if len(popped):
            kept.append(self._halves(popped))
        self.items = _Items.joined(kept)
        return True

    def _worth(self, items: _Items) -> _Items:
        """Those that may be larger than what some point reaches; what the others are bounded by is remembered."""
        worth = items.upper > self._limit(items.terms)
        if bool(worth.all()):
            return items
        self._close(items.take(~worth))
        return items.take(worth)

    def _close(self, items: _Items) -> None:
        group = self.quantity.groups[items.terms]
        self.closed = self.closed.scatter_reduce(0, group, items.upper, "amax")

    def _not_empty(self, items: _Items) -> tuple[_Items, list[_Items]]:
        """Items in which something may lie, and those that there was no time for; points that are found are tried."""
        lower, upper = joined_intervals(items.parts, self.reduced.layers)
        low, high = (numbers(end) for end in items.parts.box)
        decided = ~items.parts.all_undecided(self.reduced).any(1)
        wait = next(cuts for rate, cuts in _RATES if self.rate >= rate)
        asked = ~items.witnessed & ((items.cuts >= wait) | decided)
        items = replace(items, cuts=torch.where(asked, 0, items.cuts))
        at_once, keep, points, index = asked.tolist(), [True] * len(items), list[Tensor](), 0
        for index in range(len(items)):
            if time.perf_counter() >= self.effort.deadline:
                index -= 1
                break
            if not at_once[index]:
                continue
            answer = self.programs.solve(lower[index], upper[index], (low[index], high[index]))
            keep[index] = not answer.empty
            self.rate += (float(answer.empty) - self.rate) / _REMEMBERED
            if answer.point is not None:
                points.append(torch.from_numpy(answer.point).to(self.closed))
        if points:
            self.best.tried(torch.stack(points))
        done = torch.arange(len(items), device=items.terms.device) <= index
        late = [] if bool(done.all()) else [items.take(~done)]
        return items.take(done & torch.tensor(keep, device=done.device)), late

    def _halves(self, items: _Items) -> _Items:
        """Both halves of every item, cut where it pays most; those with nothing left to cut are closed."""
        candidates = self._candidates(items)
        possible = torch.stack([valid for valid, _ in candidates]).any(0)
        if not bool(possible.all()):
            self._close(items.take(~possible))
            items = items.take(possible)
            candidates = [(valid[possible], where[possible]) for valid, where in candidates]
        if not len(items):
            return items
        tried, gains = list[tuple[_Items, _Items]](), []
        floor = self._limit(items.terms)
        before = items.upper - floor
        for valid, where in candidates:
            first, second = self._cut(items, where)
            both = self._upper(_Items.joined([first, second])).chunk(2)
            gain = [(before - (each - floor).clamp(min=0)).maximum(1e-6 * before) for each in both]
            gains.append(torch.where(valid, gain[0] * gain[1], -1.0))
            tried.append((first, second))
        best = torch.stack(gains).argmax(0)
        chosen = [
            half.take((best == number).nonzero().squeeze(1)) for number, pair in enumerate(tried) for half in pair
        ]
        return self._bounded(_Items.joined([each for each in chosen if len(each)]))

    def _candidates(self, items: _Items) -> list[tuple[Tensor, Tensor]]:
        """For every item where it may be cut, as (valid, position among neurons, entries and inputs), (n,) each."""
        neurons, entries, inputs = items.scores
        open_neurons = items.parts.all_undecided(self.reduced)
        ranked = [(neurons.masked_fill(~open_neurons, -1.0), _NEURONS, 0)]
        small = open_neurons.any(1, keepdim=True) & (entries < _WORTH_A_SIGN * items.upper.unsqueeze(1))
        chosen = entries.masked_fill(small | (items.signs != 0) | (entries == 0), -1.0)
        ranked.append((chosen, _ENTRIES, neurons.shape[1]))
        if inputs.shape[1] <= _FEW_INPUTS:
            ranked.append((inputs - 1e-300, _INPUTS, neurons.shape[1] + entries.shape[1]))
        found = []
        for score, most, offset in ranked:
            if not score.shape[1]:
                continue
            top = score.topk(min(most, score.shape[1]), 1)
            for value, where in zip(top.values.unbind(1), top.indices.unbind(1)):
                if bool((value >= 0).any()):
                    found.append((value >= 0, where + offset))
        none = torch.zeros_like(items.terms)
        return found or [(none > 0, none)]

    def _cut(self, items: _Items, where: Tensor) -> tuple[_Items, _Items]:
        """Both halves of every item, (n,) each, at a neuron, the sign of an entry, or an input."""
        count, entries = items.scores[0].shape[1], items.scores[1].shape[1]
        at = where.unsqueeze(1)
        number = torch.arange(sum(each.shape[1] for each in items.scores), device=where.device)
        start, ends = 0, [dict(items.parts.lower), dict(items.parts.upper)]
        for layer in self.reduced.layers:
            size = ends[0][layer].shape[1]
            hit = number[start : start + size] == at
            ends[0][layer] = torch.where(hit, ends[0][layer].clamp(min=0.0), ends[0][layer])
            ends[1][layer] = torch.where(hit, ends[1][layer].clamp(max=0.0), ends[1][layer])
            start += size
        sign = (number[count : count + entries] == at).to(torch.int8)
        hit = number[count + entries :] == at
        low, high = items.parts.box
        middle = torch.where(hit, (low + high) / 2, 0.0) if hit.shape[1] == low.shape[1] else low
        up = torch.where(hit, middle, low) if hit.shape[1] == low.shape[1] else low
        down = torch.where(hit, middle, high) if hit.shape[1] == low.shape[1] else high
        on_neuron = where < count
        cuts = items.cuts + (on_neuron | (where >= count + entries))
        same = items.witnessed & ~on_neuron & (where < count + entries)  # the part itself is not cut
        first = replace(items, parts=Parts(ends[0], items.parts.upper, (up, high)), signs=items.signs + sign,
                        witnessed=same, cuts=cuts)  # fmt: skip
        second = replace(items, parts=Parts(items.parts.lower, ends[1], (low, down)), signs=items.signs - sign,
                         witnessed=same, cuts=cuts)  # fmt: skip
        return first, second

    def _chunks(self, items: _Items) -> list[_Items]:
        """Items in batches whose matrices fit into memory."""
        each = 4 * (self.reduced.count + self.reduced.gains.rows) * self.reduced.gains.columns
        size = max(1, _MOST_BYTES // (8 * each))
        return [items.take(slice(start, start + size)) for start in range(0, len(items), size)]

    def _upper(self, items: _Items) -> Tensor:
        above = [self.quantity.above(each.parts, each.terms, each.signs, False).upper for each in self._chunks(items)]
        return torch.fmin(items.upper, torch.cat(above))

    def _bounded(self, items: _Items) -> _Items:
        """Items with tightened intervals and bounds, without those that are empty or not worth it."""
        self.count += len(items)
        return _Items.joined([self._bounded_chunk(each) for each in self._chunks(items)])

    def _bounded_chunk(self, items: _Items) -> _Items:
        parts = tightened(self.reduced, items.parts)
        there = ~parts.empty()
        items, parts = items.take(there), parts.take(there)
        above = self.quantity.above(parts, items.terms, items.signs, True)
        scores = (above.neurons, above.entries, above.inputs)
        return self._worth(replace(items, parts=parts, upper=torch.fmin(items.upper, above.upper), scores=scores))
