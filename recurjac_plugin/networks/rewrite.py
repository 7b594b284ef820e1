"""The plain form of an ONNX graph: the same function, in operators that onnx2pytorch converts right.

That nothing here changes what the network computes is checked afterwards: `load_onnx` compares the converted module
with the file as it is.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from recurjac_plugin.errors import FileError

from .forms.batch_axis import keep_batch_in_front
from .forms.decompositions import take_apart
from .forms.editing import Editor, Shapes, drop_unused
from .forms.folding import fold, has_constant_nodes, plain_constants
from .onnx_file import DEFAULT_DOMAINS, OnnxFile, constants
from .session import constant_values, measured_shapes

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto


def prepare(file: OnnxFile) -> tuple[ModelProto, Shapes]:
    """Rewrite a graph where onnx2pytorch would misread it, and keep its meaning.

    - A domain that is imported but not used is dropped: onnx2pytorch warns of it.
    - Nodes are put in an order in which they can run, local functions are written out, and Constant nodes become
      weights, as does everything else that does not depend on the input; an ``If`` with such a condition becomes the
      branch taken. A weight that is the ``Identity`` of another one is replaced by that other one.
    - Operators that the host has no node for are taken apart (`forms.decompositions`), and where a graph does not keep
      the batch as the first axis of each value, it is made to (`forms.batch_axis`).
    - ``MatMul(W, x)`` with a constant on the left is converted as ``x W``: for a vector `x` it becomes
      ``MatMul(x, W^T)``, else `W` becomes the output of a Constant node, which is multiplied from the left.
    - A constant right factor that is not a matrix, and an Add after it whose constant is not a bias vector,
      become Constant nodes as well, for they do not fit into `torch.nn.Linear`.
    - ``Reshape`` to a shape that begins with the batch size 1 (given, or computed from the input's own shape)
      gets that shape as a constant, with -1 in place of the 1, so that it takes larger batches.
    - ``Expand`` gets its shape as a constant, with 1 where nothing is repeated: torch cannot trace a computed shape.
    - ``Conv`` and ``ConvTranspose`` state the shape of their kernel (onnx2pytorch 0.5 on Python 3.10 asks for it).
    - ``Dropout`` and a ``Pad`` by nothing become ``Identity``.
    - ``BatchNormalization`` in evaluation does not say so (onnx2pytorch does not know the attribute).
    - ``Split`` gets its sizes as an attribute again, as it had them before operator set 13.
    - Nodes that nothing uses any more are dropped.

    Returns:
        The model, and the shapes of its values.

    Raises:
        FileError: the graph's shapes contradict each other.
    """
    model = file.parse()
    if model.functions:
        from onnx import inliner

        model = inliner.inline_local_functions(model)
    _drop_unused_domains(model)
    plain_constants(model)
    source = next(value for value in model.graph.input if value.name == file.input_name)
    if file.has_batch:
        source.type.tensor_type.shape.dim[0].dim_value = 1
    shapes = _shapes(model, file, file.single_shape)
    shapes = _folded(model, file, shapes)
    shapes = _taken_apart(model, file, shapes)
    shapes = _with_batch(model, file, shapes)
    batched = shapes.get(file.input_name) == (1, *file.input_shape)
    _rewrite_matmuls(model.graph, shapes)
    for node in list(model.graph.node):
        if node.op_type == "Reshape" and batched:
            _rewrite_reshape(model.graph, node, shapes)
        elif node.op_type == "Squeeze":
            _rewrite_squeeze(model.graph, node, shapes)
        elif node.op_type == "Expand":
            _rewrite_expand(model.graph, node, shapes)
        elif node.op_type in ("Conv", "ConvTranspose"):
            _rewrite_convolution(node, shapes)
        elif node.op_type == "Dropout" or _pads_nothing(node):
            _rewrite_as_identity(node)
        elif node.op_type == "Split":
            _rewrite_split(node, shapes)
        elif node.op_type == "BatchNormalization":
            _rewrite_batch_norm(node)
    drop_unused(model.graph)
    return model, shapes


def _drop_unused_domains(model: ModelProto) -> None:
    used = {node.domain for node in model.graph.node} | set(DEFAULT_DOMAINS)
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _folded(model: ModelProto, file: OnnxFile, shapes: Shapes) -> Shapes:
    """Make constants of what does not depend on the input; returns the shapes after that.

    Raises:
        FileError: nothing of the output depends on the input.
    """
    while has_constant_nodes(model) and fold(model, shapes, constant_values):
        shapes = _shapes(model, file, file.single_shape)
    made = {name for node in model.graph.node for name in node.output}
    if model.graph.output[0].name not in made:
        raise FileError(
            f"`{file.path}` gives an output that does not depend on its input: expected a network; export it again."
        )
    return shapes


def _taken_apart(model: ModelProto, file: OnnxFile, shapes: Shapes) -> Shapes:
    """Write operators in others that the host has; returns the shapes after that."""
    editor = Editor(model, shapes, file.dtype)
    run = partial(_run_alone, model)
    if not take_apart(editor, file.input_name, run):
        return shapes
    editor.finish()
    _drop_unused_domains(model)
    _in_one_type(model, file)
    drop_unused(model.graph)
    return _shapes(model, file, file.single_shape)


def _run_alone(model: ModelProto, node: NodeProto, values: dict[str, np.ndarray]) -> np.ndarray | None:
    """The first output of a node for values of its inputs."""
    from onnx import ValueInfoProto, helper, numpy_helper

    stored = [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in values.items()]
    graph = helper.make_graph([node], "one node", [], [ValueInfoProto(name=node.output[0])], stored)
    alone = helper.make_model(graph, opset_imports=model.opset_import, ir_version=max(model.ir_version, 4))
    found = constant_values(alone)
    return None if found is None else found[node.output[0]]


def _in_one_type(model: ModelProto, file: OnnxFile) -> None:
    """Store all floating-point constants in the network's type, in which it is computed throughout."""
    from onnx import helper, numpy_helper

    for tensor in model.graph.initializer:
        array = _array(tensor)
        if array.dtype.kind == "f" and array.dtype != file.dtype:
            tensor.CopyFrom(numpy_helper.from_array(array.astype(file.dtype), tensor.name))
    (output,) = model.graph.output
    output.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(file.dtype)


def _with_batch(model: ModelProto, file: OnnxFile, shapes: Shapes) -> Shapes:
    """Keep the batch in front of every value; returns the shapes after that."""
    single = (1, *file.input_shape)
    editor = Editor(model, shapes, file.dtype)
    (output,) = model.graph.output
    if not keep_batch_in_front(editor, file.input_name, file.has_batch, output.name):
        return shapes
    editor.finish()
    source = next(value for value in model.graph.input if value.name == file.input_name)
    del source.type.tensor_type.shape.dim[:]
    for size in single:
        source.type.tensor_type.shape.dim.add().dim_value = size
    drop_unused(model.graph)
    return _shapes(model, file, single)


def _rewrite_matmuls(graph: GraphProto, shapes: Shapes) -> None:
    """Keep constant factors out of `torch.nn.Linear` where it would multiply by them from the wrong side, or cannot."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    adders: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        if node.op_type == "Add":
            for name in node.input:
                adders.setdefault(name, []).append(node)
    for node in [node for node in graph.node if node.op_type == "MatMul"]:
        left, right = node.input
        if left in stored and len(shapes.get(right, ())) == 1 and len(stored[left].dims) == 2:
            transposed = _add_initializer(graph, f"{left}_transposed", _array(stored[left]).T)
            node.input[:] = [right, transposed]
            stored[transposed] = graph.initializer[-1]
        elif left in stored:
            _as_constant_node(graph, node, 0)
        elif right in stored and len(stored[right].dims) != 2:
            _as_constant_node(graph, node, 1)
        if node.input[1] in stored:
            _keep_odd_biases_apart(graph, adders.get(node.output[0], []), stored, tuple(stored[node.input[1]].dims)[1:])


def _keep_odd_biases_apart(
    graph: GraphProto, adders: list[NodeProto], stored: dict[str, TensorProto], shape: tuple[int, ...]
) -> None:
    """Make the constant of an Add that follows a Constant node, unless it is a bias: a vector of the right length."""
    for other in adders:
        for position, name in enumerate(other.input):
            if name in stored and tuple(stored[name].dims) != shape:
                _as_constant_node(graph, other, position)


def _rewrite_reshape(graph: GraphProto, node: NodeProto, shapes: Shapes) -> None:
    """Give the shape as a constant, with -1 for the batch, where it is known and begins with 1 before and after."""
    source, target = shapes.get(node.input[0], ()), shapes.get(node.output[0], ())
    if len(node.input) > 1 and source[:1] == (1,) and target[:1] == (1,) and 0 not in target[1:]:
        shape = np.array([-1, *target[1:]], dtype=np.int64)
        node.input[1] = _add_initializer(graph, f"{node.output[0]}_shape", shape)


def _rewrite_squeeze(graph: GraphProto, node: NodeProto, shapes: Shapes) -> None:
    """Make a Reshape of it where it keeps the batch: torch traces a squeeze of unknown sizes as a choice."""
    source, target = shapes.get(node.input[0], ()), shapes.get(node.output[0], ())
    if source[:1] == (1,) and target[:1] == (1,) and len(target) > 1 and 0 not in target:
        shape = _add_initializer(graph, f"{node.output[0]}_shape", np.array([-1, *target[1:]], dtype=np.int64))
        node.op_type, node.input[:] = "Reshape", [node.input[0], shape]
        del node.attribute[:]


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


def _rewrite_batch_norm(node: NodeProto) -> None:
    """Drop `training_mode` where it is 0, as it is by default."""
    kept = [attribute for attribute in node.attribute if attribute.name != "training_mode" or attribute.i]
    del node.attribute[:]
    node.attribute.extend(kept)


def _rewrite_split(node: NodeProto, shapes: Shapes) -> None:
    """Give the sizes as an attribute where all of them are known."""
    import onnx

    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    sizes = [shapes[name][axis] if name in shapes else 0 for name in node.output]
    if 0 not in sizes and not any(attribute.name == "split" for attribute in node.attribute):
        del node.input[1:]
        node.attribute.append(onnx.helper.make_attribute("split", sizes))


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


def _shapes(model: ModelProto, file: OnnxFile, single: tuple[int, ...]) -> Shapes:
    """Shapes for an input of shape `single` by inference, and where it leaves some of them open, by running it once."""
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
    measured = measured_shapes(file, model, unknown, single) if unknown else {}
    return shapes | measured | {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}


def constant_arrays(graph: GraphProto) -> dict[str, np.ndarray]:
    """Values of initializers and Constant nodes by name."""
    return {name: _array(tensor) for name, tensor in constants(graph)}


def _array(tensor: TensorProto) -> np.ndarray:
    from onnx import numpy_helper

    return numpy_helper.to_array(tensor)
