r"""The search of a verdict on one region: coordinates are fixed again and again first, then boxes are cut.

With many coordinates few halvings show nothing, but fixing does: a row that is monotone in r takes its minimum on a
face, there the bounds are tighter, and more coordinates get a sign. So every disjunct that the first bounds leave open
gets a box of its own, and this is bounded again as long as fixing moves it (`branching.FixedFirst`). What comes to rest
is put aside, with the one disjunct that is left of it and the bounds that hold on it, until `resume` lets it be cut.

For a disjunct d let F be the face of the region X on which some coordinates lie at the ends where all rows of d are
smallest. The derivatives' signs hold on X, so :math:`\min_X A_k f = \min_F A_k f` for every row k of d, and a point of
X that violates d has one on F that does: if d is excluded on F, so it is on X. That holds for d alone.

Source: Wang, Pei, Whitehouse, Yang, Jana: ReluVal, USENIX Security 2018, arXiv:1804.10829, for monotone coordinates;
that they are fixed to the end before anything is cut, disjunct by disjunct, is this package's own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recurjac_plugin.numerics.rounding import eps

from .bounders import BoxBounds, RowsBounder
from .boxes import BestFirst, Boxes, Disjuncts
from .branching import FixedFirst, LargestSmear
from .exclusion import Exclusion
from .search import BranchAndBound

_LOOK = 1 << 17  # neurons times boxes that are bounded before anybody judges whether cutting leads anywhere
_SUDDEN = 32  # how many times fewer boxes it takes in the end than the progress of the worst bound would have it
_WAITING = 1 << 30  # bytes that waiting boxes may take before the search goes depth first


class ExclusionSearch(BranchAndBound[Disjuncts, BoxBounds]):
    """Branch and bound whose goal is `Exclusion`, for one region of a property.

    Args:
        bounder: what bounds the property's rows.
        lower: lower ends of the region, (1, columns); nothing of it is bounded yet.
        upper: its upper ends, (1, columns).
        branching: what boxes are cut by, one of `branching.BRANCHINGS`.
        fixing: whether disjuncts are taken apart and coordinates fixed before anything is cut.

    Attributes:
        many: the same, as it was at the beginning.
        fixing: whether boxes are not cut yet; until `resume`.

    Source:
        As this module's.
    """

    goal: Exclusion
    bounder: RowsBounder
    frontier: BestFirst

    def __init__(
        self, bounder: RowsBounder, lower: Tensor, upper: Tensor, branching: str, fixing: bool = False
    ) -> None:
        # There may be no number between ends that are so close.
        least = eps(lower) * torch.maximum(lower.abs(), upper.abs())
        frontier = BestFirst(bounder.batch, max(1, _WAITING // bounder.bytes_per_box()))
        frontier.push(bounder.first(lower, upper))
        boxes = torch.zeros(1, dtype=torch.int64, device=lower.device)
        self.many = self.fixing = fixing
        self._cut = LargestSmear(least)
        self._before = (0, 0.0)  # boxes and worst bound when cutting began
        first = FixedFirst(self._cut) if fixing else self._cut
        super().__init__(Exclusion(bounder, branching, fixing), bounder, first, frontier, boxes)

    @property
    def bound(self) -> float:
        """Certified lower bound of the distance from a violation, over the whole region.

        The smallest over the disjuncts that were excluded and over the boxes that are left; at most 0 if parts of boxes
        were cut off, whose distance nobody knows.
        """
        whole = (float(boxes.known.bound.min()) for boxes in (*self.stuck, *self.aside))
        return min(self.goal.closed, self.frontier.bound, *whole)

    def resume(self) -> None:
        """Let the boxes that were put aside wait again; from now on boxes are cut."""
        if self.fixing:
            self._before = int(self.boxes), self.bound
        self.fixing, self.branching = False, self._cut
        super().resume()

    def close_aside(self, left: list[Boxes[Disjuncts]]) -> None:
        """Note what is left of the boxes that were put aside; nobody measures the margin of the rest."""
        self.aside = left
        self.goal.closed = min(self.goal.closed, 0.0)

    def promising(self, affordable: float) -> bool:
        r"""Whether cutting on may lead to an end with so many boxes.

        Let n be the number of boxes since cutting began, and p the part of the way to 0 that the worst bound has gone
        since. It goes about as far with every doubling of n, and the last part of the way faster than that: a search
        is given up when

        .. math:: n^{1 / p} > 32 \cdot \text{affordable} .

        Args:
            affordable: number of boxes that there is time for, those since cutting began included.

        Source:
            Own; the factor is what searches with 30 inputs took that came to an end.
        """
        boxes, start = self._before
        cut = int(self.boxes) - boxes
        if cut * self.bounder.cost < _LOOK or start >= 0:
            return True
        part = 1 - self.bound / start
        return part > 0 and math.log(cut) / part <= math.log(_SUDDEN * max(affordable, 1.0))
