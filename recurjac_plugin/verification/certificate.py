r"""Certificates of `unsat` verdicts, for the checker of `recurjac_plugin.checker`.

A checker believes nothing but what its own bounds show, so the boxes are cut until *these* bounds show it: with them a
search cuts every region of the property anew, and writes down what it does. Its steps are those of
`branch_and_bound.exclusion` (rows that exclude a disjunct, coordinates that are monotone, parts that linear bounds
exclude, halves), and it keeps a distance from the last digit, so that bounds computed in another order show the same.
Before the certificate is written the checker itself reads it.

So the verdict is shown twice, by arithmetics that share nothing: by the search that said `unsat`, and by this one.

Source: as `branch_and_bound.exclusion`; that the proof is searched with the checker's bounds is this package's own.
"""

from __future__ import annotations

import gzip
import math
import time
from os import PathLike
from pathlib import Path

import numpy as np

from recurjac_plugin.checker.bounds import Bounds, Form, gradient_bounds
from recurjac_plugin.checker.document import Certificate, Cut, Dropped, Fixed, Node, Rejected, Row, Tree
from recurjac_plugin.checker.files import Problem, check_content
from recurjac_plugin.checker.network import Network
from recurjac_plugin.checker.proof import Place, Question, batch_bounds
from recurjac_plugin.checker.reading.property import Region
from recurjac_plugin.errors import CertificateError, counted
from recurjac_plugin.files import write
from recurjac_plugin.version import __version__

_ROOMS = 64.0  # times what rounding can do: how far above 0 a lower bound must lie
_SIGN = 2.0**-40  # times the largest derivative of a row: how far from 0 one must lie to have a sign
_WORTH = 0.05  # part of a side that is worth to be dropped
_CUTTABLE = 20  # coordinates that vary: boxes with more are not cut
_SHOWN = 8  # numbers of an input in a message
_SWEEPS = 2  # how many times all sides are looked at


