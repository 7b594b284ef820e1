"""Random VNN-LIB 2.0 queries as formulas: their text, and whether numbers fulfil them, by an evaluator of their own."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

OPERATORS = {
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
    "==": operator.eq,
    "!=": operator.ne,
}


@dataclass(frozen=True)
class Tensor:
    """A declared tensor."""

    name: str
    role: str  # input or output
    shape: tuple[int, ...]


class Query:
    """A random query about networks; `tensors` are in the order of the declarations.

    Args:
        random: numpy's generator.
        networks: for each the shapes of its inputs and those of its outputs.
        equal: networks after the first are other uses of it.
    """

    def __init__(self, random, networks, equal=False):
        self.random, self.equal = random, equal
        self.networks = [
            [Tensor(f"X{i}_{j}", "input", s) for j, s in enumerate(inputs)]
            + [Tensor(f"Y{i}_{j}", "output", s) for j, s in enumerate(outputs)]
            for i, (inputs, outputs) in enumerate(networks)
        ]
        self.tensors = [tensor for network in self.networks for tensor in network]
        self.bounds = {
            (t.name, index): sorted(self.random.integers(-4, 5, 2) / 2)
            for t in self.tensors
            if t.role == "input"
            for index in np.ndindex(*t.shape)
        }
        self.assertions = [self.formula(3) for _ in range(int(random.integers(1, 4)))]

    def variable(self, role=None):
        tensor = self.tensors[self.random.integers(len(self.tensors))]
        while role is not None and tensor.role != role:
            tensor = self.tensors[self.random.integers(len(self.tensors))]
        return ("var", tensor.name, tuple(int(self.random.integers(n)) for n in tensor.shape))

    def side(self):
        kind = self.random.integers(6)
        if kind == 0:
            return ("num", float(self.random.integers(-4, 5) / 2))
        if kind == 1:
            return ("+", *(self.variable() for _ in range(self.random.integers(2, 4))))
        if kind == 2:
            return ("-", self.variable(), self.variable(), ("num", float(self.random.integers(-2, 3))))
        if kind == 3:
            return ("*", ("num", float(self.random.integers(-4, 5) / 2)), self.variable())
        if kind == 4:
            return ("-", self.variable())
        return self.variable()

    def formula(self, depth):
        kind = self.random.integers(4) if depth else 0
        if kind < 2:
            return ("cmp", list(OPERATORS)[self.random.integers(6)], self.variable(), self.side())
        return ("and" if kind == 2 else "or", *(self.formula(depth - 1) for _ in range(self.random.integers(1, 4))))

    def text(self):
        lines = ["(vnnlib-version <2.0>)"]
        for i, network in enumerate(self.networks):
            lines.append(f"(declare-network n{i}" + (" (equal-to n0)" if i and self.equal else ""))
            lines += [f"  (declare-{t.role} {t.name} real [{','.join(map(str, t.shape))}])" for t in network]
            lines.append(")")
        for (name, index), (low, high) in self.bounds.items():
            v = show(("var", name, index))
            lines.append(f"(assert (and (>= {v} {low}) (<= {v} {high})))")
        return "\n".join(lines + [f"(assert {show(each)})" for each in self.assertions]) + "\n"

    def holds(self, values):
        """Whether values (name -> array) are a violation, in rational numbers."""
        inside = all(low <= values[name][index] <= high for (name, index), (low, high) in self.bounds.items())
        return inside and all(true(each, values) for each in self.assertions)

    def flat(self, values):
        """The flat inputs and the flat outputs."""
        return tuple(
            np.concatenate([values[t.name].reshape(-1) for t in self.tensors if t.role == role])
            for role in ("input", "output")
        )


def show(node):
    """Text of a formula."""
    if node[0] == "num":
        return f"{node[1]}"
    if node[0] == "var":
        return f"{node[1]}[{','.join(map(str, node[2]))}]"
    if node[0] == "cmp":
        return f"({node[1]} {show(node[2])} {show(node[3])})"
    return f"({node[0]} {' '.join(map(show, node[1:]))})"


def number(node, values):
    """Value of an arithmetic expression."""
    if node[0] == "num":
        return Fraction(node[1])
    if node[0] == "var":
        return Fraction(float(values[node[1]][node[2]]))
    first, *rest = (number(each, values) for each in node[1:])
    if node[0] == "-" and not rest:
        return -first
    for each in rest:
        first = first + each if node[0] == "+" else first - each if node[0] == "-" else first * each
    return first


def true(node, values):
    """Truth of a formula."""
    if node[0] == "cmp":
        return OPERATORS[node[1]](number(node[2], values), number(node[3], values))
    return (all if node[0] == "and" else any)(true(each, values) for each in node[1:])
