r"""Norms of the Jacobian over a region that is cut into boxes, for networks whose neurons have no two linear pieces.

Every box has an upper bound of each *group*, the constant of the vector output or those of single rows, by one pass
over it; the Jacobian at one point of it bounds the largest value from below. The boxes with the largest bounds are
halved, until both are close, or time is up. Of a ball, boxes that do not meet it are left out.

A box is halved where that is worth most. With dl, du the ends of the derivatives of neuron j, y what it passes on to
the rows and z what arrives there by the inputs (both with all derivatives in their middles), :math:`\rho` the half
sides, input r has the share

.. math:: \sum_j (du_j - dl_j) \, |y_j|_2 |z_j|_2 \, \frac{|z_{jr}| \rho_r}{\sum_s |z_{js}| \rho_s}

of what the derivatives leave open.

Source: own; halving boxes, largest bound first, is interval branch and bound, Kearfott: Rigorous Global Search, 1996.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from recurjac_plugin.errors import UnsupportedError
from recurjac_plugin.host.problem import Problem, over, specification
from recurjac_plugin.host.region import perturbed_box
from recurjac_plugin.jacobian.analysis import Analysis, analyse_problem
from recurjac_plugin.jacobian.methods import parse_jacobian_method
from recurjac_plugin.lipschitz.ellipsoids import middle_derivatives
from recurjac_plugin.lipschitz.matrix_norms import dual_of, norm_below, norm_of_magnitudes
from recurjac_plugin.lipschitz.norms import constants_of_rows, vector_constant, with_room_for_sums
from recurjac_plugin.lipschitz.sampled import climbed
from recurjac_plugin.neurons.searches.largest import Effort, Found, Progress
from recurjac_plugin.numerics.pace import next_count
from recurjac_plugin.numerics.region import Region
from recurjac_plugin.numerics.rounding import gamma, underflow

_AT_ONCE = 64  # boxes that are halved together, at most
_MOST_BYTES = 2**29  # of all boxes that wait
_POINTS, _CLIMBS = 32, 12  # points that climb before anything is halved, and their steps
_INSIDE = 1 - 2.0**-40  # of the radius of a ball: points on its edge are rounded, but not out of it


@dataclass(frozen=True)
class Wanted:
    """What is asked for: the constant from norm p to q, or those of single rows.

    Attributes:
        p: norm of the input.
        q: norm of the output; None for single rows.
    """

    p: float
    q: float | None

    def above(self, bounded: Analysis) -> Tensor:
        """Proven upper bounds over every box, (n, groups)."""
        if self.q is None:
            return with_room_for_sums(constants_of_rows(bounded, self.p), bounded)
        return with_room_for_sums(vector_constant(bounded, self.p, self.q, proven=True).unsqueeze(1), bounded)

    def below(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Proven lower bounds at points, from bounds of the Jacobian there, (n, k, columns) each: (n, groups)."""
        middle = (lower + upper) / 2
        error = torch.maximum(upper - middle, middle - lower)
        if self.q is None:
            dual = dual_of(self.p)
            value, room = (torch.linalg.vector_norm(each, ord=dual, dim=2) for each in (middle, error))
        else:
            value = norm_below(middle, self.p, self.q).unsqueeze(1)
            room = norm_of_magnitudes(error, self.p, self.q).unsqueeze(1)
        relative = gamma(2 * lower[0].numel() + 64)
        return (value * (1 - relative) - room * (1 + relative) - underflow(1)).clamp(min=0)


@torch.no_grad()
def largest_over_boxes(
    problem: Problem,
    C: Tensor | None,
    wanted: Wanted,
    effort: Effort,
    memory_budget: int | None,
    seen: Callable[[Progress], None] | None = None,
) -> Found:
    """Search until the bounds are as close as is asked for, or time is up.

    Args:
        problem: the network and one region, in float64.
        C: specification matrix; None for all outputs.
        wanted: what is asked for.
        effort: when to end; goals are for others.
        memory_budget: as in `jacobian_bounds`.
        seen: called after every step.

    Raises:
        UnsupportedError: the network has several inputs, or parts of it have no rule.
    """
    if len(problem.host_graph.inputs) > 1:
        raise UnsupportedError(
            "The search over boxes",
            ["the network has several inputs"],
            "Bound one of them at a time, or leave `gap` and `budget` out.",
        )
    search = _Search(problem, C, wanted, effort, memory_budget)
    while search.step():
        if seen is not None:
            seen(search.progress())
    return search.found()


