"""Comparisons as numbers, where what is computed from them is a number.

========================  ==============================
``x > y``                 ``relu(sign(x - y))``
``x >= y``                ``1 - relu(sign(y - x))``
``x == y``                ``relu((x >= y) + (y >= x) - 1)``
``a and b``               ``relu(a + b - 1)``
``a or b``                ``1 - relu(1 - a - b)``
``not a``                 ``1 - a``
``a xor b``               ``a + b - 2 relu(a + b - 1)``
``where(m, x, y)``        ``y + m (x - y)``
``heaviside(x, v)``       ``(x > 0) + v (x == 0)``
``hardshrink(x)``         ``x (|x| > a)``
``threshold(x)``          ``where(x > a, x, b)``
========================  ==============================

A difference is 0 in floating point if and only if both numbers are equal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from recurjac_plugin.forms.marks import depends, holds, origin


def _above(x: Any, y: Any) -> Tensor:
    return functional.relu(torch.sign(x - y))


def _both(a: Tensor, b: Tensor) -> Tensor:
    return functional.relu(a + b - 1)


def _equal(x: Any, y: Any) -> Tensor:
    return _both(1 - _above(y, x), 1 - _above(x, y))


_COMPARISONS: dict[str, Callable[[Any, Any], Tensor]] = {
    "gt": _above,
    "lt": lambda x, y: _above(y, x),
    "ge": lambda x, y: 1 - _above(y, x),
    "le": lambda x, y: 1 - _above(x, y),
    **dict.fromkeys(("eq", "__eq__"), _equal),
    **dict.fromkeys(("ne", "__ne__"), lambda x, y: 1 - _equal(x, y)),
}
_NOT = ("logical_not", "bitwise_not", "__invert__")
_OF_TWO: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    **dict.fromkeys(("logical_and", "bitwise_and", "__and__", "__rand__"), _both),
    **dict.fromkeys(("logical_or", "bitwise_or", "__or__", "__ror__"), lambda a, b: 1 - functional.relu(1 - a - b)),
    **dict.fromkeys(("logical_xor", "bitwise_xor", "__xor__", "__rxor__"), lambda a, b: a + b - 2 * _both(a, b)),
}
TRUTHS = (*_COMPARISONS, *_NOT, *_OF_TWO)
"""Functions whose results are noted, to be written as numbers if need be."""


def truth(value: Any, dtype: torch.dtype) -> Any:
    """A truth value that depends on the module's inputs as a number 0 or 1; None if it is something else.

    Args:
        value: what a function of `TRUTHS` gave.
        dtype: type of the number.
    """
    if not isinstance(value, Tensor):
        return None
    if not depends(value):
        return value.to(dtype) if value.dtype == torch.bool else None
    name, arguments = origin(value)
    if name in _COMPARISONS:
        tensors = [each for each in arguments if isinstance(each, Tensor)]
        if not all(each.is_floating_point() for each in tensors) or len(arguments) != 2:
            return None
        number = _COMPARISONS[name](*arguments)
        return number if number.dtype == dtype else number.to(dtype)  # a cast is an operator, also to the same type
    parts = [truth(each, dtype) for each in arguments]
    if not parts or any(part is None for part in parts):
        return None
    return 1 - parts[0] if name in _NOT else _OF_TWO[name](*parts) if name in _OF_TWO else None


def is_truth(value: Any) -> bool:
    """Whether a value is true or false, by the module's inputs."""
    return isinstance(value, Tensor) and value.dtype == torch.bool and depends(value) and origin(value)[0] in TRUTHS


def _finite(value: Any) -> bool:
    return depends(value) or holds(lambda: torch.as_tensor(value).isfinite().all())


def chosen(condition: Any, input: Any, other: Any) -> Any:
    """``where(m, x, y)`` by a condition that depends on the module's inputs."""
    given = [value for value in (input, other) if isinstance(value, Tensor) and value.is_floating_point()]
    if not given or not is_truth(condition) or not (_finite(input) and _finite(other)):
        return NotImplemented
    share = truth(condition, given[0].dtype)
    return NotImplemented if share is None else other + share * (input - other)


def as_number(value: Any, dtype: Any) -> Any:
    """A truth value in a floating-point type."""
    if not is_truth(value) or not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        return NotImplemented
    number = truth(value, dtype)
    return NotImplemented if number is None else number


def _to(input: Any, *args: Any, **kwargs: Any) -> Any:
    given = [*args, *kwargs.values()]
    types = [each.dtype if isinstance(each, Tensor) else each for each in given]
    return as_number(input, next((each for each in types if isinstance(each, torch.dtype)), None))


def masked(input: Any, other: Any) -> Any:
    """``x m``, one of them a truth value."""
    for x, mask in ((input, other), (other, input)):
        if is_truth(mask) and isinstance(x, Tensor) and x.is_floating_point():
            number = truth(mask, x.dtype)
            return NotImplemented if number is None else x * number
    return NotImplemented


def _heaviside(input: Tensor, values: Tensor) -> Any:
    if depends(values):
        return NotImplemented
    return _above(input, 0) + values * _equal(input, 0)


def _hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    return input * (_above(input, lambd) + _above(-lambd, input))


def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """``where(x > a, x, b)`` with a jump at a."""
    return value + _above(input, threshold) * (input - value)


FORMS: dict[str, Callable[..., Any]] = {
    "to": _to,
    "type": _to,
    "type_as": _to,
    "float": lambda input: as_number(input, torch.float32),
    "double": lambda input: as_number(input, torch.float64),
    "heaviside": _heaviside,
    "hardshrink": _hardshrink,
}
"""Name -> form."""
