"""OneHot of positions and of whole numbers, as segmentation networks count pixels of a class: bounds of functions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx_files import model, node, save
from oracle import Ball, assert_encloses, outputs

import recurjac_plugin as rj
from recurjac_plugin.plugin.model import bounded_model
from recurjac_plugin.properties.spec import Box, Polytope, Spec

FLOAT, WHOLE = 1, 7


def positions(axis, values):
    """The class of every pixel, written out: 3 classes of 4 pixels, and the pixels of each counted."""
    nodes = [
        node("ArgMax", "s", "i", axis=axis, keepdims=0),
        node("OneHot", "i depth values", "h", axis=-1),
        node("Cast", "h", "f", to=FLOAT),
        node("Flatten", "f", "y"),
    ]
    weights = {"depth": np.array([3]), "values": np.array(values, dtype=np.int64)}
    return nodes, weights, ("n", "m")


def of_a_batch():
    nodes, weights, shape = positions(1, [0, 1])
    return [node("Tanh", "x", "s"), *nodes], weights, shape


def without_batch():
    """The batch is taken off first, as exporters of segmentation networks do."""
    nodes, weights, _ = positions(0, [2, 5])
    return [node("Gather", "x none", "s", axis=0), *nodes], weights | {"none": np.array(0)}, ("n", "m")


def whole_numbers():
    """Some below 0, which count from the end, and some beyond either."""
    nodes = [
        node("Mul", "x three", "t"),
        node("Cast", "t", "i", to=WHOLE),
        node("OneHot", "i depth values", "h", axis=1),
        node("Flatten", "h", "y"),
    ]
    weights = {"three": np.array(2.0), "depth": np.array([3]), "values": np.array([-0.5, 1.5], dtype=np.float32)}
    return nodes, weights, ("n", "m")


@pytest.mark.parametrize("build", [of_a_batch, without_batch, whole_numbers])
def test_bounds_hold(build, tmp_path):
    nodes, weights, shape = build()
    file = save(tmp_path / "net.onnx", model(nodes, (1, 3, 2, 2), shape, weights))
    network = rj.load_onnx(file)  # compares it with onnxruntime
    torch.manual_seed(0)
    center = torch.randn(1, 3, 2, 2)
    for radius in (1e-3, 0.3, 3.0):
        region = Ball(center, radius)
        hosted = bounded_model(network, torch.zeros(1, 3, 2, 2))
        found = rj.output_bounds(hosted, region.perturbed(), method="CROWN", rigorous=True)
        points = region.sample(200)
        values = torch.stack([outputs(network, point.unsqueeze(0))[0] for point in points])
        assert_encloses(*found, values, 1e-5)
    with pytest.raises(rj.UnsupportedError, match="piecewise constant"):
        rj.jacobian_bounds(hosted, region.perturbed())


@pytest.mark.parametrize(("low", "expected"), [(-0.5, rj.Verdict.UNSAT), (0.5, rj.Verdict.SAT)])
def test_verdicts(low, expected, tmp_path):
    """Where x_0 > x_1 > x_2 the first class is the largest: its number is 1, unless x_0 may come below the others."""
    nodes, weights, shape = of_a_batch()
    network = rj.load_onnx(save(tmp_path / "net.onnx", model(nodes, (1, 3, 2, 2), shape, weights)))
    lower = np.repeat([0.3 if low < 0 else -0.5, 0.0, -0.5], 4)
    upper = np.repeat([0.5, 0.2, -0.2], 4)
    no = np.zeros(12, dtype=bool)
    A = np.zeros((1, 12))
    A[0, 0] = 1.0
    box = Box(lower, upper, (Polytope(A, np.array([0.5]), no[:1]),), no, no)
    assert rj.verify(network, Spec(boxes=(box,), n_inputs=12, n_outputs=12), timeout=60).verdict is expected
