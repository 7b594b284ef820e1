"""Normalisations by the mean and variance of the values themselves, in sums, products and one square root."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .editing import Editor, attributes_of
from .moves import Run

if TYPE_CHECKING:
    from onnx import NodeProto


def _normalised(
    editor: Editor,
    x: str,
    axes: Sequence[int],
    epsilon: float,
    hint: str,
    *,
    centred: bool = True,
    outside: bool = False,
) -> str:
    """``(x - mean) / sqrt(variance + epsilon)`` over some axes; without the mean where it is not to be centred."""
    if centred:
        x = editor.add("Sub", [x, editor.reduce("ReduceMean", x, axes, f"{hint}/mean")], f"{hint}/centred")
    square = editor.add("Mul", [x, x], f"{hint}/square")
    variance = editor.reduce("ReduceMean", square, axes, f"{hint}/variance")
    number = editor.number(epsilon, f"{hint}/epsilon")
    if outside:
        deviation = editor.add("Add", [editor.add("Sqrt", [variance], f"{hint}/root"), number], f"{hint}/deviation")
    else:
        deviation = editor.add("Sqrt", [editor.add("Add", [variance, number], f"{hint}/more")], f"{hint}/deviation")
    return editor.add("Div", [x, deviation], f"{hint}/normalised")


def _scaled(editor: Editor, node: NodeProto, value: str, shape: Sequence[int] | None) -> None:
    """Multiply by the second input and add the third, given the shape in which they fit."""
    names = [name for name in node.input[1:] if name]
    if shape is not None:
        names = [editor.constant(editor.constants[name].reshape(shape), f"{name}/shaped") for name in names]
    y = node.output[0]
    for op, name in zip(("Mul", "Add"), names):
        value = editor.add(op, [value, name], f"{y}/{op}")
    editor.add("Identity", [value], y, output=y)


def _constant_parameters(editor: Editor, node: NodeProto) -> bool:
    return all(not name or name in editor.constants for name in node.input[1:])


def _layer(editor: Editor, node: NodeProto, _run: Run) -> bool:
    """LayerNormalization and RMSNormalization."""
    attributes, rank = attributes_of(node), len(editor.shapes[node.input[0]])
    if not _constant_parameters(editor, node) or any(node.output[1:]):
        return False
    axes = list(range(attributes.get("axis", -1) % rank, rank))
    centred = node.op_type == "LayerNormalization"
    hint = node.output[0]
    value = _normalised(editor, node.input[0], axes, attributes.get("epsilon", 1e-5), hint, centred=centred)
    _scaled(editor, node, value, None)
    return True


def _instance(editor: Editor, node: NodeProto, _run: Run) -> bool:
    """InstanceNormalization: over the plane of each channel."""
    shape = editor.shapes[node.input[0]]
    if not _constant_parameters(editor, node) or len(shape) < 3:
        return False
    plane = list(range(2, len(shape)))
    value = _normalised(editor, node.input[0], plane, attributes_of(node).get("epsilon", 1e-5), node.output[0])
    _scaled(editor, node, value, (1, shape[1], *(1,) * len(plane)))
    return True


def _group(editor: Editor, node: NodeProto, _run: Run) -> bool:
    """GroupNormalization: over the channels of each group; with one factor a group up to operator set 20."""
    attributes, shape = attributes_of(node), editor.shapes[node.input[0]]
    groups, y = attributes["num_groups"], node.output[0]
    if not _constant_parameters(editor, node) or shape[0] != 1:
        return False
    folded = editor.reshape(node.input[0], (-1, groups, math.prod(shape[1:]) // groups), f"{y}/groups")
    value = _normalised(editor, folded, [2], attributes.get("epsilon", 1e-5), y)
    value = editor.reshape(value, (-1, *shape[1:]), f"{y}/channels")
    for name in node.input[1:]:
        array = editor.constants[name]
        if array.size == groups != shape[1]:
            editor.constants[name] = np.repeat(array, shape[1] // groups)
    _scaled(editor, node, value, (1, shape[1], *(1,) * (len(shape) - 2)))
    return True


def _mean_variance(editor: Editor, node: NodeProto, _run: Run) -> bool:
    """MeanVarianceNormalization: ``(x - mean) / (sqrt(variance) + 1e-9)``, as onnxruntime has it."""
    axes = list(attributes_of(node).get("axes", [0, 2, 3]))
    value = _normalised(editor, node.input[0], axes, 1e-9, node.output[0], outside=True)
    _scaled(editor, node, value, None)
    return True


NORMALISATIONS = {
    "GroupNormalization": _group,
    "InstanceNormalization": _instance,
    "LayerNormalization": _layer,
    "MeanVarianceNormalization": _mean_variance,
    "RMSNormalization": _layer,
}
