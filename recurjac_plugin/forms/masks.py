"""Softmax over some of the numbers in each row only: masks of attention, minus infinity where nothing is looked at.

A softmax of numbers of which some are minus infinity is the softmax of the others, and 0 elsewhere. Rows in which the
same numbers are left are taken together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .marks import depends, origin, shape_of, untraced
from .rearranging import selected


class Mask(NamedTuple):
    """What a mask does to scores (..., n, m).

    Attributes:
        added: finite numbers that are added to them; None for none.
        allowed: for each row the columns that are left; None for all.
    """

    added: Tensor | None
    allowed: tuple[tuple[int, ...], ...] | None


def causal(rows: int, columns: int) -> Mask:
    """Each row looks at the columns up to its own number."""
    return Mask(None, tuple(tuple(range(min(row + 1, columns))) for row in range(rows)))


def mask_of(mask: Any, like: Tensor, true_is_allowed: bool = True) -> Mask | None:
    """What a mask of attention says, truth values or numbers that are added, (..., n, m).

    Args:
        mask: the mask, or None.
        like: of the type of the scores.
        true_is_allowed: what True means.

    Returns:
        None if it depends on the module's inputs, differs between heads or samples in what it leaves, leaves nothing of
        a row, or has infinite or undefined numbers besides.
    """
    if mask is None:
        return Mask(None, None)
    if depends(mask):
        return None
    with untraced(), torch.no_grad():
        if mask.dtype == torch.bool:
            left, added = (mask if true_is_allowed else ~mask), None
        else:
            left = mask != -math.inf
            added = mask.masked_fill(~left, 0.0).to(like.dtype)
            if not bool(added.isfinite().all()):
                return None
        rows = left.reshape(-1, *left.shape[-2:]) if left.dim() > 1 else left.reshape(1, 1, -1)
        if bool(left.all()):
            return Mask(added, None)
        if not bool((rows == rows[:1]).all() and rows.any(2).all()):
            return None
        allowed = tuple(tuple(row.nonzero().flatten().tolist()) for row in rows[0])
    return Mask(added, allowed)


def softmax_of_allowed(scores: Tensor, allowed: tuple[tuple[int, ...], ...]) -> Tensor:
    """Softmax over the columns that are left in each row, 0 in the others; (..., n, m) -> (..., n, m)."""
    axis, (count, width) = scores.dim() - 2, shape_of(scores)[-2:]
    allowed = allowed * count if len(allowed) == 1 else allowed
    parts, order = [], []
    for columns in dict.fromkeys(allowed):
        rows = [row for row in range(count) if allowed[row] == columns]
        shares = torch.softmax(selected(selected(scores, axis, rows), axis + 1, columns), -1)
        with untraced():
            places = torch.zeros(len(columns), width, dtype=scores.dtype, device=scores.device)
            places[range(len(columns)), columns] = 1.0
        parts.append(torch.matmul(shares, places))
        order += rows
    found = torch.cat(parts, axis) if len(parts) > 1 else parts[0]
    return found if order == sorted(order) else selected(found, axis, [order.index(row) for row in range(count)])


def _softmax(input: Tensor, dim: Any = None, _stacklevel: Any = 3, dtype: Any = None) -> Any:
    """The softmax of what was masked by hand: ``masked_fill(m, -inf)``, or plus a mask with minus infinity."""
    if dim is None or dtype is not None or not isinstance(_stacklevel, int) or dim % input.dim() != input.dim() - 1:
        return NotImplemented
    name, arguments = origin(input)
    if name == "masked_fill" and len(arguments) == 3 and not isinstance(arguments[2], Tensor):
        scores, hidden, value = arguments
        mask = mask_of(hidden, input, true_is_allowed=False) if value == -math.inf else None
    elif name == "add" and len(arguments) == 2 and all(isinstance(each, Tensor) for each in arguments):
        scores, added = arguments if depends(arguments[0]) else arguments[::-1]
        mask = None if depends(added) else mask_of(added, input)
    else:
        return NotImplemented
    if mask is None or mask.allowed is None or input.dim() < 2 or shape_of(scores) != shape_of(input):
        return NotImplemented
    if len(mask.allowed) not in (1, shape_of(input)[-2]) or not depends(scores):
        return NotImplemented
    return softmax_of_allowed(scores if mask.added is None else scores + mask.added, mask.allowed)


FORMS: dict[str, Callable[..., Any]] = {"softmax": _softmax}
"""Name -> form."""
