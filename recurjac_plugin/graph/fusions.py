"""Activations that the exporter writes as several operators, put together again.

The host sees ``SiLU(x) = x sigmoid(x)`` as a product of two perturbed numbers. Its derivative by the product rule is a
range of ``sigmoid(x) + x sigmoid'(x)`` in which both terms take their extremes at once; as one activation the range is
exact. `FUSIONS` is a table of formulas, written as in mathematics:

* ``x`` is the node that the activation reads, the same one everywhere in the formula; numbers are constants of the
  graph, compared by value within the rounding of float32, in which exporters store them; other names are constants of
  any value, which become parameters of the activation.
* ``Erf(...)`` is the host's node of that operator. ``a + b`` is its Add, in either order. Products are compared as
  wholes: ``x * y / 2`` is any tree of Mul, Div, Neg, Reciprocal, Sqr and Pow with these factors.

A formula matches by structure alone. Inner nodes that others read too stay in the graph. Every formula reads a node of
which the host needs bounds itself; scaling by constants outside (``softplus(beta x) / beta``) is linear, and is left to
the linear operators, which lose nothing.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.numerics.rounding import WRITTEN_CONSTANT

from .node import Node

FUSIONS: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
    ("x * (1 + Erf(x / sqrt(2))) / 2", "BoundGelu", {}),
    ("x * (1 + Tanh(sqrt(2 / pi) * (x + 0.044715 * x * x * x))) / 2", "BoundGelu", {"approximate": "tanh"}),
    ("x * (1 + Tanh(sqrt(2 / pi) * x * (1 + 0.044715 * x * x))) / 2", "BoundGelu", {"approximate": "tanh"}),
    ("x * Sigmoid(beta * x)", "SiLU", {}),
    ("x / (1 + Exp(-x))", "SiLU", {}),
    ("x * Tanh(Softplus(x))", "BoundMish", {}),
    ("x * HardSigmoid(x, alpha=1 / 6, beta=1 / 2)", "BoundHardSwish", {}),
    ("x * HardTanh(x + 3, 0, 6) / 6", "BoundHardSwish", {}),
    ("x / (1 + Abs(x))", "BoundSoftsign", {}),
    ("Log(Sigmoid(x))", "LogSigmoid", {}),
    ("1 / (1 + Exp(x))", "Logistic", {}),
    ("Log(1 + Exp(x))", "BoundSoftplus", {}),
    ("x * x", "BoundSqr", {}),
    ("x * x * x", "Pow", {"exponent": 3.0}),
    ("Pow(x, exponent)", "Pow", {}),
    ("HardTanh(x, min, max)", "HardTanh", {}),
)
"""Formula, kind of the fused node (a key of the activation table), parameters besides those the formula names."""

_MOST_FACTORS = 4
_DEPTH = 8  # of nested products that are looked through


@dataclass(frozen=True)
class _Call:
    """One operator and its operands in order; attributes compared by value."""

    kind: str
    operands: tuple[_Pattern, ...]
    attributes: Mapping[str, float]


@dataclass(frozen=True)
class _Sum:
    """Two terms."""

    terms: tuple[_Pattern, _Pattern]


@dataclass(frozen=True)
class _Product:
    """``number * parameter * product of pattern^power``, power 1 or -1."""

    number: float
    parameter: str | None
    factors: tuple[tuple[_Pattern, int], ...]


_Pattern = _Call | _Sum | _Product | str | float
_Operand = str | Tensor | None  # a perturbed node by name, or a constant
_Bindings = Mapping[str, Any]
_Graph = Mapping[str, Node]


def fused(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """The nodes, each that ends a formula of `FUSIONS` replaced by one activation that reads the formula's ``x``.

    Args:
        nodes: in topological order.

    Returns:
        As many nodes of the same names. Those inside a formula are still there; the graph drops what nothing reads.
    """
    graph = {node.name: node for node in nodes}
    return tuple(_fused(node, graph) for node in nodes)


def _fused(node: Node, graph: _Graph) -> Node:
    for pattern, kind, parameters in _COMPILED:
        for bindings in _matches(pattern, node.name, {}, graph):
            if _shape(bindings["x"], graph) != node.output_shape:  # constants stretch it to another shape
                continue
            return replace(
                node,
                kind=kind,
                inputs=(bindings["x"],),
                perturbed=(True,),
                constants=(None,),
                input_shapes=(node.output_shape,),
                attributes={**parameters, **{name: value for name, value in bindings.items() if name != "x"}},
            )
    return node


def _shape(name: str, graph: _Graph) -> tuple[int, ...]:
    """Shape of a node, or of the network's input, as those that read it see it."""
    if name in graph:
        return graph[name].output_shape
    return next(n.input_shapes[n.inputs.index(name)] for n in graph.values() if name in n.inputs)


