r"""ONNX graphs of several inputs or outputs, rewritten with one flat input and one flat output.

With inputs :math:`x_1, \ldots, x_m` and outputs :math:`y_1, \ldots, y_n` in the order of the file, the new graph takes
:math:`(x_1, \ldots, x_m)` flattened in row-major order, of shape (1, N), cuts it up and puts the outputs together in
the same way. Everything behind it sees a network of one input; onnxruntime judges the graph as it was.

Source: own; VNN-COMP numbers the inputs ``X_i`` of such networks likewise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from recurjac_plugin.networks.forms.editing import Editor

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True)
class Port:
    """One input or output of a graph.

    Attributes:
        name: in the file.
        shape: in which the graph takes or gives it, batch dimension included.
    """

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def with_flat_ports(
    model: ModelProto, inputs: Sequence[Port], outputs: Sequence[Port], dtype: np.dtype
) -> tuple[ModelProto, str]:
    """A copy of a graph with one input (1, N) and one output (1, M).

    Args:
        model: the graph; it is not changed.
        inputs: all that it takes, in order.
        outputs: all that it gives, in order.
        dtype: floating-point type of all of them.

    Returns:
        The graph, and the name of its input.

    Source:
        As this module's.
    """
    import onnx
    from onnx import helper

    flat = onnx.ModelProto()
    flat.CopyFrom(model)
    editor = Editor(flat, {}, dtype)
    source, sink = editor.unused("inputs"), editor.unused("outputs")
    start = 0
    for port in inputs:
        part = _slice(editor, source, start, start + port.size, f"{port.name}/flat")
        editor.reshape(part, port.shape, f"{port.name}/shaped", output=port.name)
        start += port.size
    editor.nodes.extend(flat.graph.node)
    parts = [editor.reshape(port.name, (1, port.size), f"{port.name}/flat") for port in outputs]
    editor.add("Concat", parts, sink, output=sink, axis=1)
    editor.finish()
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    names = {port.name for port in inputs}
    kept = [value for value in flat.graph.input if value.name not in names]
    del flat.graph.input[:], flat.graph.output[:]
    flat.graph.input.extend([helper.make_tensor_value_info(source, kind, [1, start]), *kept])
    flat.graph.output.append(helper.make_tensor_value_info(sink, kind, [1, sum(port.size for port in outputs)]))
    return flat, source


def _slice(editor: Editor, x: str, start: int, end: int, hint: str) -> str:
    """The columns from `start` up to `end` of a matrix."""
    if editor.version < 10:
        return editor.add("Slice", [x], hint, axes=[1], starts=[start], ends=[end])
    given = [editor.constant(np.array([value], dtype=np.int64), f"{hint}_{name}") for name, value in (
        ("start", start), ("end", end), ("axis", 1)
    )]  # fmt: skip
    return editor.add("Slice", [x, *given], hint)
