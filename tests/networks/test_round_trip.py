"""From torch to an ONNX file, back through `load_onnx` and onto the host: the same Jacobian at the end."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, PRODUCT_CASES
from oracle import Ball, jacobian

import recurjac_plugin as rj
from recurjac_plugin.host import IS_03
from recurjac_plugin.plugin.model import bounded_model

# What cannot make the trip, and why.
NO_TRIP = {
    "cast": "torch cannot export a network of two number types",
    "constant_network": "onnx2pytorch has no linear layer whose input is a constant",
    "conv3d": "the hosts have no three-dimensional convolution",
    "conv_transpose1d": "the hosts' transposed convolution is two-dimensional",
    "conv_transpose2d_stride": "the hosts' transposed convolution has no stride",
    "conv_transpose2d_groups": "the hosts' transposed convolution has no groups",
    "prelu_images": "the hosts cannot read the slopes of a PReLU over images",
}
NO_TRIP_03 = {
    "conv1d": "0.3 has no one-dimensional convolution",
    "conv1d_stride": "0.3 has no one-dimensional convolution",
    "expand": "0.3 cannot bound Expand",
    "layer_norm": "CROWN of 0.3 is wrong for Sqrt",
    "maximum": "0.3 has no maximum of two tensors",
    "maximum_with_a_constant": "0.3 has no maximum of two tensors",
    "minimum": "0.3 has no minimum of two tensors",
    "reduce_min": "0.3 has no ReduceMin",
    "root_power": "0.3 has no fractional powers",
    "softmax_rows": "0.3 cannot bound a softmax by CROWN",
}
pytestmark = pytest.mark.filterwarnings("ignore")  # what torch says about its older exporter
slow = [case for case in CASES if case not in PRODUCT_CASES]


@pytest.mark.parametrize(
    "case",
    [*PRODUCT_CASES, *(pytest.param(case, marks=pytest.mark.slow) for case in slow)],
    ids=lambda case: case.name,
)
def test_round_trip(case, tmp_path):
    reason = NO_TRIP.get(case.name) or (NO_TRIP_03.get(case.name) if IS_03 else None)
    if reason is not None:
        pytest.skip(reason)
    net, x = case.network(torch.float32), case.center(1, torch.float32)
    torch.onnx.export(net, (x,), tmp_path / "net.onnx", dynamo=False, opset_version=13)
    model = bounded_model(rj.load_onnx(tmp_path / "net.onnx"), torch.zeros_like(x))
    bounds = rj.jacobian_bounds(model, Ball(x, 1e-6).perturbed(), method=case.method("RecurJac"))
    exact = jacobian(net, x).reshape(bounds.lower.shape)
    scale = exact.abs().max()
    assert bool((bounds.lower <= exact + 1e-4 * scale).all() & (exact - 1e-4 * scale <= bounds.upper).all())
    assert float(bounds.width.max()) <= 1e-2 * scale


def test_shared_weights_and_computed_shapes(tmp_path):
    """Two equal slopes are written as one and an Identity of it, the shape of Expand as arithmetic."""
    names = {case.name: case for case in CASES}
    for name in ("prelu", *(["expand"] if not IS_03 else [])):
        test_round_trip(names[name], tmp_path)
