r"""The boxes of a property with many of them, bounded in batches before any of them is searched by itself.

Their rows have few different left sides: with A the different ones, every batch is bounded once, and a disjunct is
excluded on a box if one of its rows has :math:`\underline{A_k f} - b_k` above its slack (`goals.Rows.slack`). How far
the network that is bounded is from the one that is judged is measured in the middles of the boxes of a batch.

Source: own; the bounds are those of `branch_and_bound.bounders`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from recurjac_plugin.branch_and_bound.bounders import RefiningBounder
from recurjac_plugin.branch_and_bound.boxes import Boxes, Disjuncts
from recurjac_plugin.branch_and_bound.goals import Rows
from recurjac_plugin.host.problem import specification
from recurjac_plugin.networks.session import largest_difference
from recurjac_plugin.preactivations.crown import crown_bounds
from recurjac_plugin.properties.spec import Box, Spec

from .bounding import Bounding, Evaluate

_MANY = 16  # boxes from which on they are bounded in batches
_ELEMENTS = 1 << 18  # largest number of neurons times boxes in a batch, which is not stopped before its end
_LOOK, _PART = 48, 0.25  # after so many boxes it goes on if so many of them are closed
_MOST_ROWS = 64  # different left sides: with more a batch bounds mostly what its boxes do not ask for


@dataclass(frozen=True, eq=False)
class Pairs:
    """All rows of all boxes: of box i, disjunct d of all boxes, the left side k and the right side b.

    Attributes:
        A: different left sides, float64 [k, n_outputs].
        box: int [p], in increasing order.
        disjunct: int [p], likewise.
        side: int [p].
        b: float64 [p].
        strict: bool [p].
    """

    A: np.ndarray
    box: np.ndarray
    disjunct: np.ndarray
    side: np.ndarray
    b: np.ndarray
    strict: np.ndarray

    @classmethod
    def of(cls, boxes: Sequence[Box]) -> Pairs | None:
        """Those of some boxes; None if too many of their left sides differ."""
        known: dict[bytes, int] = {}
        sides = []
        for box in boxes:
            for polytope in box.disjuncts:
                sides += [known.setdefault(row.tobytes(), len(known)) for row in polytope.A]
                if len(known) > _MOST_ROWS:
                    return None
        polytopes = [(i, polytope) for i, box in enumerate(boxes) for polytope in box.disjuncts]
        counts = [len(polytope.b) for _, polytope in polytopes]
        return cls(
            np.array([np.frombuffer(row) for row in known]),
            np.repeat([i for i, _ in polytopes], counts),
            np.repeat(np.arange(len(polytopes)), counts),
            np.array(sides),
            np.concatenate([polytope.b for _, polytope in polytopes]),
            np.concatenate([polytope.strict for _, polytope in polytopes]),
        )

    def rows(self, like: Tensor, eps: float, proven: bool, judged: int | None, columns: int) -> Rows:
        """The left sides as rows ``A y <= 0``, each a disjunct of its own."""
        A = torch.from_numpy(self.A).to(like)
        numbers = torch.arange(len(A), device=like.device)
        zeros = like.new_zeros(len(A))
        return Rows(A, zeros, zeros.bool(), numbers, 0.0, eps, proven, columns, judged=judged)


class Screening:
    """What is left of the boxes of a property, and what was shown of the others.

    Args:
        spec: the property.
        pairs: rows of its boxes.
        bounding: of the verification.

    Attributes:
        count: number of boxes that were bounded.
        bound: certified lower bound of the distance from a violation on those of which nothing is left; infinite where
            there are none.
    """

    def __init__(self, spec: Spec, pairs: Pairs, bounding: Bounding) -> None:
        self._spec, self._pairs, self._bounding = spec, pairs, bounding
        self._open = np.ones(int(pairs.disjunct[-1]) + 1, dtype=bool)
        self.count, self._closed, self.bound = 0, 0, np.inf

    @classmethod
    def of(cls, spec: Spec, bounding: Bounding) -> Screening | None:
        """One of the boxes of a property; None if they are few, not finite, or have too many different rows."""
        if len(spec.boxes) < _MANY or not all(np.isfinite(end).all() for end in spec.ends):
            return None
        pairs = Pairs.of(spec.boxes)
        return None if pairs is None else cls(spec, pairs, bounding)

    @property
    def left(self) -> tuple[Box, ...]:
        """The boxes with what is left of their disjuncts, without those of which nothing is."""
        found, start = [], 0
        for box in self._spec.boxes:
            end = start + len(box.disjuncts)
            kept = self._open[start:end]
            if kept.all():
                found.append(box)
            elif kept.any():
                found.append(replace(box, disjuncts=tuple(itertools.compress(box.disjuncts, kept))))
            start = end
        return tuple(found)

    def run(self) -> Iterator[np.ndarray]:
        """Bound all boxes, batch by batch, until it is seen that few of them are closed by it.

        Yields:
            Middles [m, n_inputs] of a batch that violate as far as this arithmetic can tell.

        Raises:
            UnsupportedError: a batch cannot be bounded.
        """
        lower, upper = (torch.from_numpy(end).to(self._bounding.like) for end in self._spec.ends)
        bounder = self._bounding.bounder(self._rows, lower[:1], upper[:1])
        if not isinstance(bounder, RefiningBounder) or not bounder.rigorous:
            return
        known = bounder.first(lower[:1], upper[:1]).known
        size = min(max(_ELEMENTS // bounder.cost, 1), bounder.batch)
        for start in range(0, len(lower), size):
            if self.count >= _LOOK and self._closed < _PART * self.count:
                return
            chosen = slice(start, start + size)
            count = len(lower[chosen])
            numbers = torch.arange(start, start + count, device=lower.device)  # carried along as the regions
            nothing = Disjuncts(known.alive.expand(count, -1), known.bound.expand(count))
            yield self._judge(bounder, Boxes(numbers, lower[chosen], upper[chosen], nothing))

    def _rows(self, _: Evaluate, proven: bool) -> Rows:
        eps = torch.finfo(self._bounding.network.dtype).eps
        return self._pairs.rows(self._bounding.like, eps, proven, self._bounding.judged, self._spec.n_inputs)

    def _judge(self, bounder: RefiningBounder, boxes: Boxes[Disjuncts]) -> np.ndarray:
        """Bound one batch, exclude what its bounds exclude and its middles do not contradict; return such middles."""
        pairs, (outputs, bounds, error) = self._pairs, _bounds(bounder, boxes)
        index = boxes.region.cpu().numpy()
        apart = max(self._bounding.network.max_difference, self._difference(bounder, boxes.center))
        rows = replace(bounder.rows, difference=apart, evaluation=error)
        place = np.full(len(self._spec.boxes), -1)
        place[index] = np.arange(len(index))
        at = np.flatnonzero(place[pairs.box] >= 0)
        box, side = (torch.from_numpy(each).to(boxes.lower.device) for each in (place[pairs.box[at]], pairs.side[at]))
        b = torch.from_numpy(pairs.b[at]).to(bounds)
        lower = bounds[box, side] - b
        slack = rows.slack(outputs, bounds)[box, side] + rows.room(b.abs())
        value = rows.values(outputs)[box, side] - b
        disjunct, first = np.unique(pairs.disjunct[at], return_index=True)
        shown, met, least = (each.cpu().numpy() for each in (lower > slack, value <= 0, lower))
        met = np.logical_and.reduceat(met, first)
        left = ~np.logical_or.reduceat(shown, first) | met
        self._open[disjunct] = left
        where = place[pairs.box[at[first]]]
        closed = ~np.isin(where, where[left])
        self.bound = min(self.bound, float(np.maximum.reduceat(least, first)[closed].min(initial=np.inf)))
        self.count += len(index)
        self._closed += len(np.unique(where[closed]))
        return boxes.center.cpu().numpy()[np.unique(where[met])]

    def _difference(self, bounder: RefiningBounder, middles: Tensor) -> float:
        """How far both networks are from each other at the middles, as the type of the session has them."""
        session = self._bounding.session
        points = middles.cpu().numpy().astype(session.dtype)
        outputs = bounder.evaluate(torch.from_numpy(points).to(middles)).double().cpu().numpy()
        return largest_difference(outputs, session(points))


def _bounds(bounder: RefiningBounder, boxes: Boxes[Disjuncts]) -> tuple[Tensor, Tensor, Tensor]:
    """Proven bounds of boxes of which nothing is known yet.

    Returns:
        Outputs at the middles, (n, n_outputs), lower bounds of the rows, and errors of computed rows, (n, k) each.
    """
    region = bounder.around(boxes)
    output, values = bounder.evaluated(region.center)
    C = specification(bounder.rows.A.unsqueeze(0), output)
    C = C.reshape(*C.shape[:2], *bounder.graph.shapes[bounder.graph.output])
    found = crown_bounds(bounder.graph, values, output, (region,), C, bounder.memory_budget)
    offset = found.offset - found.row_error.unsqueeze(1)
    lower = (offset - (found.slope.abs() * region.radius[:, None, None]).sum(3)).amax(1)
    return output.flatten(1), lower, found.row_error
