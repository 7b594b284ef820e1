"""Whether some entry of every row's gradient keeps its sign on a ball: searched for, over the sides of neurons.

The only sign that entry r of row k can keep is the one at the point. So its largest value times the other sign is
searched (`neurons.searches.largest`) until it is known to be below 0, for the entries together that one pass leaves
nearest to that; once one is, the row is done. An entry is refuted where a gradient has another sign, and a ball where
all entries of a row are refuted at places in it. Such places are drawn at random, and met by the search.

Source: own.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from recurjac_plugin.jacobian.bounded import with_room
from recurjac_plugin.jacobian.entry_search import Entries
from recurjac_plugin.neurons.points import inside, rows_at
from recurjac_plugin.neurons.searches.largest import Effort, Progress, largest_value
from recurjac_plugin.numerics.intervals import Interval
from recurjac_plugin.numerics.rounding import gamma
from recurjac_plugin.passes.rules import recurjac_linear
from recurjac_plugin.recursion.backward import backward_order

from .radii import GROWTH, Ball, Outcome, Probe

_ITEMS = 128  # parts that the first round allows a probe to bound
_TERMS = 32  # entries that are searched at once, in the first round
_PLACES, _ON_THE_WAY = 256, 16  # where gradients are looked at, and on the way from the point to a refutation
_PER_SECOND = 2.0**31  # multiplications


@dataclass(eq=False)
class GradientProbe(Probe):
    """Searches balls for a row none of whose entries keeps its sign."""

    def __post_init__(self) -> None:
        columns = self.points.center[0].numel()
        # How near to the point each entry is known to have another sign than there: (k, columns).
        self._refuted_at = self.rows.new_full((self.rows.shape[1], columns), math.inf, dtype=torch.float64)

    def __call__(self, radius: float, level: int, deadline: float) -> Outcome:
        """Search the ball of a radius, see `radii.Probe`."""
        start = time.perf_counter()
        ball = self.read(radius)
        order = backward_order(ball.reduced.gains, recurjac_linear, ball.memory_budget)
        bounds = with_room(order.jacobian(), ball.reduced.entry_error)
        lower, upper = bounds[0][0], bounds[1][0]
        sign = _gradients(ball, ball.point)[0].sign()
        self._refuted_at[sign == 0] = 0.0
        self._look_at(ball, sign, _places(ball))
        self.preparation = time.perf_counter() - start
        done = ((lower > 0) | (upper < 0)).any(1)
        most = _ITEMS * GROWTH**level
        if not bool(done.all()) and self._upper(done) > radius and self._affordable(ball, deadline):
            done = done | self._searched(ball, sign, (lower, upper), done, radius, Effort(0.0, deadline, most=most))
        if bool(done.all()):
            return Outcome(True)
        return Outcome(False, self._upper(done))

    def _upper(self, done: Tensor) -> float:
        """The radius from which on all entries of a row that is not done are refuted."""
        return float(self._refuted_at[~done].amax(1).amin())

    def _affordable(self, ball: Ball, deadline: float) -> bool:
        """Whether the gradients that a search begins with are there before the deadline."""
        reduced = ball.reduced
        return _PLACES * reduced.evaluation * reduced.gains.columns < _PER_SECOND * (deadline - time.perf_counter())

    def _searched(
        self, ball: Ball, sign: Tensor, bounds: Interval, done: Tensor, radius: float, effort: Effort
    ) -> Tensor:
        """Rows in which a search finds an entry that keeps its sign, bool (k,)."""
        worst = torch.where(sign > 0, -bounds[0], bounds[1])  # of the other sign, by one pass
        best = torch.where(sign > 0, bounds[1], -bounds[0])
        open_entries = ~done.unsqueeze(1) & (self._refuted_at > radius) & (best > 0)
        nearness = torch.where(open_entries, worst / best.clamp(min=torch.finfo(best.dtype).tiny), math.inf)
        assert effort.most is not None
        count = max(1, _TERMS * effort.most // _ITEMS // int((~done).sum()))
        taken = nearness <= nearness.sort(1).values[:, min(count, nearness.shape[1]) - 1 : count]
        row, column = (taken & open_entries).nonzero().unbind(1)
        if not len(row):
            return torch.zeros_like(done)
        other, base = -sign[row, column], -best[row, column]
        goal = -base * (1 - 2.0**-40)  # below 0, not only at most 0
        entries = Entries(ball.reduced, row, column, other, base, ball.memory_budget)
        rows = torch.arange(len(done), device=done.device)

        def decided(progress: Progress) -> bool:
            """Whether every row that is searched has an entry with a sign, or none that may have one."""
            kept, refuted = progress.upper <= goal, progress.lower > goal
            return all(bool(kept[row == k].any() | refuted[row == k].all()) for k in rows[~done])

        effort = Effort(effort.gap, effort.deadline, goal, effort.most)
        found = largest_value(ball.reduced, entries, effort, decided)
        above = found.upper + base + gamma(4) * (found.upper.abs() + base.abs())
        kept = torch.zeros_like(done).index_fill(0, row[above < 0], True)
        share = torch.arange(1, _ON_THE_WAY + 1, dtype=base.dtype, device=base.device) / _ON_THE_WAY
        met = found.points[found.lower > goal].unsqueeze(1)
        self._look_at(ball, sign, (ball.point + share[:, None] * (met - ball.point)).flatten(0, 1))
        return kept

    def _look_at(self, ball: Ball, sign: Tensor, t: Tensor) -> None:
        """Note the entries of another sign at some places, (n, columns)."""
        if not len(t):
            return
        gradients, distance = _gradients(ball, t), ball.distances(t)
        met = torch.where(gradients * sign <= 0, distance[:, None, None], math.inf).amin(0)
        self._refuted_at = torch.minimum(self._refuted_at, met)


def _places(ball: Ball) -> Tensor:
    """Random places, near and far, the same in every run."""
    reduced = ball.reduced
    few = 2.0**30 / (3 * reduced.gains.rows * max(reduced.evaluation, reduced.gains.columns))
    count, random = max(8, min(_PLACES, int(few))), torch.Generator().manual_seed(0)
    low, high = reduced.box
    share = torch.rand(count, low.shape[1], dtype=low.dtype, generator=random).to(low)
    share[::2] = share[::2].round()
    t = inside(reduced, low + (high - low) * share)
    return ball.point + torch.rand(count, 1, dtype=low.dtype, generator=random).to(low) * (t - ball.point)


@torch.enable_grad()
def _gradients(
    ball: Ball,
    t: Tensor,  # shape: (n, columns)
) -> Tensor:
    """The gradients of all rows at some places, as computed, (n, k, columns)."""
    t = t.detach().clone().requires_grad_()
    values = rows_at(ball.reduced, t) + 0 * t.sum(1, keepdim=True)
    return torch.stack([torch.autograd.grad(row.sum(), t, retain_graph=True)[0] for row in values.unbind(1)], 1)
