"""The strategy of a verification, for one that is under way: sample, bound, cut, attack.

Every box of a property is searched by itself (`branch_and_bound.exclusion`); the property holds if all disjuncts are
excluded on all of them. One point that violates it, confirmed by `counterexample.check`, ends everything.
"""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.branch_and_bound.exclusion_search import ExclusionSearch
from recurjac_plugin.errors import RoomError, UnsupportedError
from recurjac_plugin.networks.onnx import OnnxNetwork
from recurjac_plugin.properties.spec import Box, Spec

from .attacks.blind import is_flat, search_blindly
from .attacks.descent import find_counterexample
from .bounded.bounding import Bounding
from .bounded.screening import Screening
from .composed.copies import Copies
from .counterexample import Counterexample, Session, check
from .neurons import NeuronBranching

_ATTACK_STEPS = 30  # gradient steps of each attack in between
_SHORT, _BETWEEN = 20, 1024  # gradient steps from where the search came nearest to a violation, every so many boxes
_FIRST_ATTACK = 2048  # boxes until the second attack; later ones come whenever their number has doubled
_FEW = 20  # coordinates that vary: boxes with more have theirs fixed first, and are cut only where that gets on
_SHARE = 0.25  # of the time for cutting boxes of many dimensions, attacks in between
_BATCHES = 16  # batches of boxes of those that may be cut without a deadline
_BRANCHING = 0.8  # of the time that is left, for branching on neurons
_WORK = 2.0**35  # multiplications of it without a deadline: some seconds of a processor
_SIGNS = 0.4  # of the time, for signs of the Jacobian where uses of one network are compared
_CHECKS = 4  # points of a batch that the session looks at


