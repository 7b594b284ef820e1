"""Random queries on random networks, from the text to the verdict, against formulas evaluated on onnxruntime."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from queries import Query

from recurjac_plugin import Verdict, load_vnnlib, verify
from recurjac_plugin.errors import FileError
from recurjac_plugin.networks.several.declared import load_networks

ONE = [(((1, 2),), ((1, 2),))]
TENSORS = [(((1, 2), (2,)), ((1, 2), (1, 1)))]
TWO = [(((1, 2),), ((1, 2),))] * 2


def network(path, inputs, outputs, random, activation):
    """A network of one hidden layer of all inputs together; numbers are multiples of 1/4, so that ties are met."""
    sizes = [int(np.prod(shape)) for shape in (*inputs, *outputs)]
    ends = [
        helper.make_tensor_value_info(f"{'x' if i < len(inputs) else 'y'}{i}", onnx.TensorProto.FLOAT, list(shape))
        for i, shape in enumerate((*inputs, *outputs))
    ]
    nodes, stored, hidden = [], [], []
    for end, size in zip(ends, sizes):
        given = end.name.startswith("x")
        W = random.integers(-4, 5, (size, 4) if given else (4, size)).astype(np.float32) / 4
        stored.append(numpy_helper.from_array(W, f"W{end.name}"))
        shape = [1, size] if given else [d.dim_value for d in end.type.tensor_type.shape.dim]
        stored.append(numpy_helper.from_array(np.array(shape, np.int64), f"s{end.name}"))
        if given:
            nodes.append(helper.make_node("Reshape", [end.name, f"s{end.name}"], [f"r{end.name}"]))
            nodes.append(helper.make_node("MatMul", [f"r{end.name}", f"W{end.name}"], [f"h{end.name}"]))
            hidden.append(f"h{end.name}")
    total = hidden[0]
    for each in hidden[1:]:
        nodes.append(helper.make_node("Add", [total, each], [f"{total}+"]))
        total += "+"
    nodes.append(helper.make_node(activation, [total], ["a"]))
    for end in ends[len(inputs) :]:
        nodes.append(helper.make_node("MatMul", ["a", f"W{end.name}"], [f"m{end.name}"]))
        nodes.append(helper.make_node("Reshape", [f"m{end.name}", f"s{end.name}"], [end.name]))
    graph = helper.make_graph(nodes, "g", ends[: len(inputs)], ends[len(inputs) :], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def evaluated(query, sessions, values):
    """Values of all tensors, the outputs as onnxruntime has them."""
    found = dict(values)
    for tensors, session in zip(query.networks, sessions):
        given = [t for t in tensors if t.role == "input"]
        inputs = {g.name: values[t.name].astype(np.float32) for g, t in zip(session.get_inputs(), given)}
        outputs = session.run(None, inputs)
        found |= {t.name: y for t, y in zip([t for t in tensors if t.role == "output"], outputs)}
    return found


def points(query, random, count):
    """Inputs within the bounds: corners, multiples of 1/4, and any float32; those of the second network often equal."""
    for i in range(count):
        values = {t.name: np.zeros(t.shape) for t in query.tensors if t.role == "input"}
        for (name, index), (low, high) in query.bounds.items():
            part = (random.integers(0, 2), random.integers(0, 9) / 8, random.random())[i % 3]
            values[name][index] = np.float32(low + (high - low) * part)
        if len(query.networks) > 1 and random.random() < 0.7:
            for index in np.ndindex(*values["X0_0"].shape):
                if random.random() < 0.8:
                    low, high = query.bounds["X1_0", index]
                    values["X1_0"][index] = np.clip(values["X0_0"][index], low, high)
        yield values


@pytest.mark.parametrize("networks", [ONE, TENSORS, TWO], ids=["one", "tensors", "two"])
@pytest.mark.parametrize("activation", ["Relu", "Tanh"])
@pytest.mark.parametrize("seed", range(12))
def test_no_verdict_is_wrong(networks, activation, seed, tmp_path):
    random = np.random.default_rng(seed)
    query = Query(random, networks, equal=True)
    files = {"n0": network(tmp_path / "n.onnx", *networks[0], random, activation)}
    if seed % 2 and len(networks) > 1:
        query.assertions.append(("cmp", "==", ("var", "X0_0", (0, 0)), ("var", "X1_0", (0, 0))))
    (tmp_path / "q.vnnlib").write_text(query.text())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            spec = load_vnnlib(tmp_path / "q.vnnlib")
        except FileError as error:
            if "compares numbers without a variable" in str(error):
                return
            raise
    result = verify(load_networks(spec, files), spec, timeout=3)
    sessions = [onnxruntime.InferenceSession(str(files["n0"]))] * len(networks)
    if result.verdict is Verdict.SAT:
        x, y, values = result.counterexample.x, result.counterexample.y, {}
        for tensor in query.tensors:
            size = int(np.prod(tensor.shape))
            if tensor.role == "input":
                values[tensor.name], x = x[:size].reshape(tensor.shape), x[size:]
        found = evaluated(query, sessions, values)
        assert query.holds(found), (query.text(), found)
        assert np.array_equal(query.flat(found)[1], y)
    elif result.verdict is Verdict.UNSAT:
        for values in points(query, random, 400):
            assert not query.holds(evaluated(query, sessions, values)), (query.text(), values)


def test_what_cancels_is_true_or_false(tmp_path):
    """``x != x`` never holds and ``x == x`` always does: neither is a row."""
    head = "(vnnlib-version <2.0>)(declare-network n0 (declare-input X real [1,2]) (declare-output Y real [1,2]))"
    ends = "".join(f"(assert (and (>= X[0,{i}] 0.0) (<= X[0,{i}] 1.0)))" for i in range(2))
    path = network(tmp_path / "n.onnx", ((1, 2),), ((1, 2),), np.random.default_rng(0), "Relu")
    for text, boxes, expected in (
        ("(or (and (!= X[0,0] X[0,0]) (<= Y[0,0] 100.0)) (<= Y[0,0] -100.0))", 1, Verdict.UNSAT),
        ("(or (and (== Y[0,0] Y[0,0]) (<= Y[0,1] 100.0)) (<= Y[0,0] -100.0))", 1, Verdict.SAT),
        ("(< Y[0,0] Y[0,0])", 0, Verdict.UNSAT),
    ):
        (tmp_path / "q.vnnlib").write_text(f"{head}{ends}(assert {text})")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            spec = load_vnnlib(tmp_path / "q.vnnlib")
        assert len(spec.boxes) == boxes
        assert verify(load_networks(spec, {"n0": path}), spec, timeout=30).verdict is expected
