"""What every order of the recursion answers, whatever it does at an undetermined neuron."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from recurjac_plugin.numerics.intervals import Interval


class Order(Protocol):
    """Bounds of the Jacobian J over b regions, with k rows and one column for each input coordinate."""

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
