"""The plain form of an ONNX graph: the same function, in operators that onnx2pytorch converts right.

That nothing here changes what the network computes is checked afterwards: `load_onnx` compares the converted module
with the file as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from recurjac_plugin.errors import FileError

from .onnx_file import DEFAULT_DOMAINS, OnnxFile, constants
from .session import measured_shapes

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto


Shapes = dict[str, tuple[int, ...]]
"""Shapes of values by name, for a batch of one; 0 for an unknown size, absent where not even the rank is known."""


def prepare(file: OnnxFile) -> tuple[ModelProto, Shapes]:
    """Rewrite a graph where onnx2pytorch would misread it, and keep its meaning.

    - A domain that is imported but not used is dropped: onnx2pytorch warns of it.
    - A weight that is the ``Identity`` of another one, as files write shared weights, is replaced by that other one.
    - ``MatMul(W, x)`` with a constant on the left is converted as ``x W``: for a vector `x` it becomes
      ``MatMul(x, W^T)``, else `W` becomes the output of a Constant node, which is multiplied from the left.
    - A constant right factor that is not a matrix, and an Add after it whose constant is not a bias vector,
      become Constant nodes as well, for they do not fit into `torch.nn.Linear`.
    - ``Reshape`` to a shape that begins with the batch size 1 (given, or computed from the input's own shape)
      gets that shape as a constant, with -1 in place of the 1, so that it takes larger batches.
    - ``Expand`` gets its shape as a constant, with 1 where nothing is repeated: torch cannot trace a computed shape.
    - ``Conv`` and ``ConvTranspose`` state the shape of their kernel (onnx2pytorch 0.5 on Python 3.10 asks for it).
    - ``Dropout`` and a ``Pad`` by nothing become ``Identity``.
    - ``Split`` gets its sizes as an attribute again, as it had them before operator set 13.
    - Nodes that nothing uses any more are dropped.

    Returns:
        The model, and the shapes of its values.

    Raises:
        FileError: the graph's shapes contradict each other.
    """
    model = file.parse()
    used = {node.domain for node in model.graph.node} | set(DEFAULT_DOMAINS)
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)

    for value in model.graph.input:
        if value.name == file.input_name and file.has_batch:
            value.type.tensor_type.shape.dim[0].dim_value = 1
    _resolve_shared_weights(model.graph)
    shapes = _shapes(model, file)
    for node in list(model.graph.node):
        if node.op_type == "MatMul":
            _rewrite_matmul(model.graph, node, shapes)
        elif node.op_type == "Reshape" and file.has_batch:
            _rewrite_reshape(model.graph, node, shapes)
        elif node.op_type == "Expand":
            _rewrite_expand(model.graph, node, shapes)
        elif node.op_type in ("Conv", "ConvTranspose"):
            _rewrite_convolution(node, shapes)
        elif node.op_type == "Dropout" or _pads_nothing(node):
            _rewrite_as_identity(node)
        elif node.op_type == "Split":
            _rewrite_split(node, shapes)
    _drop_unused(model.graph)
    return model, shapes


def _resolve_shared_weights(graph: GraphProto) -> None:
    """Let nodes read a weight itself instead of its ``Identity``."""
    stored = {tensor.name for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    same = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Identity" and node.input[0] in stored and node.output[0] not in outputs
    }
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name in same:
                node.input[i] = same[name]


def _rewrite_matmul(graph: GraphProto, node: NodeProto, shapes: Shapes) -> None:
    """Keep constant factors out of `torch.nn.Linear` where it would multiply by them from the wrong side, or cannot."""
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
    """Make the constant of an Add that follows a Constant node, unless it is a bias: a vector of the right length."""
    stored = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for other in list(graph.node):
        if other.op_type == "Add" and node.output[0] in other.input and node.input[1] in stored:
            for position, name in enumerate(other.input):
                if name in stored and stored[name] != stored[node.input[1]][1:]:
                    _as_constant_node(graph, other, position)


def _rewrite_reshape(graph: GraphProto, node: NodeProto, shapes: Shapes) -> None:
    """Give the shape as a constant, with -1 for the batch, where it is known and begins with 1 before and after."""
    source, target = shapes.get(node.input[0], ()), shapes.get(node.output[0], ())
    if len(node.input) > 1 and source[:1] == (1,) and target[:1] == (1,) and 0 not in target[1:]:
        shape = np.array([-1, *target[1:]], dtype=np.int64)
        node.input[1] = _add_initializer(graph, f"{node.output[0]}_shape", shape)


def _rewrite_expand(graph: GraphProto, node: NodeProto, shapes: Shapes) -> None:
    """Give the shape as a constant, with 1 for a size that stays as it is."""
    before, after = shapes.get(node.input[0]), shapes.get(node.output[0])
    if before is None or after is None or 0 in (*before, *after):
        return
    before = (1,) * (len(after) - len(before)) + before
    sizes = np.array([1 if old == new else new for old, new in zip(before, after, strict=True)], dtype=np.int64)
    node.input[1] = _add_initializer(graph, f"{node.output[0]}_shape", sizes)


def _rewrite_convolution(node: NodeProto, shapes: Shapes) -> None:
    """State the shape of the kernel."""
    import onnx

    kernel = shapes.get(node.input[1], ())[2:]
    if kernel and not any(attribute.name == "kernel_shape" for attribute in node.attribute):
        node.attribute.append(onnx.helper.make_attribute("kernel_shape", kernel))


def _pads_nothing(node: NodeProto) -> bool:
    return node.op_type == "Pad" and any(a.name == "pads" and not any(a.ints) for a in node.attribute)


def _rewrite_as_identity(node: NodeProto) -> None:
    """Make an Identity of a node that does nothing to its first input."""
    node.op_type = "Identity"
    del node.input[1:], node.output[1:], node.attribute[:]


def _rewrite_split(node: NodeProto, shapes: Shapes) -> None:
    """Give the sizes as an attribute where all of them are known."""
    import onnx

    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    sizes = [shapes[name][axis] if name in shapes else 0 for name in node.output]
    if 0 not in sizes and not any(attribute.name == "split" for attribute in node.attribute):
        del node.input[1:]
        node.attribute.append(onnx.helper.make_attribute("split", sizes))


def _drop_unused(graph: GraphProto) -> None:
    """Drop nodes on which no output depends."""
    used = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if used.intersection(node.output):
            kept.append(node)
            used.update(node.input)
            used.update(name for attribute in node.attribute for name in _captured(attribute.g))
    del graph.node[:]
    graph.node.extend(reversed(kept))


def _captured(body: GraphProto) -> Iterator[str]:
    """Names that the body of a Loop, Scan or If uses: its own, and those of the graph around it."""
    for node in body.node:
        yield from node.input
        for attribute in node.attribute:
            yield from _captured(attribute.g)


def _as_constant_node(graph: GraphProto, node: NodeProto, position: int) -> None:
    """Feed an input of `node` from a new Constant node instead of from an initializer."""
    import onnx

    tensor = next(t for t in graph.initializer if t.name == node.input[position])
    name = _unused(graph, f"{tensor.name}_constant")
    index = next(i for i, other in enumerate(graph.node) if other is node or other.output == node.output)
    node.input[position] = name
    graph.node.insert(index, onnx.helper.make_node("Constant", [], [name], value=tensor))


def _add_initializer(graph: GraphProto, name: str, array: np.ndarray) -> str:
    """Add a constant to the graph; returns the name it got."""
    import onnx

    name = _unused(graph, name)
    graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
    return name


def _unused(graph: GraphProto, name: str) -> str:
    """A name like this one that no value of the graph has."""
    taken = {tensor.name for tensor in graph.initializer} | {out for node in graph.node for out in node.output}
    while name in taken:
        name += "_"
    return name


def _shapes(model: ModelProto, file: OnnxFile) -> Shapes:
    """Shapes by inference, and where it leaves some of them open, by running the network once."""
    import onnx

    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise FileError(f"`{file.path}` has a graph without consistent shapes: {error}; export it again.") from error
    shapes = {
        value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }
    computed = [name for node in model.graph.node for name in node.output if name]
    unknown = [name for name in computed if 0 in shapes.get(name, (0,))]
    measured = measured_shapes(file, model, unknown) if unknown else {}
    return shapes | measured | {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}


def constant_arrays(graph: GraphProto) -> dict[str, np.ndarray]:
    """Values of initializers and Constant nodes by name."""
    return {name: _array(tensor) for name, tensor in constants(graph)}


def _array(tensor: TensorProto) -> np.ndarray:
    from onnx import numpy_helper

    return numpy_helper.to_array(tensor)
