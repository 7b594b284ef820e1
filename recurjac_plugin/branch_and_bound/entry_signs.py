r"""The goal of a certificate of monotonicity: an entry of the Jacobian has one sign all over its region.

With bounds L, U of the Jacobian on each of the boxes that a region is cut into, entry (k, r)

.. math:: \text{rises if } L_{kr} \ge 0 \text{ on every box}, \qquad \text{falls if } U_{kr} \le 0 \text{ on every box.}

A derivative below 0, met at any point, rules out the first, one above 0 the second: an entry for which both are ruled
out is refuted, and boxes are no longer cut for it.

Source: the bounds of the Jacobian are those of Zhang, Zhang, Hsieh: RecurJac, AAAI 2019, arXiv:1810.11783; cutting
regions for signs, and the refutation by points, are this package's own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from recurjac_plugin.errors import RecurJacError
from recurjac_plugin.host.region import perturbed_box
from recurjac_plugin.numerics.intervals import Interval
from recurjac_plugin.numerics.pace import next_count

from .boxes import Boxes, Directions, Rounds
from .branching import largest_smear_above_zero
from .search import Bounder, BranchAndBound, Goal, Open

_CLEARANCE = 0.01  # of a side: how far the points that derivatives are met at keep from the faces of a box


class Derivatives(Protocol):
    """The derivatives that were met at points of the regions; all tensors have shape (b, k, columns)."""

    @property
    def can_rise(self) -> Tensor:
        """Entries without a negative derivative ``J_kr(x) < 0`` at any point met, bool."""

    @property
    def can_fall(self) -> Tensor:
        """Entries without a positive derivative ``J_kr(x) > 0`` at any point met, bool."""

    @property
    def refuted(self) -> Tensor:
        """Entries with derivatives of both signs, bool."""

    def meet(self, points: Tensor, index: Tensor) -> Tensor:
        """Note the derivatives at points (n, columns) of the regions `index` (n,), and return them, (n, k, columns)."""


class Signs(Goal[Directions, Interval]):
    """Every wanted entry of the Jacobian has one sign, or is refuted.

    An entry is certified +1 if ``L_kr >= 0`` on all boxes of its region, -1 if ``U_kr <= 0`` on all of them.

    Args:
        sign: what is certified already: +1, -1 or 0, int8 (b, k, columns).
        wanted: the entries to decide, bool (b, k, columns).
        met: the derivatives met so far; every box that is judged adds one point.
        generator: of these points.

    Attributes:
        sign: what is certified by now, int8 (b, k, columns).

    Source:
        Own; the signs are taken from bounds of the Jacobian as in RecurJac, arXiv:1810.11783.
    """

    def __init__(self, sign: Tensor, wanted: Tensor, met: Derivatives, generator: torch.Generator) -> None:
        self.sign, self.wanted, self.met, self.generator = sign, wanted, met, generator

    @property
    def undecided(self) -> Tensor:
        """Wanted entries that are neither certified nor refuted, bool (b, k, columns)."""
        return self.wanted & (self.sign == 0) & ~self.met.refuted

    def missing(self, boxes: Boxes[Directions]) -> Tensor:
        """Undecided entries that lack, on a box, a sign that they may have on their region: bool (n, k, columns).

        ``undecided & (can_rise & ~rises | can_fall & ~falls)``.
        """
        rise, fall = self.undecided & self.met.can_rise, self.undecided & self.met.can_fall
        return (rise[boxes.region] & ~boxes.known.rises) | (fall[boxes.region] & ~boxes.known.falls)

    def is_open(self, boxes: Boxes[Directions]) -> Tensor:
        """Boxes on which something is missing, bool (n,)."""
        return self.missing(boxes).flatten(1).any(1)

    def judge(self, boxes: Boxes[Directions], bounds: Interval) -> Open[Directions]:
        """Note the signs that the bounds show, and the derivative at one point of every box.

        An entry rises on a box where it was known to, or ``L_kr >= 0``; it falls likewise, or if ``U_kr <= 0``.

        Args:
            boxes: n boxes.
            bounds: L and U, (n, k, columns) each.

        Raises:
            RecurJacError: the derivative contradicts the bounds.
        """
        lower, upper = bounds
        known = Directions(boxes.known.rises | (lower >= 0), boxes.known.falls | (upper <= 0))
        met = self.met.meet(self._points(boxes), boxes.region)
        require_consistent(known.rises & (met < 0) | known.falls & (met > 0))
        return self.left_open(Boxes(boxes.region, boxes.lower, boxes.upper, known), bounds)

    def left_open(self, boxes: Boxes[Directions], bounds: Interval) -> Open[Directions]:
        """The boxes on which something is missing; sensitive to a coordinate as far as its derivatives differ.

        The sensitivity is the sum of ``U_kr - L_kr`` over the rows k that miss something, (m, columns) for m boxes; a
        sum that is NaN counts as 0.

        Args:
            boxes: n boxes.
            bounds: L and U, (n, k, columns) each.
        """
        lower, upper = bounds
        missing = self.missing(boxes)
        widths = torch.where(missing.any(2, keepdim=True), upper - lower, 0.0).sum(1).nan_to_num(0.0)
        at = missing.flatten(1).any(1).nonzero().squeeze(1)
        left = boxes.take(at)
        return Open(left, left.upper - left.lower, widths[at], torch.zeros_like(at, dtype=torch.bool))

    def settle(self, left: Iterable[Boxes[Directions]]) -> None:
        """Certify the undecided entries that have one sign on all boxes left; those closed had every possible one.

        ``sign = signs_of(can_rise & rises on all, can_fall & falls on all)``.
        """
        lacking = torch.zeros(2, *self.sign.shape, dtype=torch.int32, device=self.sign.device)
        for boxes in left:
            lacking[0].index_add_(0, boxes.region, (~boxes.known.rises).int())
            lacking[1].index_add_(0, boxes.region, (~boxes.known.falls).int())
        rises = (lacking[0] == 0) & self.met.can_rise
        falls = (lacking[1] == 0) & self.met.can_fall
        self.sign = torch.where(self.undecided, signs_of(rises, falls), self.sign)

    def _points(self, boxes: Boxes[Directions]) -> Tensor:
        """A random point of every box, (n, columns), clear of its faces."""
        lower, upper = boxes.lower, boxes.upper
        fraction = torch.rand(lower.shape, generator=self.generator, dtype=torch.float64).to(lower)
        points = lower + (_CLEARANCE + (1 - 2 * _CLEARANCE) * fraction) * (upper - lower)
        return torch.minimum(torch.maximum(points, lower), upper)


class JacobianBounder(Bounder[Directions, Interval]):
    """Bounds of the Jacobian on boxes, L and U of shape (n, k, columns) each, within a time.

    With a deadline few boxes are cut at first, then more and more, so that the last ones end in time.

    Args:
        bounds: takes a perturbed input of the host, and C; returns L and U, (n, k, *input_shape) each.
        rows: specification matrix of every region, (b, k, n_out).
        input_shape: shape of one input.
        batch_size: boxes bounded at once.
        deadline: value of `time.monotonic` at which to stop.

    Source:
        Own; `bounds` is as a rule RecurJac, arXiv:1810.11783, Algorithm 1.
    """

    def __init__(
        self,
        bounds: Callable[..., Any],
        rows: Tensor,
        input_shape: tuple[int, ...],
        batch_size: int,
        deadline: float,
    ) -> None:
        self.bounds, self.rows, self.input_shape = bounds, rows, input_shape
        self.batch_size, self.deadline = batch_size, deadline
        self._most = max(1, batch_size // 2)
        self._size = 1 if deadline < math.inf else self._most

    def over(self) -> bool:
        """Whether there is no time for another box."""
        return self._size == 0

    def __call__(self, boxes: Boxes[Directions]) -> Interval:
        """Bounds ``L <= J(x) <= U`` of the Jacobian on every box, (n, k, columns) each."""
        x = perturbed_box(*(end.unflatten(1, self.input_shape) for end in (boxes.lower, boxes.upper)))
        lower, upper = self.bounds(x, C=self.rows[boxes.region])
        return lower.flatten(2), upper.flatten(2)

    def parts(self, boxes: Boxes[Directions]) -> Iterator[Boxes[Directions]]:
        """Both halves of so many boxes at a time; when time is up, the others as they are."""
        done = 0
        while done < len(boxes) and self._size:
            began = time.monotonic()
            parents = boxes.take(slice(done, done + self._size))
            halves = parents.halves()
            for start in range(0, len(halves), self.batch_size):
                yield halves.take(slice(start, start + self.batch_size))
            done += len(parents)
            self._size = self._next_size((time.monotonic() - began) / len(parents))
        if done < len(boxes):
            yield boxes.take(slice(done, None))

    def _next_size(self, seconds: float) -> int:
        """How many boxes to halve next if one took so many seconds: more and more, and 0 when time is up."""
        if self.deadline == math.inf:
            return self._most
        return next_count(self._size, self._most, seconds, self.deadline - time.monotonic())


def cut_for_signs(
    goal: Signs,
    bounder: JacobianBounder,
    lower: Tensor,  # shape: (b, columns)
    upper: Tensor,  # shape: (b, columns)
    bounds: Interval,  # shape: (b, k, columns)
    max_boxes: int | None,
) -> Tensor:
    """Cut regions that are boxes until the goal is reached, time is up, or the budget of every region is spent.

    A region may have ``(max_boxes - 1) // 2`` boxes cut, for each brings two more to bound.

    Args:
        goal: the signs to show; its `sign` is what is certified in the end.
        bounder: bounds of the Jacobian on boxes.
        lower: lower ends of the regions.
        upper: their upper ends.
        bounds: L and U of the Jacobian on the regions.
        max_boxes: how many boxes to bound in each region, itself included; None for any number.

    Returns:
        How many boxes of each region were bounded, itself included, int64 (b,).

    Raises:
        RecurJacError: a derivative at a point contradicts the bounds.

    Source:
        Own; the branch and bound of `search` and the smear of Kearfott: Rigorous Global Search, 1996.
    """
    region = torch.arange(len(lower), device=lower.device)
    boxes = torch.ones_like(region)
    budgets = None if max_boxes is None else (max_boxes - boxes) // 2  # boxes to cut: both halves are bounded
    frontier = Rounds(goal.is_open, budgets)
    search = BranchAndBound(goal, bounder, largest_smear_above_zero, frontier, boxes)
    known = Directions(bounds[0] >= 0, bounds[1] <= 0)
    search.branch(goal.left_open(Boxes(region, lower, upper, known), bounds))
    while not search.finished and not bounder.over():
        for _ in search.step(bounder.over):  # the goal notes the points that contradict it by itself
            pass
    return search.boxes


def signs_of(
    rises: Tensor,  # bool, shape: (*any)
    falls: Tensor,  # bool, shape: (*any)
) -> Tensor:
    """``rises - (falls & ~rises)``: +1, -1 and 0 as int8, +1 where both hold.

    Comparisons with NaN are false, so that NaN certifies nothing.

    Args:
        rises: ``L >= 0``.
        falls: ``U <= 0``.

    Returns:
        Shaped like them.

    Source:
        Own.
    """
    return rises.to(torch.int8) - (falls & ~rises).to(torch.int8)


def require_consistent(
    contradicted: Tensor,  # bool, shape: (*any)
) -> None:
    """Refuse bounds that a derivative at a point contradicts.

    Args:
        contradicted: entries with ``L >= 0 > J(x)`` or ``U <= 0 < J(x)``.

    Raises:
        RecurJacError: some entry is contradicted.

    Source:
        Own; bounds over a region must hold at each of its points.
    """
    if bool(contradicted.any()):
        raise RecurJacError(
            "A derivative met at a point of the region contradicts the Jacobian's bounds: one of them is wrong; please "
            "report the network, or try float64."
        )
