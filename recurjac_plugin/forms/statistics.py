r"""Norms, variances, running sums, products and sums of exponentials along axes, and normalisation by them.

.. math:: \|x\|_p = (\sum |x_i|^p)^{1/p}, \quad
    \mathrm{var}(x) = \frac{1}{n - c} \sum (x_i - \bar x)^2, \quad
    \log\mathrm{softmax}(x) = x - \log \sum e^{x_i}

A running sum is a product with a triangular matrix of ones. Layer, group, instance and root-mean-square normalisation,
and that over neighbouring channels, are

.. math:: (x - \bar x) \, (\mathrm{var}(x) + \varepsilon)^{-1/2} \, \gamma + \beta

over the axes of each, with a power in place of a quotient by a root: one function for bounds.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .marks import origin, shape_of, untraced
from .rearranging import _unbind


def axes(input: Tensor, dim: Any) -> tuple[int, ...]:
    """Axes as numbers from 0 on; all of them for None."""
    if dim is None or (isinstance(dim, (tuple, list)) and not dim):
        return tuple(range(input.dim()))
    several: Sequence[int] = dim if isinstance(dim, (tuple, list)) else [dim]
    return tuple(int(each) % input.dim() for each in several)


def _norm(input: Tensor, p: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None, out: Any = None) -> Any:
    p = 2 if p in ("fro", None) else p
    if dtype is not None or out is not None or not isinstance(p, (int, float)):
        return NotImplemented
    over = axes(input, dim)
    if p == 1:
        return input.abs().sum(over, keepdim)
    if p == math.inf:
        return input.abs().amax(over, keepdim)
    if p == -math.inf:
        return input.abs().amin(over, keepdim)
    if p == 2:
        return torch.sqrt((input**2).sum(over, keepdim))
    return (input.abs() ** p).sum(over, keepdim) ** (1 / p) if p > 1 else NotImplemented


def _vector_norm(x: Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    return _norm(x, ord, dim, keepdim, dtype)


def _normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Any = None) -> Any:
    length = _norm(input, p, dim, True)
    return NotImplemented if length is NotImplemented else input / torch.clamp(length, min=eps)


def _variance(input: Tensor, dim: Any, correction: float, keepdim: bool) -> Tensor:
    over = axes(input, dim)
    count = math.prod(shape_of(input)[axis] for axis in over)
    centred = input - input.mean(over, keepdim=True)
    return (centred**2).sum(over, keepdim) * (1 / (count - correction))


def _given(dim: Any, unbiased: Any, correction: Any) -> tuple[Any, float]:
    """The axes and the correction, in any of the ways in which torch takes them."""
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    if correction is not None:
        return dim, float(correction)
    return dim, 0.0 if unbiased is False else 1.0


def _var(input: Tensor, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = None) -> Any:
    dim, correction = _given(dim, unbiased, correction)
    return _variance(input, dim, correction, keepdim)


def _std(input: Tensor, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = None) -> Any:
    return torch.sqrt(_var(input, dim, unbiased, keepdim, correction=correction))


def _var_mean(
    input: Tensor, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = None
) -> Any:
    over = axes(input, _given(dim, unbiased, correction)[0])
    return _var(input, dim, unbiased, keepdim, correction=correction), input.mean(over, keepdim)


def _std_mean(
    input: Tensor, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = None
) -> Any:
    variance, mean = _var_mean(input, dim, unbiased, keepdim, correction=correction)
    return torch.sqrt(variance), mean


def _log_softmax(input: Tensor, dim: Any = None, _stacklevel: int = 3, dtype: Any = None) -> Any:
    if dim is None or dtype is not None:
        return NotImplemented
    return input - torch.logsumexp(input, dim, True)


def _logaddexp(input: Tensor, other: Tensor) -> Tensor:
    return other + torch.nn.functional.softplus(input - other)


def _cumsum(input: Tensor, dim: int, *, dtype: Any = None) -> Any:
    axis = dim % input.dim()
    if dtype is not None or axis == 0:
        return NotImplemented
    size = shape_of(input)[axis]
    with untraced():
        ones = torch.triu(torch.ones(size, size, dtype=input.dtype, device=input.device))
    if axis == input.dim() - 1:
        return torch.matmul(input, ones)
    return torch.matmul(input.transpose(axis, -1), ones).transpose(axis, -1)


def _prod(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    if dim is None or dtype is not None or dim % input.dim() == 0:
        return NotImplemented
    factors = list(_unbind(input, dim))
    while len(factors) > 1:
        pairs = [a * b for a, b in zip(factors[::2], factors[1::2])]
        factors = [*pairs, *factors[2 * len(pairs) :]]
    return factors[0].unsqueeze(dim) if keepdim else factors[0]


def _stacked(combine: Callable[[Any, Any], Any], divided: bool) -> Callable[..., Any]:
    """A sum, mean or extreme over the members of a stack in front of the batch."""

    def form(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
        name, arguments = origin(input)
        if name != "stack" or dtype is not None or isinstance(dim, bool) or dim is None or axes(input, dim) != (0,):
            return NotImplemented
        members, *rest = arguments
        if (rest and rest[0] % input.dim() != 0) or keepdim:
            return NotImplemented
        value = functools.reduce(combine, members)
        return value * (1 / len(members)) if divided else value

    return form


def _scaled(value: Tensor, weight: Tensor | None, bias: Tensor | None, axis: int) -> Tensor:
    """Times a weight and plus a bias, given along one axis."""
    for constant, operator in ((weight, torch.mul), (bias, torch.add)):
        if constant is not None:
            value = operator(value, constant.reshape(1, -1, *(1,) * (value.dim() - axis - 1)))
    return value


def _standardised(value: Tensor, over: tuple[int, ...], eps: float) -> Tensor:
    centred = value - value.mean(over, keepdim=True)
    return centred * ((centred**2).mean(over, keepdim=True) + eps) ** -0.5


def _group_norm(
    input: Tensor, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *rest: Any
) -> Any:
    shape = shape_of(input)
    grouped = input.reshape(-1, num_groups, math.prod(shape[1:]) // num_groups)
    return _scaled(_standardised(grouped, (2,), eps).reshape(-1, *shape[1:]), weight, bias, 1)


def _instance_norm(
    input: Tensor,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if not use_input_stats or input.dim() < 3:
        return NotImplemented
    return _scaled(_standardised(input, tuple(range(2, input.dim())), eps), weight, bias, 1)


def _rms_norm(input: Tensor, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Tensor:
    over = tuple(range(input.dim() - len(normalized_shape), input.dim()))
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    value = input * ((input**2).mean(over, keepdim=True) + eps) ** -0.5
    return value if weight is None else value * weight


def _local_response_norm(input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Any:
    _, count, *places = shape_of(input)
    square = input**2
    share = [[float(0 <= j - i + size // 2 < size) / size for j in range(count)] for i in range(count)]
    with untraced():
        near = torch.tensor(share, dtype=input.dtype, device=input.device)
    mean = torch.matmul(near, square.reshape(-1, count, math.prod(places))).reshape(-1, count, *places)
    return input * (k + alpha * mean) ** -beta


def _layer_norm(
    input: Tensor, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, *rest: Any
) -> Tensor:
    value = _standardised(input, tuple(range(input.dim() - len(normalized_shape), input.dim())), eps)
    value = value if weight is None else value * weight
    return value if bias is None else value + bias


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    over = tuple(axis for axis in range(v.dim()) if dim == -1 or axis != dim % v.dim())
    return v * (g / torch.sqrt((v * v).sum(over, keepdim=True)))


FORMS: dict[str, Callable[..., Any]] = {
    "norm": _norm,
    "linalg_norm": lambda A, ord=None, dim=None, keepdim=False: (
        _norm(A, 2 if ord is None else ord, dim, keepdim)
        if ord is None or isinstance(dim, int) or A.dim() == 1
        else NotImplemented
    ),
    "linalg_vector_norm": _vector_norm,
    "normalize": _normalize,
    "var": _var,
    "std": _std,
    "var_mean": _var_mean,
    "std_mean": _std_mean,
    "log_softmax": _log_softmax,
    "sum": _stacked(torch.add, False),
    "mean": _stacked(torch.add, True),
    "amax": _stacked(torch.maximum, False),
    "amin": _stacked(torch.minimum, False),
    "logaddexp": _logaddexp,
    "cumsum": _cumsum,
    "prod": _prod,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "layer_norm": _layer_norm,
    "_weight_norm": _weight_norm,
    "rms_norm": _rms_norm,
    "local_response_norm": _local_response_norm,
}
"""Name -> form."""
