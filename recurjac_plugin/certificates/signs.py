"""Monotonicity: the sign of every entry of the Jacobian over a whole region, certified, refuted or unknown."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.errors import InputError, RecurJacError
from recurjac_plugin.host.problem import read, specification
from recurjac_plugin.host.region import perturbed_box, read_region
from recurjac_plugin.jacobian.entries import jacobian_bounds
from recurjac_plugin.numerics.precision import full_precision
from recurjac_plugin.numerics.region import Region

from .sampled_derivatives import Place, Slopes

DEFAULT_SAMPLES = 64
"""Random points per region that may refute."""


@dataclass(frozen=True, eq=False)
class Monotonicity:
    """What is known about the sign of every entry of a Jacobian over a region.

    Attributes:
        sign: int8, (b, k, *input_shape): +1 certified non-decreasing, -1 certified non-increasing, 0 neither.
        refuted: bool, likewise: derivatives of both signs were met, so that the row is neither.
        lowest, highest: the extreme derivatives met at points of the region, likewise; inf and -inf if none was tried.
        points: the points these were met at, (m, *input_shape), all inside their regions.
        lowest_at, highest_at: int64, which of the points, (b, k, *input_shape); -1 if none was tried.
        boxes: int64, (b,): how many boxes of each region were bounded.
    """

    sign: Tensor
    refuted: Tensor
    lowest: Tensor
    highest: Tensor
    points: Tensor
    lowest_at: Tensor
    highest_at: Tensor
    boxes: Tensor

    @property
    def unknown(self) -> Tensor:
        """Entries that are neither certified nor refuted, bool, (b, k, *input_shape)."""
        return (self.sign == 0) & ~self.refuted

    def witnesses(self, sample: int, row: int, *coordinate: int) -> tuple[Tensor, Tensor]:
        """Two points that refute an entry, each of shape input_shape: a falling one, then a rising one.

        The derivatives there are `lowest` and `highest`; both are clear of 0 by more than rounding.

        Args:
            sample: the region.
            row: output, or row of C.
            coordinate: position in the input.

        Raises:
            InputError: there is no such entry, or it is not refuted.
        """
        place = (sample, row, *coordinate)
        shape = tuple(self.refuted.shape)
        if len(place) != len(shape) or not all(-n <= i < n for i, n in zip(place, shape)):
            raise InputError(f"There is no entry {place} in signs of shape {shape}; give region, row and coordinate.")
        if not bool(self.refuted[place]):
            raise InputError(f"Entry {place} is not refuted: only refuted entries have witnesses.")
        return self.points[self.lowest_at[place]], self.points[self.highest_at[place]]

    def __repr__(self) -> str:
        shape = ", ".join(map(str, self.sign.shape))
        counts = {
            "increasing": self.sign > 0,
            "decreasing": self.sign < 0,
            "refuted": self.refuted,
            "unknown": self.unknown,
        }
        return f"Monotonicity([{shape}], {', '.join(f'{int(m.sum())} {name}' for name, m in counts.items())})"


def monotonicity(
    model: Any,
    x: Any,
    *,
    C: Tensor | None = None,
    method: str = "RecurJac",
    order: str = "backward",
    wanted: Tensor | None = None,
    timeout: float | None = None,
    max_boxes: int | None = None,
    seed: int = 0,
    batch_size: int = 256,
    memory_budget: int | None = None,
) -> Tensor:
    r"""Certify in which inputs ``C f`` is monotone over the region of `x`.

    With the bounds L and U of `jacobian_bounds`, entry (b, k, r) is

    .. math:: +1 \text{ if } L_{bkr} \ge 0, \qquad -1 \text{ if } U_{bkr} \le 0, \qquad 0 \text{ (unknown) otherwise:}

    row k never decreases (never increases) anywhere in region b as input r grows and the other inputs stay. The signs
    are not strict, for a ReLU network may have flat parts; where ``L = U = 0`` the row does not depend on the input,
    both hold, and the entry is +1. Like the bounds, certificates are computed without directed rounding. To ask about a
    feature's whole range, let the region be a box that spans it.

    With `timeout` or `max_boxes` boxes are bisected where entries stay unknown (branch and bound): the coordinate whose
    side times Jacobian width is largest is halved, and an entry is certified when it has its sign in every part.
    Entries refuted by derivatives met on the way are not pursued.

    Args:
        model: auto_LiRPA's `BoundedModule`; it is left as it was.
        x: a `BoundedTensor` whose perturbation is an l_p ball or a box, shape (b, *input_shape).
        C: specification matrix, shape (b or 1, k, n_out); None takes every output.
        method: as in `jacobian_bounds`.
        order: as in `jacobian_bounds`.
        wanted: bool, broadcast to (b, k, *input_shape): the entries boxes are bisected for; None for all. The others
            are decided by the undivided region alone.
        timeout: seconds to spend, for all regions together; stops after the first batch of boxes that ends later.
        max_boxes: how many boxes to bound in each region, itself included. With this alone the result does not depend
            on the speed of the machine.
        seed: of the points that derivatives are sampled at while bisecting.
        batch_size: boxes bounded, and points evaluated, at once; 1 for networks that take one input at a time.
        memory_budget: as in `jacobian_bounds`.

    Returns:
        int8, (b, k, *input_shape).

    Raises:
        InputError: as in `jacobian_bounds`; a budget that is not positive; bisection of a ball that is no box.
        MethodError: unknown method, or one without Jacobian bounds.
        RecurJacError: a derivative met at a point contradicts the bounds.
        UnsupportedError: the network has parts without a rule.

    Source:
        The derivative's sign over a region from Zhang, Zhang, Hsieh: RecurJac, AAAI 2019, arXiv:1810.11783; the choice
        of the side to halve (the smear) from Kearfott: Rigorous Global Search, 1996.
    """
    return monotonicity_report(
        model,
        x,
        C=C,
        method=method,
        order=order,
        wanted=wanted,
        timeout=timeout,
        max_boxes=max_boxes,
        samples=0 if timeout is None and max_boxes is None else DEFAULT_SAMPLES,
        seed=seed,
        batch_size=batch_size,
        memory_budget=memory_budget,
    ).sign


@full_precision()
@torch.no_grad()
def monotonicity_report(
    model: Any,
    x: Any,
    *,
    C: Tensor | None = None,
    method: str = "RecurJac",
    order: str = "backward",
    wanted: Tensor | None = None,
    timeout: float | None = None,
    max_boxes: int | None = None,
    samples: int = DEFAULT_SAMPLES,
    seed: int = 0,
    batch_size: int = 256,
    memory_budget: int | None = None,
) -> Monotonicity:
    """Certify or refute monotonicity, the refutations with two points each where the derivative has both signs.

    Certificates are those of `monotonicity`. An entry is refuted if autograd, in the model's type, gives a derivative
    above and one below 0 at two points inside the region, both by more than rounding: 64 units of it, times the sum of
    the magnitudes of all ways from the input to the row. Smaller derivatives are reported as 0. The points are random
    ones, and ascended from those towards the missing sign.

    Args:
        model: as in `monotonicity`.
        x: as in `monotonicity`.
        C: as in `monotonicity`.
        method: as in `monotonicity`.
        order: as in `monotonicity`.
        wanted: as in `monotonicity`; also the entries that points are ascended for.
        timeout: as in `monotonicity`.
        max_boxes: as in `monotonicity`.
        samples: random points in each region; with 0 only bisection, which tries one in every box, can refute.
        seed: of the points.
        batch_size: as in `monotonicity`.
        memory_budget: as in `monotonicity`.

    Raises:
        InputError: as in `monotonicity`, or a negative number of samples.
        MethodError: as in `monotonicity`.
        RecurJacError: as in `monotonicity`.
        UnsupportedError: as in `monotonicity`.
    """
    start = time.monotonic()
    bisects = timeout is not None or (max_boxes is not None and max_boxes != 1)
    _check_budget(timeout, max_boxes, samples, seed, batch_size)
    region = read_region(x)
    graph = read(model, x).host_graph
    if bisects and region.norm != math.inf:
        raise InputError(
            f"Only boxes can be bisected, and the region is an l_{region.norm:g} ball: leave out `timeout` and "
            "`max_boxes`, or take the box around it (norm inf)."
        )
    deadline = math.inf if timeout is None else start + timeout
    rows = specification(C, graph.output).flatten(2)
    options: dict[str, Any] = {"method": method, "order": order, "memory_budget": memory_budget}
    bounds = jacobian_bounds(model, x, C=rows, **options)
    shape, input_shape = bounds.lower.shape, bounds.lower.shape[2:]
    lower, upper = (bound.flatten(2) for bound in bounds)
    rises, falls = lower >= 0, upper <= 0
    mask = _mask(wanted, shape, lower.device)
    generator = torch.Generator().manual_seed(seed)
    slopes = Slopes(model, rows, tuple(input_shape), batch_size, deadline)
    place = Place(*_ends(x, region, outward=False), region.norm, region.radius[:, :1])
    slopes.sample(place, samples, generator)
    sign = _signs(rises, falls)
    if samples:
        slopes.climb(place, lower, upper, mask & (sign == 0), generator)
    _require_consistent(rises & ~slopes.can_rise | falls & ~slopes.can_fall)
    search = _Search(model, options, rows, slopes, sign, mask, generator, deadline, tuple(input_shape))
    if bisects:
        search.run(*_ends(x, region, outward=True), lower, upper, max_boxes, batch_size)
    points, lowest_at, highest_at = slopes.points()
    refuted = slopes.refuted & (search.sign == 0)
    entries = (search.sign, refuted, slopes.lowest, slopes.highest, lowest_at, highest_at)
    sign, refuted, lowest, highest, lowest_at, highest_at = (entry.reshape(shape) for entry in entries)
    return Monotonicity(sign, refuted, lowest, highest, points, lowest_at, highest_at, search.boxes)


@dataclass(eq=False)
class _Boxes:
    """Parts of the regions that are not decided yet.

    Attributes:
        region: which region each is a part of, (n,).
        lower, upper: its corners, (n, columns).
        rises, falls: whether the Jacobian's lower bound is >= 0, its upper bound <= 0 there, (n, k, columns).
        split: the coordinate to halve, (n,); -1 if that would not help.
    """

    region: Tensor
    lower: Tensor
    upper: Tensor
    rises: Tensor
    falls: Tensor
    split: Tensor

    def take(self, chosen: Tensor) -> _Boxes:
        if chosen.dtype == torch.bool:
            chosen = chosen.nonzero().squeeze(1)  # once for all: a size that depends on values is waited for
        return _Boxes(*(value[chosen] for value in vars(self).values()))

    @classmethod
    def joined(cls, parts: list[_Boxes]) -> _Boxes:
        return cls(*(torch.cat(values) for values in zip(*(vars(part).values() for part in parts), strict=True)))

    def halves(self) -> _Boxes:
        """Both halves of every box; they share the plane in between, and inherit what the whole is known for."""
        rows, at = torch.arange(len(self.split), device=self.split.device), self.split
        middle = _middle(self.lower[rows, at], self.upper[rows, at])
        left, right = self.take(rows), self.take(rows)
        left.upper, right.lower = left.upper.clone(), right.lower.clone()
        left.upper[rows, at] = middle
        right.lower[rows, at] = middle
        return _Boxes.joined([left, right])


class _Search:
    """Branch and bound over boxes: every open box is halved in every round.

    Args:
        model: the host's `BoundedModule`.
        options: of `jacobian_bounds`.
        rows: specification matrix, (b, k, n_out).
        slopes: the derivatives met so far; every new box adds a point.
        sign: what is certified so far, (b, k, columns).
        wanted: the entries to decide, (b, k, columns).
        generator: of the points.
        deadline: value of `time.monotonic` at which to stop.
        input_shape: shape of one input.
    """

    def __init__(
        self,
        model: Any,
        options: dict[str, Any],
        rows: Tensor,
        slopes: Slopes,
        sign: Tensor,
        wanted: Tensor,
        generator: torch.Generator,
        deadline: float,
        input_shape: tuple[int, ...],
    ) -> None:
        self.model, self.options, self.rows, self.slopes = model, options, rows, slopes
        self.sign, self.wanted = sign, wanted
        self.generator, self.deadline, self.input_shape = generator, deadline, input_shape
        self.boxes = torch.ones(len(rows), dtype=torch.int64, device=rows.device)

    @property
    def open(self) -> Tensor:
        """Wanted entries that are neither certified nor refuted, (b, k, columns)."""
        return self.wanted & (self.sign == 0) & ~self.slopes.refuted

    def run(
        self,
        low: Tensor,  # shape: (b, columns)
        high: Tensor,  # shape: (b, columns)
        lower: Tensor,  # shape: (b, k, columns)
        upper: Tensor,  # shape: (b, k, columns)
        max_boxes: int | None,
        batch_size: int,
    ) -> None:
        """Bisect the regions from `low` to `high`, with Jacobian bounds `lower`, `upper`, within the budgets."""
        index = torch.arange(len(lower), device=lower.device)
        boxes = _Boxes(index, low, high, lower >= 0, upper <= 0, index)
        boxes.split = self._smear(boxes, lower, upper)
        most = max(1, batch_size // 2)
        size = 1 if self.deadline < math.inf else most
        while True:
            boxes = boxes.take(self._missing(boxes).flatten(1).any(1))
            chosen = self._chosen(boxes, max_boxes)
            if size == 0 or not bool(chosen.any()):
                return
            parts, parents, done = [boxes.take(~chosen)], boxes.take(chosen), 0
            while size and done < len(parents.region):
                began = time.monotonic()
                some = parents.take(torch.arange(done, min(done + size, len(parents.region)), device=index.device))
                parts.extend(self._bounded(half) for half in _batches(some.halves(), batch_size))
                self.boxes += 2 * torch.bincount(some.region, minlength=len(self.boxes))
                done += len(some.region)
                size = self._size(size, most, (time.monotonic() - began) / len(some.region))
            parts.append(parents.take(torch.arange(done, len(parents.region), device=index.device)))
            boxes = _Boxes.joined(parts)
            self._decide(boxes)

    def _size(self, size: int, most: int, seconds: float) -> int:
        """How many boxes to halve next if one took so many seconds: more and more, and 0 when time is up."""
        if self.deadline == math.inf:
            return most
        left = self.deadline - time.monotonic()
        if left < seconds:
            return 0
        return max(1, min(2 * size, most, int(left / 2 / max(seconds, 1e-9))))

    def _missing(self, boxes: _Boxes) -> Tensor:
        """Open entries whose possible sign a box does not have, (n, k, columns)."""
        rise, fall = self.open & self.slopes.can_rise, self.open & self.slopes.can_fall
        return (rise[boxes.region] & ~boxes.rises) | (fall[boxes.region] & ~boxes.falls)

    def _chosen(self, boxes: _Boxes, max_boxes: int | None) -> Tensor:
        """Which boxes are halved in this round, (n,): the first of every region, as far as its budget goes."""
        chosen = boxes.split >= 0
        if max_boxes is None:
            return chosen
        order = boxes.region[chosen].sort(stable=True)
        first = torch.searchsorted(order.values, torch.arange(len(self.boxes), device=boxes.region.device))
        rank = torch.empty_like(order.values)
        rank[order.indices] = torch.arange(len(rank), device=rank.device) - first[order.values]
        chosen[chosen.clone()] = rank < ((max_boxes - self.boxes) // 2)[boxes.region[chosen]]
        return chosen

    def _bounded(self, boxes: _Boxes) -> _Boxes:
        """Boxes with their own bounds, and with the derivative at one point of each taken into account."""
        low, high = (end.unflatten(1, self.input_shape) for end in (boxes.lower, boxes.upper))
        x = perturbed_box(low, high)
        bounds = jacobian_bounds(self.model, x, C=self.rows[boxes.region], **self.options)
        lower, upper = (bound.flatten(2) for bound in bounds)
        boxes.rises, boxes.falls = boxes.rises | (lower >= 0), boxes.falls | (upper <= 0)
        fraction = torch.rand(boxes.lower.shape, generator=self.generator, dtype=torch.float64).to(lower)
        point = boxes.lower + (0.01 + 0.98 * fraction) * (boxes.upper - boxes.lower)
        met = self.slopes.meet(torch.minimum(torch.maximum(point, boxes.lower), boxes.upper), boxes.region)
        _require_consistent(boxes.rises & (met < 0) | boxes.falls & (met > 0))
        boxes.split = self._smear(boxes, lower, upper)
        return boxes

    def _smear(self, boxes: _Boxes, lower: Tensor, upper: Tensor) -> Tensor:
        """The coordinate with the largest side times Jacobian width, over rows that miss something; -1 for none."""
        rows = self._missing(boxes).any(2, keepdim=True)
        width = torch.where(rows, upper - lower, 0.0).sum(1).nan_to_num(0.0)
        middle = _middle(boxes.lower, boxes.upper)
        divisible = (boxes.lower < middle) & (middle < boxes.upper)
        largest = torch.where(divisible, width * (boxes.upper - boxes.lower), 0.0).max(1)
        return torch.where(largest.values > 0, largest.indices, -1)

    def _decide(self, boxes: _Boxes) -> None:
        """Certify the open entries that have one sign in all boxes left; the boxes dropped had every possible one."""
        missed = torch.zeros(2, *self.sign.shape, dtype=torch.int32, device=self.sign.device)
        missed[0].index_add_(0, boxes.region, (~boxes.rises).int())
        missed[1].index_add_(0, boxes.region, (~boxes.falls).int())
        rises = (missed[0] == 0) & self.slopes.can_rise
        falls = (missed[1] == 0) & self.slopes.can_fall
        self.sign = torch.where(self.open, _signs(rises, falls), self.sign)


def _signs(rises: Tensor, falls: Tensor) -> Tensor:
    """+1, -1 and 0; +1 where both hold. Comparisons with NaN are false, so that NaN certifies nothing."""
    return rises.to(torch.int8) - (falls & ~rises).to(torch.int8)


def _middle(lower: Tensor, upper: Tensor) -> Tensor:
    return lower + (upper - lower) / 2


def _batches(boxes: _Boxes, size: int) -> Iterator[_Boxes]:
    count = len(boxes.region)
    index = torch.arange(count, device=boxes.region.device)
    return (boxes.take(some) for some in index.split(size))


def _ends(x: Any, region: Region, outward: bool) -> tuple[Tensor, Tensor]:
    """The corners of the box around each region, (b, columns): none of it is cut off, or (inward) nothing added."""
    center = region.center.flatten(1)
    reach = region.radius.expand_as(center)
    toward = torch.full_like(center, math.inf if outward else -math.inf)
    lower, upper = torch.nextafter(center - reach, -toward), torch.nextafter(center + reach, toward)
    if not outward:
        lower, upper = torch.minimum(lower, center), torch.maximum(upper, center)
    fixed = reach == 0
    lower, upper = torch.where(fixed, center, lower), torch.where(fixed, center, upper)
    for given, end in ((x.ptb.x_L, lower), (x.ptb.x_U, upper)):
        if given is not None:
            end.copy_(given.expand_as(region.center).flatten(1))
    return lower, upper


def _mask(wanted: Tensor | None, shape: torch.Size, device: torch.device) -> Tensor:
    if wanted is None:
        return torch.ones(shape, dtype=torch.bool, device=device).flatten(2)
    if not isinstance(wanted, Tensor) or wanted.dtype != torch.bool:
        came = wanted.dtype if isinstance(wanted, Tensor) else type(wanted).__name__
        raise InputError(f"`wanted` must be a tensor of bool that says which entries to decide, got {came}.")
    try:
        return wanted.to(device).expand(shape).flatten(2)
    except RuntimeError as error:
        raise InputError(
            f"`wanted` has shape {tuple(wanted.shape)}, which does not broadcast to the signs' {tuple(shape)}."
        ) from error


def _require_consistent(contradicted: Tensor) -> None:
    if bool(contradicted.any()):
        raise RecurJacError(
            "A derivative met at a point of the region contradicts the Jacobian's bounds: one of them is wrong; please "
            "report the network, or try float64."
        )


def _check_budget(timeout: Any, max_boxes: Any, samples: Any, seed: Any, batch_size: Any) -> None:
    if timeout is not None and not (isinstance(timeout, (int, float)) and 0 < timeout < math.inf):
        raise InputError(f"`timeout` must be a finite number of seconds above 0, or None, got {timeout!r}.")
    for name, value, least in (
        ("max_boxes", 1 if max_boxes is None else max_boxes, 1),
        ("samples", samples, 0),
        ("seed", seed, 0),
        ("batch_size", batch_size, 1),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise InputError(f"`{name}` must be a whole number of at least {least}, got {value!r}.")
