"""Constants of an ONNX graph: everything that does not depend on the input is computed before anything is converted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .editing import Shapes, attributes_of, drop_unused, used_by

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

_RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
_SHAPES = {"Shape", "Size"}


def plain_constants(model: ModelProto) -> None:
    """Bring nodes into an order in which they can run, and make initializers of Constant nodes and shared weights."""
    graph = model.graph
    _sort(graph)
    same: dict[str, str] = {}
    stored = {tensor.name for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    kept: list[NodeProto] = []
    for node in graph.node:
        _rename(node, same)
        tensor = _tensor_of(node) if node.output[0] not in outputs else None
        if tensor is not None:
            graph.initializer.append(tensor)
            stored.add(tensor.name)
        elif node.op_type == "Identity" and node.input[0] in stored and node.output[0] not in outputs:
            same[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    if len(kept) < len(graph.node):
        copies = [type(node).FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(copies)


def _sort(graph: GraphProto) -> None:
    """Put every node behind those whose values it reads; nodes that are in such an order stay as they are."""
    made = {name for node in graph.node for name in node.output}
    ready: set[str] = set()
    waiting, done = list(graph.node), []
    while waiting:
        later = []
        for node in waiting:
            if all(name in ready or name not in made for name in used_by(node)):
                done.append(node)
                ready.update(node.output)
            else:
                later.append(node)
        if len(later) == len(waiting):
            return  # a circle, which onnxruntime refuses
        waiting = later
    if [node.output[0] for node in done] != [node.output[0] for node in graph.node]:
        ordered = [type(node).FromString(node.SerializeToString()) for node in done]
        del graph.node[:]
        graph.node.extend(ordered)


def _tensor_of(node: NodeProto) -> Any:
    """The value of a Constant node as an initializer; None for other nodes and for values that are no tensors."""
    from onnx import TensorProto, numpy_helper

    if node.op_type != "Constant" or len(node.attribute) != 1:
        return None
    (attribute,) = node.attribute
    if attribute.name == "value":
        tensor = TensorProto()
        tensor.CopyFrom(attribute.t)
        tensor.name = node.output[0]
        return tensor
    value = attributes_of(node)[attribute.name]
    if attribute.name in ("value_int", "value_ints"):
        return numpy_helper.from_array(np.array(value, dtype=np.int64), node.output[0])
    if attribute.name in ("value_float", "value_floats"):
        return numpy_helper.from_array(np.array(value, dtype=np.float32), node.output[0])
    return None


def has_constant_nodes(model: ModelProto) -> bool:
    """Whether there may be a node to fold: one of constants alone, of a shape, or an If whose condition is constant."""
    known = {tensor.name for tensor in model.graph.initializer}
    return any(
        node.op_type in _SHAPES or _is_choice(node, known) or all(name in known for name in used_by(node))
        for node in model.graph.node
    )


def _is_choice(node: NodeProto, known: set[str]) -> bool:
    """Whether it is clear which branch an If takes."""
    return node.op_type == "If" and node.input[0] in known


Evaluate = Callable[["ModelProto"], "dict[str, np.ndarray] | None"]
"""Runs a model that has no inputs; None where it does not run."""


def fold(model: ModelProto, shapes: Shapes, evaluate: Evaluate) -> bool:
    """Make initializers of all values that depend on constants, and on shapes that are known, alone.

    An ``If`` whose condition is such a value is replaced by the branch taken.

    Returns:
        Whether anything was changed.
    """
    import onnx

    graph = model.graph
    known = {tensor.name for tensor in graph.initializer}
    constant: list[NodeProto] = []
    sizes = []
    for node in graph.node:
        if node.op_type in _SHAPES and 0 not in shapes.get(node.input[0], (0,)) and node.input[0] not in known:
            sizes.append(_size(node, shapes[node.input[0]]))
        elif node.op_type in _RANDOM or not all(name in known for name in used_by(node)):
            continue
        else:
            constant.append(node)
        known.update(name for name in node.output if name)
    folded = {id(node) for node in constant}
    sized = {tensor.name for tensor in sizes}
    if not constant and not sizes and not any(_is_choice(node, known) for node in graph.node):
        return False
    rest = [node for node in graph.node if id(node) not in folded and node.output[0] not in sized]
    read = {name for node in rest for name in used_by(node)} | {value.name for value in graph.output}
    wanted = [name for node in constant for name in node.output if name in read]
    needed = {name for node in constant for name in used_by(node)}
    alone = onnx.helper.make_graph(
        constant,
        "constants",
        [],
        [onnx.ValueInfoProto(name=name) for name in wanted],
        [tensor for tensor in (*graph.initializer, *sizes) if tensor.name in needed],
    )
    runnable = onnx.helper.make_model(alone, opset_imports=model.opset_import, ir_version=max(model.ir_version, 4))
    values = evaluate(runnable) if wanted else {}
    if values is None:
        return False
    rest = [type(node).FromString(node.SerializeToString()) for node in rest]
    graph.initializer.extend(tensor for tensor in sizes if tensor.name in read)
    graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in values.items())
    del graph.node[:], graph.value_info[:]
    graph.node.extend(rest)
    _take_branches(model, values)
    drop_unused(graph)
    return True


def _size(node: NodeProto, shape: tuple[int, ...]) -> Any:
    """What Shape or Size gives, as an initializer."""
    from onnx import numpy_helper

    given = attributes_of(node)
    part = np.array(shape, dtype=np.int64)[given.get("start", 0) : given.get("end", None)]
    return numpy_helper.from_array(np.array(part.prod()) if node.op_type == "Size" else part, node.output[0])


def _take_branches(model: ModelProto, values: dict[str, np.ndarray]) -> None:
    """Put the nodes of the branch taken in place of each If whose condition is known."""
    from onnx import helper, numpy_helper

    graph = model.graph
    known = values | {t.name: numpy_helper.to_array(t) for t in graph.initializer if not t.dims}
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.op_type != "If" or node.input[0] not in known:
            nodes.append(node)
            continue
        body = attributes_of(node)["then_branch" if bool(known[node.input[0]].item()) else "else_branch"]
        own = {n: f"{node.output[0]}/{n}" for n in (*(t.name for t in body.initializer), *_made(body))}
        for tensor in body.initializer:
            graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(tensor), own[tensor.name]))
        for inner in body.node:
            copy = type(inner).FromString(inner.SerializeToString())
            _rename(copy, own)
            nodes.append(copy)
        for inside, outside in zip(body.output, node.output):
            nodes.append(helper.make_node("Identity", [own.get(inside.name, inside.name)], [outside]))
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    plain_constants(model)


def _made(body: GraphProto) -> list[str]:
    return [name for node in body.node for name in node.output if name]


def _rename(node: NodeProto, names: dict[str, str]) -> None:
    """Rename values in a node and in its bodies."""
    for values in (node.input, node.output):
        for i, name in enumerate(values):
            values[i] = names.get(name, name)
    for attribute in node.attribute:
        for inner in attribute.g.node:
            _rename(inner, names)
        for value in attribute.g.output:
            value.name = names.get(value.name, value.name)
