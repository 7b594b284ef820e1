"""Reading an ONNX file, and rewriting its graph into one that onnx2pytorch converts faithfully.

Nothing here changes what the network computes; `onnx_model` compares the outcome with onnxruntime on the file as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ._files import locate, read_bytes
from .errors import FileError, UnsupportedError

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

KIND = "an ONNX network"
DEFAULT_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class OnnxFile:
    """A checked ONNX network with one floating-point input and one output.

    Attributes:
        path: where it was read.
        content: the serialised model, decompressed.
        input_name: name of the graph's input.
        input_shape: shape of one input, without the batch dimension.
        dtype: of the input, float32 or float64.
        has_batch: whether the graph's input begins with a batch dimension (of size 1, or unspecified).
    """

    path: Path
    content: bytes
    input_name: str
    input_shape: tuple[int, ...]
    dtype: np.dtype
    has_batch: bool

    @property
    def single_shape(self) -> tuple[int, ...]:
        """The shape in which the graph takes one input."""
        return (1, *self.input_shape) if self.has_batch else self.input_shape

    def parse(self) -> ModelProto:
        """A fresh copy of the model, to be changed at will."""
        import onnx

        return onnx.load_model_from_string(self.content)


def read_onnx(path: str | PathLike[str]) -> OnnxFile:
    """Read and check an ONNX file (or ``.gz``).

    Raises:
        FileError: missing, truncated, not ONNX, not one float input and one output, unspecified dimensions, weights in
            another file, or NaN among the weights.
        UnsupportedError: it uses operators outside the standard ONNX domain.
    """
    import onnx
    from google.protobuf.message import DecodeError

    found = locate(path, KIND)
    content = read_bytes(found, KIND)
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise FileError(f"`{found}` is not {KIND}, or is truncated ({error}); export or fetch it again.") from error
    graph = model.graph
    if not graph.node:
        raise FileError(f"`{found}` is not {KIND}: it has no nodes; export or fetch it again.")
    _refuse_foreign_operators(found, graph)
    _refuse_bad_weights(found, graph)
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in stored]
    for role, values in (("input", inputs), ("output", list(graph.output))):
        if len(values) != 1:
            names = ", ".join(value.name for value in values) or "none"
            raise FileError(f"`{found}` has {len(values)} {role}s ({names}): expected one; export a network with one.")
    dimensions = tuple(d.dim_value for d in inputs[0].type.tensor_type.shape.dim)  # 0 where unspecified
    has_batch = len(dimensions) > 1 and dimensions[0] in (0, 1)
    shape = dimensions[1:] if has_batch else dimensions
    if not shape or 0 in shape:
        raise FileError(
            f"`{found}` has an input `{inputs[0].name}` of shape {_shown(inputs[0])}: expected fixed sizes behind the "
            "batch dimension; export it with a fixed input shape."
        )
    return OnnxFile(found, content, inputs[0].name, shape, _dtype_of(found, inputs[0]), has_batch)


def prepare(file: OnnxFile) -> ModelProto:
    """Rewrite the graph, keeping its meaning, where onnx2pytorch 0.6.0 would misread it.

    - A domain that is imported but not used draws a warning: dropped.
    - ``MatMul(W, x)`` with a constant on the left is converted as ``x W``: for a vector `x` it becomes
      ``MatMul(x, W^T)``, else `W` becomes the output of a Constant node, which is multiplied from the left.
    - A constant right factor that is not a matrix, and an Add after it whose constant is not a bias vector, become
      Constant nodes as well, for they do not fit into `torch.nn.Linear`.
    - ``Reshape`` to a shape that begins with the batch size 1 (given, or computed from the input's own shape) gets that
      shape as a constant, with -1 in place of the 1, so that it takes larger batches.
    """
    import onnx

    model = file.parse()
    used = {node.domain for node in model.graph.node} | set(DEFAULT_DOMAINS)
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)

    for value in model.graph.input:
        if value.name == file.input_name and file.has_batch:
            value.type.tensor_type.shape.dim[0].dim_value = 1
    try:
        shapes = _shapes(onnx.shape_inference.infer_shapes(model, data_prop=True).graph)
    except onnx.shape_inference.InferenceError as error:
        raise FileError(f"`{file.path}` has a graph without consistent shapes: {error}; export it again.") from error
    for node in list(model.graph.node):
        if node.op_type == "MatMul":
            _rewrite_matmul(model.graph, node, shapes)
        elif node.op_type == "Reshape" and file.has_batch:
            _rewrite_reshape(model.graph, node, shapes)
    return model


def _rewrite_matmul(graph: GraphProto, node: NodeProto, shapes: dict[str, tuple[int, ...]]) -> None:
    stored = {tensor.name: tensor for tensor in graph.initializer}
    left, right = node.input
    if left in stored and len(shapes.get(right, ())) == 1 and len(stored[left].dims) == 2:
        transposed = _add_initializer(graph, f"{left}_transposed", _array(stored[left]).T)
        node.input[:] = [right, transposed]
    elif left in stored:
        _as_constant_node(graph, node, 0)
    elif right in stored and len(stored[right].dims) != 2:
        _as_constant_node(graph, node, 1)
    _keep_odd_bias_apart(graph, node)


def _keep_odd_bias_apart(graph: GraphProto, node: NodeProto) -> None:
    """Where an Add follows with a constant that is not a vector of the right length, make it a Constant node."""
    stored = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for other in list(graph.node):
        if other.op_type == "Add" and node.output[0] in other.input and node.input[1] in stored:
            for position, name in enumerate(other.input):
                if name in stored and stored[name] != stored[node.input[1]][1:]:
                    _as_constant_node(graph, other, position)


def _rewrite_reshape(graph: GraphProto, node: NodeProto, shapes: dict[str, tuple[int, ...]]) -> None:
    """Write the shape out, with -1 for the batch, where it is known and the batch leads before and after."""
    source, target = shapes.get(node.input[0], ()), shapes.get(node.output[0], ())
    if len(node.input) > 1 and source[:1] == (1,) and target[:1] == (1,) and 0 not in target[1:]:
        shape = np.array([-1, *target[1:]], dtype=np.int64)
        node.input[1] = _add_initializer(graph, f"{node.output[0]}_shape", shape)


def _as_constant_node(graph: GraphProto, node: NodeProto, position: int) -> None:
    """Feed an input of `node` from a new Constant node instead of from an initializer."""
    import onnx

    tensor = next(t for t in graph.initializer if t.name == node.input[position])
    name = _unused(graph, f"{tensor.name}_constant")
    index = next(i for i, other in enumerate(graph.node) if other is node or other.output == node.output)
    node.input[position] = name
    graph.node.insert(index, onnx.helper.make_node("Constant", [], [name], value=tensor))


def _add_initializer(graph: GraphProto, name: str, array: np.ndarray) -> str:
    import onnx

    name = _unused(graph, name)
    graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
    return name


def _unused(graph: GraphProto, name: str) -> str:
    taken = {tensor.name for tensor in graph.initializer} | {out for node in graph.node for out in node.output}
    while name in taken:
        name += "_"
    return name


def _shapes(graph: GraphProto) -> dict[str, tuple[int, ...]]:
    """Shapes that are known, 0 for an unknown size; values of unknown rank are absent."""
    values = (*graph.input, *graph.value_info, *graph.output)
    found = {
        value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        for value in values
        if value.type.tensor_type.HasField("shape")
    }
    return found | {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}


def _refuse_foreign_operators(path: Path, graph: GraphProto) -> None:
    foreign = [f"{describe(node)} of domain `{node.domain}`" for node in graph.node if node.domain not in DEFAULT_DOMAINS]
    if foreign:
        raise UnsupportedError(f"`{path}`", foreign, "Export it with standard ONNX operators.")


def _refuse_bad_weights(path: Path, graph: GraphProto) -> None:
    import onnx

    for name, tensor in _constants(graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise FileError(f"`{path}` keeps `{name}` in another file: expected one file; save it with its weights.")
        try:
            array = _array(tensor)
        except ValueError as error:
            raise FileError(f"`{path}` has a damaged weight `{name}` ({error}); export or fetch it again.") from error
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise FileError(f"`{path}` has NaN in `{name}`: expected numbers; train or export the network again.")


def _constants(graph: GraphProto) -> Iterator[tuple[str, TensorProto]]:
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if _is_tensor(attribute):
                    yield node.output[0], attribute.t


def _is_tensor(attribute: AttributeProto) -> bool:
    return attribute.name == "value"


def _array(tensor: TensorProto) -> np.ndarray:
    from onnx import numpy_helper

    return numpy_helper.to_array(tensor)


def _dtype_of(path: Path, value: ValueInfoProto) -> np.dtype:
    from onnx import TensorProto, helper

    code = value.type.tensor_type.elem_type
    if code not in (TensorProto.FLOAT, TensorProto.DOUBLE):
        kind = TensorProto.DataType.Name(code)
        raise FileError(f"`{path}` takes `{value.name}` as {kind}: expected FLOAT or DOUBLE; export it with floats.")
    return np.dtype(helper.tensor_dtype_to_np_dtype(code))


def _shown(value: ValueInfoProto) -> str:
    dimensions = value.type.tensor_type.shape.dim
    return "[" + ", ".join(d.dim_param or (str(d.dim_value) if d.dim_value else "?") for d in dimensions) + "]"


def describe(node: NodeProto) -> str:
    """A node as messages name it: its operator, and its name or else its output."""
    return f"{node.op_type} `{node.name or (node.output[0] if node.output else '?')}`"
