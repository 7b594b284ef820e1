r"""Operator norms ``|A|_{p->q} = max |A x|_q / |x|_p`` of matrices, p and q of 1, 2, inf: from above and from below.

With p* the dual norm of p (1/p + 1/p* = 1), r the columns and k the rows,

=============  ==========================  =================================================================
norms          any matrix                  matrix without negative entries
=============  ==========================  =================================================================
``1 -> q``     ``max_r |A_{:r}|_q``        the same
``p -> inf``   ``max_k |A_{k:}|_{p*}``     the same
``2 -> 2``     largest singular value      the same
``inf -> q``   (q = 1, 2) hard             ``|A 1|_q``, all of x being 1
``p -> 1``     (p = 2, inf) hard           ``|A^T 1|_{p*}``
=============  ==========================  =================================================================

Where it is hard (to approximate better than by ``pi / 2`` in polynomial time, Briet et al., SIAM J. Comput. 2017) signs
are tried if few are enough, and otherwise it is bounded on both sides: from above by Cauchy and Schwarz with weights
s, t > 0,

.. math:: |A|_{\infty \to 1} \le \lVert S^{-1/2} A T^{-1/2} \rVert_2 \sqrt{\textstyle\sum_k s_k \sum_r t_r}, \qquad
    |A|_{\infty \to 2} \le \lVert A T^{-1/2} \rVert_2 \sqrt{\textstyle\sum_r t_r},

which for inf -> 2 is at most ``sqrt(pi / 2)`` times the norm with the best weights (Nesterov, 1998), and from below by
ascent.

Axes: b matrices, k rows, columns r.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from recurjac_plugin.numerics.intervals import Interval
from recurjac_plugin.numerics.rounding import gamma, underflow

NORMS = (1.0, 2.0, math.inf)
"""The p and q for which there are formulas."""

# Of the power method, for a bound of the largest singular value; entries of its vector stay above a share of the
# largest one.
_POWER_STEPS, _LEAST_SHARE = 60, 1e-9

_SIGNS = 10  # signs that are tried one after the other: 2^9 of them up to a common one
_REWEIGHTED, _LEAST = 3, 1e-6  # how many weights s, t are tried, and the least one, relative to the largest
_SHARPNESS = 4  # how much more the larger singular values count in the choice of weights
_STARTS, _ASCENT = 8, 12  # where ascent begins, and its steps


def dual_of(norm: float) -> float:
    """p* with ``1/p + 1/p* = 1``."""
    if norm == math.inf:
        return 1.0
    return math.inf if norm == 1 else norm / (norm - 1)


def has_formula(p: float, q: float) -> bool:
    """Whether the norm of a matrix with entries of both signs has a formula."""
    return p == 1 or q == math.inf or p == q == 2


def norm_of_magnitudes(
    magnitudes: Tensor,  # shape: (b, k, columns)
    p: float,
    q: float,
    proven: bool = False,
) -> Tensor:
    """The norm p -> q of matrices without negative entries, by the formulas of the module: (b,).

    No matrix whose entries are at most as large has a larger one: ``|A|_{p->q} <= | |A| |_{p->q}``.

    Args:
        magnitudes: the matrices.
        p: norm of what is multiplied.
        q: norm of the product.
        proven: whether the spectral norm is bounded from above whatever rounding does; the sums of the others are off
            by what sums of numbers of one sign are.
    """
    scaled, scale = _scaled(magnitudes)
    if p == 1:
        norm = torch.linalg.vector_norm(scaled, ord=q, dim=1).amax(1)
    elif q == math.inf:
        norm = torch.linalg.vector_norm(scaled, ord=dual_of(p), dim=2).amax(1)
    elif p == math.inf:
        norm = torch.linalg.vector_norm(scaled.sum(2), ord=q, dim=1)
    elif q == 1:
        norm = torch.linalg.vector_norm(scaled.sum(1), ord=dual_of(p), dim=1)
    else:
        norm = _spectral_norm_of_magnitudes(scaled) if proven else torch.linalg.matrix_norm(scaled, ord=2)
    return norm * scale


def norm_above(
    matrix: Tensor,  # shape: (b, k, columns)
    p: float,
    q: float,
    proven: bool = False,
) -> Tensor:
    """Upper bound of the norm p -> q of any matrices, exact where there is a formula or few signs: (b,).

    Args:
        matrix: the matrices.
        p: norm of what is multiplied.
        q: norm of the product.
        proven: whether nothing that rounding does puts it below the norm, but for the rounding of sums of numbers of
            one sign and of single operations.
    """
    if p == 1 or q == math.inf:
        return norm_of_magnitudes(matrix.abs(), p, q)
    if p == q:
        return proven_spectral_norm(matrix) if proven else torch.linalg.matrix_norm(matrix, ord=2)
    if p == 2:  # |A|_{2->1} = |A^T|_{inf->2}
        return norm_above(matrix.mT, math.inf, 2.0, proven)
    rows, columns = matrix.shape[1:]
    if columns <= _SIGNS or (q == 1 and rows <= _SIGNS):
        matrix, scale = _scaled(matrix)
        found = _over_signs(matrix if columns <= _SIGNS else matrix.mT, q)
        if proven:  # sums of both signs are off by their rounding, relative to the sum of all magnitudes
            found = found + gamma(rows * columns + 8) * matrix.abs().sum((1, 2))
        return found * scale
    return torch.minimum(norm_of_magnitudes(matrix.abs(), p, q), _by_weights(matrix, q, proven))


def norm_below(
    matrix: Tensor,  # shape: (b, k, columns)
    p: float,
    q: float,
) -> Tensor:
    """Lower bound of the norm p -> q of any matrices, up to rounding; exact where `norm_above` is: (b,)."""
    few = min(matrix.shape[1:]) <= _SIGNS if (p, q) == (math.inf, 1.0) else matrix.shape[1 if p == 2 else 2] <= _SIGNS
    if has_formula(p, q) or few:
        return norm_above(matrix, p, q)
    return _by_ascent(matrix, p, q)[0]


def norm_range(
    matrix: Tensor,  # shape: (b, k, columns)
    p: float,
    q: float,
) -> Interval:
    """The norm p -> q of matrices from below and from above, two tensors of shape (b,), equal where it is known."""
    return norm_below(matrix, p, q), norm_above(matrix, p, q)


def _scaled(
    matrix: Tensor,  # shape: (b, k, columns)
) -> Interval:
    """Matrices divided by powers of 2, so that squares neither overflow nor vanish, and these, (b,)."""
    largest = matrix.detach().abs().amax((1, 2))
    exponent = torch.frexp(largest).exponent.to(matrix.dtype)
    most = math.log2(torch.finfo(matrix.dtype).max) - 4
    scale = torch.exp2(torch.where(largest > 0, exponent, 0.0).clamp(min=-most, max=most))
    return matrix / scale[:, None, None], scale


# Largest singular values


def _spectral_norm_of_magnitudes(
    matrix: Tensor,  # shape: (b, k, columns)
) -> Tensor:
    r"""Upper bound of the spectral norm of matrices without negative entries, by a vector v > 0: (b,).

    .. math:: \lVert M \rVert_2^2 \le \max_i \frac{(M^T M v)_i}{v_i},

    which is exact for the largest singular vector; v comes from a few steps of the power method. It holds for every v,
    so no error of v matters.

    Source: Collatz, 1942, and Wielandt, 1950; Horn, Johnson, Matrix Analysis, 2013, corollary 8.1.31.
    """
    wide = matrix.mT if matrix.shape[1] < matrix.shape[2] else matrix
    v = torch.ones_like(wide[:, 0]).unsqueeze(2)
    tiny = torch.finfo(matrix.dtype).tiny
    best = torch.full_like(v[:, 0, 0], torch.inf)
    for _ in range(_POWER_STEPS):
        image = wide.mT @ (wide @ v)
        best = torch.minimum(best, (image / v).amax((1, 2)))
        v = (image / image.amax((1, 2), keepdim=True).clamp(min=tiny)).clamp(min=_LEAST_SHARE)
    return best.clamp(min=0).sqrt()


def proven_spectral_norm(
    matrix: Tensor,  # shape: (b, k, columns)
) -> Tensor:
    r"""Upper bound of the spectral norm of any float64 matrices that rounding does not put below it: (b,).

    With the computed eigenvectors V and eigenvalues w of ``B = A A^T``, of the smaller side,

    .. math:: \lVert A \rVert_2^2 \le w_{\max} (1 + \lVert V^T V - I \rVert_F) + \lVert B - V \mathrm{diag}(w) V^T
        \rVert_F,

    whatever V and w are; the rounding of the three products is added, by those of the absolute values.

    Source: Weyl's inequality; Higham, Accuracy and Stability of Numerical Algorithms, 2002, eq. 3.13, for the products.
    """
    short = matrix if matrix.shape[1] <= matrix.shape[2] else matrix.mT
    scaled, scale = _scaled(short)
    gram = scaled @ scaled.mT
    side, inner = gram.shape[1], scaled.shape[2]
    w, v = torch.linalg.eigh(gram)
    w = w.clamp(min=0)
    eye = torch.eye(side, dtype=matrix.dtype, device=matrix.device)
    tilt = _frobenius(v.mT @ v - eye) + gamma(side + 2) * _frobenius(v.abs().mT @ v.abs() + eye)
    rebuilt = (v * w.unsqueeze(1)) @ v.mT
    rest = _frobenius(gram - rebuilt) + gamma(side + 4) * _frobenius(
        gram.abs() + (v.abs() * w.unsqueeze(1)) @ v.abs().mT
    )
    rest = rest + gamma(inner) * _frobenius(scaled.abs() @ scaled.abs().mT) + underflow(side * inner)
    room = 1 + gamma(2 * side * side + 32)  # of the sums of squares in here, and of the few operations
    return scale * ((w.amax(1) * (1 + tilt * room) + rest * room) * room).sqrt()


def _frobenius(matrix: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(matrix)


# inf -> 1 and inf -> 2


def _over_signs(
    matrix: Tensor,  # shape: (b, k, columns)
    q: float,
) -> Tensor:
    """``max |A x|_q`` over all x of signs, which is the norm inf -> q: (b,). For q = 1, A may be transposed."""
    columns = matrix.shape[2]
    signs = torch.tensor(
        [*itertools.product((1.0, -1.0), repeat=columns - 1)], dtype=matrix.dtype, device=matrix.device
    )
    signs = torch.cat([torch.ones_like(signs[:, :1]), signs], 1) if columns > 1 else matrix.new_ones(1, 1)
    return torch.linalg.vector_norm(matrix @ signs.mT, ord=q, dim=1).amax(1)


def _by_weights(
    matrix: Tensor,  # shape: (b, k, columns)
    q: float,
    proven: bool,
) -> Tensor:
    """The bound of the norm inf -> q by Cauchy and Schwarz, the smallest over a few weights: (b,).

    With the best weights the entries of the largest singular vectors, divided by the weights' roots, are all of one
    size. There the largest singular value is mostly a multiple one, so the vectors of all count, the largest most.
    """
    matrix, scale = _scaled(matrix)
    magnitudes = matrix.detach().abs()
    columns, rows = (_floored(torch.linalg.vector_norm(magnitudes, dim=side)) for side in (1, 2))
    if q == 2:
        rows = torch.ones_like(rows)
    best = torch.full_like(rows[:, 0], torch.inf)
    for _ in range(_REWEIGHTED):
        scaled = matrix / columns.sqrt().unsqueeze(1) / rows.sqrt().unsqueeze(2)
        total = columns.sum(1) * rows.sum(1) if q == 1 else columns.sum(1)
        spectral = proven_spectral_norm(scaled) if proven else torch.linalg.matrix_norm(scaled, ord=2)
        best = torch.minimum(best, spectral * total.sqrt())
        left, values, right = torch.linalg.svd(scaled.detach(), full_matrices=False)
        share = (values / values[:, :1].clamp(min=torch.finfo(values.dtype).tiny)) ** _SHARPNESS
        columns = _floored((columns * (right.square() * share.unsqueeze(2)).sum(1)).sqrt())
        if q == 1:
            rows = _floored((rows * (left.square() * share.unsqueeze(1)).sum(2)).sqrt())
    return best * scale


def _floored(weights: Tensor) -> Tensor:
    """Weights that are not too small beside the largest one, which is 1: of the same shape."""
    largest = weights.amax(1, keepdim=True)
    return torch.where(largest > 0, weights / largest.clamp(min=torch.finfo(weights.dtype).tiny), 1.0).clamp(min=_LEAST)


def stretched(
    matrix: Tensor,  # shape: (b, k, columns)
    p: float,
    q: float,
) -> tuple[Tensor, Tensor]:
    """c (b, k) and v (b, columns), of norms ``|v|_p = |c|_{q*} = 1``, with ``c^T A v`` the norm, or near it."""
    if p == 1:
        place = torch.linalg.vector_norm(matrix, ord=q, dim=1).argmax(1, keepdim=True)
        v = torch.zeros_like(matrix[:, 0]).scatter(1, place, 1.0)
    elif q == math.inf:
        place = torch.linalg.vector_norm(matrix, ord=dual_of(p), dim=2).argmax(1)
        v = _aligned(matrix[torch.arange(len(matrix), device=matrix.device), place].unsqueeze(2), p).squeeze(2)
    elif p == q:
        v = torch.linalg.svd(matrix, full_matrices=False)[2][:, 0]
    else:
        v = _by_ascent(matrix, p, q)[1]
    return _aligned(matrix @ v.unsqueeze(2), dual_of(q)).squeeze(2), v


def _by_ascent(
    matrix: Tensor,  # shape: (b, k, columns)
    p: float,
    q: float,
) -> Interval:
    """``|A x|_q`` of the best unit vector x of norm p that alternating ascent finds, (b,), and x, (b, columns)."""
    starts = min(_STARTS, *matrix.shape[1:])
    right = torch.linalg.svd(matrix.detach(), full_matrices=False)[2][:, :starts].mT  # (b, columns, starts)
    x = _aligned(right, p)
    for _ in range(_ASCENT):
        x = _aligned(matrix.mT.detach() @ _aligned(matrix.detach() @ x, dual_of(q)), p)
    sizes = torch.linalg.vector_norm(matrix @ x, ord=q, dim=1)
    best, place = sizes.max(1)
    return best, x.gather(2, place[:, None, None].expand(-1, x.shape[1], 1)).squeeze(2)


def _aligned(
    y: Tensor,  # shape: (b, n, s)
    p: float,
) -> Tensor:
    """x with ``|x|_p = 1`` and ``x^T y = |y|_{p*}``, column by column."""
    sign = torch.where(y >= 0, 1.0, -1.0).to(y)
    if p == math.inf:
        return sign
    if p == 2:
        return torch.nn.functional.normalize(y, p=2.0, dim=1)
    return torch.zeros_like(y).scatter(1, y.abs().argmax(1, keepdim=True), 1.0) * sign
