r"""A radius between what is certified and what cannot be, closing in on each other until time is up.

Single passes have certified a radius l. A *probe* of a larger radius t searches the ball of it, and certifies it, or
finds a point that is as near as u and shows that no radius from u on can be certified, or gives up after as much work
as it is allowed. In rounds, probes are of

.. math:: \min(2 l, \text{limit}) \text{ if nothing is known above } l, \qquad (l + e) / 2 \text{ otherwise,}

e being the smallest of u and the radii that were given up in this round. A round ends where e is close to l, and each
is allowed `GROWTH` times the work of the one before. So a radius that takes long to decide does not keep the search
from those that do not, and nothing depends on time but where it ends.

Source: own.
"""

from __future__ import annotations

import abc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recurjac_plugin.certificates.perturbed_points import PerturbedPoints
from recurjac_plugin.certificates.radius_search import RadiusSearch, representable
from recurjac_plugin.errors import RecurJacError
from recurjac_plugin.host.problem import read_in_float64
from recurjac_plugin.jacobian.entry_search import reduced_network
from recurjac_plugin.neurons.points import refuse_without_pieces
from recurjac_plugin.neurons.reduced import Reduced, two_sides

GROWTH = 4
"""How many times as much work a probe may take in each round as in the one before."""

_CLOSE = 1 / 8  # of the way from what is certified to what cannot be: where a round ends


class Outcome(NamedTuple):
    """What a probe says about a ball.

    Attributes:
        certified: whether it is.
        upper: a radius from which on none can be certified; inf if none is known.
    """

    certified: bool
    upper: float = math.inf


@dataclass(frozen=True, eq=False)
class Ball:
    """The network over one ball, between its undetermined neurons.

    Attributes:
        reduced: the network; its rows are those asked about.
        outputs: of the network at the centre of the region, (1, n_out).
        point: where the point is, as distance from the centre of the region, (1, columns): 0 but for clipped balls.
        norm: p of the ball.
        memory_budget: bytes that a chunk may take.
    """

    reduced: Reduced
    outputs: Tensor
    point: Tensor
    norm: float
    memory_budget: int

    def distances(self, t: Tensor) -> Tensor:
        """How far places are from the point, (n,), given by their distances from the centre (n, columns)."""
        return torch.linalg.vector_norm(t - self.point, ord=self.norm, dim=1)


@dataclass(eq=False)
class Probe(abc.ABC):
    """A search of the balls around one point.

    Attributes:
        model: the host's.
        points: a batch of one.
        rows: what is asked about it: C, (1, k, n_out).
        memory_budget: as in `jacobian_bounds`.
        preparation: how many seconds the last search needed before it could look at its deadline.
    """

    model: Any
    points: PerturbedPoints
    rows: Tensor
    memory_budget: int | None
    preparation: float = 0.0

    @abc.abstractmethod
    def __call__(self, radius: float, level: int, deadline: float) -> Outcome:
        """Search the ball of a radius, in a round (from 0 on), until a deadline by `time.perf_counter`."""

    def read(self, radius: float) -> Ball:
        """Read the network over the ball of a radius.

        Raises:
            RecurJacError: the ball cannot be bounded.
        """
        problem = read_in_float64(self.model, self.points.region(torch.tensor([radius], dtype=torch.float64)))
        reduced, memory = reduced_network(problem, self.rows, self.memory_budget)
        point = self.points.center.double().flatten(1) - problem.region.center.flatten(1)
        return Ball(reduced, problem.host_graph.output.flatten(1), point, self.points.norm, memory)


def searched_radius(probe: Probe, certified: float, search: RadiusSearch, dtype: torch.dtype, deadline: float) -> float:
    """The largest radius that is certified before a deadline; never less than what was certified already.

    Args:
        probe: of the balls around a point.
        certified: the radius to begin with; 0 for none.
        search: limit and tolerance, and the first radius where none is certified.
        dtype: only numbers of this type are probed.
        deadline: by `time.perf_counter`.

    Source:
        As this module's.
    """

    def number(value: float) -> float:
        return float(representable(torch.tensor(value, dtype=torch.float64), dtype))

    lower, upper, given_up, level = certified, math.inf, math.inf, 0
    while time.perf_counter() + probe.preparation < deadline:
        end = min(upper, given_up)
        grown = 2 * lower if lower > 0 else search.initial
        radius = number(min(grown, search.limit) if end == math.inf else (lower + end) / 2)
        if not lower < radius < end or end - lower <= search.tolerance or _near(lower, upper, given_up):
            if given_up == math.inf:
                break
            given_up, level = math.inf, level + 1
            continue
        try:
            outcome = probe(radius, level, deadline)
        except RecurJacError:  # numbers overflow, or do not fit into memory: not on larger balls either
            outcome = Outcome(False, radius)
        upper = min(upper, outcome.upper)
        if outcome.certified:
            lower = radius
        elif outcome.upper > radius:
            given_up = radius
    return lower


def _near(lower: float, upper: float, given_up: float) -> bool:
    """Whether what was given up in this round is so near to what is certified that more work is due."""
    return given_up - lower <= _CLOSE * (upper - lower if upper < math.inf else lower)


def further(
    radii: Tensor,  # shape: (b,)
    probe: Callable[[PerturbedPoints, Tensor], Probe],
    points: PerturbedPoints,
    rows: Tensor,  # shape: (b, k, n_out)
    active: Tensor,  # shape: (b,)
    search: RadiusSearch,
    dtype: torch.dtype,
    seconds: float,
) -> Tensor:
    """Radii that a search goes on from, one after the other, each for so many seconds.

    Args:
        radii: those that are certified, float64.
        probe: makes that of the balls around a batch of one point, and of its rows.
        points: all of them.
        rows: theirs.
        active: whether each is searched at all.
        search: as for `searched_radius`.
        dtype: as there.
        seconds: for each of them.
    """
    found = radii.clone()
    for i in active.nonzero().squeeze(1).tolist():
        deadline, one = time.perf_counter() + seconds, torch.tensor([i], device=rows.device)
        found[i] = searched_radius(probe(points.take(one), rows[one]), float(radii[i]), search, dtype, deadline)
    return found


def require_searchable(model: Any, points: PerturbedPoints) -> None:
    """Refuse what no search over the sides of neurons can be made of, before time is spent on it.

    Raises:
        UnsupportedError: there are neurons without two linear pieces.
    """
    one = points.take(points.center.new_zeros(1, dtype=torch.long))
    graph = read_in_float64(model, one.region(torch.zeros(1))).graph
    refuse_without_pieces([step.name for step in graph.factors if not two_sides(step)], "Leave out `budget`.")
