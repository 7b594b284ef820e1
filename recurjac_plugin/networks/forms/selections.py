"""Choices by constant masks and positions as sums, and activations that exporters write as a choice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .discrete.truths import written_choice
from .editing import Editor, attributes_of
from .moves import Run

if TYPE_CHECKING:
    from onnx import NodeProto


def written_where(editor: Editor, node: NodeProto, _run: Run) -> bool:
    """``m a + (1 - m) b`` for a constant mask m; else one of the activations that exporters write as a choice."""
    mask, (_, a, b), y = editor.constants.get(node.input[0]), node.input, node.output[0]
    if mask is None:
        return _written_activation(editor, node) or written_choice(editor, node)
    terms = []
    for name, share in ((a, mask), (b, ~mask)):
        if name in editor.constants:
            value = np.where(share, editor.constants[name], 0).astype(editor.dtype)
            if not np.isfinite(value).all():
                return False
            terms.append(editor.constant(value, f"{y}/constant"))
        else:
            terms.append(
                editor.add("Mul", [name, editor.constant(share.astype(editor.dtype), f"{y}/mask")], f"{y}/term")
            )
    editor.add("Add", terms, y, output=y)
    return True


def _written_activation(editor: Editor, node: NodeProto) -> bool:
    """``where(x > 0, x, a x)``, and torch's ``where(b x > c, x, softplus(b x) / b)`` in float32, which rounds to it."""
    made = {name: each for each in editor.nodes for name in each.output}
    condition, a, b = node.input
    test = editor.tests.get(condition, made.get(condition))
    if test is None or test.op_type not in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual"):
        return False
    left, right = test.input
    if test.op_type.startswith("Less"):
        left, right = right, left
    if left in editor.constants:  # 0 > x chooses the other branch
        left, right, a, b = right, left, b, a
    limit = editor.constants.get(right)
    if limit is None or limit.size != 1:
        return False
    if float(limit.item()) == 0.0 and left == a:
        return _leaky(editor, node.output[0], a, _factor(_multiples(editor, made, b), a))
    other = _multiple(editor, made, b)
    soft = made.get(other[0])
    if editor.dtype != np.float32 or soft is None or soft.op_type != "Softplus":
        return False
    # From 20 on softplus(z) and z differ by 2e-9, less than float32 resolves.
    chain = _multiples(editor, made, soft.input[0])
    base, of_soft = chain[-1]
    of_left, of_a = (_factor(_multiples(editor, made, name), base) for name in (left, a))
    if of_left is None or of_a is None or of_soft * of_left <= 0 or float(limit.item()) * of_soft / of_left < 20.0:
        return False
    if of_left <= 0 or abs(other[1] * of_soft - of_a) > 4 * float(np.finfo(np.float32).eps) * abs(of_a):
        return False
    editor.add("Identity", [b], node.output[0], output=node.output[0])
    return True


def _multiple(editor: Editor, made: dict[str, NodeProto], name: str) -> tuple[str, float]:
    """The value of which this one is a constant multiple, by its last operator, and the factor; itself, and 1."""
    node = made.get(name)
    if node is None or node.op_type not in ("Mul", "Div"):
        return name, 1.0
    factor = [each for each in node.input if each in editor.constants and editor.constants[each].size == 1]
    inner = [each for each in node.input if each not in editor.constants]
    if len(factor) != 1 or len(inner) != 1 or (node.op_type == "Div" and inner[0] != node.input[0]):
        return name, 1.0
    number = float(editor.constants[factor[0]].item())
    return inner[0], number if node.op_type == "Mul" else 1.0 / number


def _multiples(editor: Editor, made: dict[str, NodeProto], name: str) -> list[tuple[str, float]]:
    """All values of which this one is a constant multiple, itself first, with their factors."""
    found = [(name, 1.0)]
    while (step := _multiple(editor, made, found[-1][0]))[0] != found[-1][0]:
        found.append((step[0], found[-1][1] * step[1]))
    return found


def _factor(multiples: list[tuple[str, float]], base: str) -> float | None:
    return dict(multiples).get(base)


def _leaky(editor: Editor, y: str, x: str, slope: float | None) -> bool:
    """Write a leaky ReLU, if there is a slope that makes it one."""
    if slope is None or slope < 0.0:
        return False
    if float(np.float32(slope)) == slope:  # attributes are float32
        editor.add("LeakyRelu", [x], y, output=y, alpha=slope)
        return True
    below = editor.add("Relu", [editor.add("Neg", [x], f"{y}/mirrored")], f"{y}/below")
    scaled = editor.add("Mul", [below, editor.number(slope, f"{y}/scale")], f"{y}/scaled")
    editor.add("Sub", [editor.add("Relu", [x], f"{y}/above"), scaled], y, output=y)
    return True


def written_scatter(editor: Editor, node: NodeProto, run: Run) -> bool:
    """``x m + u P``: a mask of what stays, and a matrix of 0 and 1 that puts the updates in their places."""
    x, index, updates = node.input
    shape, y = editor.shapes[x], node.output[0]
    where = editor.constants.get(index)
    if where is None or attributes_of(node).get("reduction", b"none") != b"none" or shape[:1] != (1,):
        return False
    count = int(np.prod(editor.shapes[updates]))
    numbers = np.arange(1, count + 1, dtype=editor.dtype).reshape(editor.shapes[updates])
    placed = run(node, {x: np.zeros(shape, editor.dtype), index: where, updates: numbers})
    if placed is None:
        return False
    positions = placed.reshape(-1).astype(np.int64)
    terms = []
    if x in editor.constants:
        kept = np.where(positions.reshape(shape) == 0, editor.constants[x], 0).astype(editor.dtype)
        terms.append(editor.constant(kept, f"{y}/kept"))
    else:
        stays = editor.constant((positions == 0).astype(editor.dtype).reshape(shape), f"{y}/stays")
        terms.append(editor.add("Mul", [x, stays], f"{y}/kept"))
    if updates in editor.constants:
        new = np.concatenate([[0], editor.constants[updates].reshape(-1)])
        terms.append(editor.constant(new[positions].astype(editor.dtype).reshape(shape), f"{y}/new"))
    else:
        matrix = (np.arange(1, count + 1)[:, None] == positions[None]).astype(editor.dtype)
        flat = editor.reshape(updates, (-1, count), f"{y}/updates")
        product = editor.add("MatMul", [flat, editor.constant(matrix, f"{y}/places")], f"{y}/placed")
        terms.append(editor.reshape(product, (-1, *shape[1:]), f"{y}/new"))
    editor.add("Add", terms, y, output=y)
    return True


def written_concat(editor: Editor, node: NodeProto, _run: Run) -> bool:
    """A constant operand as ``0 x + c``, with x parts of another operand: so it is there for each of a batch."""
    axis, y = attributes_of(node)["axis"] % len(editor.shapes[node.output[0]]), node.output[0]
    given = [name for name in node.input if name not in editor.constants]
    if len(given) == len(node.input) or axis == 0:
        return False
    operands = [editor.for_each(name, given[0], axis) if name in editor.constants else name for name in node.input]
    editor.add("Concat", operands, y, output=y, axis=axis)
    return True
