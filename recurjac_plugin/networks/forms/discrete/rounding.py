"""Whole numbers as numbers of the network's type.

============================  =====================================================
Cast to whole numbers         ``floor(relu(x)) - floor(relu(-x))``
Cast to truth values          ``x != 0``
``Mod(x, y, fmod=1)``         ``x - y trunc(x / y)``
``ArgMax(x)``                 the sum over k of ``max(x_k, ...) > max(x_0, ..., x_{k-1})``
``OneHot(i)``                 at k the sum of ``i == k`` and ``i == k - depth``
============================  =====================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from recurjac_plugin.networks.forms.editing import Editor, attributes_of

from .truths import above, denied, equal

if TYPE_CHECKING:
    from onnx import NodeProto

_MOST = 64  # numbers of which the largest is looked for: two maxima for each


def _truncated(editor: Editor, x: str, hint: str, output: str | None = None) -> str:
    parts = []
    for name in (x, editor.add("Neg", [x], f"{hint}/mirrored")):
        parts.append(editor.add("Floor", [editor.add("Relu", [name], f"{hint}/side")], f"{hint}/floor"))
    return editor.add("Sub", parts, f"{hint}/whole", output=output)


def written_cast(editor: Editor, node: NodeProto, _run: object) -> bool:
    """Changes of type inside a network, which is computed in its own floating-point type throughout.

    Half precision rounds too much to be left out, and short whole numbers are not those that they come from.
    """
    from onnx import TensorProto

    x, y, to = node.input[0], node.output[0], attributes_of(node).get("to")
    floats, whole = (TensorProto.FLOAT, TensorProto.DOUBLE), (TensorProto.INT32, TensorProto.INT64)
    if to in floats or x in editor.tests or (to in whole and x in editor.whole):
        editor.add("Identity", [x], y, output=y)
    elif to == TensorProto.BOOL:
        denied(editor, equal(editor, x, editor.number(0.0, f"{y}/zero"), y), y, y)
    elif to in whole:
        _truncated(editor, x, y, y)
    else:
        return False
    if to == TensorProto.BOOL:
        editor.tests[y] = node
    elif to not in floats:
        editor.whole.add(y)
    return True


def written_remainder(editor: Editor, node: NodeProto, _run: object) -> bool:
    """Mod by a constant, with the sign of the dividend."""
    (x, divisor), y = node.input, node.output[0]
    if divisor not in editor.constants or not attributes_of(node).get("fmod", 0):
        return False
    whole = _truncated(editor, editor.add("Div", [x, divisor], f"{y}/quotient"), y)
    editor.add("Sub", [x, editor.add("Mul", [whole, divisor], f"{y}/multiple")], y, output=y)
    return True


def written_position(editor: Editor, node: NodeProto, _run: object) -> bool:
    """ArgMax and ArgMin, the first of several or the last."""
    x, y, attributes = node.input[0], node.output[0], attributes_of(node)
    shape = editor.shapes[x]
    axis = attributes.get("axis", 0) % len(shape)
    count = shape[axis]
    if not 1 < count <= _MOST:  # of a batch of one an axis with several places is none of samples
        return False
    op, keep = ("ReduceMax" if node.op_type == "ArgMax" else "ReduceMin"), attributes.get("keepdims", 1)
    total = ""
    for k in range(1, count):
        ends = [
            editor.reduce(
                op,
                editor.add("Gather", [x, editor.constant(np.arange(*part), f"{y}/index")], f"{y}/part", axis=axis),
                [axis],
                f"{y}/extreme",
                keepdims=keep,
            )
            for part in ((k, count), (0, k))
        ]
        behind, before = ends if node.op_type == "ArgMax" else ends[::-1]
        if attributes.get("select_last_index", 0):
            later = denied(editor, above(editor, before, behind, y), y)
        else:
            later = above(editor, behind, before, y)
        last = k == count - 1
        if total:
            total = editor.add("Add", [total, later], f"{y}/sum", output=y if last else None)
        else:
            total = editor.add("Identity", [later], y, output=y) if last else later
    editor.whole.add(y)
    return True


def written_one_hot(editor: Editor, node: NodeProto, _run: object) -> bool:
    """OneHot of whole numbers, those below 0 counted from the end."""
    (index, depth, values), y = node.input, node.output[0]
    if not all(name in editor.constants for name in (depth, values)) or index not in editor.whole:
        return False
    count, shape = int(editor.constants[depth].reshape(())), list(editor.shapes[index])
    off, on = (float(value) for value in editor.constants[values])
    axis = attributes_of(node).get("axis", -1) % (len(shape) + 1)
    places = np.arange(count, dtype=editor.dtype).reshape(-1, *(1,) * (len(shape) - axis))
    wider = editor.reshape(index, [*shape[:axis], 1, *shape[axis:]], f"{y}/wider")
    hit = equal(editor, wider, editor.constant(places, f"{y}/places"), y)
    positions = [each for each in editor.graph.node if each.op_type in ("ArgMax", "ArgMin")]
    if not any(index in each.output for each in positions):
        from_end = equal(editor, wider, editor.constant(places - count, f"{y}/places"), y)
        hit = editor.add("Add", [hit, from_end], f"{y}/hit")
    share = editor.add("Mul", [hit, editor.number(on - off, f"{y}/gain")], f"{y}/share")
    editor.add("Add", [share, editor.number(off, f"{y}/off")], y, output=y)
    if off.is_integer() and on.is_integer():
        editor.whole.add(y)
    return True
