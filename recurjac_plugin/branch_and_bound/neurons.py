r"""Verdicts by signs of neurons: a box of a property, one search for each disjunct that bounds of the box leave open.

A disjunct ``A y <= b`` is excluded on a box if its rows ``A f(x) - b - slack`` are nowhere all at most 0, with the room
that the goal leaves (`goals.Rows.slack`). That is what `neurons.emptiness` shows, on the network between its
undetermined neurons (`neurons.reduced`), which all disjuncts share. So do intervals that hold on the whole box: once
the searches have taken as much work as it costs, the bound of every undecided neuron is optimised.

Source: own; see the modules named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from recurjac_plugin.neurons.contraction import Contraction
from recurjac_plugin.neurons.emptiness import Emptiness
from recurjac_plugin.neurons.optimised import nothing
from recurjac_plugin.neurons.parts import Parts
from recurjac_plugin.neurons.reduced import Reduced, reduce
from recurjac_plugin.preactivations.crown import crown_bounds

from .bounders import RefiningBounder
from .boxes import Boxes, Disjuncts

_SHARED_STEPS = 10  # of the optimisation of every neuron's bounds


class NeuronSearch:
    """Excludes what is left of the disjuncts on one box, by branching on neurons.

    Args:
        bounder: what bounded the box; its bounds are proven.
        box: a batch of one.

    Attributes:
        possible: whether every undetermined neuron has two sides to branch on.
        work: multiplications taken so far, about.

    Raises:
        RoomError: the network between undetermined neurons does not fit into memory.

    Source:
        As this module's.
    """

    def __init__(self, bounder: RefiningBounder, box: Boxes[Disjuncts]) -> None:
        self._bounder, self._box = bounder, box
        self._reduced, self._above = self._read()
        self.possible = bounder.rigorous and all(each.divisible for each in self._reduced.neurons.values())
        self._open = [int(d) for d in box.known.alive[0].nonzero()]
        self._before = 0.0  # work of searches that have been replaced, and of what they share
        self._shared = False
        self._searches = {d: self._search(d) for d in self._open}

    @property
    def proved(self) -> bool:
        """Whether every disjunct is excluded."""
        return not self._open

    @property
    def stuck(self) -> bool:
        """Whether nothing can be done about a disjunct."""
        return any(self._searches[d].stuck for d in self._open)

    @property
    def work(self) -> float:
        """Multiplications taken so far, about."""
        return self._before + sum(search.work for search in self._searches.values())

    @property
    def parts(self) -> int:
        """Number of parts that were bounded."""
        return sum(search.parts for search in self._searches.values())

    @property
    def alive(self) -> Tensor:
        """The disjuncts that are not excluded, bool (1, d)."""
        alive = torch.zeros_like(self._box.known.alive)
        alive[0, self._open] = True
        return alive

    def step(self, over: Callable[[], bool]) -> Tensor:
        """The next step of the search that has taken the least work.

        Returns:
            Inputs (m, columns) at which a violation is likeliest.
        """
        if not self._shared and self.work >= self._price:
            self._share(over)
        disjunct = min(self._open, key=lambda d: self._searches[d].work)
        search = self._searches[disjunct]
        search.step(over)
        if search.proved:
            self._open.remove(disjunct)
        points = self._box.center + search.nearest
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

    def _search(self, disjunct: int) -> Emptiness:
        rows = (self._bounder.rows.disjunct == disjunct).nonzero().squeeze(1)
        return Emptiness(self._reduced, rows, self._above[rows], self._bounder.memory_budget)

    @property
    def _price(self) -> float:
        """Multiplications that optimising every neuron's bounds takes."""
        return Contraction.price(self._reduced, Parts.whole(self._reduced), _SHARED_STEPS)

    def _share(self, over: Callable[[], bool]) -> None:
        """Optimise the bounds of all undecided neurons on the box, and begin anew with them."""
        self._shared = True
        self._before = self.work + self._price
        contraction = Contraction(self._reduced, nothing(self._reduced), self._bounder.memory_budget)
        whole = contraction.round(Parts.whole(self._reduced), _SHARED_STEPS, over)
        self._reduced = whole.known_to(self._reduced)
        self._searches = {d: self._search(d) for d in self._open}
