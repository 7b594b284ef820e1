"""Operators that the host has no node for, taken apart into those that it has; equal up to rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .discrete.rounding import written_cast, written_one_hot, written_position, written_remainder
from .discrete.truths import written_comparison, written_jumping_shrink, written_logic, written_threshold
from .editing import Editor, attributes_of
from .moves import (
    Run,
    written_as_moves,
    written_as_planes,
    written_convolution,
    written_cumulative_sum,
    written_without_padding,
)
from .normalisations import NORMALISATIONS
from .products import written_einsum, written_gemm
from .recurrences import written_steps
from .selections import written_concat, written_scatter, written_where

if TYPE_CHECKING:
    from onnx import NodeProto

Rule = Callable[[Editor, "NodeProto", Run], bool]
"""Writes a node in other operators, the last of which gives the node's first output; False if it does not."""

_LARGEST_FLOAT = 1e38  # from here on an end of a Clip is none


def take_apart(editor: Editor, source: str, run: Run) -> bool:
    """Rewrite the nodes that depend on the input and have a rule; returns whether any was."""
    depends, changed = {source}, False
    if not any(node.op_type in RULES for node in editor.graph.node):
        return False
    for node in list(editor.graph.node):
        known = all(0 not in editor.shapes.get(name, (0,)) for name in (*node.input, *node.output) if name)
        if any(name in depends for name in node.input):
            depends.update(node.output)
            rule = RULES.get(node.op_type)
            before = len(editor.nodes)
            if rule is not None and known and rule(editor, node, run):
                depends.update(name for new in editor.nodes[before:] for name in new.output)
                changed = True
                continue
            del editor.nodes[before:]
        editor.nodes.append(node)
    return changed


def _clip(editor: Editor, node: NodeProto, _run: Run) -> bool:
    """A Clip with one end as one with two, the other beyond all numbers; Relu, or nothing at all, where it is that."""
    attributes = attributes_of(node)
    ends: list[np.ndarray | None] = []
    for position, name in ((1, "min"), (2, "max")):
        if name in attributes:
            ends.append(np.asarray(attributes[name]))
        elif len(node.input) > position and node.input[position]:
            ends.append(editor.constants.get(node.input[position]))
            if ends[-1] is None:
                return False
        else:
            ends.append(None)
    low, high = (None if end is None or abs(float(end)) > _LARGEST_FLOAT else float(end) for end in ends)
    x, y = node.input[0], node.output[0]
    if low is not None and high is not None:
        return False
    if low is None and high is None:
        editor.add("Identity", [x], y, output=y)
    elif low == 0.0:
        editor.add("Relu", [x], y, output=y)
    else:
        most = float(np.finfo(editor.dtype).max)
        pair = -most if low is None else low, most if high is None else high
        if editor.version < 11:  # the ends are attributes, in float32
            least = float(np.finfo(np.float32).max)
            editor.add("Clip", [x], y, output=y, min=max(pair[0], -least), max=min(pair[1], least))
        else:
            editor.add("Clip", [x, *(editor.number(end, f"{y}/end") for end in pair)], y, output=y)
    return True


def _sum(editor: Editor, node: NodeProto, _run: Run) -> bool:
    """``a + b + c`` one after the other, and for Mean divided by their number."""
    total, y = node.input[0], node.output[0]
    for name in node.input[1:]:
        total = editor.add("Add", [total, name], f"{y}/sum")
    if node.op_type == "Mean":
        total = editor.add("Mul", [total, editor.number(1.0 / len(node.input), f"{y}/share")], f"{y}/mean")
    editor.add("Identity", [total], y, output=y)
    return True


def _log_softmax(editor: Editor, node: NodeProto, _run: Run) -> bool:
    """``x - log(sum(exp(x)))``."""
    x, y = node.input[0], node.output[0]
    rank = len(editor.shapes[x])
    axis = attributes_of(node).get("axis", -1 if editor.version >= 13 else 1) % rank
    axes = [axis] if editor.version >= 13 else list(range(axis, rank))
    total = editor.reduce("ReduceSum", editor.add("Exp", [x], f"{y}/exp"), axes, f"{y}/sum")
    editor.add("Sub", [x, editor.add("Log", [total], f"{y}/log")], y, output=y)
    return True


def _log_sum_exp(editor: Editor, node: NodeProto, _run: Run) -> bool:
    """``log(sum(exp(x)))``."""
    x, y, attributes = node.input[0], node.output[0], attributes_of(node)
    axes = _axes(editor, node)
    if axes is None:
        return False
    keep = attributes.get("keepdims", 1)
    total = editor.reduce("ReduceSum", editor.add("Exp", [x], f"{y}/exp"), axes, f"{y}/sum", keepdims=keep)
    editor.add("Log", [total], y, output=y)
    return True


