"""Cases of a property: boxes of inputs, each with a conjunction of rows, from the product of its assertions."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from .property_file import PropertyFile

_ARRAYS = ("lower", "upper", "lower_open", "upper_open", "lower_line", "upper_line")  # of a `Case`
_MANY = 16  # bounds of a conjunction that are taken together


@dataclass(frozen=True)
class Atom:
    """One row ``sum_i inputs[i] x_i + sum_j outputs[j] y_j <= constant`` (``<`` if strict).

    Attributes:
        inputs: coefficients of inputs by flat index, none of them 0.
        outputs: coefficients of outputs by flat index, none of them 0.
        constant: the right side.
        strict: whether equality is excluded.
        line: of the file; 0 where it is not known.
    """

    inputs: dict[int, float]
    outputs: dict[int, float]
    constant: float
    strict: bool
    line: int

    @property
    def is_bound(self) -> bool:
        """Whether it is a bound of a single input; anything else stays a row."""
        return len(self.inputs) == 1 and not self.outputs

    @property
    def truth(self) -> bool | None:
        """Whether it always or never holds, where all variables have cancelled; None for any other."""
        if self.inputs or self.outputs:
            return None
        return self.constant > 0.0 if self.strict else self.constant >= 0.0


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
    """A box of inputs, and the rows that these and their outputs must fulfil.

    Attributes:
        lower: float64 [n_inputs].
        upper: float64 [n_inputs].
        lower_open: bool [n_inputs], where the lower bound itself is excluded.
        upper_open: bool [n_inputs], where the upper bound itself is excluded.
        lower_line: int [n_inputs], the lines of the file that set the lower bounds, 0 for none.
        upper_line: int [n_inputs], the same of the upper bounds.
        rows: all that are no bounds.
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
        bounds = [atom for atom in atoms if atom.is_bound]
        rows = (*self.rows, *(atom for atom in atoms if not atom.is_bound)) if len(bounds) < len(atoms) else self.rows
        if not bounds:
            return replace(self, rows=rows)  # the arrays are shared
        case = Case(**{name: getattr(self, name).copy() for name in _ARRAYS}, rows=rows)
        if len(bounds) > _MANY and not any(atom.strict or atom.line for atom in bounds):
            case._tighten_together(bounds)
        else:
            for atom in bounds:
                case._tighten(atom)
        return case

    def _tighten_together(self, bounds: Sequence[Atom]) -> None:
        """The same for many bounds that are closed and have no lines."""
        entries = [(i, coefficient, atom.constant) for atom in bounds for i, coefficient in atom.inputs.items()]
        index, coefficient, constant = (np.array(each) for each in zip(*entries))
        value, above = constant / coefficient, coefficient > 0
        upper, lower = np.full(self.upper.shape, np.inf), np.full(self.lower.shape, -np.inf)
        np.minimum.at(upper, index[above], value[above])
        np.maximum.at(lower, index[~above], value[~above])
        smaller, larger = upper < self.upper, lower > self.lower
        self.upper[smaller], self.upper_open[smaller], self.upper_line[smaller] = upper[smaller], False, 0
        self.lower[larger], self.lower_open[larger], self.lower_line[larger] = lower[larger], False, 0

    def _tighten(self, atom: Atom) -> None:
        """Write a bound into the arrays where it is the tighter one."""
        ((i, coefficient),) = atom.inputs.items()
        value = atom.constant / coefficient
        if coefficient > 0:
            if (value, not atom.strict) < (self.upper[i], not self.upper_open[i]):
                self.upper[i], self.upper_open[i], self.upper_line[i] = value, atom.strict, atom.line
        elif (value, atom.strict) > (self.lower[i], self.lower_open[i]):
            self.lower[i], self.lower_open[i], self.lower_line[i] = value, atom.strict, atom.line

    def empty_at(self) -> int | None:
        """The first input that has no value between its bounds."""
        empty = (self.lower > self.upper) | ((self.lower == self.upper) & (self.lower_open | self.upper_open))
        return int(empty.argmax()) if empty.any() else None

    def unbounded_at(self) -> int | None:
        """The first input without a lower or an upper bound."""
        missing = np.isinf(self.lower) | np.isinf(self.upper)
        return int(missing.argmax()) if missing.any() else None

    def completed(self) -> Case:
        """This case with bounds that rows on inputs alone give to inputs without any, computed exactly.

        From ``sum_j c_j x_j <= b`` follows ``c_i x_i <= b - sum_{j != i} min(c_j x_j)`` (interval propagation, as in
        Davis, Artificial Intelligence 32, 1987). Where that is no double, the next one outside is taken.
        """
        rows = [row for row in self.rows if row.inputs and not row.outputs]
        case = replace(self, **{name: getattr(self, name).copy() for name in _ARRAYS})
        for _ in range(len(self.lower)):
            filled = [case._fill(row) for row in rows]
            if not any(filled):
                break
        return case

    def _fill(self, row: Atom) -> bool:
        """Give a bound to the one input of a row that lacks what the others of it imply; whether there is one."""
        ends = {i: self.lower[i] if c > 0 else self.upper[i] for i, c in row.inputs.items()}
        open_ = [i for i, c in row.inputs.items() if math.isinf(self.upper[i] if c > 0 else self.lower[i])]
        changed = False
        for i in open_:
            others = [j for j in row.inputs if j != i]
            if any(math.isinf(ends[j]) for j in others):
                continue
            coefficient = Fraction(row.inputs[i])
            rest = sum((Fraction(row.inputs[j]) * Fraction(ends[j]) for j in others), start=Fraction(0))
            value = (Fraction(row.constant) - rest) / coefficient
            side = (self.upper, self.upper_line) if coefficient > 0 else (self.lower, self.lower_line)
            side[0][i], side[1][i] = _outward(value, up=coefficient > 0), row.line
            changed = True
        return changed

    def key(self) -> bytes:
        """Equal for cases with the same box."""
        return b"".join(array.tobytes() for array in (self.lower, self.upper, self.lower_open, self.upper_open))


