"""Einsum of two operands, and Gemm with factors, as MatMul between transposes and reshapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .editing import Editor, attributes_of
from .moves import Run

if TYPE_CHECKING:
    from onnx import NodeProto


def written_einsum(editor: Editor, node: NodeProto, _run: Run) -> bool:
    """A contraction of two operands as one MatMul: shared axes, then those of the first, then those of the second."""
    equation = attributes_of(node)["equation"].decode().replace(" ", "")
    if len(node.input) != 2 or "." in equation or "->" not in equation:
        return False
    (a, b), target = equation.split("->")[0].split(","), equation.split("->")[1]
    if any(len(set(part)) < len(part) for part in (a, b, target)) or not set(target) <= set(a + b):
        return False
    names, y = list(node.input), node.output[0]
    if names[0] in editor.constants:  # constants stand on the right
        a, b, names = b, a, names[::-1]
    sizes = dict(zip(a + b, (*editor.shapes[names[0]], *editor.shapes[names[1]])))
    shared = [c for c in a if c in b and c in target]
    summed = [c for c in a if c in b and c not in target]
    own = [[c for c in part if c not in shared + summed] for part in (a, b)]
    if any(c not in target for part in own for c in part):
        return False
    rows = _arranged(editor, names[0], a, [*shared, *own[0], *summed], y)
    first = [*shared, *own[0]]
    k, n = math.prod(sizes[c] for c in summed), math.prod(sizes[c] for c in own[1])
    left = editor.reshape(rows, _behind_batch([*(sizes[c] for c in first), k]), f"{y}/rows")
    if names[1] in editor.constants:
        array = np.transpose(editor.constants[names[1]], [b.index(c) for c in [*shared, *summed, *own[1]]])
        between = [1] * len(own[0]) if shared else []
        right = editor.constant(array.reshape(*(sizes[c] for c in shared), *between[1:], k, n), f"{y}/columns")
        if shared and len(own[0]) == 0:
            return False
    else:
        columns = _arranged(editor, names[1], b, [*shared, *summed, *own[1]], y)
        between = [1] * max(0, len(own[0]) - 1)
        right = editor.reshape(columns, _behind_batch([*(sizes[c] for c in shared), *between, k, n]), f"{y}/columns")
        if not own[0]:
            left = editor.reshape(left, _behind_batch([*(sizes[c] for c in shared), 1, k]), f"{y}/row")
    product = editor.add("MatMul", [left, right], f"{y}/product")
    have = [*first, *own[1]]
    value = editor.reshape(product, _behind_batch([sizes[c] for c in have]), f"{y}/axes")
    perm = [have.index(c) for c in target]
    if perm == sorted(perm):
        editor.add("Identity", [value], y, output=y)
    else:
        editor.add("Transpose", [value], y, output=y, perm=perm)
    return True


def _arranged(editor: Editor, name: str, axes: str, wanted: Sequence[str], hint: str) -> str:
    perm = [axes.index(c) for c in wanted]
    return name if perm == sorted(perm) else editor.add("Transpose", [name], f"{hint}/arranged", perm=perm)


def _behind_batch(shape: Sequence[int]) -> list[int]:
    """The target of a Reshape, open in the first size where that is the batch of 1."""
    return [-1 if shape[0] == 1 else shape[0], *shape[1:]] if shape else [1]


def written_gemm(editor: Editor, node: NodeProto, _run: Run) -> bool:
    """A Gemm that scales its terms, or whose bias is no vector, with plain factors."""
    attributes, (x, w, *third), y = attributes_of(node), node.input, node.output[0]
    third = [name for name in third if name]
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    weights, bias = editor.constants.get(w), editor.constants.get(third[0]) if third else None
    if x in editor.constants or weights is None or (third and bias is None) or attributes.get("transA", 0):
        return False
    matrix = weights.T if attributes.get("transB", 0) else weights
    vector = bias is None or bias.shape == matrix.shape[1:]
    if alpha == 1.0 and (beta == 1.0 or bias is None) and vector:
        return False
    factor = editor.constant((alpha * matrix).astype(editor.dtype), f"{y}/factor")
    if bias is None:
        editor.add("MatMul", [x, factor], y, output=y)
        return True
    term = beta * bias
    flat = np.broadcast_to(term, (1, matrix.shape[1]))[0] if term.size in (1, matrix.shape[1]) else term
    product = editor.add("MatMul", [x, factor], f"{y}/product")
    editor.add("Add", [product, editor.constant(flat.astype(editor.dtype), f"{y}/term")], y, output=y)
    return True