def _root_of_squares(editor: Editor, node: NodeProto, _run: Run) -> bool:
    """``sqrt(sum(x x))``."""
    x, y, axes = node.input[0], node.output[0], _axes(editor, node)
    if axes is None:
        return False
    keep = attributes_of(node).get("keepdims", 1)
    squares = editor.add("Mul", [x, x], f"{y}/squares")
    editor.add("Sqrt", [editor.reduce("ReduceSum", squares, axes, f"{y}/sum", keepdims=keep)], y, output=y)
    return True


def _axes(editor: Editor, node: NodeProto) -> list[int] | None:
    """Axes of a reduction; None if they are computed."""
    rank = len(editor.shapes[node.input[0]])
    if "axes" in (attributes := attributes_of(node)):
        return [axis % rank for axis in attributes["axes"]]
    if len(node.input) > 1 and node.input[1]:
        given = editor.constants.get(node.input[1])
        return None if given is None else [int(axis) % rank for axis in given] or list(range(rank))
    return list(range(rank))


def _softmax(editor: Editor, node: NodeProto, _run: Run) -> bool:
    """Before operator set 13, Softmax is one over all axes from the given one on."""
    shape = editor.shapes[node.input[0]]
    if editor.version >= 13:
        return False
    axis = attributes_of(node).get("axis", 1) % len(shape)
    if axis == len(shape) - 1:
        return False
    x, y = node.input[0], node.output[0]
    flat = editor.reshape(x, (-1, *shape[1:axis], int(np.prod(shape[axis:]))) if axis else (1, -1), f"{y}/flat")
    value = editor.add("Softmax", [flat], f"{y}/softmax", axis=max(axis, 1))
    editor.reshape(value, (-1, *shape[1:]), f"{y}/shape", output=y)
    return True