def _compiled(formula: ast.expr) -> _Pattern:
    """A formula as a pattern."""
    constant = _number(formula)
    if constant is not None:
        return constant
    if isinstance(formula, ast.Name):
        return formula.id
    if isinstance(formula, ast.Call) and isinstance(formula.func, ast.Name):
        attributes = {str(keyword.arg): _number(keyword.value) or 0.0 for keyword in formula.keywords}
        return _Call("Bound" + formula.func.id, tuple(map(_compiled, formula.args)), attributes)
    if isinstance(formula, ast.BinOp) and isinstance(formula.op, ast.Add):
        return _Sum((_compiled(formula.left), _compiled(formula.right)))
    coefficient, parameter = 1.0, None
    factors: list[tuple[_Pattern, int]] = []
    for factor, power in _factors_of(formula, 1):
        value = _number(factor)
        if value is not None:
            coefficient *= value**power
        elif isinstance(factor, ast.Name) and factor.id != "x":
            parameter = factor.id
        else:
            factors.append((_compiled(factor), power))
    return _Product(coefficient, parameter, tuple(factors))


def _factors_of(formula: ast.expr, power: int) -> Iterator[tuple[ast.expr, int]]:
    if isinstance(formula, ast.BinOp) and isinstance(formula.op, (ast.Mult, ast.Div)):
        yield from _factors_of(formula.left, power)
        yield from _factors_of(formula.right, power if isinstance(formula.op, ast.Mult) else -power)
    elif isinstance(formula, ast.UnaryOp):
        yield from ((ast.Constant(-1), 1), *_factors_of(formula.operand, power))
    else:
        yield formula, power


def _number(formula: ast.expr) -> float | None:
    """The value of a formula without names of nodes or parameters."""
    match formula:
        case ast.Constant(value=int() | float() as value):
            return float(value)
        case ast.Name(id="pi"):
            return math.pi
        case ast.Call(func=ast.Name(id="sqrt"), args=[argument]):
            square = _number(argument)
            return None if square is None else math.sqrt(square)
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            above, below = _number(left), _number(right)
            return None if above is None or below is None else above / below
    return None


_COMPILED = tuple(
    (_compiled(ast.parse(formula, mode="eval").body), kind, parameters) for formula, kind, parameters in FUSIONS
)


def _matches(pattern: _Pattern, operand: _Operand, bindings: _Bindings, graph: _Graph) -> Iterator[_Bindings]:
    """Every way to read an operand as a pattern: what the names in it stand for, besides those already bound."""
    if isinstance(pattern, _Product):
        yield from _product_matches(pattern, operand, bindings, graph)
    elif pattern == "x":
        if isinstance(operand, str) and bindings.get("x", operand) == operand:
            yield {**bindings, "x": operand}
    elif isinstance(pattern, (str, float)):
        value = _scalar(operand)
        if value is not None:
            yield from _constant_matches(pattern, value, bindings)
    elif isinstance(operand, str) and operand in graph:
        node = graph[operand]
        if isinstance(pattern, _Sum):
            orders = list(permutations(pattern.terms)) if node.kind == "BoundAdd" else []
        else:
            same = node.kind == pattern.kind and all(
                _close(node.attributes.get(name), value) for name, value in pattern.attributes.items()
            )
            orders = [pattern.operands] if same else []
        for order in orders:
            yield from _all_match(order, _operands(node), bindings, graph)


