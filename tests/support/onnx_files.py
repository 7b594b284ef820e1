"""ONNX networks written by hand, one node a line, and the files they are stored in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper


def node(op: str, inputs: str, output: str, **attributes: object) -> NodeProto:
    """``output = op(inputs)``; the inputs are names with spaces between them."""
    return helper.make_node(op, inputs.split(), [output], **attributes)


def model(nodes, input_shape, output_shape, weights=None, *, dtype=np.float32, opset=13, domains=()) -> ModelProto:
    """A network from `x` to `y`; floating-point weights are stored as `dtype`."""
    code = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    stored = [
        numpy_helper.from_array(np.asarray(a, dtype if np.asarray(a).dtype.kind == "f" else None), name)
        for name, a in (weights or {}).items()
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", code, input_shape)],
        [helper.make_tensor_value_info("y", code, output_shape)],
        stored,
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def save(path: Path, network: ModelProto) -> Path:
    """Write a network; returns where."""
    path.write_bytes(network.SerializeToString())
    return path


def few_inputs(folder: Path, least: float) -> tuple[Path, Path]:
    """``y = |x0| - |x0 + x1 / 2|`` on [-1, 1]^2, at least -1/2, and the property that it comes below `least`."""
    W = np.array([[1.0, -1.0, 1.0, -1.0], [0.0, 0.0, 0.5, -0.5]])
    V = np.array([[1.0], [1.0], [-1.0], [-1.0]])
    nodes = [node("MatMul", "x W", "a"), node("Relu", "a", "r"), node("MatMul", "r V", "y")]
    network = save(folder / "few.onnx", model(nodes, ["b", 2], ["b", 1], {"W": W, "V": V}))
    prop = folder / f"below{least}.vnnlib"
    variables = "".join(f"(declare-const {name} Real)" for name in ("X_0", "X_1", "Y_0"))
    ends = "".join(f"(assert (<= X_{i} 1.0)) (assert (>= X_{i} -1.0))" for i in (0, 1))
    prop.write_text(f"{variables}{ends}(assert (<= Y_0 {least}))")
    return network, prop
