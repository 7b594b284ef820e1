"""Sums, products with constants, matrix products, and functions with a kink at 0."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from recurjac_plugin.checker.maps import Dense, Diagonal
from recurjac_plugin.checker.network import Affine, Kinks
from recurjac_plugin.checker.rounding import TINY, UNIT

from .tensors import Attributes, Operand, Operator, Refused, Tensor, Vectors, finite, fixed, perturbed, room


def _sum(sign: float) -> Operator:
    """``x + sign y``, either of which may be constant."""

    def operator(vectors: Vectors, inputs: list[Operand], attributes: Attributes) -> list[Operand]:
        x, y = inputs
        shape = np.broadcast_shapes(x.shape, y.shape)
        if isinstance(x, np.ndarray) or isinstance(y, np.ndarray):
            constant, other, first = (x, y, sign) if isinstance(x, np.ndarray) else (sign * finite(y), x, 1.0)
            tensor = vectors.broadcast(perturbed(other), shape)
            vector = vectors.made[tensor.vector]
            if first == 1.0 and isinstance(vector, Affine) and not (vector.bias.any() or vector.radius.any()):
                return [vectors.affine(shape, *vector.terms, bias=finite(constant))]
            scale = Diagonal(np.full(math.prod(shape), first))
            return [vectors.affine(shape, (tensor.vector, scale), bias=finite(constant))]
        size = math.prod(shape)
        both = [vectors.broadcast(perturbed(each), shape).vector for each in (x, y)]
        scales = [Diagonal(np.ones(size)), Diagonal(np.full(size, sign))]
        return [vectors.affine(shape, *zip(both, scales))]

    return operator


def scaled(vectors: Vectors, x: Tensor, factor: np.ndarray, radius: np.ndarray | None = None) -> Operand:
    """A tensor times constants that are known up to a radius, with broadcasting."""
    shape = np.broadcast_shapes(x.shape, factor.shape)
    around = None if radius is None else np.broadcast_to(radius, shape).reshape(-1)
    scale = Diagonal(np.broadcast_to(finite(factor), shape).reshape(-1), around)
    return vectors.affine(shape, (vectors.broadcast(x, shape).vector, scale))


def _product(vectors: Vectors, inputs: list[Operand], attributes: Attributes) -> list[Operand]:
    x, y = inputs if isinstance(inputs[0], Tensor) else inputs[::-1]
    return [scaled(vectors, perturbed(x), fixed(y))]


def _quotient(vectors: Vectors, inputs: list[Operand], attributes: Attributes) -> list[Operand]:
    divisor = finite(fixed(inputs[1]))
    if not divisor.all():
        raise Refused("it divides by zero")
    factor = 1.0 / divisor
    return [scaled(vectors, perturbed(inputs[0]), factor, 2 * UNIT * np.abs(factor) + TINY)]


def _negative(vectors: Vectors, inputs: list[Operand], attributes: Attributes) -> list[Operand]:
    return [scaled(vectors, perturbed(inputs[0]), np.array(-1.0))]


def _matmul(vectors: Vectors, inputs: list[Operand], attributes: Attributes) -> list[Operand]:
    x = next(each for each in inputs if isinstance(each, Tensor))
    other = finite(fixed(inputs[1] if x is inputs[0] else inputs[0]))
    alone = len(x.shape) == 1  # a row from the left, a column from the right
    if other.ndim > max(2, len(x.shape)) or (x is inputs[1] and not alone and other.ndim < 2):
        raise Refused("its constant has more axes than its input, or too few")
    size = math.prod(x.shape)
    room(size, size)
    unit = np.eye(size).reshape(size, *x.shape)
    if alone:
        columns = unit @ (other if x is inputs[0] else other.T)
    else:
        columns = unit @ other if x is inputs[0] else other @ unit
    room(columns.size)
    return [vectors.affine(columns.shape[1:], (x.vector, Dense(columns.reshape(size, -1).T.copy())))]


def _gemm(vectors: Vectors, inputs: list[Operand], attributes: Attributes) -> list[Operand]:
    x, weight = perturbed(inputs[0]), finite(fixed(inputs[1]))
    if attributes("transA", 0) or len(x.shape) != 2 or x.shape[0] != 1:
        raise Refused("expected one row as its first operand")
    alpha, beta = attributes("alpha", 1.0), attributes("beta", 1.0)
    weight = weight if attributes("transB", 0) else weight.T
    product = weight if alpha == 1.0 else alpha * weight
    radius = None if alpha == 1.0 else 2 * UNIT * np.abs(product) + TINY
    shape = (1, len(weight))
    bias = beta * finite(fixed(inputs[2])) if len(inputs) > 2 and inputs[2] is not None else np.zeros(shape)
    around = np.zeros(shape) if beta == 1.0 else 2 * UNIT * np.abs(bias) + TINY
    return [vectors.affine(shape, (x.vector, Dense(product.copy(), radius)), bias=bias, radius=around)]


def _kinks(slopes: Callable[[list[Operand], Attributes], tuple[Any, float]]) -> Operator:
    """A function with a kink at 0, from its slopes below and above."""

    def operator(vectors: Vectors, inputs: list[Operand], attributes: Attributes) -> list[Operand]:
        x = perturbed(inputs[0])
        negative, positive = slopes(inputs, attributes)
        below = np.array(np.broadcast_to(negative, x.shape), dtype=np.float64).reshape(-1)
        return [Tensor(x.shape, vectors.added(Kinks(x.vector, finite(below), np.full(len(below), positive))))]

    return operator


def _leaky(inputs: list[Operand], attributes: Attributes) -> tuple[Any, float]:
    return attributes("alpha", float(np.float32(0.01))), 1.0


def _parametric(inputs: list[Operand], attributes: Attributes) -> tuple[Any, float]:
    return finite(fixed(inputs[1])), 1.0


OPERATORS: dict[str, Operator] = {
    "Abs": _kinks(lambda inputs, attributes: (-1.0, 1.0)),
    "Add": _sum(1.0),
    "Div": _quotient,
    "Gemm": _gemm,
    "LeakyRelu": _kinks(_leaky),
    "MatMul": _matmul,
    "Mul": _product,
    "Neg": _negative,
    "PRelu": _kinks(_parametric),
    "Relu": _kinks(lambda inputs, attributes: (0.0, 1.0)),
    "Sub": _sum(-1.0),
}
"""Sums, products and functions with a kink."""
