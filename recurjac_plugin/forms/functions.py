"""Functions of single numbers: roots, shrinking, masks and comparisons.

=====================  ==========================================================
``x / sqrt(y)``        ``x * y^(-1/2)``: the host takes a quotient by a root for layer norm
``1 / sqrt(y)``        ``y^(-1/2)``
``clamp(x, min=a)``    ``hardtanh(x, a, largest number)``, and likewise from above
``softshrink(x)``      ``relu(x - a) - relu(-x - a)``
``x * (x > 0)``        ``relu(x)``
``where(x > 0, ...)``  a leaky ReLU or an ELU, if it is one
``where(m, x, y)``     ``m x + (1 - m) y`` for a mask m that is known
``atan2(x, y)``        ``2 arctan(x / (|(x, y)| + y))``, everywhere but at the jump
``sinh, cosh``         ``(e^x -+ e^-x) / 2``
``hypot(x, y)``        ``(x^2 + y^2)^(1/2)``
=====================  ==========================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .discrete.rounding import divided
from .discrete.truths import chosen as choice
from .discrete.truths import is_truth, masked
from .discrete.truths import threshold as jumping
from .marks import depends, holds, origin, untraced


def _rsqrt(input: Tensor) -> Tensor:
    return input**-0.5


def _div(input: Any, other: Any, *, rounding_mode: Any = None) -> Any:
    if rounding_mode is not None:
        return divided(input, other, rounding_mode)
    name, arguments = origin(other)
    if name != "sqrt":
        return NotImplemented
    return input * arguments[0] ** -0.5


def _pow(input: Any, exponent: Any) -> Any:
    """A power of a length, as in ``d ** -0.5``: a number, where the exporter would compute one in float32."""
    if not isinstance(input, Tensor) or input.dim() or input.is_floating_point() or not isinstance(exponent, float):
        return NotImplemented
    with untraced():
        return float(input) ** exponent


def _reciprocal(input: Tensor) -> Any:
    name, arguments = origin(input)
    return arguments[0] ** -0.5 if name == "sqrt" else NotImplemented


def _clamp(input: Tensor, min: Any = None, max: Any = None) -> Any:
    if isinstance(min, Tensor) or isinstance(max, Tensor):
        above = input if min is None else torch.maximum(input, torch.as_tensor(min).to(input))
        return above if max is None else torch.minimum(above, torch.as_tensor(max).to(input))
    if (min is None) == (max is None):
        return NotImplemented
    largest = torch.finfo(input.dtype).max
    return functional.hardtanh(input, -largest if min is None else min, largest if max is None else max)


def _clamp_min(input: Tensor, min: Any) -> Any:
    return _clamp(input, min=min)


def _clamp_max(input: Tensor, max: Any) -> Any:
    return _clamp(input, max=max)


def _softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    return functional.relu(input - lambd) - functional.relu(-input - lambd)


def _threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Any:
    if threshold != value:
        return jumping(input, threshold, value)
    return functional.relu(input - threshold) + threshold


def _prelu(input: Tensor, weight: Tensor) -> Any:
    """``w x + (1 - w) relu(x)``, over images, where the host cannot align the slopes."""
    if input.dim() < 3:
        return NotImplemented
    slope = weight.reshape(1, -1, *(1,) * (input.dim() - 2))
    return slope * input + (1 - slope) * functional.relu(input)


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """Nothing in evaluation, where the host would have it traced in training."""
    return NotImplemented if training else input


def _expm1(input: Tensor) -> Tensor:
    return torch.exp(input) - 1


def _sinh(input: Tensor) -> Tensor:
    return 0.5 * (torch.exp(input) - torch.exp(-input))


def _cosh(input: Tensor) -> Tensor:
    return 0.5 * (torch.exp(input) + torch.exp(-input))


def _log1p(input: Tensor) -> Tensor:
    return torch.log(input + 1)


def _erfc(input: Tensor) -> Tensor:
    return 1 - torch.erf(input)


def _logit(input: Tensor, eps: float | None = None) -> Any:
    return NotImplemented if eps is not None else torch.log(input) - torch.log(1 - input)


def _hypot(input: Tensor, other: Tensor) -> Tensor:
    return (input**2 + other**2) ** 0.5


def _atan2(input: Tensor, other: Tensor) -> Tensor:
    # The divisor is 0 at the jump alone, and bounds of a quotient refuse regions on which it may be.
    return 2 * torch.atan(input / (_hypot(input, other) + other))


def _finite(value: Any) -> bool:
    return holds(lambda: torch.as_tensor(value).isfinite().all())


def _masked_fill(input: Tensor, mask: Tensor, value: Any) -> Any:
    if is_truth(mask):
        return choice(mask, value, input)
    if depends(mask) or depends(value) or not _finite(value):
        return NotImplemented
    kept = (~mask).to(input.dtype)
    return input * kept + value * mask.to(input.dtype)


def _where(condition: Tensor, input: Any, other: Any) -> Any:
    if depends(condition):
        slopes = _two_slopes(condition, input, other)
        return choice(condition, input, other) if slopes is NotImplemented else slopes
    values = [value for value in (input, other) if isinstance(value, Tensor)]
    constants = [value for value in (input, other) if not depends(value)]
    if not values or not all(map(_finite, constants)):
        return NotImplemented
    chosen = condition.to(values[0].dtype)
    return input * chosen + other * (1 - chosen)


def _two_slopes(condition: Tensor, input: Any, other: Any) -> Any:
    """``where(x > 0, a x, b x)``, and ``where(x > 0, a x, b (exp(x) - 1))``, with numbers a and b."""
    comparison, arguments = origin(condition)
    if comparison not in ("gt", "ge", "lt", "le") or not _is_zero(arguments[1]):
        return NotImplemented
    x = arguments[0]
    above, below = (input, other) if comparison in ("gt", "ge") else (other, input)
    slopes = _slope(above, x), _slope(below, x)
    if slopes[0] is None:
        return NotImplemented
    if slopes[1] is None:
        scale = _exponential(below, x)
        if scale is None or slopes[0] <= 0 or scale <= 0:
            return NotImplemented
        value = functional.elu(x, scale / slopes[0])
        return value if slopes[0] == 1 else slopes[0] * value
    return slopes[1] * x + (slopes[0] - slopes[1]) * functional.relu(x)


def _is_zero(value: Any) -> bool:
    return not isinstance(value, Tensor) and value == 0


def _slope(value: Any, x: Tensor) -> float | None:
    """The number a with ``value = a x``, where that can be seen."""
    if value is x:
        return 1.0
    if not isinstance(value, Tensor):
        return 0.0 if value == 0 else None
    if not depends(value):
        return 0.0 if not holds(lambda: value.any()) else None
    name, arguments = origin(value)
    if name == "mul":
        for number, factor in (arguments, arguments[::-1]):
            if factor is x and isinstance(number, (int, float)) and math.isfinite(number):
                return float(number)
    return None


def _exponential(value: Any, x: Tensor) -> float | None:
    """The number a with ``value = a (exp(x) - 1)``, where that can be seen."""
    name, arguments = origin(value)
    if name == "expm1" and arguments[0] is x:
        return 1.0
    if name == "sub" and len(arguments) == 2 and not isinstance(arguments[1], Tensor) and arguments[1] == 1:
        inner, of = origin(arguments[0])
        return 1.0 if inner == "exp" and of[0] is x else None
    if name == "mul":
        for number, factor in (arguments, arguments[::-1]):
            if isinstance(number, (int, float)) and (inside := _exponential(factor, x)) is not None:
                return float(number) * inside
    return None


def _mul(input: Any, other: Any) -> Any:
    """``x * (x > 0)``."""
    for x, mask in ((input, other), (other, input)):
        comparison, arguments = origin(mask)
        if comparison in ("gt", "ge", "lt", "le") and arguments[0] is x and _is_zero(arguments[1]):
            return functional.relu(x) if comparison in ("gt", "ge") else -functional.relu(-x)
    return masked(input, other)


FORMS: dict[str, Callable[..., Any]] = {
    "rsqrt": _rsqrt,
    "div": _div,
    "true_divide": _div,
    "divide": _div,
    "pow": _pow,
    "reciprocal": _reciprocal,
    "__rdiv__": lambda input, other: other * _reciprocal(input) if origin(input)[0] == "sqrt" else NotImplemented,
    "clamp": _clamp,
    "clip": _clamp,
    "clamp_min": _clamp_min,
    "clamp_max": _clamp_max,
    "softshrink": _softshrink,
    "threshold": _threshold,
    "_threshold": _threshold,
    "prelu": _prelu,
    **dict.fromkeys(["dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"], _dropout),
    "expm1": _expm1,
    "sinh": _sinh,
    "cosh": _cosh,
    "log1p": _log1p,
    "erfc": _erfc,
    "logit": _logit,
    "hypot": _hypot,
    "atan2": _atan2,
    "arctan2": _atan2,
    "masked_fill": _masked_fill,
    "where": _where,
    "mul": _mul,
}
"""Name -> form."""
