"""From the official VNN-LIB parser's syntax tree to boxes with polytopes of outputs, or of inputs and outputs.

Every assertion is brought into disjunctive normal form, ``or_i and_j row_ij``; the product of all assertions gives
cases, each a box of inputs with a conjunction of rows (`cases`); cases with equal boxes are put together. Bounds of
single inputs make the box; any other row on inputs must hold for a violation, as rows on outputs must. (The
parser's own `vnnlib.compat.transform` is not used: it loses one side of ``==`` and mishandles a disjunction over inputs
combined with one over outputs, as in ACAS Xu property 6.)

Source: VNN-LIB standard 2.0; https://www.vnnlib.org.
"""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from recurjac_plugin.errors import FileError
from recurjac_plugin.extras import need

from .cases import Atom, Case, Disjunction, cross_product
from .comparisons import Comparisons
from .property_file import PropertyFile
from .spec import Box, Polytope
from .version_1 import original_names

_MOST_CASES = 500_000  # of a normal form or of their product; more is taken for a mistake

ELEMENT_TYPES = {"Real": "real", "F32": "float32", "F64": "float64"}
"""The parser's names of the element types that are read -> VNN-LIB's."""

# A comparison -> its alternatives, each a conjunction of rows ``sign * lhs <= sign * rhs``, given as (sign, strict).
_ALTERNATIVES: dict[str, tuple[tuple[tuple[float, bool], ...], ...]] = {
    "LessEqual": (((1.0, False),),),
    "LessThan": (((1.0, True),),),
    "GreaterEqual": (((-1.0, False),),),
    "GreaterThan": (((-1.0, True),),),
    "Equal": (((1.0, False), (-1.0, False)),),
    "NotEqual": (((1.0, True),), ((-1.0, True),)),
}


def parse(text: str, path: Path, version_1: bool) -> Any:
    """Syntax tree (`vnnlib.Query`) of a VNN-LIB 2.x text.

    Args:
        text: the property.
        path: for messages.
        version_1: whether the text was rewritten from VNN-LIB 1.0, so that messages name ``X_i``.

    Raises:
        ExtraError: vnnlib is not installed.
        FileError: the parser's message with its line.
    """
    need("vnnlib")
    import vnnlib

    try:
        return vnnlib.parse_query_string(text)
    except vnnlib.VNNLibException as error:
        message = _parser_message(str(error))
    except IndexError as error:  # how the parser reports a number that a double cannot hold
        message = f"a number is out of range ({error})"
    message = original_names(message) if version_1 else message
    raise FileError(f"`{path}` is not valid VNN-LIB: {message}; correct the file.")


def _parser_message(text: str) -> str:
    """The parser's errors as one line of text."""
    try:
        errors = json.loads(text)["errors"]
    except ValueError:  # syntax errors come as plain text, type errors as JSON
        return " ".join(text.split())
    return "; ".join(f"line {e['line']}: {e['message']} `{e['offendingSymbol']}` ({e['hint']})" for e in errors)


def boxes_of(query: Any, path: Path, version_1: bool) -> tuple[tuple[Box, ...], tuple[str, ...]]:
    """Boxes with their disjuncts, in the order of the file, and remarks on what is odd about it.

    A case without any row is violated by every input of its box: it gets a row of zeros, which always holds.

    Args:
        query: what `parse` returned.
        path: for messages.
        version_1: whether messages name ``X_i``.

    Raises:
        FileError: hidden nodes; types other than floats; a comparison that is not linear or has no variable; an input
            without both bounds.
    """
    file = _file_of(query, path, version_1)
    try:
        cases, remarks = _cases_of(query, file, Comparisons(file))
    except FileError:
        remarks = ["something is wrong"]
    if remarks:  # anew, with the lines that messages name
        cases, remarks = _cases_of(query, file, None)
    groups: dict[bytes, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.key(), []).append(case)
    if any(not any(row.outputs for row in case.rows) for case in cases):
        remarks.append(f"`{path}` has a case without a condition on outputs: any input that it allows violates.")
    return tuple(_box(group, file.n_outputs) for group in groups.values()), tuple(remarks)


def _cases_of(query: Any, file: PropertyFile, simple: Comparisons | None) -> tuple[list[Case], list[str]]:
    """All cases, and what is odd about them; where simple comparisons are read from their text, without lines."""
    assertions = [_normal_form(assertion.expr, file, simple) for assertion in query.assertions]
    return cross_product(assertions, file, _MOST_CASES)


def _file_of(query: Any, path: Path, version_1: bool) -> PropertyFile:
    """The tensors that a query declares."""
    for network in query.networks:
        if network.hidden:
            names = ", ".join(definition.name for definition in network.hidden)
            raise FileError(
                f"`{path}` declares {len(network.hidden)} hidden nodes ({names}): expected none; rewrite it."
            )
        for definition in (*network.inputs, *network.outputs):
            if definition.dtype.name not in ELEMENT_TYPES:
                raise FileError(
                    f"`{path}` declares `{definition.name}` of type {definition.dtype.name}: expected real, "
                    "float32 or float64; rewrite it."
                )
    inputs, outputs = (
        tuple((each.name, tuple(each.shape)) for network in query.networks for each in getattr(network, kind))
        for kind in ("inputs", "outputs")
    )
    return PropertyFile(path, inputs, outputs, version_1)


