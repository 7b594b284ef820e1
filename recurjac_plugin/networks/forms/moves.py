"""Operators that copy entries or mix them by fixed weights, which are found by running the operator once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .editing import Editor, attributes_of

if TYPE_CHECKING:
    from onnx import NodeProto

Run = Callable[["NodeProto", "dict[str, np.ndarray]"], "np.ndarray | None"]
"""Gives the first output of a node for values of its inputs; None where it does not run."""

_LARGEST = 2**24  # positions that float32 tells apart, and entries of a matrix


def written_as_moves(editor: Editor, node: NodeProto, run: Run) -> bool:
    """Write an operator of one value that only copies its entries, or leaves 0, as one Gather of them.

    With ``p`` the positions that the operator gives for ``1, 2, ..., n``, the value is ``x[p - 1]``, and 0 where
    ``p = 0``.

    Returns:
        Whether it was written.

    Source:
        Own.
    """
    x, *others = node.input
    shape, target = editor.shapes.get(x, (0,)), editor.shapes.get(node.output[0], (0,))
    if 0 in (*shape, *target) or any(name and name not in editor.constants for name in others):
        return False
    n = math.prod(shape)
    if n >= _LARGEST or not shape or shape[0] != 1:
        return False
    given = {name: editor.constants[name] for name in others if name}
    moved = run(node, {**given, x: np.arange(1, n + 1, dtype=editor.dtype).reshape(shape)})
    if moved is None or moved.shape != target:
        return False
    positions = moved.reshape(-1).astype(np.int64)
    if (positions < 0).any() or (positions > n).any() or (positions != moved.reshape(-1)).any():
        return False
    hint = f"{node.output[0]}/moved"
    flat = editor.reshape(x, (-1, n), f"{hint}/flat")
    index = editor.constant(np.maximum(positions - 1, 0), f"{hint}/positions")
    value = editor.add("Gather", [flat, index], hint, axis=1)
    if not positions.all():
        mask = editor.constant((positions > 0).astype(editor.dtype)[None], f"{hint}/mask")
        value = editor.add("Mul", [value, mask], f"{hint}/masked")
    editor.reshape(value, (-1, *target[1:]) if target[0] == 1 else target, hint, output=node.output[0])
    return True


def written_as_planes(editor: Editor, node: NodeProto, run: Run) -> bool:
    """Write a linear operator on each channel's plane as a product of the planes with one matrix.

    The operator is run on an image whose k-th channel is the k-th unit vector: its outputs are the rows of the matrix.

    Returns:
        Whether it was written.

    Source:
        Own.
    """
    x, *others = node.input
    shape, target = editor.shapes.get(x, (0,)), editor.shapes.get(node.output[0], (0,))
    same = len(shape) > 2 and len(target) == len(shape) and shape[:2] == target[:2] and shape[0] == 1
    if not same or 0 in (*shape, *target) or any(name and name not in editor.constants for name in others):
        return False
    n, m = math.prod(shape[2:]), math.prod(target[2:])
    if n * n >= _LARGEST or n * m >= _LARGEST:
        return False
    given = {name: editor.constants[name] for name in others if name}
    units = np.eye(n, dtype=editor.dtype).reshape(1, n, *shape[2:])
    sizes = _sizes_input(node)
    if sizes in given:
        given[sizes] = np.array([1, n, *target[2:]], dtype=np.int64)
    rows = run(node, {**given, x: units})
    if rows is None or rows.shape != (1, n, *target[2:]):
        return False
    matrix = editor.constant(rows.reshape(n, m).astype(editor.dtype), f"{node.output[0]}/matrix")
    planes = editor.reshape(x, (-1, shape[1], n), f"{node.output[0]}/planes")
    value = editor.add("MatMul", [planes, matrix], f"{node.output[0]}/product")
    editor.reshape(value, (-1, *target[1:]), f"{node.output[0]}/image", output=node.output[0])
    return True


def _sizes_input(node: NodeProto) -> str:
    """The input of a Resize that gives sizes, which count channels too."""
    return node.input[3] if node.op_type == "Resize" and len(node.input) > 3 else ""


def written_cumulative_sum(editor: Editor, node: NodeProto, _run: Run) -> bool:
    """Write CumSum as a product with a triangular matrix of 1s."""
    attributes = attributes_of(node)
    shape = editor.shapes.get(node.input[0], (0,))
    axis = editor.constants.get(node.input[1])
    if axis is None or 0 in shape:
        return False
    where = int(axis.reshape(-1)[0]) % len(shape)
    size = shape[where]
    sums = np.triu(np.ones((size, size)), attributes.get("exclusive", 0)).astype(editor.dtype)
    matrix = editor.constant(sums.T if attributes.get("reverse", 0) else sums, f"{node.output[0]}/sums")
    swap = list(range(len(shape)))
    swap[where], swap[-1] = swap[-1], swap[where]
    _multiplied(editor, node, matrix, swap)
    return True


def _multiplied(editor: Editor, node: NodeProto, matrix: str, swap: list[int]) -> None:
    """Write ``x M`` along the axis that `swap` exchanges with the last."""
    x, hint = node.input[0], f"{node.output[0]}/product"
    if swap == sorted(swap):
        editor.add("MatMul", [x, matrix], hint, output=node.output[0])
        return
    turned = editor.add("Transpose", [x], f"{hint}/turned", perm=swap)
    product = editor.add("MatMul", [turned, matrix], hint)
    editor.add("Transpose", [product], hint, output=node.output[0], perm=swap)


def written_without_padding(editor: Editor, node: NodeProto, _run: Run) -> bool:
    """Write a MaxPool whose padding is not the same on both sides, or that rounds up, as one without any.

    A window that hangs over an edge holds the entries next to that edge. To repeat these beyond it changes no maximum.
    """
    attributes = attributes_of(node)
    shape, target = editor.shapes.get(node.input[0], (0,)), editor.shapes.get(node.output[0], (0,))
    kernel, rank = attributes["kernel_shape"], len(shape) - 2
    if 0 in (*shape, *target) or any(size != 1 for size in attributes.get("dilations", [1])) or len(node.output) > 1:
        return False
    strides = attributes.get("strides", [1] * rank)
    pads = attributes.get("pads", [0] * 2 * rank)
    auto = attributes.get("auto_pad", b"NOTSET")
    if auto == b"VALID":
        pads = [0] * 2 * rank
    reach = [(size - 1) * step + width for size, step, width in zip(target[2:], strides, kernel)]
    if auto in (b"SAME_UPPER", b"SAME_LOWER"):
        missing = [max(0, far - size) for far, size in zip(reach, shape[2:])]
        pads = [(gap + (auto == b"SAME_LOWER")) // 2 for gap in missing]
    if pads[:rank] == pads[rank:] and not attributes.get("ceil_mode", 0) and auto == b"NOTSET":
        return False
    value = node.input[0]
    for axis, (begin, far, size) in enumerate(zip(pads, reach, shape[2:])):
        if begin or far > size:
            index = editor.constant(np.clip(np.arange(-begin, far - begin), 0, size - 1), f"{node.output[0]}/edges")
            value = editor.add("Gather", [value, index], f"{node.output[0]}/padded", axis=axis + 2)
    kept: dict[str, Any] = {"kernel_shape": kernel, "strides": strides}
    editor.add("MaxPool", [value], node.output[0], output=node.output[0], **kept)
    return True


def written_convolution(editor: Editor, node: NodeProto, _run: Run) -> bool:
    """Write a ConvTranspose with padding as one without, of which the right part is taken.

    The converter pads by negative widths, which hosts do not read, and not all of them read padding. Along each axis
    the padding at the beginning is cut off; what output padding adds behind the end is 0 and the bias.
    """
    attributes, (x, kernel, *bias) = attributes_of(node), node.input
    shape, target = editor.shapes[x], editor.shapes[node.output[0]]
    rank = len(shape) - 2
    pads, extra = attributes.pop("pads", [0] * 2 * rank), attributes.pop("output_padding", [0] * rank)
    automatic = attributes.pop("auto_pad", b"NOTSET") != b"NOTSET" or "output_shape" in attributes
    if automatic or kernel not in editor.constants or not any([*pads, *extra]):
        return False
    y = node.output[0]
    value = editor.add("ConvTranspose", [x, kernel], f"{y}/all", **attributes)
    for axis in range(rank):
        step, apart = attributes.get("strides", [1] * rank)[axis], attributes.get("dilations", [1] * rank)[axis]
        full = (shape[axis + 2] - 1) * step + (editor.shapes[kernel][axis + 2] - 1) * apart + 1
        positions = np.arange(pads[axis], pads[axis] + target[axis + 2])
        index = editor.constant(np.minimum(positions, full - 1), f"{y}/positions")
        value = editor.add("Gather", [value, index], f"{y}/part", axis=axis + 2)
        if positions[-1] >= full:
            inside = (positions < full).astype(editor.dtype).reshape(-1, *(1,) * (rank - 1 - axis))
            value = editor.add("Mul", [value, editor.constant(inside, f"{y}/inside")], f"{y}/zeros")
    if bias and bias[0]:
        term = editor.constants[bias[0]].reshape(-1, *(1,) * rank)
        value = editor.add("Add", [value, editor.constant(term, f"{y}/bias")], f"{y}/sum")
    editor.add("Identity", [value], y, output=y)
    return True
