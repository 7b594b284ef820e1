"""Properties to verify: boxes of inputs, each with the outputs that would violate the property there."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from recurjac_plugin.errors import InputError


@dataclass(frozen=True, eq=False, repr=False)
class Polytope:
    """The outputs ``{y : A y <= b}``, with ``<`` in the rows that are strict.

    Attributes:
        A: float64 [m, n_outputs].
        b: float64 [m].
        strict: bool [m].
    """

    A: np.ndarray
    b: np.ndarray
    strict: np.ndarray

    def contains(self, y: np.ndarray) -> bool:  # y: [n_outputs]
        """Whether `y` fulfils every row, compared in float64 with tolerance 0; NaN fulfils none."""
        value = self.A @ np.asarray(y, dtype=np.float64).reshape(-1)
        return bool(np.where(self.strict, value < self.b, value <= self.b).all())

    def __repr__(self) -> str:
        return f"Polytope({' and '.join(self._row(i) for i in range(len(self.b)))})"

    def _row(self, i: int) -> str:
        terms = " ".join(f"{self.A[i, j]:+g} Y_{j}" for j in np.flatnonzero(self.A[i]))
        return f"{terms or '0'} {'<' if self.strict[i] else '<='} {self.b[i]:g}"


@dataclass(frozen=True, eq=False, repr=False)
class Box:
    """The inputs ``{x : lower <= x <= upper}``, and the sets of outputs that violate the property for such an input.

    Attributes:
        lower: float64 [n_inputs], flattened in row-major order.
        upper: float64 [n_inputs].
        disjuncts: an output in any one of them violates.
        lower_open: bool [n_inputs], where the lower bound itself is excluded.
        upper_open: bool [n_inputs], where the upper bound itself is excluded.
    """

    lower: np.ndarray
    upper: np.ndarray
    disjuncts: tuple[Polytope, ...]
    lower_open: np.ndarray
    upper_open: np.ndarray

    def contains(self, x: np.ndarray) -> bool:  # x: [n_inputs]
        """Whether `x` lies in the box, compared in float64 with tolerance 0."""
        x = np.asarray(x, dtype=np.float64).reshape(-1)
        above = np.where(self.lower_open, x > self.lower, x >= self.lower)
        below = np.where(self.upper_open, x < self.upper, x <= self.upper)
        return bool((above & below).all())

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """All rows ``A y <= b`` of all disjuncts, below each other: float64 A [k, n_outputs] and b [k]."""
        return np.concatenate([p.A for p in self.disjuncts]), np.concatenate([p.b for p in self.disjuncts])

    def rounded_outward(self, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
        """The bounds as numbers of type `dtype`, [n_inputs] each; the box between them contains this one.

        A bound that is no such number becomes the next one outside; open bounds are taken as closed.
        """
        with np.errstate(over="ignore"):
            lower, upper = self.lower.astype(dtype), self.upper.astype(dtype)
        lower = np.where(lower > self.lower, np.nextafter(lower, np.asarray(-np.inf, dtype)), lower)
        return lower, np.where(upper < self.upper, np.nextafter(upper, np.asarray(np.inf, dtype)), upper)

    def __repr__(self) -> str:
        radius = float((self.upper - self.lower).max()) / 2
        return f"Box({len(self.lower)} inputs, largest l-inf radius {radius:g}, {len(self.disjuncts)} disjuncts)"


@dataclass(frozen=True)
class Variable:
    """A tensor that a VNN-LIB 2.x query declares.

    Attributes:
        name: as declared.
        element_type: as declared, e.g. ``"real"`` or ``"float32"``.
        shape: as declared, with any batch dimension; empty for a single number.
    """

    name: str
    element_type: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Declaration:
    """The network that a VNN-LIB 2.x query is about.

    Attributes:
        network: its name.
        input: its input.
        output: its output.
    """

    network: str
    input: Variable
    output: Variable


@dataclass(frozen=True, eq=False, repr=False)
class Spec:
    """A property: violated where an input of one of the boxes has its output in one of that box's disjuncts.

    Attributes:
        boxes: the input regions.
        n_inputs: number of inputs, flattened.
        n_outputs: number of outputs, flattened.
        version: of VNN-LIB, ``"1.0"`` or ``"2.0"``.
        input_shape: as declared, with any batch dimension; None in VNN-LIB 1.0, which declares none.
        declaration: names, types and shapes as declared; None in VNN-LIB 1.0.
        path: the file it came from, None for a property that has none.
    """

    boxes: tuple[Box, ...]
    n_inputs: int
    n_outputs: int
    version: str = "1.0"
    input_shape: tuple[int, ...] | None = field(default=None)
    declaration: Declaration | None = None
    path: Path | None = None

    def violated(self, x: np.ndarray, y: np.ndarray) -> bool:  # x: [n_inputs], y: [n_outputs]
        """Whether input `x` with output `y` violates the property: float64 comparisons, tolerance 0.

        Raises:
            InputError: the sizes are not those of the property.
        """
        if np.size(x) != self.n_inputs or np.size(y) != self.n_outputs:
            raise InputError(
                f"`x`, `y` have {np.size(x)} and {np.size(y)} values: expected {self.n_inputs} and "
                f"{self.n_outputs}, as the property declares."
            )
        return any(box.contains(x) and any(p.contains(y) for p in box.disjuncts) for box in self.boxes)

    def __repr__(self) -> str:
        shape = "" if self.input_shape is None else f", input_shape={list(self.input_shape)}"
        boxes = ", ".join(map(repr, self.boxes[:3])) + (", ..." if len(self.boxes) > 3 else "")
        head = f"VNN-LIB {self.version}, n_inputs={self.n_inputs}, n_outputs={self.n_outputs}{shape}"
        return f"Spec({head}, {len(self.boxes)} boxes: {boxes})"
