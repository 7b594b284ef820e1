r"""The goal of a verdict: no output of the box lies in any disjunct ``A y <= b`` of the property.

A disjunct is excluded on a box if the lower bound of one of its rows ``A_k f - b_k`` exceeds what rounding may be
responsible for (`goals.Rows.slack`). Where that is not so, the bounds are used in three more ways:

* the mean value theorem, with bounds L, U of the rows' Jacobian on the box, may give better bounds,
  :math:`A_k f(x) - b_k \ge A_k f(x_0) - b_k - \sum_r \max(|L_{kr}|, |U_{kr}|) \rho_r` (see `lipschitz.mean_value`);
* coordinates in which all rows of all disjuncts that are left are monotone in one direction are fixed
  (`branching.fixed_coordinates`); with many coordinates every disjunct is looked at by itself, on a box of its own;
* what linear lower bounds of the rows exclude is cut off (`contraction`).

Before anything counts as excluded it is cross-examined. The network is evaluated at the middles of all boxes and at
corners where it may come nearest to a violation: those that linear bounds or the derivative of one row point to. These
are corners of all boxes that are left, and of those just excluded whose middles came nearest to a violation. A point
that violates ends the search if the network that is judged agrees; if not, a bound and a value contradict each other,
and nothing is proved (`Exclusion.require_consistent`).

The *row to work on* is the best row of the worst disjunct: the one with the largest lower bound, of the disjunct for
which that is smallest. Its Jacobian says where to cut.

Source: Wang, Pei, Whitehouse, Yang, Jana: ReluVal, USENIX Security 2018, arXiv:1804.10829 (monotone coordinates, the
choice of the cut); the mean value bounds are those of Zhang, Zhang, Hsieh: RecurJac, AAAI 2019, arXiv:1810.11783.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from recurjac_plugin.errors import ContradictionError
from recurjac_plugin.gains.undetermined import positions
from recurjac_plugin.numerics.rounding import VERGE

from .bounders import BoxBounds, RowsBounder, mean_value
from .boxes import Boxes, Disjuncts
from .branching import fixed_coordinates
from .contraction import hull_of_disjuncts
from .search import Goal, Open

_NEAREST = 16  # middles of a batch that an attack may start from
_SHARED = 0.1  # of the largest slope: beyond a jump, where bounds are constant, coordinates may matter that have none
_EXAMINED = 16  # excluded boxes of a batch of which a corner is evaluated


class _Left(NamedTuple):
    """What is left open of a batch.

    Attributes:
        at: positions in the batch, (n,).
        lower: lower ends, perhaps larger by now, (n, columns).
        upper: upper ends, perhaps smaller by now, (n, columns).
        alive: the disjuncts that are left, bool (n, d).
        bounds: lower bounds of all rows, (n, k).
        sensitivity: how fast the row to work on can change with each coordinate, (n, columns).
        slope: that of the row to work on, by its linear bound or in the middle of its Jacobian's bounds, (n, columns).
    """

    at: Tensor
    lower: Tensor
    upper: Tensor
    alive: Tensor
    bounds: Tensor
    sensitivity: Tensor
    slope: Tensor

    def take(self, index: Tensor) -> _Left:
        """Some of them, by position."""
        return _Left(*(each[index] for each in self))


class Exclusion(Goal[Disjuncts, BoxBounds]):
    """No output of a box lies in any disjunct: of each, some row has a lower bound above its slack.

    Args:
        bounder: what bounds the rows.
        branching: what boxes are cut by, one of `branching.BRANCHINGS`.
        apart: whether a box is left open once for each of its disjuncts, so that each fixes its own coordinates. It
            needs bounds of the Jacobian.

    Attributes:
        nearest: middles of the last batch's open boxes that were nearest to a violation, (m, columns).
        closed: smallest lower bound of a disjunct that was excluded, that of its best row; at most 0 once parts of a
            box were cut off.
        contradiction: the first point (columns,) that violates clearly what bounds excluded there; None as it should.

    Source:
        As this module's.
    """

    def __init__(self, bounder: RowsBounder, branching: str, apart: bool = False) -> None:
        self.bounder, self.rows, self.branching, self.apart = bounder, bounder.rows, branching, apart
        self.nearest = bounder.rows.b.new_zeros(0, math.prod(bounder.input_shape))
        self.closed = math.inf
        self.contradiction: Tensor | None = None
        self._judged = 0
        self._near: list[tuple[Tensor, Tensor]] = []

    @property
    def _without_jacobian(self) -> bool:
        """Whether boxes are to be cut by a Jacobian that the network has not: its linear bounds take its place."""
        return self.branching == "jacobian" and not self.bounder.uses_jacobian

    def judge(self, boxes: Boxes[Disjuncts], bounds: BoxBounds) -> Open[Disjuncts]:
        """Exclude disjuncts; fix coordinates and cut off parts of the boxes that are left.

        A box that is left has the bound ``min_d max_k lower_k`` over its disjuncts d and their rows k, or that of the
        box it was cut from, if this is larger. Points that violate are the middles of boxes, and corners: ``l_r`` where
        ``s_r > 0``, else ``u_r``, with s the slope of the row to work on.

        Args:
            boxes: n boxes.
            bounds: those of their rows.
        """
        self._judged += len(boxes)
        points = self._violations(boxes.center, bounds.outputs, boxes.known.alive)
        left = self._not_excluded(boxes, bounds)
        excluded = torch.zeros_like(boxes.known.alive, dtype=torch.int64).index_add(0, left.at, left.alive.long()) == 0
        points += self._contradictions(boxes.center, bounds.outputs, excluded)
        points += self._examined(boxes, bounds, excluded & boxes.known.alive)
        if len(left.at):
            self._near.append((self._distances(left, bounds), boxes.center[left.at]))
            corners = torch.where(left.slope > 0, left.lower, left.upper)
            outputs = self.bounder.evaluate(corners)
            points += self._violations(corners, outputs, left.alive)
            smaller = self._contracted(left, boxes, bounds)
            outside = ((corners < smaller.lower) | (corners > smaller.upper)).any(1, keepdim=True)
            self._contradictions(corners, outputs, left.alive & (outside | ~smaller.alive))
            left = smaller.take(smaller.alive.any(1).nonzero().squeeze(1))
        around = {name: (low[left.at], high[left.at]) for name, (low, high) in bounds.around.items()}
        known = Disjuncts(left.alive, torch.maximum(self._worst(left), boxes.known.bound[left.at]))
        return Open(
            Boxes(boxes.region[left.at], left.lower, left.upper, known, around),
            (boxes.upper - boxes.lower)[left.at],
            left.sensitivity,
            self._hopeless(left, bounds),
            points,
        )

    def require_consistent(self) -> None:
        """Refuse bounds that a value of the network contradicts.

        Raises:
            ContradictionError: at some point ``A f(x) - b <= -slack`` for a disjunct that is excluded there.
        """
        if self.contradiction is not None:
            raise ContradictionError(
                f"A bound and a value of the network contradict each other: `{self.bounder.method.name}` excludes a "
                "violation of the property where one was met, at x = "
                f"{self.contradiction.tolist()}; one of the two is wrong, so nothing is proved: please report the "
                "network and the property."
            )

    def settle(self, left: Iterable[Boxes[Disjuncts]]) -> None:
        """Note the 16 middles that came nearest to a violation, by ``min_d max_k (A_k f(x0) - b_k)``."""
        if self._near:
            distance, middles = (torch.cat(each) for each in zip(*self._near))
            self.nearest = middles[distance.topk(min(_NEAREST, len(distance)), largest=False).indices]
            self._near = []

    def _worst(self, left: _Left) -> Tensor:
        """Lower bound of the distance from a violation, over the disjuncts that are left, (n,)."""
        return self.rows.per_disjunct(left.bounds, "amax").masked_fill(~left.alive, math.inf).amin(1)

    def _distances(self, left: _Left, bounds: BoxBounds) -> Tensor:
        """How far the middles of open boxes are from a violation, (n,)."""
        values = self.rows.values(bounds.outputs[left.at])
        distance = self.rows.per_disjunct(values, "amax").masked_fill(~left.alive, math.inf).amin(1)
        return distance.nan_to_num(nan=math.inf)

    def _violations(self, points: Tensor, outputs: Tensor, alive: Tensor) -> tuple[Tensor, ...]:
        """Those of the points (n, columns) whose outputs (n, n_outputs) meet a disjunct, if there are any."""
        values = self.rows.values(outputs)
        met = (self.rows.met(values) & alive).any(1).nonzero().squeeze(1)
        if not len(met):
            return ()
        # The clearest first: not all of them will be looked at.
        worst = self.rows.per_disjunct(values[met], "amax").masked_fill(~alive[met], math.inf).amin(1)
        return (points[met[worst.argsort(stable=True)]],)

    def _examined(self, boxes: Boxes[Disjuncts], bounds: BoxBounds, excluded: Tensor) -> tuple[Tensor, ...]:
        """Look for violations in disjuncts (n, d) that have just been excluded: corners that violate.

        Of the boxes whose middles are nearest to a violation one corner each: where the best row of the nearest
        excluded disjunct is smallest by its linear bound, or by its gradient in the middle.
        """
        values = self.rows.values(bounds.outputs)
        distance = self.rows.per_disjunct(values, "amax").masked_fill(~excluded, math.inf).amin(1)
        order = distance.nan_to_num(nan=math.inf).argsort(stable=True)[:_EXAMINED]
        at = order[distance[order] < math.inf]
        if not len(at):
            return ()
        excluded = excluded[at]
        slope = self._slope(boxes, bounds, at, self._row(values[at], excluded))
        corners = torch.where(slope > 0, boxes.lower[at], boxes.upper[at])
        outputs = self.bounder.evaluate(corners)
        self._contradictions(corners, outputs, excluded)
        return self._violations(corners, outputs, excluded)

    def _contradictions(self, points: Tensor, outputs: Tensor, excluded: Tensor) -> tuple[Tensor, ...]:
        """Those of the points (n, columns) that violate, by more than rounding, a disjunct (n, d) excluded there."""
        values = self.rows.values(outputs)
        clear = self.rows.met(values + self.rows.slack(outputs, values)) & excluded
        found = self._violations(points, outputs, clear) if bool(clear.any()) else ()
        if self.contradiction is None and found:
            self.contradiction = found[0][0]
        return found

    def _slope(self, boxes: Boxes[Disjuncts], bounds: BoxBounds, at: Tensor, row: Tensor) -> Tensor:
        """Of one row of chosen boxes (m,): that of its linear bound, or its gradient in the middle, (m, columns)."""
        if bounds.slope is not None:
            return _of_row(bounds.slope[at], row)
        with torch.enable_grad():
            x = boxes.center[at].detach().requires_grad_(True)
            outputs = self.bounder.model.forward(self.bounder.shaped(x)).flatten(1)
            value = self.rows.values(outputs).gather(1, row.unsqueeze(1)).sum()
            (gradient,) = torch.autograd.grad(value, x)
        return gradient

    def _not_excluded(self, boxes: Boxes[Disjuncts], bounds: BoxBounds) -> _Left:
        """What the bounds leave open of a batch, with the coordinates fixed in which everything is monotone."""
        lower = torch.where(bounds.lower.isfinite(), bounds.lower, -math.inf)
        alive = self._alive(boxes.known.alive, lower, bounds.outputs)
        at = alive.any(1).nonzero().squeeze(1)
        every = torch.ones_like(boxes.lower[at])
        left = _Left(at, boxes.lower[at], boxes.upper[at], alive[at], lower[at], every, every)
        if not len(at):
            return left
        if bounds.slope is not None and (self.branching == "crown" or self._without_jacobian):
            slope = _of_row(bounds.slope[at], self._row(left.bounds, left.alive)).abs()
            least = _SHARED * slope.amax(1, keepdim=True) if self._without_jacobian else 0.0
            left = left._replace(sensitivity=torch.where((slope > 0).any(1, keepdim=True), slope + least, 1.0))
        if self.bounder.uses_jacobian:
            left = self._differentiated(left, bounds)
        if len(left.at) and (bounds.slope is not None or not self.bounder.uses_jacobian):
            left = left._replace(slope=self._slope(boxes, bounds, left.at, self._row(left.bounds, left.alive)))
        return left

    def _differentiated(self, left: _Left, bounds: BoxBounds) -> _Left:
        """What the Jacobian adds: mean value bounds, fixed coordinates, and where to cut."""
        best = self._row(left.bounds, left.alive).unsqueeze(1)
        # Where CROWN knows the best row, the others are looked at only if that may fix a coordinate.
        best_alone = self.bounder.method.with_host_output and bounds.slope is not None and self._judged > 1
        best_alone = best_alone and not (self.apart and bool((left.alive.sum(1) > 1).any()))
        rows = best if best_alone else positions(left.alive[:, self.rows.disjunct]).expand(len(best), -1)
        bounded = bounds.differentiated(left.at, rows)
        jacobian = torch.stack(bounded.jacobian)
        if self.bounder.method.bounds_jacobian:
            better = mean_value(bounded)
            better = torch.where(better.isfinite(), better, -math.inf)
            lower = torch.maximum(left.bounds, torch.full_like(left.bounds, -math.inf).scatter(1, rows, better))
            left = left._replace(bounds=lower, alive=self._alive(left.alive, lower, bounds.outputs[left.at]))
            keep = left.alive.any(1).nonzero().squeeze(1)
            left, rows, jacobian = left.take(keep), rows[keep], jacobian[:, keep]
        if self.apart:
            box, disjunct = left.alive.nonzero(as_tuple=True)
            left, rows, jacobian = left.take(box), rows[box], jacobian[:, box]
            left = left._replace(alive=one_hot(disjunct, self.rows.disjuncts).bool())
        place = torch.zeros_like(rows[:, 0])
        if not best_alone:
            place = (rows == self._row(left.bounds, left.alive).unsqueeze(1)).to(torch.uint8).argmax(1)
        low, high = (_of_row(end, place) for end in jacobian)
        left = left._replace(slope=low + high)
        if self.branching == "jacobian":
            left = left._replace(sensitivity=torch.maximum(low.abs(), high.abs()))
        return self._fixed(left, bounds, rows, jacobian)

    def _fixed(
        self,
        left: _Left,
        bounds: BoxBounds,
        rows: Tensor,  # shape: (n, k')
        jacobian: Tensor,  # shape: (2, n, k', columns)
    ) -> _Left:
        """Collapse coordinates in which all rows are monotone in one direction.

        Args:
            left: the boxes.
            bounds: what they come from.
            rows: which rows were differentiated.
            jacobian: their lower and upper bounds.
        """
        needed = left.alive[:, self.rows.disjunct]
        valid = needed.gather(1, rows)
        one_sign = ((jacobian[0] >= 0) | (jacobian[1] <= 0)) & valid.unsqueeze(2)
        promising = one_sign.any(1) & (left.upper > left.lower)
        if rows.shape[1] == 1 and bounds.slope is not None:
            # A coordinate is not worth a second look if another row's linear bound falls where this row rises.
            slope = bounds.slope[left.at] * torch.where(jacobian[0] >= 0, 1.0, -1.0)
            promising &= ((slope >= 0) | ~needed.unsqueeze(2)).all(1)
        index = promising.any(1).nonzero().squeeze(1)
        if not len(index):
            return left
        if bool((needed.sum(1) > valid.sum(1))[index].any()):
            rows = positions(needed[index]).expand(len(index), -1)
            jacobian = torch.stack(bounds.differentiated(left.at[index], rows).jacobian)
            valid = needed[index].gather(1, rows)
        else:
            jacobian, valid = jacobian[:, index], valid[index]
        low, high = fixed_coordinates(left.lower[index], left.upper[index], (jacobian[0], jacobian[1]), valid)
        return left._replace(lower=left.lower.index_copy(0, index, low), upper=left.upper.index_copy(0, index, high))

    def _alive(self, alive: Tensor, lower: Tensor, outputs: Tensor) -> Tensor:
        """The disjuncts that bounds do not exclude; how far they exclude the others is noted."""
        excluded = self.rows.excluded(lower, self.rows.slack(outputs, lower)) & alive
        if bool(excluded.any()):
            self.closed = min(self.closed, float(self.rows.per_disjunct(lower, "amax")[excluded].min()))
        return alive & ~excluded

    def _row(self, lower: Tensor, alive: Tensor) -> Tensor:
        """The row to work on of every box: the best row of the worst disjunct, (n,)."""
        worst = self.rows.per_disjunct(lower, "amax").masked_fill(~alive, math.inf).argmin(1, keepdim=True)
        finite = lower.clamp(min=torch.finfo(lower.dtype).min)
        return finite.masked_fill(self.rows.disjunct != worst, -math.inf).argmax(1)

    def _contracted(self, left: _Left, boxes: Boxes[Disjuncts], bounds: BoxBounds) -> _Left:
        """Cut off what the linear bounds exclude."""
        if bounds.linear is None:
            return left
        slope, offset = (each[left.at] for each in bounds.linear)
        center = boxes.center[left.at]
        slack = self.rows.slack(bounds.outputs[left.at], bounds.lower[left.at])
        below, above = left.lower - center, left.upper - center
        low, high, alive = hull_of_disjuncts(
            slope.flatten(1, 2), (offset - slack.unsqueeze(1)).flatten(1), self.rows.members(slope.shape[1]),
            left.alive, below, above,
        )  # fmt: skip
        # Adding the middle rounds: outward, and an end that was not moved stays exactly where it is.
        low = torch.where(low > below, torch.nextafter(center + low, torch.full_like(low, -math.inf)), left.lower)
        high = torch.where(high < above, torch.nextafter(center + high, torch.full_like(high, math.inf)), left.upper)
        low = torch.maximum(low, left.lower)
        high = torch.maximum(torch.minimum(high, left.upper), low)
        if bool((low > left.lower).any() | (high < left.upper).any() | (alive != left.alive).any()):
            self.closed = min(self.closed, 0.0)  # what is cut off is excluded, by a margin that nobody measures
        return left._replace(lower=low, upper=high, alive=alive)

    def _hopeless(self, left: _Left, bounds: BoxBounds) -> Tensor:
        """Boxes that will never be excluded, and where no counterexample is to be expected: bool (n,).

        Their middle violates by less than rounding explains, and no other point of them by much more; or the middle
        violates clearly, but not as the network that is judged computes it; or the outputs are not finite.
        """
        outputs = bounds.outputs[left.at]
        values = self.rows.values(outputs)
        slack = self.rows.slack(outputs, values)
        verge = (left.alive & ~self.rows.excluded(values, slack)).any(1)
        clear = (self.rows.met(values + slack) & left.alive).any(1)
        return verge & (self._worst(left) >= -VERGE * slack.amax(1)) | clear | ~outputs.isfinite().all(1)


def _of_row(values: Tensor, row: Tensor) -> Tensor:
    """(n, k, columns) at rows (n,): (n, columns)."""
    return values.gather(1, row.reshape(-1, 1, 1).expand(-1, 1, values.shape[2])).squeeze(1)
