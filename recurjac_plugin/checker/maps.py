r"""Linear maps ``y = W x`` whose matrix is known up to a radius: ``|W - weight| <= radius``, element by element.

A radius is there where a file gives a number that float64 does not have, such as the quotient of two weights.

Source: matrices as midpoints and radii, Rump: Verification methods, Acta Numerica 19, 2010.
"""

from __future__ import annotations

import abc
from functools import cached_property

import numpy as np


class Map(abc.ABC):
    """A linear map of vectors. All arguments have one vector along their last axis.

    Attributes:
        operations: at least the number of operations behind each number of a result.
    """

    operations: int

    @abc.abstractmethod
    def ends(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ends of ``weight x`` over ``low <= x <= high``, as float64 computes them."""

    @abc.abstractmethod
    def sizes(self, x: np.ndarray) -> np.ndarray:
        """``|weight| x`` of ``x >= 0``, as float64 computes it."""

    @abc.abstractmethod
    def doubts(self, x: np.ndarray) -> np.ndarray | float:
        """``radius x`` of ``x >= 0``, as float64 computes it."""

    @abc.abstractmethod
    def pulled(self, coefficients: np.ndarray) -> np.ndarray:
        """``coefficients weight``, as float64 computes it."""

    @property
    @abc.abstractmethod
    def transposed(self) -> Map:
        """The map with the transposed matrix."""


class Dense(Map):
    """A matrix.

    Args:
        weight: float64 (m, n).
        radius: at least 0, float64 (m, n); None for a matrix that is known exactly.
    """

    def __init__(self, weight: np.ndarray, radius: np.ndarray | None = None) -> None:
        self.weight, self.radius = weight, radius
        self.operations = sum(weight.shape)

    @cached_property
    def _signs(self) -> tuple[np.ndarray, np.ndarray]:
        return np.maximum(self.weight, 0.0).T, np.minimum(self.weight, 0.0).T

    def ends(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        positive, negative = self._signs
        return low @ positive + high @ negative, high @ positive + low @ negative

    def sizes(self, x: np.ndarray) -> np.ndarray:
        return x @ np.abs(self.weight).T

    def doubts(self, x: np.ndarray) -> np.ndarray | float:
        return 0.0 if self.radius is None else x @ self.radius.T

    def pulled(self, coefficients: np.ndarray) -> np.ndarray:
        rows = coefficients.reshape(-1, len(self.weight)) @ self.weight
        return rows.reshape(*coefficients.shape[:-1], self.weight.shape[1])

    @cached_property
    def transposed(self) -> Dense:
        return Dense(self.weight.T, None if self.radius is None else self.radius.T)


class Diagonal(Map):
    """A diagonal matrix.

    Args:
        weight: its diagonal, float64 (n,).
        radius: at least 0, float64 (n,); None for numbers that are known exactly.
    """

    operations = 2

    def __init__(self, weight: np.ndarray, radius: np.ndarray | None = None) -> None:
        self.weight, self.radius = weight, radius

    def ends(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        one, other = low * self.weight, high * self.weight
        return np.minimum(one, other), np.maximum(one, other)

    def sizes(self, x: np.ndarray) -> np.ndarray:
        return x * np.abs(self.weight)

    def doubts(self, x: np.ndarray) -> np.ndarray | float:
        return 0.0 if self.radius is None else x * self.radius

    def pulled(self, coefficients: np.ndarray) -> np.ndarray:
        return coefficients * self.weight

    @property
    def transposed(self) -> Diagonal:
        return self
