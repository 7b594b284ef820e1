r"""The proof of one region, step by step.

The property is violated on a region if some input of it has an output in one of the disjuncts ``A_d y <= b_d``. A node
of the proof has a box and the disjuncts that are left there. What is shown on it:

* `Row`: a lower bound of ``A_dk f - b_dk`` on the box is above 0 (or at least 0, if the row is strict). No output of
  the box lies in the disjunct d.
* `Fixed`: the differences of all rows of all disjuncts that are left, between inputs of the box that differ in this
  coordinate alone, have one sign. If an input violates, then so does the one with the coordinate moved to that end.
* `Dropped`: on the part of the box beyond the value, linear lower bounds exclude each disjunct that is left.
* `Cut`, and the next node: the parts cover the box.

A box without a disjunct that is left is closed. If all are, no input of the region violates.

Source: Wang, Pei, Whitehouse, Yang, Jana: ReluVal, USENIX Security 2018, arXiv:1804.10829 (cutting, and moving monotone
inputs to an end); the bounds are those of `bounds`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from recurjac_plugin.errors import counted

from .bounds import Bounds, Ends, Form, gradient_bounds
from .document import Dropped, Fixed, Node, Rejected, Row, Tree
from .maps import Dense
from .network import Network
from .reading.property import Region

_ELEMENTS = 1 << 18  # elements of all vectors of a batch of boxes
_MOST = 256  # boxes in a batch


@dataclass(frozen=True, eq=False)
class Question:
    """A network with the rows of a region's disjuncts as its output, all below each other.

    Attributes:
        network: from the input to ``A y - b``.
        strict: which rows are strict, bool (k,).
        settled: which rows have no output in them and are never fulfilled, such as ``0 < 0``, bool (k,).
        first: of each disjunct the number of its first row, and at the end the number of rows.
    """

    network: Network
    strict: np.ndarray
    settled: np.ndarray
    first: tuple[int, ...]

    @classmethod
    def of(cls, network: Network, region: Region) -> Question:
        """The rows as float64 matrices, with the distance from the exact ones."""
        rows = [row for disjunct in region.disjuncts for row in disjunct]
        size = network.vectors[-1].size
        A, doubt = np.zeros((2, len(rows), size))
        b, doubt_b = np.zeros((2, len(rows)))
        for k, row in enumerate(rows):
            for j, value in row.coefficients:
                A[k, j], doubt[k, j] = _nearest(value)
            b[k], doubt_b[k] = _nearest(-row.right)
        first = (0, *np.cumsum([len(disjunct) for disjunct in region.disjuncts]).tolist())
        strict = np.array([row.strict for row in rows], dtype=bool)
        alone = [not any(value for _, value in row.coefficients) for row in rows]
        never = [-row.right > 0 or (row.strict and row.right == 0) for row in rows]
        settled = np.array(alone, dtype=bool) & np.array(never, dtype=bool)
        return cls(network.followed_by(Dense(A, doubt), b, doubt_b), strict, settled, first)

    @property
    def disjuncts(self) -> int:
        """Number of disjuncts."""
        return len(self.first) - 1

    @property
    def batch(self) -> int:
        """How many boxes are worked on at once."""
        return min(max(_ELEMENTS // sum(vector.size for vector in self.network.vectors), 1), _MOST)

    def rows(self, disjunct: int) -> range:
        """The numbers of a disjunct's rows."""
        return range(self.first[disjunct], self.first[disjunct + 1])

    def excluded(self, lower: np.ndarray, disjunct: int) -> bool:
        """Whether lower bounds of all rows, (k,), exclude the disjunct: one of its rows does."""
        return any(self.positive(lower, row) for row in self.rows(disjunct))

    def positive(self, lower: np.ndarray, row: int) -> bool:
        """Whether no output with this lower bound of a row fulfils it."""
        return bool(self.settled[row] or lower[row] > 0 or (self.strict[row] and lower[row] >= 0))


