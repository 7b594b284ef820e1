"""Batches of boxes, and the frontier of a search: the boxes that wait for their turn.

A box is ``{x : lower <= x <= upper}``, a part of one of the regions that are searched, with inputs flattened. What a
search has found out about it is carried along, for it holds on every part of the box, too.

Source: halving boxes, worst bound first, is interval branch and bound, e.g. Kearfott: Rigorous Global Search, 1996;
that boxes wait in batches, the depth-first switch and the budgets by region are this package's own.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Generic, TypeVar

import torch
from torch import Tensor

from recurjac_plugin.numerics.intervals import Intervals


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What a goal knows of the boxes of a batch: tensors with one entry per box along their first axis, (n, ...)."""

    def take(self: Known, index: Tensor | slice) -> Known:
        """That of some of the boxes, by position: (n, ...) at an index (m,) -> (m, ...)."""
        return replace(self, **{name: value[index] for name, value in vars(self).items()})

    @staticmethod
    def joined(parts: list[Known]) -> Known:
        """That of several batches, one after the other: (n_i, ...) -> (sum n_i, ...)."""
        fields = {name: torch.cat([vars(part)[name] for part in parts]) for name in vars(parts[0])}
        return replace(parts[0], **fields)


Known = TypeVar("Known", bound=Knowledge)


@dataclass(frozen=True, eq=False)
class Disjuncts(Knowledge):
    """What is known where every disjunct of a property is to be excluded.

    Attributes:
        alive: the disjuncts that no bound has excluded yet, bool (n, d).
        bound: certified lower bound of the distance from a violation, (n,): that of the box it was cut from.
    """

    alive: Tensor
    bound: Tensor


@dataclass(frozen=True, eq=False)
class Directions(Knowledge):
    """What is known where the signs of a Jacobian's entries are to be shown.

    Attributes:
        rises: entries that are nowhere negative on the box, bool (n, k, columns).
        falls: entries that are nowhere positive, likewise.
    """

    rises: Tensor
    falls: Tensor


@dataclass(frozen=True, eq=False)
class Boxes(Generic[Known]):
    """A batch of n boxes ``{x : lower <= x <= upper}``, and what is known about them.

    Attributes:
        region: which region each is a part of, int64 (n,).
        lower: lower ends, (n, columns).
        upper: upper ends, (n, columns).
        known: what the goal of the search knows of each.
        around: pre-activation bounds that hold on the boxes, by node, each of shape (n, *neurons); empty if they are
            not kept.
        axis: the coordinate that each is to be cut across before it is bounded, int64 (n,); None where the boxes are to
            be bounded as they are.

    Source:
        As this module's.
    """

    region: Tensor
    lower: Tensor
    upper: Tensor
    known: Known
    around: Intervals = field(default_factory=dict)
    axis: Tensor | None = None

    def __len__(self) -> int:
        return len(self.lower)

    @property
    def center(self) -> Tensor:
        """Middles ``l + (u - l) / 2``, (n, columns)."""
        return self.lower + (self.upper - self.lower) / 2

    @property
    def radius(self) -> Tensor:
        """Half side lengths ``max(u - center, center - l)``, (n, columns), for the middle may be rounded."""
        center = self.center
        return torch.maximum(self.upper - center, center - self.lower)

    def take(self, index: Tensor | slice) -> Boxes[Known]:
        """Some of them, by position (m,) or slice, or by a mask, bool (n,)."""
        if isinstance(index, Tensor) and index.dtype == torch.bool:
            index = index.nonzero().squeeze(1)  # once for all: a size that depends on values is waited for
        return Boxes(
            self.region[index],
            self.lower[index],
            self.upper[index],
            self.known.take(index),
            {name: (low[index], high[index]) for name, (low, high) in self.around.items()},
            None if self.axis is None else self.axis[index],
        )

    def halves(self) -> Boxes[Known]:
        """Both halves of every box, cut in the middle of its `axis`: 2n boxes, the halves of one box n apart.

        They are the parts ``x_a <= c`` and ``x_a >= c`` with ``c = l_a + (u_a - l_a) / 2``, a the `axis`: they share
        the plane in between, and what is known of the whole. Boxes without an `axis` are returned as they are.
        """
        if self.axis is None:
            return self
        axis = self.axis.unsqueeze(1)
        low, high = self.lower.gather(1, axis), self.upper.gather(1, axis)
        middle = low + (high - low) / 2
        both = self.take(torch.arange(len(self), device=axis.device).repeat(2))
        lower = torch.cat((self.lower, self.lower.scatter(1, axis, middle)))
        upper = torch.cat((self.upper.scatter(1, axis, middle), self.upper))
        return replace(both, lower=lower, upper=upper, axis=None)

    @staticmethod
    def joined(parts: Iterable[Boxes[Known]]) -> Boxes[Known]:
        """All boxes of several batches, of which there is one at least: n_i boxes each -> sum n_i boxes."""
        batches = list(parts)
        if len(batches) == 1:
            return batches[0]
        around = {
            name: (torch.cat([b.around[name][0] for b in batches]), torch.cat([b.around[name][1] for b in batches]))
            for name in batches[0].around
        }
        region, lower, upper = (torch.cat([getattr(b, name) for b in batches]) for name in ("region", "lower", "upper"))
        axes = [b.axis for b in batches if b.axis is not None]
        known = Knowledge.joined([b.known for b in batches])
        return Boxes(region, lower, upper, known, around, torch.cat(axes) if axes else None)


