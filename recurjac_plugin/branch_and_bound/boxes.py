"""Batches of boxes, and the frontier of a search: the boxes that are still to be bounded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter

import torch
from torch import Tensor

from recurjac_plugin.numerics.intervals import Intervals


@dataclass(frozen=True, eq=False)
class Boxes:
    """Some boxes of one region, and what is known about them.

    Attributes:
        lower, upper: shape (n, columns).
        alive: the disjuncts that no bound has excluded yet, bool (n, d).
        bound: certified lower bound of the distance from a violation, (n,): that of the box it was cut from.
        around: pre-activation bounds that hold on the boxes; empty if they are not kept.
    """

    lower: Tensor
    upper: Tensor
    alive: Tensor
    bound: Tensor
    around: Intervals = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.lower)

    @property
    def center(self) -> Tensor:
        """Middles, (n, columns)."""
        return self.lower + (self.upper - self.lower) / 2

    @property
    def radius(self) -> Tensor:
        """Half side lengths, (n, columns); the middle is rounded, but it reaches both ends."""
        center = self.center
        return torch.maximum(self.upper - center, center - self.lower)

    def take(self, index: Tensor | slice) -> Boxes:
        """Some of them, by position or by a mask."""
        if isinstance(index, Tensor) and index.dtype == torch.bool:
            index = index.nonzero().squeeze(1)  # once for all: a size that depends on values is waited for
        around = {name: (low[index], high[index]) for name, (low, high) in self.around.items()}
        return Boxes(self.lower[index], self.upper[index], self.alive[index], self.bound[index], around)

    @staticmethod
    def joined(parts: Iterable[Boxes]) -> Boxes:
        """All boxes of several batches."""
        batches = list(parts)
        if len(batches) == 1:
            return batches[0]
        around = {
            name: (torch.cat([b.around[name][0] for b in batches]), torch.cat([b.around[name][1] for b in batches]))
            for name in batches[0].around
        }
        lower, upper, alive, bound = (
            torch.cat([getattr(b, name) for b in batches]) for name in ("lower", "upper", "alive", "bound")
        )
        return Boxes(lower, upper, alive, bound, around)


class Frontier:
    """Boxes to be bounded, kept in the batches in which they were made.

    The batch with the worst bound comes first, where a counterexample is likeliest. Once more than `most` boxes wait,
    the newest come first: depth first, so that they become fewer.
    """

    def __init__(self, first: Boxes, most: int) -> None:
        self._batches: list[tuple[float, Boxes]] = []  # with their worst bounds: read back from the device once
        self._most = most
        self.push(first)

    def __len__(self) -> int:
        return sum(len(boxes) for _, boxes in self._batches)

    def __iter__(self) -> Iterator[Boxes]:
        return (boxes for _, boxes in self._batches)

    @property
    def bound(self) -> float:
        """The worst bound of all."""
        return min((worst for worst, _ in self._batches), default=math.inf)

    def push(self, boxes: Boxes) -> None:
        """Add boxes."""
        if len(boxes):
            self._batches.append((float(boxes.bound.min()), boxes))

    def pop(self, count: int) -> Boxes:
        """Take out at most `count` boxes."""
        if len(self) <= self._most:
            self._batches.sort(key=itemgetter(0), reverse=True)  # stable: no chance in it
        parts: list[Boxes] = []
        while count and self._batches:
            batch = self._batches.pop()[1]
            if len(batch) > count:
                self.push(batch.take(slice(count, None)))
                batch = batch.take(slice(0, count))
            parts.append(batch)
            count -= len(batch)
        return Boxes.joined(parts)
