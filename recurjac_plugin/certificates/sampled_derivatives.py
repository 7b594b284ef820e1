r"""Derivatives met at points of a region: what refutes monotonicity, each with the point it was met at.

For row k and coordinate r of a region R the extremes

.. math:: \min_n J_{kr}(x_n) \le \max_n J_{kr}(x_n), \qquad x_n \in R,

of the Jacobian by autograd are kept. Random points first; then, for single entries that have shown one sign only,
projected gradient ascent on the entry towards the other sign. Where the ascent has no direction (a piecewise linear
network has constant derivatives almost everywhere) it becomes a random local search.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.errors import InputError
from recurjac_plugin.host.library import HOST_FAILURES
from recurjac_plugin.host.state import preserved
from recurjac_plugin.numerics.rounding import SIGN_OF_DERIVATIVE

from .derivative_rounding import unit_of_rounding

_TARGETS = 64  # entries per region that are climbed to
_STEPS = 12  # of an ascent
# Points keep this far from the faces, in parts of the side: at a face through a kink autograd gives no derivative of
# any neighbour. The distance is random, so that no fixed plane takes the place of the face.
_LEAST, _MOST = 0.001, 0.01


@dataclass(frozen=True, eq=False)
class SampledRegion:
    """Where the points of each region lie: a box between exact ends, or an l_p ball in it, coordinates flattened.

    Attributes:
        lower, upper: the smallest box around each region, (b, columns).
        norm: p of the ball inside that box; inf for the box itself.
        radius: of the ball, (b, 1); unused for boxes.
    """

    lower: Tensor
    upper: Tensor
    norm: float
    radius: Tensor

    def project(
        self,
        points: Tensor,  # shape: (n, columns)
        index: Tensor,  # shape: (n,)
        margin: Tensor,  # shape: (n, 1)
    ) -> Tensor:
        """Points of the regions `index`, moved into them.

        Into a box each coordinate is clipped, into a ball the point is moved towards its centre. All keep `margin`,
        in parts of the side, from the faces.

        Returns:
            Shape (n, columns).
        """
        lower, upper = self.lower[index], self.upper[index]
        if self.norm != math.inf:
            center = (lower + upper) / 2
            offset = points - center
            size = torch.linalg.vector_norm(offset, ord=self.norm, dim=1, keepdim=True)
            reach = (1 - 2 * margin) * self.radius[index]
            return center + offset * (reach / size.clamp(min=torch.finfo(size.dtype).tiny)).clamp(max=1)
        side = upper - lower
        inside = torch.minimum(torch.maximum(points, lower + margin * side), upper - margin * side)
        return torch.minimum(torch.maximum(inside, lower), upper)

    def random(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The same `count` relative positions in every region, the first near the middle, a third at corners.

        Returns:
            Points (b * count, columns) and the region of each (b * count,).
        """
        batch, columns = self.lower.shape
        t = 2 * torch.rand(count, columns, generator=generator, dtype=torch.float64) - 1
        t[:1] *= _MOST
        if self.norm == math.inf:
            t[2::3] = t[2::3].sign()
        else:  # directions, at any distance and on the boundary
            direction = torch.randn(count, columns, generator=generator, dtype=torch.float64)
            direction /= torch.linalg.vector_norm(direction, ord=self.norm, dim=1, keepdim=True)
            distance = torch.rand(count, 1, generator=generator, dtype=torch.float64)
            distance[2::3] = 1
            t[1:] = (direction * distance)[1:]
        half = (self.upper - self.lower) / 2
        points = (self.lower + half).unsqueeze(1) + half.unsqueeze(1) * t.to(half)
        index = torch.arange(batch, device=half.device).repeat_interleave(count)
        margin = self.margins(count, generator).repeat(batch, 1)
        return self.project(points.flatten(0, 1), index, margin), index

    def margins(self, count: int, generator: torch.Generator) -> Tensor:
        """Random distances from the faces, (count, 1)."""
        distances = _LEAST + (_MOST - _LEAST) * torch.rand(count, 1, generator=generator, dtype=torch.float64)
        return distances.to(self.lower)