class _Search:
    def __init__(
        self, problem: Problem, C: Tensor | None, wanted: Wanted, effort: Effort, memory_budget: int | None
    ) -> None:
        self.start = time.perf_counter()
        self.host_graph, self.region = problem.host_graph, problem.region
        self.C, self.wanted, self.effort, self.memory_budget = C, wanted, effort, memory_budget
        self.method = parse_jacobian_method(None)
        self.center, reach = self.region.center.flatten(1), self.region.reach
        # Ends are rounded: a box that is wider by that holds the region.
        self.low = torch.where(reach > 0, torch.nextafter(self.center - reach, -reach - math.inf), self.center)
        self.high = torch.where(reach > 0, torch.nextafter(self.center + reach, reach + math.inf), self.center)
        self.count, self.size = 0, 1
        self.bound, self.axis = self._bounded(self.low, self.high)
        groups = self.bound.shape[1]
        self.lower, self.points = self.bound.new_zeros(groups), self.center.expand(groups, -1)
        self.closed = self.bound.new_zeros(groups)
        # Of a ball a pass over itself may say more than one over the box around it.
        self.most = wanted.above(self._of(problem))[0] if self.region.norm < math.inf else self.bound[0]
        self._try(torch.cat((self.center, self._climbed())))

    @property
    def upper(self) -> Tensor:
        """The upper bound of every group, over the boxes that wait and those that are done with."""
        closed = torch.maximum(self.closed, self.lower)
        upper = torch.maximum(closed, self.bound.amax(0)) if len(self.bound) else closed
        return torch.minimum(upper, self.most)

    def progress(self) -> Progress:
        return Progress(time.perf_counter() - self.start, self.count, self.lower, self.upper)

    def found(self) -> Found:
        seconds = time.perf_counter() - self.start
        return Found(self.lower, self.upper, self.points - self.center, self.count, seconds)

    def step(self) -> bool:
        """Halve the boxes with the largest bounds; False where the search ends."""
        began = time.perf_counter()
        limit = (1 + self.effort.gap) * self.lower
        self._keep((self.bound > limit).any(1) & (self.axis >= 0))
        full = len(self.bound) * 8 * (2 * self.low.shape[1] + len(limit)) > _MOST_BYTES
        if not len(self.bound) or full or not self.size or began >= self.effort.deadline:
            return False
        excess = (self.bound / limit.clamp(min=torch.finfo(torch.float64).tiny)).amax(1)
        first = excess.topk(min(self.size, len(excess))).indices
        low, high, bound = self._halves(first)
        rest = first.new_ones(len(excess), dtype=torch.bool)
        rest[first] = False
        self._take(rest)
        if len(low):
            above, axis = self._bounded(low, high)
            self._try(self._inside(low + (high - low) / 2))
            self.low, self.high = torch.cat((self.low, low)), torch.cat((self.high, high))
            self.bound = torch.cat((self.bound, torch.minimum(above, bound)))
            self.axis = torch.cat((self.axis, axis))
        now = time.perf_counter()
        self.size = next_count(self.size, _AT_ONCE, (now - began) / len(first), self.effort.deadline - now)
        return True

    def _keep(self, mask: Tensor) -> None:
        """Be done with the other boxes; what they are bounded by is remembered."""
        if not bool(mask.all()):
            self.closed = torch.maximum(self.closed, self.bound[~mask].amax(0))
            self._take(mask)

    def _take(self, mask: Tensor) -> None:
        self.low, self.high, self.bound, self.axis = (
            each[mask] for each in (self.low, self.high, self.bound, self.axis)
        )

    def _halves(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Both halves of some boxes, those that meet the region, with the bounds of the whole ones."""
        low, high, axis = self.low[index], self.high[index], self.axis[index].unsqueeze(1)
        middle = (low + (high - low) / 2).gather(1, axis)
        low, high = torch.cat((low, low.scatter(1, axis, middle))), torch.cat((high.scatter(1, axis, middle), high))
        meets = _meets(self.region, low - self.center, high - self.center)
        return low[meets], high[meets], self.bound[index].repeat(2, 1)[meets]

    def _bounded(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Upper bounds over boxes, (n, groups), and where to halve them, -1 for those that cannot be: (n,)."""
        self.count += len(low)
        analysis = self._analysed(low, high)
        middle = low + (high - low) / 2
        worth = torch.where((low < middle) & (middle < high), _shares(analysis), -1.0)
        largest = worth.max(1)
        return self.wanted.above(analysis), torch.where(largest.values > 0, largest.indices, -1)

    def _analysed(self, low: Tensor, high: Tensor) -> Analysis:
        shape = self.region.center.shape[1:]
        return self._of(over(self.host_graph, perturbed_box(low.unflatten(1, shape), high.unflatten(1, shape))))

    def _of(self, problem: Problem) -> Analysis:
        return analyse_problem(problem, self.method, self.C, memory_budget=self.memory_budget, rigorous=True)

    def _climbed(self) -> Tensor:
        """Points at which the norms are large, (groups, columns)."""
        graph = self.host_graph
        C = specification(self.C.to(graph.output) if isinstance(self.C, Tensor) else self.C, graph.output)

        def evaluate(x: Tensor) -> Tensor:
            return graph.evaluated(dict.fromkeys(graph.inputs, x)).output

        norms = self.wanted.p, self.wanted.q
        return climbed(self.region, C.flatten(2), evaluate, norms, _POINTS, _CLIMBS)

    def _try(self, points: Tensor) -> None:
        """Note what the Jacobian shows at points."""
        values, index = self.wanted.below(*self._analysed(points, points).jacobian).max(0)
        better = values > self.lower
        self.lower = torch.where(better, values, self.lower)
        self.points = torch.where(better.unsqueeze(1), points[index], self.points)

    def _inside(self, points: Tensor) -> Tensor:
        """Points of the region, as near as a ray from its centre leads."""
        if self.region.norm == math.inf:
            return points
        distance = points - self.center
        size = torch.linalg.vector_norm(distance, ord=self.region.norm, dim=1, keepdim=True)
        return self.center + distance * (_INSIDE * self.region.radius / size).clamp(max=1)


def _meets(region: Region, low: Tensor, high: Tensor) -> Tensor:
    """Which boxes, by their distances from the centre, may have a point in common with the region: bool (n,)."""
    if region.norm == math.inf:
        return low.new_ones(len(low), dtype=torch.bool)
    nearest = torch.maximum(low, -high).clamp(min=0)
    distance = torch.linalg.vector_norm(nearest, ord=region.norm, dim=1) * (1 - gamma(2 * low.shape[1] + 64))
    return distance <= region.radius[:, 0]


def _shares(analysis: Analysis) -> Tensor:
    """What every input has to do with what the derivatives leave open, as in the beginning of this module: (n, c)."""
    gains, reach = analysis.gains, analysis.region.reach
    middle = {name: (each.lower + each.upper) / 2 for name, each in gains.derivatives.items()}
    arrives, leaves = middle_derivatives(gains, middle), middle_derivatives(gains.transposed(), middle)
    shares = reach * torch.finfo(reach.dtype).tiny  # the longest side where nothing is open
    for layer in gains.layers:
        z, derivatives = arrives[layer].abs(), gains.derivatives[layer]
        size = torch.linalg.vector_norm(leaves[layer], dim=2) * torch.linalg.vector_norm(z, dim=2)
        part = z * reach.unsqueeze(1)
        spread = part.sum(2).clamp(min=torch.finfo(z.dtype).tiny)
        width = (derivatives.upper - derivatives.lower) * size / spread
        shares = shares + (width.unsqueeze(1) @ part).squeeze(1)
    return shares
