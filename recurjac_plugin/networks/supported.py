"""Which ONNX operators a network may have: those that the converter, the host and the tables of this package all take.

An operator of a file becomes one or more of the host's nodes, also where `forms` takes it apart first. It is supported
if each of them has a row in `OPERATORS`, `ACTIVATIONS`, `PRODUCTS` or `JUMPS`, and if the installed converter does not
stand in the way. A supported operator may still be refused in a use of it, such as a Reshape to a computed shape; and a
network with jumps has bounds and verdicts, but no Jacobian.
"""

from __future__ import annotations

import importlib.metadata

from recurjac_plugin.activations.jumps import JUMPS
from recurjac_plugin.activations.table import ACTIVATIONS
from recurjac_plugin.extras import need
from recurjac_plugin.graph.operators import OPERATORS
from recurjac_plugin.graph.products import PRODUCTS

from .converter import import_onnx2pytorch

OPSETS = (7, 24)
"""Oldest and newest operator set of the files that were tried: sets up to 12 with the operators of most networks, sets
from 13 on with nearly all of `KINDS`. Newer sets have operators that onnxruntime does not run yet."""

_NORMALISATION = ("BoundReduceMean", "BoundSub", "BoundMul", "BoundAdd", "BoundSqrt", "BoundDiv")

_RECURRENCE = (
    "BoundGather",
    "BoundLinear",
    "BoundAdd",
    "BoundSub",
    "BoundMul",
    "BoundSigmoid",
    "BoundTanh",
    "BoundConcat",
)

