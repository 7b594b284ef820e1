"""The host reads networks the same way whatever the process has asked of torch's exporter before."""

from __future__ import annotations

import warnings

import pytest
import torch
from cases import on_host
from oracle import Ball, assert_encloses, truth
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.host import IS_03
from recurjac_plugin.modules import exporter

FORMS = {
    **({} if IS_03 else {"clamp": lambda x: x.clamp(-0.25, 0.5), "unflatten": lambda x: x.unflatten(1, (2, 2)).tanh()}),
    "squeezed": lambda x: x.unsqueeze(2).squeeze(2).tanh(),
    "sum": lambda x: x.tanh().sum(1, keepdim=True),
    "split": lambda x: x.split(2, 1)[1].tanh(),
    "softmax": lambda x: x.softmax(1),
    "gelu": lambda x: nn.functional.gelu(x, approximate="tanh"),
}


class Form(nn.Module):
    """An operator behind a layer."""

    def __init__(self, name):
        super().__init__()
        self.layer, self.form = nn.Linear(3, 4), FORMS[name]

    def forward(self, x):
        return self.form(self.layer(x))


@pytest.fixture(params=[9, 12, 13, 17, 20])
def exported(request, tmp_path):
    """An export in that operator set, which torch remembers."""
    shared = exporter.settings()
    before = shared.export_onnx_opset_version
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (torch.zeros(1, 2),), tmp_path / "n.onnx", dynamo=False, opset_version=request.param)
    shared.export_onnx_opset_version = request.param
    yield request.param
    shared.export_onnx_opset_version = before


@pytest.mark.parametrize("name", FORMS)
def test_networks_are_read_the_same_after_an_export(name, exported):
    net, center = Form(name).double(), torch.randn(1, 3, dtype=torch.float64)
    model, region = on_host(net, center), Ball(center, 0.1)
    assert exporter.settings().export_onnx_opset_version == exported  # the user's
    try:
        found = rj.jacobian_bounds(model, region.perturbed())
    except rj.UnsupportedError:  # CROWN lacks an operator of 0.3's
        found = rj.jacobian_bounds(model, region.perturbed(), method="IBP+RecurJac")
    assert_encloses(found.lower.detach(), found.upper.detach(), truth(net, region))
