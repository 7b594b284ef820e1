"""The command line: what it prints where, how it ends, what it writes."""

from __future__ import annotations

import csv
import errno
import gzip
import itertools
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import CNN, LARGE, MID, RELU, SMALL, TANH, WHERE, answer, process, recurjac
from onnx import TensorProto, helper
from places import DATA

import recurjac_plugin as rj
from recurjac_plugin import host, load_onnx, load_vnnlib
from recurjac_plugin.cli.commands import compare as compare_module
from recurjac_plugin.cli.files import write
from recurjac_plugin.networks.onnx import onnx_session


@pytest.fixture
def image(tmp_path):
    """One digit as `.npy`."""
    path = tmp_path / "x.npy"
    box = load_vnnlib(SMALL).boxes[0]
    np.save(path, (box.lower + box.upper) / 2)
    return path


# verify


@pytest.mark.parametrize(("prop", "verdict"), [(SMALL, "unsat"), (MID, "unknown")])
def test_first_line_is_the_verdict(prop, verdict):
    result = recurjac("verify", RELU, prop, "--attack-seconds", 0.2)
    assert result.stdout == f"{verdict}\n"
    assert "lower bound" in result.stderr


def test_timeout_is_a_verdict():
    assert recurjac("verify", RELU, SMALL, "--timeout", 1e-9).stdout == "timeout\n"


def test_counterexample_in_vnncomp_form_replays_on_onnxruntime(tmp_path):
    file = tmp_path / "results.txt"
    result = recurjac("verify", RELU, LARGE, "--attack-seconds", 20, "--results-file", file)
    assert file.read_text() == result.stdout
    verdict, assignment = file.read_text().split("\n", 1)
    assert verdict == "sat"
    assert assignment.count("(") == assignment.count(")")
    assert re.fullmatch(r"\((\([XY]_\d+ \S+\)\s*)+\)", assignment.strip())
    values = {name: float(value) for name, value in re.findall(r"\(([XY]_\d+) ([^)\s]+)\)", assignment)}
    assert list(values) == [f"X_{i}" for i in range(64)] + [f"Y_{i}" for i in range(10)]
    x, y = (np.array([v for name, v in values.items() if name[0] == side]) for side in "XY")
    assert load_vnnlib(LARGE).violated(x, y)
    assert np.array_equal(onnx_session(RELU)(x[None])[0].astype(np.float64), y)


def test_results_file_of_a_proof_is_one_line(tmp_path):
    recurjac("verify", RELU, SMALL, "--results-file", tmp_path / "r.txt")
    assert (tmp_path / "r.txt").read_text() == "unsat\n"


def test_verify_json():
    found = answer("verify", RELU, LARGE, "--attack-seconds", 20, "--seed", 1, "--method", "recurjac-linear+crown")
    assert found.keys() == WHERE | {
        *("command", "property", "method", "branching", "seed"),
        *("verdict", "counterexample", "lower_bound", "boxes", "seconds"),
    }
    assert (found["verdict"], found["method"], found["seed"], found["boxes"]) == ("sat", "RecurJac-Linear+CROWN", 1, 1)
    assert found["branching"] == "jacobian"
    assert (len(found["counterexample"]["x"]), len(found["counterexample"]["y"])) == (64, 10)
    assert (found["device"], found["dtype"], found["auto_lirpa"]) == ("cpu", "float32", host.VERSION)
    late = answer("verify", RELU, SMALL, "--timeout", 1e-9)
    assert (late["verdict"], late["lower_bound"], late["counterexample"]) == ("timeout", None, None)


@pytest.mark.parametrize("name", ["relu", "tanh", "cnn"])
def test_float64_agrees_with_float32(name):
    files = DATA / f"digits_{name}.onnx", DATA / f"digits_{name}_small.vnnlib"
    single, double = (answer("verify", *files, "--dtype", dtype) for dtype in ("float32", "float64"))
    assert (single["dtype"], double["dtype"]) == ("float32", "float64")
    assert single["verdict"] == double["verdict"] == "unsat"
    # Bounds are computed in float64 either way, from the same weights.
    assert single["lower_bound"] == pytest.approx(double["lower_bound"], rel=1e-12)


