r"""Padding, resizing and pooling, one axis after the other.

Averages and interpolations are linear, and the same for every line of an axis: products with one small matrix an axis,
which torch's own function gives at the unit vectors. A maximum over windows is one over the windows of every axis in
turn, of which places beyond the edge are no part.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from recurjac_plugin.forms.marks import shape_of, untraced
from recurjac_plugin.forms.rearranging import selected


def several(value: Any, count: int) -> list[Any]:
    """One value for every axis."""
    return list(value) if isinstance(value, (tuple, list)) else [value] * count


def times_matrix(input: Tensor, axis: int, matrix: Tensor) -> Tensor:
    """Every line of an axis times a matrix (size, new size); the last two axes need no transposition."""
    if axis % input.dim() == input.dim() - 1:
        return torch.matmul(input, matrix)
    if axis % input.dim() == input.dim() - 2:
        with untraced():
            matrix = matrix.T.contiguous()
        return torch.matmul(matrix, input)
    return torch.matmul(input.transpose(axis, -1), matrix).transpose(axis, -1)


def _of_lines(input: Tensor, function: Callable[[Tensor], Tensor], axis: int) -> Tensor:
    """A linear function of lines (n, 1, size) -> (n, 1, new size) along one axis."""
    size = shape_of(input)[axis]
    with untraced(), torch.no_grad():
        matrix = function(torch.eye(size, dtype=input.dtype, device=input.device).unsqueeze(1)).squeeze(1)
        matrix = matrix.clone()
    return times_matrix(input, axis, matrix)


# --- padding --------------------------------------------------------------------------------------------------------


def _pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: Any = None) -> Any:
    if mode == "constant":
        return NotImplemented
    for i in range(len(pad) // 2):
        before, after = int(pad[2 * i]), int(pad[2 * i + 1])
        axis = input.dim() - 1 - i
        length = shape_of(input)[axis]
        with untraced():
            numbers = torch.arange(float(length)).reshape(1, 1, -1)
            places = functional.pad(numbers, (before, after), mode).flatten().long().tolist()
        input = selected(input, axis, places)
    return input


# --- resizing -------------------------------------------------------------------------------------------------------


def _interpolate(
    input: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: Any = None,
    recompute_scale_factor: Any = None, antialias: bool = False,
) -> Any:  # fmt: skip
    count = input.dim() - 2
    if antialias:
        return NotImplemented
    sizes, factors = several(size, count), several(scale_factor, count)
    for i in range(count):

        def resized(lines: Tensor, i: int = i) -> Tensor:
            flat = lines.unsqueeze(2)  # (n, 1, 1, size): all modes know images
            to = None if sizes[i] is None else (1, int(sizes[i]))
            by = None if factors[i] is None else (1.0, float(factors[i]))
            kind = {"linear": "bilinear", "trilinear": "bilinear"}.get(mode, mode)
            return functional.interpolate(flat, to, by, kind, align_corners, recompute_scale_factor).squeeze(2)

        if mode in ("nearest", "nearest-exact"):
            length = shape_of(input)[2 + i]
            with untraced():
                numbers = torch.arange(float(length)).reshape(1, 1, -1)
                places = resized(numbers).flatten().long().tolist()
            input = selected(input, 2 + i, places)
        else:
            input = _of_lines(input, resized, 2 + i)
    return input


# --- averages -------------------------------------------------------------------------------------------------------


def _adaptive_average(count: int) -> Callable[..., Any]:
    def form(input: Tensor, output_size: Any) -> Any:
        if input.dim() != count + 2:
            return NotImplemented
        to = [shape_of(input)[2 + i] if s is None else int(s) for i, s in enumerate(several(output_size, count))]
        if all(size == 1 for size in to):
            return input.mean(tuple(range(2, count + 2)), keepdim=True)
        for i, size in enumerate(to):
            input = _of_lines(input, functools.partial(functional.adaptive_avg_pool1d, output_size=size), 2 + i)
        return input

    return form


def _average(count: int) -> Callable[..., Any]:
    def form(
        input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
        count_include_pad: bool = True, divisor_override: Any = None,
    ) -> Any:  # fmt: skip
        if input.dim() != count + 2:
            return NotImplemented
        kernel, pads = several(kernel_size, count), several(padding, count)
        steps = kernel if stride is None or stride == [] else several(stride, count)
        plain = not any(pads) and not ceil_mode and divisor_override is None
        if plain and count == 2:
            return NotImplemented
        for i in range(count):

            def averaged(lines: Tensor, i: int = i) -> Tensor:
                return functional.avg_pool1d(lines, kernel[i], steps[i], pads[i], ceil_mode, count_include_pad)

            if divisor_override is not None and (any(pads) or ceil_mode):
                return NotImplemented
            input = _of_lines(input, averaged, 2 + i)
        if divisor_override is not None:
            input = input * (math.prod(kernel) / divisor_override)
        return input

    return form


def _lp(count: int) -> Callable[..., Any]:
    def form(input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False) -> Any:
        if norm_type == 1:
            powers = input
        elif norm_type == 2:
            powers = input**2
        else:
            return NotImplemented
        pool = getattr(functional, f"avg_pool{count}d")
        total = pool(powers, kernel_size, stride, 0, ceil_mode) * math.prod(several(kernel_size, count))
        return functional.relu(total) if norm_type == 1 else torch.sqrt(total)

    return form


# --- maxima ---------------------------------------------------------------------------------------------------------


def _largest(input: Tensor, axis: int, windows: Sequence[Sequence[int]]) -> Tensor:
    """The largest value of each window of places along an axis; windows of one width together."""
    shape, found, order = shape_of(input), [], []
    for width in sorted({*map(len, windows)}):
        alike = [i for i, window in enumerate(windows) if len(window) == width]
        places = selected(input, axis, [place for i in alike for place in windows[i]])
        if width > 1:  # the batch has any size
            places = places.reshape(-1, *shape[1:axis], len(alike), width, *shape[axis + 1 :]).amax(axis + 1)
        found.append(places)
        order += alike
    together = torch.cat(found, axis) if len(found) > 1 else found[0]
    return together if order == sorted(order) else selected(together, axis, [order.index(i) for i in range(len(order))])


def _max(count: int) -> Callable[..., Any]:
    def form(
        input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
        ceil_mode: bool = False, return_indices: bool = False,
    ) -> Any:  # fmt: skip
        if input.dim() != count + 2 or return_indices:
            return NotImplemented
        kernel, pads, spread = (several(value, count) for value in (kernel_size, padding, dilation))
        steps = kernel if stride is None or stride == [] else several(stride, count)
        if count == 2 and not ceil_mode and all(s == 1 for s in spread):
            return NotImplemented
        for i in range(count):
            size = shape_of(input)[2 + i]
            with untraced():
                found = functional.max_pool1d(
                    torch.zeros(1, 1, size), kernel[i], steps[i], pads[i], spread[i], ceil_mode
                ).shape[2]
            starts = [n * steps[i] - pads[i] for n in range(found)]
            windows = [[s + k * spread[i] for k in range(kernel[i]) if 0 <= s + k * spread[i] < size] for s in starts]
            input = _largest(input, 2 + i, windows)
        return input

    return form


def _adaptive_max(count: int) -> Callable[..., Any]:
    def form(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
        if input.dim() != count + 2 or return_indices:
            return NotImplemented
        for i, size in enumerate(several(output_size, count)):
            length = shape_of(input)[2 + i]
            to = length if size is None else int(size)
            windows = [range(n * length // to, -(-(n + 1) * length // to)) for n in range(to)]
            input = _largest(input, 2 + i, windows)
        return input

    return form


FORMS: dict[str, Callable[..., Any]] = {
    "pad": _pad,
    "interpolate": _interpolate,
    **{f"adaptive_avg_pool{n}d": _adaptive_average(n) for n in (1, 2, 3)},
    **{f"avg_pool{n}d": _average(n) for n in (1, 2, 3)},
    **{f"lp_pool{n}d": _lp(n) for n in (1, 2, 3)},
    **{f"{prefix}max_pool{n}d": _max(n) for n in (1, 2, 3) for prefix in ("", "_")},
    **{f"adaptive_max_pool{n}d": _adaptive_max(n) for n in (1, 2, 3)},
}
"""Name -> form."""