def _box(cases: list[Case], n_outputs: int) -> Box:
    """The box that all the cases share, with a disjunct for each of them."""
    first = cases[0]
    disjuncts = tuple(_polytope(case.rows, n_outputs, len(first.lower)) for case in cases)
    return Box(first.lower, first.upper, disjuncts, first.lower_open, first.upper_open)


def _polytope(rows: tuple[Atom, ...], n_outputs: int, n_inputs: int) -> Polytope:
    """The outputs, or inputs and outputs, that fulfil every row."""
    rows = rows or (Atom({}, {}, 0.0, False, 0),)
    A = np.zeros((len(rows), n_outputs))
    B = np.zeros((len(rows), n_inputs)) if any(row.inputs for row in rows) else None
    for i, row in enumerate(rows):
        A[i, list(row.outputs)] = list(row.outputs.values())
        if B is not None:
            B[i, list(row.inputs)] = list(row.inputs.values())
    return Polytope(A, np.array([row.constant for row in rows]), np.array([row.strict for row in rows]), B)


def _normal_form(expression: Any, file: PropertyFile, simple: Comparisons | None) -> Disjunction:
    """An assertion as a disjunction of conjunctions of rows that may hold; a `!=` splits its conjunction in two."""
    import vnnlib

    parts = expression.args if isinstance(expression, vnnlib.Or) else (expression,)
    read = [None if simple is None else simple.conjunction(part) for part in parts]
    count = sum(1 if rows is not None else _count_conjunctions(part) for part, rows in zip(parts, read))
    if count > _MOST_CASES:
        raise file.error("has an assertion of too many cases", f"expected at most {_MOST_CASES}", _line(expression))
    conjunctions: list[tuple[Atom, ...]] = []
    split = False
    for part, rows in zip(parts, read):
        if rows is not None:
            conjunctions.append(rows)
            continue
        for comparisons in part.to_dnf():
            choices = [_alternatives(comparison, file) for comparison in comparisons]
            split = split or any(len(choice) > 1 for choice in choices)
            if math.prod(map(len, choices)) > _MOST_CASES:
                raise file.error("has too many `!=` in one conjunction", f"expected at most {_MOST_CASES} cases", None)
            for chosen in itertools.product(*choices):
                atoms = [(atom, atom.truth) for atom in itertools.chain(*chosen)]
                if all(truth is not False for _, truth in atoms):
                    conjunctions.append(tuple(atom for atom, truth in atoms if truth is None))
    return Disjunction(tuple(conjunctions), split)


def _alternatives(comparison: Any, file: PropertyFile) -> list[tuple[Atom, ...]]:
    """Conjunctions of rows of which one must hold: a single one, or two for `!=`."""
    alternatives = _ALTERNATIVES[type(comparison).__name__]
    return [tuple(_row(comparison, sign, strict, file) for sign, strict in rows) for rows in alternatives]


def _row(comparison: Any, sign: float, strict: bool, file: PropertyFile) -> Atom:
    """The row ``sign * lhs <= sign * rhs`` (or ``<``) with all variables on the left."""
    import vnnlib

    left, right = _sides(comparison, file)
    coefficients: dict[Any, dict[int, float]] = {vnnlib.SymbolKind.Input: {}, vnnlib.SymbolKind.Output: {}}
    line = None
    for side, expression in ((sign, left), (-sign, right)):
        for term in expression.terms:
            variable = term.var
            line = variable.line if line is None else line
            inner = int(np.ravel_multi_index(variable.indices, variable.shape)) if variable.indices else 0
            index = file.starts[variable.name] + inner
            of_kind = coefficients[variable.kind]
            of_kind[index] = of_kind.get(index, 0.0) + side * term.coeff
    inputs, outputs = coefficients.values()
    if not inputs and not outputs:
        what = "compares numbers without a variable"
        raise file.error(what, "expected inputs or outputs", _line(comparison))
    constant = sign * right.constant - sign * left.constant
    if not all(map(math.isfinite, (constant, *inputs.values(), *outputs.values()))):
        raise file.error("has a number that overflows", "expected finite numbers", line)
    inputs, outputs = ({i: c for i, c in each.items() if c} for each in (inputs, outputs))
    return Atom(inputs, outputs, constant, strict, line or 0)


def _sides(comparison: Any, file: PropertyFile) -> tuple[Any, Any]:
    """Both sides of a comparison as sums of variables times numbers."""
    import vnnlib

    try:
        return comparison.lhs.to_linear_expr(), comparison.rhs.to_linear_expr()
    except vnnlib.VNNLibException as error:
        message = f"has a comparison that is not linear ({error})"
        raise file.error(message, "expected sums of variables times numbers", _line(comparison)) from error


def _count_conjunctions(expression: Any) -> int:
    """Number of conjunctions in the disjunctive normal form, which is not computed for it."""
    import vnnlib

    if isinstance(expression, vnnlib.And):
        return math.prod(_count_conjunctions(argument) for argument in expression.args)
    if isinstance(expression, vnnlib.Or):
        return sum(_count_conjunctions(argument) for argument in expression.args)
    return 1


def _line(node: Any) -> int | None:
    """Line of the first variable or number in a subtree; the parser keeps lines for these only."""
    line = getattr(node, "line", None)
    return line if line is not None else next(filter(None, map(_line, node.children())), None)
