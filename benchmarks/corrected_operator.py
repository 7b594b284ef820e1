r"""auto_LiRPA 0.7.1's own `JacobianOP` with sound lines for the derivatives of tanh and sigmoid, to compare with.

The host bounds these derivatives, which are bell-shaped, by lines in `BoundTanhGrad`. Three of them do not hold:

* the tangent points are looked up in a table at the last entry *below* the upper end of the interval. A tangent that
  holds up to there crosses the curve beyond it. The first entry at or above the end is right, as in the host's own
  branch for lower ends;
* the tangent above is drawn at ``du (l + u) / (du + u)``, du being the farthest point whose tangent holds up to u. For
  a lower end beyond du that point is beyond du, too. There the chord lies above the curve, as far as it falls no
  faster than the tangent in l, and the tangent in du always does;
* the chord below is drawn wherever the tangent point of the table lies outside of the interval, though the true one may
  lie inside. It lies below the curve if it is no flatter than the tangent at its outer end; else that tangent does.

Source: own; the curve is convex, concave and convex again, with the inflection points -p and p.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_CLOSE = 1e-6  # the host bounds narrower intervals by constants


@contextlib.contextmanager
def corrected_operator() -> Iterator[None]:
    """The host's operator with sound lines, for models that are bounded inside; then it is as it was."""
    kind = importlib.import_module("auto_LiRPA.operators.s_shaped").BoundTanhGrad
    theirs = kind.retrieve_from_precompute, kind.bound_relax_impl

    def bound_relax_impl(self: Any, x: Any) -> None:
        theirs[1](self, x)
        _mend(self, x.lower, x.upper)

    kind.retrieve_from_precompute, kind.bound_relax_impl = _tangent_points, bound_relax_impl
    try:
        yield
    finally:
        kind.retrieve_from_precompute, kind.bound_relax_impl = theirs


def _tangent_points(self: Any, x: Tensor, flip: bool = False) -> tuple[Tensor, Tensor]:
    """Of the tangents below and above that hold up to x, or down to it where `flip`; shaped like x."""
    sign = -1.0 if flip else 1.0
    index = torch.searchsorted(self.precompute_x, (sign * x).contiguous()).clamp(max=len(self.precompute_x) - 1)
    return sign * self.d_lower[index], sign * self.d_upper[index]


def _mend(node: Any, lower: Tensor, upper: Tensor) -> None:
    """Replace the lines on intervals across one inflection point, mirrored so that it is the one on the right."""
    left = lower + upper < 0
    sign = torch.where(left, -1.0, 1.0).to(lower)
    low, high = torch.where(left, -upper, lower), torch.where(left, -lower, upper)
    across = (low < node.inflection_point) & (high > node.inflection_point) & (upper - lower >= _CLOSE)
    curve, slope = node.func, node.dfunc
    chord = (curve(high) - curve(low)) / (high - low).clamp(min=_CLOSE)

    farthest = _tangent_points(node, high)[1]
    is_chord = (low > 0) & (chord >= slope(low))
    point = torch.where(is_chord, low, torch.minimum(farthest * (low + high) / (farthest + high), farthest))
    k = sign * torch.where(is_chord, chord, slope(point))
    node.add_linear_relaxation(mask=across, type="upper", k=k, x0=sign * point, y0=curve(point))

    nearest = _tangent_points(node, low, flip=True)[0]
    outside = nearest >= high
    point = torch.where(outside, high, (nearest + high) / 2)
    k = sign * torch.where(outside & (slope(high) <= chord), chord, slope(point))
    node.add_linear_relaxation(mask=across, type="lower", k=k, x0=sign * point, y0=curve(point))