class Frontier(abc.ABC, Generic[Known]):
    """The boxes that wait, in an order that decides which are next. Iterating over it gives them in batches."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __iter__(self) -> Iterator[Boxes[Known]]: ...

    @abc.abstractmethod
    def push(self, boxes: Boxes[Known]) -> None:
        """Add boxes."""

    @abc.abstractmethod
    def pop(self) -> Boxes[Known]:
        """Take out the next batch; there must be boxes."""

    def put_back(self, boxes: Boxes[Known]) -> None:
        """Add boxes that were taken out and not bounded."""
        self.push(boxes)


class BestFirst(Frontier[Disjuncts]):
    """Boxes of a property, kept in the batches in which they were made, already halved.

    The batch with the worst bound comes first, where a counterexample is likeliest. Once more than `most` boxes wait,
    the newest come first: depth first, so that they become fewer.

    Args:
        batch: how many boxes are taken out at once.
        most: see above.

    Source:
        Best-first search is common to branch and bound; the switch to depth first is this package's own.
    """

    def __init__(self, batch: int, most: int) -> None:
        self._batches: list[tuple[float, Boxes[Disjuncts]]] = []  # with their worst bounds: read from the device once
        self.batch, self._most = batch, most

    def __len__(self) -> int:
        return sum(len(boxes) for _, boxes in self._batches)

    def __iter__(self) -> Iterator[Boxes[Disjuncts]]:
        return (boxes for _, boxes in self._batches)

    @property
    def bound(self) -> float:
        """The worst bound of all, the smallest ``known.bound`` of a box that waits; infinite if none does."""
        return min((worst for worst, _ in self._batches), default=math.inf)

    def push(self, boxes: Boxes[Disjuncts]) -> None:
        """Add boxes, or both halves of each where they are to be cut."""
        if len(boxes):
            self._batches.append((float(boxes.known.bound.min()), boxes.halves()))

    def pop(self) -> Boxes[Disjuncts]:
        """The `batch` boxes that are next, or all if fewer wait."""
        if len(self) <= self._most:
            self._batches.sort(key=itemgetter(0), reverse=True)  # stable: no chance in it
        parts: list[Boxes[Disjuncts]] = []
        count = self.batch
        while count and self._batches:
            boxes = self._batches.pop()[1]
            if len(boxes) > count:
                self.push(boxes.take(slice(count, None)))
                boxes = boxes.take(slice(0, count))
            parts.append(boxes)
            count -= len(boxes)
        return Boxes.joined(parts)


class Rounds(Frontier[Known]):
    """In every round each box that waits is taken out, as far as the budget of its region goes.

    Boxes wait whole, each with its `axis`: what is learnt from the others of a round may close a box, and a budget is
    spent on both halves or on none.

    Args:
        is_open: which of some boxes still have to be cut, bool (n,); asked at the beginning of a round.
        budgets: how many boxes of every region may be cut, int64 (regions,); None for any number.

    Source:
        Own.
    """

    def __init__(self, is_open: Callable[[Boxes[Known]], Tensor], budgets: Tensor | None) -> None:
        self._waiting: list[Boxes[Known]] = []
        self._beyond: list[Boxes[Known]] = []  # of regions whose budget is spent
        self._is_open, self._budgets = is_open, budgets

    def __len__(self) -> int:
        return sum(map(len, self._waiting))

    def __iter__(self) -> Iterator[Boxes[Known]]:
        return iter([*self._beyond, *self._waiting])

    def push(self, boxes: Boxes[Known]) -> None:
        """Add boxes to the next round."""
        if len(boxes):
            self._waiting.append(boxes)

    def put_back(self, boxes: Boxes[Known]) -> None:
        """Add boxes to the next round, and what they would have cost, 1 each, to the budgets of their regions."""
        if self._budgets is not None:
            self._budgets = self._budgets + torch.bincount(boxes.region, minlength=len(self._budgets))
        self.push(boxes)

    def pop(self) -> Boxes[Known]:
        """The boxes of one round: of every region the first ones; none if all are closed or no budget is left.

        Of the open boxes of a region with the budget m the first m are taken out, and m decreases by their number.
        """
        boxes = Boxes.joined(self._waiting)
        self._waiting = []
        boxes = boxes.take(self._is_open(boxes))
        if self._budgets is None:
            return boxes
        by_region = boxes.region.sort(stable=True)
        first = torch.searchsorted(by_region.values, torch.arange(len(self._budgets), device=boxes.region.device))
        rank = torch.empty_like(by_region.values)
        rank[by_region.indices] = torch.arange(len(rank), device=rank.device) - first[by_region.values]
        affordable = rank < self._budgets[boxes.region]
        self._beyond.append(boxes.take(~affordable))
        boxes = boxes.take(affordable)
        self._budgets = self._budgets - torch.bincount(boxes.region, minlength=len(self._budgets))
        return boxes
