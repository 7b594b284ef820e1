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
    other = made.get(b)
    if limit is None or limit.size != 1 or other is None or other.op_type not in ("Mul", "Div"):
        return False
    factor = [editor.constants[name] for name in other.input if name in editor.constants]
    inner = [name for name in other.input if name not in editor.constants]
    if (
        len(factor) != 1
        or factor[0].size != 1
        or len(inner) != 1
        or (other.op_type == "Div" and inner[0] != other.input[0])
    ):
        return False
    scale = float(factor[0].item()) if other.op_type == "Mul" else 1.0 / float(factor[0].item())
    y = node.output[0]
    if left == a == inner[0] and float(limit.item()) == 0.0 and scale >= 0.0:
        if float(np.float32(scale)) == scale:  # attributes are float32
            editor.add("LeakyRelu", [a], y, output=y, alpha=scale)
            return True
        below = editor.add("Relu", [editor.add("Neg", [a], f"{y}/mirrored")], f"{y}/below")
        scaled = editor.add("Mul", [below, editor.number(scale, f"{y}/scale")], f"{y}/scaled")
        editor.add("Sub", [editor.add("Relu", [a], f"{y}/above"), scaled], y, output=y)
        return True
    soft = made.get(inner[0])
    # From 20 on softplus(z) and z differ by 2e-9, less than float32 resolves.
    rounds = editor.dtype == np.float32 and float(limit.item()) >= 20.0
    if rounds and soft is not None and soft.op_type == "Softplus" and soft.input[0] in (left, a):
        editor.add("Identity", [b], y, output=y)
        return True
    return False


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
