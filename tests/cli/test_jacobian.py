"""`recurjac jacobian`: bounds over properties and around inputs, as numbers, files and pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from commands import CNN, RELU, TANH, WHERE, answer, recurjac
from onnx_files import model, node, save
from places import DATA

import recurjac_plugin as rj
from recurjac_plugin import host, load_onnx


def test_jacobian_over_a_property(tmp_path):
    out = tmp_path / "J.npz"
    found = answer("jacobian", CNN, "--vnnlib", DATA / "digits_cnn_small.vnnlib", "--out", out)
    assert found.keys() == WHERE | {
        *(
            "command",
            "asked",
            "method",
            "norm",
            "eps",
            "rigorous",
            "shape",
            "seconds",
            "rows",
            "out",
            "plot",
            "certificate",
        ),
    }
    assert found["shape"] == [1, 10, 1, 8, 8]
    assert found["rows"][3].keys() == {
        *("input", "output", "method", "lower", "upper", "mean_width", "max_width", "known_sign", "entries"),
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
    assert "Jacobian by RecurJac-McCormick, l_2 balls of radius 0.01" in shown
    assert len([line for line in shown.splitlines() if " of 64 " in line]) == 10


def test_jacobian_picture(tmp_path, image):
    for form, start in (("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")):
        path = tmp_path / f"J.{form}"
        found = answer("jacobian", CNN, "--input", image, "--eps", 0.01, "--plot", path, "--output", 9)
        assert found["plot"] == str(path)
        assert path.read_bytes().startswith(start)
    recurjac("jacobian", TANH, "--input", image, "--eps", 0.01, "--plot", tmp_path / "flat.png", "--image-shape", "8,8")
    assert (tmp_path / "flat.png").read_bytes().startswith(b"\x89PNG")
    recurjac("jacobian", TANH, "--input", image, "--eps", 0.01, "--plot", tmp_path / "bars.svg")
    assert "positive: " in (tmp_path / "bars.svg").read_text(encoding="utf-8")


def test_a_network_of_doubles_is_not_bounded_in_float32(tmp_path):
    nodes = [node("Relu", "x", "z"), node("MatMul", "z W", "y")]
    network = model(nodes, [1, 2], [1, 1], {"W": np.array([[3.0], [-4.0]])}, dtype=np.float64)
    path, point = save(tmp_path / "doubles.onnx", network), tmp_path / "x.npy"
    np.save(point, np.ones(2))
    arguments = ("jacobian", path, "--input", point, "--eps", 0.5)
    found = answer(*arguments)
    assert (found["dtype"], found["rows"][0]["lower"], found["rows"][0]["upper"]) == ("float64", -4.0, 3.0)
    assert "has float64 weights" in recurjac(*arguments, "--dtype", "float32", code=2).stderr


def test_the_chosen_method_is_named_in_the_json(image):
    options = ("--input", image, "--eps", 0.001)
    for network, expected in ((RELU, "RecurJac-Linear"), (TANH, "RecurJac-McCormick")):
        found = answer("jacobian", network, *options)
        assert (found["asked"], found["method"]) == ("auto", expected)
        assert {row["method"] for row in found["rows"]} == {expected}
        named = answer("jacobian", network, *options, "--method", expected)
        assert named["rows"] == found["rows"]
        assert named["asked"] == expected
        assert answer("monotone", network, *options, "--samples", 0)["method"] == expected
    assert answer("jacobian", RELU, *options, "--method", "ibp+auto")["method"] == "IBP+RecurJac-Linear"
