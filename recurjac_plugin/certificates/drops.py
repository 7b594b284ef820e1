r"""How far rows can fall on growing balls around points: the paper's integral, carried on from radius to radius.

Let x lie in the (clipped) l_inf ball of radius t, and let ``x_i`` be x with every coordinate brought to within ``t_i``
of that of x0. The path from x0 over ``x_1``, ``x_2``, ... ends in x. Its i-th segment lies in the ball of radius
``t_i``, and on it coordinate r moves, towards x, by at most the difference of how far this ball and the one before it
reach to that side. So the mean value theorem bounds the drop on the segment by the Jacobian on the ball and these
differences; where nothing is clipped all of them are ``t_i - t_(i-1)``, and

.. math:: C f(x_0) - C f(x) \le \sum_i L(t_i) (t_i - t_{i-1}), \qquad 0 = t_0 < t_1 < \dots < t_n = t .

Any radii will do. A search asks for larger and larger ones, each time beyond what is certified, so the sum up to there
is kept, and only what is new is divided: into segments of at most ``t / steps``, all of which are bounded at once. As a
rule that is less than what evenly spaced radii give, but not always, as where L jumps at one of these.

Source: Zhang, Zhang, Hsieh: RecurJac, AAAI 2019, arXiv:1810.11783, section 3.5, for evenly spaced radii.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.jacobian.analysis import analyse
from recurjac_plugin.jacobian.methods import Method
from recurjac_plugin.jacobian.parts import regions_at_once
from recurjac_plugin.lipschitz.mean_value import largest_drop

from .perturbed_points import PerturbedPoints

_TOGETHER = 64
"""Balls that are worth bounding at once, even if the first of them may show that the others are not needed."""


class Drops:
    """Upper bounds of ``C f(x0) - C f(x)`` on balls around points, up to the largest radius that was kept.

    Args:
        model: the host's `BoundedModule`.
        points: x0, b of them.
        method: a parsed method that bounds Jacobians.
        rows: C, (b, k, n_out).
        steps: least number of segments from 0 to a radius.
        options: of `analyse`.

    Attributes:
        radius: up to where the drops are known, float64 (b,).
        drop: up to there, (b, k).
        segments: the largest number of them that was added up.
    """

    def __init__(
        self, model: Any, points: PerturbedPoints, method: Method, rows: Tensor, steps: int, **options: Any
    ) -> None:
        self.model, self.points, self.method, self.rows, self.steps = model, points, method, rows, steps
        self.options = options
        dtype = torch.float64 if options.get("rigorous") else rows.dtype
        self.drop = torch.zeros_like(rows[:, :, 0], dtype=dtype)
        self.radius = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
        self.segments = 0

    def up_to(
        self,
        index: Tensor,  # shape: (m,)
        radii: Tensor,  # shape: (m,)
        holds: Callable[[Tensor, Tensor], Tensor],
        evenly: bool = False,
    ) -> Tensor:
        """Whether something holds for the drops up to radii beyond those that are known; where it does they are kept.

        Args:
            index: positions of some points.
            radii: one for each of them, float64.
            holds: takes drops (n, k), and which of the m points they belong to, (n,); whether all is well with them,
                bool (n,). Where it does not hold it does not hold for larger drops.
            evenly: whether to begin at 0 again, with `steps` segments of the same length.

        Returns:
            bool (m,).
        """
        index, radii = index.to(self.radius.device), radii.to(self.radius.device)
        start, drop = self.radius[index], self.drop[index]
        if evenly:
            start, drop = torch.zeros_like(start), torch.zeros_like(drop)
        counts = (self.steps * ((radii - start) / radii)).ceil().clamp(min=1).long()
        # Balls of one batch have one radius on the host, boxes one each.
        together = _TOGETHER if self.points.norm == math.inf else 1
        going = torch.arange(len(index), device=index.device)
        done = 0
        while len(going) and done < int(counts[going].max()):
            width = max(1, together // len(going))
            place = torch.arange(done, done + width, device=index.device).repeat(len(going), 1)
            owner = going.unsqueeze(1).expand_as(place)
            wanted = place < counts[owner]
            owner, place = owner[wanted], place[wanted]
            inner, outer = (
                torch.where(
                    end == counts[owner], radii[owner], start[owner] + (radii - start)[owner] * end / counts[owner]
                )
                for end in (place, place + 1)
            )
            drop = drop.index_add(0, owner, self._segments(index[owner], inner, outer))
            done += width
            going = going[holds(drop[going], going)]
        held = torch.zeros(len(index), dtype=torch.bool, device=index.device)
        held[going] = True
        self.radius[index[going]], self.drop[index[going]] = radii[going], drop[going]
        self.segments += int(counts.max())
        return held

    def _segments(self, index: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
        """Drops from one radius to another, (n, k), around points by position."""
        size = regions_at_once(self.model, self.rows.shape[1], self.options.get("memory_budget"), self.points.center)
        return torch.cat(
            [self._bounded(*part) for part in zip(index.split(size), inner.split(size), outer.split(size), strict=True)]
        )

    def _bounded(self, index: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
        points = self.points.take(index)
        analysis = analyse(self.model, points.region(outer), self.method, self.rows[index], **self.options)
        moved = (far.to(self.drop) - near.to(self.drop) for near, far in zip(points.reach(inner), points.reach(outer)))
        return largest_drop(analysis, *moved)
