"""What every order of the recursion answers, whatever it does at an undetermined neuron.

Of the forward and the backward order (Zhang, Zhang, Hsieh, AAAI 2019, arXiv:1810.11783, section 3.3) neither is always
tighter, but both hold, and so does their intersection (`BothOrders`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from recurjac_plugin.numerics.intervals import Interval, intersection


class Order(Protocol):
    """Bounds ``lower <= J <= upper`` over b regions, with k rows and one column for each input coordinate.

    Source: RecurJac, arXiv:1810.11783, section 3.3, for the orders; section 3.4 for the sum.
    """

    def jacobian(self) -> Interval:
        """Lower and upper bounds of all entries, both of shape (b, k, columns).

        Raises:
            InputError: they overflow the number type.
        """
        ...

    def upper_of_sum(
        self,
        weights: Tensor,  # shape: (b, k, columns)
    ) -> Tensor:
        """Upper bound of ``sum_r weights_r J_kr`` for every row k: (b, k).

        For a single entry it is that entry's bound. The entries share the neurons' derivatives, so for several it is
        mostly smaller than the sum of their bounds; it need not be, and both hold.
        """
        ...


@dataclass(frozen=True, eq=False)
class BothOrders:
    """The intersection of the forward and the backward order, ``[max(l, l'), min(u, u')]``.

    Source: RecurJac, arXiv:1810.11783, section 3.3, for the orders; their intersection is own.

    Attributes:
        forward: bounds from the input on.
        backward: bounds from the output on.
        used: in which regions those of the forward order are; None for in all.
    """

    forward: Order
    backward: Order
    used: Tensor | None = None  # shape: (b,)

    def jacobian(self) -> Interval:
        """Lower and upper bounds of the Jacobian, the tighter of each two, both of shape (b, k, columns).

        Raises:
            InputError: bounds of one order overflow the number type.
            RecurJacError: the two contradict each other.
        """
        backward, forward = self.backward.jacobian(), self.forward.jacobian()
        if self.used is not None:
            used = self.used[:, None, None]
            forward = torch.where(used, forward[0], backward[0]), torch.where(used, forward[1], backward[1])
        return intersection(forward, backward)

    def upper_of_sum(
        self,
        weights: Tensor,  # shape: (b, k, columns)
    ) -> Tensor:
        """The smaller upper bound of ``sum_r weights_r J_kr`` for every row k: (b, k)."""
        backward, forward = self.backward.upper_of_sum(weights), self.forward.upper_of_sum(weights)
        if self.used is not None:
            forward = torch.where(self.used[:, None], forward, backward)
        return torch.minimum(forward, backward)
