"""Element-wise bounds, and what two of them say together."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recurjac_plugin.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Bounds:
    """``lower <= J(x) <= upper``, element by element, for every x in the region.

    Unpacks like a pair: ``lower, upper = bounds``.

    Attributes:
        lower, upper: shape (b, k, *input_shape): region, row (output or row of C), input coordinate.
        rigorous: whether they are proven, rounding included.
        methods: what they were found by, one name for each region; empty for bounds from elsewhere.
    """

    lower: Tensor
    upper: Tensor
    rigorous: bool = False
    methods: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.lower, self.upper))

    def __repr__(self) -> str:
        shape = ", ".join(map(str, self.lower.shape))
        proven = ", rigorous" if self.rigorous else ""
        found_by = "".join(f", {name}" for name in dict.fromkeys(self.methods))
        return f"Bounds([{shape}], {self.lower.dtype}, {self.lower.device}{found_by}{proven})"

    @property
    def width(self) -> Tensor:
        """``upper - lower``, shape (b, k, *input_shape)."""
        return self.upper - self.lower

    @property
    def magnitude(self) -> Tensor:
        """``max(|lower|, |upper|)``, the largest absolute value between the bounds, shape (b, k, *input_shape)."""
        return torch.maximum(self.lower.abs(), self.upper.abs())

    def contains(self, J: Tensor | np.ndarray, slack: float = 0.0) -> bool:
        """Whether ``lower - slack <= J <= upper + slack`` in every element; NaN is in no bounds.

        Args:
            J: Jacobians, shape (..., b, k, *input_shape), with any number of sample dimensions before.
            slack: an absolute tolerance, e.g. for the rounding of J itself.

        Raises:
            InputError: J has another shape.
        """
        J = torch.as_tensor(J, device=self.lower.device)
        if J.shape[J.dim() - self.lower.dim() :] != self.lower.shape or J.dim() < self.lower.dim():
            raise InputError(
                f"`J` must have shape (..., {', '.join(map(str, self.lower.shape))}) as the bounds, got "
                f"{tuple(J.shape)}."
            )
        dtype = torch.promote_types(J.dtype, self.lower.dtype)
        lower, upper = self.lower.to(dtype) - slack, self.upper.to(dtype) + slack
        return bool(((lower <= J) & (upper >= J)).all())

    def sign(self) -> Tensor:
        """The strict sign of the Jacobian over the region: +1 if ``lower > 0``, -1 if ``upper < 0``, 0 otherwise.

        `monotonicity`, which needs no strict signs, also says +1 for ``lower = 0`` and -1 for ``upper = 0``.

        Returns:
            int8, shape (b, k, *input_shape).
        """
        return (self.lower > 0).to(torch.int8) - (self.upper < 0).to(torch.int8)

    def to_numpy(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds as arrays, without gradients, copied from the device they are on."""
        return self.lower.detach().cpu().numpy(), self.upper.detach().cpu().numpy()

    def plot(
        self,
        row: int = 0,
        sample: int = 0,
        path: str | os.PathLike[str] | None = None,
        *,
        image_shape: tuple[int, ...] | None = None,
        title: str | None = None,
    ) -> Figure:
        """Draw one row of the bounds over an image: lower, upper, and the sign; one line of panels per channel.

        Args:
            row: output, or row of C.
            sample: the region.
            path: where to save the picture; its ending says the format (.png, .pdf, .svg).
            image_shape: (h, w) or (c, h, w), for inputs that are images in another shape; None takes input_shape.
            title: shown above the panels; None says which row and region.

        Returns:
            The figure, made without pyplot: nothing has to be closed.

        Raises:
            InputError: there is no such row or sample, or the input is no image.
        """
        from recurjac_plugin.plots import sign_map

        for name, value, count in (("row", row, self.lower.shape[1]), ("sample", sample, len(self.lower))):
            if not -count <= value < count:
                raise InputError(f"`{name}` must be from 0 to {count - 1} for these bounds, got {value!r}.")
        lower, upper = (bound[sample, row] for bound in self.to_numpy())
        shape = lower.shape if image_shape is None else tuple(image_shape)
        no_picture = image_shape is None and 1 in shape[-2:]  # a single line of numbers
        if len(shape) not in (2, 3) or math.prod(shape) != lower.size or no_picture:
            raise InputError(
                f"`image_shape` must be (h, w) or (c, h, w) with {lower.size} elements to draw an input of shape "
                f"{lower.shape}, got {image_shape}."
            )
        figure = sign_map(
            lower.reshape(-1, *shape[-2:]),
            upper.reshape(-1, *shape[-2:]),
            f"Jacobian bounds of row {row}, region {sample}" if title is None else title,
        )
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure
