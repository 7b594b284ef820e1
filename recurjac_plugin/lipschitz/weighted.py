r"""Weighted norms, and a bounded Jacobian between them: that of ``y_k = v_k g_k`` by u, where ``x = S u``.

A norm of the input is ``|x| = |W x|_p``. With ``S = W^{-1}`` a constant in it is that of ``J S`` in the norm p; weights
of the output multiply the rows. Weights of single coordinates scale columns; a positive definite matrix ``P = W^T W``
mixes them, and every column of ``J S`` is bounded as one sum over those of J.

Axes: b regions, k rows, columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from recurjac_plugin.errors import InputError
from recurjac_plugin.gains.blocks import Blocks
from recurjac_plugin.gains.gains import Gains
from recurjac_plugin.gains.pull import INPUT, ROWS
from recurjac_plugin.jacobian.bounded import BoundedJacobian
from recurjac_plugin.jacobian.methods import Treatment
from recurjac_plugin.kept import Kept
from recurjac_plugin.numerics.intervals import Interval
from recurjac_plugin.numerics.region import Region
from recurjac_plugin.numerics.rounding import gamma

from .matrix_norms import NORMS

_PUSHED = 128  # columns of ``J S`` up to which each is bounded as one sum


@dataclass(frozen=True, eq=False)
class WeightedNorm(Kept):
    r"""A norm with weights: ``|v| = |weight * v|_p``, or ``|v| = sqrt(v^T weight v)`` for a positive definite matrix.

    Attributes:
        weight: positive weights of all coordinates, in the shape of one sample or flattened; or a symmetric positive
            definite matrix over the flattened coordinates, for p = 2.
        p: 1, 2 or inf.

    Raises:
        InputError: the weights are not positive and finite, the matrix is not symmetric and positive definite, or p is
            none of these.
    """

    weight: Tensor
    p: float = 2.0

    def __post_init__(self) -> None:
        if self.p not in NORMS:
            raise InputError(f"`p` of a `WeightedNorm` must be 1, 2 or inf, got {self.p!r}.")
        if not isinstance(self.weight, Tensor) or not self.weight.numel() or not bool(self.weight.isfinite().all()):
            raise InputError("`weight` of a `WeightedNorm` must be a tensor of finite numbers.")

    def scales(self, name: str, count: int) -> Tensor | None:
        """The weights of so many coordinates, float64 (count,); None where they are a matrix.

        Raises:
            InputError: they are as many as neither, or not positive.
        """
        if self._is_matrix(count):
            return None
        weight = self.weight.detach().double().flatten()
        if len(weight) != count:
            raise InputError(
                f"The weight of `{name}` has shape {tuple(self.weight.shape)}, expected {count} weights or a matrix of "
                f"{count} x {count}."
            )
        if not bool((weight > 0).all()):
            raise InputError(f"The weights of `{name}` must be positive, got {float(weight.min()):g}.")
        return weight

    def roots(self, name: str) -> tuple[Tensor, Tensor, float]:
        r"""Of a matrix P, W with ``P = W^T W``, its inverse S, and what rounding can have done, all in float64.

        Returns:
            W, S, and e with ``(1 - e) |S^-1 v|^2 <= v^T P v <= (1 + e) |S^-1 v|^2``, from ``|S^T P S - I|_F``.

        Raises:
            InputError: P is not symmetric and positive definite, or p is not 2.
        """
        matrix = self.weight.detach().double()
        if self.p != 2:
            raise InputError(f"A matrix weighs the norm p = 2 only; `{name}` has p = {self.p:g}.")
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if bool(failed) or not torch.equal(matrix, matrix.mT):
            raise InputError(f"The matrix of `{name}` must be symmetric and positive definite.")
        eye = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
        inverse = torch.linalg.solve_triangular(factor, eye, upper=False).mT
        sizes = inverse.abs().mT @ matrix.abs() @ inverse.abs()
        error = torch.linalg.matrix_norm(inverse.mT @ matrix @ inverse - eye)
        error = error + gamma(3 * len(matrix) + 16) * (torch.linalg.matrix_norm(sizes) + 1)
        if not float(error) < 0.5:
            raise InputError(f"The matrix of `{name}` is too ill-conditioned for float64.")
        return factor.mT, inverse, float(error) * (1 + gamma(len(matrix) ** 2 + 16))

    def _is_matrix(self, count: int) -> bool:
        # One coordinate may have a 1 x 1 matrix; an image of equal sides has as many weights as pixels.
        return self.weight.shape == (count, count)


@dataclass(frozen=True, eq=False)
class WeightedJacobian:
    """``diag(v) J S`` for a Jacobian J whose bounds are known: a `BoundedJacobian`.

    Attributes:
        bounded: what is known of J.
        columns: S, a matrix (columns, columns), or its diagonal (columns,).
        rows: v, (k,).
        proven: whether bounds need room for the rounding of what is multiplied here.
    """

    bounded: BoundedJacobian
    columns: Tensor
    rows: Tensor
    proven: bool

    @property
    def region(self) -> Region:
        """That of x."""
        return self.bounded.region

    @property
    def center_value(self) -> Tensor:
        """That of y at the centre."""
        return self.bounded.center_value * self.rows

    @property
    def treatment(self) -> Treatment:
        """That of the Jacobian J."""
        return self.bounded.treatment

    @property
    def start(self) -> WeightedJacobian | None:
        """The same of what its bounds are to be no wider than."""
        return None if self.bounded.start is None else replace(self, bounded=self.bounded.start)

    @cached_property
    def jacobian(self) -> Interval:
        """Lower and upper bounds of ``diag(v) J S``, both of shape (b, k, columns)."""
        lower, upper = (bound * self.rows.unsqueeze(1) for bound in self.bounded.jacobian)
        if self.columns.dim() == 1:
            return lower * self.columns, upper * self.columns
        middle = (lower + upper) / 2
        radius = torch.maximum(upper - middle, middle - lower) @ self.columns.abs()
        if self.proven:
            radius = radius + gamma(len(self.columns) + 16) * (middle.abs() @ self.columns.abs() + radius)
        lower, upper = middle @ self.columns - radius, middle @ self.columns + radius
        if len(self.columns) > _PUSHED:
            return lower, upper
        eye = torch.eye(len(self.columns), dtype=lower.dtype, device=lower.device)
        above = [self.upper_of_sum(unit.expand_as(lower)) for unit in eye]
        below = [-self.upper_of_sum(-unit.expand_as(lower)) for unit in eye]
        lower, upper = torch.maximum(lower, torch.stack(below, 2)), torch.minimum(upper, torch.stack(above, 2))
        return torch.minimum(lower, upper), torch.maximum(lower, upper)

    def upper_of_sum(
        self,
        weights: Tensor,  # shape: (b, k, columns)
    ) -> Tensor:
        """Upper bound of ``sum_r weights_r (v_k J S)_kr`` for every row k: (b, k)."""
        moved = self._moved(weights)
        upper = self.bounded.upper_of_sum(moved)
        return upper + self._room(weights).sum(2) if self.proven else upper

    def upper_of_sums(
        self,
        coefficients: Tensor,  # shape: (b, s, k, columns)
    ) -> Tensor:
        """Upper bound of ``sum_kr c_skr (v_k J S)_kr`` for every s: (b, s)."""
        upper = self.bounded.upper_of_sums(self._moved(coefficients))
        return upper + self._room(coefficients).sum((2, 3)) if self.proven else upper

    @property
    def exact_part(self) -> Gains | None:
        """The gains of the network from u to y."""
        gains = self.bounded.exact_part
        if gains is None:
            return None

        def changed_block(later: str, earlier: str) -> Tensor:
            block = gains.blocks[later, earlier]
            if earlier == INPUT:
                block = block * self.columns if self.columns.dim() == 1 else block @ self.columns
            return block * self.rows.unsqueeze(1) if later == ROWS else block

        changed = {key: changed_block(*key) for key in gains.blocks if key[1] == INPUT or key[0] == ROWS}
        return replace(gains, blocks=Blocks(gains.blocks.kept | changed))

    def _moved(self, weights: Tensor) -> Tensor:
        """Weights of the entries of J, whose sum is that of these weights of ``diag(v) J S``."""
        weights = weights * self.rows.unsqueeze(1)
        return weights * self.columns if self.columns.dim() == 1 else weights @ self.columns.mT

    def _room(self, weights: Tensor) -> Tensor:
        """What the rounding of the moved weights can be off by in a sum: shaped as these."""
        largest = torch.maximum(*(bound.abs() for bound in self.bounded.jacobian))
        sizes = weights.abs() * self.rows.unsqueeze(1)
        sizes = sizes * self.columns if self.columns.dim() == 1 else sizes @ self.columns.abs().mT
        largest = largest if weights.dim() == 3 else largest.unsqueeze(1)
        return gamma(4 * self.columns.shape[0] * largest.shape[-2] + 32) * sizes * largest


def norm_and_weights(name: str, norm: object, per_output: bool = False) -> tuple[float, WeightedNorm | None]:
    """The p of a norm as it is given, and the weights if it has any.

    Args:
        name: of the argument.
        norm: a number, or a `WeightedNorm`.
        per_output: whether it is for constants of single rows, which have any norm.

    Raises:
        InputError: it is neither, or there is no formula for p.
    """
    if isinstance(norm, WeightedNorm):
        return float(norm.p), norm
    number = isinstance(norm, (int, float)) and not isinstance(norm, bool)
    if number and (float(norm) in NORMS or (per_output and 1 <= float(norm) < math.inf)):  # type: ignore[arg-type]
        return float(norm), None  # type: ignore[arg-type]
    if number and float(norm) > 1:  # type: ignore[arg-type]
        raise InputError(
            f"The constant of a vector output has no formula for `{name}` = {norm:g} here; use 1, 2 or inf, or "
            "`per_output=True`."
        )
    raise InputError(f"`{name}` must be 1, 2, inf or a `WeightedNorm`, got {norm!r}.")


def plain_norms(region: float, norm: object, output_norm: object, per_output: bool) -> tuple[float, float]:
    """p and q of a constant as they are given, those of the region if they are not, without weights.

    Raises:
        InputError: one of them has weights, or there is no formula.
    """
    if isinstance(norm, WeightedNorm) or isinstance(output_norm, WeightedNorm):
        raise InputError(
            "Norms with weights are for `local_lipschitz`; weigh the network's inputs and outputs instead."
        )
    p, _ = norm_and_weights("norm", region if norm is None else norm, per_output)
    return p, p if output_norm is None else norm_and_weights("output_norm", output_norm)[0]
