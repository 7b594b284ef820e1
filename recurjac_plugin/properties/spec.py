"""Properties to verify: boxes of inputs, each with the outputs that would violate the property there."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np

from recurjac_plugin.errors import InputError


@dataclass(frozen=True, eq=False, repr=False)
class Polytope:
    """The outputs ``{y : A y <= b}``, or of an input x ``{y : A y + B x <= b}``; ``<`` in the rows that are strict.

    Attributes:
        A: float64 [m, n_outputs].
        b: float64 [m].
        strict: bool [m].
        B: float64 [m, n_inputs]; None where no row is about inputs.
    """

    A: np.ndarray
    b: np.ndarray
    strict: np.ndarray
    B: np.ndarray | None = None

    def contains(self, y: np.ndarray, x: np.ndarray | None = None) -> bool:  # y: [n_outputs], x: [n_inputs]
        """Whether `y` fulfils every row, compared in float64 with tolerance 0; NaN fulfils none.

        Rows that are about inputs are compared in rational numbers: no rounding makes a violation of them.
        """
        y = np.asarray(y, dtype=np.float64).reshape(-1)
        if self.B is None:
            value = self.A @ y
            return bool(np.where(self.strict, value < self.b, value <= self.b).all())
        if x is None:
            raise InputError("`x` is missing: rows of this polytope are about the input as well; give it.")
        together = np.concatenate([y, np.asarray(x, dtype=np.float64).reshape(-1)])
        return all(
            _holds(row, together, b, strict)
            for row, b, strict in zip(np.concatenate([self.A, self.B], 1), self.b.tolist(), self.strict.tolist())
        )

    def __repr__(self) -> str:
        return f"Polytope({' and '.join(self._row(i) for i in range(len(self.b)))})"

    def _row(self, i: int) -> str:
        terms = [f"{self.A[i, j]:+g} Y_{j}" for j in np.flatnonzero(self.A[i])]
        terms += [] if self.B is None else [f"{self.B[i, j]:+g} X_{j}" for j in np.flatnonzero(self.B[i])]
        return f"{' '.join(terms) or '0'} {'<' if self.strict[i] else '<='} {self.b[i]:g}"


def _holds(row: np.ndarray, v: np.ndarray, b: float, strict: bool) -> bool:
    """Whether ``row v <= b``, or ``<``, without rounding."""
    used = np.flatnonzero(row)
    if not np.isfinite(v[used]).all():
        return False
    value = sum((Fraction(row[i]) * Fraction(v[i]) for i in used), start=Fraction(0))
    return value < b if strict else value <= b


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

    def joined(self) -> Box:
        """The same box of a network whose outputs are y and then x: rows about inputs are rows of these outputs."""
        zeros = [np.zeros((len(p.b), len(self.lower))) if p.B is None else p.B for p in self.disjuncts]
        disjuncts = tuple(
            Polytope(np.concatenate([p.A, B], 1), p.b, p.strict) for p, B in zip(self.disjuncts, zeros, strict=True)
        )
        return replace(self, disjuncts=disjuncts)

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

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Interface:
    """A network as a VNN-LIB 2.x query declares it.

    Attributes:
        name: of the network.
        inputs: in the order of the query.
        outputs: in the order of the query.
        equal_to: the network that this one is another use of; None for none.
        isomorphic_to: the network that this one has the architecture of; None for none.
    """

    name: str
    inputs: tuple[Variable, ...]
    outputs: tuple[Variable, ...]
    equal_to: str | None = None
    isomorphic_to: str | None = None


@dataclass(frozen=True)
class Declaration:
    """The networks that a VNN-LIB 2.x query is about.

    Inputs and outputs of a `Spec` are those of all networks, one after the other, each flattened in row-major order.

    Attributes:
        networks: in the order of the query.
    """

    networks: tuple[Interface, ...]

    @property
    def variables(self) -> tuple[Variable, ...]:
        """All of them, in the order of the query."""
        return tuple(variable for network in self.networks for variable in (*network.inputs, *network.outputs))


@dataclass(frozen=True, eq=False, repr=False)
class Spec:
    """A property: violated where an input of one of the boxes has its output in one of that box's disjuncts.

    Attributes:
        boxes: the input regions.
        n_inputs: number of inputs, flattened.
        n_outputs: number of outputs, flattened.
        version: of VNN-LIB, ``"1.0"`` or ``"2.0"``.
        input_shape: as declared, with any batch dimension; None where there are several, and in VNN-LIB 1.0.
        declaration: names, types and shapes as declared; None in VNN-LIB 1.0.
        path: the file it came from, None for a property that has none.
        remarks: sentences about what is odd in the file.
        inputs_appended: whether the last `n_inputs` outputs are the inputs themselves (`joined`).
    """

    boxes: tuple[Box, ...]
    n_inputs: int
    n_outputs: int
    version: str = "1.0"
    input_shape: tuple[int, ...] | None = field(default=None)
    declaration: Declaration | None = None
    path: Path | None = None
    remarks: tuple[str, ...] = ()
    inputs_appended: bool = False

    @cached_property
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds of all boxes, float64 [n_boxes, n_inputs] each."""
        ends = [[box.lower for box in self.boxes], [box.upper for box in self.boxes]]
        lower, upper = (np.array(each, dtype=np.float64).reshape(-1, self.n_inputs) for each in ends)
        return lower, upper

    def nearest(self, x: np.ndarray, most: int) -> tuple[Box, ...]:  # x: [n_inputs]
        """At most so many of the boxes, those nearest to `x` in the maximum norm, in their order."""
        if len(self.boxes) <= most:
            return self.boxes
        lower, upper = self.ends
        away = np.maximum(lower - x, x - upper).max(1)
        return tuple(self.boxes[i] for i in np.sort(np.argsort(away, kind="stable")[:most]))

    @cached_property
    def mixed(self) -> bool:
        """Whether some row is about inputs."""
        return any(polytope.B is not None for box in self.boxes for polytope in box.disjuncts)

    def joined(self) -> Spec:
        """The same property of a network whose outputs are y and then x."""
        return replace(
            self,
            boxes=tuple(box.joined() for box in self.boxes),
            n_outputs=self.n_outputs + self.n_inputs,
            inputs_appended=True,
        )

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
        if self.inputs_appended:
            return self._violated(x, np.asarray(y).reshape(-1)[: -self.n_inputs], self.n_outputs - self.n_inputs)
        return any(box.contains(x) and any(p.contains(y, x) for p in box.disjuncts) for box in self._around(x))

    def _violated(self, x: np.ndarray, y: np.ndarray, n_outputs: int) -> bool:
        """The same where rows are about y and x together: x is the input, not what a network made of it."""
        return any(
            box.contains(x)
            and any(
                Polytope(p.A[:, :n_outputs], p.b, p.strict, p.A[:, n_outputs:]).contains(y, x) for p in box.disjuncts
            )
            for box in self._around(x)
        )

    def _around(self, x: np.ndarray) -> tuple[Box, ...]:
        """The boxes whose closures contain `x`."""
        lower, upper = self.ends
        at = np.asarray(x, dtype=np.float64).reshape(-1)
        return tuple(self.boxes[i] for i in np.flatnonzero(((lower <= at) & (at <= upper)).all(1)))

    def __repr__(self) -> str:
        shape = "" if self.input_shape is None else f", input_shape={list(self.input_shape)}"
        boxes = ", ".join(map(repr, self.boxes[:3])) + (", ..." if len(self.boxes) > 3 else "")
        head = f"VNN-LIB {self.version}, n_inputs={self.n_inputs}, n_outputs={self.n_outputs}{shape}"
        return f"Spec({head}, {len(self.boxes)} boxes: {boxes})"
