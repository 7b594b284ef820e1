r"""Branch and bound over the input: cut boxes until something is shown on every one of them.

Given are regions of inputs, a *goal* (what is to be shown on a box), a *bounder* (bounds from which it may follow), a
*branching* (which coordinate of a box to halve) and a *frontier* (the order in which boxes have their turn).

1. Take the next boxes out of the frontier; it holds the whole regions at first.
2. Bound every one of them. A box that cannot be bounded is left open as it is, and cut (`BranchAndBound`).
3. *Goal*: close the boxes on which it is shown. Of the others cut off, where the goal allows it, what cannot
   contradict it.
4. *Branching*: halve what is left across one coordinate and put both halves into the frontier; what cannot be halved is
   stuck.
5. Repeat until the frontier is empty, or a budget is spent.

Bounds hold on a box and on all its parts, and the halves of a box cover it. So a goal that is shown on every box that
was ever closed is shown on the regions, up to the boxes that are waiting or stuck. Nothing depends on chance or time,
unless the budget does.

======================  ============================================  ==================================
                        verdicts (`exclusion.Exclusion`)              signs (`entry_signs.Signs`)
======================  ============================================  ==================================
goal                    no output of the box meets ``A y <= b``       wanted entries of J have one sign
bounder                 lower bounds of ``A f - b`` (`bounders`)      bounds of J
cut off                 faces, polytopes (`fixed_coordinates`,        nothing
                        `contraction`)
branching               largest smear of the worst row                largest smear of all rows together
frontier                worst bound first                             all boxes in every round
======================  ============================================  ==================================

Source: Wang, Pei, Whitehouse, Yang, Jana: ReluVal, USENIX Security 2018, arXiv:1804.10829 (input bisection for
networks); Kearfott: Rigorous Global Search, 1996 (branch and bound with interval gradients).
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from recurjac_plugin.errors import UnsupportedError
from recurjac_plugin.numerics.deadline import OverTime

from .boxes import Boxes, Frontier, Known

Bounds = TypeVar("Bounds")
"""What a bounder says about a batch of boxes, and a goal understands."""

_REFUSALS = 1 << 12  # boxes of one search that may be refused: more are no exception, and cutting does not help
_PROBED = (0.5, 0.25, 0.75)  # where on the diagonal of a refused box the bounder is asked for a point


@dataclass(frozen=True, eq=False)
class Open(Generic[Known]):
    """What a goal leaves open of a batch of boxes that were bounded: n boxes, and where to cut them.

    Attributes:
        boxes: the open ones, n of them, perhaps smaller than they were bounded.
        sides: side lengths with which they were bounded, (n, columns).
        sensitivity: how fast what is bounded can change with each coordinate, (n, columns); at least 0.
        hopeless: boxes that are not worth cutting, bool (n,).
        points: inputs (m, columns) that contradict the goal as far as this arithmetic can tell, in batches.
    """

    boxes: Boxes[Known]
    sides: Tensor
    sensitivity: Tensor
    hopeless: Tensor
    points: tuple[Tensor, ...] = ()


class Cuts(NamedTuple):
    """What is to become of open boxes.

    Attributes:
        axis: the coordinate to halve each across, int64 (n,); -1 where it cannot be halved.
        again: boxes that are not to be halved, but bounded once more as they are, bool (n,).
        aside: boxes that are to be put aside until the search resumes them, bool (n,); None for none.
    """

    axis: Tensor
    again: Tensor
    aside: Tensor | None = None


class Goal(abc.ABC, Generic[Known, Bounds]):
    """What is to be shown on every box. What holds on a box by its bounds must hold on every part of it."""

    @abc.abstractmethod
    def judge(self, boxes: Boxes[Known], bounds: Bounds) -> Open[Known]:
        """Close the boxes on which the goal follows from the bounds, and return the others."""

    def settle(self, left: Iterable[Boxes[Known]]) -> None:
        """Draw conclusions once a batch has been judged; `left` are all boxes that are not closed. Else nothing."""


class Bounder(abc.ABC, Generic[Known, Bounds]):
    """Bounds for one goal on batches of boxes."""

    @abc.abstractmethod
    def __call__(self, boxes: Boxes[Known]) -> Bounds:
        """Bounds that hold on every box of a batch."""

    @abc.abstractmethod
    def parts(self, boxes: Boxes[Known]) -> Iterable[Boxes[Known]]:
        """What came out of the frontier, in the parts in which it is best bounded."""


class Branching(Protocol[Known]):
    """Chooses the coordinate to cut each box across."""

    def __call__(self, left: Open[Known]) -> Cuts:
        """Where to cut the boxes."""


class BranchAndBound(Generic[Known, Bounds]):
    """One search, see the beginning of this module.

    A batch that the bounder refuses is bounded in halves, until the boxes at fault are alone. Such a box is cut across
    its longest side, for what is wrong there may concern a part of it only: a pole, the end of a domain, a fault of the
    host. If not even points of it can be bounded, it is stuck; if nothing was ever bounded, the refusal is about the
    network and ends the search. So does the 4097th.

    Args:
        goal: what is to be shown.
        bounder: what it may follow from.
        branching: which coordinate to cut.
        frontier: the boxes to begin with, and the order.
        boxes: how many boxes of every region are bounded already, int64 (regions,).

    Attributes:
        stuck: boxes that were not closed and cannot be cut.
        aside: boxes that the branching put aside, with their axes: whole until `resume`.
        boxes: how many boxes of every region were bounded so far, int64 (regions,).
        bounded: whether any box could be bounded.
        refusal: why the last box that could not be bounded was refused; None if there was none.

    Source:
        As this module's.
    """

    def __init__(
        self,
        goal: Goal[Known, Bounds],
        bounder: Bounder[Known, Bounds],
        branching: Branching[Known],
        frontier: Frontier[Known],
        boxes: Tensor,
    ) -> None:
        self.goal, self.bounder, self.branching, self.frontier = goal, bounder, branching, frontier
        self.stuck: list[Boxes[Known]] = []
        self.aside: list[Boxes[Known]] = []
        self.boxes = boxes
        self.bounded = False
        self.refusal: UnsupportedError | None = None
        self._refusals, self._bounded_a_point = 0, False

    @property
    def finished(self) -> bool:
        """Whether there is nothing more to do: no box waits."""
        return not len(self.frontier)

    @property
    def proved(self) -> bool:
        """Whether every box was closed: none waits, none is stuck or put aside."""
        return self.finished and not self.stuck and not self.aside

    @property
    def left(self) -> list[Boxes[Known]]:
        """All boxes that are not closed."""
        return [*self.frontier, *self.stuck, *self.aside]

    def resume(self) -> None:
        """Let the boxes that were put aside wait again, to be cut across their axes."""
        aside, self.aside = self.aside, []
        for boxes in aside:
            self.frontier.push(boxes)

    def step(self, over: Callable[[], bool]) -> Iterator[Tensor]:
        """Steps 1 to 4 for one batch of boxes.

        Args:
            over: asked between the parts of the batch whether to stop; what was not bounded goes back, then, and so
                does a part within which the time was over (`numerics.deadline`).

        Yields:
            Points (m, columns) that contradict the goal as far as this arithmetic can tell.

        Raises:
            UnsupportedError: nothing can be bounded, or too many boxes cannot.
        """
        for i, boxes in enumerate(self.bounder.parts(self.frontier.pop())):
            if i and over():
                self.frontier.put_back(boxes)
                continue
            try:
                for left in self._judged(boxes):
                    yield from left.points
                    self.branch(left)
            except OverTime:  # what was judged of them waits twice: no box is lost
                self.frontier.put_back(boxes)
            else:
                self.boxes = self.boxes + torch.bincount(boxes.region, minlength=len(self.boxes))
        self.goal.settle(self.left)

    def _judged(self, boxes: Boxes[Known]) -> Iterator[Open[Known]]:
        """Steps 2 and 3: what the goal leaves open of boxes, in parts where some of them cannot be bounded."""
        left: Open[Known] | None
        try:
            left = self.goal.judge(boxes, self.bounder(boxes))
            self.bounded = True
        except UnsupportedError as error:
            left = self._refused(boxes, error) if len(boxes) == 1 else None
        if left is not None:
            yield left
            return
        half = len(boxes) // 2
        yield from self._judged(boxes.take(slice(None, half)))
        yield from self._judged(boxes.take(slice(half, None)))

    def _refused(self, box: Boxes[Known], error: UnsupportedError) -> Open[Known]:
        """A box (a batch of one) that cannot be bounded, left open as it is, equally sensitive to all coordinates.

        Raises:
            UnsupportedError: nothing can be bounded here, or too many boxes could not.
        """
        self.refusal, self._refusals = error, self._refusals + 1
        divisible = self._bounds_a_point(box)
        self._bounded_a_point = self._bounded_a_point or divisible
        if self._refusals > _REFUSALS or not (self.bounded or self._bounded_a_point):
            raise error
        sides = box.upper - box.lower
        return Open(box, sides, torch.ones_like(sides), torch.full_like(box.region, not divisible, dtype=torch.bool))

    def _bounds_a_point(self, box: Boxes[Known]) -> bool:
        """Whether the bounder takes one of three points of a box: else cutting the box does not help."""
        for fraction in _PROBED:
            point = box.lower + fraction * (box.upper - box.lower)
            try:
                self.bounder(replace(box, lower=point, upper=point))
            except UnsupportedError:
                continue
            return True
        return False

    def branch(self, left: Open[Known]) -> None:
        """Step 4: what is left of bounded boxes goes into the frontier, to be cut, or is stuck.

        A box waits as it is where `again` is true, is put aside where `aside` is, is halved elsewhere if ``axis >= 0``,
        and is stuck otherwise.
        """
        if not len(left.boxes):
            return
        axis, again, aside = self.branching(left)
        boxes = replace(left.boxes, axis=axis)
        aside = torch.zeros_like(again) if aside is None else aside & ~again
        divisible = (axis >= 0) & ~again & ~aside
        if not bool(divisible.all()):
            self.frontier.push(replace(boxes, axis=None).take(again))
            for kept, index in ((self.aside, aside & (axis >= 0)), (self.stuck, (axis < 0) & ~again)):
                if bool(index.any()):
                    kept.append(boxes.take(index))
            boxes = boxes.take(divisible)
        self.frontier.push(boxes)