@dataclass(frozen=True, eq=False)
class Place:
    """A box that a node is about, with what is known of it.

    Attributes:
        node: number of the node.
        low: lower ends, (columns,).
        high: upper ends.
        alive: the disjuncts that are left.
        known: bounds of vectors that hold on a larger box, by number, (size,) each.
    """

    node: int
    low: np.ndarray
    high: np.ndarray
    alive: frozenset[int]
    known: Mapping[int, Ends]


def batch_bounds(question: Question, places: list[Place]) -> Bounds:
    """Bounds of the network on the boxes of several places, no looser than what is known there."""
    known = {
        v: (np.stack([p.known[v][0] for p in places]), np.stack([p.known[v][1] for p in places]))
        for v in places[0].known
        if all(v in p.known for p in places)
    }
    low, high = np.stack([p.low for p in places]), np.stack([p.high for p in places])
    return Bounds(question.network, low, high, known)


def prove(network: Network, region: Region, tree: Tree) -> int:
    """Check the proof of one region.

    Args:
        network: from the inputs to the outputs.
        region: what is to be shown.
        tree: how.

    Returns:
        The number of boxes.

    Raises:
        Rejected: a step does not follow, or something is left out.
    """
    _require_cover(region, tree)
    question = Question.of(network, region)
    stack = [Place(0, tree.lower, tree.upper, frozenset(range(question.disjuncts)), {})]
    reached = np.zeros(len(tree.nodes), dtype=bool)
    reached[0] = True
    while stack:
        places, stack = stack[-question.batch :], stack[: -question.batch]
        bounds = batch_bounds(question, places)
        form = bounds.output_form()
        gradients = _gradients(question, bounds, places, tree)
        for i, place in enumerate(places):
            box = _Box(question, place, form.part(i), gradients.get(i, {}))
            for part in box.after(tree.nodes[place.node], _part(bounds, i)):
                if not 0 < part.node < len(reached) or reached[part.node]:
                    raise Rejected(f"node {part.node} is not there, or is used twice")
                reached[part.node] = True
                stack.append(part)
    if not reached.all():
        raise Rejected(f"node {int((~reached).argmax())} belongs to no box")
    return len(tree.nodes)


def _require_cover(region: Region, tree: Tree) -> None:
    """The box of the first node must contain the region, compared as rationals."""
    columns = len(region.lower)
    if not tree.nodes or len(tree.lower) != columns or len(tree.upper) != columns:
        raise Rejected(f"a region has no proof, or one of another size than its {counted(columns, 'input')}")
    for i in range(columns):
        low, high = Fraction(float(tree.lower[i])), Fraction(float(tree.upper[i]))
        if not low <= region.lower[i] <= region.upper[i] <= high:
            raise Rejected(f"the box from {float(low)!r} to {float(high)!r} does not contain all of input {i}")


def _gradients(
    question: Question, bounds: Bounds, places: list[Place], tree: Tree
) -> dict[int, dict[int, tuple[np.ndarray, np.ndarray]]]:
    """Bounds of the rows' gradients where nodes fix coordinates: by position, by row."""
    pairs = []
    for i, place in enumerate(places):
        alive = set(place.alive)
        for step in tree.nodes[place.node].steps:
            if isinstance(step, Row):
                alive.discard(step.disjunct)
            elif isinstance(step, Fixed):
                pairs += [(i, row) for d in sorted(alive) for row in question.rows(d)]
                break
    if not pairs:
        return {}
    low, high = gradient_bounds(bounds, *np.array(pairs).T)
    gradients: dict[int, dict[int, tuple[np.ndarray, np.ndarray]]] = {}
    for (i, row), *ends in zip(pairs, low, high):
        gradients.setdefault(i, {})[row] = (ends[0], ends[1])
    return gradients


