"""Networks as plain nodes: the same functions, sound bounds, and None where that is not certain."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx_specimens import IMAGE, SPECIMENS, Specimen, floats, ints, model
from places import DATA
from properties import box, polytope, spec_of
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.branch_and_bound.bounders import bounder
from recurjac_plugin.branch_and_bound.goals import Rows
from recurjac_plugin.jacobian.methods import VERIFY_METHOD, parse
from recurjac_plugin.networks.plain import _ROWS, plain_graph
from recurjac_plugin.networks.static import Static
from recurjac_plugin.properties.spec import Box, Polytope
from recurjac_plugin.verification.bounded import bounding

CASES: dict[str, tuple[str, Specimen]] = {
    **{name: (name, replace(SPECIMENS[name], bare=False)) for name in _ROWS},
    "Add a constant": ("Add", Specimen(constants=(floats(4),))),
    "Add to images": ("Add", Specimen(IMAGE, (floats(2, 1, 1),))),
    "Sub a constant": ("Sub", Specimen(constants=(floats(1, 4),))),
    "Conv in groups": (
        "Conv", Specimen(IMAGE, (floats(4, 1, 3, 3), floats(4)), {"group": 2, "strides": [2, 1], "pads": [1, 1, 1, 1]})
    ),
    "Conv without a bias": ("Conv", Specimen(IMAGE, (floats(3, 2, 2, 2),), {"dilations": [2, 2]})),
    "Reshape to images": ("Reshape", Specimen((1, 8), (ints(1, 2, 2, 2),))),
}  # fmt: skip
LEFT_TO_THE_HOST = {
    "Mul by itself": ("Mul", Specimen(constants=("x",))),
    "Div by what depends on x": ("Div", Specimen(constants=("z",), positive=True)),
    **{name: (name, SPECIMENS[name]) for name in ("MaxPool", "Softmax", "Elu", "Concat", "Clip", "Exp")},
}


def loaded(case, tmp_path, dtype=torch.float32):
    name, specimen = case
    path = tmp_path / "net.onnx"
    path.write_bytes(model(name, specimen).SerializeToString())
    network = rj.load_onnx(path).to(dtype)
    return network


def in_float64(network):
    return copy.deepcopy(network).double()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_nodes_are_the_same_function_of_a_batch(name, dtype, tmp_path):
    network = loaded(CASES[name], tmp_path, dtype)
    graph = plain_graph(network)
    assert graph is not None
    x = torch.randn(5, *network.input_shape, dtype=torch.float64)
    own = torch.cat([in_float64(network)(each) for each in x.split(1)])
    assert torch.allclose(graph.at(dict.fromkeys(graph.inputs, x)).output, own, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_bounds_of_them_hold(name, dtype, tmp_path):
    """Of rows and their Jacobian, at random points and where an ascent on the rows ends."""
    network = loaded(CASES[name], tmp_path, dtype)
    graph, exact = plain_graph(network), in_float64(network)
    n, k = int(np.prod(network.input_shape)), network.n_outputs
    A = np.random.default_rng(1).normal(size=(3, k))
    no = np.zeros(n, dtype=bool)
    center = np.random.default_rng(2).normal(size=n)
    polytope = Polytope(A=A, b=np.zeros(3), strict=np.zeros(3, dtype=bool))
    box = Box(lower=center - 0.3, upper=center + 0.3, disjuncts=(polytope,), lower_open=no, upper_open=no)
    low, high = (torch.from_numpy(end).reshape(1, -1) for end in (box.lower, box.upper))
    rows = Rows.of(box, low, proven=True)
    bounds_of = bounder(graph, rows, parse(VERIFY_METHOD), network.input_shape, low, high, "jacobian", True)
    for _ in range(2):  # from what is known of the region, then computed anew
        bounds = bounds_of(bounds_of.first(low, high))
        jumps = not bounds_of.uses_jacobian
        if not jumps:
            bounded = bounds.differentiated(torch.tensor([0]), torch.arange(3).unsqueeze(0))
            below, above = (end[0] for end in bounded.jacobian)

        def rows_at(x):
            return exact(x.reshape(-1, *network.input_shape)).flatten(1) @ torch.from_numpy(A).T

        points = low + (high - low) * torch.rand(40, n, dtype=torch.float64)
        for _ in range(5):
            x = points.requires_grad_(True)
            y = rows_at(x)
            assert bool((y >= bounds.lower - 1e-9).all())
            for row in range(0 if jumps else 3):
                (gradient,) = torch.autograd.grad(y[:, row].sum(), x, retain_graph=True)
                assert bool(((gradient >= below[row] - 1e-9) & (gradient <= above[row] + 1e-9)).all())
            points = (x - 0.1 * torch.autograd.grad(y.min(1).values.sum(), x)[0].sign()).detach()
            points = torch.minimum(torch.maximum(points, low), high)


@pytest.mark.parametrize("name", LEFT_TO_THE_HOST)
def test_other_layers_are_left_to_the_host(name, tmp_path):
    network = loaded(LEFT_TO_THE_HOST[name], tmp_path)
    assert plain_graph(network) is None


def test_other_modules_are_left_to_the_host():
    network = rj.load_onnx(DATA / "digits_relu.onnx")
    network.network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    assert plain_graph(network) is None


def test_weights_are_those_that_the_modules_have_now():
    network = rj.load_onnx(DATA / "digits_relu.onnx")
    with torch.no_grad():
        next(network.parameters()).mul_(-1.5)
    x = torch.rand(4, *network.input_shape, dtype=torch.float64)
    graph = plain_graph(network)
    assert torch.allclose(graph.at(dict.fromkeys(graph.inputs, x)).output, in_float64(network)(x), rtol=1e-12)


def test_networks_in_training_mode_are_left_to_the_host():
    network = rj.load_onnx(DATA / "digits_cnn.onnx")
    assert plain_graph(network) is not None
    assert plain_graph(network.train()) is None


def test_weights_that_are_no_numbers_are_left_to_the_host():
    network = rj.load_onnx(DATA / "digits_relu.onnx")
    with torch.no_grad():
        next(network.parameters())[0, 0] = torch.inf
    assert plain_graph(network) is None


def test_a_module_that_is_another_function_than_its_layer_is_seen(tmp_path):
    network = loaded(CASES["Flatten"], tmp_path)
    flatten, *_ = (name for name, module in network.network.named_children() if "Flatten" in name)
    assert plain_graph(network) is not None
    setattr(network.network, flatten, Static(lambda x: 1.001 * x.flatten(1)).eval())
    assert plain_graph(network) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["relu", "tanh", "cnn"])
def test_verdicts_are_those_of_the_hosts_graph_and_need_no_model_of_it(name, dtype, monkeypatch):
    network = rj.load_onnx(DATA / f"digits_{name}.onnx").to(dtype)
    spec = rj.load_vnnlib(DATA / f"digits_{name}_small.vnnlib")
    with monkeypatch.context() as patch:
        patch.setattr(bounding, "composed_graph", lambda network: None)
        expected = rj.verify(network, spec)
    with monkeypatch.context() as patch:
        patch.setattr(bounding, "bounded_model", lambda *_: pytest.fail("the host's model was built"))
        found = rj.verify(network, spec)
    assert (found.verdict, found.boxes) == (expected.verdict, expected.boxes)
    assert found.verdict is rj.Verdict.UNSAT
    assert found.lower_bound == pytest.approx(expected.lower_bound, rel=1e-6)


def test_a_network_that_is_not_its_file_proves_nothing(tmp_path):
    """What is bounded is another function than what the file's session computes: the proof must not go through."""
    weights = [numpy_helper.from_array(np.full((2, 1), 1.0, np.float32), "w")]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "sum",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])],
        weights,
    )  # fmt: skip
    path = tmp_path / "net.onnx"
    opset = helper.make_opsetid("", 13)
    path.write_bytes(helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString())
    network = rj.load_onnx(path)
    prop = tmp_path / "p.vnnlib"
    prop.write_text(
        "(declare-const X_0 Real)(declare-const X_1 Real)(declare-const Y_0 Real)"
        "(assert (>= X_0 0))(assert (<= X_0 1))(assert (>= X_1 0))(assert (<= X_1 1))(assert (>= Y_0 1.5))"
    )
    assert rj.verify(network, rj.load_vnnlib(prop)).verdict is rj.Verdict.SAT
    with torch.no_grad():
        next(network.parameters()).fill_(0.5)
    assert rj.verify(network, rj.load_vnnlib(prop), attack_seconds=0.0).verdict is not rj.Verdict.UNSAT


@pytest.mark.parametrize("inner", [(2, -1), (2, 2), (4, 1)], ids=str)
def test_a_reshape_that_moves_the_batch_keeps_it_in_front(inner, tmp_path):
    """What the file has as (2, 2) is (1, 2, 2) for a batch of one: a layer of a sample as any other."""
    nodes = [
        helper.make_node("Reshape", ["x", "inner"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Reshape", ["b", "outer"], ["y"]),
    ]
    constants = [numpy_helper.from_array(ints(*value), name) for name, value in (("inner", inner), ("outer", (1, -1)))]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        constants,
    )
    path = tmp_path / "moved.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()
    )
    network = rj.load_onnx(path)
    assert plain_graph(network) is not None
    spec = spec_of(box(np.zeros(4), np.ones(4), polytope(np.ones((1, 4)), [-1.0])))
    assert rj.verify(network, spec).verdict is rj.Verdict.UNSAT
