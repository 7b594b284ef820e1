"""ONNX networks of the kinds that are rewritten before they are converted: operators taken apart, batches moved."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, helper
from onnx_files import model, node

_RANDOM = np.random.default_rng(11)


def _normal(*shape: int) -> np.ndarray:
    return _RANDOM.standard_normal(shape)


def _positive(*shape: int) -> np.ndarray:
    return _RANDOM.random(shape) + 0.3


def _ints(*values: Any) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def _in_a_row(operator, shape, constants=None, opset=13, **more) -> tuple:
    """``y = operator(tanh(x w))``, w a factor for each entry; x has the given shape, with the batch."""
    weights = {"w": _positive(*shape), **(constants or {})}
    nodes = [node("Mul", "x w", "m"), node("Tanh", "m", "t"), *operator]
    return nodes, shape, weights, opset, more


def _selections() -> Iterator[tuple[str, tuple]]:
    row = (1, 5)
    image = (1, 2, 3, 4)
    index = _ints([0, 1, 1], [1, 0, 2], [2, 2, 0])
    yield "Gather, a table", _in_a_row([node("Gather", "t i", "y", axis=1)], row, {"i": _ints([0, 4], [4, 2])})
    yield "Gather, repeated", _in_a_row([node("Gather", "t i", "y", axis=2)], image, {"i": _ints(0, 0, 2, 1)})
    yield "Gather, scalar", _in_a_row([node("Gather", "t i", "y", axis=1)], row, {"i": np.array(3)})
    yield "GatherND", _in_a_row([node("GatherND", "t i", "y")], row, {"i": _ints([[0, 1], [0, 4], [0, 0]])})
    yield "GatherElements", _in_a_row([node("GatherElements", "t i", "y", axis=1)], row, {"i": _ints([0, 0, 3])})
    yield (
        "ScatterND of values into constants",
        _in_a_row(
            [node("ScatterND", "c i t", "y")], (1, 3), {"c": _normal(1, 5), "i": _ints([[0, 1], [0, 3], [0, 0]])}
        ),
    )
    yield (
        "ScatterND of constants into values",
        _in_a_row([node("ScatterND", "t i c", "y")], row, {"c": _normal(2), "i": _ints([0, 1], [0, 3])}),
    )
    yield (
        "ScatterElements",
        _in_a_row([node("ScatterElements", "t i c", "y", axis=1)], row, {"c": _normal(1, 2), "i": _ints([1, 3])}),
    )
    yield "Tile", _in_a_row([node("Tile", "t r", "y")], (1, 2, 3), {"r": _ints(1, 2, 3)})
    yield "Trilu", _in_a_row([node("Trilu", "t", "y", upper=0)], (1, 3, 3), opset=14)
    yield (
        "Pad, reflect",
        _in_a_row([node("Pad", "t p", "y", mode="reflect")], image, {"p": _ints(0, 0, 1, 1, 0, 0, 1, 2)}),
    )
    yield "Pad, edge", _in_a_row([node("Pad", "t p", "y", mode="edge")], (1, 4), {"p": _ints(0, 1, 0, 2)})
    mask = np.array([[True, False, True, True, False]])
    yield "Where, mask and number", _in_a_row([node("Where", "m_ t c", "y")], row, {"m_": mask, "c": np.array(-0.7)})
    yield (
        "Where, mask of two values",
        _in_a_row([node("Neg", "t", "n"), node("Where", "m_ t n", "y")], row, {"m_": mask}),
    )
    yield (
        "Concat with constants",
        _in_a_row([node("Concat", "c t d", "y", axis=1)], row, {"c": _normal(1, 2), "d": _normal(1, 1)}),
    )
    yield (
        "GatherElements, a table",
        _in_a_row([node("GatherElements", "t i", "y", axis=2)], (1, 3, 3), {"i": index[None]}),
    )


def _images() -> Iterator[tuple[str, tuple]]:
    image = (1, 2, 3, 4)
    nearest = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor", "mode": "nearest"}
    scales = np.array([1, 1, 2, 3], np.float32)
    yield (
        "Resize, nearest",
        _in_a_row([helper.make_node("Resize", ["t", "", "s"], ["y"], **nearest)], image, {"s": scales}),
    )
    for mode in ("half_pixel", "align_corners", "pytorch_half_pixel"):
        linear = helper.make_node("Resize", ["t", "", "s"], ["y"], mode="linear", coordinate_transformation_mode=mode)
        yield f"Resize, linear, {mode}", _in_a_row([linear], image, {"s": scales})
    sizes = helper.make_node("Resize", ["t", "", "", "n"], ["y"], mode="linear")
    yield "Resize, to sizes", _in_a_row([sizes], image, {"n": _ints(1, 2, 5, 3)})
    yield "Upsample", _in_a_row([node("Upsample", "t s", "y", mode="nearest")], image, {"s": scales}, opset=9)
    yield "Upsample, attribute", _in_a_row([node("Upsample", "t", "y", scales=[1.0, 1.0, 2.0, 2.0])], image, opset=7)
    for op, shape in (("DepthToSpace", (1, 8, 2, 2)), ("SpaceToDepth", (1, 2, 2, 4))):
        yield op, _in_a_row([node(op, "t", "y", blocksize=2)], shape)
    yield "DepthToSpace, CRD", _in_a_row([node("DepthToSpace", "t", "y", blocksize=2, mode="CRD")], (1, 8, 1, 2))
    for name, given in {
        "unequal padding": {"pads": [0, 0, 1, 1]},
        "SAME_UPPER": {"auto_pad": "SAME_UPPER"},
        "SAME_LOWER": {"auto_pad": "SAME_LOWER"},
        "rounds up": {"ceil_mode": 1},
    }.items():
        shape = (1, 2, 5, 5) if name == "rounds up" else image
        pool = {"kernel_shape": [2, 2], "strides": [2, 2], **given}
        yield f"MaxPool, {name}", _in_a_row([node("MaxPool", "t", "y", **pool)], shape)
        yield f"AveragePool, {name}", _in_a_row([node("AveragePool", "t", "y", **pool)], shape)
    kernel = {"k": _normal(2, 1, 2, 2)}
    deconvolution = node("ConvTranspose", "t k", "y", strides=[2, 2], output_padding=[1, 1], pads=[0, 1, 1, 0])
    yield "ConvTranspose, output padding", _in_a_row([deconvolution], image, kernel)
    slopes = {"a": _positive(2, 1, 1)}
    yield "PRelu of channels", _in_a_row([node("PRelu", "t a", "y")], image, slopes)


def _sums() -> Iterator[tuple[str, tuple]]:
    row = (1, 4)
    yield "CumSum", _in_a_row([node("CumSum", "t a", "y")], row, {"a": np.array(1)})
    yield "CumSum, reverse", _in_a_row([node("CumSum", "t a", "y", reverse=1)], (1, 3, 2), {"a": np.array(1)})
    yield "CumSum, exclusive", _in_a_row([node("CumSum", "t a", "y", exclusive=1)], (1, 2, 3), {"a": np.array(-1)})
    yield "Sum of three", _in_a_row([node("Sum", "t x c", "y")], row, {"c": _normal(4)})
    yield "Mean of three", _in_a_row([node("Mean", "t x c", "y")], row, {"c": _normal(4)})
    yield "Max of three", _in_a_row([node("Max", "t x c", "y")], row, {"c": np.array(0.1)})
    for name, inputs in (("least", ["t", "l"]), ("largest", ["t", "", "h"]), ("neither", ["t"])):
        ends = {"l": np.array(-0.2), "h": np.array(0.3)}
        kept = {key: value for key, value in ends.items() if key in inputs}
        yield f"Clip, {name}", _in_a_row([helper.make_node("Clip", inputs, ["y"])], row, kept)
    yield "Clip, attribute", _in_a_row([node("Clip", "t", "y", min=0.0)], row, opset=7)
    yield "Shrink", _in_a_row([node("Shrink", "t", "y", lambd=0.2, bias=0.2)], row)
    yield "LogSoftmax", _in_a_row([node("LogSoftmax", "t", "y", axis=-1)], row)
    yield "LogSoftmax, old, of an image", _in_a_row([node("LogSoftmax", "t", "y", axis=1)], (1, 2, 2), opset=11)
    yield "Softmax, old, last axis", _in_a_row([node("Softmax", "t", "y", axis=2)], (1, 2, 3), opset=9)
    yield "Softmax, old, of an image", _in_a_row([node("Softmax", "t", "y", axis=1)], (1, 2, 2), opset=11)
    yield "ReduceLogSumExp", _in_a_row([node("ReduceLogSumExp", "t", "y", axes=[1], keepdims=0)], (1, 3, 2))
    yield (
        "ReduceL2",
        _in_a_row([node("Add", "t c", "s"), node("ReduceL2", "s", "y", axes=[1])], row, {"c": np.array(2.0)}),
    )
    test = [node("Greater", "t z", "g"), node("Mul", "t s", "b"), node("Where", "g t b", "y")]
    yield "Where, leaky", _in_a_row(test, row, {"z": np.array(0.0), "s": np.array(0.2)})
    test = [node("Less", "t z", "g"), node("Mul", "t s", "b"), node("Where", "g b t", "y")]
    yield "Where, leaky, mirrored", _in_a_row(test, row, {"z": np.array(0.0), "s": np.array(0.2)})
    gemm = node("Gemm", "t W c", "y", alpha=0.5, beta=2.0, transB=1)
    yield "Gemm with factors", _in_a_row([gemm], row, {"W": _normal(3, 4), "c": _normal(1, 3)})
    yield "Gemm without bias", _in_a_row([node("Gemm", "t W", "y", alpha=0.5)], row, {"W": _normal(4, 3)})


def _contractions() -> Iterator[tuple[str, tuple]]:
    for equation, shape, weights in (
        ("bi,ij->bj", (1, 4), (4, 3)),
        ("bi,ji->bj", (1, 4), (3, 4)),
        ("bhi,ij->bjh", (1, 2, 3), (3, 2)),
        ("bij,jk->bik", (1, 2, 3), (3, 2)),
        ("bhij,ijk->bhk", (1, 2, 2, 3), (2, 3, 4)),
    ):
        yield (
            f"Einsum {equation}",
            _in_a_row([node("Einsum", "t W", "y", equation=equation)], shape, {"W": _normal(*weights)}),
        )
    left = node("Einsum", "W t", "y", equation="ji,bi->bj")
    yield "Einsum, constant first", _in_a_row([left], (1, 4), {"W": _normal(3, 4)})
    for equation, other in (("bqd,bkd->bqk", "x"), ("bqd,bkd->bkq", "x"), ("bij,bij->bi", "x")):
        nodes = [node("Einsum", f"t {other}", "y", equation=equation)]
        yield f"Einsum {equation} of two", _in_a_row(nodes, (1, 2, 3))


def _normalisations() -> Iterator[tuple[str, tuple]]:
    parts = {"g": _normal(4), "c": _normal(4)}
    image = (1, 4, 2, 2)
    spread = [node("Mul", "t s", "u")]
    extra = {**parts, "s": np.array(3.0)}
    yield (
        "InstanceNormalization",
        _in_a_row([*spread, node("InstanceNormalization", "u g c", "y", epsilon=0.1)], image, extra),
    )
    group = node("GroupNormalization", "u g c", "y", epsilon=0.1, num_groups=2)
    yield "GroupNormalization", _in_a_row([*spread, group], image, extra, opset=21)
    layer = node("LayerNormalization", "u g c", "y", epsilon=0.1)
    yield "LayerNormalization", _in_a_row([*spread, layer], (1, 3, 4), extra, opset=17)


def _batches() -> Iterator[tuple[str, tuple]]:
    square, row = _normal(4, 4), (1, 4)
    W, V = _normal(3, 4), _normal(2, 3)
    columns = [
        node("Transpose", "t", "a"),
        node("MatMul", "W a", "b"),
        node("Relu", "b", "c"),
        node("MatMul", "V c", "d"),
    ]
    yield "columns", _in_a_row([*columns, node("Transpose", "d", "y")], row, {"W": W, "V": V})
    heads = [
        node("Reshape", "t heads", "q"), node("Transpose", "q", "k", perm=[0, 2, 1]), node("MatMul", "q k", "s"),
        node("Softmax", "s", "p", axis=-1), node("MatMul", "p q", "o"), node("Reshape", "o flat", "y"),
    ]  # fmt: skip
    sizes = {"heads": _ints(2, 3, 2), "flat": _ints(1, -1)}
    yield "batch times heads", _in_a_row(heads, (1, 2, 3, 2), sizes)
    first = [node("Transpose", "t", "a", perm=[1, 0, 2]), node("Softmax", "a", "b", axis=0)]
    yield "batch second", _in_a_row([*first, node("Transpose", "b", "y", perm=[1, 0, 2])], (1, 3, 2))
    yield (
        "a vector of each",
        _in_a_row([node("Reshape", "t flat", "a"), node("MatMul", "a W", "y")], row, {"flat": _ints(-1), "W": square}),
    )
    yield (
        "a number of each",
        _in_a_row([node("MatMul", "t W", "a"), node("ReduceSum", "a", "y", keepdims=0)], row, {"W": square}),
    )
    both = [node("Gather", "t zero", "a", axis=1), node("Gather", "t two", "b", axis=1), node("Sin", "b", "s"),
            node("Mul", "a s", "p"), node("Unsqueeze", "p one", "q"), node("Unsqueeze", "b one", "r"),
            node("Concat", "q r", "y", axis=1)]  # fmt: skip
    yield "columns taken one by one", _in_a_row(both, row, {"zero": np.array(0), "two": np.array(2), "one": _ints(1)})
    yield (
        "no batch, matrix",
        _in_a_row([node("Gemm", "t W c", "y", alpha=0.5, transA=1)], (4, 2), {"W": _normal(4, 3), "c": _normal(3)}),
    )
    yield "no batch, vector from the left", _in_a_row([node("MatMul", "W t", "y")], (4,), {"W": W})
    yield "no batch, softmax of rows", _in_a_row([node("Softmax", "t", "y", axis=0)], (2, 3))
    yield "no batch, flattened", _in_a_row([node("Flatten", "t", "y", axis=2)], (2, 2, 1, 2))
    cut = {"s": _ints(1), "e": _ints(3), "a": _ints(0)}
    yield "no batch, rows cut", _in_a_row([node("Slice", "t s e a", "y")], (4, 2), cut)
    yield "no batch, joined", _in_a_row([node("Concat", "t c", "y", axis=0)], (2, 2), {"c": _normal(1, 2)})
    kernel = {"k": _normal(2, 1, 2, 2), "c": _normal(2)}
    yield "two images", _in_a_row([node("Conv", "t k c", "r"), node("Relu", "r", "y")], (2, 1, 3, 3), kernel)
    yield "two images, pooled", _in_a_row([node("AveragePool", "t", "y", kernel_shape=[2, 2])], (2, 1, 3, 3))
    scales = {"g": _normal(2), "c": _normal(2), "mean": _normal(2), "v": _positive(2)}
    yield "two images, batch norm", _in_a_row([node("BatchNormalization", "t g c mean v", "y")], (3, 2, 2, 2), scales)
    yield "two images, transposed", _in_a_row([node("Transpose", "t", "y", perm=[3, 0, 1, 2])], (2, 1, 2, 3))
    matrices = [
        node("Transpose", "t", "a", perm=[1, 2, 0]),
        node("MatMul", "W a", "b"),
        node("ReduceMax", "b", "y", axes=[0]),
    ]
    yield "no batch, products from the left", _in_a_row(matrices, (3, 2, 4), {"W": W})


def _recurrences() -> Iterator[tuple[str, tuple]]:
    for op, parts in (("RNN", 1), ("GRU", 3), ("LSTM", 4)):
        for way in ("forward", "reverse", "bidirectional"):
            n = 2 if way == "bidirectional" else 1
            weights = {"W": _normal(n, 3 * parts, 2), "R": _normal(n, 3 * parts, 3), "B": _normal(n, 6 * parts)}
            cell = helper.make_node(op, ["t", "W", "R", "B"], ["all", "end"], hidden_size=3, direction=way)
            sums = [node("ReduceMean", "all", "a", axes=[0], keepdims=0), node("Add", "a end", "y")]
            yield f"{op}, {way}", _in_a_row([cell, *sums], (3, 1, 2), weights)
    weights = {"W": _normal(1, 9, 2), "R": _normal(1, 9, 3), "h": _normal(1, 1, 3)}
    late = helper.make_node("GRU", ["t", "W", "R", "", "", "h"], ["", "y"], hidden_size=3, linear_before_reset=1)
    yield "GRU, reset late, from a state", _in_a_row([late], (2, 1, 2), weights)


def _constants() -> Iterator[tuple[str, tuple]]:
    row = (1, 4)
    shape = [
        node("Shape", "t", "s"),
        node("Gather", "s zero", "b", axis=0),
        node("Concat", "b minus", "r", axis=0),
        node("Reshape", "t r", "y"),
    ]
    yield "shape computed", _in_a_row(shape, (1, 2, 3), {"zero": _ints(0), "minus": _ints(-1)})
    expand = [node("ConstantOfShape", "r", "ones", value=_tensor([1], TensorProto.INT64)), node("Mul", "ones n", "k"),
              node("Equal", "n k", "e"), node("Where", "e ones n", "sizes"), node("Expand", "c sizes", "w2"),
              node("Sub", "t w2", "y")]  # fmt: skip
    yield (
        "constant expanded to a computed shape",
        _in_a_row(expand, row, {"r": _ints(2), "n": _ints(1, 4), "c": _normal(4)}),
    )
    yield "value expanded", _in_a_row([node("Expand", "t n", "y")], (1, 1, 3), {"n": _ints(1, 2, 3)})
    turned = [node("Transpose", "W", "V", perm=[1, 0]), node("MatMul", "t V", "y")]
    yield "weights transposed", _in_a_row(turned, row, {"W": _normal(3, 4)})
    backwards = [node("MatMul", "t V", "y"), node("Transpose", "W", "V", perm=[1, 0])]
    yield "used before it is made", _in_a_row(backwards, row, {"W": _normal(3, 4)})
    yield "branch taken", _in_a_row([_branch()], row, {"c": _normal(4), "yes": np.array(True)})
    yield "branch left", _in_a_row([_branch()], row, {"c": _normal(4), "yes": np.array(False)})


def _tensor(values, code):
    return helper.make_tensor("value", code, [len(values)], values)


def _branch():
    """``tanh(t + c)`` if `yes`, else ``-t``."""

    def body(*nodes) -> GraphProto:
        return helper.make_graph(list(nodes), "branch", [], [helper.make_tensor_value_info("out", 0, None)])

    taken = body(node("Add", "t c", "sum"), node("Tanh", "sum", "out"))
    return node("If", "yes", "y", then_branch=taken, else_branch=body(node("Neg", "t", "out")))


FORMS: dict[str, tuple] = dict(
    itertools.chain(
        _selections(),
        _images(),
        _sums(),
        _contractions(),
        _normalisations(),
        _batches(),
        _recurrences(),
        _constants(),
    )
)
"""Kind -> nodes, shape of the input as the file has it, weights, operator set."""


def form(name: str, dtype: Any = np.float32) -> ModelProto:
    """The network of a kind, in a number type."""
    nodes, shape, weights, opset, _ = FORMS[name]
    scales = {key: value for key, value in weights.items() if value.dtype == np.float32}
    network = model(nodes, list(shape), None, weights, dtype=dtype, opset=opset)
    for attribute in (a for each in network.graph.node if each.op_type == "If" for a in each.attribute):
        attribute.g.output[0].type.tensor_type.elem_type = network.graph.input[0].type.tensor_type.elem_type
    for tensor in network.graph.initializer:
        if tensor.name in scales:
            tensor.data_type = TensorProto.FLOAT
            tensor.raw_data = scales[tensor.name].tobytes()
    return network
