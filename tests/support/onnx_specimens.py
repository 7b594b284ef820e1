"""The smallest networks that have one ONNX operator each, behind a linear layer, and what becomes of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

import recurjac_plugin as rj
from recurjac_plugin.host import BoundedTensor, PerturbationLpNorm
from recurjac_plugin.plugin.model import bounded_model

OPSET = 13


@dataclass(frozen=True)
class Specimen:
    """One use of an operator.

    Attributes:
        shape: of the operator's first input, with the batch dimension.
        constants: its other inputs, in order; "x" stands for the first input again, "z" for another perturbed one.
        attributes: of the node.
        positive: whether its input is kept above 0.
        outputs: how many outputs the node has; the first one is used.
        opset: operator set that has it.
        bare: whether nothing but a Neg lies before it, because the host wants to know its input's shape.
    """

    shape: tuple[int, ...] = (1, 4)
    constants: tuple[Any, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    positive: bool = False
    outputs: int = 1
    opset: int = OPSET
    bare: bool = False


def floats(*shape: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


IMAGE = (1, 2, 4, 4)

_PLAIN = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Celu", "Cos", "Cosh", "Elu", "Erf",
    "Exp", "Flatten", "Floor", "Hardmax", "HardSigmoid", "Identity", "LeakyRelu", "LogSoftmax", "Neg", "Relu",
    "Round", "Selu", "Sigmoid", "Sign", "Sin", "Sinh", "Softmax", "Softplus", "Softsign", "Tan", "Tanh",
    "ThresholdedRelu", "LpNormalization", "Shrink", "MeanVarianceNormalization",
)  # fmt: skip
_REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
    "ReduceProd", "ReduceSumSquare",
)  # fmt: skip

COMPARISONS = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
_LOGIC = ("And", "Not", "Or", "Xor")

SPECIMENS: dict[str, Specimen] = {
    **{name: Specimen() for name in _PLAIN},
    **{name: Specimen(attributes={"axes": [1]}, positive=True) for name in _REDUCTIONS},
    "Log": Specimen(positive=True),
    "Sqrt": Specimen(positive=True),
    "Reciprocal": Specimen(positive=True),
    "Gelu": Specimen(opset=20),
    "Mish": Specimen(opset=18),
    "HardSwish": Specimen(opset=14),
    "Swish": Specimen(opset=24),
    "Add": Specimen(constants=("z",)),
    "Sub": Specimen(constants=("z",)),
    "Mul": Specimen(constants=(floats(4),)),
    "Div": Specimen(constants=(floats(4) + 5,)),
    "Max": Specimen(constants=("z",)),
    "Min": Specimen(constants=("z",)),
    "Sum": Specimen(constants=("z",)),
    "Mean": Specimen(constants=("z",)),
    "Mod": Specimen(constants=(floats(4) + 5,), attributes={"fmod": 1}),
    "Pow": Specimen(constants=(np.array(2, np.float32),)),
    "PRelu": Specimen(constants=(np.array([0.3], np.float32),)),
    "Clip": Specimen(constants=(np.array(-0.5, np.float32), np.array(0.5, np.float32))),
    "Gemm": Specimen(constants=(floats(4, 3), floats(3))),
    "MatMul": Specimen(constants=(floats(4, 3),)),
    "Einsum": Specimen(constants=(floats(4, 3),), attributes={"equation": "bi,io->bo"}),
    "Conv": Specimen(IMAGE, (floats(3, 2, 3, 3), floats(3)), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    "ConvTranspose": Specimen(IMAGE, (floats(2, 3, 3, 3), floats(3)), {"kernel_shape": [3, 3]}),
    "BatchNormalization": Specimen(IMAGE, (floats(2), floats(2), floats(2), floats(2) ** 2 + 1)),
    "InstanceNormalization": Specimen(IMAGE, (floats(2), floats(2)), {"epsilon": 0.1}),
    "LayerNormalization": Specimen(constants=(floats(4), floats(4)), attributes={"epsilon": 0.1}, opset=17),
    "RMSNormalization": Specimen(constants=(floats(4),), attributes={"epsilon": 0.1}, opset=23),
    "GroupNormalization": Specimen(IMAGE, (floats(2), floats(2)), {"num_groups": 1, "epsilon": 0.1}, opset=21),
    "LRN": Specimen(IMAGE, attributes={"size": 1}),
    "AveragePool": Specimen(IMAGE, attributes={"kernel_shape": [2, 2], "strides": [2, 2]}),
    "MaxPool": Specimen(IMAGE, attributes={"kernel_shape": [2, 2], "strides": [2, 2]}),
    "LpPool": Specimen(IMAGE, attributes={"kernel_shape": [2, 2], "strides": [2, 2]}),
    "GlobalAveragePool": Specimen(IMAGE),
    "GlobalMaxPool": Specimen(IMAGE),
    "GlobalLpPool": Specimen(IMAGE),
    "Cast": Specimen(attributes={"to": TensorProto.FLOAT}),
    "CastLike": Specimen(constants=(floats(1),), opset=15),
    "Concat": Specimen(constants=("z",), attributes={"axis": 1}),
    "CumSum": Specimen(constants=(np.array(1, np.int64),)),
    "DepthToSpace": Specimen((1, 4, 2, 2), attributes={"blocksize": 2}),
    "SpaceToDepth": Specimen(IMAGE, attributes={"blocksize": 2}),
    "Dropout": Specimen(),
    "Expand": Specimen((1, 1, 4), (ints(1, 2, 4),)),
    "Gather": Specimen(constants=(ints(2, 0),), attributes={"axis": 1}),
    "GatherElements": Specimen(constants=(np.array([[2, 0]], np.int64),), attributes={"axis": 1}),
    **{
        name: Specimen((1, 1, 2), (floats(1, 3 * parts, 2), floats(1, 3 * parts, 3)), {"hidden_size": 3}, outputs=2)
        for name, parts in (("RNN", 1), ("GRU", 3), ("LSTM", 4))
    },
    "GatherND": Specimen(constants=(np.array([[0, 2], [0, 0]], np.int64),)),
    "ScatterElements": Specimen(constants=(np.array([[2, 0]], np.int64), floats(1, 2)), attributes={"axis": 1}),
    "ScatterND": Specimen(constants=(np.array([[0, 2], [0, 0]], np.int64), floats(2))),
    "Upsample": Specimen(IMAGE, (np.array([1, 1, 2, 2], np.float32),), {"mode": "nearest"}, opset=9),
    "Pad": Specimen(IMAGE, (ints(0, 0, 1, 1, 0, 0, 1, 1),)),
    "ReduceSum": Specimen(constants=(ints(1),)),
    "Reshape": Specimen(constants=(ints(1, 2, 2),)),
    "Resize": Specimen(IMAGE, ("", np.array([1, 1, 2, 2], np.float32)), {"mode": "nearest"}),
    "Slice": Specimen(constants=(ints(1), ints(3), ints(1))),
    "Split": Specimen(constants=(ints(2, 2),), attributes={"axis": 1}, outputs=2),
    "Squeeze": Specimen((1, 1, 4), (ints(1),), bare=True),
    "Tile": Specimen(constants=(ints(1, 2),)),
    "TopK": Specimen(constants=(ints(2),), outputs=2),
    "Transpose": Specimen((1, 2, 3), attributes={"perm": [0, 2, 1]}),
    "Trilu": Specimen((1, 3, 3), opset=14),
    "Unsqueeze": Specimen(constants=(ints(1),)),
    "Where": Specimen(constants=("z",)),
    **{name: Specimen(constants=("z",)) for name in (*COMPARISONS, "And", "Or", "Xor")},
    "Not": Specimen(),
    "ArgMax": Specimen(attributes={"axis": 1}),
    "ArgMin": Specimen(attributes={"axis": 1, "keepdims": 0}),
    "DeformConv": Specimen(IMAGE, (floats(3, 2, 1, 1), np.zeros((1, 2, 4, 4), np.float32)), opset=19),
    "Constant": Specimen(),
}


OLD_FORMS: dict[tuple[str, int], Specimen] = {
    ("Relu", 12): Specimen(),
    ("Gemm", 12): SPECIMENS["Gemm"],
    ("MatMul", 12): SPECIMENS["MatMul"],
    ("Conv", 12): SPECIMENS["Conv"],
    ("BatchNormalization", 12): SPECIMENS["BatchNormalization"],
    ("MaxPool", 12): SPECIMENS["MaxPool"],
    ("Clip", 10): Specimen(attributes={"min": -0.5, "max": 0.5}),
    ("Pad", 10): Specimen(IMAGE, attributes={"pads": [0, 0, 1, 1, 0, 0, 1, 1]}),
    ("Slice", 9): Specimen(attributes={"starts": [1], "ends": [3], "axes": [1]}),
    ("Split", 12): Specimen(attributes={"split": [2, 2], "axis": 1}, outputs=2),
    ("Squeeze", 12): Specimen((1, 1, 4), attributes={"axes": [1]}, bare=True),
    ("Unsqueeze", 12): Specimen(attributes={"axes": [1]}),
    ("ReduceSum", 12): Specimen(attributes={"axes": [1]}),
    ("ReduceMean", 12): Specimen(attributes={"axes": [1]}),
}
"""Operator, and the newest operator set up to 12 in which it has this form."""


def model(name: str, specimen: Specimen, opset: int | None = None) -> ModelProto:
    """``input -> Gemm -> reshaped -> operator -> flat``: the operator sees a perturbed input, as in any network."""
    size = math.prod(specimen.shape)
    stored = [
        numpy_helper.from_array(np.eye(size, dtype=np.float32) + floats(size, size, seed=5) / 16, "weight"),
        numpy_helper.from_array(np.full(size, 3.0 if specimen.positive else 0.1, np.float32), "bias"),
        numpy_helper.from_array(ints(*specimen.shape), "shape"),
    ]
    nodes = [
        helper.make_node("Gemm", ["input", "weight", "bias"], ["affine"]),
        helper.make_node("Reshape", ["affine", "shape"], ["x"]),
    ]
    if specimen.bare:
        nodes = [helper.make_node("Neg", ["input"], ["x"])]
    inputs = ["x"]
    for i, constant in enumerate(specimen.constants):
        if isinstance(constant, str) and constant == "z":
            nodes.append(helper.make_node("Neg", ["x"], ["z"]))
        if isinstance(constant, str):
            inputs.append(constant)
        else:
            stored.append(numpy_helper.from_array(constant, f"c{i}"))
            inputs.append(f"c{i}")
    outputs = [f"y{i}" for i in range(specimen.outputs)]
    if name == "Where":
        stored.append(numpy_helper.from_array(np.array([[True, False, True, False]]), "condition"))
        inputs.insert(0, "condition")
    if name in _LOGIC:  # of what is above 0
        stored.append(numpy_helper.from_array(np.zeros(4, np.float32), "zero"))
        nodes += [helper.make_node("Greater", [each, "zero"], [f"{each}_above"]) for each in inputs]
        inputs = [f"{each}_above" for each in inputs]
    if name == "Constant":
        nodes.append(helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(floats(4), "c")))
        nodes.append(helper.make_node("Add", ["x", "c"], ["y0"]))
    else:
        nodes.append(helper.make_node(name, inputs, outputs, **specimen.attributes))
    if name in (*COMPARISONS, *_LOGIC, "ArgMax", "ArgMin"):
        nodes.append(helper.make_node("Cast", ["y0"], ["number"], to=TensorProto.FLOAT))
    result = nodes[-1].output[0] if nodes[-1].output[0] == "number" else "y0"
    nodes.append(helper.make_node("Flatten", [result], ["output"]))
    shape = list(specimen.shape) if specimen.bare else [1, size]
    graph = helper.make_graph(
        nodes, name,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, "n"])],
        stored,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset or specimen.opset)], ir_version=8)


def probe(network: ModelProto, path: Path) -> str | None:
    """Why a network cannot be bounded as `verify` begins; None if it can, and the bounds hold and are of some use."""
    path.write_bytes(network.SerializeToString())
    try:
        net = rj.load_onnx(path)
        center = torch.zeros(1, *net.input_shape)
        ball = BoundedTensor(center, PerturbationLpNorm(norm=math.inf, eps=0.1))
        lower, upper = rj.output_bounds(bounded_model(net, center), ball, method="RecurJac+CROWN")
    except rj.RecurJacError as error:
        return str(error)
    assert bool((upper - lower).max() < 100)
    for _ in range(50):
        y = net(center + 0.1 * (2 * torch.rand_like(center) - 1))
        assert bool(((lower <= y + 1e-4) & (y <= upper + 1e-4)).all())
    return None
