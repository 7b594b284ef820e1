"""Truth values as numbers 0 and 1, of which everything that is computed from them is made.

=====================  ==============================
``x > y``              ``relu(sign(x - y))``
``x >= y``             ``1 - relu(sign(y - x))``
``x == y``             ``relu((x >= y) + (y >= x) - 1)``
``a and b``            ``relu(a + b - 1)``
``a or b``             ``1 - relu(1 - a - b)``
``not a``              ``1 - a``
``a xor b``            ``a + b - 2 relu(a + b - 1)``
``where(m, x, y)``     ``y + m (x - y)``
ThresholdedRelu        ``x (x > a)``
Shrink                 ``(x - b) (x > a) + (x + b) (-a > x)``
=====================  ==============================

A difference is 0 in floating point if and only if both numbers are equal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from recurjac_plugin.networks.forms.editing import Editor, attributes_of

if TYPE_CHECKING:
    from onnx import NodeProto


def number(editor: Editor, name: str) -> str:
    """An operand in the network's type: constants may be truth values or whole numbers."""
    value = editor.constants.get(name)
    if value is None or value.dtype == editor.dtype:
        return name
    return editor.constant(value.astype(editor.dtype), f"{name}/number")


def above(editor: Editor, x: str, y: str, hint: str, output: str | None = None) -> str:
    """``x > y``."""
    difference = editor.add("Sub", [number(editor, x), number(editor, y)], f"{hint}/difference")
    return editor.add("Relu", [editor.add("Sign", [difference], f"{hint}/sign")], f"{hint}/above", output=output)


def denied(editor: Editor, a: str, hint: str, output: str | None = None) -> str:
    """``1 - a``."""
    return editor.add("Sub", [editor.number(1.0, f"{hint}/one"), number(editor, a)], f"{hint}/not", output=output)


def _both(editor: Editor, a: str, b: str, hint: str, output: str | None = None) -> str:
    total = editor.add("Add", [number(editor, a), number(editor, b)], f"{hint}/total")
    less = editor.add("Sub", [total, editor.number(1.0, f"{hint}/one")], f"{hint}/less")
    return editor.add("Relu", [less], f"{hint}/both", output=output)


def equal(editor: Editor, x: str, y: str, hint: str, output: str | None = None) -> str:
    """``x == y``."""
    not_above, not_below = (denied(editor, above(editor, a, b, hint), hint) for a, b in ((x, y), (y, x)))
    return _both(editor, not_above, not_below, hint, output)


def written_comparison(editor: Editor, node: NodeProto, _run: object) -> bool:
    """Greater, GreaterOrEqual, Less, LessOrEqual and Equal."""
    (x, y), result = node.input, node.output[0]
    if node.op_type == "Equal":
        equal(editor, x, y, result, result)
    else:
        x, y = (y, x) if node.op_type.startswith("Less") else (x, y)
        if node.op_type.endswith("OrEqual"):
            denied(editor, above(editor, y, x, result), result, result)
        else:
            above(editor, x, y, result, result)
    editor.tests[result] = node
    return True


def written_logic(editor: Editor, node: NodeProto, _run: object) -> bool:
    """And, Or, Xor and Not."""
    y = node.output[0]
    if not all(name in editor.tests or name in editor.constants for name in node.input):
        return False
    a, b = node.input[0], node.input[-1]
    if node.op_type == "Not":
        denied(editor, a, y, y)
    elif node.op_type == "And":
        _both(editor, a, b, y, y)
    elif node.op_type == "Or":
        neither = _both(editor, denied(editor, a, y), denied(editor, b, y), y)
        denied(editor, neither, y, y)
    else:
        both = _both(editor, a, b, y)
        total = editor.add("Add", [number(editor, a), number(editor, b)], f"{y}/total")
        twice = editor.add("Add", [both, both], f"{y}/twice")
        editor.add("Sub", [total, twice], y, output=y)
    editor.tests[y] = node
    return True


def written_choice(editor: Editor, node: NodeProto) -> bool:
    """Where, by a condition that depends on the input."""
    (condition, x, y), result = node.input, node.output[0]
    known = [editor.constants[name] for name in (x, y) if name in editor.constants]
    if condition not in editor.tests or not all(np.isfinite(value).all() for value in known):
        return False
    if len(known) == 2:
        gain = editor.constant((known[0] - known[1]).astype(editor.dtype), f"{result}/gain")
    else:
        gain = editor.add("Sub", [x, y], f"{result}/gain")
    share = editor.add("Mul", [condition, gain], f"{result}/share")
    editor.add("Add", [number(editor, y), share], result, output=result)
    return True


def written_threshold(editor: Editor, node: NodeProto, _run: object) -> bool:
    """ThresholdedRelu."""
    x, y = node.input[0], node.output[0]
    limit = editor.number(attributes_of(node).get("alpha", 1.0), f"{y}/limit")
    editor.add("Mul", [x, above(editor, x, limit, y)], y, output=y)
    return True


def written_jumping_shrink(editor: Editor, node: NodeProto) -> bool:
    """Shrink, whatever its bias is."""
    (x,), y, attributes = node.input, node.output[0], attributes_of(node)
    limit, bias = attributes.get("lambd", 0.5), attributes.get("bias", 0.0)
    shift = editor.number(bias, f"{y}/bias")
    terms = []
    for op, larger, smaller in (
        ("Sub", x, editor.number(limit, f"{y}/limit")),
        ("Add", editor.number(-limit, f"{y}/limit"), x),
    ):
        part = editor.add(op, [x, shift], f"{y}/part")
        terms.append(editor.add("Mul", [part, above(editor, larger, smaller, y)], f"{y}/term"))
    editor.add("Add", terms, y, output=y)
    return True
