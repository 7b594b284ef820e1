"""From the official VNN-LIB parser's syntax tree to boxes with output polytopes.

Every assertion is brought into disjunctive normal form; the cross product of these forms gives cases, each a
box of inputs with a conjunction of output rows; cases with equal boxes are put together. (The parser's own
`vnnlib.compat.transform` is not used: it loses one side of ``==`` and mishandles a disjunction over inputs
combined with one over outputs, as in ACAS Xu property 6.)
"""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recurjac_plugin.errors import FileError

from .cases import Atom, Case, Form, cross_product
from .spec import Box, Polytope
from .version_1 import original_names

_MOST_CASES = 10_000  # of a normal form or of their product; more is taken for a mistake

ELEMENT_TYPES = {"Real": "real", "F32": "float32", "F64": "float64"}
"""The parser's names of the element types that are read -> VNN-LIB's."""

# Per comparison its alternatives, each a conjunction of rows ``sign * lhs <= sign * rhs`` given as (sign,
# strict).
_ALTERNATIVES: dict[str, tuple[tuple[tuple[float, bool], ...], ...]] = {
    "LessEqual": (((1.0, False),),),
    "LessThan": (((1.0, True),),),
    "GreaterEqual": (((-1.0, False),),),
    "GreaterThan": (((-1.0, True),),),
    "Equal": (((1.0, False), (-1.0, False)),),
    "NotEqual": (((1.0, True),), ((-1.0, True),)),
}


def parse(text: str, path: Path, old: bool) -> Any:
    """Syntax tree (`vnnlib.Query`) of a VNN-LIB 2.x text.

    Args:
        text: the property.
        path: for messages.
        old: whether the text was rewritten from 1.0, so that messages name ``X_i``.

    Raises:
        FileError: the parser's message with its line.
    """
    import vnnlib

    try:
        return vnnlib.parse_query_string(text)
    except vnnlib.VNNLibException as error:
        message = _parser_message(str(error))
    except IndexError as error:  # how the parser reports a number that a double cannot hold
        message = f"a number is out of range ({error})"
    message = original_names(message) if old else message
    raise FileError(f"`{path}` is not valid VNN-LIB: {message}; correct the file.")


def _parser_message(text: str) -> str:
    try:
        errors = json.loads(text)["errors"]
    except ValueError:  # syntax errors come as plain text, type errors as JSON
        return " ".join(text.split())
    return "; ".join(f"line {e['line']}: {e['message']} `{e['offendingSymbol']}` ({e['hint']})" for e in errors)


def boxes_of(query: Any, path: Path, old: bool) -> tuple[Box, ...]:
    """Boxes with their disjuncts, in the order of the file.

    Args:
        query: what `parse` returned.
        path: for messages.
        old: whether messages name ``X_i``.

    Raises:
        FileError: several networks, inputs or outputs; hidden nodes; types other than floats; a comparison
            that is not linear, mixes inputs and outputs, or bounds no single input; an input without both
            bounds; an empty box; a case that constrains no output.
    """
    reader = _Reader.of(query, path, old)
    forms = [reader.normal_form(assertion.expr) for assertion in query.assertions]
    cases = cross_product(forms, reader.n_inputs, _MOST_CASES, reader.refuse, reader.input_name)
    groups: dict[bytes, list[Case]] = {}
    for case in cases:
        if not case.rows:
            raise reader.refuse("allows inputs whatever their outputs are", "expected a condition on outputs", None)
        groups.setdefault(case.key(), []).append(case)
    return tuple(_box(group, reader.n_outputs) for group in groups.values())


def _box(cases: list[Case], n_outputs: int) -> Box:
    first = cases[0]
    disjuncts = tuple(_polytope(case.rows, n_outputs) for case in cases)
    return Box(first.lower, first.upper, disjuncts, first.lower_open, first.upper_open)


def _polytope(rows: tuple[Atom, ...], n_outputs: int) -> Polytope:
    A = np.zeros((len(rows), n_outputs))
    for i, row in enumerate(rows):
        A[i, list(row.coefficients)] = list(row.coefficients.values())
    return Polytope(A, np.array([r.constant for r in rows]), np.array([r.strict for r in rows]))