def write_certificate(
    problem: Problem,
    file: str | PathLike[str],
    *,
    timeout: float | None = None,
) -> int:
    """Write a certificate that no output of a network violates a property.

    Args:
        problem: network and property, as the checker reads their files.
        file: what to write, whole or not at all; compressed if its name ends in ``.gz``.
        timeout: seconds after which to give up.

    Returns:
        The number of boxes of the proof.

    Raises:
        CertificateError: the checker's bounds do not show it, or not in that time.
        FileError: the file cannot be written.

    Source:
        As this module's.
    """
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    trees = tuple(_Search(problem.network, region, deadline).tree() for region in problem.property.regions)
    content = Certificate(*problem.hashes, trees, f"recurjac_plugin {__version__}").dumped()
    try:
        accepted = check_content(problem, content)
    except Rejected as error:
        raise CertificateError(f"no certificate could be written: the checker found that {error}.") from error
    path = Path(file)
    write(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return accepted.boxes


class _Search:
    """The search for the proof of one region.

    Args:
        network: from the inputs to the outputs.
        region: what is to be shown.
        deadline: value of `time.monotonic` at which to give up.
    """

    def __init__(self, network: Network, region: Region, deadline: float) -> None:
        self.question, self.deadline = Question.of(network, region), deadline
        low, high = np.array([*map(float, region.lower)]), np.array([*map(float, region.upper)])
        low = np.where([a > b for a, b in zip(low.tolist(), region.lower)], np.nextafter(low, -np.inf), low)
        high = np.where([a < b for a, b in zip(high.tolist(), region.upper)], np.nextafter(high, np.inf), high)
        self.low, self.high = low, high
        self.nodes: list[Node] = []

    def tree(self) -> Tree:
        """The proof.

        Raises:
            CertificateError: there is none, or the time is over.
        """
        question = self.question
        self.nodes.append(Node())
        stack = [Place(0, self.low, self.high, frozenset(range(question.disjuncts)), {})]
        while stack:
            if time.monotonic() > self.deadline:
                raise CertificateError(
                    f"no certificate could be written: the time was over after {counted(len(self.nodes), 'box')}."
                )
            places, stack = stack[-question.batch :], stack[: -question.batch]
            stack += self._step(places)
        return Tree(self.low, self.high, self.nodes)

    def _step(self, places: list[Place]) -> list[Place]:
        """Work on the boxes of some places; the places that follow."""
        bounds = batch_bounds(self.question, places)
        form = bounds.output_form()
        lower, room = form.least(bounds.low[0], bounds.high[0])
        boxes = [_OpenBox(self.question, place, form.part(i)) for i, place in enumerate(places)]
        for box, low, margin in zip(boxes, lower, room):
            box.exclude(low, _ROOMS * margin)
        left = [i for i, box in enumerate(boxes) if box.alive]
        pairs = [(i, row) for i in left for d in sorted(boxes[i].alive) for row in self.question.rows(d)]
        if pairs:
            gradients = gradient_bounds(bounds, *np.array(pairs).T)
            owners = np.array([i for i, _ in pairs])
        self._require_distance([box for box in boxes if box.alive])
        following = []
        for i, (place, box) in enumerate(zip(places, boxes)):
            cut = None
            if box.alive:
                cut = box.worked_on(gradients[0][owners == i], gradients[1][owners == i])
            following += self._noted(place, box, cut, {v: (low[i], high[i]) for v, (low, high) in bounds.read.items()})
        return following

    def _require_distance(self, boxes: list[_OpenBox]) -> None:
        """Refuse to cut where it is of no use: no box around a point is shown to be safe if the point itself is not.

        Raises:
            CertificateError: the middle of a box violates the property, or comes as near as rounding allows to see.
        """
        if not boxes:
            return
        middles = np.stack([box.low + (box.high - box.low) / 2 for box in boxes])
        form = Bounds(self.question.network, middles, middles).output_form()
        lower, room = form.least(middles, middles)
        for middle, clear, box in zip(middles, lower - _ROOMS * room, boxes):
            if any(max(clear[row] for row in self.question.rows(d)) <= 0 for d in box.alive):
                raise CertificateError(
                    "no certificate could be written: the checker sees no distance from a violation at "
                    f"{[float(each) for each in middle[:_SHOWN]]}{' ...' if len(middle) > _SHOWN else ''}."
                )

    def _noted(self, place: Place, box: _OpenBox, cut: tuple[int, float] | None, known: dict) -> list[Place]:
        """The node of a box, written down, and the places of those that follow it."""
        node = self.nodes[place.node]
        node.steps = box.steps
        if not box.alive:
            return []
        alive, new = frozenset(box.alive), len(self.nodes)
        many = int((box.high > box.low).sum()) > _CUTTABLE
        if cut is None or many:
            if box.shrank and (not many or any(isinstance(step, Fixed) for step in box.steps)):
                node.next = new
                self.nodes.append(Node())
                return [Place(new, box.low, box.high, alive, known)]
            raise CertificateError(
                "no certificate could be written: the checker's bounds do not exclude a violation at "
                f"{[float(each) for each in box.low[:_SHOWN]]}{' ...' if len(box.low) > _SHOWN else ''}, and "
                f"{f'more than {_CUTTABLE} inputs vary: boxes are not cut' if many else 'nothing is left to cut'}."
            )
        axis, value = cut
        node.cut = Cut(axis, value, new, new + 1)
        self.nodes += [Node(), Node()]
        high, low = box.high.copy(), box.low.copy()
        high[axis] = low[axis] = value
        return [Place(new, box.low, high, alive, known), Place(new + 1, low, box.high, alive, known)]


class _OpenBox:
    """One box of the search, and the steps that were made on it.

    Args:
        question: what is asked.
        place: where it begins.
        form: lower bounds of the rows on all of it.
    """

    def __init__(self, question: Question, place: Place, form: Form) -> None:
        self.question, self.form = question, form
        self.low, self.high, self.alive = place.low.copy(), place.high.copy(), set(place.alive)
        self.steps: list[Row | Fixed | Dropped] = []
        self.shrank = False
        self.lower = np.zeros(0)
        self._slopes: np.ndarray = np.zeros(0)

    def exclude(self, lower: np.ndarray, margin: np.ndarray) -> None:
        """Exclude the disjuncts that lower bounds of the rows, (k,), exclude by that margin."""
        self.lower = lower
        for disjunct in sorted(self.alive):
            rows = self.question.rows(disjunct)
            clear = [math.inf if self.question.settled[row] else lower[row] - margin[row] for row in rows]
            best = int(np.argmax(clear))
            if clear[best] > 0:
                self.alive.remove(disjunct)
                self.steps.append(Row(disjunct, best))

    def fix(self, low: np.ndarray, high: np.ndarray) -> None:
        """Fix the coordinates in which all rows that are left are monotone; low, high: gradients, (rows, columns)."""
        least = _SIGN * np.maximum(np.abs(low), np.abs(high)).max(1, keepdims=True)
        rises, falls = (low >= least).all(0), (high <= -least).all(0)
        for axis in np.flatnonzero((rises | falls) & (self.high > self.low)).tolist():
            self.steps.append(Fixed(axis, "lower" if rises[axis] else "upper"))
            self.shrank = True
            if rises[axis]:
                self.high[axis] = self.low[axis]
            else:
                self.low[axis] = self.high[axis]
        rows = [row for d in sorted(self.alive) for row in self.question.rows(d)]
        worst = min(self.alive, key=lambda d: max(self.lower[row] for row in self.question.rows(d)))
        best = max(self.question.rows(worst), key=lambda row: self.lower[row])
        place = rows.index(best)
        self._slopes = np.maximum(np.abs(low[place]), np.abs(high[place]))

    def worked_on(self, low: np.ndarray, high: np.ndarray) -> tuple[int, float] | None:
        """Do all that can be done with the rows' gradients, (rows, columns); where to cut what is left."""
        self.fix(low, high)
        self.drop()
        return self.cut() if self.alive else None

    def drop(self) -> None:
        """Leave out the parts that the linear bounds exclude, and exclude what they do on the rest."""
        lower, margin = self._bounds()
        for _ in range(_SWEEPS):
            for axis in np.flatnonzero(self.high > self.low).tolist():
                for side in ("above", "below"):
                    if self._drop_at(axis, side, lower, margin):
                        lower, margin = self._bounds()
        self.exclude(lower, margin)

    def cut(self) -> tuple[int, float] | None:
        """Where to halve the box: across the coordinate of the largest derivative times side."""
        middle = self.low + (self.high - self.low) / 2
        smear = np.where((self.low < middle) & (middle < self.high), self._slopes * (self.high - self.low), -1.0)
        smear = np.nan_to_num(smear, nan=np.inf)
        axis = int(np.argmax(smear))
        return (axis, float(middle[axis])) if smear[axis] >= 0 else None

    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        lower, room = self.form.least(self.low[None], self.high[None])
        return lower[0], _ROOMS * room[0]

    def _drop_at(self, axis: int, side: str, lower: np.ndarray, margin: np.ndarray) -> bool:
        """Drop what can be dropped on one side of a coordinate; whether something was."""
        low, high = self.low[axis], self.high[axis]
        slope = self.form.coefficients[0, :, axis] * (1.0 if side == "above" else -1.0)
        with np.errstate(all="ignore"):
            # A row grows by slope times the way from the end at which it is smallest.
            way = np.where(slope > 0, (margin - lower) / slope, np.inf) * (1.0 + 1e-9)
        most = max(min(way[row] for row in self.question.rows(d)) for d in self.alive)
        if not most < (1.0 - _WORTH) * (high - low) or most <= 0:
            return False
        value = float(low + most if side == "above" else high - most)
        if not low < value < high:
            return False
        self.steps.append(Dropped(axis, side, value))
        self.shrank = True
        (self.high if side == "above" else self.low)[axis] = value
        return True