def _outward(value: Fraction, up: bool) -> float:
    """The nearest double that is not below the number, or not above it."""
    try:
        near = float(value)
    except OverflowError:
        return math.inf if up == (value > 0) else math.copysign(sys.float_info.max, value)
    if (near < value) if up else (near > value):
        near = math.nextafter(near, math.inf if up else -math.inf)
    return near


def cross_product(assertions: Sequence[Disjunction], file: PropertyFile, most: int) -> tuple[list[Case], list[str]]:
    """All cases of a conjunction of assertions that allow an input, and what a reader may want to know of the others.

    A combination of several disjunctions may well allow no input. What a single conjunction excludes together with the
    bounds that always hold is left out, too, but may be a mistake in the file, unless a ``!=`` made it.

    Args:
        assertions: all of the file.
        file: for messages, and the number of inputs.
        most: refuse more cases than this.

    Returns:
        The cases, and a sentence for the first that single conjunctions leave empty.

    Raises:
        FileError: a box that lacks a bound, or too many cases.
    """
    always = [row for assertion in assertions if len(assertion.conjunctions) == 1 for row in assertion.conjunctions[0]]
    base = Case.unbounded(file.n_inputs).restricted(always)
    if base.empty_at() is not None:
        return [], [f"{_emptiness(base, file)}: no input is left, and the property holds."]
    plain = [len(each.conjunctions) for each in assertions if not any(a.is_bound for c in each.conjunctions for a in c)]
    if math.prod(plain) > most:  # without bounds nothing becomes empty
        raise file.error("has too many combinations of disjunctions", f"expected at most {most}", None)
    cases = [base]
    empty: list[Case] = []
    for assertion in assertions:
        if len(assertion.conjunctions) == 1:
            continue
        if len(cases) * len(assertion.conjunctions) > most:
            raise file.error("has too many combinations of disjunctions", f"expected at most {most}", None)
        alone = len(cases) == 1 and cases[0] is base
        restricted = [case.restricted(conjunction) for case in cases for conjunction in assertion.conjunctions]
        cases = [case for case in restricted if case.empty_at() is None]
        if not assertion.split and len(cases) < len(restricted):
            each = restricted if alone else map(base.restricted, assertion.conjunctions)
            empty += [case for case in each if case.empty_at() is not None]
    cases = [each for each in (_bounded(case, file) for case in cases) if each is not None]
    remarks = [f"{_emptiness(empty[0], file)}: a case without inputs is left out."] if empty else []
    return cases, remarks if cases else [*remarks, f"`{file.path}` allows no input: the property holds."]


def _emptiness(case: Case, file: PropertyFile) -> str:
    """What leaves a case without inputs."""
    i = case.empty_at()
    assert i is not None
    return (
        f"`{file.path}` line {max(int(case.lower_line[i]), int(case.upper_line[i]))} leaves `{file.input_name(i)}` no "
        f"value (lower bound {float(case.lower[i])!r} of line {int(case.lower_line[i])}, upper bound "
        f"{float(case.upper[i])!r} of line {int(case.upper_line[i])})"
    )


def _bounded(case: Case, file: PropertyFile) -> Case | None:
    """The case with both bounds of every input; None if those that rows imply leave none."""
    if case.unbounded_at() is None:
        return case
    case = case.completed()
    if case.empty_at() is not None:
        return None
    i = case.unbounded_at()
    if i is not None:
        which = "lower" if np.isinf(case.lower[i]) else "upper"
        raise file.error(f"gives `{file.input_name(i)}` no {which} bound", "expected both bounds for every input", None)
    return case
