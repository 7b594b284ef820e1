"""Proven bounds that do not fit into memory: said in one sentence, or left to the host where nobody insists."""

from __future__ import annotations

import math

import pytest
import torch
from cases import mlp
from properties import box, polytope, spec_of
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.gains import gains
from recurjac_plugin.host import BoundedModule, BoundedTensor, PerturbationLpNorm


def test_what_does_not_fit_is_refused_or_left_to_the_host(monkeypatch):
    net = mlp(nn.ReLU, (4, 30, 30, 2))
    spec = spec_of(box([0.0] * 4, [1.0] * 4, polytope([[1.0, 0.0]], [-100.0])))
    assert rj.verify(net, spec).verdict is rj.Verdict.UNSAT
    monkeypatch.setattr(gains, "memory_of", lambda device: 4000)
    assert rj.verify(net, spec).verdict is rj.Verdict.UNSAT
    with pytest.raises(rj.InputError, match=r"CROWN of our own at .* would take .* where `cpu` has"):
        rj.verify(net, spec, rigorous=True)
    x = BoundedTensor(torch.zeros(1, 4), PerturbationLpNorm(norm=math.inf, eps=1.0))
    with pytest.raises(rj.InputError, match="rigorous=False"):
        rj.jacobian_bounds(BoundedModule(net.float(), torch.zeros(1, 4)), x, rigorous=True)
