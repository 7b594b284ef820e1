"""Networks that are rewritten before they are converted: equal to onnxruntime, batched, and bounded soundly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx_files import save
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
    return True


@pytest.mark.filterwarnings("ignore:Constant folding - Only steps=1")  # torch's, of a padding that it traces
@pytest.mark.parametrize("name", FORMS)
def test_bounds_hold(name, tmp_path):
    torch.manual_seed(3)
    network = load_onnx(save(tmp_path / "n.onnx", form(name)))
    for dtype in (torch.float32, torch.float64):
        network = network.to(dtype)
        network.dtype = dtype
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
