r"""Input regions: one l_p ball, or box, per sample, as plain numbers.

With centre :math:`x_0`, half side lengths or radius :math:`\rho`, and q the dual norm of p (``1/p + 1/q = 1``), the
largest change of a linear function on the region, which *concretises* it, is

.. math:: \max_{x \in \text{ball}} s^T (x - x_0) = \rho \lVert s \rVert_q, \qquad
    \max_{x \in \text{box}} s^T (x - x_0) = \sum_r |s_r| \rho_r .

Source: Zhang, Weng, Chen, Hsieh, Daniel: CROWN, NeurIPS 2018, arXiv:1811.00866, Theorem 3.2 and Corollary 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from recurjac_plugin.errors import InputError


@dataclass(frozen=True, eq=False)
class Region:
    """One l_p ball, or box, per sample.

    Attributes:
        center: the middle of the region, shape (b, *input_shape).
        norm: p of the ball; inf for boxes.
        radius: half side lengths of a box (norm inf), shape (b, columns); otherwise the ball's radius, shape (b, 1).
    """

    center: Tensor
    norm: float
    radius: Tensor

    @cached_property
    def dual_norm(self) -> float:
        """q with 1/p + 1/q = 1."""
        if self.norm == math.inf:
            return 1.0
        return math.inf if self.norm == 1 else self.norm / (self.norm - 1)

    @cached_property
    def columns(self) -> int:
        """Number of input coordinates."""
        return self.center[0].numel()

    @property
    def reach(self) -> Tensor:
        """How far each coordinate can be from the centre, shape (b, columns)."""
        return self.radius.expand(-1, self.columns)

    def concretize(
        self,
        slopes: Tensor,  # shape: (b, m, columns)
    ) -> Tensor:
        """The largest ``slopes (x - x0)`` over the region: (b, m). The smallest is its negative.

        Source:
            CROWN, arXiv:1811.00866, Corollary 3.3: ``radius |slopes|_q``, and for a box ``|slopes| radius``.
        """
        if self.norm == math.inf:
            return (slopes.abs() @ self.reach.unsqueeze(2)).squeeze(2)
        return torch.linalg.vector_norm(slopes, ord=self.dual_norm, dim=2) * self.radius

    def hull(self) -> Region:
        """The smallest box around the region."""
        return Region(self.center, math.inf, self.reach)

    def scaled(self, fraction: float) -> Region:
        """The region scaled about its centre."""
        return replace(self, radius=fraction * self.radius)

    def part(self, regions: Tensor | slice) -> Region:
        """The regions of some samples, by position."""
        return Region(self.center[regions], self.norm, self.radius[regions])


def concretized(
    regions: Sequence[Region],
    slopes: Tensor,  # shape: (b, m, columns)
) -> Tensor:
    """The largest ``slopes (x - x0)`` over the regions of several inputs, whose columns stand side by side: (b, m)."""
    parts = slopes.split([region.columns for region in regions], 2)
    return torch.stack([region.concretize(part) for region, part in zip(regions, parts, strict=True)]).sum(0)


def joined(regions: Sequence[Region]) -> Region:
    """One region of the coordinates of several inputs together, flattened if there is more than one.

    Raises:
        InputError: several regions that are not all boxes: they have no common norm.
    """
    if len(regions) == 1:
        return regions[0]
    if any(region.norm != math.inf for region in regions):
        norms = ", ".join(f"{region.norm:g}" for region in regions)
        raise InputError(
            f"The perturbed inputs have norms {norms}: a Lipschitz constant or output bound over several inputs "
            "together needs boxes (norm inf); use `jacobian_bounds`, or perturb one of them."
        )
    return Region(
        torch.cat([region.center.flatten(1) for region in regions], 1),
        math.inf,
        torch.cat([region.reach for region in regions], 1),
    )