def test_a_network_of_doubles_is_not_bounded_in_float32(tmp_path):
    weight = helper.make_tensor("W", TensorProto.DOUBLE, [2, 1], [3.0, -4.0])
    x, y = (helper.make_tensor_value_info(n, TensorProto.DOUBLE, [1, size]) for n, size in (("x", 2), ("y", 1)))
    nodes = [helper.make_node("Relu", ["x"], ["z"]), helper.make_node("MatMul", ["z", "W"], ["y"])]
    graph = helper.make_graph(nodes, "doubles", [x], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path, point = tmp_path / "doubles.onnx", tmp_path / "x.npy"
    path.write_bytes(model.SerializeToString())
    np.save(point, np.ones(2))
    arguments = ("jacobian", path, "--input", point, "--eps", 0.5)
    found = answer(*arguments)
    assert (found["dtype"], found["rows"][0]["lower"], found["rows"][0]["upper"]) == ("float64", -4.0, 3.0)
    assert "has float64 weights" in recurjac(*arguments, "--dtype", "float32", code=2).stderr


# jacobian


def test_jacobian_over_a_property(tmp_path):
    out = tmp_path / "J.npz"
    found = answer("jacobian", CNN, "--vnnlib", DATA / "digits_cnn_small.vnnlib", "--out", out)
    assert found.keys() == WHERE | {"command", "method", "norm", "eps", "shape", "seconds", "rows", "out", "plot"}
    assert found["shape"] == [1, 10, 1, 8, 8]
    assert found["rows"][3].keys() == {
        *("input", "output", "lower", "upper", "mean_width", "max_width", "known_sign", "entries"),
    }
    with np.load(out) as arrays:
        assert sorted(arrays) == ["lower", "norm", "upper", "x_L", "x_U"]
        lower, upper = arrays["lower"], arrays["upper"]
    assert lower.shape == upper.shape == (1, 10, 1, 8, 8)
    assert found["rows"][3]["lower"] == pytest.approx(float(lower[0, 3].min()))
    assert found["rows"][3]["mean_width"] == pytest.approx(float((upper - lower)[0, 3].mean()))
    assert found["rows"][3]["known_sign"] == int(((lower >= 0) | (upper <= 0))[0, 3].sum())


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_jacobian_around_inputs_is_that_of_the_library(image, tmp_path, norm):
    out, net = tmp_path / "J.npz", load_onnx(TANH)
    recurjac("jacobian", TANH, "--input", image, "--eps", 0.01, "--norm", norm, "--method", "Fast-Lip", "--out", out)
    x = torch.from_numpy(np.load(image)).float().unsqueeze(0)
    ball = host.BoundedTensor(x, host.PerturbationLpNorm(norm=float(norm), eps=0.01))
    expected = rj.jacobian_bounds(host.BoundedModule(net, x), ball, method="Fast-Lip")
    with np.load(out) as arrays:
        assert np.array_equal(arrays["lower"], expected.lower.detach().numpy())
        assert np.array_equal(arrays["upper"], expected.upper.detach().numpy())
        assert (arrays["eps"], arrays["norm"]) == (0.01, float(norm))
        assert np.array_equal(arrays["center"], x.numpy())


def test_inputs_come_in_several_shapes(tmp_path):
    images = np.random.default_rng(0).random((2, 64))
    shapes = []
    for i, array in enumerate((images, images.reshape(2, 1, 8, 8), images[0], images[0].reshape(1, 8, 8))):
        np.save(tmp_path / f"{i}.npy", array)
        shapes.append(answer("jacobian", CNN, "--input", tmp_path / f"{i}.npy", "--eps", 0.001)["shape"])
    assert shapes == [[2, 10, 1, 8, 8], [2, 10, 1, 8, 8], [1, 10, 1, 8, 8], [1, 10, 1, 8, 8]]


def test_jacobian_table_names_method_and_region(image):
    shown = recurjac("jacobian", TANH, "--input", image, "--eps", 0.01, "--norm", "2").stdout
    assert "Jacobian by RecurJac, l_2 balls of radius 0.01" in shown
    assert len([line for line in shown.splitlines() if " of 64 " in line]) == 10


def test_jacobian_picture(tmp_path, image):
    for form, start in (("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")):
        path = tmp_path / f"J.{form}"
        found = answer("jacobian", CNN, "--input", image, "--eps", 0.01, "--plot", path, "--output", 9)
        assert found["plot"] == str(path)
        assert path.read_bytes().startswith(start)
    recurjac("jacobian", TANH, "--input", image, "--eps", 0.01, "--plot", tmp_path / "flat.png", "--image-shape", "8,8")
    assert (tmp_path / "flat.png").read_bytes().startswith(b"\x89PNG")


# monotone


COUNTED = ("increasing", "decreasing", "refuted", "unknown")


def test_monotone_over_a_property(tmp_path):
    table, out = tmp_path / "t.csv", tmp_path / "M.npz"
    prop = DATA / "digits_tanh_small.vnnlib"
    found = answer("monotone", TANH, "--vnnlib", prop, "--csv", table, "--out", out)
    assert found.keys() == WHERE | {
        *("command", "method", "norm", "eps", "feature", "range", "timeout", "max_boxes", "samples", "seed"),
        *("boxes", "seconds", "counts", "pairs", "points", "out"),
    }
    assert found["boxes"] == [1]
    assert len(found["pairs"]) == sum(found["counts"].values()) == 640
    assert found["counts"]["refuted"] > 0
    net, box = load_onnx(TANH), load_vnnlib(prop).boxes[0]
    low, high = (torch.from_numpy(end).float()[None] for end in (box.lower, box.upper))
    x = host.BoundedTensor((low + high) / 2, host.PerturbationLpNorm(norm=np.inf, x_L=low, x_U=high))
    sign = rj.monotonicity(host.BoundedModule(net, low), x)[0]
    points = np.array(found["points"][0])
    assert ((box.lower <= points) & (points <= box.upper)).all()
    for pair in found["pairs"]:
        expected = {1: "increasing", -1: "decreasing"}.get(int(sign[pair["output"], pair["input"]]))
        assert pair["verdict"] == expected or (expected is None and pair["verdict"] in ("refuted", "unknown"))
    refuted = [pair for pair in found["pairs"] if pair["verdict"] == "refuted"]
    for pair in refuted[:5]:
        for slope, at in (("lowest", "falls_at"), ("highest", "rises_at")):
            at = torch.tensor(points[pair[at]], dtype=torch.float32)[None].requires_grad_()
            net(at)[0, pair["output"]].backward()
            assert float(at.grad[0, pair["input"]]) == pytest.approx(pair[slope], rel=1e-3)
        assert pair["lowest"] < 0 < pair["highest"]
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["verdict"] for row in rows] == [pair["verdict"] for pair in found["pairs"]]
    with np.load(out) as arrays:
        assert sorted(arrays) == [
            *("boxes", "highest", "highest_at", "lowest", "lowest_at", "points", "refuted", "sign"),
        ]
        assert np.array_equal(arrays["sign"][0], sign.numpy())
        assert arrays["refuted"].sum() == found["counts"]["refuted"]


