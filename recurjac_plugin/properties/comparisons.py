"""Conjunctions of simple comparisons, read from the text that the official parser prints of them.

Large properties are long lists of ``(<= X[3] 0.5)`` and ``(>= Y[0] Y[1])``. To ask the parser's tree for the parts of
each takes ten times as long as to parse the file; its printed form has them all, with every number as it was written.
What is not printed like this is read from the tree (`syntax`), with the lines that messages name.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from .cases import Atom
from .property_file import PropertyFile

_TENSOR = r"([A-Za-z]\w*)(?: \[([\d, ]*)\])?"
_NUMBER = r"(-?\d+\.\d+)"
_COMPARISON = re.compile(rf"\((<=|>=|<|>|==) (?:{_TENSOR}|{_NUMBER}) (?:{_TENSOR}|{_NUMBER})\)")

# A comparison -> rows ``sign * lhs <= sign * rhs`` that must all hold, given as (sign, strict).
_ROWS = {
    "<=": ((1.0, False),),
    "<": ((1.0, True),),
    ">=": ((-1.0, False),),
    ">": ((-1.0, True),),
    "==": ((1.0, False), (-1.0, False)),
}


class Comparisons:
    """Reads conjunctions of simple comparisons; equal ones are read once.

    Args:
        file: the tensors that are declared.
    """

    def __init__(self, file: PropertyFile) -> None:
        self._file = file
        self._inputs = dict(file.inputs)
        self._shapes = self._inputs | dict(file.outputs)
        self._known: dict[tuple[str, ...], tuple[Atom, ...] | None] = {}
        self._indices: dict[tuple[str, str], int] = {}

    def conjunction(self, expression: Any) -> tuple[Atom, ...] | None:
        """The rows of a comparison or of an ``and``, in order; None if it is to be read from the tree.

        The printed form has one parenthesis for each comparison and one for the ``and``: more of them, and it has other
        parts.

        Args:
            expression: a node of the parser's tree.
        """
        text = str(expression)
        found = _COMPARISON.findall(text)
        if text.count("(") != len(found) + text.startswith("(and "):
            return None
        atoms: list[Atom] = []
        for parts in found:
            rows = self._known.get(parts)
            if rows is None:
                rows = self._known[parts] = self._rows(parts)
                if rows is None:
                    return None
            atoms += rows
        return tuple(atoms)

    def _rows(self, parts: tuple[str, ...]) -> tuple[Atom, ...] | None:
        """The rows of one comparison, None if it has no tensor, or the same element twice."""
        operator, *sides = parts
        left, right = sides[:3], sides[3:]
        if not (left[0] or right[0]) or left[:2] == right[:2]:
            return None
        rows = []
        for sign, strict in _ROWS[operator]:
            inputs: dict[int, float] = {}
            outputs: dict[int, float] = {}
            constant = 0.0
            for factor, (name, index, number) in ((sign, left), (-sign, right)):
                if name:
                    (inputs if name in self._inputs else outputs)[self._index(name, index)] = factor
                else:
                    constant -= factor * float(number)
            if not math.isfinite(constant):
                return None
            rows.append(Atom(inputs, outputs, constant + 0.0, strict, 0))
        return tuple(rows)

    def _index(self, name: str, index: str) -> int:
        """The flat index of an element among all inputs, or all outputs."""
        key = name, index
        if key not in self._indices:
            place = tuple(map(int, index.split(","))) if index.strip() else ()
            inner = int(np.ravel_multi_index(place, self._shapes[name])) if place else 0
            self._indices[key] = self._file.starts[name] + inner
        return self._indices[key]
