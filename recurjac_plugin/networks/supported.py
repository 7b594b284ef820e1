"""Which ONNX operators a network may have: those that the converter, the host and the tables of this package all take.

An operator of a file becomes one or more of the host's nodes. It is supported if each of them has a row in
`OPERATORS`, `ACTIVATIONS` or `PRODUCTS`, and if neither the host's CROWN, from which `verify` starts, nor the
installed converter stands in the way. A supported operator may still be refused in a use of it, such as a Reshape of
the batch or a padding with numbers other than 0.
"""

from __future__ import annotations

import importlib.metadata

from packaging.version import Version

from recurjac_plugin.activations.table import ACTIVATIONS
from recurjac_plugin.graph.operators import OPERATORS
from recurjac_plugin.graph.products import PRODUCTS
from recurjac_plugin.host.library import IS_03

OPSETS = (8, 24)
"""Oldest and newest operator set of the files that were tried: sets up to 12 with the operators of most networks, sets
from 13 on with nearly all of `KINDS`. Newer sets have operators that onnxruntime does not run yet."""

KINDS: dict[str, tuple[str, ...]] = {
    "Abs": ("BoundAbs",),
    "Add": ("BoundAdd",),
    "Atan": ("BoundAtan",),
    "AveragePool": ("BoundAveragePool",),
    "BatchNormalization": ("BoundBatchNormalization",),
    "Cast": ("BoundCast",),
    "CastLike": ("BoundCast",),
    "Celu": ("BoundCelu",),
    "Clip": ("HardTanh",),
    "Concat": ("BoundConcat",),
    "Constant": (),
    "Conv": ("BoundConv",),
    "ConvTranspose": ("BoundConvTranspose",),
    "Cos": ("BoundCos",),
    "DepthToSpace": ("BoundReshape", "BoundTranspose"),
    "Div": ("BoundDiv", "BoundReciprocal"),
    "Dropout": ("BoundIdentity",),
    "Elu": ("BoundElu",),
    "Erf": ("BoundErf",),
    "Exp": ("BoundExp",),
    "Expand": ("BoundExpand",),
    "Flatten": ("BoundFlatten",),
    "Gather": ("BoundGather",),
    "Gelu": ("BoundGelu",),
    "Gemm": ("BoundLinear",),
    "GlobalAveragePool": ("BoundGlobalAveragePool", "BoundReduceMean"),
    "GlobalMaxPool": ("BoundReduceMax",),
    "HardSigmoid": ("HardTanh",),
    "HardSwish": ("BoundHardSwish",),
    "Identity": ("BoundIdentity",),
    "LeakyRelu": ("BoundLeakyRelu",),
    "Log": ("BoundLog",),
    "MatMul": ("BoundLinear", "BoundMatMul"),
    "Max": ("BoundMax",),
    "MaxPool": ("BoundMaxPool",),
    "Min": ("BoundMin",),
    "Mish": ("BoundMish",),
    "Mul": ("BoundMul",),
    "Neg": ("BoundNeg",),
    "PRelu": ("BoundPRelu",),
    "Pad": ("BoundPad",),
    "Pow": ("Pow",),
    "Reciprocal": ("BoundReciprocal",),
    "ReduceL1": ("BoundAbs", "BoundReduceSum"),
    "ReduceL2": ("BoundSqr", "BoundReduceSum", "BoundSqrt"),
    "ReduceLogSum": ("BoundReduceSum", "BoundLog"),
    "ReduceMax": ("BoundReduceMax",),
    "ReduceMean": ("BoundReduceMean",),
    "ReduceMin": ("BoundReduceMin",),
    "ReduceSum": ("BoundReduceSum",),
    "ReduceSumSquare": ("BoundSqr", "BoundReduceSum"),
    "Relu": ("BoundRelu",),
    "Reshape": ("BoundReshape",),
    "Selu": ("BoundElu",),
    "Sigmoid": ("BoundSigmoid",),
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
    "Swish": ("SiLU",),
    "Tan": ("BoundTan",),
    "Tanh": ("BoundTanh",),
    "Transpose": ("BoundTranspose",),
    "Unsqueeze": ("BoundUnsqueeze",),
}
"""ONNX operator -> the rows of `OPERATORS`, `ACTIVATIONS` or `PRODUCTS` that it needs."""

WITHOUT_CROWN: dict[str, str] = (
    {"Expand": "auto_LiRPA 0.3 has no CROWN for it"}
    if IS_03
    else {"GlobalMaxPool": "auto_LiRPA 0.7 cannot read what it is converted to"}
)
"""Operators that the installed host bounds by ``IBP`` alone, or not at all -> why."""

NEWER_CONVERTER = {
    "CastLike",
    "DepthToSpace",
    "Gelu",
    "Mish",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceSumSquare",
    "SpaceToDepth",
    "Swish",
}
"""Operators that onnx2pytorch converts from version 0.6 on."""


def supported_operators() -> tuple[str, ...]:
    """Names of the supported operators, in alphabetical order."""
    rows = OPERATORS.keys() | ACTIVATIONS.keys() | PRODUCTS.keys()
    missing = set(WITHOUT_CROWN)
    if Version(importlib.metadata.version("onnx2pytorch")) < Version("0.6"):
        missing |= NEWER_CONVERTER
    return tuple(sorted(name for name, kinds in KINDS.items() if name not in missing and rows.issuperset(kinds)))


def opset_versions() -> tuple[int, int]:
    """Oldest and newest operator set of files that are read; the newest is at most the one that `onnx` here knows."""
    import onnx

    return OPSETS[0], min(OPSETS[1], onnx.defs.onnx_opset_version())
