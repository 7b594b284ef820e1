"""The batch stays the first axis of every value: graphs that fold it into others, move it, or have none, are rewritten.

A value of shape ``s`` for one input is *natural* if ``s`` has two axes or more and the first is 1: that one is the
batch. Any other value, such as ``(heads, n, n)`` or a vector, is *lifted*: computed as ``(1, *s)``, the batch put in
front, with every axis of its operators moved by one. Operators that treat the first axis as another, as a transpose
that moves it, are lifted too. Between both forms stands a Reshape, which changes no number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .editing import Editor, attributes_of

if TYPE_CHECKING:
    from onnx import NodeProto

Shape = tuple[int, ...]

_UNARY = (
    "Abs", "Acos", "Asin", "Atan", "Cast", "Ceil", "Celu", "Clip", "Cos", "Cosh", "Dropout", "Elu", "Erf", "Exp",
    "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Mish", "Neg", "Pow", "Reciprocal",
    "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh",
    "ThresholdedRelu",
)  # fmt: skip
_BROADCAST = frozenset(["Add", "Div", "Max", "Mean", "Min", "Mul", "PRelu", "Sub", "Sum"])
_VIEWS = frozenset(["Flatten", "Reshape", "Squeeze", "Unsqueeze"])
_AXIS = {"Concat": 0, "Gather": 0, "Softmax": -1, "LogSoftmax": -1, "Split": 0}  # operator -> its axis if none is given
_SPATIAL = (
    "AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "GlobalAveragePool", "GlobalMaxPool",
    "InstanceNormalization", "LpPool", "MaxPool",
)  # fmt: skip


def keep_batch_in_front(editor: Editor, source: str, has_batch: bool, output: str) -> bool:
    """Rewrite the nodes that do not keep the batch first.

    Args:
        editor: of a graph whose shapes are all known; its `nodes` are written.
        source: the graph's input.
        has_batch: whether the first axis of the input is the batch.
        output: the graph's output.

    Returns:
        Whether any node was rewritten; if not, the graph is as before.
    """
    nodes = list(editor.graph.node)
    if any(0 in editor.shapes.get(name, (0,)) for node in nodes for name in node.output if name):
        return False
    lift = _Lift(editor, source, has_batch)
    for node in nodes:
        lift.write(node)
    if not lift.rewritten:
        return False
    lift.close(output)
    return True


class _Lift:
    """Values in either form, and the nodes written for them."""

    def __init__(self, editor: Editor, source: str, has_batch: bool) -> None:
        self.editor = editor
        self.depends = {source}
        self.natural: dict[str, str] = {}
        self.lifted: dict[str, str] = {}
        self.rewritten = False
        self.shapes = dict(editor.shapes)  # of values in the file's own form
        own = editor.shapes[source]
        if has_batch:
            self.natural[source] = source
        else:
            self.lifted[source] = source  # the graph has no batch: with one, its input is lifted
            self.rewritten = True
            editor.shapes[source] = (1, *own)

    def write(self, node: NodeProto) -> None:
        """Write a node in the form that its values need."""
        if not any(name in self.depends for name in node.input):
            self.editor.nodes.append(node)
            return
        self.depends.update(node.output)
        rule = None if self._keeps(node) else self._rule(node)
        if rule is None:
            for i, name in enumerate(node.input):
                if name in self.depends:
                    node.input[i] = self.as_natural(name) if _is_natural(self.shapes[name]) else self._as_it_was(name)
            self.editor.nodes.append(node)
            for name in node.output:
                if name and _is_natural(self.shapes[name]):
                    self.natural[name] = name
            return
        self.rewritten = True
        rule(node)

    def _as_it_was(self, name: str) -> str:
        """A value in the file's own form, which the operator that reads it is refused for."""
        if name in self.lifted:
            return self.editor.reshape(self.lifted[name], self.shapes[name], f"{name}/file")
        return name

    def as_natural(self, name: str) -> str:
        """The name of a natural value in its own form."""
        if name not in self.natural:
            shape = (-1, *self.shapes[name][1:])
            self.natural[name] = self.editor.reshape(self.lifted[name], shape, f"{name}/natural")
        return self.natural[name]

    def as_lifted(self, name: str, rank: int | None = None) -> str:
        """The name of a value with the batch in front, and with 1s behind that up to `rank` axes of its own."""
        shape = self.shapes[name]
        if name not in self.depends:
            return name
        if rank is not None and len(shape) < rank:
            wider = (-1, *(1,) * (rank - len(shape)), *shape)
            return self.editor.reshape(self._any(name), wider, f"{name}/wider")
        if name not in self.lifted:
            self.lifted[name] = self.editor.reshape(self._any(name), _lifted(shape), f"{name}/lifted")
        return self.lifted[name]

    def _any(self, name: str) -> str:
        return self.lifted[name] if name in self.lifted else self.natural.get(name, name)

    def done(self, node: NodeProto, value: str, position: int = 0) -> None:
        """Note what stands for an output of a node."""
        self.lifted[node.output[position]] = value
        self.editor.shapes[value] = (1, *(self.shapes[node.output[position]] or (1,)))

    def close(self, output: str) -> None:
        """Make the graph's output of what stands for it."""
        if output in self.natural:
            value = self.natural[output]
        else:
            value = self.editor.reshape(self._any(output), (-1, math.prod(self.shapes[output])), f"{output}/flat")
        (declared,) = self.editor.graph.output
        declared.name = value
        declared.type.tensor_type.ClearField("shape")

    # ----------------------------------------------------------------------------------------------------------------

    def _keeps(self, node: NodeProto) -> bool:
        """Whether a node reads and writes natural values and treats their first axis as the batch."""
        given = [name for name in node.input if name in self.depends]
        if not all(_is_natural(self.shapes[name]) for name in (*given, *(n for n in node.output if n))):
            return False
        op = node.op_type
        out = self.shapes[node.output[0]]
        if op in _UNARY or op in _VIEWS or op in _SPATIAL:
            return True
        if op in _BROADCAST:
            return all(len(self.shapes[name]) == len(out) for name in given)
        attributes, rank = attributes_of(node), len(self.shapes[node.input[0]])
        if op == "Transpose":
            return attributes.get("perm", [1])[0] == 0
        if op in ("MatMul", "Gemm"):
            return self._multiplies_samples(node, attributes)
        if op in _AXIS:
            rank = max(len(self.shapes[name]) for name in given)
            return node.input[0] in self.depends and attributes.get("axis", _AXIS[op]) % rank != 0
        if op == "Slice" or op.startswith("Reduce"):
            axes = self._axes(node, attributes, rank)
            return axes is not None and all(axis % rank for axis in axes)
        return True

    def _multiplies_samples(self, node: NodeProto, attributes: dict[str, Any]) -> bool:
        left, right = node.input[:2]
        if node.op_type == "Gemm":
            third = len(node.input) > 2 and node.input[2] in self.depends
            return left in self.depends and right not in self.depends and not attributes.get("transA", 0) and not third
        if left in self.depends and right in self.depends:
            return len(self.shapes[left]) == len(self.shapes[right]) >= 3
        return len(self.shapes[left if left in self.depends else right]) >= 3 or left in self.depends

    def _axes(self, node: NodeProto, attributes: dict[str, Any], rank: int) -> list[int] | None:
        """Axes of a reduction or slice, None if they are computed."""
        position = 3 if node.op_type == "Slice" else 1
        if "axes" in attributes:
            return list(attributes["axes"])
        if len(node.input) > position and node.input[position]:
            value = self.editor.constants.get(node.input[position])
            return None if value is None else [int(axis) for axis in value]
        if node.op_type == "Slice":
            starts = attributes.get("starts", self.editor.constants.get(node.input[1] if len(node.input) > 1 else ""))
            return None if starts is None else list(range(len(starts)))
        return list(range(rank))

    # ----------------------------------------------------------------------------------------------------------------

    def _rule(self, node: NodeProto) -> Callable[[NodeProto], None] | None:
        op, attributes = node.op_type, attributes_of(node)
        if op in _UNARY and all(name not in self.depends for name in node.input[1:]):
            return self._unary
        if op in _BROADCAST:
            return self._broadcast
        if op in _VIEWS or (op == "Transpose" and self._moves_ones_only(node, attributes)):
            return self._view
        if op in _AXIS:
            computed = any(name in self.depends for name in node.input[1:]) and op != "Concat"
            return None if computed else self._along_axis
        if op == "Slice" or op.startswith("Reduce"):
            return None if self._axes(node, attributes, 1) is None else self._slice if op == "Slice" else self._reduce
        if op in _SPATIAL and node.input[0] in self.depends:
            return self._images if all(name not in self.depends for name in node.input[1:]) else None
        return {"Transpose": self._transpose, "MatMul": self._matmul, "Gemm": self._gemm, "Expand": self._expand}.get(
            op
        )

    def _moves_ones_only(self, node: NodeProto, attributes: dict[str, Any]) -> bool:
        """Whether a transpose keeps the order of all axes longer than 1."""
        shape = self.shapes[node.input[0]]
        perm = attributes.get("perm", list(range(len(shape)))[::-1])
        long = [axis for axis in perm if shape[axis] > 1]
        return long == sorted(long)

    def _unary(self, node: NodeProto) -> None:
        x = self.as_lifted(node.input[0])
        hint = f"{node.output[0]}/lifted"
        self.done(node, self.editor.add(node.op_type, [x, *node.input[1:]], hint, **attributes_of(node)))

    def _broadcast(self, node: NodeProto) -> None:
        rank = len(self.shapes[node.output[0]])
        operands = [self.as_lifted(name, rank) for name in node.input]
        hint = f"{node.output[0]}/lifted"
        self.done(node, self.editor.add(node.op_type, operands, hint, **attributes_of(node)))

    def _view(self, node: NodeProto) -> None:
        shape = self.shapes[node.output[0]]
        value = self._any(node.input[0])
        if _is_natural(shape):
            natural = self.editor.reshape(value, (-1, *shape[1:]), f"{node.output[0]}/natural")
            self.natural[node.output[0]] = natural
        else:
            self.done(node, self.editor.reshape(value, _lifted(shape), f"{node.output[0]}/lifted"))

    def _transpose(self, node: NodeProto) -> None:
        rank = len(self.shapes[node.input[0]])
        perm = attributes_of(node).get("perm", list(range(rank))[::-1])
        x = self.as_lifted(node.input[0])
        hint = f"{node.output[0]}/lifted"
        self.done(node, self.editor.add("Transpose", [x], hint, perm=[0, *(axis + 1 for axis in perm)]))

    def _along_axis(self, node: NodeProto) -> None:
        attributes = attributes_of(node)
        rank = len(self.shapes[node.input[0]])
        attributes["axis"] = attributes.get("axis", _AXIS[node.op_type]) % rank + 1
        operands = []
        for i, name in enumerate(node.input):
            if name in self.depends:
                operands.append(self.as_lifted(name))
            elif node.op_type == "Concat" or i == 0:
                raised = self.editor.constant(self.editor.constants[name][None], f"{name}/lifted")
                like = next((each for each in node.input if each in self.depends), "")
                operands.append(self.editor.for_each(raised, self.as_lifted(like), attributes["axis"]))
            else:
                operands.append(name)
        from onnx import helper

        names = [self.editor.unused(f"{name}/lifted") for name in node.output]
        self.editor.nodes.append(helper.make_node(node.op_type, operands, names, **attributes))
        for i, name in enumerate(names):
            self._settle(node, name, i)

    def _settle(self, node: NodeProto, value: str, position: int = 0) -> None:
        """Note a lifted result; a scalar of each input gets an axis of its own."""
        if not self.shapes[node.output[position]]:
            value = self.editor.reshape(value, (-1, 1), f"{node.output[position]}/scalar")
        self.done(node, value, position)

    def _slice(self, node: NodeProto) -> None:
        attributes = attributes_of(node)
        rank = len(self.shapes[node.input[0]])
        axes = np.array([axis % rank + 1 for axis in self._axes(node, attributes, rank) or []], dtype=np.int64)
        operands = [self.as_lifted(node.input[0]), *node.input[1:]]
        if len(operands) > 1:
            operands[3:4] = [self.editor.constant(axes, f"{node.output[0]}/axes")]
        else:
            attributes["axes"] = axes.tolist()
        self.done(node, self.editor.add("Slice", operands, f"{node.output[0]}/lifted", **attributes))

    def _reduce(self, node: NodeProto) -> None:
        attributes = attributes_of(node)
        shape = self.shapes[node.input[0]]
        axes = [axis % len(shape) + 1 for axis in self._axes(node, attributes, len(shape)) or []]
        x, hint = self.as_lifted(node.input[0]), f"{node.output[0]}/lifted"
        value = self.editor.reduce(node.op_type, x, axes, hint, keepdims=1)
        self.done(node, self.editor.reshape(value, _lifted(self.shapes[node.output[0]]), f"{hint}/shape"))

    def _expand(self, node: NodeProto) -> None:
        shape = self.shapes[node.output[0]]
        x = self.as_lifted(node.input[0], len(shape))
        sizes = self.editor.constant(np.array([1, *shape], dtype=np.int64), f"{node.output[0]}/sizes")
        self.done(node, self.editor.add("Expand", [x, sizes], f"{node.output[0]}/lifted"))

    def _matmul(self, node: NodeProto) -> None:
        left, right = node.input
        hint, target = f"{node.output[0]}/product", _lifted(self.shapes[node.output[0]])
        a, b = self.shapes[left], self.shapes[right]
        if left not in self.depends and len(a) == 2 and (len(b) == 1 or (len(b) == 2 and b[1] == 1)):
            # W x of a column is x W^T of a row.
            weights = self.editor.constant(self.editor.constants[left].T, f"{left}/transposed")
            row = self.editor.reshape(self._any(right), (-1, b[0]), f"{right}/row")
            product = self.editor.add("MatMul", [row, weights], hint)
            self.editor.shapes[product] = (1, a[0])  # with which a Reshape to the same is none, and a bias follows
        elif left not in self.depends and len(a) == 2:
            weights = self.editor.constant(self.editor.constants[left].T, f"{left}/transposed")
            swap = [*range(len(b) - 1), len(b), len(b) - 1]
            turned = self.editor.add("Transpose", [self.as_lifted(right)], f"{right}/turned", perm=swap)
            product = self.editor.add("MatMul", [turned, weights], f"{hint}/turned")
            product = self.editor.add("Transpose", [product], hint, perm=swap)
        elif len(a) == 1 and len(b) == 2 and right not in self.depends:
            product = self.editor.add("MatMul", [self.as_lifted(left), right], hint)
        else:
            rank = max(len(a), len(b), 2)
            rows, columns = self._row(left, rank), self._column(right, rank)
            product = self.editor.add("MatMul", [rows, columns], hint)
        self.done(node, self.editor.reshape(product, target, f"{node.output[0]}/lifted"))

    def _row(self, name: str, rank: int) -> str:
        """A left factor; a vector is a row."""
        if name not in self.depends and len(self.shapes[name]) == 1:
            return self.editor.constant(self.editor.constants[name][None], f"{name}/row")
        return self.as_lifted(name, rank)

    def _column(self, name: str, rank: int) -> str:
        """A right factor; a vector is a column."""
        shape = self.shapes[name]
        if len(shape) != 1:
            return self.as_lifted(name, rank)
        if name not in self.depends:
            return self.editor.constant(self.editor.constants[name][:, None], f"{name}/column")
        return self.editor.reshape(self._any(name), (-1, *(1,) * (rank - 2), shape[0], 1), f"{name}/column")

    def _gemm(self, node: NodeProto) -> None:
        attributes, editor = attributes_of(node), self.editor
        factors = []
        for name, turn in zip(node.input[:2], ("transA", "transB")):
            if name not in self.depends:
                array = editor.constants[name]
                factors.append(editor.constant(array.T if attributes.get(turn, 0) else array, f"{name}/factor"))
            elif attributes.get(turn, 0):
                factors.append(editor.add("Transpose", [self.as_lifted(name)], f"{name}/turned", perm=[0, 2, 1]))
            else:
                factors.append(self.as_lifted(name))
        hint = f"{node.output[0]}/lifted"
        value = editor.add("MatMul", factors, f"{hint}/product")
        if (alpha := attributes.get("alpha", 1.0)) != 1.0:
            value = editor.add("Mul", [value, editor.number(alpha, "alpha")], f"{hint}/scaled")
        if len(node.input) > 2 and node.input[2]:
            beta = attributes.get("beta", 1.0)
            third = node.input[2]
            if third not in self.depends:
                term = editor.constant(np.asarray(beta * editor.constants[third], dtype=editor.dtype), f"{third}/term")
            else:
                term = self.as_lifted(third, 2)
                if beta != 1.0:
                    term = editor.add("Mul", [term, editor.number(beta, "beta")], f"{hint}/term")
            value = editor.add("Add", [value, term], hint)
        self.done(node, value)

    def _images(self, node: NodeProto) -> None:
        """An operator on n images of c channels as one on an image of n c channels."""
        count, channels, *space = self.shapes[node.input[0]]
        attributes, editor = attributes_of(node), self.editor
        image = editor.reshape(self._any(node.input[0]), (-1, count * channels, *space), f"{node.input[0]}/channels")
        constants = []
        for name in node.input[1:]:
            array = editor.constants[name]
            constants.append(editor.constant(np.concatenate([array] * count), f"{name}/repeated") if name else "")
        if node.op_type.startswith("Conv"):
            attributes["group"] = attributes.get("group", 1) * count
        value = editor.add(node.op_type, [image, *constants], f"{node.output[0]}/channels", **attributes)
        shape = self.shapes[node.output[0]]
        if _is_natural(shape):
            self.natural[node.output[0]] = value
        else:
            self.done(node, editor.reshape(value, _lifted(shape), f"{node.output[0]}/lifted"))


def _is_natural(shape: Shape) -> bool:
    return len(shape) > 1 and shape[0] == 1


def _lifted(shape: Shape) -> Shape:
    """The target of a Reshape to the lifted form."""
    return (-1, *shape) if shape else (-1, 1)
