r"""Norms ``||A||_p = max |A x|_p / |x|_p`` of linear maps, p = 1, 2, inf: never below the true value.

p = inf is the largest absolute row sum and p = 1 the largest absolute column sum. p = 2, the largest singular value, is
found exactly from the matrix where that is small, and otherwise from above: a plain power iteration would come from
below, and a Lipschitz constant made of it would be no bound.

* A convolution is a part of one on a torus, where it is block diagonal in the Fourier basis; the largest singular value
  over all blocks is bounded by Gram iteration (Delattre et al., ICML 2023, arXiv:2305.16173): with ``G = B^* B``,
  ``||G^q||_F^(1/q)`` is at least the largest eigenvalue of G and falls to it as q doubles. The torus here is the
  smallest that the padded input fits into, and strides are exact: they average the blocks of aliased frequencies.
* Everything else obeys ``||A||_2^2 <= ||A||_1 ||A||_inf``, which is exact for selections, repetitions and averages.

All is computed in float64, whatever the type of the weights, and enlarged by the rounding of its sums.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recurjac_plugin.graph.linear_maps import (
    Broadcast,
    Convolution,
    Dense,
    Embedding,
    LinearMap,
    Scale,
    Shape,
    Transposed,
    View,
)
from recurjac_plugin.numerics.rounding import EIGENVALUE, sum_error

SMALL = 2**22
"""Entries up to which a matrix is written out."""

_GRAM_SIDE = 4096  # of the smaller side of a matrix whose eigenvalues are computed
_SQUARINGS = 12  # of Gram iteration: at most n^(1/8192) too large, 0.1 percent for n = 4096
_BLOCK = 2**20  # complex numbers in one batch of frequencies


def operator_norm(linear: LinearMap, norm: float) -> float:
    """Upper bound of ``||A||_p`` of a linear map A, p = 1, 2 or inf.

    ``max_i sum_j |A_ij|`` for p = inf, ``max_j sum_i |A_ij|`` for p = 1; for p = 2 the largest singular value, or where
    that is not known ``sqrt(||A||_1 ||A||_inf)``.

    Args:
        linear: a map for float64 tensors, see `in_double`.
        norm: p.
    """
    if norm == math.inf:
        return float(_row_sums(linear).max()) * _rounding(linear)
    if norm == 1:
        return float(_row_sums(Transposed(linear)).max()) * _rounding(linear)
    spectral = _spectral_norm(linear)
    if spectral is None:
        spectral = math.sqrt(operator_norm(linear, 1.0) * operator_norm(linear, math.inf))
    return spectral * _rounding(linear)


def matrix_norm(matrix: Tensor, norm: float) -> float:
    """Upper bound of ``||A||_p`` of a float64 matrix of shape (m, n), p = 1, 2 or inf; for p = 2 by ``A A^T``."""
    rounding = 1 + sum_error(max(matrix.shape))
    if norm != 2:
        return float(torch.linalg.matrix_norm(matrix, ord=norm)) * rounding
    scale = float(matrix.abs().max())
    if scale == 0:
        return 0.0
    matrix = matrix / scale  # squares neither overflow nor vanish
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    return scale * math.sqrt(float(torch.linalg.eigvalsh(gram)[-1])) * rounding


def _rounding(linear: LinearMap) -> float:
    """Room for the rounding of sums of as many terms as the map has inputs or outputs."""
    return 1 + sum_error(max(_size(linear.input_shape), _size(linear.output_shape)))


def _size(shape: Shape) -> int:
    return math.prod(shape)


# Sums of absolute values


def _row_sums(linear: LinearMap) -> Tensor:
    """``sum_j |A_ij|`` for every i, flattened."""
    return linear.absolute().push(_like(linear).new_ones(1, *linear.input_shape)).flatten()


def _matrix(linear: LinearMap) -> Tensor:
    """The whole matrix: (outputs, inputs)."""
    like = _like(linear)
    return linear.pull_units(torch.arange(_size(linear.output_shape), device=like.device), like).flatten(1)


def _like(linear: LinearMap) -> Tensor:
    """A float64 number on the device of the map's tensors."""
    while isinstance(linear, (Transposed, _InDouble)):
        if isinstance(linear, _InDouble):
            return linear.like
        linear = linear.linear
    held = [value for value in vars(linear).values() if isinstance(value, Tensor)]
    return torch.zeros((), dtype=torch.float64, device=held[0].device if held else None)