class SampledDerivatives:
    """The lowest and the highest derivative met so far, for every region, row and input coordinate.

    Args:
        model: the host's `BoundedModule`; it is left as it was.
        rows: specification matrix, (b, k, n_out).
        input_shape: shape of one input.
        batch_size: points evaluated at once.
        deadline: value of `time.monotonic` at which to stop.

    Attributes:
        lowest, highest: derivatives, (b, k, columns); inf and -inf where no point was tried. What rounding could have
            given another sign counts as 0.
        lowest_at, highest_at: which point of `points` they were met at, (b, k, columns).
    """

    def __init__(
        self,
        model: Any,
        rows: Tensor,
        input_shape: tuple[int, ...],
        batch_size: int,
        deadline: float,
    ) -> None:
        self.model, self.rows, self.input_shape = model, rows, input_shape
        self.batch_size, self.deadline = batch_size, deadline
        shape = (*rows.shape[:2], math.prod(input_shape))
        self.lowest, self.highest = rows.new_full(shape, math.inf), rows.new_full(shape, -math.inf)
        self.lowest_at = torch.full(shape, -1, dtype=torch.int64, device=rows.device)
        self.highest_at = self.lowest_at.clone()
        self._kept: list[Tensor] = []
        self._count = 0

    @property
    def can_rise(self) -> Tensor:
        """Entries without a negative derivative, (b, k, columns)."""
        return ~(self.lowest < 0)

    @property
    def can_fall(self) -> Tensor:
        """Entries without a positive derivative, (b, k, columns)."""
        return ~(self.highest > 0)

    @property
    def refuted(self) -> Tensor:
        """Entries with derivatives of both signs, (b, k, columns)."""
        return ~self.can_rise & ~self.can_fall

    def points(self) -> tuple[Tensor, Tensor, Tensor]:
        """The points that extremes were met at, (m, *input_shape), and where `lowest_at`, `highest_at` find them."""
        if not self._kept:
            return self.rows.new_zeros(0, *self.input_shape), self.lowest_at, self.highest_at
        used, index = torch.stack((self.lowest_at, self.highest_at)).unique(return_inverse=True)
        first = int((used < 0).sum())  # -1 stays -1
        points = torch.cat(self._kept)[used[first:]].unflatten(1, self.input_shape)
        return points, index[0] - first, index[1] - first

    def meet(self, points: Tensor, index: Tensor) -> Tensor:
        """Note the derivatives at points (n, columns) of the regions `index` (n,), and return them, (n, k, columns)."""
        batches = zip(points.split(self.batch_size), index.split(self.batch_size), strict=True)
        values = torch.cat([self._clear(batch.unflatten(1, self.input_shape), self.rows[at]) for batch, at in batches])
        for region in index.unique().tolist():
            self._keep(points[index == region], values[index == region], region)
        return values

    def _clear(self, points: Tensor, rows: Tensor) -> Tensor:
        """Derivatives, 0 where their sign is no more than rounding; (n, k, columns)."""
        values = _derivatives(self.model, points, rows)
        if not len(points):
            return values
        margin = SIGN_OF_DERIVATIVE * unit_of_rounding(self.model, points, rows)
        return torch.where(values.abs() <= margin, 0.0, values)

    def _keep(self, points: Tensor, values: Tensor, region: int) -> None:
        """Keep the extremes of values (n, k, columns) met in one region, and the points (n, columns) of those."""
        low, low_at = torch.where(values.isnan(), math.inf, values).min(0)
        high, high_at = torch.where(values.isnan(), -math.inf, values).max(0)
        lower, higher = low < self.lowest[region], high > self.highest[region]
        used = torch.cat((low_at[lower], high_at[higher])).unique()
        number = torch.zeros(len(points), dtype=torch.int64, device=points.device)
        number[used] = torch.arange(len(used), device=points.device) + self._count
        self.lowest[region] = torch.where(lower, low, self.lowest[region])
        self.highest[region] = torch.where(higher, high, self.highest[region])
        self.lowest_at[region] = torch.where(lower, number[low_at], self.lowest_at[region])
        self.highest_at[region] = torch.where(higher, number[high_at], self.highest_at[region])
        self._kept.append(points[used])
        self._count += len(used)

    def sample(self, region: SampledRegion, count: int, generator: torch.Generator) -> None:
        """Meet `count` random points of every region."""
        points, index = region.random(count, generator)
        for batch, at in zip(points.split(self.batch_size), index.split(self.batch_size), strict=True):
            if time.monotonic() >= self.deadline:
                return
            self.meet(batch, at)

    def climb(
        self,
        within: SampledRegion,
        lower: Tensor,  # shape: (b, k, columns)
        upper: Tensor,  # shape: (b, k, columns)
        wanted: Tensor,  # shape: (b, k, columns)
        generator: torch.Generator,
    ) -> None:
        """Look for the missing sign of the wanted entries that are nearest to it, measured by their bounds."""
        if self._count == 0:
            return
        for targets in self._targets(lower, upper, wanted):
            if time.monotonic() >= self.deadline:
                return
            self._climb_to(within, targets, generator)

    def widen(self, within: SampledRegion, most: int, generator: torch.Generator) -> None:
        """Look for lower and higher derivatives than were met: for at most so many ends of entries of every region.

        Of more they are chosen at random.
        """
        if self._count == 0:
            return
        count, rows, columns = self.lowest.shape
        order = torch.rand(count, 2 * rows * columns, generator=generator, dtype=torch.float64).argsort(dim=1)
        chosen = order[:, :most].to(self.rows.device)
        region = torch.arange(count, device=chosen.device).unsqueeze(1).expand_as(chosen).flatten()
        for part, at in zip(chosen.flatten().split(self.batch_size), region.split(self.batch_size), strict=True):
            if time.monotonic() >= self.deadline:
                return
            self._climb_to(within, (at, *_ends_at(part, rows, columns)), generator)

    def _climb_to(self, within: SampledRegion, targets: tuple[Tensor, ...], generator: torch.Generator) -> None:
        """Climb from where entries are most extreme so far; targets: region, side, row, column, all of shape (n,)."""
        region, side, row, column = targets
        at = torch.where(side < 0, self.lowest_at[region, row, column], self.highest_at[region, row, column])
        tried = at >= 0  # without a first point there is nowhere to start
        if bool(tried.any()):
            start = torch.cat(self._kept)[at[tried]]
            region, side, row, column = (each[tried] for each in targets)
            weights = self.rows[region, row]

            def entry(points: Tensor) -> tuple[Tensor, Tensor]:
                return self._entry(points, weights, side, column)

            self.meet(climbed(within, start, region, entry, generator, self.deadline), region)

    def _targets(self, lower: Tensor, upper: Tensor, wanted: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Batches of (region, side, row, column), all of shape (n,)."""
        need = torch.stack((wanted & self.can_rise & (lower < 0), wanted & self.can_fall & (upper > 0)), 1)
        gap = torch.stack((self.lowest / (self.lowest - lower), self.highest / (self.highest - upper)), 1)
        gap = torch.where(need, gap.nan_to_num(1.0), math.inf).flatten(1)
        best = gap.sort(dim=1, stable=True).indices[:, :_TARGETS]
        region, position = need.flatten(1).gather(1, best).nonzero(as_tuple=True)
        places = region, *_ends_at(best[region, position], *lower.shape[1:])
        return zip(*(each.split(self.batch_size) for each in places), strict=True)

    @torch.enable_grad()
    def _entry(self, points: Tensor, weights: Tensor, side: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
        """``side`` times one entry of the Jacobian at each point, (n,), and its gradient, (n, columns)."""
        with preserved(self.model):
            x = points.unflatten(1, self.input_shape).detach().requires_grad_()
            y = (_outputs(self.model, x) * weights).sum()
            gradient = torch.autograd.grad(y, x, create_graph=True)[0].flatten(1)
            value = side * gradient.gather(1, column.unsqueeze(1)).squeeze(1)
            slope = None
            if value.requires_grad:
                slope = torch.autograd.grad(value.sum(), x, allow_unused=True)[0]
        return value.detach(), torch.zeros_like(points) if slope is None else slope.flatten(1).nan_to_num(0.0)


def climbed(
    within: SampledRegion,
    points: Tensor,  # shape: (n, columns)
    region: Tensor,  # shape: (n,)
    measure: Callable[[Tensor], tuple[Tensor, Tensor]],
    generator: torch.Generator,
    deadline: float = math.inf,
) -> Tensor:
    """Points where what is measured is at least as large as at the given ones, (n, columns).

    Args:
        within: where the points stay.
        points: to start from.
        region: of each point.
        measure: value (n,) and gradient (n, columns) of what is climbed, at points (n, columns).
        generator: of the steps where there is no gradient.
        deadline: value of `time.monotonic` at which to stop.
    """
    reach = (within.upper - within.lower)[region] / 2
    best, direction = measure(points)
    step = torch.ones_like(best).unsqueeze(1)
    for _ in range(_STEPS):
        if time.monotonic() >= deadline:
            break
        noise = torch.randn(points.shape, generator=generator, dtype=torch.float64).to(points)
        move = torch.where(direction == 0, noise, direction).sign()
        trial = within.project(points + step * reach * move, region, within.margins(len(points), generator))
        value, slope = measure(trial)
        better = (value > best).unsqueeze(1)
        best = torch.where(better.squeeze(1), value, best)
        points, direction = torch.where(better, trial, points), torch.where(better, slope, direction)
        step = torch.where(better, step, step / 2)
    return points


def _ends_at(place: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """Side, row and column of places among the lower ends of all entries, followed by the upper ones."""
    side = torch.where(place < rows * columns, -1, 1)
    return side, place % (rows * columns) // columns, place % columns


@torch.enable_grad()
def _derivatives(model: Any, points: Tensor, rows: Tensor) -> Tensor:
    """Jacobian of ``C f`` by autograd: points (n, *input_shape), rows (n, k, n_out) -> (n, k, columns)."""
    with preserved(model):
        x = points.detach().requires_grad_()
        values = (rows @ _outputs(model, x).unsqueeze(2)).squeeze(2)
        columns = [
            torch.autograd.grad(row.sum(), x, retain_graph=True, materialize_grads=True)[0].flatten(1)
            for row in values.unbind(1)
        ]
    return torch.stack(columns, 1)


def _outputs(model: Any, x: Tensor) -> Tensor:
    """Outputs of a batch, (n, n_out)."""
    try:
        return model(x).flatten(1)
    except HOST_FAILURES as error:
        raise InputError(
            f"The model does not take a batch of {len(x)} inputs ({' '.join(str(error).split())}); choose another "
            "`batch_size`."
        ) from error
