"""Operator norms of matrices: their formulas, and bounds of the hard ones, against many vectors and all signs."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from recurjac_plugin.lipschitz.matrix_norms import (
    NORMS,
    has_formula,
    norm_above,
    norm_below,
    norm_of_magnitudes,
    norm_range,
)

PAIRS = [*itertools.product(NORMS, NORMS)]
SHAPES = [(3, 5), (1, 7), (7, 1), (12, 14), (20, 40), (30, 11)]


def matrices(rows, columns, dtype=torch.float64):
    return torch.randn(3, rows, columns, dtype=dtype) * torch.rand(3, 1, columns, dtype=dtype) ** 2


def attained(matrix, p, q, count=3000):
    """The largest ``|A x|_q`` over unit vectors of norm p: random ones, signs, unit vectors, singular vectors."""
    batch, _, columns = matrix.shape
    x = torch.randn(batch, columns, count, dtype=matrix.dtype)
    x[:, :, : count // 2] = x[:, :, : count // 2].sign()
    eye = torch.eye(columns, dtype=matrix.dtype).expand(batch, -1, -1)
    x = torch.cat([x, eye, torch.linalg.svd(matrix, full_matrices=False)[2].mT], 2)
    x = x / torch.linalg.vector_norm(x, ord=p, dim=1, keepdim=True)
    return torch.linalg.vector_norm(matrix @ x, ord=q, dim=1).amax(1)


def by_all_signs(matrix, q):
    """``|A|_{inf -> q}``, from its definition: a convex function is largest at a corner."""
    corners = torch.tensor([*itertools.product((1.0, -1.0), repeat=matrix.shape[2])], dtype=matrix.dtype)
    return torch.linalg.vector_norm(matrix @ corners.T, ord=q, dim=1).amax(1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_no_vector_is_stretched_more(pair, shape):
    A = matrices(*shape)
    below, above = norm_range(A, *pair)
    proven, magnitudes = norm_above(A, *pair, proven=True), norm_of_magnitudes(A.abs(), *pair, proven=True)
    assert bool((attained(A, *pair) <= above * (1 + 1e-12)).all())
    assert bool((below <= above * (1 + 1e-12)).all())
    assert bool((above <= proven * (1 + 1e-12)).all())
    assert torch.allclose(above, proven, rtol=1e-10)
    assert bool((proven <= magnitudes * (1 + 1e-9)).all())
    if has_formula(*pair):
        assert torch.equal(below, above)


@pytest.mark.parametrize("q", NORMS)
def test_few_signs_are_exact(q):
    A = matrices(15, 9)
    for matrix, pair in ((A, (math.inf, q)), (A.mT, ({1.0: math.inf, 2.0: 2.0, math.inf: 1.0}[q], 1.0))):
        below, above = norm_range(matrix, *pair)
        assert torch.allclose(above, by_all_signs(A, q), rtol=1e-13)
        assert torch.allclose(below, above, rtol=1e-13)


@pytest.mark.parametrize(("p", "q"), [(math.inf, 1.0), (math.inf, 2.0), (2.0, 1.0)])
def test_hard_norms_between_both_bounds(p, q):
    """12 signs are too many for the function, and few enough for the definition."""
    A = matrices(12, 12)
    exact = by_all_signs(A.mT if p == 2 else A, 2.0 if p == 2 else q)
    below, above = norm_range(A, p, q)
    assert bool((below <= exact * (1 + 1e-12)).all() & (exact <= above * (1 + 1e-12)).all())
    assert bool((above <= 1.6 * below).all())
    assert bool((above < 0.9 * norm_of_magnitudes(A.abs(), p, q)).all())


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_magnitudes_exactly(pair):
    A = matrices(4, 6).abs()
    p, q = pair
    best = attained(A, p, q)
    nearly = torch.ones(3, 6, 1, dtype=A.dtype) if p == math.inf else A.sum(1, keepdim=True).mT
    nearly = nearly / torch.linalg.vector_norm(nearly, ord=p, dim=1, keepdim=True)
    best = torch.maximum(best, torch.linalg.vector_norm(A @ nearly, ord=q, dim=1).squeeze(1))
    if p == 2 and q == math.inf:
        best = torch.maximum(best, torch.linalg.vector_norm(A, dim=2).amax(1))
    if p == math.inf and q == math.inf:
        best = torch.maximum(best, A.sum(2).amax(1))
    assert torch.allclose(norm_of_magnitudes(A, p, q), best, rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-160, 1.0, 1e150])
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_proven_norms_of_any_size(pair, scale):
    A = matrices(6, 13) * scale
    assert torch.allclose(norm_above(A, *pair, proven=True), norm_above(A / scale, *pair) * scale, rtol=1e-9, atol=0)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_zero_has_norm_zero(pair):
    A = torch.zeros(2, 12, 13, dtype=torch.float64)
    assert norm_below(A, *pair).tolist() == [0, 0]
    for proven in (False, True):
        assert float(norm_above(A, *pair, proven=proven).max()) < 1e-150


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_number_type_is_kept(pair):
    A = matrices(11, 12, torch.float32)
    below, above = norm_range(A, *pair)
    assert below.dtype == above.dtype == torch.float32
    assert torch.allclose(above.double(), norm_above(A.double(), *pair), rtol=1e-4)
