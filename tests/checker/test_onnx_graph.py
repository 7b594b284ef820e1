"""ONNX files as the checker reads them: onnxruntime's outputs lie in its bounds, of single points and of boxes."""

from __future__ import annotations

import math

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx_files import model as onnx_model
from onnx_files import node
from onnx_specimens import IMAGE, OLD_FORMS, SPECIMENS, Specimen, floats, ints, model

from recurjac_plugin.checker.bounds import Bounds
from recurjac_plugin.checker.reading.onnx_graph import OPERATORS, read_onnx
from recurjac_plugin.errors import FileError, UnsupportedError

NEIGHBOURS = {
    "Conv": [
        Specimen(IMAGE, (floats(4, 1, 3, 3), floats(4)), {"group": 2}),
        Specimen(IMAGE, (floats(3, 2, 2, 2),), {"dilations": [2, 2], "pads": [0, 1, 2, 1]}),
        Specimen(IMAGE, (floats(3, 2, 3, 2),), {"strides": [2, 1], "auto_pad": "SAME_UPPER"}),
        Specimen(IMAGE, (floats(3, 2, 2, 3),), {"strides": [1, 2], "auto_pad": "SAME_LOWER"}),
        Specimen(IMAGE, (floats(3, 2, 3, 3),), {"auto_pad": "VALID"}),
        Specimen((1, 2, 7), (floats(4, 1, 3), floats(4)), {"group": 2, "pads": [1, 2], "strides": [2]}),
    ],
    "BatchNormalization": [
        Specimen((1, 4), (floats(4), floats(4), floats(4), floats(4) ** 2 + 1), {"epsilon": 0.01}),
        Specimen((1, 2, 5), (floats(2), floats(2), 100 * floats(2), floats(2) ** 2 + 1e-4)),
    ],
    "AveragePool": [
        Specimen(IMAGE, attributes={"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "strides": [1, 2]}),
        Specimen(IMAGE, attributes={"kernel_shape": [2, 2], "pads": [1, 1, 0, 0], "count_include_pad": 1}),
        Specimen(IMAGE, attributes={"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER"}),
    ],
    "Gemm": [
        Specimen(constants=(floats(3, 4),), attributes={"transB": 1, "alpha": 0.3}),
        Specimen(constants=(floats(4, 3), floats(1, 3)), attributes={"beta": -0.7}),
    ],
    "MatMul": [
        Specimen((1, 3, 4), (floats(4, 2),)),
        Specimen((1, 2, 3, 4), (floats(2, 4, 5),)),
        Specimen(constants=(floats(4),)),
    ],
    "Add": [Specimen((1, 3, 1), (floats(1, 4),)), Specimen(constants=(floats(1),))],
    "Sub": [Specimen((1, 3, 1), (floats(3, 4),))],
    "Mul": [Specimen((1, 2, 3), (floats(2, 1),))],
    "LeakyRelu": [Specimen(attributes={"alpha": 0.3}), Specimen(attributes={"alpha": 1.5})],
    "PRelu": [Specimen(IMAGE, (floats(2, 1, 1),))],
    "Flatten": [Specimen((1, 2, 3, 2), attributes={"axis": 2}), Specimen((1, 2, 3), attributes={"axis": -1})],
    "Reshape": [Specimen((1, 2, 6), (ints(0, -1, 3),))],
    "Transpose": [Specimen((1, 2, 3))],
    "Slice": [
        Specimen((1, 6), (ints(-4), ints(100), ints(1), ints(2))),
        Specimen((1, 3, 4), (ints(1, 0), ints(3, -1), ints(-2, 2))),
    ],
    "Split": [Specimen((1, 5), (ints(2, 3),), {"axis": -1}, outputs=2)],
    "Gather": [Specimen((1, 3, 2), (np.array(-1, np.int64),), {"axis": 1})],
    "Concat": [Specimen((1, 2, 2), (floats(1, 3, 2), "z", "x"), {"axis": 1})],
    "Squeeze": [Specimen((1, 1, 4, 1), (ints(1, 3),), bare=True)],
}  # fmt: skip
"""Further uses of operators: attributes and shapes besides those of `SPECIMENS`."""

CASES = [
    *((name, SPECIMENS[name], None) for name in OPERATORS if name in SPECIMENS),
    *((name, specimen, opset) for (name, opset), specimen in OLD_FORMS.items() if name in OPERATORS),
    *((name, specimen, None) for name, several in NEIGHBOURS.items() for specimen in several),
]


def session(network):
    return onnxruntime.InferenceSession(network.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(("name", "specimen", "opset"), CASES, ids=lambda each: each if isinstance(each, str) else "")
def test_operators_compute_what_onnxruntime_computes(name, specimen, opset):
    file = model(name, specimen, opset)
    network, run = read_onnx(file.SerializeToString(), "one"), session(file)
    (shape,) = [each.shape for each in run.get_inputs()]
    random = np.random.default_rng(0)
    x = random.uniform(-1, 1, (6, *shape)).astype(np.float32)
    y = np.stack([run.run(None, {"input": each})[0].reshape(-1) for each in x]).astype(np.float64)
    flat = x.reshape(6, -1).astype(np.float64)
    assert network.vectors[-1].size == y.shape[1]
    points = Bounds(network, flat, flat)
    size = 1e-5 * max(1.0, np.abs(y).max())  # onnxruntime computes in float32
    assert np.abs(points.low[-1] - y).max() <= size
    assert np.abs(points.high[-1] - y).max() <= size
    box = Bounds(network, flat.min(0)[None], flat.max(0)[None])
    assert (box.low[-1] <= y + size).all()
    assert (y <= box.high[-1] + size).all()


def test_every_operator_is_tested():
    assert set(OPERATORS) - {name for name, *_ in CASES} == {"Shape"}


@pytest.mark.parametrize("name", sorted(set(SPECIMENS) - set(OPERATORS)))
def test_other_operators_are_refused(name):
    with pytest.raises(
        UnsupportedError, match=f"{name}|Greater"
    ):  # which makes the truth values that some of them read
        read_onnx(model(name, SPECIMENS[name]).SerializeToString(), "one")


def test_shapes_are_constants():
    """As exporters write a flattening: Shape, Gather, Concat, Reshape."""
    nodes = [
        node("Shape", "x", "shape"),
        node("Gather", "shape zero", "batch"),
        node("Unsqueeze", "batch axes", "one"),
        node("Concat", "one rest", "new", axis=0),
        node("Reshape", "x new", "flat"),
        node("MatMul", "flat W", "y"),
    ]
    constants = {"zero": np.array(0), "axes": ints(0), "rest": ints(-1), "W": floats(6, 2)}
    file = onnx_model(nodes, [1, 2, 3], [1, 2], constants)
    network = read_onnx(file.SerializeToString(), "shapes")
    x = floats(1, 2, 3)
    (y,) = session(file).run(None, {"x": x})
    point = Bounds(network, x.reshape(1, -1).astype(np.float64), x.reshape(1, -1).astype(np.float64))
    assert np.abs(point.low[-1] - y).max() < 1e-5


@pytest.mark.parametrize(
    ("nodes", "constants", "says"),
    [
        ([node("MatMul", "x x", "y")], {}, "constant"),
        ([node("Mul", "x x", "y")], {}, "constant"),
        ([node("Div", "x zero", "y")], {"zero": np.zeros(4)}, "by zero"),
        ([node("Add", "x nan", "y")], {"nan": np.full(4, np.nan)}, "not finite"),
        ([node("MatMul", "x big", "y")], {"big": np.full((4, 4), np.inf)}, "not finite"),
        ([node("Relu", "z", "y")], {}, "nowhere"),
        ([node("Relu", "x", "y"), node("Neg", "x", "y")], {}, "exists already"),
        ([node("Cast", "x", "y", to=TensorProto.INT64)], {}, "cast"),
        ([node("Slice", "x start end axis step", "y")],
         {"start": ints(3), "end": ints(0), "axis": ints(1), "step": ints(-1)}, "backwards"),
        ([node("Reshape", "x shape", "y")], {"shape": ints(1, 3)}, "do not fit"),
        ([node("Gather", "x place", "y", axis=1)], {"place": ints(7)}, "do not fit"),
        ([node("Pad", "x pads", "y", mode="edge")], {"pads": ints(0, 1, 0, 1)}, "expected zeros"),
        ([node("Pad", "x pads one", "y")], {"pads": ints(0, 1, 0, 1), "one": np.array(1.0)}, "expected zeros"),
        ([node("Pad", "x pads", "y")], {"pads": ints(0, -1, 0, 1)}, "expected zeros"),
        ([node("Add", "x c", "y", axis=1, broadcast=1)], {"c": floats(4)}, "axis, broadcast"),
        ([node("Constant", "", "c", value_float=1.0), node("Add", "x c", "y")], {}, "value_float"),
        ([node("Gemm", "W x", "y")], {"W": floats(4, 1)}, "depend|constants alone"),
    ],
)  # fmt: skip
def test_what_has_no_meaning_is_refused(nodes, constants, says):
    file = onnx_model(nodes, [1, 4], [1, 4], constants)
    with pytest.raises(UnsupportedError, match=says):
        read_onnx(file.SerializeToString(), "strange")


@pytest.mark.parametrize(
    ("inputs", "shape", "weight"),
    [
        ("x W", [4], (4, 3)),
        ("W x", [4], (3, 4)),
        ("W x", [4], (2, 3, 4)),
        ("x W", [4], (4,)),
        ("W x", [1, 4, 2], (3, 4)),
        ("W x", [1, 2, 4, 2], (2, 3, 4)),
    ],
)
def test_matrix_products_from_either_side(inputs, shape, weight):
    file = onnx_model([node("MatMul", inputs, "y")], shape, None, {"W": floats(*weight)})
    x = floats(*shape, seed=1)
    if weight == (2, 3, 4) and shape == [4]:
        with pytest.raises(UnsupportedError, match="more axes"):
            read_onnx(file.SerializeToString(), "product")
        return
    (y,) = session(file).run(None, {"x": x})
    flat = x.reshape(1, -1).astype(np.float64)
    point = Bounds(read_onnx(file.SerializeToString(), "product"), flat, flat)
    assert point.low[-1].shape == (1, y.size)
    assert np.abs(point.low[-1] - y.reshape(1, -1)).max() < 1e-5


def test_what_is_no_network_of_one_input_is_refused():
    with pytest.raises(FileError, match="not an ONNX network"):
        read_onnx(b"no network", "text")
    two = onnx_model([node("Add", "x z", "y")], [1, 4], [1, 4])
    two.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 4]))
    with pytest.raises(FileError, match="2 inputs"):
        read_onnx(two.SerializeToString(), "two")
    constant = onnx_model([node("Identity", "c", "y")], [1, 4], [1, 4], {"c": floats(1, 4)})
    with pytest.raises(FileError, match="does not depend"):
        read_onnx(constant.SerializeToString(), "constant")
    old = onnx_model([node("Relu", "x", "y")], [1, 4], [1, 4], opset=6)
    with pytest.raises(FileError, match="operator set"):
        read_onnx(old.SerializeToString(), "old")
    large = onnx_model([node("MatMul", "x W", "y")], [1, 2**14], [1, 1], {"W": floats(2**14, 1)})
    with pytest.raises(UnsupportedError, match="more than"):
        read_onnx(large.SerializeToString(), "large")


def test_roundings_of_derived_weights_are_covered():
    """A quotient, alpha, and a normalisation have weights that float64 does not have."""
    from fractions import Fraction

    file = model("BatchNormalization", SPECIMENS["BatchNormalization"])
    network = read_onnx(file.SerializeToString(), "norm")
    *_, last = network.vectors
    ((_, scaling),) = last.terms
    scale, bias, mean, variance = (floats(2), floats(2), floats(2), floats(2) ** 2 + 1)
    channel = np.repeat([0, 1], math.prod(IMAGE[2:]))
    for i in (0, -1):
        c = channel[i]
        square = Fraction(float(variance[c])) + Fraction(float(np.float32(1e-5)))
        for end, sense in ((-1, 1), (1, -1)):  # (weight -+ radius)^2 (variance + epsilon) around scale^2
            factor = abs(Fraction(scaling.weight[i])) + end * Fraction(scaling.radius[i])
            assert sense * (Fraction(float(scale[c])) ** 2 - factor**2 * square) > 0
        exact = Fraction(float(bias[c])) - Fraction(scaling.weight[i]) * Fraction(float(mean[c]))
        assert abs(exact - Fraction(last.bias[i])) <= Fraction(last.radius[i])