def test_monotone_in_one_feature_over_its_range(tmp_path):
    """`f(x) = (tanh(x_0) + x_1, x_0^2-like)`: one output rises in the feature, the other turns round at 0."""
    W = np.array([[1.0, 1.0, -1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    V = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    weights = [helper.make_tensor(n, TensorProto.FLOAT, a.shape, a.flatten()) for n, a in (("W", W), ("V", V))]
    bias = helper.make_tensor("B", TensorProto.FLOAT, [4], [0.0, -2.0, -2.0, 0.0])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 2]) for name in "xy")
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["a"]),
        helper.make_node("Add", ["a", "B"], ["z"]),
        helper.make_node("Tanh", ["z"], ["t"]),
        helper.make_node("MatMul", ["t", "V"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "bowl", [x], [y], [*weights, bias])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path, point = tmp_path / "bowl.onnx", tmp_path / "x.npy"
    path.write_bytes(model.SerializeToString())
    np.save(point, np.array([0.0, 0.5]))
    arguments = ("monotone", path, "--input", point, "--eps", 0.01, "--feature", 0)
    assert [pair["verdict"] for pair in answer(*arguments, "--range", "0.5,1")["pairs"]] == ["increasing"] * 2
    found = answer(*arguments, "--range=-3,3")
    assert [pair["verdict"] for pair in found["pairs"]] == ["increasing", "refuted"]
    assert (found["feature"], found["range"]) == (0, [-3.0, 3.0])
    falls, rises = (found["points"][0][found["pairs"][1][at]] for at in ("falls_at", "rises_at"))
    assert -3 <= falls[0] < 0 < rises[0] <= 3
    assert all(abs(at[1] - 0.5) <= 0.01 for at in (falls, rises))
    shown = recurjac(*arguments, "--range=-3,3").stdout
    assert shown.startswith("2 pairs of output and input: 1 increasing, 0 decreasing, 1 refuted, 0 unknown\n")
    assert "input 0 from -3 to 3" in " ".join(shown.split())
    assert "Points that refute" in shown


def test_monotone_bisects_when_told(image):
    arguments = ("monotone", TANH, "--input", image, "--eps", 0.05, "--feature", 20)
    once = answer(*arguments)
    assert len(once["pairs"]) == 10
    often = answer(*arguments, "--max-boxes", 60)
    assert 1 < often["boxes"][0] <= 60
    assert [p["verdict"] for p in often["pairs"] if p["verdict"] != "unknown"][:1]
    for before, after in zip(once["pairs"], often["pairs"], strict=True):
        assert before["verdict"] in ("unknown", after["verdict"])
    assert answer(*arguments, "--timeout", 0.5)["timeout"] == 0.5


def test_monotone_tables_stay_readable(image):
    result = recurjac("monotone", TANH, "--input", image, "--eps", 0.01, "--norm", "2")
    assert len(result.stdout.splitlines()) < 20
    assert all(name in result.stdout for name in COUNTED)
    assert "see --csv, --json or --out" in result.stderr


# lipschitz


def test_lipschitz_table_csv_and_picture(tmp_path):
    arguments = ("lipschitz", TANH, "--vnnlib", DATA / "digits_tanh_small.vnnlib", "--eps", "0.1,0.001,0.01")
    table, picture = tmp_path / "t.csv", tmp_path / "p.png"
    found = answer(*arguments, "--csv", table, "--plot", picture)
    assert found.keys() == WHERE | {"command", "norm", "inputs", "seed", "samples", "steps", "constants"}
    assert found["constants"][0].keys() == {"method", "eps", "input", "constant", "seconds"}
    curves = {
        name: [entry["constant"] for entry in found["constants"] if entry["method"] == name]
        for name in (*rj.METHODS, "Operator-Norm", "sampled")
    }
    assert {len(curve) for curve in curves.values()} == {3}
    assert sum(map(len, curves.values())) == len(found["constants"])
    for curve in curves.values():
        assert curve == sorted(curve)
    assert len(set(curves["Operator-Norm"])) == 1
    order = [curves[name] for name in ("sampled", "RecurJac-Linear", "RecurJac", "Fast-Lip", "Operator-Norm")]
    for tighter, looser in itertools.pairwise(order):
        assert all(a <= b * (1 + 1e-5) for a, b in zip(tighter, looser, strict=True))
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], float(row["constant"])) for row in rows] == [
        (entry["method"], entry["constant"]) for entry in found["constants"]
    ]
    assert picture.read_bytes().startswith(b"\x89PNG")
    shown = recurjac(*arguments, "--methods", "Fast-Lip", "--samples", 0).stdout
    assert "Fast-Lip" in shown
    assert "sampled" not in shown


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_sampled_constants_are_below_the_certified_ones(norm):
    found = answer("lipschitz", CNN, "--vnnlib", DATA / "digits_cnn_mid.vnnlib", "--eps", "0,0.02", "--norm", norm)
    certified = {e["eps"]: e["constant"] for e in found["constants"] if e["method"] == "RecurJac-Linear"}
    sampled = {e["eps"]: e["constant"] for e in found["constants"] if e["method"] == "sampled"}
    assert 0 < sampled[0.0] <= sampled[0.02] <= certified[0.02]
    if norm != "2":  # a point has one Jacobian, and these operator norms are sums of its magnitudes
        assert sampled[0.0] == pytest.approx(certified[0.0], rel=1e-4)


def test_operator_norm_is_that_of_the_library_and_in_any_case():
    found = answer(
        *("lipschitz", CNN, "--vnnlib", DATA / "digits_cnn_mid.vnnlib", "--eps", "0,1", "--norm", "2"),
        *("--methods", "operator-norm", "--samples", 0),
    )
    model = host.BoundedModule(load_onnx(CNN), torch.zeros(1, 1, 8, 8))
    expected = float(rj.global_lipschitz(model, norm=2))
    assert [(e["method"], e["constant"]) for e in found["constants"]] == [("Operator-Norm", expected)] * 2


def test_operator_norm_is_a_dash_where_there_is_none(monkeypatch, tmp_path):
    def refuse(model, *, norm):
        raise rj.UnsupportedError("The network", ["`/exp` (Exp): no"], "Nothing to be done.")

    monkeypatch.setattr(sys.modules["recurjac_plugin.lipschitz.product"], "global_lipschitz", refuse)
    table, picture = tmp_path / "t.csv", tmp_path / "p.png"
    arguments = ("lipschitz", TANH, "--vnnlib", MID, "--eps", "0,0.01", "--methods", "Operator-Norm,Fast-Lip")
    result = recurjac(*arguments, "--csv", table, "--plot", picture)
    assert "Operator-Norm: The network has 1 unsupported part(s): `/exp` (Exp): no." in result.stderr
    assert result.stdout.count("–") == 2
    with table.open(newline="") as file:
        assert [row["constant"] == "" for row in csv.DictReader(file)] == [True, True] + [False] * 4
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert [e["constant"] for e in answer(*arguments)["constants"][:2]] == [None, None]