def _all_match(
    patterns: Sequence[_Pattern], operands: Sequence[_Operand], bindings: _Bindings, graph: _Graph
) -> Iterator[_Bindings]:
    if len(patterns) != len(operands):
        return
    if not patterns:
        yield bindings
        return
    for first in _matches(patterns[0], operands[0], bindings, graph):
        yield from _all_match(patterns[1:], operands[1:], first, graph)


def _product_matches(pattern: _Product, operand: _Operand, bindings: _Bindings, graph: _Graph) -> Iterator[_Bindings]:
    if not isinstance(operand, str):
        return
    for coefficient, factors in _expansions(operand, graph, _DEPTH):
        if len(factors) != len(pattern.factors) or coefficient == 0:
            continue
        for order in permutations(factors):
            if [power for _, power in order] != [power for _, power in pattern.factors]:
                continue
            for match in _all_match(
                [factor for factor, _ in pattern.factors], [name for name, _ in order], bindings, graph
            ):
                if pattern.parameter is not None:
                    yield from _constant_matches(pattern.parameter, coefficient / pattern.number, match)
                elif _close(coefficient, pattern.number):
                    yield match


def _expansions(name: str, graph: _Graph, depth: int) -> Iterator[tuple[float, tuple[tuple[str, int], ...]]]:
    """Every way to read a node as a product of constants and nodes: (constant, ((node, power), ...))."""
    yield 1.0, ((name, 1),)
    node = graph.get(name)
    if node is None or depth == 0:
        return
    operands = _operands(node)
    if node.kind in ("BoundMul", "BoundDiv") and len(operands) == 2:
        parts = [(operands[0], 1), (operands[1], -1 if node.kind == "BoundDiv" else 1)]
    elif node.kind == "BoundNeg":
        parts = [(operands[0], 1), (torch.tensor(-1.0), 1)]
    elif node.kind == "BoundReciprocal":
        parts = [(operands[0], -1)]
    elif node.kind == "BoundSqr":
        parts = [(operands[0], 1)] * 2
    elif node.kind == "BoundPow" and _scalar(operands[1]) in (2.0, 3.0):
        parts = [(operands[0], 1)] * int(_scalar(operands[1]) or 0)
    else:
        return
    products: list[tuple[float, tuple[tuple[str, int], ...]]] = [(1.0, ())]
    for operand, sign in parts:
        if isinstance(operand, str):
            choices = [
                (constant**sign, tuple((factor, sign * power) for factor, power in factors))
                for constant, factors in _expansions(operand, graph, depth - 1)
                if constant != 0
            ]
        else:
            value = _scalar(operand)
            choices = [] if value is None or value == 0 else [(value**sign, ())]
        products = [
            (left * right, before + after)
            for left, before in products
            for right, after in choices
            if len(before) + len(after) <= _MOST_FACTORS
        ]
    yield from products


def _operands(node: Node) -> tuple[_Operand, ...]:
    return tuple(
        name if perturbed else constant
        for name, perturbed, constant in zip(node.inputs, node.perturbed, node.constants, strict=True)
    )


def _constant_matches(pattern: str | float, value: float, bindings: _Bindings) -> Iterator[_Bindings]:
    if isinstance(pattern, float):
        if _close(value, pattern):
            yield bindings
    elif pattern not in bindings:
        yield {**bindings, pattern: value}
    elif _close(value, bindings[pattern]):
        yield bindings


def _scalar(operand: _Operand) -> float | None:
    """The value of a constant that is the same number everywhere."""
    if not isinstance(operand, Tensor) or operand.numel() == 0 or operand.is_complex():
        return None
    first = operand.detach().flatten()[0]
    return float(first) if bool((operand == first).all()) else None


def _close(value: Any, expected: float) -> bool:
    return isinstance(value, (int, float)) and math.isclose(value, expected, rel_tol=WRITTEN_CONSTANT)