class Verification:
    """One verification under way.

    Args:
        network: what is verified, with what attacks need to know of it.
        spec: the property.
        session: what judges counterexamples.
        bounding: what bounds its boxes.
        deadline: value of `time.monotonic` at which to stop.
        seed: of the attacks.

    Attributes:
        counterexample: an input that violates the property, if one was met.
        searches: of the boxes of the property that were reached, in order.
        late: whether the time ran out.
        shown: certified lower bound of the distance from a violation in what was excluded before any search.
    """

    def __init__(
        self,
        network: OnnxNetwork,
        spec: Spec,
        session: Session,
        bounding: Bounding,
        *,
        deadline: float,
        seed: int,
    ) -> None:
        self.network, self.spec, self.session = network, spec, session
        self.bounding, self.deadline = bounding, deadline
        self.counterexample: Counterexample | None = None
        self.searches: list[ExclusionSearch] = []
        self.late = False
        self.shown, self._screened = math.inf, 0
        self._seeds = itertools.count(seed)
        self._rounds, self._attacked = 0, 0.0  # rounds and seconds of attacks
        self._flat = False  # whether the network has no gradients

    @property
    def boxes(self) -> int:
        """Number of boxes bounded."""
        return self._screened + sum(int(search.boxes.sum()) for search in self.searches)

    @property
    def lower_bound(self) -> float:
        """Certified lower bound of the distance from a violation, as in `Result`; -inf where a box was not reached."""
        reached = len(self.searches) == len(self.spec.boxes)
        return min(self.shown, *(search.bound for search in self.searches), math.inf) if reached else -math.inf

    @property
    def proved(self) -> bool:
        """Whether no box has a violation."""
        return len(self.searches) == len(self.spec.boxes) and all(search.proved for search in self.searches)

    def sample(self) -> None:
        """Evaluate random points: what is violated nearly everywhere needs no bounds.

        With a deadline also for a small part of the time, where the network has no gradients: bounds may take the rest.
        """
        self._attack(self.spec, rounds=1, steps=0)
        if self.deadline < math.inf and not self._over() and is_flat(self.network, self.spec.boxes[0]):
            self._flat = True
            self._search_blindly(_SHARE / 5)

    def compare(self) -> None:
        """Exclude what signs of the Jacobian show where two uses of one network are compared."""
        copies = None if self._over() else Copies.of(self.network)
        if copies is None:
            return
        left = self.deadline - time.monotonic()
        seconds = None if left == math.inf else _SIGNS * left
        rigorous = self.bounding.rigorous and not self.bounding.falls_back
        spec, candidates = copies.excluded(self.spec, seconds, next(self._seeds), rigorous)
        for z in candidates:
            if not self._over():
                self.counterexample = check(self.spec, self.session, z)
        if spec is not self.spec:
            self.spec, self.shown = spec, 0.0

    @torch.no_grad()
    def screen(self) -> None:
        """Bound the boxes of a property that has many in batches; go on with what is left of them."""
        screening = Screening.of(self.spec, self.bounding) if self.bounding.rigorous and not self._over() else None
        if screening is None:
            return
        try:
            for points in screening.run():
                for x in points[:_CHECKS]:
                    self.counterexample = self.counterexample or check(self.spec, self.session, x)
                if self._over():
                    break
        except (UnsupportedError, RoomError):
            pass  # one by one there may be bounds
        finally:
            self.spec, self.shown = replace(self.spec, boxes=screening.left), min(self.shown, screening.bound)
            self._screened = screening.count

    @torch.no_grad()
    def bound(self) -> None:
        """Bound every box of the property once."""
        for box in self.spec.boxes:
            if self._over():
                return
            lower, upper = self.bounding.ends(box)
            bounds = self.bounding.bounder(partial(self.bounding.rows, box), lower, upper)
            branching = self.bounding.branching
            self.searches.append(ExclusionSearch(bounds, lower, upper, branching, _dimensions(box) > _FEW))
            self._step(self.searches[-1])

    def fix(self) -> None:
        """Fix coordinates of boxes of many dimensions, again and again, until that moves them no further.

        What comes to rest is put aside (`BranchAndBound.aside`): boxes with one disjunct each, and with the bounds of
        pre-activations that hold on them.
        """
        for search in self.searches:
            while search.fixing and not search.finished and not self._over():
                self._step(search)

    def probe(self) -> None:
        """One short attack where many coordinates vary: what it finds is not worth bounding any further.

        Where the network has no gradients, which attacks in between follow, a part of the time without them.
        """
        if self._flat:
            self._search_blindly(_SHARE)
        if any(search.fixing and not search.proved for search in self.searches):
            self._attack_open_part(rounds=1)

    def branch(self) -> None:
        """Branch on neurons in what fixing has put aside, attacks in between.

        With a deadline for most of the time that is left, otherwise as long as that is not too much work.
        """
        start, attacked, next_attack = time.monotonic(), self._attacked, 0.0
        end = start + _BRANCHING * (self.deadline - start)
        for search in filter(NeuronBranching.suits, self.searches):
            branching = NeuronBranching(search)
            while branching.open and not self._over() and time.monotonic() < end:
                if end == math.inf and branching.work > _WORK:
                    break
                elapsed = self._elapsed(start)
                if self._attacked - attacked < _SHARE * elapsed or branching.work > next_attack:
                    self._attack_open_part(rounds=1)
                    next_attack = math.inf if elapsed else max(2 * branching.work, _WORK / 64)
                self._look_at(search, branching.step(self._over))

    @torch.no_grad()
    def _look_at(self, search: ExclusionSearch, points: Tensor) -> None:
        """Have the session judge points (m, columns) at which the rows are violated here."""
        if len(points):
            met = search.bounder.rows.met(search.bounder.rows.values(search.bounder.evaluate(points))).any(1)
            for x in points[met][:_CHECKS].cpu().numpy():
                self.counterexample = self.counterexample or check(self.spec, self.session, x)

    def attack(self, seconds: float) -> None:
        """Look for counterexamples where the bounds leave something open, to which cutting has no answer."""
        if seconds > 0 and not self.proved:
            self._attack_open_part(seconds=seconds)

    def attack_to_the_end(self) -> None:
        """Look for counterexamples until the time is over, where there are no bounds: by gradients and without them.

        Both take turns, in slices that grow: neither knows whether the other would find one.
        """
        slice_ = 1.0
        while not self._over():
            self._attack(self.spec, seconds=slice_, first_round=self._rounds)
            self._rounds += 1
            if not self._over():
                end = min(self.deadline, time.monotonic() + slice_)
                self.counterexample = search_blindly(self.spec, self.session, deadline=end, seed=next(self._seeds))
            slice_ *= 2

    def cut(self, split: bool | None) -> bool:
        """Cut the boxes that are left.

        None of them (False), all to the end (True), or (None) those of few dimensions to the end, and the others as
        long as it gets on (`ExclusionSearch.promising`).

        Returns:
            Whether boxes are left that it is of no use to cut.
        """
        if split is False:
            return True
        start, given_up, self._attacked = time.monotonic(), False, 0.0
        for search in self.searches:
            search.resume()
        waiting = [search for search in self.searches if not search.finished]
        boxes = next_attack = 0
        next_short = _BETWEEN
        while waiting and not self._over():
            if boxes >= next_attack or (waiting[0].many and self._attacked < _SHARE * self._elapsed(start)):
                self._attack_open_part(rounds=1)
                next_attack = max(2 * boxes, _FIRST_ATTACK)
            boxes += sum(self._step(search) for search in waiting if not self._over())
            if boxes >= next_short and not self._over():
                nearest = torch.cat([search.goal.nearest for search in waiting])
                self._attack_open_part(steps=_SHORT, starts=nearest)
                next_short = boxes + _BETWEEN
            waiting = [search for search in waiting if not search.finished]
            if split is None and waiting:
                hopeful = [s for s in waiting if not s.many or s.promising(self._affordable(s, boxes, start))]
                given_up = given_up or len(hopeful) < len(waiting)
                waiting = hopeful
        return given_up

    def require_bounded(self) -> None:
        """Say why there is no answer where it is that a box of the property could not be bounded at all.

        Raises:
            UnsupportedError: what refused the box.
        """
        for search in self.searches:
            if search.refusal is not None and not search.bounded and not self._over():
                raise search.refusal

    def _elapsed(self, start: float) -> float:
        """Seconds since then where time counts at all: 0 without a deadline, so that every run is the same."""
        return 0.0 if self.deadline == math.inf else time.monotonic() - start

    def _affordable(self, search: ExclusionSearch, boxes: int, start: float) -> float:
        """Number of boxes that there is time to cut, at the pace since `start`; a fixed one without a deadline."""
        if self.deadline == math.inf:
            return float(_BATCHES * search.bounder.batch)
        return boxes * (self.deadline - start) / max(self._elapsed(start), 1e-6)

    def _over(self) -> bool:
        self.late = self.late or time.monotonic() >= self.deadline
        return self.late or self.counterexample is not None

    @torch.no_grad()
    def _step(self, search: ExclusionSearch) -> int:
        """One step of a search; the number of boxes it took."""
        before = search.boxes
        for points in search.step(self._over):  # to its end: half a step would lose boxes
            for x in points[:_CHECKS].cpu().numpy():
                self.counterexample = self.counterexample or check(self.spec, self.session, x)
        if self.counterexample is None:
            search.goal.require_consistent()
        return int((search.boxes - before).sum())

    def _attack(self, spec: Spec, *, steps: int = _ATTACK_STEPS, seconds: float = math.inf, **options: Any) -> None:
        if self._over():
            return
        start = time.monotonic()
        seconds = min(seconds, self.deadline - start)
        self.counterexample = find_counterexample(
            self.network, spec, self.session, seconds=seconds, steps=steps, seed=next(self._seeds), **options
        )
        self._attacked += time.monotonic() - start
        self._over()

    def _search_blindly(self, share: float) -> None:
        """Attack what is not proved yet by evaluation alone, for a share of the time that is left."""
        open_part = None if self._over() else self._open_part()
        if open_part is not None:
            now = time.monotonic()
            end = now + share * (self.deadline - now)
            self.counterexample = search_blindly(open_part, self.session, deadline=end, seed=next(self._seeds))

    def _attack_open_part(self, *, rounds: int | None = None, **options: Any) -> None:
        """Attack what is not proved yet; rounds of new starts go on where the last attack stopped."""
        open_part = None if self._over() else self._open_part()
        if open_part is not None:
            self._attack(open_part, rounds=rounds, first_round=self._rounds, **options)
            self._rounds += rounds or 0

    def _open_part(self) -> Spec | None:
        """The part of the property that is not proved yet."""
        boxes = []
        for box, search in itertools.zip_longest(self.spec.boxes, self.searches):
            if search is None:
                boxes.append(box)
            elif not search.proved:
                alive = torch.stack([each.known.alive.any(0) for each in search.left]).any(0)
                boxes.append(replace(box, disjuncts=tuple(itertools.compress(box.disjuncts, alive.tolist()))))
        return replace(self.spec, boxes=tuple(boxes)) if boxes else None


def _dimensions(box: Box) -> int:
    """Number of coordinates that are not fixed."""
    return int((box.upper > box.lower).sum())
