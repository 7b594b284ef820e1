r"""A bounded Jacobian, as everything that follows from it sees it.

Lipschitz constants, output bounds, certificates and the search ask seven things of ``C f`` over a batch of regions
(`BoundedJacobian`), and do not ask where they come from: the analysis of a model (`analysis.Analysis`), or a pass over
gains that somebody has already (`BoundedByOrder`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from recurjac_plugin.gains.gains import Gains
from recurjac_plugin.numerics.intervals import Interval
from recurjac_plugin.numerics.region import Region
from recurjac_plugin.numerics.rounding import gamma, underflow
from recurjac_plugin.recursion.backward import BackwardOrder
from recurjac_plugin.recursion.forward import ForwardOrder
from recurjac_plugin.recursion.order import BothOrders, Order
from recurjac_plugin.recursion.sums import upper_of_joint_sums

from .methods import Treatment


class BoundedJacobian(Protocol):
    r"""Bounds of the Jacobian of ``C f`` over a batch of b regions; C has k rows, f as many columns as inputs."""

    @property
    def region(self) -> Region:
        """Where the inputs lie."""

    @property
    def center_value(self) -> Tensor:
        """``C f(x_0)`` at the centres of the regions, shape (b, k)."""

    @property
    def treatment(self) -> Treatment:
        """How the undetermined neurons were treated."""

    @property
    def start(self) -> BoundedJacobian | None:
        """Other bounds of the same Jacobian, than which nothing is to be wider; None if there are none."""

    @property
    def jacobian(self) -> Interval:
        """Lower and upper bounds of the entries, both of shape (b, k, columns)."""

    def upper_of_sum(
        self,
        weights: Tensor,  # shape: (b, k, columns)
    ) -> Tensor:
        """Upper bound of ``sum_r weights_r J_kr`` for every row k: (b, k).

        Tighter than summing the bounds of the entries, because the neurons' derivatives are shared by all entries.
        """

    def upper_of_sums(
        self,
        coefficients: Tensor,  # shape: (b, s, k, columns)
    ) -> Tensor:
        """Upper bound of ``sum_kr c_skr J_kr``, over entries of all rows, for every s: (b, s)."""

    @property
    def exact_part(self) -> Gains | None:
        """The gains between the undetermined neurons; None where there are none, or rounding has to be proven."""


@dataclass(frozen=True, eq=False)
class BoundedByOrder:
    """A Jacobian bounded by an order of the recursion that has its gains already.

    Attributes:
        region: where the inputs lie.
        center_value: ``C f(x_0)``, shape (b, k).
        treatment: how the undetermined neurons were treated.
        order: what bounds the entries, and sums of them.
        error: proven absolute errors of the entries' bounds, (b, k, columns); None to leave no room for rounding.
        start: as in `BoundedJacobian`.
    """

    region: Region
    center_value: Tensor
    treatment: Treatment
    order: Order
    error: Tensor | None = None
    start: BoundedJacobian | None = None

    @cached_property
    def jacobian(self) -> Interval:
        """Lower and upper bounds of the Jacobian, both of shape (b, k, columns)."""
        return with_room(self.order.jacobian(), self.error)

    def upper_of_sum(
        self,
        weights: Tensor,  # shape: (b, k, columns)
    ) -> Tensor:
        """Upper bound of ``sum_r weights_r J_kr`` for every row k: (b, k)."""
        return sum_with_room(self.order.upper_of_sum(weights), weights, self.error)

    def upper_of_sums(
        self,
        coefficients: Tensor,  # shape: (b, s, k, columns)
    ) -> Tensor:
        """Upper bound of ``sum_kr c_skr J_kr`` for every s: (b, s)."""
        return sums_with_room(self.order, self.jacobian, coefficients, self.error)

    @property
    def exact_part(self) -> Gains | None:
        """The gains that the order has, unless errors have to be proven."""
        order = self.order.backward if isinstance(self.order, BothOrders) else self.order
        return order.gains if self.error is None and isinstance(order, (BackwardOrder, ForwardOrder)) else None


def with_room(bounds: Interval, error: Tensor | None) -> Interval:
    """``[l - e, u + e]``, or the bounds as they are without an error."""
    return bounds if error is None else (bounds[0] - error, bounds[1] + error)


def sums_with_room(
    order: Order,
    jacobian: Interval,
    coefficients: Tensor,  # shape: (b, s, k, columns)
    error: Tensor | None,
) -> Tensor:
    """Upper bounds (b, s) of ``sum_kr c_skr J_kr``, by the order or from bounds of the entries with their room."""
    lower, upper = (bound.unsqueeze(1) for bound in jacobian)
    apart = torch.where(coefficients >= 0, coefficients * upper, coefficients * lower).sum((2, 3))
    joint = upper_of_joint_sums(order, coefficients, torch.full_like(apart, torch.inf))
    if error is None:
        return torch.fmin(apart, joint)
    weights = coefficients.flatten(2)
    apart = apart + gamma(weights.shape[2] + 8) * (weights.abs() * _largest(jacobian).flatten(1).unsqueeze(1)).sum(2)
    return torch.fmin(apart, sum_with_room(joint, weights, error.flatten(1).unsqueeze(1)))


def _largest(jacobian: Interval) -> Tensor:
    return torch.maximum(jacobian[0].abs(), jacobian[1].abs())


def sum_with_room(upper: Tensor, weights: Tensor, error: Tensor | None) -> Tensor:
    """An upper bound (b, k) of a sum with weights (b, k, columns) and ``sum |weights| e``, more for its rounding."""
    if error is None:
        return upper
    room = (weights.abs() * error).sum(2)
    return upper + room * (1 + gamma(weights.shape[2] + 8)) + gamma(4) * upper.abs() + underflow(1)
