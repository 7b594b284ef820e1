"""Sorting as a network of comparisons, each a maximum and a minimum of two numbers.

Batcher's odd-even merge sort: about ``log(n)^2 / 2`` rounds, in each of which a number is in one comparison at most.
The positions of the sorted values are torch's own; a model that reads them is piecewise constant there, and refused.

Source: Batcher, Sorting networks and their applications, AFIPS 1968.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .marks import shape_of
from .rearranging import selected


def rounds(count: int) -> list[list[tuple[int, int]]]:
    """Comparisons, (where the smaller goes, where the larger goes), round by round; none share a place in a round."""
    found: list[list[tuple[int, int]]] = []
    block = 1
    while block < count:
        step = block
        while step >= 1:
            pairs = [
                (i + j, i + j + step)
                for j in range(step % block, count - step, 2 * step)
                for i in range(min(step, count - j - step))
                if (i + j) // (2 * block) == (i + j + step) // (2 * block)
            ]
            found.append(pairs)
            step //= 2
        block *= 2
    return [pairs for pairs in found if pairs]


def ascending(input: Tensor, dim: int) -> Tensor:
    """The values along an axis, from the smallest to the largest."""
    count = shape_of(input)[dim]
    for pairs in rounds(count):
        first, second = (selected(input, dim, places) for places in zip(*pairs))
        order = [*(i for i, _ in pairs), *(j for _, j in pairs)]
        parts = [torch.minimum(first, second), torch.maximum(first, second)]
        rest = [i for i in range(count) if i not in order]
        if rest:
            parts.append(selected(input, dim, rest))
        order += rest
        input = torch.cat(parts, dim)
        if order != list(range(count)):
            input = selected(input, dim, [order.index(i) for i in range(count)])
    return input


def _reversed(input: Tensor, dim: int) -> Tensor:
    return selected(input, dim, range(shape_of(input)[dim] - 1, -1, -1))


def _sort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    if dim % input.dim() == 0:
        return NotImplemented
    with torch._C.DisableTorchFunction():
        places = torch.sort(input, dim=dim, descending=descending, stable=stable)[1]
    values = ascending(input, dim)
    return torch.return_types.sort((_reversed(values, dim) if descending else values, places))


def _topk(input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    if dim % input.dim() == 0:
        return NotImplemented
    with torch._C.DisableTorchFunction():
        places = torch.topk(input, k, dim, largest, sorted)[1]
    values = ascending(input, dim)
    count = shape_of(input)[dim]
    best = range(count - 1, count - 1 - k, -1) if largest else range(k)
    return torch.return_types.topk((selected(values, dim, best), places))


def _kthvalue(input: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    if dim % input.dim() == 0:
        return NotImplemented
    with torch._C.DisableTorchFunction():
        places = torch.kthvalue(input, k, dim, keepdim)[1]
    value = ascending(input, dim).narrow(dim, k - 1, 1)
    return torch.return_types.kthvalue((value if keepdim else value.squeeze(dim), places))


def _median(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    if dim is None or dim % input.dim() == 0:
        return NotImplemented
    found = _kthvalue(input, (shape_of(input)[dim] + 1) // 2, dim, keepdim)
    return torch.return_types.median(tuple(found))


FORMS: dict[str, Callable[..., Any]] = {
    "sort": _sort,
    "topk": _topk,
    "kthvalue": _kthvalue,
    "median": _median,
}
"""Name -> form."""
