r"""Branch and bound over signs of neurons: no point of a region has all of some rows at most 0.

1. Bound the average of the rows with the best weights, on the whole region (`optimised`). A positive bound is a proof.
2. Branch (`branching`): both sides of one neuron of the worst parts, bounded with what their parents had found.
3. Contract (`contraction`), as soon as branching has taken as much work as that will: the whole region, as long as its
   intervals get smaller by that, and then the worst parts. So it takes at most twice the work of the better of both.

A part is done with when its bound is positive or its intervals are empty. Every point of the region lies in one of its
sides, so the rows are nowhere all at most 0 once no part waits. Work is counted in multiplications: nothing depends on
time but a deadline.

Source: own; branching on neurons with the multipliers of beta-CROWN, Wang et al., NeurIPS 2021, arXiv:2103.06624.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from recurjac_plugin.gains.pull import ROWS

from .branching import TRIED, chosen_neurons, sides
from .contraction import Contraction, smaller_boxes
from .optimised import WITH_GRADIENT, Choices, LowerBounds, Sums, optimised_bounds, sums_of
from .parts import Parts
from .programs import Programs, joined_intervals
from .reduced import Reduced

_ROOT_STEPS, _STEPS = 20, 10  # of the optimisation, on the whole region and on each part
_FIRST_ROUND, _ROUND = 10, 5  # of that of each neuron's bounds: the first round, and later ones
_WORTH = 0.02  # part by which the intervals must get smaller for another round on the whole region
_BATCH = 2**31  # multiplications of a batch: about half a second
_LEAST, _MOST = 4, 512  # parts in a batch
_WAITING = 2**30  # bytes that waiting parts may take before the best ones come first


class Emptiness:
    """Shows that the rows of a network are nowhere all at most 0 on a region.

    Args:
        reduced: the network over the region; all its undetermined neurons have two sides.
        rows: positions of its rows, (k,).
        above: what is subtracted from them: right sides, and room for what is not in their proven errors, (k,).
        memory_budget: bytes that a chunk of bounds may take.

    Attributes:
        parts: how many parts were bounded so far.
        work: how many multiplications that took, about.
        stuck: whether a part is left that nothing can be done about.
        bound: the least bound of a part that waits; 0 if none does.
        nearest: where linear bounds of the last parts are least, (m, columns), as distances from the centre.
    """

    def __init__(self, reduced: Reduced, rows: Tensor, above: Tensor, memory_budget: int) -> None:
        self.reduced = reduced
        cuts = sums_of(reduced, ROWS, rows)
        self.cuts = Sums(cuts.center - above, cuts.error, cuts.on_activations)
        self._contraction = Contraction(reduced, self.cuts, memory_budget)
        self._whole = Parts.whole(reduced)
        self._bounds: LowerBounds | None = None  # of the whole region
        self._waiting: list[tuple[Parts, LowerBounds]] = []  # in batches, each worst first
        self._rounds, self._worth = 0, True  # of contraction of the whole region; whether another one is worth its work
        self._contracted = 0.0  # work that went into contraction
        self.parts, self.work, self.stuck = 0, 0.0, False
        self.bound = -math.inf
        self.nearest = reduced.center.new_zeros(0, reduced.gains.columns)
        self._per_part = reduced.evaluation * (WITH_GRADIENT * _STEPS + TRIED)
        self.batch = int(min(max(_BATCH // max(2 * self._per_part, 1.0), _LEAST), _MOST))
        bytes_of_part = 8 * (5 * reduced.count + 3 * reduced.gains.columns)
        self._most = max(_WAITING // bytes_of_part, self.batch)

    @property
    def proved(self) -> bool:
        """Whether no part is left."""
        return self._bounds is not None and not self._waiting and not self.stuck

    def step(self, over: Callable[[], bool]) -> None:
        """The next bounds, round of contraction, or batch of parts.

        Args:
            over: asked now and then whether to stop.
        """
        if self._bounds is None:
            self._begin()
        elif not self._waiting or self.stuck:
            return
        elif self._worth:
            price = self._price(self._whole, _FIRST_ROUND if not self._rounds else _ROUND)
            if self._affords(price):
                self._contract_whole(over)
            else:
                self._branch()
        else:
            parts, bounds = self._next(max(1, self.batch // 8))
            price = self._price(parts, _ROUND)
            if self._affords(price):
                self._contract(parts, bounds, over)
            else:
                self._keep(parts, bounds)
                self._branch()

    def _begin(self) -> None:
        """Bound the whole region."""
        count = len(self.cuts)
        weights = self.cuts.center.new_full((1, count), 1 / count)
        self._bounds = self._bounded(self._whole, Choices.first(self.reduced, self._whole, weights), _ROOT_STEPS)
        self._keep(self._whole, self._bounds)

    def _affords(self, price: float) -> bool:
        """Whether contraction, which has something to do, stays at half of the work."""
        return 0 < price <= self.work - 2 * self._contracted

    def _price(self, parts: Parts, steps: int) -> float:
        """Multiplications that a round of contraction of some parts takes."""
        return Contraction.price(self.reduced, parts, steps)

    def _contract_whole(self, over: Callable[[], bool]) -> None:
        """A round of contraction of the whole region, which all waiting parts are parts of."""
        assert self._bounds is not None
        steps = _FIRST_ROUND if not self._rounds else _ROUND
        before, price = self._whole, self._price(self._whole, steps)
        self._whole = self._contraction.round(smaller_boxes(before, self._bounds), steps, over, whole=True)
        self._contracted, self.work = self._contracted + price, self.work + price
        self._rounds += 1
        if bool(self._whole.empty()):
            self._waiting = []
            return
        self._bounds = self._bounded(self._whole, self._bounds.choices, _ROOT_STEPS)
        if float(self._bounds.lower) > 0:
            self._waiting = []
        width, width_before = (_width(parts, before.undecided(self.reduced)) for parts in (self._whole, before))
        self._worth = width < (1 - _WORTH) * width_before

    def _contract(self, parts: Parts, bounds: LowerBounds, over: Callable[[], bool]) -> None:
        """A round of contraction of each of some parts."""
        price = self._price(parts, _ROUND)
        parts = self._contraction.round(smaller_boxes(parts, bounds), _ROUND, over)
        self._contracted, self.work = self._contracted + price, self.work + price
        found = self._bounded(parts, bounds.choices, _STEPS)
        self._keep(parts, replace(found, lower=torch.maximum(found.lower, bounds.lower)))

    def _bounded(self, parts: Parts, choices: Choices, steps: int) -> LowerBounds:
        """Bounds of the rows' average on parts."""
        self.parts += len(parts)
        self.work += len(parts) * self.reduced.evaluation * WITH_GRADIENT * steps
        return optimised_bounds(self.reduced, parts, None, self.cuts, choices, steps, enough=0.0)

    def _branch(self) -> None:
        """Both sides of a neuron of each of the worst parts."""
        parts, bounds = self._next(self.batch)
        if not len(parts):
            return
        parts, bounds = self._without_decided(parts, bounds)
        if not len(parts):
            return
        neuron = chosen_neurons(self.reduced, parts, bounds, None, self.cuts)
        both = torch.arange(len(parts)).repeat(2)
        halves, known = sides(self.reduced, parts, neuron), bounds.take(both)
        found = self._bounded(halves, known.choices, _STEPS)
        self.work += 2 * len(parts) * TRIED * self.reduced.evaluation
        self._keep(halves, replace(found, lower=torch.maximum(found.lower, known.lower)))

    def _without_decided(self, parts: Parts, bounds: LowerBounds) -> tuple[Parts, LowerBounds]:
        """Those parts that have undecided neurons; of the others linear programs say whether anything lies in them."""
        undecided = [*parts.undecided(self.reduced).values()]
        count = torch.cat(undecided, 1).sum(1) if undecided else torch.zeros(len(parts))
        lower, upper = joined_intervals(parts, self.reduced.layers)
        for i in (count == 0).nonzero().squeeze(1).tolist():
            low, high = (end[i].numpy() for end in parts.box)
            answer = self._programs.solve(lower[i], upper[i], (low, high))
            if not answer.empty:
                self.stuck = True  # all neurons have a side: what lies there violates, up to rounding
                if answer.point is not None:
                    self.nearest = torch.from_numpy(answer.point).to(parts.box[0]).unsqueeze(0)
        left = (count > 0).nonzero().squeeze(1)
        return parts.take(left), bounds.take(left)

    @cached_property
    def _programs(self) -> Programs:
        return Programs(self.reduced, self.cuts)

    def _keep(self, parts: Parts, bounds: LowerBounds) -> None:
        """Put those parts that are not done with among those that wait, the worst first."""
        left = (~(bounds.lower > 0) & ~parts.empty()).nonzero().squeeze(1)
        order = left[bounds.lower[left].argsort(stable=True)]
        for some in order.split(self.batch):
            if len(some):
                self._waiting.append((parts.take(some), bounds.take(some)))
        self._waiting.sort(key=lambda batch: float(batch[1].lower[0]))
        if self._waiting:
            parts, bounds = self._waiting[0]
            self.bound = float(bounds.lower[0])
            self.nearest = torch.where(bounds.slope > 0, *parts.box)
        else:
            self.bound = 0.0

    def _next(self, most: int) -> tuple[Parts, LowerBounds]:
        """A batch of parts: the worst ones, or the best ones where too many wait."""
        few = sum(len(parts) for parts, _ in self._waiting) <= self._most
        taken, count = [], 0
        while self._waiting and count < most:
            parts, bounds = self._waiting.pop(0 if few else -1)
            if len(parts) > most - count:
                first, rest = slice(0, most - count), slice(most - count, None)
                self._waiting.insert(0 if few else len(self._waiting), (parts.take(rest), bounds.take(rest)))
                parts, bounds = parts.take(first), bounds.take(first)
            taken.append((parts, bounds))
            count += len(parts)
        parts, bounds = Parts.joined([parts for parts, _ in taken]), LowerBounds.joined([each for _, each in taken])
        parts = parts.within(self._whole)
        left = (~parts.empty()).nonzero().squeeze(1)
        return parts.take(left), bounds.take(left)


def _width(parts: Parts, chosen: Mapping[str, Tensor]) -> float:
    """Sum of the lengths of the intervals of chosen neurons."""
    return sum(float((parts.upper[name] - parts.lower[name])[at].sum()) for name, at in chosen.items())