KINDS: dict[str, tuple[str, ...]] = {
    "Abs": ("BoundAbs",),
    "Add": ("BoundAdd",),
    "And": ("BoundRelu", "BoundSub"),
    "ArgMax": ("BoundReduceMax", "BoundSign"),
    "ArgMin": ("BoundReduceMin", "BoundSign"),
    "Atan": ("BoundAtan",),
    "AveragePool": ("BoundAveragePool",),
    "BatchNormalization": ("BoundBatchNormalization",),
    "Cast": ("BoundCast",),
    "CastLike": ("BoundCast",),
    "Ceil": ("BoundCeil",),
    "Celu": ("BoundCelu",),
    "Clip": ("HardTanh",),
    "Concat": ("BoundConcat",),
    "Constant": (),
    "Conv": ("BoundConv",),
    "ConvTranspose": ("BoundConvTranspose",),
    "Cos": ("BoundCos",),
    "CumSum": ("BoundLinear", "BoundMatMul"),
    "DepthToSpace": ("BoundReshape", "BoundTranspose"),
    "Div": ("BoundDiv", "BoundReciprocal"),
    "Dropout": ("BoundIdentity",),
    "Einsum": ("BoundLinear", "BoundMatMul", "BoundReshape", "BoundTranspose"),
    "Elu": ("BoundElu",),
    "Equal": ("BoundSign",),
    "Erf": ("BoundErf",),
    "Exp": ("BoundExp",),
    "Expand": ("BoundGather", "BoundReshape"),
    "Flatten": ("BoundFlatten",),
    "Floor": ("BoundFloor",),
    "Gather": ("BoundGather",),
    "GatherElements": ("BoundGather", "BoundReshape"),
    "GatherND": ("BoundGather", "BoundReshape"),
    "Gelu": ("BoundGelu",),
    "Gemm": ("BoundLinear",),
    "GlobalAveragePool": ("BoundGlobalAveragePool", "BoundReduceMean"),
    "GlobalMaxPool": ("BoundReduceMax", "BoundReshape"),
    "Greater": ("BoundSign",),
    "GreaterOrEqual": ("BoundSign",),
    "GroupNormalization": _NORMALISATION,
    "GRU": _RECURRENCE,
    "HardSigmoid": ("HardTanh",),
    "HardSwish": ("BoundHardSwish",),
    "Identity": ("BoundIdentity",),
    "InstanceNormalization": _NORMALISATION,
    "LayerNormalization": _NORMALISATION,
    "LeakyRelu": ("BoundLeakyRelu",),
    "Less": ("BoundSign",),
    "LessOrEqual": ("BoundSign",),
    "Log": ("BoundLog",),
    "LogSoftmax": ("BoundExp", "BoundReduceSum", "BoundLog", "BoundSub"),
    "LSTM": _RECURRENCE,
    "MatMul": ("BoundLinear", "BoundMatMul"),
    "Max": ("BoundMax",),
    "MaxPool": ("BoundMaxPool",),
    "Mean": ("BoundAdd", "BoundMul"),
    "Min": ("BoundMin",),
    "Mish": ("BoundMish",),
    "Mod": ("BoundFloor", "BoundMul"),
    "Mul": ("BoundMul",),
    "Neg": ("BoundNeg",),
    "Not": ("BoundSub",),
    "Or": ("BoundRelu", "BoundSub"),
    "Pad": ("BoundPad",),
    "Pow": ("Pow",),
    "PRelu": ("BoundPRelu",),
    "Reciprocal": ("BoundReciprocal",),
    "ReduceL1": ("BoundAbs", "BoundReduceSum"),
    "ReduceL2": ("BoundSqr", "BoundReduceSum", "BoundSqrt"),
    "ReduceLogSum": ("BoundReduceSum", "BoundLog"),
    "ReduceLogSumExp": ("BoundExp", "BoundReduceSum", "BoundLog"),
    "ReduceMax": ("BoundReduceMax",),
    "ReduceMean": ("BoundReduceMean",),
    "ReduceMin": ("BoundReduceMin",),
    "ReduceSum": ("BoundReduceSum",),
    "ReduceSumSquare": ("BoundSqr", "BoundReduceSum"),
    "Relu": ("BoundRelu",),
    "Reshape": ("BoundReshape",),
    "Resize": ("BoundGather", "BoundMatMul", "BoundReshape"),
    "RMSNormalization": _NORMALISATION,
    "RNN": _RECURRENCE,
    "Round": ("BoundRound",),
    "ScatterElements": ("BoundMul", "BoundMatMul", "BoundAdd"),
    "ScatterND": ("BoundMul", "BoundMatMul", "BoundAdd"),
    "Selu": ("BoundElu",),
    "Shrink": ("BoundRelu", "BoundSign", "BoundMul"),
    "Sigmoid": ("BoundSigmoid",),
    "Sign": ("BoundSign",),
    "Sin": ("BoundSin",),
    "Slice": ("BoundSlice",),
    "Softmax": ("BoundSoftmax",),
    "Softplus": ("BoundSoftplus",),
    "Softsign": ("BoundSoftsign",),
    "SpaceToDepth": ("BoundReshape", "BoundTranspose"),
    "Split": ("BoundSplit",),
    "Sqrt": ("BoundSqrt",),
    "Squeeze": ("BoundSqueeze",),
    "Sub": ("BoundSub",),
    "Sum": ("BoundAdd",),
    "Swish": ("SiLU",),
    "Tan": ("BoundTan",),
    "Tanh": ("BoundTanh",),
    "ThresholdedRelu": ("BoundSign", "BoundMul"),
    "Tile": ("BoundGather", "BoundReshape"),
    "Transpose": ("BoundTranspose",),
    "Trilu": ("BoundGather", "BoundMul", "BoundReshape"),
    "Unsqueeze": ("BoundUnsqueeze",),
    "Upsample": ("BoundGather", "BoundMatMul", "BoundReshape"),
    "Where": ("BoundMul", "BoundAdd"),
    "Xor": ("BoundRelu", "BoundSub"),
}
"""ONNX operator -> the rows of `OPERATORS`, `ACTIVATIONS`, `PRODUCTS` or `JUMPS` that it needs."""

NEWER_CONVERTER = {
    "CastLike",
    "Gelu",
    "Mish",
    "ReduceL1",
    "ReduceLogSum",
    "ReduceSumSquare",
    "Swish",
}
"""Operators that onnx2pytorch converts from version 0.6 on."""


def supported_operators() -> tuple[str, ...]:
    """Names of the supported operators, in alphabetical order.

    Raises:
        ExtraError: onnx2pytorch is not installed.
    """
    rows = OPERATORS.keys() | ACTIVATIONS.keys() | PRODUCTS.keys() | JUMPS.keys()
    missing: set[str] = set()
    import_onnx2pytorch()  # refuses where there is none
    if [*map(int, importlib.metadata.version("onnx2pytorch").split(".")[:2])] < [0, 6]:
        missing = NEWER_CONVERTER
    return tuple(sorted(name for name, kinds in KINDS.items() if name not in missing and rows.issuperset(kinds)))


def opset_versions() -> tuple[int, int]:
    """Oldest and newest operator set of files that are read; the newest is at most the one that `onnx` here knows.

    Raises:
        ExtraError: `onnx` is not installed.
    """
    need("onnx")
    import onnx

    return OPSETS[0], min(OPSETS[1], onnx.defs.onnx_opset_version())
