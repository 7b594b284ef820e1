r"""A network as a list of vectors: the input, affine functions of earlier vectors, and functions with a kink at 0.

With the vectors numbered in the order in which they are computed, vector v is

* the input, for v = 0, or
* :math:`\sum_s W_{vs} h_s + c_v` over earlier vectors s (`Affine`), or
* element by element :math:`n z` for z < 0 and :math:`p z` for z >= 0 of an earlier vector z (`Kinks`): ReLU with n = 0
  and p = 1, leaky ReLU with n = the slope, the absolute value with n = -1.

All of it is meant in real arithmetic.

The *adjoint* of a network computes the gradient of its last vector: where two inputs differ, the differences of a
kink's output and of its input have the ratio d, between n and p, so that the difference of the last vector is the
product of the matrices ``W`` and ``diag(d)`` along all ways, times that of the inputs. Read from the last vector back
it is a network, too, whose `Kinks` multiply by an unknown d.

Source: backpropagation; the adjoint as a network that is bounded as the network itself is this package's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from .maps import Diagonal, Map


@dataclass(frozen=True, eq=False)
class Input:
    """The input of a network.

    Attributes:
        size: number of elements.
        sources: the vectors it is made from: none.
    """

    size: int
    sources: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Affine:
    """A sum of linear maps of earlier vectors, and a constant.

    Attributes:
        terms: of each the number of the vector, and the map.
        bias: float64 (size,).
        radius: how far the constant may be from `bias`, float64 (size,).
    """

    terms: tuple[tuple[int, Map], ...]
    bias: np.ndarray
    radius: np.ndarray

    @property
    def size(self) -> int:
        """Number of elements."""
        return len(self.bias)

    @property
    def sources(self) -> tuple[int, ...]:
        """The vectors it is made from."""
        return tuple(source for source, _ in self.terms)


@dataclass(frozen=True, eq=False)
class Kinks:
    """A function of every element of an earlier vector: ``negative z`` below 0, ``positive z`` from 0 on.

    Attributes:
        source: the number of that vector.
        negative: float64 (size,).
        positive: float64 (size,).
    """

    source: int
    negative: np.ndarray
    positive: np.ndarray

    @property
    def size(self) -> int:
        """Number of elements."""
        return len(self.negative)

    @property
    def sources(self) -> tuple[int, ...]:
        """The vector it is made from."""
        return (self.source,)


Vector = Input | Affine | Kinks


@dataclass(frozen=True, eq=False)
class Network:
    """A network whose last vector is its output.

    Attributes:
        vectors: in the order in which they are computed, the input first. Each is used by a later one, but the last.
    """

    vectors: tuple[Vector, ...]

    @classmethod
    def of(cls, vectors: Iterable[Vector], output: int) -> Network:
        """The part of some vectors that an output needs, with the input; the output becomes the last one."""
        everything = [*vectors]
        needed, waiting = {0}, [output]
        while waiting:
            v = waiting.pop()
            if v not in needed:
                needed.add(v)
                vector = everything[v]
                waiting += vector.sources
        order = {old: new for new, old in enumerate(sorted(needed))}
        return cls(tuple(_renumbered(everything[v], order) for v in order))

    def followed_by(self, last: Map, bias: np.ndarray, radius: np.ndarray) -> Network:
        """This network and an affine function of its output."""
        return Network((*self.vectors, Affine(((len(self.vectors) - 1, last),), bias, radius)))

    def adjoint(self) -> tuple[Network, dict[int, int]]:
        """The network that computes the gradient of a sum of this one's outputs by its input.

        Returns:
            A network from the weights of the sum to the gradient, and by number of each of its `Kinks` that of the
            `Kinks` here whose d they multiply by. Their own slopes are empty.
        """
        last = len(self.vectors) - 1
        made: list[Vector] = [Input(self.vectors[last].size)]
        gradient = {last: 0}
        product: dict[int, int] = {}
        ratios: dict[int, int] = {}
        for v in range(last, -1, -1):
            vector = self.vectors[v]
            if v < last:
                readers = [r for r in gradient for source in self.vectors[r].sources if source == v]
                if v and len(readers) == 1 and isinstance(self.vectors[readers[0]], Kinks):
                    gradient[v] = product[readers[0]]
                else:
                    gradient[v] = len(made)
                    terms = tuple(self._terms(v, gradient, product))
                    made.append(Affine(terms, np.zeros(vector.size), np.zeros(vector.size)))
            if isinstance(vector, Kinks):
                product[v] = len(made)
                ratios[len(made)] = v
                made.append(Kinks(gradient[v], np.zeros(vector.size), np.zeros(vector.size)))
        return Network(tuple(made)), ratios

    def _terms(self, v: int, gradient: dict[int, int], product: dict[int, int]) -> Iterable[tuple[int, Map]]:
        """The terms of the gradient by vector v: one for every use of it."""
        for reader in sorted(gradient):
            vector = self.vectors[reader]
            if isinstance(vector, Affine):
                yield from ((gradient[reader], map_.transposed) for source, map_ in vector.terms if source == v)
            elif isinstance(vector, Kinks) and vector.source == v:
                yield product[reader], Diagonal(np.ones(vector.size))


def _renumbered(vector: Vector, order: dict[int, int]) -> Vector:
    if isinstance(vector, Affine):
        return replace(vector, terms=tuple((order[source], map_) for source, map_ in vector.terms))
    return replace(vector, source=order[vector.source]) if isinstance(vector, Kinks) else vector