def _depth(editor: Editor, node: NodeProto, _run: Run) -> bool:
    """DepthToSpace and SpaceToDepth as a transpose between two reshapes."""
    attributes, y = attributes_of(node), node.output[0]
    size = attributes["blocksize"]
    _, channels, height, width = editor.shapes[node.input[0]]
    if node.op_type == "SpaceToDepth":
        split, perm = (-1, channels, height // size, size, width // size, size), [0, 3, 5, 1, 2, 4]
    elif attributes.get("mode", b"DCR") == b"DCR":
        split, perm = (-1, size, size, channels // size**2, height, width), [0, 3, 4, 1, 5, 2]
    else:
        split, perm = (-1, channels // size**2, size, size, height, width), [0, 1, 4, 2, 5, 3]
    turned = editor.add("Transpose", [editor.reshape(node.input[0], split, f"{y}/split")], f"{y}/turned", perm=perm)
    editor.reshape(turned, (-1, *editor.shapes[y][1:]), f"{y}/shape", output=y)
    return True


def _global_max(editor: Editor, node: NodeProto, _run: Run) -> bool:
    """GlobalMaxPool as the largest of each channel in a row."""
    x, y = node.input[0], node.output[0]
    batch, channels, *space = editor.shapes[x]
    if batch != 1:
        return False
    row = editor.reshape(x, (-1, channels, int(np.prod(space))), f"{y}/row")
    largest = editor.reduce("ReduceMax", row, [2], f"{y}/largest")
    editor.reshape(largest, (-1, *editor.shapes[y][1:]), f"{y}/shape", output=y)
    return True


def _shrink(editor: Editor, node: NodeProto, _run: Run) -> bool:
    """``relu(x - a) - relu(-x - a)``, where the bias is the limit; any other Shrink jumps."""
    attributes, x, y = attributes_of(node), node.input[0], node.output[0]
    limit = attributes.get("lambd", 0.5)
    if attributes.get("bias", 0.0) != limit:
        return written_jumping_shrink(editor, node)
    end = editor.number(limit, f"{y}/limit")
    above = editor.add("Relu", [editor.add("Sub", [x, end], f"{y}/more")], f"{y}/above")
    mirrored = editor.add("Sub", [editor.add("Neg", [x], f"{y}/mirrored"), end], f"{y}/less")
    editor.add("Sub", [above, editor.add("Relu", [mirrored], f"{y}/below")], y, output=y)
    return True


def _gelu(editor: Editor, node: NodeProto, _run: Run) -> bool:
    """onnxruntime's own Gelu, ``x (1 + erf(x / sqrt 2)) / 2``, as exporters write it."""
    if node.domain in ("", "ai.onnx"):
        return False
    x, y = node.input[0], node.output[0]
    ratio = editor.add("Div", [x, editor.number(2**0.5, f"{y}/root")], f"{y}/ratio")
    error = editor.add("Add", [editor.add("Erf", [ratio], f"{y}/erf"), editor.number(1.0, f"{y}/one")], f"{y}/more")
    product = editor.add("Mul", [x, error], f"{y}/product")
    editor.add("Mul", [product, editor.number(0.5, f"{y}/half")], y, output=y)
    return True


def _prelu(editor: Editor, node: NodeProto, _run: Run) -> bool:
    """``relu(x) - a relu(-x)`` with a slope for each channel."""
    slope, shape = editor.constants.get(node.input[1]), editor.shapes[node.input[0]]
    if slope is None or slope.size == 1 or (len(shape) == 2 and slope.shape == shape[1:]):
        return False
    x, y = node.input[0], node.output[0]
    below = editor.add("Relu", [editor.add("Neg", [x], f"{y}/mirrored")], f"{y}/below")
    scaled = editor.add("Mul", [below, node.input[1]], f"{y}/scaled")
    editor.add("Sub", [editor.add("Relu", [x], f"{y}/above"), scaled], y, output=y)
    return True


def _padding(editor: Editor, node: NodeProto, run: Run) -> bool:
    if attributes_of(node).get("mode", b"constant") == b"constant":
        return False
    return written_as_moves(editor, node, run)


def _resize(editor: Editor, node: NodeProto, run: Run) -> bool:
    attributes = attributes_of(node)
    if attributes.get("extrapolation_value", 0.0):
        return False  # what lies outside of the image is a constant
    mode = attributes.get("mode", b"nearest")
    return (mode == b"nearest" and written_as_moves(editor, node, run)) or written_as_planes(editor, node, run)


def _average(editor: Editor, node: NodeProto, run: Run) -> bool:
    """An AveragePool whose padding is not the same on both sides, does not count, or that rounds up."""
    attributes = attributes_of(node)
    pads = attributes.get("pads", [])
    half = len(pads) // 2
    plain = pads[:half] == pads[half:] and (attributes.get("count_include_pad", 0) or not any(pads))
    if plain and not attributes.get("ceil_mode", 0) and attributes.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID"):
        return False
    return written_as_planes(editor, node, run)


def _gather(editor: Editor, node: NodeProto, run: Run) -> bool:
    """A Gather with a table of positions."""
    index = editor.constants.get(node.input[1])
    return index is not None and index.ndim > 1 and written_as_moves(editor, node, run)


RULES: dict[str, Rule] = {
    "And": written_logic,
    "ArgMax": written_position,
    "ArgMin": written_position,
    "AveragePool": _average,
    "Cast": written_cast,
    "Clip": _clip,
    "Concat": written_concat,
    "ConvTranspose": written_convolution,
    "CumSum": written_cumulative_sum,
    "DepthToSpace": _depth,
    "Einsum": written_einsum,
    "Equal": written_comparison,
    "Expand": written_as_moves,
    "Gather": _gather,
    "GatherElements": written_as_moves,
    "GatherND": written_as_moves,
    "Gelu": _gelu,
    "Gemm": written_gemm,
    "GlobalMaxPool": _global_max,
    "Greater": written_comparison,
    "GreaterOrEqual": written_comparison,
    "GRU": written_steps,
    "Less": written_comparison,
    "LessOrEqual": written_comparison,
    "LogSoftmax": _log_softmax,
    "LSTM": written_steps,
    "MaxPool": written_without_padding,
    "Mean": _sum,
    "Mod": written_remainder,
    "Not": written_logic,
    "Or": written_logic,
    "OneHot": written_one_hot,
    "Pad": _padding,
    "PRelu": _prelu,
    "ReduceL2": _root_of_squares,
    "ReduceLogSumExp": _log_sum_exp,
    "Resize": _resize,
    "ReverseSequence": written_as_moves,
    "RNN": written_steps,
    "ScatterElements": written_scatter,
    "ScatterND": written_scatter,
    "Shrink": _shrink,
    "Softmax": _softmax,
    "SpaceToDepth": _depth,
    "Sum": _sum,
    "ThresholdedRelu": written_threshold,
    "Tile": written_as_moves,
    "Trilu": written_as_moves,
    "Upsample": _resize,
    "Where": written_where,
    "Xor": written_logic,
    **NORMALISATIONS,
}
"""ONNX operator -> how it is taken apart; a rule may leave alone a node that needs none."""
