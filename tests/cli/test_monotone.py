"""`recurjac monotone`: signs over regions, and points that refute them."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from commands import TANH, WHERE, answer, recurjac
from onnx_files import model, node, save
from places import DATA

import recurjac_plugin as rj
from recurjac_plugin import host, load_onnx, load_vnnlib

COUNTED = ("increasing", "decreasing", "refuted", "unknown")


def test_monotone_over_a_property(tmp_path):
    table, out = tmp_path / "t.csv", tmp_path / "M.npz"
    prop = DATA / "digits_tanh_small.vnnlib"
    found = answer("monotone", TANH, "--vnnlib", prop, "--csv", table, "--out", out)
    assert found.keys() == WHERE | {
        *(
            "command",
            "asked",
            "method",
            "norm",
            "eps",
            "feature",
            "range",
            "timeout",
            "max_boxes",
            "samples",
            "seed",
            "rigorous",
        ),
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
    B = np.array([0.0, -2.0, -2.0, 0.0])
    nodes = [node("MatMul", "x W", "a"), node("Add", "a B", "z"), node("Tanh", "z", "t"), node("MatMul", "t V", "y")]
    network = model(nodes, ["b", 2], ["b", 2], {"W": W, "V": V, "B": B})
    path, point = save(tmp_path / "bowl.onnx", network), tmp_path / "x.npy"
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
