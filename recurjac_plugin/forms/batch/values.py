"""Values that hold the batch elsewhere than in their first axis, and what is computed in their place.

A tensor t of a module may hold the batch, of length B, in any axis k, alone or merged with another: ``(heads, B, n)``
after a transpose, ``(B heads, n, d)`` after a reshape. Such a tensor is *lifted*: in its place a tensor L of shape
``(B, *rest)`` is computed, where ``rest`` is the shape of t with ``rest[k] = t.shape[k] / B``,

* outer: ``t = L.movedim(0, k).flatten(k, k + 1)``,
* inner: ``t = L.movedim(0, k + 1).flatten(k, k + 1)``.

t itself stays in the trace as well, for its shape; nothing reads it, so that it is dropped. At a batch of 1 every axis
holds it. Where ``k = 0`` and ``rest[0] = 1`` again, L in the shape of t goes on as any other value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.forms.marks import depends, mark_as_input, shape_of, tensors_in

_LIFTED = "recurjac_lifted"


@dataclass(frozen=True, eq=False)
class Lifted:
    """What is computed in place of a tensor.

    Attributes:
        value: L, shape (B, *rest).
        shape: of the tensor.
        batch: B at the example.
        axis: k, which axis of the tensor holds the batch; None for a batch of 1.
        inner: whether the batch stands behind what it is merged with.
    """

    value: Tensor
    shape: tuple[int, ...]
    batch: int
    axis: int | None
    inner: bool = False

    def holds(self, axes: Sequence[int]) -> bool:
        """Whether one of these axes holds the batch."""
        return self.axis is not None and self.axis in axes

    def rest(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape for one sample of a tensor with the batch in the same axis."""
        return tuple(size // self.batch if i == self.axis else size for i, size in enumerate(shape))


def is_lifted(values: Any) -> bool:
    """Whether any of the tensors is lifted."""
    return any(hasattr(tensor, _LIFTED) for tensor in tensors_in(values))


def lifted(tensor: Any, batch: int) -> Lifted | None:
    """What is computed in place of a tensor, or the tensor itself so; None if it has no batch."""
    if not isinstance(tensor, Tensor):
        return None
    found: Lifted | None = getattr(tensor, _LIFTED, None)
    if found is not None:
        return found
    shape = tuple(shape_of(tensor))
    if not depends(tensor) or not shape or shape[0] != batch:
        return None
    value = tensor.reshape(-1, 1, *shape[1:])
    return Lifted(value, shape, batch, None if batch == 1 else 0)


def settled(tensor: Tensor, value: Tensor, batch: int, axis: int | None, inner: bool = False) -> Tensor:
    """A new value: a plain one where the batch is the first axis, else the tensor, lifted.

    Args:
        tensor: as the module computes it.
        value: L.
        batch: B.
        axis: which of the tensor's axes holds the batch; None for a batch of 1.
        inner: whether the batch stands behind what it is merged with.
    """
    shape = tuple(shape_of(tensor))
    if shape and shape[0] == batch and axis in (0, None):
        plain = value.reshape(-1, *shape[1:]) if len(shape) > 1 else value.reshape(-1)
        mark_as_input(plain)
        return plain
    mark_as_input(tensor)
    setattr(tensor, _LIFTED, Lifted(value, shape, batch, axis, inner))
    return tensor


def shadow(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """What the module computes, for its shape."""
    with torch._C.DisableTorchFunction():
        return function(*args, **kwargs)


def viewed(tensor: Tensor, new: Tensor, batch: int) -> Any:
    """A tensor in another shape: the place of the batch among the axes is that in the order of the entries.

    Args:
        tensor: lifted, or with the batch first.
        new: the same entries in the same order.
        batch: B.
    """
    shape = tuple(shape_of(new))
    before: Lifted | None = getattr(tensor, _LIFTED, None)
    if batch == 1:
        value = tensor if before is None else before.value
        return settled(new, value.reshape(-1, *shape), batch, None)
    ahead = 1
    if before is not None and before.axis is not None:
        ahead = math.prod(before.shape[: before.axis])
        ahead *= before.shape[before.axis] // batch if before.inner else 1
    for axis, size in enumerate(shape):
        if size % batch:
            continue
        outer, inner = (
            math.prod(shape[:axis]) == ahead,
            math.prod(shape[: axis + 1]) == ahead * batch,
        )
        if outer or inner:
            rest = [size // batch if i == axis else each for i, each in enumerate(shape)]
            value = tensor if before is None else before.value
            return settled(new, value.reshape(-1, *rest), batch, axis, not outer)
    return NotImplemented
