"""An ONNX graph while it is rewritten: constants as arrays, shapes by name, and nodes written anew in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

Shapes = dict[str, tuple[int, ...]]
"""Shapes of values by name, for a batch of one; 0 for an unknown size, absent where not even the rank is known."""


_WITH_BODIES = {"If", "Loop", "Scan", "SequenceMap"}


class _Stored(dict[str, np.ndarray]):
    """Initializers by name, read when they are asked for."""

    def __init__(self, graph: GraphProto) -> None:
        super().__init__(dict.fromkeys(tensor.name for tensor in graph.initializer))
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}

    def __getitem__(self, name: str) -> np.ndarray:
        from onnx import numpy_helper

        if name in self._tensors:
            self[name] = numpy_helper.to_array(self._tensors.pop(name))
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        if name not in self:
            return default
        return self[name]


class Editor:
    """Writes the nodes of a graph anew.

    Attributes:
        graph: the graph, changed in place.
        version: of the standard operators that the file uses.
        constants: values of its initializers by name.
        shapes: of all values as far as they are known, kept up to date for what `add` writes if the caller says so.
        nodes: those written so far; `finish` puts them in place of the old ones.
        dtype: floating-point type of the network.
        tests: truth values that are numbers 0 and 1 by now, by name; what they were before.
        whole: names of whole numbers that are of the network's type by now.
    """

    def __init__(self, model: ModelProto, shapes: Shapes, dtype: np.dtype) -> None:
        self.graph: GraphProto = model.graph
        self.version = version_of(model)
        self.constants: dict[str, np.ndarray] = _Stored(model.graph)
        self.shapes = shapes
        self.dtype = dtype
        self.nodes: list[NodeProto] = []
        self.tests: dict[str, NodeProto] = {}
        self.whole: set[str] = set()
        self._taken: set[str] = set()
        self._viewed: dict[str, str] = {}

    def constant(self, array: Any, hint: str) -> str:
        """The name of a new constant of the graph."""
        from onnx import numpy_helper

        array = np.asarray(array)
        name = self.unused(hint)
        self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        self.constants[name], self.shapes[name] = array, array.shape
        return name

    def number(self, value: float, hint: str) -> str:
        """The name of a new scalar of the network's type."""
        return self.constant(np.array(value, dtype=self.dtype), hint)

    def add(self, op: str, inputs: Sequence[str], hint: str, *, output: str | None = None, **attributes: Any) -> str:
        """Write a node; returns the name of its value, `output` or else a new one like `hint`."""
        from onnx import helper

        name = self.unused(hint) if output is None else output
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def reshape(self, x: str, shape: Sequence[int], hint: str, *, output: str | None = None) -> str:
        """Write a Reshape, its shape given as a constant; of a view, it is one of what that shows."""
        root, sizes = self._viewed.get(x, x), tuple(1 if size == -1 else size for size in shape)
        if self.shapes.get(root) == sizes and output is None and 0 not in sizes:
            return root
        value = self._reshape(root, shape, hint, output)
        self._viewed[value], self.shapes[value] = root, sizes
        return value

    def _reshape(self, x: str, shape: Sequence[int], hint: str, output: str | None) -> str:
        sizes = self.constant(np.array(shape, dtype=np.int64), f"{hint}_shape")
        return self.add("Reshape", [x, sizes], hint, output=output)

    def reduce(
        self, op: str, x: str, axes: Sequence[int], hint: str, *, keepdims: int = 1, output: str | None = None
    ) -> str:
        """Write a reduction, its axes where this version of the operators has them."""
        if self.version >= (13 if op == "ReduceSum" else 18):
            given = self.constant(np.array(axes, dtype=np.int64), f"{hint}_axes")
            return self.add(op, [x, given], hint, output=output, keepdims=keepdims)
        return self.add(op, [x], hint, output=output, axes=list(axes), keepdims=keepdims)

    def for_each(self, name: str, like: str, axis: int) -> str:
        """A constant as ``0 x + c``, x parts of `like` along the axis in which both differ: for each of a batch."""
        index = self.constant(np.zeros(self.constants[name].shape[axis], dtype=np.int64), f"{name}/index")
        parts = self.add("Gather", [like, index], f"{name}/parts", axis=axis)
        nothing = self.add("Mul", [parts, self.number(0.0, f"{name}/zero")], f"{name}/nothing")
        return self.add("Add", [nothing, name], f"{name}/each")

    def unused(self, name: str) -> str:
        """A name like this one that no value of the graph has."""
        if not self._taken:
            self._taken = {*self.constants, *(value.name for value in self.graph.input)}
            self._taken.update(made for node in (*self.graph.node, *self.nodes) for made in node.output)
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def finish(self) -> None:
        """Put the nodes written in place of the graph's."""
        del self.graph.node[:], self.graph.value_info[:]
        self.graph.node.extend(self.nodes)


def attributes_of(node: NodeProto) -> dict[str, Any]:
    """A node's attributes by name."""
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def version_of(model: ModelProto) -> int:
    """The version of the standard operators that a model uses."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)


def captured(body: GraphProto) -> Iterator[str]:
    """Names that the body of a Loop, Scan or If uses: its own, and those of the graph around it."""
    for node in body.node:
        yield from used_by(node)
    yield from (value.name for value in body.output)


def used_by(node: NodeProto) -> list[str]:
    """Names of all values that a node reads, also within its bodies."""
    names = [name for name in node.input if name]
    if node.op_type in _WITH_BODIES:
        for attribute in node.attribute:
            names.extend(captured(attribute.g))
    return names


def drop_unused(graph: GraphProto) -> None:
    """Drop nodes on which no output depends, and constants that no node reads."""
    used = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if used.intersection(node.output):
            kept.append(node)
            used.update(used_by(node))
    del graph.node[:]
    graph.node.extend(reversed(kept))
    if len(read := [tensor for tensor in graph.initializer if tensor.name in used]) < len(graph.initializer):
        given = {value.name for value in graph.input}
        read = [tensor for tensor in graph.initializer if tensor.name in used or tensor.name in given]
        stored = list(read)
        del graph.initializer[:]
        graph.initializer.extend(stored)
