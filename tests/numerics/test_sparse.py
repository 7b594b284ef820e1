"""Products with matrices of mostly zeros are those of the matrices."""

from __future__ import annotations

import pytest
import torch

from recurjac_plugin.graph.linear_maps import Dense
from recurjac_plugin.numerics.sparse import sparse_transposed, times


def sparse_matrix(dtype, part=0.01):
    torch.manual_seed(0)
    return torch.randn(160, 120, dtype=dtype) * (torch.rand(160, 120) < part)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(7, 160), (2, 5, 160), (1, 160), (0, 160)])
def test_the_product_is_that_of_the_matrix(dtype, shape):
    weight, rows = sparse_matrix(dtype), torch.randn(shape, dtype=dtype)
    transposed = sparse_transposed(weight)
    assert transposed is not None
    torch.testing.assert_close(times(rows, transposed), rows @ weight)


def test_what_is_small_dense_or_learnt_is_left_as_it_is():
    weight = sparse_matrix(torch.float64)
    assert sparse_transposed(weight[:100]) is None
    assert sparse_transposed(sparse_matrix(torch.float64, part=0.5)) is None
    assert sparse_transposed(weight.requires_grad_()) is None


def test_rows_are_pulled_and_differentiated_as_through_the_matrix():
    weight = sparse_matrix(torch.float64)
    dense = Dense(weight, (120,), (160,))
    rows = torch.randn(9, 160, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(dense.pull(rows), rows @ weight)
    (gradient,) = torch.autograd.grad(dense.pull(rows).square().sum(), rows)
    (expected,) = torch.autograd.grad((rows @ weight).square().sum(), rows)
    torch.testing.assert_close(gradient, expected)
