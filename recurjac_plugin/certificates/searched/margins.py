r"""Whether all rows are positive on a ball: searched for each row in turn, over the sides of neurons.

A ball is certified once ``{x : C_k f(x) <= 0}`` is shown to be empty on it for every row k
(`neurons.searches.several`). It is refuted by a point, and so is every ball that the point lies in. Near ones are found
by going, from some start t, to where the row's linearisation there is 0, as close to x0 as that can be:

.. math:: t' = x_0 - s u, \qquad u = \arg\max_{\lVert u \rVert_p = 1} g^T u, \qquad
    s = \frac{C_k f(t) + g^T (x_0 - t)}{\lVert g \rVert_{p*}}, \qquad g = \nabla C_k f(t),

again and again, and from there straight back to x0 as long as a row is not positive. Before, starts have gone down the
row's gradient, within the ball.

Source: the steps are those of DeepFool, Moosavi-Dezfooli, Fawzi, Frossard, CVPR 2016, arXiv:1511.04599, taken from x0.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from recurjac_plugin.lipschitz.matrix_norms import dual_of
from recurjac_plugin.neurons.points import inside, rows_at
from recurjac_plugin.neurons.searches.several import Several
from recurjac_plugin.numerics.rounding import gamma

from .radii import GROWTH, Ball, Outcome, Probe

_WORK = 2**29  # multiplications for each row that the first round allows a probe: a fraction of a second
_STEP = 2**27  # what a step takes besides, in multiplications
_STARTS, _DESCENTS, _MOVES = 64, 6, 10  # points to go from, how often they go down, and move to where a row is 0
_HALVINGS = 40  # of what a number lies between
_AHEAD = 0.01  # how far beyond 0 the first move goes, relative to the row at the point; the next ones half of it


@dataclass(eq=False)
class MarginProbe(Probe):
    """Searches balls for a point at which a row is not positive."""

    def __call__(self, radius: float, level: int, deadline: float) -> Outcome:
        """Search the ball of a radius, see `radii.Probe`."""
        start = time.perf_counter()
        ball = self.read(radius)
        nearest = nearest_violation(ball, _starts(ball))
        self.preparation = time.perf_counter() - start
        if nearest <= radius:
            return Outcome(False, nearest)
        reduced = ball.reduced
        # Row errors have all that bounds may be off by; what is left are the sums that the value at the centre is in.
        terms = self.rows[0].double().abs() @ ball.outputs[0].abs()
        above = gamma(ball.outputs.shape[1] + reduced.gains.columns + 64) * 2 * terms + reduced.row_error[0]
        sets = dict(enumerate(torch.arange(reduced.gains.rows, device=above.device).split(1)))
        searches = Several(reduced, sets, above, ball.memory_budget)
        allowed, steps = _WORK * len(sets) * GROWTH**level, 0
        while not searches.proved:
            if searches.stuck:  # up to rounding, there is a point
                return Outcome(False, min(radius, nearest_violation(ball, searches.nearest)))
            late = time.perf_counter() >= deadline
            if late or searches.work + steps * _STEP >= allowed:
                return Outcome(False, math.inf if late else nearest_violation(ball, searches.nearest))
            searches.step(lambda: time.perf_counter() >= deadline)
            steps += 1
        return Outcome(True, nearest)


def _starts(ball: Ball) -> Tensor:
    """Points to go from: the point itself, and random ones, the same in every run."""
    reduced = ball.reduced
    few = 2.0**30 / (3 * (_DESCENTS + _MOVES) * max(reduced.evaluation, 1.0) * min(reduced.gains.rows, 8))
    low, high = reduced.box
    count = max(1, min(_STARTS, int(few)))
    share = torch.rand(count, low.shape[1], dtype=low.dtype, generator=torch.Generator().manual_seed(0)).to(low)
    share[1::2] = share[1::2].round()
    return torch.cat((ball.point, low + (high - low) * share))


def nearest_violation(
    ball: Ball,
    starts: Tensor,  # shape: (m, columns)
) -> float:
    """The distance from the point to the nearest place found where a row is not positive; inf if none was found.

    Args:
        ball: where to look.
        starts: places to go from, as distances from the centre of the region.

    Source:
        As this module's.
    """
    reduced = ball.reduced
    if not len(starts):
        return math.inf
    row = torch.arange(reduced.gains.rows, device=ball.point.device)
    everywhere = ball.point.expand(len(row), -1)
    at_point, slope = _own(ball, everywhere, row)
    # rows whose zeros are nearest, were they linear
    size = torch.linalg.vector_norm(slope, ord=dual_of(ball.norm), dim=1)
    row = (at_point / size.clamp(min=torch.finfo(size.dtype).tiny)).argsort(stable=True)[:8]
    t, row = inside(reduced, starts).repeat(len(row), 1), row.repeat_interleave(len(starts))
    ahead, nearest = _AHEAD * at_point[row], math.inf
    for move in range(_DESCENTS):
        _, slope = _own(ball, t, row)
        t = inside(reduced, t - _steepest(ball, slope) / (1 + move))
        nearest = min(nearest, _brought_back(ball, t))
    for _ in range(_MOVES):
        own, slope = _own(ball, t, row)
        needed = own + ahead + (slope * (ball.point - t)).sum(1)
        t, ahead = inside(reduced, ball.point - _least_move(ball, slope, needed.clamp(min=0))), ahead / 2
        nearest = min(nearest, _brought_back(ball, t))
    return nearest


@torch.enable_grad()
def _own(
    ball: Ball,
    t: Tensor,  # shape: (n, columns)
    row: Tensor,  # shape: (n,)
) -> tuple[Tensor, Tensor]:
    """One row at each of some places, and its gradient: (n,), (n, columns)."""
    t = t.detach().clone().requires_grad_()
    own = rows_at(ball.reduced, t).gather(1, row.unsqueeze(1)).squeeze(1) + 0 * t.sum(1)
    (slope,) = torch.autograd.grad(own.sum(), t)
    return own.detach(), slope


def _steepest(ball: Ball, slope: Tensor) -> Tensor:
    """The moves as long as the ball reaches against which linear functions (n, columns) rise most."""
    reach = float(torch.maximum(*(end.abs() for end in ball.reduced.box)).max())
    if ball.norm == math.inf:
        return reach * slope.sign()
    if ball.norm == 2:
        return reach * slope / torch.linalg.vector_norm(slope, dim=1, keepdim=True).clamp(min=1e-300)
    largest = slope.abs().argmax(1, keepdim=True)
    return torch.zeros_like(slope).scatter(1, largest, reach * slope.gather(1, largest).sign())


def _least_move(ball: Ball, slope: Tensor, needed: Tensor) -> Tensor:
    """The shortest moves against which linear functions (n, columns) rise by what is needed (n,): (n, columns)."""
    tiny = torch.finfo(slope.dtype).tiny
    if ball.norm == 2:
        return slope * (needed / (slope * slope).sum(1).clamp(min=tiny)).unsqueeze(1)
    if ball.norm == 1:
        largest = slope.abs().max(1)
        size = needed / largest.values.clamp(min=tiny) * slope.gather(1, largest.indices.unsqueeze(1)).sign().squeeze(1)
        return torch.zeros_like(slope).scatter(1, largest.indices.unsqueeze(1), size.unsqueeze(1))
    low, high = ball.reduced.box  # coordinates that the region ends in go no farther
    reach = torch.where(slope > 0, ball.point - low, high - ball.point).clamp(min=0)
    least, most = torch.zeros_like(needed), reach.amax(1)
    for _ in range(_HALVINGS):
        middle = (least + most) / 2
        enough = (slope.abs() * torch.minimum(reach, middle.unsqueeze(1))).sum(1) >= needed
        least, most = torch.where(enough, least, middle), torch.where(enough, middle, most)
    return slope.sign() * torch.minimum(reach, most.unsqueeze(1))


def _brought_back(ball: Ball, t: Tensor) -> float:
    """The least distance to where a row is not positive, on the way to the point from the nearest such place."""
    bad = t[~(rows_at(ball.reduced, t) > 0).all(1)]
    if not len(bad):
        return math.inf
    far = bad[ball.distances(bad).argmin()].unsqueeze(0)
    near = ball.point
    for _ in range(_HALVINGS):
        middle = (near + far) / 2
        if bool((rows_at(ball.reduced, middle) > 0).all()):
            near = middle
        else:
            far = middle
    return float(ball.distances(far))
