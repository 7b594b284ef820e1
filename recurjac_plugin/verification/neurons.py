r"""Verdicts by signs of neurons: what fixing coordinates leaves of a property, one search for each disjunct on a box.

A disjunct ``A y <= b`` is excluded on a box if its rows ``A f(x) - b - slack`` are nowhere all at most 0, with the room
that the goal leaves (`goals.Rows.slack`). That is what `neurons.searches.several` shows, on the network between its
undetermined neurons (`neurons.reduced`), which all disjuncts share.

Source: own; see the modules named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from recurjac_plugin.branch_and_bound.bounders import RefiningBounder
from recurjac_plugin.branch_and_bound.boxes import Boxes, Disjuncts
from recurjac_plugin.branch_and_bound.exclusion_search import ExclusionSearch
from recurjac_plugin.neurons.reduced import Reduced, reduce, two_sides
from recurjac_plugin.neurons.searches.several import Several
from recurjac_plugin.preactivations.crown import crown_bounds


class NeuronBranching:
    """Branches on neurons in what a search has put aside, box by box.

    Args:
        search: one that has fixed coordinates and cut nothing yet; its bounds are proven.

    Source:
        As this module's.
    """

    def __init__(self, search: ExclusionSearch) -> None:
        self._search = search
        self._searches: list[NeuronSearch] | None = None  # until the first step

    @staticmethod
    def suits(search: ExclusionSearch) -> bool:
        """Whether there is something to branch on: proven bounds on gains, of functions with two linear pieces."""
        bounder = search.bounder
        return (
            search.fixing
            and bool(search.aside)
            and isinstance(bounder, RefiningBounder)
            and bounder.rigorous
            and bounder.method.with_host_output
            and all(two_sides(step) for step in bounder.graph.factors)
        )

    @property
    def work(self) -> float:
        """Multiplications taken so far, about."""
        return sum(each.work for each in self._searches or ())

    @property
    def open(self) -> bool:
        """Whether a step may still show something."""
        return self._searches is None or any(not each.proved and not each.stuck for each in self._searches)

    @torch.no_grad()
    def step(self, over: Callable[[], bool]) -> Tensor:
        """The next step, on the box that has taken the least work; what is excluded is closed in the search.

        Returns:
            Inputs (m, columns) at which a violation is likeliest.
        """
        if self._searches is None:
            assert isinstance(self._search.bounder, RefiningBounder)
            self._searches = [NeuronSearch(self._search.bounder, box) for box in _grouped(self._search.aside)]
        waiting = [each for each in self._searches if not each.proved and not each.stuck]
        current = min(waiting, key=lambda each: each.work)
        before = current.parts
        points = current.step(over)
        self._search.boxes = self._search.boxes + (current.parts - before)
        if current.changed:
            self._search.close_aside([each.left for each in self._searches if not each.proved])
        return points


def _grouped(aside: Sequence[Boxes[Disjuncts]]) -> list[Boxes[Disjuncts]]:
    """Boxes one by one, those that are the same as one box with the disjuncts of all of them."""
    boxes: list[Boxes[Disjuncts]] = []
    for batch in aside:
        for i in range(len(batch)):
            box = batch.take(slice(i, i + 1))
            for j, other in enumerate(boxes):
                if torch.equal(box.lower, other.lower) and torch.equal(box.upper, other.upper):
                    bound = torch.minimum(other.known.bound, box.known.bound)
                    boxes[j] = replace(other, known=Disjuncts(other.known.alive | box.known.alive, bound))
                    break
            else:
                boxes.append(box)
    return boxes


class NeuronSearch:
    """Excludes what is left of the disjuncts on one box, by branching on neurons.

    Args:
        bounder: what bounded the box; its bounds are proven.
        box: a batch of one.

    Attributes:
        changed: whether the last step excluded a disjunct.

    Raises:
        RoomError: the network between undetermined neurons does not fit into memory.

    Source:
        As this module's.
    """

    def __init__(self, bounder: RefiningBounder, box: Boxes[Disjuncts]) -> None:
        self._bounder, self._box = bounder, box
        self.changed = False
        reduced, above = self._read()
        left = [int(d) for d in box.known.alive[0].nonzero()]
        sets = {d: (bounder.rows.disjunct == d).nonzero().squeeze(1) for d in left}
        self._searches = Several(reduced, sets, above, bounder.memory_budget)

    @property
    def proved(self) -> bool:
        """Whether every disjunct is excluded."""
        return self._searches.proved

    @property
    def stuck(self) -> bool:
        """Whether nothing can be done about a disjunct."""
        return self._searches.stuck

    @property
    def work(self) -> float:
        """Multiplications taken so far, about."""
        return self._searches.work

    @property
    def parts(self) -> int:
        """Number of parts that were bounded."""
        return self._searches.parts

    @property
    def left(self) -> Boxes[Disjuncts]:
        """The box with the disjuncts that are not excluded."""
        alive = torch.zeros_like(self._box.known.alive)
        alive[0, self._searches.open] = True
        return replace(self._box, known=Disjuncts(alive, self._box.known.bound))

    def step(self, over: Callable[[], bool]) -> Tensor:
        """The next step of the search that has taken the least work.

        Returns:
            Inputs (m, columns) at which a violation is likeliest.
        """
        self.changed = self._searches.step(over)
        points = self._box.center + self._searches.nearest
        return torch.minimum(torch.maximum(points, self._box.lower), self._box.upper)

    def _read(self) -> tuple[Reduced, Tensor]:
        """The network over the box, and what is subtracted from all rows."""
        bounder, graph = self._bounder, self._bounder.graph
        region = bounder.around(self._box)
        output, values = bounder.evaluated(region.center)
        C = bounder.rows.A.unsqueeze(0).reshape(1, len(bounder.rows.b), *graph.shapes[graph.output])
        known = replace(bounder.root, bounds=self._box.around)
        bounds = crown_bounds(graph, values, output, (region,), C, bounder.memory_budget, known=known)
        reduced = reduce(graph, bounds, values, output, (region,), C, bounder.memory_budget)
        lower = (bounds.offset - (bounds.slope.abs() * region.radius[:, None, None]).sum(3)).amax(1) - bounder.rows.b
        return reduced, bounder.rows.b + bounder.rows.slack(output.flatten(1), lower)[0]
