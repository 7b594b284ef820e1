"""An ONNX file as it is read: content, and its float inputs; refused, in one sentence each, where it cannot be used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recurjac_plugin.errors import FileError, UnsupportedError
from recurjac_plugin.extras import need
from recurjac_plugin.files import locate, read_bytes

from .several.flat import Port, with_flat_ports
from .several.zeros import outputs_at_zeros

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

KIND = "an ONNX network"  # for messages
DEFAULT_DOMAINS = ("", "ai.onnx")
"""How graphs write the domain of the standard operators."""
_FOREIGN = {("com.microsoft", "Gelu")}  # operators of other domains that are read


@dataclass(frozen=True)
class OnnxFile:
    """A checked ONNX network with floating-point inputs, as a graph of one input and one output.

    Attributes:
        path: where it was read.
        content: the serialised model, decompressed; with one flat input and one flat output where there are several.
        input_name: name of the graph's input.
        input_shape: shape of one input, without the batch dimension.
        dtype: of the input, float32 or float64.
        has_batch: whether the graph's input begins with a batch dimension (of size 1, or unspecified).
        ports: the inputs and outputs of a file that has several; None for any other.
        original: content of such a file as it was; empty for any other.
    """

    path: Path
    content: bytes
    input_name: str
    input_shape: tuple[int, ...]
    dtype: np.dtype
    has_batch: bool
    ports: tuple[tuple[Port, ...], tuple[Port, ...]] | None = None
    original: bytes = b""

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
        FileError: missing, truncated, not ONNX, without float inputs or outputs, unspecified dimensions,
            weights in a file outside its folder, or NaN among the weights.
        ExtraError: `onnx` is not installed.
        UnsupportedError: it uses operators outside the standard ONNX domain.
    """
    need("onnx")
    import onnx
    from google.protobuf.message import DecodeError

    file = locate(path, KIND)
    content = read_bytes(file, KIND)
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise FileError(f"`{file}` is not {KIND}, or is truncated ({error}); export or fetch it again.") from error
    graph = model.graph
    if not graph.node:
        raise FileError(f"`{file}` is not {KIND}: it has no nodes; export or fetch it again.")
    _refuse_foreign_operators(file, model)
    if _read_external_data(file, model):
        content = model.SerializeToString()
    _refuse_bad_weights(file, graph)
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in stored]
    for role, values in (("inputs", inputs), ("outputs", list(graph.output))):
        if not values:
            raise FileError(f"`{file}` has no {role}: expected a network; export it again.")
    if len(inputs) > 1 or len(graph.output) > 1:
        return _with_one_input(file, content, model, inputs)
    shape, has_batch = _shape_of(file, inputs[0])
    return OnnxFile(file, content, inputs[0].name, shape, _dtype_of(file, inputs[0]), has_batch)


def _shape_of(path: Path, value: ValueInfoProto) -> tuple[tuple[int, ...], bool]:
    """The shape of an input behind its batch dimension, and whether it has one."""
    dimensions = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)  # 0 where unspecified
    has_batch = len(dimensions) > 1 and dimensions[0] in (0, 1)
    shape = dimensions[1:] if has_batch else dimensions
    if not shape or 0 in shape:
        raise FileError(
            f"`{path}` has an input `{value.name}` of shape {_shown(value)}: expected fixed sizes "
            "behind the batch dimension; export it with a fixed input shape."
        )
    return shape, has_batch


def _with_one_input(path: Path, content: bytes, model: ModelProto, inputs: Sequence[ValueInfoProto]) -> OnnxFile:
    """A file of several inputs or outputs as a graph of one flat one each.

    Raises:
        FileError: an input or output is no float or not of the others' type, or onnxruntime does not run it.
    """
    types = {value.name: _dtype_of(path, value) for value in inputs}
    if len(set(types.values())) > 1:
        each = ", ".join(f"`{name}` as {dtype}" for name, dtype in types.items())
        raise FileError(f"`{path}` takes {each}: expected one type for all inputs; export it with one.")
    dtype = next(iter(types.values()))
    ports = []
    for value in inputs:
        shape, has_batch = _shape_of(path, value)
        ports.append(Port(value.name, (1, *shape) if has_batch else shape))
    outputs = []
    for name, array in zip((v.name for v in model.graph.output), outputs_at_zeros(path, content, ports, dtype)):
        if array.dtype != dtype or not array.size:
            raise FileError(
                f"`{path}` gives `{name}` as {array.dtype}: expected {dtype}; export it without that output."
            )
        outputs.append(Port(name, array.shape))
    flat, source = with_flat_ports(model, ports, outputs, dtype)
    size = sum(port.size for port in ports)
    given = tuple(ports), tuple(outputs)
    return OnnxFile(path, flat.SerializeToString(), source, (size,), dtype, True, given, content)


