r"""Large batches of regions, cut into parts, so that memory does not grow with the number of regions.

What one region needs at once is about

.. math:: 4 \, k' \, r' + N^2 / 4 \quad \text{numbers}, \qquad k' = \max(k, w), \; r' = \max(r, w),

for k rows, r columns, the width w of the widest node and nodes of N elements in all, half of them read by activations:
a few matrices of coefficients, and the gains where every neuron is undetermined. A part holds as many regions as fit
into the budget, and `_LEAST` at least: of large networks too few are undetermined at once for this to be an estimate.

Source: own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.host.region import cut
from recurjac_plugin.numerics.memory import memory_budget

_LEAST = 64
# Bytes of a part where memory abounds: more does not save time. On a card what starts its kernels is all that counts.
_CPU, _CUDA = 96 * 2**20, 2**30


def regions_at_once(
    model: Any,
    rows: int,
    budget: int | None,
    like: Tensor,  # shape: (b, *input_shape)
) -> int:
    """How many regions of a model to bound at once.

    Args:
        model: the host's `BoundedModule`.
        rows: how many are differentiated.
        budget: bytes; None for a share of the free memory.
        like: a tensor of inputs.
    """
    shapes = (getattr(node, "output_shape", None) for node in model._modules.values() if not _is_constant(node))
    sizes = [math.prod(shape[1:]) for shape in shapes if shape] or [1]
    widest, columns = max(sizes), like[0].numel()
    each = 4 * max(rows, widest) * max(columns, widest) + sum(sizes) ** 2 // 4
    most = _CUDA if like.device.type == "cuda" else _CPU
    return max(_LEAST, min(memory_budget(budget, like.device), most) // (each * like.element_size()))


def _is_constant(node: Any) -> bool:
    return type(node).__name__ in ("BoundParams", "BoundBuffers", "BoundConstant")


def bounded_in_parts(
    bound: Callable[[Any, Tensor | None], tuple[Tensor, ...]],
    model: Any,
    x: Any,
    C: Tensor | None,  # shape: (b or 1, k, n_out)
    budget: int | None,
) -> tuple[Tensor, ...]:
    """What is asked of a batch of regions, part by part.

    Args:
        bound: takes regions as the host has them and their rows; returns tensors whose first axis is that of the
            regions.
        model: the host's `BoundedModule`.
        x: a `BoundedTensor` or a tuple, as in `jacobian_bounds`.
        C: rows; None for all outputs.
        budget: bytes for a part; None for a share of the free memory.

    Raises:
        What `bound` raises.
    """
    parts = [bound(*part) for part in _parts(model, x, C, budget)]
    return parts[0] if len(parts) == 1 else tuple(torch.cat(each) for each in zip(*parts, strict=True))


def _parts(model: Any, x: Any, C: Tensor | None, budget: int | None) -> Iterator[tuple[Any, Tensor | None]]:
    """Regions and rows of every part. What cannot be cut, as what fits to nothing, is one part and refused as such."""
    values = [*x] if isinstance(x, (tuple, list)) else [x]
    single = [value for value in values if not isinstance(value, Tensor) or value.dim() < 2]
    count = 0 if single or not values else len(values[0])
    rows = C.shape[1] if isinstance(C, Tensor) and C.dim() > 1 else 1
    if count <= _LEAST or any(len(value) != count for value in values) or not hasattr(model, "_modules"):
        yield x, C
        return
    size = regions_at_once(model, rows, budget, values[0])
    if count <= size or (isinstance(C, Tensor) and len(C) not in (1, count)):
        yield x, C
        return
    for start in range(0, count, size):
        part = slice(start, start + size)
        try:
            regions = cut(x, part)
        except RuntimeError:
            yield x, C
            return
        yield regions, C[part] if isinstance(C, Tensor) and len(C) > 1 else C
