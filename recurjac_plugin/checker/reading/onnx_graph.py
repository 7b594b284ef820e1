"""An ONNX file as a `Network`, read with nothing but `onnx`: exact weights, one input of fixed size, one output.

What moves elements (Reshape, Transpose, Gather, ...) is applied to the numbers of the elements, linear operators are
applied to unit vectors: each entry of their matrix is one number of the file, nothing is summed up. Everything that is
not in the table is refused.

Source: the operators' definitions in the ONNX standard, https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from recurjac_plugin.checker.network import Input, Network
from recurjac_plugin.errors import FileError, UnsupportedError, counted

from . import arithmetic, layers, moves
from .tensors import Attributes, Operand, Operator, Refused, Tensor, Vectors

_DOMAINS = ("", "ai.onnx")
_OLDEST = 7  # operator set: in older ones sums and products say how they broadcast
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)


def read_onnx(content: bytes, name: str) -> Network:
    """The network of an ONNX file.

    Args:
        content: of the file, not compressed.
        name: of the file, for messages.

    Raises:
        FileError: it is no ONNX file, or not of one input and one output.
        UnsupportedError: nodes that have no meaning here.
    """
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise FileError(f"`{name}` is not an ONNX network: {error}; check the path.") from error
    return _Reader(model, name).network()


class _Reader:
    """The tensors of one graph, as they become known.

    Args:
        model: the file.
        name: of the file, for messages.
    """

    def __init__(self, model: onnx.ModelProto, name: str) -> None:
        self.graph, self.name = model.graph, name
        self.vectors = Vectors()
        self.tensors: dict[str, Tensor | np.ndarray] = {}
        versions = [each.version for each in model.opset_import if each.domain in _DOMAINS]
        if not versions or max(versions) < _OLDEST:
            raise FileError(f"`{name}` uses operator set {versions}: expected {_OLDEST} or newer; export it again.")
        if model.functions or self.graph.sparse_initializer:
            raise FileError(f"`{name}` has functions of its own, or sparse tensors; export it without them.")

    def network(self) -> Network:
        """All nodes read, in the order of the file, which is that of evaluation."""
        for tensor in self.graph.initializer:
            self.tensors[tensor.name] = _constant(tensor)
        inputs = [each for each in self.graph.input if each.name not in self.tensors]
        if len(inputs) != 1 or len(self.graph.output) != 1:
            raise FileError(
                f"`{self.name}` has {counted(len(inputs), 'input')} and {counted(len(self.graph.output), 'output')}: "
                "expected one of each."
            )
        # A dimension without a number is the batch's: one input at a time.
        shape = tuple(d.dim_value or 1 for d in inputs[0].type.tensor_type.shape.dim)
        self.tensors[inputs[0].name] = Tensor(shape, self.vectors.added(Input(math.prod(shape))))
        for node in self.graph.node:
            try:
                self._read(node)
            except Refused as error:
                place = f"{node.op_type} `{node.name or ','.join(node.output)}`"
                raise UnsupportedError(
                    f"`{self.name}`", [f"{place} ({error})"], "The checker has no meaning for it; simplify the export."
                ) from error
        output = self.tensors.get(self.graph.output[0].name)
        if not isinstance(output, Tensor):
            raise FileError(f"`{self.name}` has an output that does not depend on its input; check the export.")
        return Network.of(self.vectors.made, output.vector)

    def _read(self, node: onnx.NodeProto) -> None:
        if node.domain not in _DOMAINS or node.op_type not in _OPERATORS:
            raise Refused("no such operator here")
        missing = [each for each in node.input if each and each not in self.tensors]
        if missing:
            raise Refused(f"its input `{missing[0]}` comes from nowhere")
        if any(each in self.tensors for each in node.output):
            raise Refused("its output exists already")
        inputs = [self.tensors[each] if each else None for each in node.input]
        attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        strange = set(attributes) - _ATTRIBUTES.get(node.op_type, set())
        if strange:
            raise Refused(f"it has attributes of no meaning here: {', '.join(sorted(strange))}")
        try:
            outputs = _OPERATORS[node.op_type](self.vectors, inputs, Attributes(attributes, len(node.output)))
        except (IndexError, KeyError, TypeError, ValueError, np.exceptions.AxisError) as error:
            raise error if isinstance(error, Refused) else Refused(f"its inputs do not fit: {error}") from error
        self.tensors.update(zip(node.output, outputs))


def _constant(tensor: onnx.TensorProto) -> np.ndarray:
    array = numpy_helper.to_array(tensor)
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _stored(vectors: Vectors, inputs: list[Operand], attributes: Attributes) -> list[Operand]:
    """A tensor written into a node."""
    return [_constant(attributes.given["value"])]


def _cast(vectors: Vectors, inputs: list[Operand], attributes: Attributes) -> list[Operand]:
    """Another type of the same real number."""
    if attributes("to", 0) not in _FLOATS or not isinstance(inputs[0], Tensor):
        raise Refused("expected a cast of what depends on the input to float or double")
    return [inputs[0]]


_OPERATORS: dict[str, Operator] = {
    "Constant": _stored,
    "Cast": _cast,
    **moves.OPERATORS,
    **arithmetic.OPERATORS,
    **layers.OPERATORS,
}

_WINDOWS = {"auto_pad", "dilations", "kernel_shape", "pads", "strides"}
_ATTRIBUTES = {
    "AveragePool": {*_WINDOWS, "ceil_mode", "count_include_pad"},
    # In evaluation mode the momentum means nothing.
    "BatchNormalization": {"epsilon", "momentum", "spatial", "training_mode"},
    "Cast": {"saturate", "to"},
    "Concat": {"axis"},
    "Constant": {"value"},
    "Conv": {*_WINDOWS, "group"},
    "Dropout": {"ratio", "seed"},
    "Flatten": {"axis"},
    "Gather": {"axis"},
    "Gemm": {"alpha", "beta", "transA", "transB"},
    "LeakyRelu": {"alpha"},
    "Pad": {"mode", "pads", "value"},
    "Reshape": {"allowzero"},
    "Slice": {"axes", "ends", "starts"},
    "Split": {"axis", "num_outputs", "split"},
    "Squeeze": {"axes"},
    "Transpose": {"perm"},
    "Unsqueeze": {"axes"},
}
"""The attributes that are read, or make no difference; a node with any other is refused."""

OPERATORS = tuple(sorted(_OPERATORS))
"""Names of the operators that have a meaning here."""
