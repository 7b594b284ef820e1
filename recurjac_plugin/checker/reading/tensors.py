"""Tensors of an ONNX graph as vectors of a `Network`, and what operators need to make new ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from recurjac_plugin.checker.maps import Dense, Map
from recurjac_plugin.checker.network import Affine, Vector
from recurjac_plugin.errors import counted

MOST = 1 << 26
"""Largest number of entries of one matrix."""


class Refused(ValueError):
    """What a node says that has no meaning here."""


class Tensor(NamedTuple):
    """A tensor that depends on the input: its shape, and the number of the vector that holds its elements in order."""

    shape: tuple[int, ...]
    vector: int


class Attributes(NamedTuple):
    """What a node says besides its inputs.

    Attributes:
        given: the attributes by name.
        outputs: number of its outputs.
    """

    given: dict[str, Any]
    outputs: int

    def __call__(self, name: str, default: Any) -> Any:
        """An attribute, or what it is without being given."""
        return self.given.get(name, default)


class Vectors:
    """The vectors of a network that is read.

    Attributes:
        made: all of them so far, in the order in which they are computed.
    """

    def __init__(self) -> None:
        self.made: list[Vector] = []

    def added(self, vector: Vector) -> int:
        """The number of a new vector."""
        self.made.append(vector)
        return len(self.made) - 1

    def affine(self, shape: tuple[int, ...], *terms: tuple[int, Map], bias: Any = 0.0, radius: Any = 0.0) -> Tensor:
        """A tensor of that shape: a sum of linear maps of vectors, and a constant that is known up to a radius."""
        size = math.prod(shape)
        arrays = [np.array(np.broadcast_to(each, shape), dtype=np.float64).reshape(size) for each in (bias, radius)]
        if not np.isfinite(arrays[0]).all():
            raise Refused("it has a number that is not finite")
        return Tensor(shape, self.added(Affine(terms, *arrays)))

    def selected(self, x: Tensor, index: np.ndarray) -> Tensor:
        """The elements of a tensor with these numbers; none where the number is -1: (shape of the new tensor)."""
        flat, size = index.reshape(-1), math.prod(x.shape)
        if len(flat) == size and (flat == np.arange(size)).all():
            return Tensor(index.shape, x.vector)
        matrix = np.zeros(room(len(flat), size))
        matrix[np.arange(len(flat)), flat] = flat >= 0
        return self.affine(index.shape, (x.vector, Dense(matrix)))

    def broadcast(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """A tensor repeated to a larger shape."""
        return self.selected(x, np.broadcast_to(numbers(x), np.broadcast_shapes(x.shape, shape)))


Operand = Any  # Tensor, np.ndarray or None
Operator = Callable[[Vectors, list[Operand], Attributes], list[Operand]]


def numbers(x: Tensor) -> np.ndarray:
    """The numbers of a tensor's elements, in its shape."""
    return np.arange(math.prod(x.shape)).reshape(x.shape)


def room(*shape: int) -> tuple[int, ...]:
    """A shape, unless it has too many elements."""
    if math.prod(shape) > MOST:
        raise Refused(f"its matrix has {counted(math.prod(shape), 'number')}, more than {MOST}")
    return shape


def fixed(operand: Operand) -> np.ndarray:
    """An operand that must be constant."""
    if not isinstance(operand, np.ndarray):
        raise Refused("expected a constant where the input has an influence, or nothing is given")
    return operand


def perturbed(operand: Operand) -> Tensor:
    """An operand that must depend on the input."""
    if not isinstance(operand, Tensor):
        raise Refused("it computes with constants alone")
    return operand


def finite(array: np.ndarray) -> np.ndarray:
    """Numbers that must be finite floating-point numbers."""
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        raise Refused("it has a number that is not finite, or no floating-point number")
    return array


def axes_of(inputs: list[Operand], attributes: Attributes, name: str = "axes") -> tuple[int, ...] | None:
    """Axes from an attribute (older files) or the second input (newer ones)."""
    if len(inputs) > 1 and inputs[1] is not None:
        return tuple(int(i) for i in fixed(inputs[1]).reshape(-1))
    value = attributes(name, None)
    return None if value is None else tuple(value)
