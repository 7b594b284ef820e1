"""Queries of several networks, inputs and outputs: verdicts against fine grids, counterexamples on onnxruntime."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from recurjac_plugin import Verdict, load_onnx, load_vnnlib, verify
from recurjac_plugin.errors import FileError, InputError
from recurjac_plugin.networks.several.declared import load_networks

HEAD = "(vnnlib-version <2.0>)\n"
LINE = np.linspace(-1, 1, 201)


def dense(path, weights, dtype=np.float32):
    """A ReLU network ``x [1,n] -> y [1,m]`` from its matrices, (n, k), ..., (l, m)."""
    nodes, stored, value = [], [], "x"
    for i, W in enumerate(weights):
        stored.append(numpy_helper.from_array(np.asarray(W, dtype), f"W{i}"))
        last = i == len(weights) - 1
        nodes.append(helper.make_node("MatMul", [value, f"W{i}"], ["y" if last else f"a{i}"]))
        if not last:
            nodes.append(helper.make_node("Relu", [f"a{i}"], [f"r{i}"]))
        value = f"r{i}"
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    ends = [
        helper.make_tensor_value_info(name, kind, [1, size])
        for name, size in (("x", len(weights[0])), ("y", np.shape(weights[-1])[1]))
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def two_ports(path, seed, version=13, activation="Relu"):
    """``image [1,1,1,2], meta [1] -> scores [1,2], extra [1,1]``; the second input has no batch dimension."""
    random = np.random.default_rng(seed)
    sizes = {"A": (2, 5), "B": (1, 5), "C": (5, 2), "D": (5, 1)}
    stored = [numpy_helper.from_array(random.standard_normal(s).astype(np.float32), k) for k, s in sizes.items()]
    stored.append(numpy_helper.from_array(np.array([1, 1], np.int64), "column"))
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "A"], ["a"]),
        helper.make_node("Reshape", ["meta", "column"], ["row"]),
        helper.make_node("MatMul", ["row", "B"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node(activation, ["c"], ["r"]),
        helper.make_node("MatMul", ["r", "C"], ["scores"]),
        helper.make_node("MatMul", ["r", "D"], ["extra"]),
    ]
    shapes = {"image": [1, 1, 1, 2], "meta": [1], "scores": [1, 2], "extra": [1, 1]}
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(nodes, "g", ends[:2], ends[2:], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8), path)
    return path


@functools.lru_cache(2)
def session_of(content):
    return onnxruntime.InferenceSession(content)


def run(path, *inputs):
    """Outputs of onnxruntime, which knows nothing of this package."""
    session = session_of(path.read_bytes())
    return session.run(None, {given.name: x for given, x in zip(session.get_inputs(), inputs, strict=True)})


def query(tmp_path, *lines):
    path = tmp_path / "q.vnnlib"
    path.write_text(HEAD + "\n".join(lines))
    return load_vnnlib(path)


def network(name, shape, outputs, relation=""):
    tensors = f"(declare-input X_{name} real {shape})(declare-output Y_{name} real {outputs})"
    return f"(declare-network {name} {relation}{tensors})"


def between(variable, low=-1.0, high=1.0):
    return f"(assert (and (>= {variable} {low}) (<= {variable} {high})))"


def ordered(comparison, relation="(equal-to f)", moved=0, low=-1.0, high=1.0):
    """Two uses of one network of two inputs, of which one is larger in the first use, and their outputs compared."""
    other = 1 - moved
    return (
        network("f", "[1,2]", "[1,1]"),
        network("g", "[1,2]", "[1,1]", relation),
        *(between(f"X_f[0,{i}]", low, high) for i in range(2)),
        f"(assert (== X_f[0,{other}] X_g[0,{other}]))",
        f"(assert (and (<= X_g[0,{moved}] X_f[0,{moved}]) (>= X_g[0,{moved}] {low})))",
        f"(assert ({comparison}))",
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_signs_prove_monotonicity_and_pairs_refute_it(seed, dtype, tmp_path):
    random = np.random.default_rng(seed)
    weights = [random.standard_normal((2, 6)), random.standard_normal((6, 5)), random.standard_normal((5, 1))]
    rising = [np.abs(W) for W in weights]
    for each, expected in ((rising, Verdict.UNSAT), (weights, None)):
        path = dense(tmp_path / "f.onnx", each, dtype)
        spec = query(tmp_path, *ordered("< Y_f[0,0] Y_g[0,0]"))
        grid = np.stack(np.meshgrid(LINE[::4], LINE[::4], indexing="ij"), -1).reshape(-1, 2).astype(dtype)
        y = np.array([run(path, x[None])[0][0, 0] for x in grid]).reshape(51, 51)
        falls = (np.diff(y, axis=0) < -1e-6).any()
        result = verify(load_networks(spec, {"f": path}), spec, timeout=60)
        assert result.verdict is (expected or (Verdict.SAT if falls else Verdict.UNSAT))
        assert expected is None or not falls
        if result.verdict is Verdict.SAT:
            x = result.counterexample.x.astype(dtype)
            assert x[1] == x[3] and x[2] <= x[0] and (np.abs(x) <= 1).all()
            first, second = (run(path, part[None])[0][0, 0] for part in (x[:2], x[2:]))
            assert first < second and np.allclose(result.counterexample.y, [first, second], rtol=0, atol=0)


def test_a_comparison_that_allows_equality_is_violated_where_both_are_equal(tmp_path):
    path = dense(tmp_path / "f.onnx", [np.ones((2, 3)), np.ones((3, 1))])
    spec = query(tmp_path, *ordered("<= Y_f[0,0] Y_g[0,0]"))
    assert verify(load_networks(spec, {"f": path}), spec, timeout=30).verdict is Verdict.SAT


@pytest.mark.parametrize("seed", range(4))
def test_a_gap_between_two_networks(seed, tmp_path):
    """g is f with other weights; on the diagonal of inputs their largest difference is known from a grid."""
    random = np.random.default_rng(seed)
    weights = [random.standard_normal((1, 6)), random.standard_normal((6, 1))]
    paths = {
        "f": dense(tmp_path / "f.onnx", weights),
        "g": dense(tmp_path / "g.onnx", [W + 0.05 * random.standard_normal(W.shape) for W in weights]),
    }
    y = [np.array([run(path, np.array([[x]], np.float32))[0][0, 0] for x in LINE]) for path in paths.values()]
    largest = float((y[1] - y[0]).max())
    for gap, expected in ((largest - 0.01, Verdict.SAT), (largest + 0.01, Verdict.UNSAT)):
        spec = query(
            tmp_path,
            network("f", "[1,1]", "[1,1]"),
            network("g", "[1,1]", "[1,1]", "(isomorphic-to f)"),
            between("X_f[0,0]"),
            "(assert (== X_g[0,0] X_f[0,0]))",
            f"(assert (> Y_g[0,0] (+ Y_f[0,0] {gap})))",
        )
        result = verify(load_networks(spec, paths), spec, timeout=60)
        assert result.verdict is expected
        if expected is Verdict.SAT:
            x = result.counterexample.x
            assert x[0] == x[1]
            values = [run(path, np.array([[each]], np.float32))[0][0, 0] for path, each in zip(paths.values(), x)]
            assert values[1] > values[0] + np.float64(gap)


@pytest.mark.parametrize("activation", ["Relu", "Tanh"])
@pytest.mark.parametrize("version", [9, 13, 17])
def test_a_network_of_several_inputs_and_outputs(version, activation, tmp_path):
    path = two_ports(tmp_path / "n.onnx", version, version, activation)
    loaded = load_onnx(path)
    assert (loaded.input_shape, loaded.n_outputs) == ((3,), 3)
    line = LINE[::20].astype(np.float32)
    values = []
    for a in line:
        for b in line:
            for c in line:
                scores, extra = run(path, np.array([[[[a, b]]]]), np.array([c]))
                values.append(scores[0, 0] - extra[0, 0] - a)
    least = float(min(values))
    for right, expected in ((least + 0.05, Verdict.SAT), (least - 0.4, Verdict.UNSAT)):
        spec = query(
            tmp_path,
            "(declare-network n (declare-input I real [1,1,1,2])(declare-input M real [1])",
            "(declare-output S real [1,2])(declare-output E real [1,1]))",
            *(between(v) for v in ("I[0,0,0,0]", "I[0,0,0,1]", "M[0]")),
            f"(assert (<= (- S[0,0] E[0,0] I[0,0,0,0]) {right}))",
        )
        result = verify(load_networks(spec, {"n": path}), spec, timeout=60)
        assert result.verdict is expected
        if expected is Verdict.SAT:
            x = result.counterexample.x.astype(np.float32)
            scores, extra = run(path, x[:2].reshape(1, 1, 1, 2), x[2:])
            assert np.array_equal(result.counterexample.y, np.concatenate([scores[0], extra[0]]))
            assert float(scores[0, 0]) - float(extra[0, 0]) - float(x[0]) <= right + 1e-12


ONE = (network("f", "[1,2]", "[1,1]"), *(between(f"X_f[0,{i}]") for i in range(2)), "(assert (<= Y_f[0,0] 0.0))")


@pytest.mark.parametrize(
    ("lines", "files", "message"),
    [
        (ordered("< Y_f[0,0] Y_g[0,0]"), {"g": 0}, "about the networks `f`, `g`, but files were given for `g`"),
        (ordered("< Y_f[0,0] Y_g[0,0]"), {"f": 0, "g": 1}, "`g` is declared as equal to `f`, but their files differ"),
        (ordered("< Y_f[0,0] Y_g[0,0]", ""), {"f": 0}, "give one for `f`, `g`"),
        (ordered("< Y_f[0,0] Y_g[0,0]", ""), {"f": 0, "g": 0, "h": 0}, "files were given for `f`, `g`, `h`"),
        (ordered("< Y_f[0,0] Y_g[0,0]", "(isomorphic-to f)"), {"f": 0, "g": 2}, "is declared as [1,2], but"),
        (ONE, {"f": 3}, "is declared with 1 inputs, but"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_are_refused(lines, files, message, tmp_path):
    paths = [
        dense(tmp_path / "0.onnx", [np.ones((2, 3)), np.ones((3, 1))]),
        dense(tmp_path / "1.onnx", [np.ones((2, 3)), np.ones((3, 1))]),
        dense(tmp_path / "2.onnx", [np.ones((4, 3)), np.ones((3, 1))]),
        two_ports(tmp_path / "3.onnx", 0),
    ]
    with pytest.raises(InputError) as caught:
        load_networks(query(tmp_path, *lines), {name: paths[i] for name, i in files.items()})
    assert message in str(caught.value)


def test_ports_that_are_no_floats_are_refused(tmp_path):
    path = two_ports(tmp_path / "n.onnx", 0)
    model = onnx.load(path)
    model.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.INT64
    model.graph.node.insert(0, helper.make_node("Cast", ["meta"], ["real"], to=onnx.TensorProto.FLOAT))
    next(n for n in model.graph.node if n.op_type == "Reshape").input[0] = "real"
    onnx.save(model, path)
    with pytest.raises(FileError, match="takes `meta` as INT64: expected FLOAT or DOUBLE"):
        load_onnx(path)