def _part(bounds: Bounds, i: int) -> dict[int, Ends]:
    return {v: (low[i], high[i]) for v, (low, high) in bounds.read.items()}


class _Box:
    """A box that becomes smaller, and its disjuncts that become fewer, by steps that are checked.

    Args:
        question: what is asked.
        place: where it begins.
        form: lower bounds of the rows on all of it.
        gradients: bounds of the rows' gradients on all of it, by row.
    """

    def __init__(self, question: Question, place: Place, form: Form, gradients: dict[int, Ends]) -> None:
        self.question, self.form, self.gradients = question, form, gradients
        self.node, self.alive = place.node, set(place.alive)
        self.low, self.high = place.low.copy(), place.high.copy()

    def after(self, node: Node, known: Mapping[int, Ends]) -> list[Place]:
        """The places of the nodes that follow.

        Raises:
            Rejected: a step is not shown, or disjuncts are left and nothing follows.
        """
        for step in node.steps:
            if isinstance(step, Row):
                self._exclude(step)
            elif isinstance(step, Fixed):
                self._fix(step)
            else:
                self._drop(step)
        alive = frozenset(self.alive)
        if bool(alive) != (node.cut is not None or node.next is not None):
            raise self._rejected("is left open" if alive else "is closed and goes on all the same")
        if node.next is not None:
            return [Place(node.next, self.low, self.high, alive, known)]
        if node.cut is None:
            return []
        axis, value, *_ = node.cut
        self._require_inside(axis, value)
        high, low = self.high.copy(), self.low.copy()
        high[axis] = low[axis] = value
        return [
            Place(node.cut.below, self.low, high, alive, known),
            Place(node.cut.above, low, self.high, alive, known),
        ]

    def _exclude(self, step: Row) -> None:
        if step.disjunct not in self.alive or step.row >= len(self.question.rows(step.disjunct)):
            raise self._rejected(f"has no row {step.row} of a disjunct {step.disjunct} that is left")
        if not self.question.positive(self._lower(self.low, self.high), self.question.rows(step.disjunct)[step.row]):
            raise self._rejected(f"does not have row {step.row} of disjunct {step.disjunct} above its right side")
        self.alive.remove(step.disjunct)

    def _fix(self, step: Fixed) -> None:
        self._require_inside(step.axis, None)
        for disjunct in self.alive:
            for row in self.question.rows(disjunct):
                low, high = self.gradients[row]
                if not (low[step.axis] >= 0 if step.end == "lower" else high[step.axis] <= 0):
                    raise self._rejected(f"is not shown to be monotone in input {step.axis}")
        if step.end == "lower":
            self.high[step.axis] = self.low[step.axis]
        else:
            self.low[step.axis] = self.high[step.axis]

    def _drop(self, step: Dropped) -> None:
        self._require_inside(step.axis, step.value)
        low, high = self.low.copy(), self.high.copy()
        (low if step.side == "above" else high)[step.axis] = step.value
        lower = self._lower(low, high)
        if not all(self.question.excluded(lower, disjunct) for disjunct in self.alive):
            raise self._rejected(f"has a part {step.side} {step.value!r} of input {step.axis} that is not excluded")
        (self.high if step.side == "above" else self.low)[step.axis] = step.value

    def _lower(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        return self.form.least(low[None], high[None])[0][0]

    def _require_inside(self, axis: int, value: float | None) -> None:
        if axis >= len(self.low) or not (value is None or self.low[axis] <= value <= self.high[axis]):
            raise self._rejected(f"does not have {value!r} between its ends of input {axis}")

    def _rejected(self, what: str) -> Rejected:
        return Rejected(f"the box of node {self.node} {what}")


def _nearest(value: Fraction) -> tuple[float, float]:
    """The nearest float64, and a bound of its distance."""
    nearest = float(value)
    distance = abs(Fraction(nearest) - value)
    return nearest, math.nextafter(float(distance), math.inf) if distance else 0.0
