r"""Products with matrices of mostly zeros, as banks of minima and maxima have them: entries that are 0 are left out.

Source: own; the product is torch's of a sparse matrix in coordinate form.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LEAST, _DENSEST = 1 << 14, 1 / 50  # elements of a matrix, and the part of them that is not 0: where it pays, measured


def sparse_transposed(weight: Tensor) -> Tensor | None:
    """``W^T`` of a matrix W, (out, in), in coordinate form (in, out); None where a dense product is better.

    Sparse are matrices of constants on the CPU with 16384 elements or more, at most one in fifty of which is not 0.
    """
    if weight.requires_grad or weight.device.type != "cpu" or weight.numel() < _LEAST:
        return None
    if int(torch.count_nonzero(weight)) > _DENSEST * weight.numel():
        return None
    return weight.detach().T.to_sparse_coo().coalesce()


def times(rows: Tensor, transposed: Tensor) -> Tensor:
    """``rows W``, (..., out) -> (..., in), with ``W^T`` in coordinate form."""
    product: Tensor = torch.sparse.mm(transposed, rows.flatten(0, -2).T).T
    return product.contiguous().unflatten(0, rows.shape[:-1])
