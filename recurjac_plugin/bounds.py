"""Element-wise bounds, and what two of them say together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import RecurJacError

# Two bounds of the same quantity contradict each other if they miss by more than this part of its size.
_CONTRADICTION = 0.01


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


def intersection(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The tighter of two lower and of two upper bounds, element by element.

    Bounds that meet at the true value cross by rounding; then what lies between them is kept.

    Raises:
        RecurJacError: the two contradict each other, so one of them is wrong.
    """
    lower, upper = torch.maximum(first[0], second[0]), torch.minimum(first[1], second[1])
    if bool((lower - upper > _CONTRADICTION * torch.maximum(lower.abs(), upper.abs()).amax()).any()):
        raise RecurJacError(
            "Two bounds of the same quantity contradict each other: one of them is wrong, or the numbers are too large "
            f"for {lower.dtype}; please report the network, or try float64."
        )
    return torch.minimum(lower, upper), torch.maximum(lower, upper)
