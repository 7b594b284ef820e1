"""Whole numbers: parts of numbers, and the position of the largest.

============================  =====================================================
``trunc(x)``                  ``floor(relu(x)) - floor(relu(-x))``
``frac(x)``                   ``x - trunc(x)``
``fmod(x, y)``                ``x - y trunc(x / y)``
``div(x, y, 'floor')``        ``floor(x / y)``, and likewise with trunc
``argmax(x)``                 the sum over k of ``max(x_k, ...) > max(x_0, ..., x_{k-1})``
============================  =====================================================

The position of the largest number, the first of several, is at least k if one behind the first k is larger than all of
these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from recurjac_plugin.forms.marks import depends, shape_of

_MOST = 64  # numbers of which the largest is looked for: two maxima for each


def _trunc(input: Tensor) -> Tensor:
    return torch.floor(functional.relu(input)) - torch.floor(functional.relu(-input))


def _frac(input: Tensor) -> Tensor:
    return input - _trunc(input)


def _fmod(input: Tensor, other: Any) -> Any:
    return NotImplemented if depends(other) else input - other * _trunc(input / other)


def divided(input: Any, other: Any, rounding_mode: str) -> Any:
    """``x / y`` rounded to a whole number."""
    if not isinstance(input, Tensor) or not input.is_floating_point():
        return NotImplemented
    return torch.floor(input / other) if rounding_mode == "floor" else _trunc(input / other)


def _argmax(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    if dim is None or dim % input.dim() == 0 or not input.is_floating_point():
        return NotImplemented
    count = shape_of(input)[dim]
    if not 1 < count <= _MOST:
        return NotImplemented
    total = None
    for k in range(1, count):
        before = input.narrow(dim, 0, k).amax(dim, keepdim=keepdim)
        behind = input.narrow(dim, k, count - k).amax(dim, keepdim=keepdim)
        later = functional.relu(torch.sign(behind - before))
        total = later if total is None else total + later
    return total


def _argmin(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    return _argmax(-input, dim, keepdim)


FORMS: dict[str, Callable[..., Any]] = {
    "trunc": _trunc,
    "fix": _trunc,
    "frac": _frac,
    "fmod": _fmod,
    "argmax": _argmax,
    "argmin": _argmin,
}
"""Name -> form."""
