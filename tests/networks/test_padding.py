"""Transposed convolutions with padding are read and bounded by every host."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx_files import model, node, save
from oracle import Ball, assert_encloses, truth

import recurjac_plugin as rj
from recurjac_plugin.plugin.model import bounded_model


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "attributes",
    [
        {"pads": [1, 1, 1, 1], "strides": [2, 2]},
        {"pads": [1, 0, 1, 0]},
        {"pads": [0, 1, 2, 0], "strides": [2, 2]},
        {"pads": [1, 1, 1, 1], "strides": [2, 2], "output_padding": [1, 1]},
    ],
    ids=["both ends", "one axis", "one end", "output"],
)
def test_transposed_convolutions_with_padding(attributes, dtype, bias, tmp_path):
    random = np.random.default_rng(1)
    weights = {"w": random.standard_normal((2, 3, 3, 3))}
    if bias:
        weights["b"] = random.standard_normal(3)
    nodes = [
        node("ConvTranspose", " ".join(["x", *weights]), "t", **attributes),
        node("Tanh", "t", "u"),
        node("Flatten", "u", "y"),
    ]
    file = save(tmp_path / "net.onnx", model(nodes, (1, 2, 3, 4), (1, "n"), weights))
    network = rj.load_onnx(file).to(dtype)  # it has been compared with onnxruntime
    torch.manual_seed(0)
    region = Ball(torch.randn(1, 2, 3, 4, dtype=dtype), 0.1)
    hosted = bounded_model(network, torch.zeros(1, 2, 3, 4, dtype=dtype))
    entries = rj.jacobian_bounds(hosted, region.perturbed())
    assert_encloses(entries.lower, entries.upper, truth(network, region), 1e-9 if dtype == torch.float64 else 1e-5)
