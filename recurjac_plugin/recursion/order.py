"""What every order of the recursion answers, whatever it does at an undetermined neuron."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from recurjac_plugin.numerics.intervals import Interval


class Order(Protocol):
    """Bounds of the Jacobian J of b regions, with k rows and one column for each input coordinate.

    All that leads to the last step is done when it is made, or when the first answer is asked for: an answer does not
    depend on those before it.
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

        At most the sum of the entries' bounds, up to rounding.
        """
        ...