def test_operator_norm_is_no_method_over_a_region():
    for command in ("jacobian", "verify", "compare"):
        prop = ("--vnnlib", SMALL) if command == "jacobian" else (SMALL,)
        option = "--methods" if command == "compare" else "--method"
        message = recurjac(command, RELU, *prop, option, "Operator-Norm", code=2).stderr
        assert "`Operator-Norm` bounds Lipschitz constants on the whole space" in message


def test_pictures_in_every_format(tmp_path):
    for form, start in (("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")):
        path = tmp_path / f"p.{form}"
        recurjac("lipschitz", TANH, "--vnnlib", MID, "--eps", "0,0.01", "--methods", "Fast-Lip", "--plot", path)
        assert path.read_bytes().startswith(start)


# compare


def test_compare_on_a_property_that_some_methods_prove(tmp_path):
    table, picture = tmp_path / "t.csv", tmp_path / "p.png"
    found = answer("compare", RELU, SMALL, "--csv", table, "--plot", picture)
    assert found.keys() == WHERE | {"command", "property", "boxes", "seed", "methods", "lipschitz_sampled"}
    columns = ["method", "lower_bound", "seconds", "jacobian_width", "lipschitz", "verdict", "boxes", "verify_seconds"]
    assert [set(row) for row in found["methods"]] == [{*columns, "unsupported"}] * len(found["methods"])
    rows = {row["method"]: row for row in found["methods"]}
    assert {*rj.METHODS, "CROWN", "IBP"} < set(rows)
    for row in rows.values():
        if row["unsupported"] is None:
            assert row["verdict"] == ("unsat" if row["lower_bound"] > 0 else "unknown")
            assert row["seconds"] > 0
            assert row["verify_seconds"] > 0
            assert row["boxes"] == 1  # boxes of images are not cut
        assert (row["lipschitz"] is None) == (row["jacobian_width"] is None)
        assert (row["lipschitz"] is not None) == any(rule in row["method"] for rule in rj.METHODS)
    assert rows["CROWN"]["verdict"] == rows["RecurJac-Linear"]["verdict"] == "unsat"
    assert rows["IBP"]["verdict"] == "unknown"
    assert 0 < found["lipschitz_sampled"] <= rows["RecurJac-Linear"]["lipschitz"]
    assert rows["RecurJac-Linear"]["lipschitz"] <= rows["RecurJac"]["lipschitz"] <= rows["Fast-Lip"]["lipschitz"]
    with table.open(newline="") as file:
        written = list(csv.reader(file))
    assert written[0] == columns
    assert [row[0] for row in written[1:]] == list(rows)
    assert float(written[1][1]) == rows["RecurJac"]["lower_bound"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_compare_attacks_where_nothing_is_proved():
    found = answer("compare", RELU, LARGE, "--methods", "RecurJac,CROWN", "--attack-seconds", 20)
    assert [row["verdict"] for row in found["methods"]] == ["sat", "sat"]
    shown = recurjac("compare", RELU, MID, "--methods", "crown", "--attack-seconds", 0.1).stdout
    assert "unknown" in shown


def test_compare_cuts_boxes_of_few_inputs_within_its_budget(tmp_path):
    path, prop = few_inputs(tmp_path, least=-0.6)
    found = answer("compare", path, prop, "--methods", "RecurJac,CROWN,IBP", "--branching", "longest")["methods"]
    assert [row["verdict"] for row in found] == ["unsat"] * 3
    assert all(row["lower_bound"] < 0 for row in found)  # of the uncut box
    assert found[2]["boxes"] > found[1]["boxes"] > 1
    late = answer("compare", path, prop, "--methods", "IBP", "--timeout", 1e-9)["methods"]
    assert (late[0]["verdict"], late[0]["boxes"]) == ("timeout", 0)
    shown = recurjac("compare", path, prop, "--methods", "CROWN").stdout
    assert all(word in " ".join(shown.split()) for word in ("boxes", "unsat", "verdict"))


@pytest.mark.parametrize("branching", ["jacobian", "crown", "longest"])
def test_verify_cuts_boxes(tmp_path, branching):
    path, prop = few_inputs(tmp_path, least=-0.6)
    found = answer("verify", path, prop, "--branching", branching, "--method", "CROWN")
    assert (found["verdict"], found["branching"]) == ("unsat", branching)
    assert found["boxes"] > 1
    whole = answer("verify", path, prop, "--no-split", "--method", "CROWN", "--attack-seconds", 0.1)
    assert (whole["verdict"], whole["boxes"]) == ("unknown", 1)
    path, prop = few_inputs(tmp_path, least=-0.4)
    assert recurjac("verify", path, prop).stdout.startswith("sat\n((X_0 ")


def few_inputs(folder, least):
    """``y = |x0| - |x0 + x1 / 2|`` on [-1, 1]^2, at least -1/2, and the property that it comes below `least`."""
    W = np.array([[1.0, -1.0, 1.0, -1.0], [0.0, 0.0, 0.5, -0.5]], dtype=np.float32)
    V = np.array([[1.0], [1.0], [-1.0], [-1.0]], dtype=np.float32)
    weights = [helper.make_tensor(n, TensorProto.FLOAT, a.shape, a.flatten()) for n, a in (("W", W), ("V", V))]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["b", size]) for n, size in (("x", 2), ("y", 1)))
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("MatMul", ["r", "V"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "few", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path, prop = folder / "few.onnx", folder / f"below{least}.vnnlib"
    path.write_bytes(model.SerializeToString())
    variables = "".join(f"(declare-const {v} Real)" for v in ("X_0", "X_1", "Y_0"))
    ends = "".join(f"(assert (<= X_{i} 1.0)) (assert (>= X_{i} -1.0))" for i in (0, 1))
    prop.write_text(f"{variables}{ends}(assert (<= Y_0 {least}))")
    return path, prop


def test_compare_goes_on_after_a_method_that_cannot_be_used(monkeypatch, tmp_path):
    margins = compare_module._margins

    def refuse_ibp(network, spec, name):
        if name == "IBP":
            raise rj.UnsupportedError("The network", ["a part"], "Nothing to be done.")
        return margins(network, spec, name)

    monkeypatch.setattr(compare_module, "_margins", refuse_ibp)
    arguments = ("compare", RELU, SMALL, "--methods", "IBP,CROWN", "--plot", tmp_path / "p.png")
    refused, proved = answer(*arguments)["methods"]
    assert (refused["verdict"], refused["lower_bound"]) == (None, None)
    assert refused["unsupported"] == "The network has 1 unsupported part(s): a part. Nothing to be done."
    assert proved["verdict"] == "unsat"
    assert "IBP: The network has 1 unsupported part(s)" in recurjac(*arguments).stderr
    recurjac("compare", RELU, SMALL, "--methods", "IBP", "--plot", tmp_path / "none.png", "--attack-seconds", 0)


# doctor


def test_doctor():
    found = answer("doctor")
    assert found.keys() == {"command", "version", "ok", "packages", "devices"}
    packages = {row["name"]: row for row in found["packages"]}
    assert packages["auto_LiRPA"] == {
        "name": "auto_LiRPA",
        "version": host.VERSION,
        "ok": True,
        "needed_for": "everything",
        "problem": None,
    }
    assert packages["torch"]["version"] == torch.__version__
    assert found["devices"][0] == "cpu"
    shown = recurjac("doctor").stdout
    assert "auto_LiRPA" in shown
    assert "devices: cpu" in shown


@pytest.mark.parametrize("arguments", [["doctor"], ["doctor", "--json"]])
def test_doctor_works_without_a_host(arguments):
    hide = "import sys; sys.modules['auto_LiRPA'] = None; from recurjac_plugin.cli import main; main()"
    shown = process(*arguments, code=hide)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "pip install --no-deps auto_LiRPA==0.3" in " ".join(shown.stdout.split())
    if arguments[1:]:
        assert json.loads(shown.stdout)["ok"] is False


def test_other_commands_without_a_host_say_what_to_install():
    hide = "import sys; sys.modules['auto_LiRPA'] = None; from recurjac_plugin.cli import main; main()"
    shown = process("verify", RELU, SMALL, code=hide)
    assert (shown.returncode, shown.stdout) == (2, "")
    (line,) = shown.stderr.splitlines()
    assert line.startswith("error: `auto_LiRPA` is not installed")
    assert "pip install --no-deps auto_LiRPA==0.3" in line


# what all have in common


def test_version_and_help():
    assert recurjac("--version").stdout == f"{rj.__version__}\n"
    commands = ("jacobian", "lipschitz", "monotone", "verify", "compare", "doctor")
    overview = recurjac().stdout
    assert overview == recurjac("--help").stdout
    assert all(command in overview for command in commands)
    for command in commands:
        shown = recurjac(command, "--help").stdout
        common = ["--json"] if command == "doctor" else ["--json", "--device", "--dtype", "--seed"]
        assert all(option in shown for option in common)


def test_every_method_name_of_the_defaults_is_known():
    for command in ("lipschitz", "compare"):
        shown = "".join(line.strip() for line in recurjac(command, "--help").stdout.splitlines())
        assert all(name in shown for name in rj.METHODS)


def test_process_keeps_results_and_remarks_apart(tmp_path):
    shown = process("verify", RELU, SMALL, "--results-file", "r.txt", cwd=tmp_path)
    assert (shown.returncode, shown.stdout) == (0, "unsat\n")
    assert "Warning" not in shown.stderr
    assert (tmp_path / "r.txt").read_text() == "unsat\n"
    assert os.listdir(tmp_path) == ["r.txt"]


def test_process_prints_nothing_but_json():
    shown = process("compare", RELU, LARGE, "--methods", "CROWN,alpha-CROWN", "--json")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["command"] == "compare"


def test_module_is_run_as_the_script_is():
    shown = process("--version", code="import runpy; runpy.run_module('recurjac_plugin.cli', run_name='__main__')")
    assert (shown.returncode, shown.stdout) == (0, f"{rj.__version__}\n")


def test_our_own_errors_are_not_dressed_up_as_the_users():
    broken = (
        "import recurjac_plugin.networks.onnx as m, recurjac_plugin.cli as cli\n"
        "def load_onnx(path): raise ZeroDivisionError('ours')\n"
        "m.load_onnx = load_onnx\ncli.main()"
    )
    shown = process("verify", RELU, SMALL, code=broken)
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr.splitlines()[-1] == "ZeroDivisionError: ours"


def test_files_are_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "f.txt"
    write(path, b"old")

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(rj.FileError, match="cannot be written: No space left"):
            write(path, b"new")
    assert path.read_bytes() == b"old"
    write(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["f.txt"]


@pytest.fixture(scope="session")
def broken(tmp_path_factory):
    """Files that are not what a command needs, in a folder that `test_bad_input` runs in."""
    folder = tmp_path_factory.mktemp("broken")
    content = Path(RELU).read_bytes()
    (folder / "truncated.onnx").write_bytes(content[: len(content) // 2])
    (folder / "text.onnx").write_text("not a network")
    (folder / "damaged.onnx.gz").write_bytes(gzip.compress(content)[:-20])
    (folder / "empty.onnx").write_bytes(b"")
    prop = Path(SMALL).read_text()
    (folder / "syntax.vnnlib").write_text(prop.replace("(assert (>= X_0", "(assert (>= X_0 (", 1))
    lines = prop.splitlines()
    (folder / "unbounded.vnnlib").write_text("\n".join(line for line in lines if "(<= X_5 " not in line))
    (folder / "empty_box.vnnlib").write_text(re.sub(r"\(<= X_5 \S+\)\)", "(<= X_5 -1000.0))", prop))
    np.save(folder / "nan.npy", np.full(64, np.nan))
    np.save(folder / "shape.npy", np.zeros((3, 3)))
    np.save(folder / "none.npy", np.zeros((0, 64)))
    np.save(folder / "words.npy", np.array(["a"] * 64))
    np.save(folder / "objects.npy", np.array([None] * 64), allow_pickle=True)
    np.save(folder / "x.npy", np.zeros(64))
    np.savez(folder / "archive.npz", x=np.zeros(64))
    (folder / "text.npy").write_text("1 2 3")
    return folder


BAD = [
    ("nonsense", "No such command"),
    ("verify", "Missing argument 'MODEL PROP | QUERY"),
    (f"verify {RELU}", "expected a network and a property, or a query with"),
    (f"verify {RELU} {SMALL} --nonsense", "No such option"),
    (f"verify missing.onnx {SMALL}", "`missing.onnx` does not exist"),
    (f"verify {DATA} {SMALL}", "is a directory"),
    (f"verify truncated.onnx {SMALL}", "`truncated.onnx`"),
    (f"verify text.onnx {SMALL}", "`text.onnx`"),
    (f"verify damaged.onnx.gz {SMALL}", "`damaged.onnx.gz`"),
    (f"verify empty.onnx {SMALL}", "`empty.onnx` is empty"),
    (f"verify {RELU} missing.vnnlib", "`missing.vnnlib` does not exist"),
    (f"verify {RELU} syntax.vnnlib", "`syntax.vnnlib`"),
    (f"verify {RELU} unbounded.vnnlib", "X_5"),
    (f"verify {RELU} empty_box.vnnlib", "X_5"),
    (f"verify {RELU} {SMALL} --method CROWNS", "Unknown method `CROWNS`"),
    (f"verify {RELU} {SMALL} --timeout 0", "`--timeout` must be more than 0"),
    (f"verify {RELU} {SMALL} --timeout -3", "`--timeout` must be a finite number"),
    (f"verify {RELU} {SMALL} --timeout soon", "'--timeout'"),
    (f"verify {RELU} {SMALL} --attack-seconds nan", "`--attack-seconds` must be a finite number"),
    (f"verify {RELU} {SMALL} --seed -1", "'--seed'"),
    (f"verify {RELU} {SMALL} --dtype float16", "'--dtype'"),
    (f"verify {RELU} {SMALL} --device tpu", "`--device` is 'tpu'"),
    (f"verify {RELU} {SMALL} --device meta", "`--device` is 'meta'"),
    (f"verify {RELU} {SMALL} --device cuda:99", "`--device` is 'cuda:99', but torch sees"),
    (f"verify {RELU} {SMALL} --results-file missing/r.txt", "its directory does not exist"),
    (f"verify {RELU} {SMALL} --results-file .", "`.` is a directory"),
    (f"jacobian {RELU}", "`--vnnlib` or `--input` must be given"),
    (f"jacobian {RELU} --vnnlib {SMALL} --input x.npy", "only one of them"),
    (f"jacobian {RELU} --vnnlib {SMALL} --eps 0.1", "`--eps` goes with `--input`"),
    (f"jacobian {RELU} --vnnlib {SMALL} --norm 2", "`--norm` goes with `--input`"),
    (f"jacobian {RELU} --input x.npy", "`--eps` goes with `--input`"),
    (f"jacobian {RELU} --input x.npy --eps -0.1", "`--eps` must be a finite radius"),
    (f"jacobian {RELU} --input x.npy --eps inf", "`--eps` must be a finite radius"),
    (f"jacobian {RELU} --input x.npy --eps 0.1 --norm 3", "`--norm` is '3'"),
    (f"jacobian {RELU} --input x.npy --eps 0.1 --method CROWN", "`CROWN` gives no Jacobian bounds"),
    (f"jacobian {RELU} --input x.npy --eps 0.1 --out missing/J.npz", "its directory does not exist"),
    (f"jacobian {RELU} --input missing.npy --eps 0.1", "`missing.npy` does not exist"),
    (f"jacobian {RELU} --input nan.npy --eps 0.1", "`nan.npy` contains NaN"),
    (f"jacobian {RELU} --input shape.npy --eps 0.1", "`shape.npy` has shape (3, 3), but the network takes (64,)"),
    (f"jacobian {RELU} --input none.npy --eps 0.1", "`none.npy` has shape (0, 64)"),
    (f"jacobian {RELU} --input words.npy --eps 0.1", "`words.npy` holds <U1"),
    (f"jacobian {RELU} --input objects.npy --eps 0.1", "`objects.npy` is not a NumPy array"),
    (f"jacobian {RELU} --input archive.npz --eps 0.1", "`archive.npz` is an archive"),
    (f"jacobian {RELU} --input text.npy --eps 0.1", "`text.npy` is not a NumPy array"),
    (f"jacobian {CNN} --input x.npy --eps 0.1 --plot p.bmp", "`--plot` must end in .png"),
    (f"jacobian {CNN} --input x.npy --eps 0.1 --plot missing/p.png", "its directory does not exist"),
    (f"jacobian {CNN} --input x.npy --eps 0.1 --plot p.png --output 10", "`--output` must be from 0 to 9"),
    (f"jacobian {CNN} --input x.npy --eps 0.1 --plot p.png --out .", "`.` is a directory"),
    (f"jacobian {RELU} --input x.npy --eps 0.1 --plot p.png", "`--plot` draws images, but the network takes (64,)"),
    (f"jacobian {RELU} --input x.npy --eps 0.1 --plot p.png --image-shape 8,9", "`--image-shape` is (8, 9)"),
    (f"jacobian {RELU} --input x.npy --eps 0.1 --plot p.png --image-shape 8x8", "`--image-shape` must be H,W"),
    (f"jacobian {RELU} --input x.npy --eps 0.1 --plot p.png --image-shape 16,2,2", "up to 4 channels, got 16"),
    (f"jacobian {RELU} --input x.npy --eps 0.1 --image-shape 8,8", "`--image-shape` goes with `--plot`"),
    (f"monotone {RELU}", "`--vnnlib` or `--input` must be given"),
    (f"monotone {RELU} --input x.npy", "`--eps` goes with `--input`"),
    (f"monotone {RELU} --input x.npy --eps 0.1 --feature 64", "`--feature` must be from 0 to 63"),
    (f"monotone {RELU} --input x.npy --eps 0.1 --feature -1", "`--feature` must be from 0 to 63"),
    (f"monotone {RELU} --input x.npy --eps 0.1 --feature one", "'--feature'"),
    (f"monotone {RELU} --input x.npy --eps 0.1 --range 0,1", "`--range` goes with `--feature`"),
    (f"monotone {RELU} --input x.npy --eps 0.1 --feature 0 --range 1,0", "`--range` is inverted: 1 is above 0"),
    (f"monotone {RELU} --input x.npy --eps 0.1 --feature 0 --range 1", "`--range` must be two numbers"),
    (f"monotone {RELU} --input x.npy --eps 0.1 --feature 0 --range 0,1,2", "`--range` must be two numbers"),
    (f"monotone {RELU} --input x.npy --eps 0.1 --feature 0 --range 0,nan", "`--range` must have finite ends"),
    (f"monotone {RELU} --input x.npy --eps 0.1 --feature 0 --range 0,1e99", "`--range` does not fit"),
    (f"monotone {RELU} --input x.npy --eps 0.1 --norm 2 --feature 0 --range 0,1", "`--range` needs a box"),
    (f"monotone {RELU} --input x.npy --eps 0.1 --norm 1 --timeout 1", "`--timeout` needs a box"),
    (f"monotone {RELU} --input x.npy --eps 0.1 --norm 2 --max-boxes 9", "`--max-boxes` needs a box"),
    (f"monotone {RELU} --input x.npy --eps 0.1 --timeout 0", "`--timeout` must be a finite number of seconds above 0"),
    (f"monotone {RELU} --input x.npy --eps 0.1 --max-boxes 0", "'--max-boxes'"),
    (f"monotone {RELU} --input x.npy --eps 0.1 --samples -1", "'--samples'"),
    (f"monotone {RELU} --input x.npy --eps 0.1 --method CROWN", "`CROWN` gives no Jacobian bounds"),
    (f"monotone {RELU} --input x.npy --eps 0.1 --csv missing/t.csv", "its directory does not exist"),
    (f"monotone {RELU} --input nan.npy --eps 0.1", "`nan.npy` contains NaN"),
    (f"lipschitz {RELU} --input x.npy", "Missing option '--eps'"),
    (f"lipschitz {RELU} --eps 0.1", "`--vnnlib` or `--input` must be given"),
    (f"lipschitz {RELU} --input x.npy --eps 0.1,,0.2", "without gaps"),
    (f"lipschitz {RELU} --input x.npy --eps 0.1,a", "must be a list of numbers"),
    (f"lipschitz {RELU} --input x.npy --eps 0.1,-1", "must be a finite radius"),
    (f"lipschitz {RELU} --input x.npy --eps 0.1 --methods RecurJac,Nope", "Unknown method `Nope`"),
    (f"lipschitz {RELU} --input x.npy --eps 0.1 --methods CROWN", "`CROWN` gives no Jacobian bounds"),
    (f"lipschitz {RELU} --input x.npy --eps 0.1 --samples -1", "'--samples'"),
    (f"lipschitz {RELU} --input x.npy --eps 0.1 --steps -1", "'--steps'"),
    (f"lipschitz {RELU} --input x.npy --eps 0.1 --plot p.bmp", "`--plot` must end in .png"),
    (f"lipschitz {RELU} --input x.npy --eps 0.1 --csv missing/t.csv", "its directory does not exist"),
    (f"compare {RELU} {SMALL} --methods RecurJac,", "without gaps"),
    (f"compare {RELU} {SMALL} --timeout 0", "`--timeout` must be more than 0 seconds"),
    (f"compare {RELU} {SMALL} --branching widest", "'--branching'"),
    (f"verify {RELU} {SMALL} --branching widest", "'--branching'"),
    (f"compare {RELU} {SMALL} --plot p", "`--plot` must end in .png"),
    (f"compare {CNN} missing.vnnlib", "`missing.vnnlib` does not exist"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_bad_input_is_one_line_and_exit_code_2(broken, monkeypatch, arguments, message):
    monkeypatch.chdir(broken)
    before = sorted(os.listdir())
    result = recurjac(*arguments.split(), code=2)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert sorted(os.listdir()) == before


def test_property_of_another_network(tmp_path):
    other = tmp_path / "p.vnnlib"
    other.write_text(
        "(declare-const X_0 Real)\n(declare-const Y_0 Real)\n"
        "(assert (>= X_0 0))\n(assert (<= X_0 1))\n(assert (>= Y_0 0))\n"
    )
    for arguments in (("verify", RELU, other), ("compare", RELU, other), ("jacobian", RELU, "--vnnlib", other)):
        assert "has 1 inputs and 1 outputs, but the network 64 and 10" in recurjac(*arguments, code=2).stderr


def test_bad_input_to_a_process_leaves_no_traceback():
    shown = process("verify", "missing.onnx", SMALL)
    assert (shown.returncode, shown.stdout) == (2, "")
    (line,) = shown.stderr.splitlines()
    assert line.startswith("error: `missing.onnx`")


# radius


def test_radius_table_csv_and_picture(tmp_path):
    arguments = ("radius", RELU, "--vnnlib", SMALL, "--steps", 3, "--tolerance", 0.001)
    table, picture = tmp_path / "t.csv", tmp_path / "p.png"
    found = answer(*arguments, "--csv", table, "--plot", picture)
    assert found.keys() == WHERE | {
        *("command", "norm", "target", "seed", "inputs", "radii"),
        *("initial", "limit", "tolerance", "max_probes", "steps", "clip"),
    }
    assert [entry["method"] for entry in found["radii"]] == ["RecurJac", "Fast-Lip", "CROWN"]
    assert found["radii"][0].keys() == {"method", "input", "class", "target", "radius", "seconds"}
    radii = [entry["radius"] for entry in found["radii"]]
    assert 0 < radii[1] <= radii[0] + 0.001
    with table.open(newline="") as file:
        assert [float(row["radius"]) for row in csv.DictReader(file)] == radii
    assert picture.read_bytes().startswith(b"\x89PNG")
    shown = recurjac(*arguments).stdout
    assert "Certified radius (l_inf)" in shown
    assert "mean" in shown


def test_radius_is_that_of_the_library(image):
    found = answer("radius", TANH, "--input", image, "--norm", 2, "--target", "runner-up", "--steps", 2, "--methods",
                   "RecurJac")  # fmt: skip
    net, x = load_onnx(TANH), torch.from_numpy(np.load(image)).float().unsqueeze(0)
    with torch.no_grad():
        C = rj.margin_rows(net(x).flatten(1), target="runner-up")
    expected = rj.certified_radius(host.BoundedModule(net, x), x, norm=2, C=C, steps=2)
    (entry,) = found["radii"]
    assert entry["radius"] == float(expected)
    assert (entry["class"], entry["target"]) == (int(C.argmax()), int(C.argmin()))


def test_radius_targets_and_labels(tmp_path):
    images = np.random.default_rng(0).random((2, 64))
    np.save(tmp_path / "x.npy", images)
    options = ("--methods", "CROWN", "--tolerance", 0.01, "--clip", "0,1")
    predicted = answer("radius", RELU, "--input", tmp_path / "x.npy", *options)
    classes = [entry["class"] for entry in predicted["radii"]]
    assert predicted["clip"] == [0, 1]
    other = [(c + 1) % 10 for c in classes]
    wrong = answer("radius", RELU, "--input", tmp_path / "x.npy", *options, "--labels", ",".join(map(str, other)))
    assert [entry["class"] for entry in wrong["radii"]] == other
    assert [entry["radius"] for entry in wrong["radii"]] == [0, 0]
    target = next(c for c in range(10) if c not in classes)
    one = answer("radius", RELU, "--input", tmp_path / "x.npy", *options, "--target", target)
    assert [entry["target"] for entry in one["radii"]] == [target, target]
    for single, every in zip(one["radii"], predicted["radii"], strict=True):
        assert single["radius"] >= every["radius"]
    note = recurjac("radius", RELU, "--input", tmp_path / "x.npy", *options, "--norm", "2").stderr
    assert "not clipped" in note


# landscape


def test_landscape_table_csv_and_picture(tmp_path):
    arguments = ("landscape", TANH, "--vnnlib", DATA / "digits_tanh_small.vnnlib", "--points", 4, "--output", 3)
    table, picture = tmp_path / "t.csv", tmp_path / "p.png"
    found = answer(*arguments, "--csv", table, "--plot", picture)
    assert found.keys() == WHERE | {
        *("command", "norm", "clip", "initial", "limit", "tolerance", "max_probes", "inputs", "radii", "scan"),
    }
    radii = {entry["method"]: entry["radius"] for entry in found["radii"]}
    assert list(radii) == list(rj.METHODS)
    assert all(entry["output"] == 3 for entry in found["radii"])
    assert 0 < radii["Fast-Lip"] <= radii["RecurJac"] + 1e-4
    for name in radii:
        scan = [entry for entry in found["scan"] if entry["method"] == name]
        assert [entry["radius"] for entry in scan] == pytest.approx(np.linspace(0, max(radii.values()), 4))
        assert scan[0]["undetermined"] < 64
        assert scan[0]["constant"] < scan[-1]["constant"]
    with table.open(newline="") as file:
        assert [float(row["constant"]) for row in csv.DictReader(file)] == [e["constant"] for e in found["scan"]]
    assert picture.read_bytes().startswith(b"\x89PNG")
    shown = recurjac(*arguments, "--methods", "RecurJac").stdout
    assert "Stationary-free radius (l_inf)" in shown
    assert "Undetermined entries of 64" in shown


def test_landscape_follows_the_largest_output_of_each_input(tmp_path):
    images = np.random.default_rng(0).random((3, 64))
    np.save(tmp_path / "x.npy", images)
    options = ("--norm", 1, "--methods", "Fast-Lip", "--points", 2)
    found = answer("landscape", RELU, "--input", tmp_path / "x.npy", *options)
    with torch.no_grad():
        largest = load_onnx(RELU)(torch.from_numpy(images).float()).flatten(1).argmax(1)
    assert [entry["output"] for entry in found["radii"]] == largest.tolist()
    assert found["limit"] == 100


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("radius",), "--input"),
        (("radius", "--norm", "3"), "--norm"),
        (("radius", "--labels", "10"), "contains 10"),
        (("radius", "--labels", "1,2"), "2 classes for 1 inputs"),
        (("radius", "--labels", "one"), "--labels"),
        (("radius", "--target", "worst"), "runner-up"),
        (("radius", "--target", "12"), "0 to 9"),
        (("radius", "--steps", "0"), "--steps"),
        (("radius", "--limit", "-1"), "limit"),
        (("radius", "--initial", "nan"), "initial"),
        (("radius", "--clip", "1,0"), "--clip"),
        (("radius", "--clip", "1"), "--clip"),
        (("radius", "--clip", "a,b"), "--clip"),
        (("radius", "--clip", "40,50"), "outside"),
        (("radius", "--methods", "Nonsense"), "Unknown method"),
        (("landscape", "--output", "10"), "0 to 9"),
        (("landscape", "--methods", "CROWN"), "no Jacobian bounds"),
        (("landscape", "--points", "1"), "--points"),
        (("landscape", "--tolerance", "0"), "tolerance"),
        (("landscape", "--max-probes", "0"), "max_probes"),
        (("landscape", "--plot", "p.txt"), "--plot"),
    ],
)
def test_bad_radii(arguments, words, image):
    command, *rest = arguments
    where = () if not rest and words == "--input" else ("--input", image)
    result = recurjac(command, RELU, *where, *rest, code=2)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert words in line


@pytest.mark.parametrize("command", ["radius", "landscape"])
def test_bad_inputs_of_radii(command, tmp_path):
    arrays = {"empty": np.zeros((0, 64)), "nan": np.full(64, np.nan), "text": np.array(["a"]), "other": np.zeros(63)}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
        recurjac(command, RELU, "--input", tmp_path / f"{name}.npy", code=2)
    (tmp_path / "nothing.npy").write_bytes(b"")
    assert "nothing.npy" in recurjac(command, RELU, "--input", tmp_path / "nothing.npy", code=2).stderr