# The largest singular value


def _spectral_norm(linear: LinearMap) -> float | None:
    """Upper bound of ``||A||_2``, None where only the one from sums is known."""
    if isinstance(linear, Transposed):
        return _spectral_norm(linear.linear)
    if isinstance(linear, (View, Embedding)):
        return 1.0
    if isinstance(linear, Scale) and linear.input_shape == linear.output_shape:
        return float(linear.factor.abs().max())
    if isinstance(linear, Dense) and min(linear.weight.shape) <= _GRAM_SIDE:
        return matrix_norm(linear.weight, 2.0)
    inputs, outputs = _size(linear.input_shape), _size(linear.output_shape)
    if inputs * outputs <= SMALL:
        if outputs <= inputs:
            return matrix_norm(_matrix(linear), 2.0)
        return matrix_norm(_matrix(Transposed(linear)), 2.0)
    return _convolution_norm(linear) if isinstance(linear, Convolution) else None


def _convolution_norm(conv: Convolution) -> float:
    """Upper bound of the largest singular value of a zero-padded convolution of any size.

    On a torus of N positions, ``y[t] = sum_k w[k] x[t s - p + d k]`` takes the frequencies ``f + a N / s``, a < s, of
    x to the frequency f of y. The blocks ``[W(f + a N / s)]_a / sqrt(s)`` hold for any N that s divides.
    """
    sides = tuple(map(_torus, conv.input_shape[1:], conv.output_shape[1:], conv.weight.shape[2:], conv.stride,
                      conv.padding, conv.dilation))  # fmt: skip
    counts = [side // stride for side, stride in zip(sides, conv.stride, strict=True)]
    counts[0] = counts[0] // 2 + 1  # the other half are complex conjugates
    weight = conv.weight.unflatten(0, (conv.groups, -1)).flatten(3)  # (g, o, i, positions of the kernel)
    scale = float(weight.abs().max())
    if scale == 0:
        return 0.0
    weight = (weight / scale).to(torch.complex128)
    offsets = _grid([*conv.weight.shape[2:]], weight.device) * _row(conv.dilation, weight) / _row(sides, weight)
    aliases = _grid(list(conv.stride), weight.device) * (_row(sides, weight) / _row(conv.stride, weight))
    aliases, frequencies = aliases.round(), _grid(counts, weight.device)
    per_frequency = (
        weight[..., 0].numel() * len(aliases)
        + weight.shape[0] * min(weight.shape[1], weight.shape[2] * len(aliases)) ** 2
    )
    largest = 0.0
    for part in frequencies.split(max(_BLOCK // per_frequency, 1)):
        turns = (part.unsqueeze(1) + aliases) @ offsets.T  # (F, a, positions)
        phases = torch.polar(torch.ones_like(turns), 2 * math.pi * turns)
        blocks = torch.einsum("goik,fak->fgoai", weight, phases).flatten(3).flatten(0, 1)
        blocks = blocks / math.sqrt(len(aliases))
        wide = blocks.shape[1] <= blocks.shape[2]
        largest = max(largest, _gram_iteration(blocks @ blocks.mH if wide else blocks.mH @ blocks, largest))
    return scale * math.sqrt(largest) * (1 + EIGENVALUE * sum_error(max(weight.shape)))


def _torus(size: int, out: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Positions that keep a convolution's padded input, and its outputs, apart; the zeros of both sides may coincide.

    Outputs stand at ``-p, ..., (out - 1) s - p`` and read up to d (kernel - 1) further.
    """
    last = (out - 1) * stride - padding
    behind = max(last + dilation * (kernel - 1) - (size - 1), 0)
    least = max(size + max(padding, behind), last + padding + 1)
    return -(-least // stride) * stride


def _grid(counts: list[int], device: torch.device) -> Tensor:
    """All tuples of whole numbers below `counts`: (n, len(counts))."""
    return torch.tensor([*itertools.product(*map(range, counts))], dtype=torch.float64, device=device)


def _row(values: Sequence[int], like: Tensor) -> Tensor:
    return torch.tensor(tuple(values), dtype=torch.float64, device=like.device)


def _gram_iteration(gram: Tensor, floor: float) -> float:
    """Upper bound of the largest eigenvalue of any of the positive semidefinite matrices (n, m, m), if above `floor`.

    Matrices whose bound falls below what another one reaches for certain are dropped on the way.
    """
    log_scale = gram.new_zeros(len(gram), dtype=torch.float64)  # gram^q = exp(log_scale) times the matrix held
    power, upper = 1, 0.0
    for _ in range(_SQUARINGS):
        size = torch.linalg.matrix_norm(gram).clamp(min=torch.finfo(torch.float64).tiny)
        gram, log_scale = gram / size[:, None, None], log_scale + size.log()
        square = gram @ gram
        # sum l^4 / sum l^2 <= max l^2 <= sqrt(sum l^4), for the eigenvalues l of the matrix held, whose sum l^2 is 1.
        fourth = torch.linalg.matrix_norm(square)
        lower = (log_scale + fourth.log()) / power
        bound = (log_scale + fourth.log() / 2) / power
        upper = math.exp(float(bound.max()))
        kept = bound >= max(float(lower.max()), math.log(floor) if floor > 0 else -math.inf)
        if not bool(kept.any()):
            return 0.0
        gram, log_scale, power = square[kept], 2 * log_scale[kept], 2 * power
    return upper


# One map instead of two


def fused(first: LinearMap, second: LinearMap) -> LinearMap | None:
    """``A_2 A_1`` as one map of the same kind where that costs nothing, else None.

    Its norm is never larger than the product of theirs.
    """
    if isinstance(first, Dense) and isinstance(second, Dense) and first.output_shape == second.input_shape:
        return Dense(second.weight @ first.weight, first.input_shape, second.output_shape)
    if isinstance(first, Scale) and first.input_shape == first.output_shape:
        factor = _per_channel(first)
        if isinstance(second, Dense) and len(second.input_shape) == 1 and factor is not None:
            return replace(second, weight=second.weight * factor)
        if isinstance(second, Convolution) and second.groups == 1 and factor is not None:
            return replace(second, weight=second.weight * factor.reshape(1, -1, *(1,) * (second.weight.dim() - 2)))
    if isinstance(second, Scale) and second.input_shape == second.output_shape:
        factor = _per_channel(second)
        if isinstance(first, Dense) and len(first.output_shape) == 1 and factor is not None:
            return replace(first, weight=first.weight * factor.reshape(-1, 1))
        if isinstance(first, Convolution) and factor is not None:
            return replace(first, weight=first.weight * factor.reshape(-1, *(1,) * (first.weight.dim() - 1)))
        if isinstance(first, Scale) and first.input_shape == first.output_shape:
            return replace(first, factor=first.factor * second.factor)
    return None


def _per_channel(scale: Scale) -> Tensor | None:
    """The factor of every channel, (1,) or (channels,); None where it varies within a channel."""
    factor = scale.factor.reshape(*(1,) * (len(scale.input_shape) + 1 - scale.factor.dim()), *scale.factor.shape)
    return factor.reshape(-1) if factor.numel() == factor.shape[1] else None


# Number types


def in_double(linear: LinearMap, like: Tensor) -> LinearMap:
    """The same map for float64 tensors.

    Args:
        linear: any map.
        like: a tensor of the number type and device that the map works in.
    """
    if isinstance(linear, Transposed):
        return Transposed(in_double(linear.linear, like))
    if isinstance(linear, (Dense, Convolution)):
        return replace(linear, weight=linear.weight.double())
    if isinstance(linear, Scale):
        return replace(linear, factor=linear.factor.double())
    if isinstance(linear, (Broadcast, Embedding, View)) and like.device.type == "cpu":
        return linear
    return _InDouble(linear, like.new_zeros((), dtype=torch.float64), like.dtype)


@dataclass(frozen=True, eq=False)
class _InDouble(LinearMap):
    """A map that works in its own number type, for float64 tensors."""

    linear: LinearMap
    like: Tensor
    dtype: torch.dtype

    @property
    def input_shape(self) -> Shape:  # type: ignore[override]
        return self.linear.input_shape

    @property
    def output_shape(self) -> Shape:  # type: ignore[override]
        return self.linear.output_shape

    def absolute(self) -> LinearMap:
        return replace(self, linear=self.linear.absolute())

    def push(self, tangent: Tensor) -> Tensor:
        return self.linear.push(tangent.to(self.dtype)).double()

    def pull(self, rows: Tensor) -> Tensor:
        return self.linear.pull(rows.to(self.dtype)).double()
