"""Cases of a property: a box of inputs with a conjunction of output rows, and their cross product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from recurjac_plugin.errors import FileError

_ARRAYS = ("lower", "upper", "lower_open", "upper_open", "lower_line", "upper_line")  # of a `Case`


@dataclass(frozen=True)
class Atom:
    """One row ``sum_i coefficients[i] v_i <= constant`` (``<`` if strict), over inputs or over outputs.

    On inputs it has one coefficient, which is not 0: a bound.
    """

    on_inputs: bool
    coefficients: dict[int, float]
    constant: float
    strict: bool
    line: int


@dataclass(frozen=True)
class Form:
    """A disjunction of conjunctions of atoms; `split` if a `!=` made some of them, which may be empty."""

    conjunctions: tuple[tuple[Atom, ...], ...]
    split: bool


@dataclass(frozen=True, eq=False)
class Case:
    """A box of inputs, the lines that set its bounds (0: none), and output rows.

    All arrays are [n_inputs]; `*_open` marks bounds that are themselves excluded.
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
            case._bound(atom)
        return case

    def _bound(self, atom: Atom) -> None:
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
        return b"".join(a.tobytes() for a in (self.lower, self.upper, self.lower_open, self.upper_open))


def cross_product(
    forms: list[Form],
    n_inputs: int,
    most: int,
    refuse: Callable[[str, str, int | None], FileError],
    input_name: Callable[[int], str],
) -> list[Case]:
    """All cases of a conjunction of forms.

    A combination of several disjunctions may well be empty and is left out. What a single conjunction makes
    empty together with the bounds that always hold is a mistake in the file, unless a ``!=`` made it.

    Args:
        forms: one per assertion.
        n_inputs: number of inputs.
        most: refuse more cases than this.
        refuse: makes the error from what is wrong, what was expected, and the line.
        input_name: how messages name an input.

    Raises:
        FileError: a box that is empty or lacks a bound, or too many cases.
    """
    always = [atom for form in forms if len(form.conjunctions) == 1 for atom in form.conjunctions[0]]
    base = Case.unbounded(n_inputs).restricted(always)
    _refuse_empty(base, refuse, input_name)
    cases = [base]
    for form in forms:
        if len(form.conjunctions) == 1:
            continue
        if not form.split:
            for conjunction in form.conjunctions:
                _refuse_empty(base.restricted(conjunction), refuse, input_name)
        if len(cases) * len(form.conjunctions) > most:
            raise refuse("has too many combinations of disjunctions", f"expected at most {most}", None)
        cases = [case.restricted(conjunction) for case in cases for conjunction in form.conjunctions]
        cases = [case for case in cases if case.empty_at() is None]
    if not cases:
        raise refuse("allows no input", "expected bounds that some input fulfils", None)
    for case in cases:
        _refuse_unbounded(case, refuse, input_name)
    return cases


def _refuse_empty(
    case: Case, refuse: Callable[[str, str, int | None], FileError], input_name: Callable[[int], str]
) -> None:
    i = case.empty_at()
    if i is not None:
        lines = (int(case.lower_line[i]), int(case.upper_line[i]))
        what = (
            f"leaves `{input_name(i)}` no value: lower bound {float(case.lower[i])!r} of line {lines[0]}, "
            f"upper bound {float(case.upper[i])!r} of line {lines[1]}"
        )
        raise refuse(what, "expected a lower bound below the upper one", max(lines))


def _refuse_unbounded(
    case: Case, refuse: Callable[[str, str, int | None], FileError], input_name: Callable[[int], str]
) -> None:
    i = case.unbounded_at()
    if i is not None:
        which = "lower" if np.isinf(case.lower[i]) else "upper"
        raise refuse(f"gives `{input_name(i)}` no {which} bound", "expected both bounds for every input", None)