def _refuse_foreign_operators(path: Path, model: ModelProto) -> None:
    local = {(function.domain, function.name) for function in model.functions}
    foreign = [
        f"{describe(node)} of domain `{node.domain}`"
        for node in model.graph.node
        if node.domain not in DEFAULT_DOMAINS
        and (node.domain, node.op_type) not in local
        and (node.domain, node.op_type) not in _FOREIGN
    ]
    if foreign:
        raise UnsupportedError(f"`{path}`", foreign, "Export it with standard ONNX operators.")


def _read_external_data(path: Path, model: ModelProto) -> bool:
    """Read weights that are stored in files beside the network's own; returns whether there are any.

    Raises:
        FileError: such a file is missing, too short, or outside the folder.
    """
    import onnx
    from onnx.external_data_helper import load_external_data_for_tensor

    outside = [(name, t) for name, t in constants(model.graph) if t.data_location == onnx.TensorProto.EXTERNAL]
    folder = path.parent.resolve()
    for name, tensor in outside:
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        where = (folder / location).resolve()
        if not location or not where.is_relative_to(folder):
            raise FileError(
                f"`{path}` keeps `{name}` in another file, `{location}`: expected one in its own folder; "
                "save it with its weights."
            )
        if not where.is_file():
            raise FileError(f"`{path}` keeps `{name}` in `{location}`, which is not beside it; fetch that file too.")
        try:
            load_external_data_for_tensor(tensor, str(folder))
        except (OSError, ValueError, RuntimeError, onnx.checker.ValidationError) as error:
            raise FileError(
                f"`{path}` keeps `{name}` in `{location}`, which cannot be read ({one_line(error)}); fetch it again."
            ) from error
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
    return bool(outside)


def _refuse_bad_weights(path: Path, graph: GraphProto) -> None:
    from onnx import numpy_helper

    for name, tensor in constants(graph):
        try:
            array = numpy_helper.to_array(tensor)
        except ValueError as error:
            raise FileError(f"`{path}` has a damaged weight `{name}` ({error}); export or fetch it again.") from error
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise FileError(f"`{path}` has NaN in `{name}`: expected numbers; train or export the network again.")


def constants(graph: GraphProto) -> Iterator[tuple[str, TensorProto]]:
    """Initializers and values of Constant nodes, with the names under which nodes use them."""
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    yield node.output[0], attribute.t


def _dtype_of(path: Path, value: ValueInfoProto) -> np.dtype:
    """float32 or float64, as the input has it."""
    from onnx import TensorProto, helper

    code = value.type.tensor_type.elem_type
    if code not in (TensorProto.FLOAT, TensorProto.DOUBLE):
        kind = TensorProto.DataType.Name(code)
        raise FileError(f"`{path}` takes `{value.name}` as {kind}: expected FLOAT or DOUBLE; export it with floats.")
    return np.dtype(helper.tensor_dtype_to_np_dtype(code))


def _shown(value: ValueInfoProto) -> str:
    """The shape of a value, with a name or ? for a size that is not fixed."""
    dimensions = value.type.tensor_type.shape.dim
    return "[" + ", ".join(d.dim_param or (str(d.dim_value) if d.dim_value else "?") for d in dimensions) + "]"


def describe(node: NodeProto) -> str:
    """A node as messages name it: its operator, and its name or else its output."""
    return f"{node.op_type} `{node.name or (node.output[0] if node.output else '?')}`"


def one_line(error: Exception) -> str:
    """An exception's message without line breaks."""
    return " ".join(str(error).split())
