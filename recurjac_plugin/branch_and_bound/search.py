"""Branch and bound over the input: cut boxes until all of them are excluded, or a violation shows.

One batch of boxes at a time: bound the rows, drop the disjuncts that are excluded, bound the Jacobian of what is left,
take its mean value bounds, fix the coordinates in which everything is monotone, cut off what linear bounds exclude, and
halve. The order of the boxes depends on their bounds alone, so a search repeats exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from recurjac_plugin.gains.undetermined import positions
from recurjac_plugin.numerics.rounding import VERGE

from .bounders import Bounder, BoxBounds, mean_value
from .boxes import Boxes, Frontier
from .branching import fixed_coordinates, halved
from .contraction import hull_of_disjuncts

_NEAREST = 16  # middles of a batch that an attack may start from
_FRONTIER = 1 << 30  # bytes that waiting boxes may take before the search goes depth first


class _Open(NamedTuple):
    """What a batch leaves open.

    Attributes:
        at: positions in the batch.
        lower, upper: the boxes, perhaps smaller by now.
        alive: the disjuncts that are left.
        bounds: lower bounds of all rows.
        score: of every coordinate, where to cut.
    """

    at: Tensor
    lower: Tensor
    upper: Tensor
    alive: Tensor
    bounds: Tensor
    score: Tensor

    def take(self, index: Tensor) -> _Open:
        """Some of them."""
        return _Open(*(each[index] for each in self))


class Search:
    """Branch and bound for one region of a property.

    Attributes:
        frontier: the boxes that are left.
        stuck: boxes without extent that were not excluded.
        nearest: middles of the last batch's open boxes that were nearest to a violation, (m, columns).
        boxes: number of boxes bounded so far.
        closed: smallest bound of the boxes that were excluded.
    """

    def __init__(self, bounder: Bounder, lower: Tensor, upper: Tensor, branching: str) -> None:
        self.bounder, self.branching = bounder, branching
        first = bounder.first(lower, upper)
        self.frontier = Frontier(first, max(1, _FRONTIER // bounder.bytes_per_box()))
        self.stuck: list[Boxes] = []
        self.nearest = lower.new_zeros(0, lower.shape[1])
        self.boxes = 0
        self.closed = math.inf
        # Boxes narrower than this are not cut: there may be no number between their ends.
        self.least = torch.finfo(lower.dtype).eps * torch.maximum(lower.abs(), upper.abs())

    @property
    def bound(self) -> float:
        """Certified lower bound of the distance from a violation, over the whole region; 0 where parts were cut off."""
        return min(self.closed, self.frontier.bound, *(float(boxes.bound.min()) for boxes in self.stuck))

    @property
    def finished(self) -> bool:
        """Whether there is nothing more to do."""
        return not len(self.frontier)

    @property
    def proved(self) -> bool:
        """Whether everything is excluded."""
        return self.finished and not self.stuck

    def left(self) -> Tensor:
        """The disjuncts that some box leaves open, bool (d,)."""
        return torch.stack([boxes.alive.any(0) for boxes in (*self.frontier, *self.stuck)]).any(0)

    def step(self, over: Callable[[], bool]) -> Iterator[Tensor]:
        """Bound one batch, and put what is left of it, halved, into the frontier.

        Args:
            over: asked between the parts of the batch whether to stop; what was not bounded goes back, then.

        Yields:
            Points (m, columns) that violate the property as far as this arithmetic can tell.
        """
        batch = self.frontier.pop(self.bounder.batch)
        near = []
        for i, boxes in enumerate(self.bounder.groups(batch)):
            if i and over():
                self.frontier.push(boxes)
                continue
            self.boxes += len(boxes)
            bounds = self.bounder(boxes)
            yield from self._violations(boxes.center, bounds.outputs, boxes.alive)
            found = self._open(boxes, bounds)
            if len(found.at):
                near.append(self._distances(found, boxes, bounds))
                yield from self._corners(found, bounds)
                found = self._contracted(found, boxes, bounds)
                self._cut(found, boxes, bounds)
        if near:
            distance, middles = (torch.cat(each) for each in zip(*near))
            self.nearest = middles[distance.topk(min(_NEAREST, len(distance)), largest=False).indices]

    def _distances(self, found: _Open, boxes: Boxes, bounds: BoxBounds) -> tuple[Tensor, Tensor]:
        """How far the middles of open boxes are from a violation, (n,), and the middles."""
        values = self.bounder.rows.values(bounds.outputs[found.at])
        distance = self.bounder.rows.each(values, "amax").masked_fill(~found.alive, math.inf).amin(1)
        return distance.nan_to_num(nan=math.inf), boxes.center[found.at]

    def _violations(self, points: Tensor, outputs: Tensor, alive: Tensor) -> Iterator[Tensor]:
        rows = self.bounder.rows
        values = rows.values(outputs)
        met = (rows.met(values) & alive).any(1).nonzero().squeeze(1)
        if len(met):  # the clearest first: not all of them will be looked at
            worst = rows.each(values[met], "amax").masked_fill(~alive[met], math.inf).amin(1)
            yield points[met[worst.argsort(stable=True)]]

    def _corners(self, found: _Open, bounds: BoxBounds) -> Iterator[Tensor]:
        """The corner of every open box that its linear bound points to."""
        if bounds.slope is not None:
            slope = _of_row(bounds.slope[found.at], self._row(found.bounds, found.alive))
            corner = torch.where(slope > 0, found.lower, found.upper)
            yield from self._violations(corner, self.bounder.evaluate(corner), found.alive)

    def _open(self, boxes: Boxes, bounds: BoxBounds) -> _Open:
        """What the bounds leave open of a batch, with the coordinates fixed in which everything is monotone."""
        lower = torch.where(bounds.lower.isfinite(), bounds.lower, -math.inf)
        alive = self._alive(boxes.alive, lower, bounds.outputs)
        at = alive.any(1).nonzero().squeeze(1)
        found = _Open(at, boxes.lower[at], boxes.upper[at], alive[at], lower[at], (boxes.upper - boxes.lower)[at])
        if not len(at):
            return found
        if self.branching == "crown":
            assert bounds.slope is not None
            row = self._row(found.bounds, found.alive)
            found = found._replace(score=found.score / 2 * _of_row(bounds.slope[at], row).abs())
        return self._differentiated(found, bounds) if self.bounder.uses_jacobian else found

    def _differentiated(self, found: _Open, bounds: BoxBounds) -> _Open:
        """What the Jacobian adds: mean value bounds, fixed coordinates, and where to cut."""
        rows = self.bounder.rows
        best = self._row(found.bounds, found.alive).unsqueeze(1)
        # Where CROWN knows the best row, the others are looked at only if that may fix a coordinate.
        one = self.bounder.method.with_host_output and bounds.slope is not None and self.boxes > 1
        wanted = best if one else positions(found.alive[:, rows.disjunct]).expand(len(best), -1)
        radius = (found.upper - found.lower) / 2
        analysis = bounds.part(found.at, wanted)
        jacobian = torch.stack(analysis.jacobian)
        if self.bounder.method.bounds_jacobian:
            better = mean_value(analysis)
            better = torch.where(better.isfinite(), better, -math.inf)
            lower = torch.maximum(found.bounds, torch.full_like(found.bounds, -math.inf).scatter(1, wanted, better))
            found = found._replace(bounds=lower, alive=self._alive(found.alive, lower, bounds.outputs[found.at]))
            keep = found.alive.any(1).nonzero().squeeze(1)
            found, wanted, jacobian, radius = found.take(keep), wanted[keep], jacobian[:, keep], radius[keep]
        if self.branching == "jacobian":
            place = torch.zeros_like(wanted[:, 0])
            if not one:
                place = (wanted == self._row(found.bounds, found.alive).unsqueeze(1)).to(torch.uint8).argmax(1)
            found = found._replace(score=radius * _of_row(jacobian.abs().amax(0), place))
        return self._fixed(found, bounds, wanted, jacobian)

    def _fixed(self, found: _Open, bounds: BoxBounds, wanted: Tensor, jacobian: Tensor) -> _Open:
        """Collapse coordinates in which all rows are monotone in one direction.

        Args:
            found: the boxes.
            bounds: what they come from.
            wanted: the rows differentiated, (n, k').
            jacobian: their lower and upper bounds, (2, n, k', columns).
        """
        left = found.alive[:, self.bounder.rows.disjunct]
        valid = left.gather(1, wanted)
        known = ((jacobian[0] >= 0) | (jacobian[1] <= 0)) & valid.unsqueeze(2)
        promising = known.any(1) & (found.upper > found.lower)
        if wanted.shape[1] == 1 and bounds.slope is not None:  # what the other rows' linear bounds speak against is not
            slope = bounds.slope[found.at] * torch.where(jacobian[0] >= 0, 1.0, -1.0)
            promising &= ((slope >= 0) | ~left.unsqueeze(2)).all(1)
        index = promising.any(1).nonzero().squeeze(1)
        if not len(index):
            return found
        if bool((left.sum(1) > valid.sum(1))[index].any()):
            wanted = positions(left[index]).expand(len(index), -1)
            jacobian = torch.stack(bounds.part(found.at[index], wanted).jacobian)
            valid = left[index].gather(1, wanted)
        else:
            jacobian, valid = jacobian[:, index], valid[index]
        low, high = fixed_coordinates(found.lower[index], found.upper[index], (jacobian[0], jacobian[1]), valid)
        lower, upper = found.lower.index_copy(0, index, low), found.upper.index_copy(0, index, high)
        return found._replace(lower=lower, upper=upper)

    def _alive(self, alive: Tensor, lower: Tensor, outputs: Tensor) -> Tensor:
        """The disjuncts that bounds do not exclude; how far they exclude the others is noted."""
        rows = self.bounder.rows
        excluded = rows.excluded(lower, rows.slack(outputs, lower)) & alive
        if bool(excluded.any()):
            self.closed = min(self.closed, float(rows.each(lower, "amax")[excluded].min()))
        return alive & ~excluded

    def _row(self, lower: Tensor, alive: Tensor) -> Tensor:
        """The best row of the worst disjunct of every box: the one to work on, (n,)."""
        rows = self.bounder.rows
        worst = rows.each(lower, "amax").masked_fill(~alive, math.inf).argmin(1, keepdim=True)
        finite = lower.clamp(min=torch.finfo(lower.dtype).min)
        return finite.masked_fill(rows.disjunct != worst, -math.inf).argmax(1)

    def _contracted(self, found: _Open, boxes: Boxes, bounds: BoxBounds) -> _Open:
        """Cut off what the linear bounds exclude."""
        if bounds.forms is None:
            return found
        rows, at = self.bounder.rows, found.at
        slope, offset = (form[at] for form in bounds.forms)
        center = boxes.center[at]
        slack = rows.slack(bounds.outputs[at], bounds.lower[at])
        below, above = found.lower - center, found.upper - center
        low, high, left = hull_of_disjuncts(
            slope.flatten(1, 2), (offset - slack.unsqueeze(1)).flatten(1), rows.members(slope.shape[1]),
            found.alive, below, above,
        )  # fmt: skip
        # Adding the middle rounds: outward, and an end that was not moved stays exactly where it is.
        low = torch.where(low > below, torch.nextafter(center + low, torch.full_like(low, -math.inf)), found.lower)
        high = torch.where(high < above, torch.nextafter(center + high, torch.full_like(high, math.inf)), found.upper)
        low = torch.maximum(low, found.lower)
        high = torch.maximum(torch.minimum(high, found.upper), low)
        if bool((low > found.lower).any() | (high < found.upper).any() | (left != found.alive).any()):
            self.closed = min(self.closed, 0.0)  # what is cut off is excluded, by a margin that nobody measures
        return found._replace(lower=low, upper=high, alive=left).take(left.any(1).nonzero().squeeze(1))

    def _cut(self, found: _Open, boxes: Boxes, bounds: BoxBounds) -> None:
        """Halve every box. What shrank to a point is bounded once more; a point that was bounded stays open."""
        worst = self.bounder.rows.each(found.bounds, "amax").masked_fill(~found.alive, math.inf).amin(1)
        around = {name: (low[found.at], high[found.at]) for name, (low, high) in bounds.around.items()}
        left = Boxes(found.lower, found.upper, found.alive, torch.maximum(worst, boxes.bound[found.at]), around)
        extent, before = left.upper - left.lower, (boxes.upper - boxes.lower)[found.at]
        score = found.score.nan_to_num(nan=math.inf) * torch.where(before > 0, extent / before, 0.0)
        score = score.masked_fill(extent <= self.least, -math.inf)
        hopeless = self._hopeless(found, bounds)
        divisible = (score > -math.inf).any(1) & ~hopeless
        if not bool(divisible.all()):
            final = hopeless | (before <= self.least).all(1)
            self.frontier.push(left.take(~divisible & ~final))
            if bool((~divisible & final).any()):
                self.stuck.append(left.take(~divisible & final))
            left, score = left.take(divisible), score[divisible]
        lower, upper = halved(left.lower, left.upper, score)
        both = left.take(torch.arange(len(left), device=lower.device).repeat(2))
        self.frontier.push(replace(both, lower=lower, upper=upper))

    def _hopeless(self, found: _Open, bounds: BoxBounds) -> Tensor:
        """Boxes that will never be excluded, and where no counterexample is to be expected: bool (n,).

        Their middle is on the verge of violating, and no other point is much beyond it; or the middle violates, but not
        as the network that is judged computes it; or the outputs are not finite.
        """
        rows, outputs = self.bounder.rows, bounds.outputs[found.at]
        values = rows.values(outputs)
        slack = rows.slack(outputs, values)
        verge = (found.alive & ~rows.excluded(values, slack)).any(1)
        worst = rows.each(found.bounds, "amax").masked_fill(~found.alive, math.inf).amin(1)
        clear = (rows.met(values + slack) & found.alive).any(1)
        return verge & (worst >= -VERGE * slack.amax(1)) | clear | ~outputs.isfinite().all(1)


def _of_row(values: Tensor, row: Tensor) -> Tensor:
    """(n, k, columns) at rows (n,): (n, columns)."""
    return values.gather(1, row.reshape(-1, 1, 1).expand(-1, 1, values.shape[2])).squeeze(1)
