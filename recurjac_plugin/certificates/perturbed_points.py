r"""Points and the balls around them, of one radius per point: what a search for a radius asks about.

The ball of radius t around a point x0 is :math:`\{x : \lVert x - x_0 \rVert_p \le t\}`. An l_inf ball can be clipped to
the range that inputs can have, such as that of pixels. What is left of it is a box that reaches less far to one side of
the point than to the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recurjac_plugin.errors import InputError, RecurJacError
from recurjac_plugin.host.problem import read, specification
from recurjac_plugin.host.region import perturbed, perturbed_box, require_full_type
from recurjac_plugin.numerics.region import Region
from recurjac_plugin.numerics.rounding import eps

NORMS = (1.0, 2.0, math.inf)
"""The p of the balls that radii can be searched for."""

Clip = tuple[float | Tensor, float | Tensor]


@dataclass(frozen=True, eq=False)
class PerturbedPoints:
    """Points, and balls of any radius around them.

    Attributes:
        center: the points, shape (b, *input_shape).
        norm: p of the balls, one of `NORMS`.
        clip: lowest and highest input, each of the shape of `center`; None where there is no such range. Balls of other
            norms than inf are not clipped: the whole ball is a loose but sound replacement.
    """

    center: Tensor
    norm: float
    clip: tuple[Tensor, Tensor] | None

    def __len__(self) -> int:
        return len(self.center)

    def take(self, index: Tensor) -> PerturbedPoints:
        """Some of the points, by position."""
        clip = None if self.clip is None else (self.clip[0][index], self.clip[1][index])
        return PerturbedPoints(self.center[index], self.norm, clip)

    def reach(self, radii: Tensor) -> tuple[Tensor, Tensor]:
        """How far each coordinate can decrease and increase in the balls of these radii, (b,), from the point.

        Returns:
            Two tensors of shape (b, columns) for norm inf, else the radius itself, twice, of shape (b, 1).
        """
        radius = radii.to(self.center).unsqueeze(1)
        if self.norm != math.inf:
            return radius, radius
        radius = radius.expand(-1, self.center[0].numel())
        if self.clip is None:
            return radius, radius
        low, high = self.clip
        below, above = (self.center - low).flatten(1), (high - self.center).flatten(1)
        return torch.minimum(radius, below), torch.minimum(radius, above)

    def region(self, radii: Tensor) -> Any:
        """The balls of these radii, (b,), as a perturbed input of the host.

        They are larger than asked for by the rounding of ``center + radius``: a ball must not shrink to its centre
        where the radius is smaller than the distance between numbers.
        """
        size = self.center.flatten(1).abs().amax(1)
        radii = radii.to(self.center)
        radii = (radii + eps(radii) * (size + radii)).unsqueeze(1)
        if self.norm != math.inf:
            return perturbed(Region(self.center, self.norm, radii))
        if self.clip is None:
            return perturbed(Region(self.center, math.inf, radii))
        radii = radii.reshape(-1, *(1,) * (self.center.dim() - 1))
        low, high = torch.maximum(self.center - radii, self.clip[0]), torch.minimum(self.center + radii, self.clip[1])
        return perturbed_box(low, high, self.center)


def read_points(x0: Tensor, norm: float, clip: Clip | None = None) -> PerturbedPoints:
    """Check points, norm and range.

    Args:
        x0: the points, shape (b, *input_shape).
        norm: p of the balls, one of `NORMS`.
        clip: lowest and highest input, numbers or tensors like `x0`; None where there is no such range.

    Raises:
        InputError: one of them is no such thing, NaN, or a point lies outside the range.
    """
    if not isinstance(x0, Tensor) or not x0.is_floating_point():
        came = x0.dtype if isinstance(x0, Tensor) else type(x0).__name__
        raise InputError(f"`x0` must be a tensor of floating-point numbers, got {came}.")
    require_full_type("`x0`", x0.dtype)
    if x0.dim() < 2 or x0.numel() == 0:
        raise InputError(f"`x0` must have shape (b, *input_shape) with at least one element, got {tuple(x0.shape)}.")
    x0 = x0.detach().as_subclass(Tensor)
    if not bool(x0.isfinite().all()):
        raise InputError("`x0` contains NaN or infinite values; points must be finite.")
    if isinstance(norm, bool) or not isinstance(norm, (int, float, np.number)) or norm not in NORMS:
        raise InputError(f"`norm` must be 1, 2 or inf, got {norm!r}.")
    return PerturbedPoints(x0, float(norm), None if clip is None else _clip_range(x0, clip))


def _clip_range(x0: Tensor, clip: Clip) -> tuple[Tensor, Tensor]:
    """Lowest and highest input, each shaped like the points."""
    if not isinstance(clip, (tuple, list)) or len(clip) != 2:
        raise InputError(f"`clip` must be a pair, the lowest and the highest input, got {clip!r}.")
    try:
        low, high = (torch.as_tensor(end, dtype=x0.dtype, device=x0.device).expand_as(x0) for end in clip)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"`clip` must hold two numbers, or tensors of the shape of `x0` ({tuple(x0.shape)}): {error}."
        ) from error
    if bool((low.isnan() | high.isnan()).any()):
        raise InputError("`clip` contains NaN.")
    if bool((low > high).any()):
        raise InputError("`clip` is inverted: give the lowest input first, then the highest.")
    outside = (x0 < low) | (x0 > high)
    if bool(outside.any()):
        value = float(x0[outside][0])
        raise InputError(f"`x0` contains {value:g}, which lies outside `clip`; points must be in the range of inputs.")
    return low, high


@torch.no_grad()
def point_rows(model: Any, points: PerturbedPoints, C: Tensor | None) -> tuple[Tensor, Tensor]:
    """The outputs at the points, (b, n_out), and the matrix C for them, (b, k, n_out).

    Args:
        model: the host's `BoundedModule`.
        points: where.
        C: specification matrix, (b or 1, k, n_out); None takes every output.

    Raises:
        InputError: model, points and C do not fit together, or C has rows of zeros.
    """
    graph = read(model, points.region(torch.zeros(len(points)))).host_graph
    rows = specification(C, graph.output).flatten(2)
    if not bool((rows != 0).any(2).all()):
        raise InputError("`C` has rows of zeros: there is nothing to certify about them.")
    return graph.output.flatten(1), rows


def probing(check: Callable[..., Tensor], points: PerturbedPoints) -> Callable[..., Tensor]:
    """A callback for `radius_search.largest_radius`, from a check of the balls around some of the points.

    Boxes are checked together, l_1 and l_2 balls one by one: the host takes one radius for a whole batch of those, and
    the result for one sample must not depend on the others.

    Args:
        check: takes the positions of some points (m,) and radii (m,), and options by name; returns which balls are
            certified, bool (m,).
        points: all points.

    Returns:
        The callback, which hands its options on. A ball that cannot be bounded, e.g. because numbers overflow, is not
        certified, unless that holds for the very first: then its error is raised.
    """
    ran = False

    def attempt(index: Tensor, radii: Tensor, options: dict[str, Any]) -> Tensor:
        nonlocal ran
        try:
            certain = check(index, radii, **options)
        except RecurJacError:
            if not ran:
                raise
            if len(index) == 1:
                return torch.zeros(1, dtype=torch.bool)
            return torch.cat([attempt(i, r, options) for i, r in zip(index.split(1), radii.split(1))])
        ran = True
        return certain.cpu()

    @torch.no_grad()
    def certified(radii: Tensor, active: Tensor, **options: Any) -> Tensor:
        certain = torch.zeros_like(active)
        every = active.nonzero().squeeze(1)
        for index in [every] if points.norm == math.inf else every.split(1):
            certain[index] = attempt(index.to(points.center.device), radii[index], options)
        return certain

    return certified
