r"""Large batches of regions, cut into parts, so that memory does not grow with the number of regions.

What one region needs at once is about

.. math:: 4 \, k' \, r' + 2 N^2 \quad \text{numbers}, \qquad k' = \max(k, w), \; r' = \max(r, w),

for k rows, r columns, the width w of the widest node and N neurons: a few matrices of coefficients, and the gains of a
network in which every neuron is undetermined. A part holds as many regions as fit into the budget, and `_LEAST` at
least: of large networks too few are undetermined at once for this to be an estimate.

Source: own.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from recurjac_plugin.numerics.memory import chunk_size, memory_budget

_LEAST = 64
_MOST = 64 * 2**20  # bytes of a part where memory abounds: more does not save time


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
    each = 4 * max(rows, widest) * max(columns, widest) + 2 * sum(sizes) ** 2
    return max(_LEAST, chunk_size(min(memory_budget(budget, like.device), _MOST), each, like))


def _is_constant(node: Any) -> bool:
    return type(node).__name__ in ("BoundParams", "BoundBuffers", "BoundConstant")
