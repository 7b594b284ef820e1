"""Recurrent layers of a fixed number of steps, each step written out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .editing import Editor, attributes_of
from .moves import Run

if TYPE_CHECKING:
    from onnx import NodeProto

_PARTS = {"RNN": 1, "GRU": 3, "LSTM": 4}
_ACTIVATIONS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}


class _Layer:
    """One direction of a recurrent layer, for a batch of one."""

    def __init__(self, editor: Editor, node: NodeProto, direction: int, size: int) -> None:
        self.editor, self.op, self.size, self.hint = editor, node.op_type, size, f"{node.output[0]}/{direction}"
        w, r = (editor.constants[node.input[i]][direction] for i in (1, 2))
        biases = editor.constants[node.input[3]][direction] if len(node.input) > 3 and node.input[3] else None
        parts = _PARTS[self.op]
        first, second = np.zeros((2, parts * size)) if biases is None else np.split(biases, 2)
        self.late = self.op == "GRU" and attributes_of(node).get("linear_before_reset", 0) == 1
        self.weights = [
            tuple(
                editor.constant(array.astype(editor.dtype), f"{self.hint}/{name}{i}")
                for name, array in (("w", each.T), ("r", own.T), ("b", one), ("c", two))
            )
            for i, (each, own, one, two) in enumerate(zip(*(np.split(array, parts) for array in (w, r, first, second))))
        ]

    def add(self, op: str, *inputs: str) -> str:
        return self.editor.add(op, inputs, f"{self.hint}/{op}")

    def given(self, part: int, x: str) -> str:
        """``x W + b``, in which the other bias is kept apart."""
        return self.add("Add", self.add("MatMul", x, self.weights[part][0]), self.weights[part][2])

    def kept(self, part: int, h: str) -> str:
        """``h R + c``."""
        return self.add("Add", self.add("MatMul", h, self.weights[part][1]), self.weights[part][3])

    def gate(self, part: int, x: str, h: str, function: str) -> str:
        return self.add(function, self.add("Add", self.given(part, x), self.kept(part, h)))

    def step(self, x: str, h: str, c: str) -> tuple[str, str]:
        """The state and, of an LSTM, the cell after an input."""
        if self.op == "RNN":
            return self.gate(0, x, h, "Tanh"), c
        if self.op == "LSTM":
            i, o, f, g = (self.gate(k, x, h, "Tanh" if k == 3 else "Sigmoid") for k in range(4))
            c = self.add("Add", self.add("Mul", f, c), self.add("Mul", i, g))
            return self.add("Mul", o, self.add("Tanh", c)), c
        z, r = (self.gate(k, x, h, "Sigmoid") for k in range(2))
        past = self.add("Mul", r, self.kept(2, h)) if self.late else self.kept(2, self.add("Mul", r, h))
        new = self.add("Tanh", self.add("Add", self.given(2, x), past))
        # (1 - z) n + z h = n + z (h - n)
        return self.add("Add", new, self.add("Mul", z, self.add("Sub", h, new))), c


def written_steps(editor: Editor, node: NodeProto, _run: Run) -> bool:
    """Write RNN, GRU or LSTM with their usual functions step by step, for a sequence of one of a batch."""
    attributes, x = attributes_of(node), node.input[0]
    length, batch, _ = editor.shapes[x]
    size = attributes["hidden_size"]
    ways = {b"forward": (1,), b"reverse": (-1,), b"bidirectional": (1, -1)}[attributes.get("direction", b"forward")]
    usual = _ACTIVATIONS[node.op_type] * len(ways)
    named = [name.decode() for name in attributes.get("activations", [])] or usual
    others = {"clip", "layout", "input_forget", "activation_alpha", "activation_beta"}
    inputs = [*node.input, *[""] * (8 - len(node.input))]
    plain = batch == 1 and named == usual and not any(attributes.get(name) for name in others)
    # Lengths of sequences and peepholes are for others; so are weights and first states that are computed.
    known = all(not name or name in editor.constants for name in inputs[1:7])
    if not plain or not known or inputs[4] or inputs[7]:
        return False
    rows: list[list[str]] = [[] for _ in range(length)]
    ends, cells = [], []
    for direction, way in enumerate(ways):
        layer = _Layer(editor, node, direction, size)
        h, c = (_state(editor, inputs[k], direction, size, f"{layer.hint}/start") for k in (5, 6))
        for t in range(length)[::way]:
            part = editor.add("Gather", [x, editor.constant(np.array(t), f"{layer.hint}/t")], f"{layer.hint}/x", axis=0)
            h, c = layer.step(part, h, c)
            rows[t].append(h)
        ends.append(h)
        cells.append(c)
    _put_out(editor, node, rows, (ends, cells), size)
    return True


def _state(editor: Editor, name: str, direction: int, size: int, hint: str) -> str:
    """The state that a layer begins with."""
    value = editor.constants[name][direction] if name else np.zeros((1, size))
    return editor.constant(value.astype(editor.dtype), hint)


def _put_out(
    editor: Editor, node: NodeProto, rows: Sequence[Sequence[str]], last: Sequence[Sequence[str]], size: int
) -> None:
    """Write the outputs: all states (length, directions, 1, size), the last ones, and the last cells."""
    hint = f"{node.output[0] or node.output[1]}/out"
    if node.output[0]:
        flat = [h for row in rows for h in row]
        states = editor.add("Concat", flat, f"{hint}/states", axis=1) if len(flat) > 1 else flat[0]
        editor.reshape(states, (len(rows), len(rows[0]), 1, size), hint, output=node.output[0])
    for name, values in zip(node.output[1:], last):
        if name:
            joined = editor.add("Concat", list(values), f"{hint}/last", axis=1) if len(values) > 1 else values[0]
            editor.reshape(joined, (len(values), 1, size), f"{hint}/end", output=name)
