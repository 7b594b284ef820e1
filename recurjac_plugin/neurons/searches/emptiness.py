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
from recurjac_plugin.neurons.contraction import Contraction, smaller_boxes
from recurjac_plugin.neurons.optimised import WITH_GRADIENT, Choices, LowerBounds, Sums, optimised_bounds, sums_of
from recurjac_plugin.neurons.parts import Parts
from recurjac_plugin.neurons.programs import Programs, joined_intervals, numbers
from recurjac_plugin.neurons.reduced import Reduced

from .branching import TRIED, chosen_neurons, sides

_ROOT_STEPS, _STEPS = 20, 10  # of the optimisation, on the whole region and on each part
_LAST_STEPS = 100  # on a part of a ball in which nothing is left to branch on
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
        elif self._worth and self._affords(self._price(self._whole, self._round_steps)):
            self._contract_whole(over)
        else:
            self._branch(over)

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

    @property
    def _round_steps(self) -> int:
        """Steps of the next round on the whole region."""
        return _ROUND if self._rounds else _FIRST_ROUND

    def _contract_whole(self, over: Callable[[], bool]) -> None:
        """A round of contraction of the whole region, which all waiting parts are parts of."""
        assert self._bounds is not None
        before, bounds = self._whole, self._bounds
        self._whole, self._bounds = self._contracted_parts(before, bounds, self._round_steps, over, whole=True)
        self._rounds += 1
        if bool(self._whole.empty()) or float(self._bounds.lower) > 0:
            self._waiting = []
            return
        width, width_before = (_width(parts, before.undecided(self.reduced)) for parts in (self._whole, before))
        self._worth = width < (1 - _WORTH) * width_before

    def _contracted_parts(
        self, parts: Parts, bounds: LowerBounds, steps: int, over: Callable[[], bool], whole: bool = False
    ) -> tuple[Parts, LowerBounds]:
        """Parts after a round of contraction, and bounds on them that are no worse than before."""
        work = self.work
        self.work += self._price(parts, steps)
        parts = self._contraction.round(smaller_boxes(parts, bounds), steps, over, whole)
        found = self._bounded(parts, bounds.choices, _ROOT_STEPS if whole else _STEPS)
        self._contracted += self.work - work
        return parts, replace(found, lower=torch.maximum(found.lower, bounds.lower))

    def _bounded(self, parts: Parts, choices: Choices, steps: int) -> LowerBounds:
        """Bounds of the rows' average on parts."""
        self.parts += len(parts)
        self.work += len(parts) * self.reduced.evaluation * WITH_GRADIENT * steps
        return optimised_bounds(self.reduced, parts, None, self.cuts, choices, steps, enough=0.0)

    def _branch(self, over: Callable[[], bool]) -> None:
        """Both sides of a neuron of each of the worst parts, the very worst of which are contracted before."""
        parts, bounds = self._next(self.batch)
        worst = slice(0, max(1, self.batch // 8))
        if len(parts) and self._affords(self._price(parts.take(worst), _ROUND)):
            rest = slice(worst.stop, None)
            some, theirs = self._contracted_parts(parts.take(worst), bounds.take(worst), _ROUND, over)
            parts = Parts.joined([some, parts.take(rest)])
            bounds = LowerBounds.joined([theirs, bounds.take(rest)])
        parts, bounds = self._undecided(*_open(parts, bounds))
        if not len(parts):
            self._keep(parts, bounds)
            return
        neuron = chosen_neurons(self.reduced, parts, bounds, None, self.cuts)
        both = torch.arange(len(parts), device=neuron.device).repeat(2)
        halves, known = sides(self.reduced, parts, neuron), bounds.take(both)
        found = self._bounded(halves, known.choices, _STEPS)
        self.work += 2 * len(parts) * TRIED * self.reduced.evaluation
        self._keep(halves, replace(found, lower=torch.maximum(found.lower, known.lower)))

    def _undecided(self, parts: Parts, bounds: LowerBounds) -> tuple[Parts, LowerBounds]:
        """Those parts that have undecided neurons; of the others linear programs say whether anything lies in them.

        These know the box around a ball only. But what is left of a ball is convex: good multipliers leave no gap.
        """
        undecided = parts.all_undecided(self.reduced).any(1)
        lower, upper = joined_intervals(parts, self.reduced.layers)
        low, high = (numbers(end) for end in parts.box)
        answers = {
            i: self._programs.solve(lower[i], upper[i], (low[i], high[i]))
            for i in (~undecided).nonzero().squeeze(1).tolist()
        }
        left = undecided.new_tensor([i for i, answer in answers.items() if not answer.empty], dtype=torch.long)
        if len(left) and any(region.norm != math.inf for region in self.reduced.regions):
            found = self._bounded(parts.take(left), bounds.choices.take(left), _LAST_STEPS)
            left = left[~(found.lower > 0)]
        self.stuck = self.stuck or bool(len(left))  # all neurons have a side: what lies there violates, up to rounding
        points = [point for i in left.tolist() if (point := answers[i].point) is not None]
        if points:
            self.nearest = torch.stack([torch.from_numpy(point).to(parts.box[0]) for point in points])
        some = undecided.nonzero().squeeze(1)
        return parts.take(some), bounds.take(some)

    @cached_property
    def _programs(self) -> Programs:
        return Programs(self.reduced, self.cuts)

    def _keep(self, parts: Parts, bounds: LowerBounds) -> None:
        """Put those parts that are not done with among those that wait, the worst first."""
        parts, bounds = _open(parts, bounds)
        order = bounds.lower.argsort(stable=True)
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
        return _open(parts.within(self._whole), bounds)


def _open(parts: Parts, bounds: LowerBounds) -> tuple[Parts, LowerBounds]:
    """Those parts that are not done with."""
    left = (~(bounds.lower > 0) & ~parts.empty()).nonzero().squeeze(1)
    return parts.take(left), bounds.take(left)


def _width(parts: Parts, chosen: Mapping[str, Tensor]) -> float:
    """Sum of the lengths of the intervals of chosen neurons."""
    return sum(float((parts.upper[name] - parts.lower[name])[at].sum()) for name, at in chosen.items())
