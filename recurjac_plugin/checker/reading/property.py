"""A VNN-LIB file, version 1.0 or 2.0, as exact regions of inputs, with the outputs that violate the property there.

A property is violated where an input and its output fulfil every assertion. In disjunctive normal form that is a union
of cases; a *region* has the cases with the same bounds of the inputs. Strict bounds are taken as closed ones: what is
shown for more points is shown for these.

Source: VNN-LIB standard 2.0, https://www.vnnlib.org; numbers are read as the decimals that they are written as.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

from recurjac_plugin.errors import FileError

_TOKEN = re.compile(r"[()]|\[[^\]]*\]|[^\s()\[\]]+(?:\[[^\]]*\])?")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,4})?")
_VARIABLE_1 = re.compile(r"([XY])_(\d+)")
_VARIABLE_2 = re.compile(r"([^\[\]]+)(?:\[([\d,\s]*)\])?")
_MOST = 100_000  # cases
_DIGITS = 400  # most zeros that a number may be written with by its exponent
_COMPARISONS = ("<=", ">=", "<", ">", "==", "=", "!=")


class Row(NamedTuple):
    """``sum_i coefficients[i] y_i <= right``, ``<`` if strict.

    Attributes:
        coefficients: by number of the output.
        right: the right side.
        strict: whether equality is excluded.
    """

    coefficients: tuple[tuple[int, Fraction], ...]
    right: Fraction
    strict: bool


class Region(NamedTuple):
    """The inputs ``lower <= x <= upper``, and the sets of outputs that violate the property there.

    Attributes:
        lower: exact.
        upper: exact.
        disjuncts: an output that fulfils all rows of one of them violates.
    """

    lower: tuple[Fraction, ...]
    upper: tuple[Fraction, ...]
    disjuncts: tuple[tuple[Row, ...], ...]


@dataclass(frozen=True)
class Property:
    """What a file asks.

    Attributes:
        regions: in the order in which the file has them.
        n_inputs: number of inputs.
        n_outputs: number of outputs.
    """

    regions: tuple[Region, ...]
    n_inputs: int
    n_outputs: int


class _Sum(NamedTuple):
    """``sum_v terms[v] v + constant`` over variables v = (letter, number)."""

    terms: dict[tuple[str, int], Fraction]
    constant: Fraction


def read_property(text: str, name: str) -> Property:
    """The property of a VNN-LIB file.

    Args:
        text: of the file.
        name: of the file, for messages.

    Raises:
        FileError: it is malformed, or not a union of boxes with linear conditions on the outputs.
    """
    try:
        commands = _parsed(text)
        sizes, variable = _declarations(commands)
        assertions = [_normal_form(each[1], variable) for each in commands if each[0] == "assert" and len(each) == 2]
        if len(assertions) != sum(each[0] == "assert" for each in commands):
            raise ValueError("an assertion has more than one formula")
        return Property(tuple(_regions(assertions, sizes["X"])), sizes["X"], sizes["Y"])
    except (IndexError, TypeError, ValueError, RecursionError) as error:
        raise FileError(f"`{name}` is not a VNN-LIB property that can be checked: {error}; rewrite it.") from error


def _parsed(text: str) -> list[Any]:
    """The commands of a text: nested lists of words."""
    stack: list[list[Any]] = [[]]
    text = re.sub(r";[^\n]*", "", text)
    rest = _TOKEN.sub("", text).split()
    if rest:
        raise ValueError(f"`{rest[0]}` has no meaning")
    for token in _TOKEN.findall(text):
        if token == "(":
            stack.append([])
        elif token == ")":
            if len(stack) == 1:
                raise ValueError("a parenthesis is closed that was not opened")
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(token)
    if len(stack) != 1:
        raise ValueError("a parenthesis is not closed")
    commands = stack[0]
    if not all(isinstance(each, list) and each and isinstance(each[0], str) for each in commands):
        raise ValueError("expected a list of commands")
    return commands


class _Variables:
    """The variables of a file by name.

    Args:
        shapes: of the tensors that are declared, by name; None in version 1.0, which declares numbers.
        letters: X or Y by name.
    """

    def __init__(
        self, shapes: dict[str, tuple[int, ...]] | None, letters: dict[str, str], sizes: dict[str, int]
    ) -> None:
        self.shapes, self.letters, self.sizes = shapes, letters, sizes

    def __call__(self, word: str) -> tuple[str, int]:
        """Letter and number of a variable."""
        if self.shapes is None:
            match = _VARIABLE_1.fullmatch(word)
            if match is None or int(match[2]) >= self.sizes[match[1]]:
                raise ValueError(f"`{word}` is not declared")
            return match[1], int(match[2])
        match = _VARIABLE_2.fullmatch(word)
        if match is None or match[1] not in self.shapes:
            raise ValueError(f"`{word}` is not declared")
        shape = self.shapes[match[1]]
        index = [int(each) for each in match[2].split(",")] if match[2] and match[2].strip() else []
        if len(index) != len(shape) or any(i >= size for i, size in zip(index, shape)):
            raise ValueError(f"`{word}` does not fit the shape {list(shape)}")
        number = 0
        for i, size in zip(index, shape):
            number = number * size + i
        return self.letters[match[1]], number


def _declarations(commands: list[Any]) -> tuple[dict[str, int], _Variables]:
    """Numbers of inputs and outputs, and the names of all variables."""
    known = ("assert", "declare-const", "declare-fun", "declare-network", "vnnlib-version")
    strange = next((each[0] for each in commands if each[0] not in known), None)
    if strange is not None:
        raise ValueError(f"`{strange}` is no command of VNN-LIB 1.0 or 2.0")
    networks = [each for each in commands if each[0] == "declare-network"]
    single = [each for each in commands if each[0] in ("declare-const", "declare-fun")]
    if len(networks) == 1 and not single:
        return _declared_network(networks[0])
    if networks:
        raise ValueError("expected one network, or single variables")
    numbers: dict[str, set[int]] = {"X": set(), "Y": set()}
    for command in single:
        match = _VARIABLE_1.fullmatch(command[1]) if isinstance(command[1], str) else None
        if match is None or command[2:] not in (["Real"], [[], "Real"]):
            raise ValueError(f"expected a declaration of `X_i` or `Y_i` of type Real, got {command}")
        if int(match[2]) in numbers[match[1]]:
            raise ValueError(f"`{command[1]}` is declared twice")
        numbers[match[1]].add(int(match[2]))
    sizes = {letter: len(each) for letter, each in numbers.items()}
    if any(not each or max(each) >= len(each) for each in numbers.values()):
        raise ValueError("expected `X_0`, `X_1`, ... and `Y_0`, `Y_1`, ... without gaps")
    return sizes, _Variables(None, {}, sizes)


def _declared_network(command: list[Any]) -> tuple[dict[str, int], _Variables]:
    letters = {"declare-input": "X", "declare-output": "Y"}
    shapes: dict[str, tuple[int, ...]] = {}
    sizes: dict[str, int] = {}
    by_name: dict[str, str] = {}
    for entry in command[2:]:
        if not isinstance(entry, list) or entry[0] not in letters or len(entry) != 4:
            raise ValueError(f"expected one input and one output with their shapes, got {entry}")
        letter, name = letters[entry[0]], entry[1]
        if letter in sizes or name in shapes or entry[2] not in ("real", "float32", "float64", "Real"):
            raise ValueError(f"expected one input and one output of real numbers, got {entry}")
        shapes[name] = tuple(int(each) for each in entry[3].strip("[]").split(",") if each.strip())
        by_name[name], sizes[letter] = letter, math.prod(shapes[name])
    if set(sizes) != {"X", "Y"}:
        raise ValueError("expected one input and one output")
    return sizes, _Variables(shapes, by_name, sizes)


def _number(word: str) -> Fraction | None:
    """The decimal that a word is."""
    if not _NUMBER.fullmatch(word):
        return None
    value = Decimal(word)
    if value and abs(value.adjusted()) > _DIGITS:
        raise ValueError(f"{word} is out of range")
    return Fraction(value)


def _sum(formula: Any, variable: _Variables) -> _Sum:
    """A term as a sum of variables times numbers."""
    if isinstance(formula, str):
        number = _number(formula)
        return _Sum({variable(formula): Fraction(1)}, Fraction(0)) if number is None else _Sum({}, number)
    operator, *operands = formula
    parts = [_sum(each, variable) for each in operands]
    if operator == "-" and len(parts) == 1:
        return _scaled(parts[0], Fraction(-1))
    if operator in ("+", "-") and parts:
        total = _Sum(dict(parts[0].terms), parts[0].constant)
        for part in parts[1:]:
            signed = _scaled(part, Fraction(1 if operator == "+" else -1))
            for key, value in signed.terms.items():
                total.terms[key] = total.terms.get(key, Fraction(0)) + value
            total = _Sum(total.terms, total.constant + signed.constant)
        return total
    if operator == "*" and parts:
        varying = [part for part in parts if part.terms]
        if len(varying) > 1:
            raise ValueError("a term is not linear")
        factor = math.prod((part.constant for part in parts if not part.terms), start=Fraction(1))
        return _scaled(varying[0] if varying else _Sum({}, Fraction(1)), factor)
    raise ValueError(f"expected a sum of variables times numbers, got `{operator}`")


def _scaled(total: _Sum, factor: Fraction) -> _Sum:
    return _Sum({key: factor * value for key, value in total.terms.items()}, factor * total.constant)


Atom = tuple[_Sum, bool]  # sum <= 0, or sum < 0 if True


def _normal_form(formula: Any, variable: _Variables) -> list[list[Atom]]:
    """A formula as a list of cases, each a list of comparisons that must all hold."""
    if not isinstance(formula, list) or not formula:
        raise ValueError(f"expected a formula, got {formula}")
    operator, *operands = formula
    if operator == "or":
        return [case for each in operands for case in _normal_form(each, variable)]
    if operator == "and":
        parts = [_normal_form(each, variable) for each in operands]
        if math.prod(map(len, parts)) > _MOST:
            raise ValueError(f"it has more than {_MOST} cases")
        return [[*itertools.chain.from_iterable(case)] for case in itertools.product(*parts)]
    if operator not in _COMPARISONS or len(operands) != 2:
        raise ValueError(f"expected a comparison, `and` or `or`, got `{operator}`")
    left, right = (_sum(each, variable) for each in operands)
    less = _difference(left, right)
    more = _scaled(less, Fraction(-1))
    if operator in ("==", "="):
        return [[(less, False), (more, False)]]
    if operator == "!=":
        return [[(less, True)], [(more, True)]]
    return [[(less if operator[0] == "<" else more, len(operator) == 1)]]


def _difference(left: _Sum, right: _Sum) -> _Sum:
    terms = dict(left.terms)
    for key, value in right.terms.items():
        terms[key] = terms.get(key, Fraction(0)) - value
    return _Sum({key: value for key, value in terms.items() if value}, left.constant - right.constant)


class _Case(NamedTuple):
    """Bounds of inputs by their numbers, and rows of outputs."""

    lower: dict[int, Fraction]
    upper: dict[int, Fraction]
    rows: tuple[Row, ...]

    def restricted(self, atoms: Iterable[Atom]) -> _Case | None:
        """This case with more comparisons; None if no input is left."""
        lower, upper, rows = dict(self.lower), dict(self.upper), [*self.rows]
        for total, strict in atoms:
            letters = {letter for letter, _ in total.terms}
            if len(letters) > 1:
                raise ValueError("a comparison mixes inputs and outputs")
            if letters == {"Y"} or not letters:
                coefficients = tuple(sorted((i, value) for (_, i), value in total.terms.items()))
                rows.append(Row(coefficients, -total.constant, strict))
                continue
            if len(total.terms) > 1:
                raise ValueError("a comparison has several inputs")
            ((_, i), factor), *_ = total.terms.items()
            bound = -total.constant / factor
            if factor > 0:
                upper[i] = min(upper.get(i, bound), bound)
            else:
                lower[i] = max(lower.get(i, bound), bound)
        empty = any(i in upper and lower[i] > upper[i] for i in lower)
        return None if empty else _Case(lower, upper, tuple(rows))


def _regions(assertions: list[list[list[Atom]]], n_inputs: int) -> Iterator[Region]:
    """The cases of a conjunction of assertions, those with the same bounds together."""
    cases: list[_Case] = [_Case({}, {}, ())]
    for assertion in sorted(assertions, key=lambda each: len(each) > 1):  # what always holds first; stable
        if len(cases) * len(assertion) > _MOST:
            raise ValueError(f"it has more than {_MOST} cases")
        restricted = (case.restricted(atoms) for case in cases for atoms in assertion)
        cases = [case for case in restricted if case is not None]
    by_box: dict[tuple[tuple[Fraction, ...], tuple[Fraction, ...]], list[tuple[Row, ...]]] = {}
    for case in cases:
        if len(case.lower) < n_inputs or len(case.upper) < n_inputs:
            raise ValueError("an input has no lower or no upper bound")
        lower, upper = (tuple(end[i] for i in range(n_inputs)) for end in (case.lower, case.upper))
        by_box.setdefault((lower, upper), []).append(case.rows)
    if not by_box:
        raise ValueError("it allows no input")
    for (lower, upper), disjuncts in by_box.items():
        yield Region(lower, upper, tuple(disjuncts))
