"""Cases of a property: boxes of inputs, each with a conjunction of output rows, from the product of its assertions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .property_file import PropertyFile

_ARRAYS = ("lower", "upper", "lower_open", "upper_open", "lower_line", "upper_line")  # of a `Case`


@dataclass(frozen=True)
class Atom:
    """One row ``sum_i coefficients[i] v_i <= constant`` (``<`` if strict), over inputs or over outputs.

    Attributes:
        on_inputs: whether the v are inputs; such a row has one coefficient, which is not 0, and is a bound.
        coefficients: by flat index.
        constant: the right side.
        strict: whether equality is excluded.
        line: of the file; 0 where it is not known.
    """

    on_inputs: bool
    coefficients: dict[int, float]
    constant: float
    strict: bool
    line: int


@dataclass(frozen=True)
class Disjunction:
    """An assertion in disjunctive normal form.

    Attributes:
        conjunctions: of which one must hold, each of rows that must all hold.
        split: whether a `!=` made two of one; those may allow no input.
    """

    conjunctions: tuple[tuple[Atom, ...], ...]
    split: bool


@dataclass(frozen=True, eq=False)
class Case:
    """A box of inputs, and the rows that its outputs must fulfil.

    Attributes:
        lower: float64 [n_inputs].
        upper: float64 [n_inputs].
        lower_open: bool [n_inputs], where the lower bound itself is excluded.
        upper_open: bool [n_inputs], where the upper bound itself is excluded.
        lower_line: int [n_inputs], the lines of the file that set the lower bounds, 0 for none.
        upper_line: int [n_inputs], the same of the upper bounds.
        rows: of the outputs.
    """

    lower: np.ndarray
    upper: np.ndarray
    lower_open: np.ndarray
    upper_open: np.ndarray
    lower_line: np.ndarray
    upper_line: np.ndarray
    rows: tuple[Atom, ...] = ()

    @classmethod
    def unbounded(cls, n_inputs: int) -> Case:
        """All inputs, no rows."""
        bound, is_open, line = np.full(n_inputs, np.inf), np.zeros(n_inputs, bool), np.zeros(n_inputs, int)
        return cls(-bound, bound, is_open, is_open, line, line)

    def restricted(self, atoms: Sequence[Atom]) -> Case:
        """This case with further bounds and rows; of two bounds the tighter one, open before closed."""
        bounds = [atom for atom in atoms if atom.on_inputs]
        case = replace(self, rows=(*self.rows, *(atom for atom in atoms if not atom.on_inputs)))
        if bounds:  # else the arrays are shared
            case = replace(case, **{name: getattr(self, name).copy() for name in _ARRAYS})
        for atom in bounds:
            case._tighten(atom)
        return case

    def _tighten(self, atom: Atom) -> None:
        """Write a bound into the arrays where it is the tighter one."""
        ((i, coefficient),) = atom.coefficients.items()
        value = atom.constant / coefficient
        if coefficient > 0:
            if (value, not atom.strict) < (self.upper[i], not self.upper_open[i]):
                self.upper[i], self.upper_open[i], self.upper_line[i] = value, atom.strict, atom.line
        elif (value, atom.strict) > (self.lower[i], self.lower_open[i]):
            self.lower[i], self.lower_open[i], self.lower_line[i] = value, atom.strict, atom.line

    def empty_at(self) -> int | None:
        """The first input that has no value between its bounds."""
        no_point = (self.lower == self.upper) & (self.lower_open | self.upper_open)
        empty = np.flatnonzero((self.lower > self.upper) | no_point)
        return int(empty[0]) if len(empty) else None

    def unbounded_at(self) -> int | None:
        """The first input without a lower or an upper bound."""
        missing = np.flatnonzero(np.isinf(self.lower) | np.isinf(self.upper))
        return int(missing[0]) if len(missing) else None

    def key(self) -> bytes:
        """Equal for cases with the same box."""
        return b"".join(array.tobytes() for array in (self.lower, self.upper, self.lower_open, self.upper_open))


def cross_product(assertions: Sequence[Disjunction], file: PropertyFile, most: int) -> list[Case]:
    """All cases of a conjunction of assertions.

    A combination of several disjunctions may well allow no input and is left out. What a single conjunction excludes
    together with the bounds that always hold is a mistake in the file, unless a ``!=`` made it.

    Args:
        assertions: all of the file.
        file: for messages, and the number of inputs.
        most: refuse more cases than this.

    Raises:
        FileError: a box that is empty or lacks a bound, or too many cases.
    """
    always = [row for assertion in assertions if len(assertion.conjunctions) == 1 for row in assertion.conjunctions[0]]
    base = Case.unbounded(file.n_inputs).restricted(always)
    _refuse_empty(base, file)
    cases = [base]
    for assertion in assertions:
        if len(assertion.conjunctions) == 1:
            continue
        if not assertion.split:
            for conjunction in assertion.conjunctions:
                _refuse_empty(base.restricted(conjunction), file)
        if len(cases) * len(assertion.conjunctions) > most:
            raise file.error("has too many combinations of disjunctions", f"expected at most {most}", None)
        cases = [case.restricted(conjunction) for case in cases for conjunction in assertion.conjunctions]
        cases = [case for case in cases if case.empty_at() is None]
    if not cases:
        raise file.error("allows no input", "expected bounds that some input fulfils", None)
    for case in cases:
        _refuse_unbounded(case, file)
    return cases


def _refuse_empty(case: Case, file: PropertyFile) -> None:
    i = case.empty_at()
    if i is not None:
        lines = (int(case.lower_line[i]), int(case.upper_line[i]))
        what = (
            f"leaves `{file.input_name(i)}` no value: lower bound {float(case.lower[i])!r} of line {lines[0]}, "
            f"upper bound {float(case.upper[i])!r} of line {lines[1]}"
        )
        raise file.error(what, "expected a lower bound below the upper one", max(lines))


def _refuse_unbounded(case: Case, file: PropertyFile) -> None:
    i = case.unbounded_at()
    if i is not None:
        which = "lower" if np.isinf(case.lower[i]) else "upper"
        raise file.error(f"gives `{file.input_name(i)}` no {which} bound", "expected both bounds for every input", None)
