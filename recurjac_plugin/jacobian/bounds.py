"""Element-wise bounds, and what two of them say together."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recurjac_plugin.errors import InputError
from recurjac_plugin.kept import Kept
from recurjac_plugin.numerics.intervals import rounded_outward
from recurjac_plugin.numerics.rounding import CONTRADICTION

from .held.parts import AXES, left_by

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

_COUNTED = 2**20  # entries up to which `repr` counts signs: it must not wait for a device


@dataclass(frozen=True, eq=False, repr=False)
class Bounds(Kept):
    r"""``lower <= J(x) <= upper``, element by element, for every x in the region.

    Unpacks like the pair that it is, ``lower, upper = bounds``: ``list``, ``tuple``, ``zip`` and ``reversed`` see two
    tensors. Shape, length and indices are those of one of them: ``len(bounds)`` is the number of regions, and
    ``bounds[0]``, ``bounds[:, 2]``, ``bounds[mask]`` index both together, so that ``bounds[i]`` for every i in
    ``range(len(bounds))`` are the regions one by one. ``J in bounds`` is `contains`.

    Saved by ``torch.save``, and loaded by ``torch.load`` with ``weights_only=True`` after ``import recurjac_plugin``
    (on torch before 2.5 with False).

    Attributes:
        lower, upper: shape (b, k, *input_shape): region, row (output or row of C), input coordinate.
        rigorous: whether they are proven, rounding included.
        methods: what they were found by, one name for each region; empty for bounds from elsewhere.
        axes: which of the axes of region and row are there, before those of the input; an index may take them away.

    Raises:
        InputError: the two are no tensors, or differ in shape, number type or device.
    """

    lower: Tensor
    upper: Tensor
    rigorous: bool = False
    methods: tuple[str, ...] = ()
    axes: tuple[str, ...] = AXES

    def __post_init__(self) -> None:
        ends = (self.lower, self.upper)
        kinds = [(tuple(e.shape), e.dtype, e.device) if isinstance(e, Tensor) else type(e).__name__ for e in ends]
        if kinds[0] != kinds[1] or isinstance(kinds[0], str):
            came = " and ".join(kind if isinstance(kind, str) else "{} of {} on {}".format(*kind) for kind in kinds)
            raise InputError(f"`lower` and `upper` must be tensors of one shape, number type and device, got {came}.")

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.lower, self.upper))

    def __reversed__(self) -> Iterator[Tensor]:
        return iter((self.upper, self.lower))

    def __contains__(self, J: Tensor | np.ndarray) -> bool:
        return self.contains(J)

    def __len__(self) -> int:
        return len(self.lower)

    def __getitem__(self, index: Any) -> Bounds:
        """Both tensors at an index; `methods` follow the regions."""
        axes, regions = left_by(index, self.axes, self.shape)
        methods = self.methods
        if self.axes[:1] == AXES[:1] and methods:
            methods = tuple(methods[i] for i in regions)
        return Bounds(self.lower[index], self.upper[index], self.rigorous, methods, axes)

    def __repr__(self) -> str:
        shape, axes = tuple(self.shape), self.axes[: self.lower.dim()]
        parts = [f"{count} {name}{'' if count == 1 else 's'}" for name, count in zip(axes, shape)]
        rest = shape[len(axes) :]
        one, many = ("input", "inputs") if axes else ("entry", "entries")
        parts.append(f"{'x'.join(map(str, rest)) or 1} {one if math.prod(rest) == 1 else many}")
        about = [" x ".join(parts), *self._numbers(), *dict.fromkeys(self.methods)]
        proven = ["rigorous"] if self.rigorous else []
        return f"Bounds({', '.join([*about, *proven, str(self.dtype), str(self.device)])})"

    def _numbers(self) -> list[str]:
        """How many signs are known and how wide the bounds are, where that is cheap."""
        if not 0 < self.lower.numel() <= _COUNTED:
            return []
        with suppress(RuntimeError), torch.no_grad():  # tensors without numbers, as on the device "meta"
            known, width = int(self.sign().count_nonzero()), self.width
            least, most = float(width.min()), float(width.max())
            widths = f"width {least:.3g}" if least == most else f"widths {least:.3g} to {most:.3g}"
            return [f"{known} of {width.numel()} signs known", widths]
        return []

    def _repr_html_(self) -> str:
        """The first rows and inputs of the first region, for notebooks."""
        from .held.tables import corner, for_notebooks

        whole = self._whole()
        rows, inputs = corner(tuple(whole.shape))
        lower, upper = whole[:1, :rows, :inputs].to_numpy()
        flat = (len(lower) * rows, inputs)
        return for_notebooks(lower.reshape(flat), upper.reshape(flat), repr(self))

    @property
    def shape(self) -> torch.Size:
        """That of each of the two tensors."""
        return self.lower.shape

    @property
    def dtype(self) -> torch.dtype:
        """The number type of the two tensors."""
        return self.lower.dtype

    @property
    def device(self) -> torch.device:
        """Where the two tensors are."""
        return self.lower.device

    @property
    def width(self) -> Tensor:
        """``upper - lower``, shape (b, k, *input_shape)."""
        return self.upper - self.lower

    @property
    def midpoint(self) -> Tensor:
        """``(lower + upper) / 2``, shape (b, k, *input_shape)."""
        return self.lower / 2 + self.upper / 2

    @property
    def radius(self) -> Tensor:
        """How far the bounds are from `midpoint`, as computed, shape (b, k, *input_shape)."""
        middle = self.midpoint
        return torch.maximum(self.upper - middle, middle - self.lower)

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

    def within(self, other: Bounds, slack: float = 0.0) -> bool:
        """Whether these are nowhere wider: ``other.lower - slack <= lower`` and ``upper <= other.upper + slack``.

        Args:
            other: bounds of the same shape.
            slack: an absolute tolerance.

        Raises:
            InputError: the shapes or devices differ.
        """
        mine, others = self._beside(other)
        return bool(((others.lower - slack <= mine.lower) & (mine.upper <= others.upper + slack)).all())

    def intersection(self, other: Bounds) -> Bounds:
        """``max(lower, lower') <= J <= min(upper, upper')``, by two methods or in two orders.

        Bounds that are not proven may cross by rounding where they meet; what lies between them is kept.

        Args:
            other: bounds of the same Jacobian over the same regions, of the same shape.

        Returns:
            Of the wider of the two number types, proven if both are.

        Raises:
            InputError: the shapes or devices differ, or nothing lies between both.
        """
        mine, others = self._beside(other)
        lower, upper = torch.maximum(mine.lower, others.lower), torch.minimum(mine.upper, others.upper)
        rigorous = self.rigorous and other.rigorous
        size = torch.maximum(lower.abs(), upper.abs())
        room = 0.0 if rigorous or not size.numel() else CONTRADICTION * size.where(size.isfinite(), 0.0).amax()
        crossing = (lower - upper > room).nonzero()
        if len(crossing):
            place = tuple(crossing[0].tolist())
            raise InputError(
                f"The bounds contradict each other: at entry {place} one says {float(lower[place]):.6g} at least, the "
                f"other {float(upper[place]):.6g} at most. Are they of one network, the same rows and regions?"
            )
        methods = self.methods if self.methods == other.methods else ()
        if len(self.methods) == len(other.methods):
            methods = tuple(a if a == b else f"{a} and {b}" for a, b in zip(self.methods, other.methods))
        return Bounds(torch.minimum(lower, upper), torch.maximum(lower, upper), rigorous, methods, self.axes)

    def equal(self, other: Bounds) -> bool:
        """Whether both tensors have the same shape and numbers; False for what is no bounds."""
        return (
            isinstance(other, Bounds) and torch.equal(self.lower, other.lower) and torch.equal(self.upper, other.upper)
        )

    def allclose(self, other: Bounds, rtol: float = 1e-5, atol: float = 1e-8) -> bool:
        """Whether both tensors are as close as `torch.allclose` wants it.

        Args:
            other: bounds of the same shape.
            rtol: relative tolerance.
            atol: absolute tolerance.

        Raises:
            InputError: the shapes or devices differ.
        """
        mine, others = self._beside(other)
        return all(torch.allclose(a, b, rtol=rtol, atol=atol) for a, b in zip(mine, others))

    def _beside(self, other: Bounds) -> tuple[Bounds, Bounds]:
        """Both in the wider number type, after their shapes and devices have been compared."""
        if not isinstance(other, Bounds) or other.shape != self.shape or other.device != self.device:
            came = f"{tuple(other.shape)} on {other.device}" if isinstance(other, Bounds) else type(other).__name__
            raise InputError(f"`other` must be bounds of shape {tuple(self.shape)} on {self.device}, got {came}.")
        dtype = torch.promote_types(self.dtype, other.dtype)
        return self.to(dtype), other.to(dtype)

    def to(self, *args: Any, **options: Any) -> Bounds:
        """On another device or in another number type, as `torch.Tensor.to` takes it.

        In a narrower type the lower bounds are rounded down and the upper ones up, so that they go on to hold.

        Raises:
            InputError: the type is not one of floating-point numbers, or one of 8 bits.
        """
        lower, upper = (end.to(*args, **options) for end in self)
        if not lower.is_floating_point():
            raise InputError(f"Bounds must have a floating-point type, got {lower.dtype}.")
        if lower.dtype != self.dtype and torch.finfo(lower.dtype).bits < 16:
            raise InputError(f"Bounds must have a type of at least 16 bits, got {lower.dtype}.")
        if lower.dtype != torch.promote_types(lower.dtype, self.dtype):
            lower, upper = rounded_outward((self.lower.to(lower.device), self.upper.to(lower.device)), lower.dtype)
        return replace(self, lower=lower, upper=upper)

    def cpu(self) -> Bounds:
        """In main memory."""
        return self.to("cpu")

    def float(self) -> Bounds:
        """In float32, rounded outward."""
        return self.to(torch.float32)

    def double(self) -> Bounds:
        """In float64."""
        return self.to(torch.float64)

    def detach(self) -> Bounds:
        """Without the history that gradients need."""
        return replace(self, lower=self.lower.detach(), upper=self.upper.detach())

    def sign(self) -> Tensor:
        """The strict sign of the Jacobian over the region: +1 if ``lower > 0``, -1 if ``upper < 0``, 0 otherwise.

        `monotonicity`, which needs no strict signs, also says +1 for ``lower = 0`` and -1 for ``upper = 0``.

        Returns:
            int8, shape (b, k, *input_shape).
        """
        return (self.lower > 0).to(torch.int8) - (self.upper < 0).to(torch.int8)

    def to_numpy(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds as arrays, without gradients, copied from the device they are on.

        Numpy has no bfloat16; such bounds become float32, which has all of their numbers.
        """
        held = self.float() if self.dtype == torch.bfloat16 else self
        return held.lower.detach().cpu().numpy(), held.upper.detach().cpu().numpy()

    def to_dataframe(self, *, rows: Sequence[str] | None = None, inputs: Sequence[str] | None = None) -> pd.DataFrame:
        """A table of pandas with one line for each entry: region, row, input, lower, upper, sign.

        Args:
            rows: names of the rows; None numbers them from 0.
            inputs: names of the flattened input coordinates; None numbers them from 0.

        Raises:
            InputError: there are more or fewer names than rows or inputs.
            ExtraError: pandas is not installed.
        """
        from .held.tables import long_form

        return long_form(*self._whole().to_numpy(), rows, inputs)

    def to_latex(
        self,
        sample: int = 0,
        *,
        digits: int = 3,
        rows: Sequence[str] | None = None,
        inputs: Sequence[str] | None = None,
    ) -> str:
        """A `tabular` of one region's intervals, rows by inputs; what is written is rounded outward, so that it holds.

        Args:
            sample: the region.
            digits: significant digits of each end.
            rows: names of the rows; None numbers them from 0.
            inputs: names of the flattened input coordinates; None numbers them from 0.

        Raises:
            InputError: there is no such region, too many entries to read, or names that do not fit.
        """
        from .held.tables import for_papers

        whole = self._whole()
        _require_place("sample", sample, len(whole))
        return for_papers(*whole[sample].to_numpy(), rows, inputs, digits)

    def plot(
        self,
        row: int | None = None,
        sample: int = 0,
        path: str | os.PathLike[str] | None = None,
        *,
        image_shape: tuple[int, ...] | None = None,
        title: str | None = None,
        rows: Sequence[str] | None = None,
        inputs: Sequence[str] | None = None,
    ) -> Figure:
        """Draw one region: a row over an image, a row over a vector as bars, or all rows as a heat map.

        An image has lower and upper bounds and the sign beside each other, a line of panels per channel; a bar has its
        interval over it.

        Args:
            row: output, or row of C; None is the first one over an image, and all of them over a vector.
            sample: the region.
            path: where to save the picture; its ending says the format (.png, .pdf, .svg).
            image_shape: (h, w) or (c, h, w), for inputs that are images in another shape; None takes input_shape, which
                is that of an image if it has two or three axes, of more than a line.
            title: shown above the panels; None says which row and region.
            rows: names of the rows, for heat maps; None numbers them.
            inputs: names of the flattened input coordinates, for bars and heat maps; None numbers them.

        Returns:
            The figure, made without pyplot: nothing has to be closed.

        Raises:
            FileError: the picture cannot be written, see `path`.
            InputError: there is no such row or sample, `image_shape` or names do not fit, or bounds are not finite.
        """
        from recurjac_plugin.plots.figures import save

        from .held.drawing import drawn

        input_shape = tuple(self.shape[len(self.axes) :])
        whole = self._whole()
        _require_place("sample", sample, len(whole))
        if row is not None:
            _require_place("row", row, whole.shape[1])
        figure = drawn(whole[sample].to_numpy(), input_shape, (row, sample), image_shape, title, (rows, inputs))
        if path is not None:
            save(figure, path)
        return figure

    def _whole(self) -> Bounds:
        """All three axes, (b, k, columns): one of length 1 where an index took it away, the inputs flattened."""
        leading = dict(zip(self.axes, self.shape, strict=False))
        shape = (*(leading.get(axis, 1) for axis in AXES), math.prod(self.shape[len(leading) :]))
        return Bounds(self.lower.reshape(shape), self.upper.reshape(shape), self.rigorous, self.methods)


def _require_place(name: str, value: int, count: int) -> None:
    try:
        inside = not isinstance(value, bool) and -count <= operator.index(value) < count
    except TypeError:  # no whole number
        inside = False
    if not inside:
        raise InputError(f"`{name}` must be from 0 to {count - 1} for these bounds, got {value!r}.")