@dataclass(frozen=True)
class _Reader:
    """Turns comparisons of one query into atoms; knows how to name things in messages."""

    path: Path
    old: bool
    input: Any
    output: Any

    @classmethod
    def of(cls, query: Any, path: Path, old: bool) -> _Reader:
        if len(query.networks) != 1:
            names = ", ".join(network.name for network in query.networks)
            raise FileError(
                f"`{path}` declares {len(query.networks)} networks ({names}): expected one; split the file."
            )
        (network,) = query.networks
        for kind, found, expected in (
            ("inputs", network.inputs, 1),
            ("outputs", network.outputs, 1),
            ("hidden nodes", network.hidden, 0),
        ):
            if len(found) != expected:
                names = ", ".join(definition.name for definition in found) or "none"
                raise FileError(f"`{path}` declares {len(found)} {kind} ({names}): expected {expected}; rewrite it.")
        for definition in (network.inputs[0], network.outputs[0]):
            if definition.dtype.name not in ELEMENT_TYPES:
                raise FileError(
                    f"`{path}` declares `{definition.name}` of type {definition.dtype.name}: expected real, "
                    "float32 or float64; rewrite it."
                )
        return cls(path, old, network.inputs[0], network.outputs[0])

    @property
    def n_inputs(self) -> int:
        return math.prod(self.input.shape)

    @property
    def n_outputs(self) -> int:
        return math.prod(self.output.shape)

    def input_name(self, index: int) -> str:
        if self.old:
            return f"X_{index}"
        return f"{self.input.name}[{','.join(str(i) for i in np.unravel_index(index, self.input.shape))}]"

    def refuse(self, what: str, expected: str, line: int | None) -> FileError:
        where = f"`{self.path}`" if line is None else f"`{self.path}` line {line}"
        return FileError(f"{where} {what}: {expected}; rewrite the property.")

    def normal_form(self, expression: Any) -> Form:
        """Disjunction of conjunctions of atoms; a `!=` splits its conjunction in two."""
        if _size(expression) > _MOST_CASES:
            raise self.refuse(
                "has an assertion of too many cases", f"expected at most {_MOST_CASES}", _line(expression)
            )
        conjunctions = []
        split = False
        for comparisons in expression.to_dnf():
            choices = [self.atoms(comparison) for comparison in comparisons]
            split = split or any(len(choice) > 1 for choice in choices)
            if math.prod(map(len, choices)) > _MOST_CASES:
                raise self.refuse("has too many `!=` in one conjunction", f"expected at most {_MOST_CASES} cases", None)
            conjunctions += [tuple(itertools.chain(*chosen)) for chosen in itertools.product(*choices)]
        return Form(tuple(conjunctions), split)

    def atoms(self, comparison: Any) -> list[tuple[Atom, ...]]:
        """Alternatives, each a conjunction of atoms: one alternative, or two for `!=`."""
        alternatives = _ALTERNATIVES[type(comparison).__name__]
        return [tuple(self.atom(comparison, sign, strict) for sign, strict in rows) for rows in alternatives]

    def atom(self, comparison: Any, sign: float, strict: bool) -> Atom:
        """The row ``sign * lhs <= sign * rhs`` (or ``<``) with all variables on the left."""
        import vnnlib

        try:
            left, right = comparison.lhs.to_linear_expr(), comparison.rhs.to_linear_expr()
        except vnnlib.VNNLibException as error:
            message = f"has a comparison that is not linear ({error})"
            raise self.refuse(message, "expected sums of variables times numbers", _line(comparison)) from error
        coefficients: dict[int, float] = {}
        kinds = set()
        line = None
        for side, expression in ((sign, left), (-sign, right)):
            for term in expression.terms:
                variable = term.var
                kinds.add(variable.kind)
                line = variable.line if line is None else line
                index = int(np.ravel_multi_index(variable.indices, variable.shape)) if variable.indices else 0
                coefficients[index] = coefficients.get(index, 0.0) + side * term.coeff
        if len(kinds) != 1:
            what = "mixes inputs and outputs in one comparison" if kinds else "compares numbers without a variable"
            raise self.refuse(what, "expected inputs only or outputs only", line or _line(comparison))
        on_inputs = kinds == {vnnlib.SymbolKind.Input}
        constant = sign * right.constant - sign * left.constant
        if not all(map(math.isfinite, (constant, *coefficients.values()))):
            raise self.refuse("has a number that overflows", "expected finite numbers", line)
        if on_inputs and (len(coefficients) > 1 or not any(coefficients.values())):
            names = ", ".join(f"`{self.input_name(i)}`" for i in coefficients)
            raise self.refuse(f"compares {names} with one another", "expected bounds of single inputs", line)
        return Atom(on_inputs, coefficients, constant, strict, line or 0)


def _size(expression: Any) -> int:
    """Number of conjunctions in the disjunctive normal form, without forming it."""
    import vnnlib

    if isinstance(expression, vnnlib.And):
        return math.prod(_size(argument) for argument in expression.args)
    if isinstance(expression, vnnlib.Or):
        return sum(_size(argument) for argument in expression.args)
    return 1


def _line(node: Any) -> int | None:
    """Line of the first variable or number in a subtree; the parser keeps lines for these only."""
    line = getattr(node, "line", None)
    return line if line is not None else next(filter(None, map(_line, node.children())), None)
