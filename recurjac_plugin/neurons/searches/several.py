"""Several sets of rows, of each of which it is to be shown that its rows are nowhere all at most 0.

Each has a search of its own (`emptiness`), and the one that has taken the least work goes on. They share the network:
once they have taken as much work as it costs, the bounds of all undecided neurons are optimised, for all that are left.

Source: own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from recurjac_plugin.neurons.contraction import Contraction
from recurjac_plugin.neurons.optimised import nothing
from recurjac_plugin.neurons.parts import Parts
from recurjac_plugin.neurons.reduced import Reduced

from .emptiness import Emptiness

_SHARED_STEPS = 10  # of the optimisation of every neuron's bounds


class Several:
    """Searches for several sets of rows over one region.

    Args:
        reduced: the network over the region; all its undetermined neurons have two sides.
        sets: positions of the rows of each set, by its number.
        above: what is subtracted from every row of the network, see `Emptiness`, (rows,).
        memory_budget: bytes that a chunk of bounds may take.

    Attributes:
        open: the numbers of the sets that nothing is shown of yet.
        nearest: where the rows of the last search may be least, (m, columns), as distances from the centre.
    """

    def __init__(self, reduced: Reduced, sets: Mapping[int, Tensor], above: Tensor, memory_budget: int) -> None:
        self._reduced, self._sets, self._above, self._memory_budget = reduced, sets, above, memory_budget
        self.open = [*sets]
        self.nearest = reduced.center.new_zeros(0, reduced.gains.columns)
        self._shared, self._before = False, (0.0, 0)  # work and parts of searches that have been replaced
        self._searches = self._begun()

    @property
    def proved(self) -> bool:
        """Whether no set is left."""
        return not self.open

    @property
    def stuck(self) -> bool:
        """Whether nothing can be done about a set that is left."""
        return any(self._searches[number].stuck for number in self.open)

    @property
    def work(self) -> float:
        """Multiplications taken so far, about."""
        return self._before[0] + sum(search.work for search in self._searches.values())

    @property
    def parts(self) -> int:
        """Number of parts that were bounded."""
        return self._before[1] + sum(search.parts for search in self._searches.values())

    def step(self, over: Callable[[], bool]) -> bool:
        """The next step of the search that has taken the least work; whether it shows what was to be shown.

        Args:
            over: asked now and then whether to stop.
        """
        if not self._shared and self.work >= self._price:
            self._share(over)
        number = min(self.open, key=lambda each: self._searches[each].work)
        search = self._searches[number]
        search.step(over)
        self.nearest = search.nearest
        if search.proved:
            self.open.remove(number)
        return search.proved

    def _begun(self) -> dict[int, Emptiness]:
        return {
            number: Emptiness(self._reduced, self._sets[number], self._above[self._sets[number]], self._memory_budget)
            for number in self.open
        }

    @property
    def _price(self) -> float:
        """Multiplications that optimising every neuron's bounds takes."""
        return Contraction.price(self._reduced, Parts.whole(self._reduced), _SHARED_STEPS)

    def _share(self, over: Callable[[], bool]) -> None:
        """Optimise the bounds of all undecided neurons on the region, and begin anew with them."""
        self._shared, self._before = True, (self.work + self._price, self.parts)
        contraction = Contraction(self._reduced, nothing(self._reduced), self._memory_budget)
        self._reduced = contraction.round(Parts.whole(self._reduced), _SHARED_STEPS, over).known_to(self._reduced)
        self._searches = self._begun()
