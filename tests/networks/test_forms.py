"""Networks that are rewritten before they are converted: equal to onnxruntime, batched, and bounded soundly."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx_files import model, node, save
from onnx_forms import FORMS, form
from oracle import Ball, assert_encloses, truth

import recurjac_plugin as rj
from recurjac_plugin.networks.onnx import load_onnx, onnx_session
from recurjac_plugin.plugin.model import bounded_model

COMPUTED_IN_FLOAT32 = ("GroupNormalization", "Shrink")  # by onnxruntime, also where the file has float64


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", FORMS)
def test_equals_onnxruntime_for_each_of_a_batch(name, dtype, tmp_path):
    path = save(tmp_path / "n.onnx", form(name, dtype))
    if dtype == np.float64 and (name in COMPUTED_IN_FLOAT32 or not _runs(path)):
        pytest.skip("onnxruntime has it in float32 alone")
    session = onnx_session(path)
    network = load_onnx(path)
    assert network.takes_batches
    x = np.random.default_rng(2).standard_normal((4, *network.input_shape)).astype(dtype)
    with torch.no_grad():
        y = network(torch.from_numpy(x)).numpy()
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(y, session(x), rtol=tolerance, atol=tolerance)


def _runs(path):
    """Whether onnxruntime has the operators of a file in its number type."""
    try:
        onnx_session(path)
    except rj.FileError as error:
        return "NOT_IMPLEMENTED" not in str(error)
    return not any(each.op_type in ("GRU", "LSTM") for each in onnx.load(path).graph.node)  # found out as it runs


@pytest.mark.filterwarnings("ignore:Constant folding - Only steps=1")  # torch's, of a padding that it traces
@pytest.mark.parametrize("name", FORMS)
def test_bounds_hold(name, tmp_path):
    torch.manual_seed(3)
    network = load_onnx(save(tmp_path / "n.onnx", form(name)))
    for dtype in (torch.float32, torch.float64):
        network = network.to(dtype)
        centre = torch.randn(1, *network.input_shape, dtype=dtype)
        bounds = _bounds(network, Ball(centre, 0.05))
        exact = network.double()
        values = truth(exact, Ball(centre.double(), 0.05), count=24, targets=4)
        slack = 1e-5 if dtype == torch.float32 else 1e-9
        lower, upper = bounds.lower.detach().double(), bounds.upper.detach().double()
        assert_encloses(lower, upper, values, slack)
        assert float((upper - lower).max()) < 100 * max(1.0, float(values.abs().max()))


def _bounds(network, region):
    model = bounded_model(network, region.center)
    try:
        return rj.jacobian_bounds(model, region.perturbed(), method="RecurJac")
    except rj.UnsupportedError:  # CROWN lacks an operator
        return rj.jacobian_bounds(model, region.perturbed(), method="IBP+RecurJac")


def _with_weights_outside(folder, location="weights.bin"):
    """The network of a kind with its weights in a file of their own."""
    network = form("weights transposed")
    path = folder / "net.onnx"
    onnx.save_model(network, path, save_as_external_data=True, location=location, size_threshold=0)
    return path


def test_weights_beside_the_file_are_read(tmp_path):
    path = _with_weights_outside(tmp_path)
    network = load_onnx(path)
    whole = load_onnx(save(tmp_path / "whole.onnx", form("weights transposed")))
    x = torch.rand(3, 4)
    assert torch.equal(network(x), whole(x))
    assert network.max_difference < 1e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "weights.bin").unlink(), "which is not beside it"),
        (lambda folder: (folder / "weights.bin").write_bytes(b"12"), "cannot be read"),
        (lambda folder: _point_to(folder, "../weights.bin"), "expected one in its own folder"),
        (lambda folder: _point_to(folder, str(folder.parent / "weights.bin")), "expected one in its own folder"),
        (lambda folder: _link(folder), "expected one in its own folder"),
    ],
    ids=["missing", "too short", "above", "absolute", "linked"],
)
def test_weights_elsewhere_are_refused(change, message, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    path = _with_weights_outside(folder)
    (tmp_path / "weights.bin").write_bytes((folder / "weights.bin").read_bytes())
    change(folder)
    with pytest.raises(rj.FileError, match=message) as caught:
        load_onnx(path)
    assert "\n" not in str(caught.value)


def _point_to(folder, location):
    network = onnx.load(folder / "net.onnx", load_external_data=False)
    for tensor in network.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    save(folder / "net.onnx", network)


def _link(folder):
    (folder / "weights.bin").unlink()
    (folder / "weights.bin").symlink_to(folder.parent / "weights.bin")


def test_a_function_of_the_file_is_written_out(tmp_path):
    network = model([node("Add", "x c", "a")], [1, 3], [1, 3], {"c": np.ones(3)}, domains=("own",))
    body = [helper.make_node("Tanh", ["u"], ["v"]), helper.make_node("Mul", ["v", "u"], ["w"])]
    network.functions.append(helper.make_function("own", "Twice", ["u"], ["w"], body, network.opset_import))
    network.graph.node.append(helper.make_node("Twice", ["a"], ["y"], domain="own"))
    loaded = load_onnx(save(tmp_path / "n.onnx", network))
    x = torch.rand(2, 3)
    assert torch.allclose(loaded(x), torch.tanh(x + 1) * (x + 1))


def test_an_output_without_the_input_is_refused(tmp_path):
    constant = helper.make_node("Constant", [], ["y"], value=numpy_helper.from_array(np.ones((1, 2), np.float32)))
    with pytest.raises(rj.FileError, match="does not depend on its input"):
        load_onnx(save(tmp_path / "n.onnx", model([constant], [1, 2], [1, 2])))


@pytest.mark.parametrize("inner", [TensorProto.DOUBLE, TensorProto.FLOAT], ids=["double", "float"])
def test_other_number_types_inside(inner, tmp_path):
    """A network computes in the type of its input throughout, and may differ by rounding."""
    outer = TensorProto.FLOAT if inner == TensorProto.DOUBLE else TensorProto.DOUBLE
    weights = np.random.default_rng(0).standard_normal((3, 2)).astype(helper.tensor_dtype_to_np_dtype(inner))
    nodes = [node("Cast", "x", "a", to=inner), node("MatMul", "a W", "b"), node("Cast", "b", "y", to=outer)]
    network = model(nodes, [1, 3], [1, 2], dtype=helper.tensor_dtype_to_np_dtype(outer))
    network.graph.initializer.append(numpy_helper.from_array(weights, "W"))
    if outer == TensorProto.DOUBLE:  # onnxruntime rounds to float32 in between, which is not what is bounded
        with pytest.raises(rj.FileError, match="other outputs"):
            load_onnx(save(tmp_path / "n.onnx", network))
        return
    loaded = load_onnx(save(tmp_path / "n.onnx", network))
    assert loaded.dtype == torch.float32 and loaded(torch.ones(1, 3)).dtype == torch.float32


def test_a_choice_by_the_input_is_refused(tmp_path):
    """Where by a condition that depends on the input jumps in general."""
    nodes = [node("Greater", "x c", "g"), node("Neg", "x", "n"), node("Where", "g x n", "y")]
    network = load_onnx(save(tmp_path / "n.onnx", model(nodes, [1, 3], [1, 3], {"c": np.full(3, 0.5)})))
    x = torch.rand(1, 3)
    with pytest.raises(rj.UnsupportedError):
        rj.jacobian_bounds(bounded_model(network, x), Ball(x, 0.1).perturbed())


def _with_softplus(beta, share, above, limit):
    """``where(beta x > limit, above x, share softplus(beta x))`` with x + 1 in place of x."""
    nodes = [
        node("Add", "x one", "t"),
        node("Mul", "t beta", "z"),
        node("Softplus", "z", "s"),
        node("Mul", "s share", "p"),
        node("Mul", "t above", "a"),
        node("Greater", "z limit", "g"),
        node("Where", "g a p", "y"),
    ]
    weights = {"one": 1.0, "beta": beta, "share": share, "above": above, "limit": limit}
    return model(nodes, [1, 3], [1, 3], {name: np.array(number) for name, number in weights.items()})


@pytest.mark.parametrize("beta", [1.0, 2.5])
def test_softplus_written_as_a_choice_is_softplus(beta, tmp_path):
    network = load_onnx(save(tmp_path / "n.onnx", _with_softplus(beta, 1 / beta, 1.0, 20.0)))
    x = torch.rand(1, 3)
    bounds = _bounds(network, Ball(x, 0.1))
    slope = torch.sigmoid(beta * (x + 1)).diag_embed()
    assert bool(((bounds.lower <= slope + 1e-6) & (slope - 1e-6 <= bounds.upper)).all())


@pytest.mark.parametrize(
    ("beta", "share", "above", "limit"),
    [
        (1.0, 1.0, 3.0, 20.0),
        (1.0, 1.0, -1.0, 20.0),
        (2.0, 1.0, 1.0, 20.0),
        (1.0, 1.0, 1.0, 5.0),
        (-1.0, 1.0, -1.0, 20.0),
    ],
    ids=["steeper", "downward", "another share", "early", "mirrored"],
)
def test_no_other_choice_is_taken_for_softplus(beta, share, above, limit, tmp_path):
    """They are softplus where the networks are compared, and something else far away from there."""
    network = load_onnx(save(tmp_path / "n.onnx", _with_softplus(beta, share, above, limit)))
    x = torch.full((1, 3), 50.0)
    with pytest.raises(rj.UnsupportedError):
        rj.jacobian_bounds(bounded_model(network, x), Ball(x, 0.1).perturbed())


@pytest.mark.parametrize("ends", [(-1e6, None), (None, 1e6)], ids=["below", "above"])
@pytest.mark.parametrize("opset", [6, 13])
def test_a_clip_with_one_far_end_does_not_round(ends, opset, tmp_path):
    names = [name for name, end in zip(("min", "max"), ends) if end is not None]
    given = {name: end for name, end in zip(("min", "max"), ends) if end is not None}
    if opset == 6:
        nodes, weights = [node("Clip", "x", "c", **given)], {}
    else:
        inputs = ["x", *("" if end is None else name for name, end in zip(("min", "max"), ends))]
        nodes, weights = [helper.make_node("Clip", inputs, ["c"])], {names[0]: np.array(given[names[0]])}
    nodes.append(node("MatMul", "c W", "y"))
    network = load_onnx(
        save(tmp_path / "n.onnx", model(nodes, [1, 3], [1, 3], {**weights, "W": np.eye(3)}, opset=opset))
    )
    x = torch.rand(4, 3)
    assert torch.equal(network(x), x)


def test_half_precision_inside_is_refused(tmp_path):
    nodes = [node("Cast", "x", "a", to=TensorProto.FLOAT16), node("Cast", "a", "y", to=TensorProto.FLOAT)]
    network = load_onnx(save(tmp_path / "n.onnx", model(nodes, [1, 3], [1, 3])))
    x = torch.rand(1, 3)
    with pytest.raises(rj.UnsupportedError, match="too large to be left out"):
        rj.jacobian_bounds(bounded_model(network, x), Ball(x, 0.1).perturbed())
