"""Element-wise bounds of a Jacobian."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Bounds:
    """``lower <= J(x) <= upper``, element by element, for every x in the region.

    Unpacks like a pair: ``lower, upper = bounds``.

    Attributes:
        lower, upper: shape (b, k, *input_shape): region, row (output or row of C), input coordinate.
    """

    lower: Tensor
    upper: Tensor

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.lower, self.upper))

    def __repr__(self) -> str:
        shape = ", ".join(map(str, self.lower.shape))
        return f"Bounds([{shape}], {self.lower.dtype}, {self.lower.device})"
